//! How Carinho's own systems are talked to: authentication and headers, their envelopes, ids, phones and dates, and the
//! lists that the sync jobs work off.

#![deny(missing_docs)]

mod id;
mod phone;
pub mod sync;

pub use id::Id;
pub use phone::{digits, same_phone};

use std::collections::BTreeMap;

use serde::de::{DeserializeOwned, IgnoredAny};
use tomada_sdk::prelude::*;
use tomada_sdk::time::civil_from_days;
use tomada_sdk::{FromPayload, Secret};

const HOUR_MS: u64 = 3_600_000;
const DAY_MS: u64 = 24 * HOUR_MS;

/// How the hub says who it is.
const HUB: &str = "integracoes";

/// What an endpoint says about the system.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// For instance `https://crm.carinho.com.vc`.
    pub base_url: String,
    /// The header that carries the secret `api_key`.
    #[serde(default)]
    pub auth: Auth,
}

/// How a system wants its key.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Auth {
    /// `X-API-Key: …`
    #[default]
    ApiKey,
    /// `X-Internal-Token: …`
    InternalToken,
    /// `Authorization: Bearer …`
    Bearer,
}

/// One of Carinho's systems, as one delivery talks to it.
#[derive(Debug)]
pub struct System<'a> {
    cx: &'a Context<Settings>,
    secret: Secret,
    delivery_id: &'a str,
    service_origin: bool,
}

impl<'a> System<'a> {
    /// The system that the endpoint's settings name.
    ///
    /// # Errors
    ///
    /// Misconfigured, when the endpoint has no secret `api_key`.
    pub fn new<T>(cx: &'a Context<Settings>, event: &'a Event<T>) -> Result<System<'a>, Failure> {
        Ok(System { cx, secret: cx.secret("api_key")?, delivery_id: &event.delivery_id, service_origin: false })
    }

    /// Sends `X-Service-Origin` as well, which CRM wants.
    pub fn with_service_origin(mut self) -> System<'a> {
        self.service_origin = true;
        self
    }

    /// A question; `path` begins with `/`. What comes from an event goes through [`Request::segment`] and
    /// [`Request::query`].
    pub fn get(&self, path: &str) -> Request<'a> {
        self.request(Method::Get, path)
    }

    /// A POST under the delivery's id as idempotency key: the same over all attempts and replays.
    pub fn post(&self, path: &str) -> Request<'a> {
        self.post_once(path, self.delivery_id)
    }

    /// A POST under a key of its own, for what several deliveries must do once between them.
    pub fn post_once(&self, path: &str, key: &str) -> Request<'a> {
        self.request(Method::Post, path).header("Idempotency-Key", key)
    }

    /// A PUT under the delivery's id as idempotency key.
    pub fn put(&self, path: &str) -> Request<'a> {
        self.request(Method::Put, path).header("Idempotency-Key", self.delivery_id)
    }

    fn request(&self, method: Method, path: &str) -> Request<'a> {
        let settings = &self.cx.settings;
        let request = self.cx.request(method, format!("{}{path}", settings.base_url.trim_end_matches('/')));
        let request = match settings.auth {
            Auth::ApiKey => request.header("X-API-Key", &self.secret),
            Auth::InternalToken => request.header("X-Internal-Token", &self.secret),
            Auth::Bearer => request.bearer(&self.secret),
        };
        let request = if self.service_origin { request.header("X-Service-Origin", HUB) } else { request };
        request.header("X-Source-System", HUB).header("X-Request-ID", self.delivery_id)
    }
}

/// The payload, read into the type that goes with the event's type.
///
/// # Errors
///
/// Rejected (`payload-invalid`), with the place and never the value.
pub fn payload<T: FromPayload>(event: &Event<Raw>) -> Result<T, Failure> {
    T::from_payload(event.payload.to_vec()).map_err(Failure::Rejected)
}

/// The payload as the body, byte for byte: numbers keep their digits.
pub fn pass_on<'a>(request: Request<'a>, event: &Event<Raw>) -> Request<'a> {
    request.header("Content-Type", "application/json").body(event.payload.to_vec())
}

/// What a 2xx answer says: the value of `data` when it is an object that has one, else all of it.
///
/// # Errors
///
/// As [`Response::json`].
pub fn data<T: DeserializeOwned>(answer: Response) -> Result<T, Failure> {
    #[derive(Deserialize)]
    struct Envelope<T> {
        data: T,
    }
    let is_envelope = serde_json::from_slice::<BTreeMap<String, IgnoredAny>>(answer.body())
        .is_ok_and(|object| object.contains_key("data"));
    if is_envelope { answer.json::<Envelope<T>>().map(|envelope| envelope.data) } else { answer.json() }
}

