//! Runs a connector or a mapping in `cargo test`: no sandbox, no network, recorded answers.
//!
//! ```
//! use tomada_sdk::prelude::*;
//! use tomada_sdk::test::{Host, event};
//!
//! #[connector(name = "ping", hosts = ["settings.url"])]
//! fn handle(cx: &Context, _: Event<Raw>) -> Result<Receipt, Failure> {
//!     let url = cx.settings["url"].as_str().unwrap_or_default();
//!     Ok(cx.get(url).send()?.ok()?.into())
//! }
//!
//! let host = Host::new().settings(json!({"url": "https://a.test/ping"}));
//! let run = host.answer(Method::Get, "https://a.test/*", 503, json!(null)).run(handle, event("ping", json!({})));
//! assert!(matches!(run.failure(), Failure::Transient(detail) if detail.message == "GET a.test/ping answered 503"));
//! ```

use std::cell::RefCell;
use std::collections::VecDeque;

use base64::Engine;
use hmac::{Hmac, KeyInit, Mac};
use serde::de::DeserializeOwned;
use sha2::Sha256;

use crate::bindings::connector::tomada::hub::{http, log::Level, mail, secrets, types};
use crate::http::{Error, Method};
use crate::{Context, Detail, Event, Failure, FromPayload, Json, Mapped, Raw, Receipt, guest};

pub use http::Request as Sent;
pub use mail::Message as SentMail;

/// Stands in for the hub. Requests are answered in the order in which answers were recorded; a request that does not
/// fit the next answer fails the test, and so does an answer that was not asked for.
#[derive(Debug)]
pub struct Host {
    settings: Json,
    secrets: Vec<(String, Vec<u8>)>,
    answers: VecDeque<Answer>,
    now_ms: u64,
    requests: Vec<Sent>,
    /// None: no e-mail may be sent.
    mailbox: Option<VecDeque<Option<mail::Error>>>,
    mails: Vec<SentMail>,
    logs: Vec<String>,
}

#[derive(Debug)]
struct Answer {
    method: Method,
    pattern: String,
    result: Result<http::Response, Error>,
}

impl Host {
    /// No settings, secrets or answers; the clock stands at 2026-01-01T00:00:00Z.
    #[expect(clippy::new_without_default, reason = "a test begins with `Host::new()`")]
    pub fn new() -> Host {
        Host {
            settings: Json::Object(Default::default()),
            secrets: Vec::new(),
            answers: VecDeque::new(),
            now_ms: 1_767_225_600_000,
            requests: Vec::new(),
            mailbox: None,
            mails: Vec::new(),
            logs: Vec::new(),
        }
    }

    /// The endpoint's or the mapping's settings.
    pub fn settings(mut self, settings: Json) -> Host {
        self.settings = settings;
        self
    }

    /// A secret. In recorded requests it shows as `{name}`; as an HMAC key it has the bytes of its name.
    pub fn secret(self, name: &str) -> Host {
        self.secret_key(name, name)
    }

    /// A secret with a value, for the sake of [`hmac_sha256`](Context::hmac_sha256) and
    /// [`sign_ed25519`](Context::sign_ed25519). Of `whsec_…` and `whsk_…` the decoded bytes.
    pub fn secret_key(mut self, name: &str, value: &str) -> Host {
        let encoded = value.strip_prefix("whsec_").or_else(|| value.strip_prefix("whsk_"));
        let key = match encoded {
            Some(encoded) => base64::engine::general_purpose::STANDARD
                .decode(encoded)
                .unwrap_or_else(|error| panic!("the secret {name} has a prefix before what is no base64: {error}")),
            None => value.as_bytes().to_vec(),
        };
        self.secrets.push((name.to_owned(), key));
        self
    }

    /// The next answer, to a request whose whole URL, query included, fits `pattern`; `*` stands for anything.
    pub fn answer(self, method: Method, pattern: &str, status: u16, body: Json) -> Host {
        self.answer_with(method, pattern, status, &[], body.to_string())
    }

    /// The next answer, with headers (names in lower case) and any body.
    pub fn answer_with(
        mut self,
        method: Method,
        pattern: &str,
        status: u16,
        headers: &[(&str, &str)],
        body: impl Into<Vec<u8>>,
    ) -> Host {
        let headers = headers.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        let result = Ok(http::Response { status, headers, body: body.into() });
        self.answers.push_back(Answer { method, pattern: pattern.to_owned(), result });
        self
    }

    /// The next request gets no answer but this error.
    pub fn no_answer(mut self, method: Method, pattern: &str, error: Error) -> Host {
        self.answers.push_back(Answer { method, pattern: pattern.to_owned(), result: Err(error) });
        self
    }

