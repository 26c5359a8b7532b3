//! The way from an exported call to the author's function and back. The attributes call it; so does the test host.

use serde::de::DeserializeOwned;

use crate::bindings::connector::tomada::hub::types;
use crate::failure::complaint_in;
use crate::{Context, Detail, Event, Failure, FromPayload, IntoPayload, Mapped, Receipt};

/// World `connector`'s export.
pub fn handle<S: DeserializeOwned, T: FromPayload>(
    event: types::Event,
    payload: Vec<u8>,
    settings: String,
    handle: impl Fn(&Context<S>, Event<T>) -> Result<Receipt, Failure>,
) -> Result<Receipt, Failure> {
    report_panics();
    let settings = parse_settings(&settings).map_err(Failure::Misconfigured)?;
    let payload = T::from_payload(payload).map_err(Failure::Rejected)?;
    handle(&Context::new(settings), Event::new(event, payload))
}

/// World `mapping`'s export.
pub fn map<Arguments>(
    event: types::Event,
    payload: Vec<u8>,
    settings: String,
    map: impl Mapping<Arguments>,
) -> Result<types::Mapped, Detail> {
    report_panics();
    map.map(event, payload, &settings)
}

/// A mapping function, with or without settings. `Arguments` tells the two apart.
#[diagnostic::on_unimplemented(
    message = "this is no mapping function",
    note = "write `fn map(event: Event<T>) -> Result<Mapped<U>, Detail>`, with `settings: S` after the event when it has settings; \
            serde must be able to read `T` and `S` and to write `U`"
)]
pub trait Mapping<Arguments> {
    fn map(&self, event: types::Event, payload: Vec<u8>, settings: &str) -> Result<types::Mapped, Detail>;
}

impl<F, T, U> Mapping<(T, U)> for F
where
    F: Fn(Event<T>) -> Result<Mapped<U>, Detail>,
    T: FromPayload,
    U: IntoPayload,
{
    fn map(&self, event: types::Event, payload: Vec<u8>, _: &str) -> Result<types::Mapped, Detail> {
        write_mapped(self(Event::new(event, T::from_payload(payload)?))?)
    }
}

impl<F, S, T, U> Mapping<(S, T, U)> for F
where
    F: Fn(Event<T>, S) -> Result<Mapped<U>, Detail>,
    S: DeserializeOwned,
    T: FromPayload,
    U: IntoPayload,
{
    fn map(&self, event: types::Event, payload: Vec<u8>, settings: &str) -> Result<types::Mapped, Detail> {
        let settings = parse_settings(settings)?;
        write_mapped(self(Event::new(event, T::from_payload(payload)?), settings)?)
    }
}

fn write_mapped(mapped: Mapped<impl IntoPayload>) -> Result<types::Mapped, Detail> {
    Ok(match mapped {
        Mapped::Payload(payload) => types::Mapped::Payload(payload.into_payload()?),
        Mapped::Skip(reason) => types::Mapped::Skip(reason),
    })
}

fn parse_settings<S: DeserializeOwned>(settings: &str) -> Result<S, Detail> {
    serde_json::from_str(settings).map_err(|error| {
        let complaint = complaint_in(&error, settings.as_bytes());
        Detail::new("settings-invalid", format!("the settings are not what this component takes: {complaint}"))
    })
}

/// Hands message, file and line of a panic to the hub, before the trap that follows takes all of it away.
fn report_panics() {
    #[cfg(target_family = "wasm")]
    std::panic::set_hook(Box::new(|panic| {
        let (file, line) = panic.location().map_or(("", 0), |location| (location.file(), location.line()));
        let message = panic.payload_as_str().unwrap_or("a panic without a text");
        crate::bindings::connector::tomada::hub::log::panicked(message, file, line);
    }));
}