/// What was found: [`data`], and nothing for 404 and `null`.
///
/// # Errors
///
/// For any other status, and for what is no list, as [`data`].
pub fn found<T: DeserializeOwned>(answer: Response) -> Result<Vec<T>, Failure> {
    match answer.found()? {
        Some(answer) => data::<Option<Vec<T>>>(answer).map(Option::unwrap_or_default),
        None => Ok(Vec::new()),
    }
}

/// The failure for an event that a route should not have sent here.
pub fn event_unknown(event_type: &str, handled: &[&str]) -> Failure {
    let handled = handled.join(", ");
    Failure::rejected(
        "event-unknown",
        format!("this connector does not handle {event_type}: route it elsewhere, or one of {handled} here"),
    )
}

/// Whether a flag is set, by PHP's rules as far as JSON goes: `false`, 0, `""`, `"0"` and null are not, and nor is the
/// text `"false"`.
pub fn is_set(flag: &Json) -> bool {
    match flag {
        Json::Null => false,
        Json::Bool(set) => *set,
        Json::Number(number) => number.as_f64() != Some(0.0),
        Json::String(text) => !matches!(text.as_str(), "" | "0" | "false"),
        Json::Array(items) => !items.is_empty(),
        Json::Object(_) => true,
    }
}

/// The date in São Paulo (`2026-11-24`) at `ms`, milliseconds since 1970-01-01 UTC, and `days` later. São Paulo is at
/// UTC−3 all year: Brazil gave up daylight saving time in 2019 (decree 9.772).
pub fn sao_paulo_date(ms: u64, days: i64) -> String {
    let today = (ms.saturating_sub(3 * HOUR_MS) / DAY_MS) as i64;
    let (year, month, day) = civil_from_days(today + days);
    format!("{year:04}-{month:02}-{day:02}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use tomada_sdk::test::{Host, Run, event};

    const URL: &str = "https://crm.test/api/v1/leads";

    fn calls(cx: &Context<Settings>, event: Event<Raw>) -> Result<Receipt, Failure> {
        let system = System::new(cx, &event)?;
        system.get("/api/v1/leads").send()?.ok()?;
        pass_on(system.post("/api/v1/leads"), &event).send()?.ok()?;
        system.post_once("/api/v1/leads", "lead/7").send()?.ok()?;
        let system = system.with_service_origin();
        Ok(system.put("/api/v1/leads").json(&json!({})).send()?.ok()?.into())
    }

    fn call(settings: Json) -> Run {
        let mut event = event("lead.created", json!(null));
        event.payload = Raw(br#"{"value": 1.50}"#.to_vec());
        Host::new()
            .settings(settings)
            .secret("api_key")
            .answer(Method::Get, URL, 200, json!({}))
            .answer(Method::Post, URL, 201, json!({}))
            .answer(Method::Post, URL, 201, json!({}))
            .answer(Method::Put, URL, 204, json!({}))
            .run(calls, event)
    }

    #[test]
    fn every_call_says_who_asks_and_what_changes_has_a_key() {
        let run = call(json!({"base_url": "https://crm.test/"}));
        assert_eq!(run.receipt().http_status, Some(204));
        for request in &run.requests {
            assert_eq!(request.header("X-API-Key"), Some("{api_key}"));
            assert_eq!(request.header("X-Source-System"), Some("integracoes"));
            assert_eq!(request.header("X-Request-ID"), Some("dlv_0000000000001"));
        }
        let keys: Vec<_> = run.requests.iter().map(|request| request.header("Idempotency-Key")).collect();
        assert_eq!(keys, [None, Some("dlv_0000000000001"), Some("lead/7"), Some("dlv_0000000000001")]);
        let origins: Vec<_> = run.requests.iter().map(|request| request.header("X-Service-Origin")).collect();
        assert_eq!(origins, [None, None, None, Some("integracoes")]);
        assert_eq!(run.requests[1].body, br#"{"value": 1.50}"#);
        assert_eq!(run.requests[1].header("Content-Type"), Some("application/json"));
    }

    #[test]
    fn each_profile_has_its_header_and_no_other() {
        for (profile, header, value) in [
            ("api_key", "X-API-Key", "{api_key}"),
            ("internal_token", "X-Internal-Token", "{api_key}"),
            ("bearer", "Authorization", "Bearer {api_key}"),
        ] {
            let run = call(json!({"base_url": "https://crm.test", "auth": profile}));
            for name in ["X-API-Key", "X-Internal-Token", "Authorization"] {
                let expected = (name == header).then_some(value);
                assert_eq!(run.requests[0].header(name), expected, "{profile}: {name}");
            }
        }
    }

    #[test]
    fn settings_are_checked() {
        for (settings, code) in [
            (json!({"base_url": "https://crm.test", "auth": "basic"}), "settings-invalid"),
            (json!({"base_url": "https://crm.test", "apikey": "x"}), "settings-invalid"),
            (json!({}), "settings-invalid"),
            (json!({"base_url": "https://crm.test"}), "secret-missing"),
        ] {
            let run = Host::new().settings(settings).run(calls, event("lead.created", json!({})));
            assert!(matches!(run.failure(), Failure::Misconfigured(detail) if detail.code == code), "{run:?}");
        }
    }

    fn read<T: DeserializeOwned>(
        status: u16,
        body: &str,
        read: fn(Response) -> Result<T, Failure>,
    ) -> (Run, Option<T>) {
        let value = std::cell::RefCell::new(None);
        let run = Host::new().answer_with(Method::Get, URL, status, &[], body).run(
            |cx: &Context, _: Event<Raw>| {
                value.replace(Some(read(cx.get(URL).send()?)?));
                Ok(Receipt::new())
            },
            event("t", json!({})),
        );
        (run, value.into_inner())
    }

    #[test]
    fn answers_come_with_and_without_their_envelope() {
        for (body, expected) in [
            (r#"{"success": true, "data": {"id": 1}}"#, json!({"id": 1})),
            (r#"{"id": 1}"#, json!({"id": 1})),
            (r#"{"data": null}"#, json!(null)),
            (r#"[{"data": 1}]"#, json!([{"data": 1}])),
        ] {
            assert_eq!(read::<Json>(200, body, data).1, Some(expected), "{body}");
        }
        let (run, _) = read::<u64>(200, r#"{"data": "Ana"}"#, data);
        let message = "GET crm.test/api/v1/leads answered 200 with an unexpected body: \
                       data: expected u64, found string (line 1, column 14)";
        assert!(matches!(run.failure(), Failure::Rejected(detail) if detail.message == message), "{run:?}");
        let (run, _) = read::<Json>(503, "down", data);
        assert!(matches!(run.failure(), Failure::Transient(detail) if detail.code == "http-503"));
    }

    #[test]
    fn finding_nothing_is_an_empty_list() {
        for (status, body, expected) in [
            (200, r#"{"data": [1, 2]}"#, vec![1, 2]),
            (200, "[3]", vec![3]),
            (200, r#"{"data": null}"#, vec![]),
            (404, r#"{"message": "Not found"}"#, vec![]),
        ] {
            assert_eq!(read::<Vec<u64>>(status, body, found).1, Some(expected), "{body}");
        }
        let (run, _) = read::<Vec<u64>>(200, r#"{"data": {"id": 1}}"#, found);
        assert_eq!(run.failure().detail().code, "answer-invalid");
    }

    #[test]
    fn an_unknown_event_is_a_route_to_mend() {
        let Failure::Rejected(detail) = event_unknown("a.b", &["c.d", "e.f"]) else { panic!("asking again is no use") };
        assert_eq!(detail.code, "event-unknown");
        assert_eq!(detail.message, "this connector does not handle a.b: route it elsewhere, or one of c.d, e.f here");
    }

    #[test]
    fn flags_are_read_as_php_writes_them() {
        for flag in [json!(true), json!(1), json!("1"), json!("true"), json!("2026-11-24")] {
            assert!(is_set(&flag), "{flag}");
        }
        for flag in [json!(null), json!(false), json!(0), json!(0.0), json!(""), json!("0"), json!("false"), json!([])]
        {
            assert!(!is_set(&flag), "{flag}");
        }
    }

    #[test]
    fn dates_are_those_of_sao_paulo() {
        for (ms, days, date) in [
            // 2026-11-25T02:59:59Z and 03:00:00Z: midnight in São Paulo.
            (1_795_575_599_999, 0, "2026-11-24"),
            (1_795_575_600_000, 0, "2026-11-25"),
            (1_795_575_600_000, 3, "2026-11-28"),
            (1_795_575_600_000, -7, "2026-11-18"),
            // 2026-12-30T12:00:00Z, over the end of the year.
            (1_798_632_000_000, 3, "2027-01-02"),
            // 2028-02-28T12:00:00Z, to the leap day; in summer, when the clock was once an hour ahead.
            (1_835_352_000_000, 1, "2028-02-29"),
        ] {
            assert_eq!(sao_paulo_date(ms, days), date);
        }
    }
}