    /// E-mails may be sent, as if the endpoint had `smtp`. They end up in [`Run::mails`].
    pub fn mailbox(mut self) -> Host {
        self.mailbox.get_or_insert_default();
        self
    }

    /// The next e-mail, after those that were spoken of already, ends in this error; any further one is taken.
    pub fn no_mail(mut self, error: mail::Error) -> Host {
        self.mailbox.get_or_insert_default().push_back(Some(error));
        self
    }

    /// The next e-mail is taken; for tests in which a later one is not.
    pub fn take_mail(mut self) -> Host {
        self.mailbox.get_or_insert_default().push_back(None);
        self
    }

    /// What the clock says, milliseconds since 1970-01-01 UTC.
    pub fn now_ms(mut self, now_ms: u64) -> Host {
        self.now_ms = now_ms;
        self
    }

    /// Runs a connector on one event.
    ///
    /// # Panics
    ///
    /// When a recorded answer was not asked for, a request was made that has none, or an e-mail that was spoken of was
    /// not sent.
    pub fn run<S: DeserializeOwned, T: FromPayload>(
        self,
        handle: impl Fn(&Context<S>, Event<T>) -> Result<Receipt, Failure>,
        event: Event<Raw>,
    ) -> Run {
        let (result, host) =
            self.within(event, |event, payload, settings| guest::handle(event, payload, settings, handle));
        if let Some(answer) = host.answers.front() {
            panic!("nobody asked for {:?} {}; the connector ended with {result:?}", answer.method, answer.pattern);
        }
        if let Some(script) = host.mailbox.as_ref().filter(|script| !script.is_empty()) {
            panic!("{} more e-mails were spoken of and not sent; the connector ended with {result:?}", script.len());
        }
        Run { result, requests: host.requests, mails: host.mails, logs: host.logs }
    }

    /// Runs a mapping on one event. The output is read back as JSON.
    ///
    /// # Panics
    ///
    /// When the output is no JSON.
    pub fn map<Arguments>(
        self,
        map: impl guest::Mapping<Arguments>,
        event: Event<Raw>,
    ) -> Result<Mapped<Json>, Detail> {
        let (result, _) = self.within(event, |event, payload, settings| guest::map(event, payload, settings, map));
        result.map(|mapped| match mapped {
            types::Mapped::Skip(reason) => Mapped::Skip(reason),
            types::Mapped::Payload(payload) => {
                Mapped::Payload(serde_json::from_slice(&payload).expect("a mapping writes JSON"))
            }
        })
    }

    /// Calls the guest with this host on duty in its thread.
    fn within<R>(self, event: Event<Raw>, call: impl FnOnce(types::Event, Vec<u8>, String) -> R) -> (R, Host) {
        let Event { id, event_type, source, delivery_id, attempt, created_ms, content_type, headers, payload } = event;
        let event = types::Event { id, event_type, source, delivery_id, attempt, created_ms, content_type, headers };
        let settings = self.settings.to_string();
        HOST.set(Some(self));
        let result = call(event, payload.0, settings);
        (result, HOST.take().expect("no guest takes the host away"))
    }
}

/// An event as a connector gets it on the first attempt: `evt_…1`, `dlv_…1`, from `test`. Its fields can be changed.
pub fn event(event_type: &str, payload: Json) -> Event<Raw> {
    Event {
        id: "evt_0000000000001".to_owned(),
        event_type: event_type.to_owned(),
        source: "test".to_owned(),
        delivery_id: "dlv_0000000000001".to_owned(),
        attempt: 1,
        created_ms: 1_767_225_600_000,
        content_type: "application/json".to_owned(),
        headers: Vec::new(),
        payload: Raw(payload.to_string().into_bytes()),
    }
}

/// What one run of a connector did.
#[derive(Debug)]
pub struct Run {
    /// What it returned.
    pub result: Result<Receipt, Failure>,
    /// What it sent, secrets as `{name}`.
    pub requests: Vec<Sent>,
    /// The e-mails that it handed to the hub, those included that ended in an error.
    pub mails: Vec<SentMail>,
    /// What it logged, for instance `warn: …`.
    pub logs: Vec<String>,
}

impl Run {
    /// The receipt.
    ///
    /// # Panics
    ///
    /// When the delivery failed.
    pub fn receipt(&self) -> &Receipt {
        self.result.as_ref().unwrap_or_else(|failure| panic!("the delivery failed: {failure:?}"))
    }

    /// The failure.
    ///
    /// # Panics
    ///
    /// When the delivery did not fail.
    pub fn failure(&self) -> &Failure {
        match &self.result {
            Ok(receipt) => panic!("the delivery did not fail: {receipt:?}"),
            Err(failure) => failure,
        }
    }

    /// The emitted events, type and payload.
    ///
    /// # Panics
    ///
    /// When the delivery failed.
    pub fn emitted(&self) -> Vec<(&str, Json)> {
        let read = |payload| serde_json::from_slice(payload).expect("`Receipt::emit` writes JSON");
        self.receipt().emitted.iter().map(|event| (event.event_type.as_str(), read(&event.payload))).collect()
    }
}

impl Sent {
    /// The first header of this name, in whatever case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// The body, read as JSON.
    ///
    /// # Panics
    ///
    /// When it is none.
    pub fn json(&self) -> Json {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("the body of {:?} {} is no JSON: {error}", self.method, self.url))
    }
}

thread_local! {
    static HOST: RefCell<Option<Host>> = const { RefCell::new(None) };
}

fn on_duty<R>(ask: impl FnOnce(&mut Host) -> R) -> R {
    HOST.with_borrow_mut(|host| {
        let host = host.as_mut().expect("outside the sandbox a connector runs by `tomada_sdk::test::Host::run`");
        ask(host)
    })
}

pub(crate) fn send(request: &http::Request) -> Result<http::Response, Error> {
    on_duty(|host| {
        let number = host.requests.len() + 1;
        let (method, url) = (request.method, request.url.as_str());
        let answer = host.answers.pop_front().unwrap_or_else(|| {
            panic!("request {number} has no answer: add `.answer(Method::{method:?}, \"{url}\", …)`")
        });
        assert!(
            answer.method == method && fits(&answer.pattern, url),
            "request {number} was {method:?} {url}, and the next answer is for {:?} {}",
            answer.method,
            answer.pattern,
        );
        host.requests.push(request.clone());
        answer.result
    })
}

pub(crate) fn send_mail(message: &mail::Message) -> Result<mail::Sent, mail::Error> {
    on_duty(|host| {
        let Some(script) = &mut host.mailbox else {
            return Err(mail::Error::Denied("no e-mail may be sent: add `.mailbox()`".to_owned()));
        };
        host.mails.push(message.clone());
        match script.pop_front().flatten() {
            Some(error) => Err(error),
            None => Ok(mail::Sent { message_id: format!("<test.{}@test>", host.mails.len()) }),
        }
    })
}

pub(crate) fn placeholder(name: &str) -> Result<String, secrets::Error> {
    on_duty(|host| host.key(name).map(|_| format!("{{{name}}}")))
}

pub(crate) fn hmac_sha256(name: &str, data: &[u8]) -> Result<Vec<u8>, secrets::Error> {
    on_duty(|host| {
        let mut mac = Hmac::<Sha256>::new_from_slice(host.key(name)?).expect("HMAC takes a key of any length");
        mac.update(data);
        Ok(mac.finalize().into_bytes().to_vec())
    })
}

pub(crate) fn sign_ed25519(name: &str, data: &[u8]) -> Result<Vec<u8>, secrets::Error> {
    on_duty(|host| {
        // The seed; the public key may follow.
        let seed = host.key(name)?.get(..32).unwrap_or_default();
        let pair = ring::signature::Ed25519KeyPair::from_seed_unchecked(seed)
            .map_err(|_| secrets::Error::Missing(format!("the secret `{name}` is no signing key: whsk_ and base64")))?;
        Ok(pair.sign(data).as_ref().to_vec())
    })
}

pub(crate) fn log(level: Level, message: &str) {
    on_duty(|host| host.logs.push(format!("{}: {message}", format!("{level:?}").to_lowercase())));
}

pub(crate) fn now_ms() -> u64 {
    on_duty(|host| host.now_ms)
}

/// 0, 1, 2, …: a test wants to know.
pub(crate) fn random(len: u32) -> Vec<u8> {
    (0..len).map(|n| n as u8).collect()
}

impl Host {
    fn key(&self, name: &str) -> Result<&[u8], secrets::Error> {
        let key = self.secrets.iter().find(|(known, _)| known == name).map(|(_, key)| key.as_slice());
        key.ok_or_else(|| secrets::Error::Missing(format!("there is no secret `{name}`: add `.secret(\"{name}\")`")))
    }
}

/// Whether `text` fits `pattern`, in which `*` stands for anything.
fn fits(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((start, rest)) => text
            .strip_prefix(start)
            .is_some_and(|text| (0..=text.len()).any(|at| text.is_char_boundary(at) && fits(rest, &text[at..]))),
    }
}
