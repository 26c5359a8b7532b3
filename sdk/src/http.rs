//! The only way out: HTTPS to the hosts that the attribute declares and the operator granted. No redirects are
//! followed.
//!
//! Messages of failures name method, host and path. The query, and what [`Request::segment`] put into the path, may
//! be personal data and are left out.

use std::fmt::{Display, Write};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::bindings::connector::tomada::hub::http;
use crate::context::Secrets;
use crate::failure::complaint_in;
use crate::time::parse_http_date;
use crate::{Detail, Failure, RateLimit, host};

pub use http::{Error, Method};

/// A request that is being put together. [`Context`](crate::Context) begins it, [`send`](Request::send) ends it.
#[derive(Debug)]
#[must_use = "a request does nothing until `.send()`"]
pub struct Request<'a> {
    secrets: &'a Secrets,
    request: http::Request,
    /// Method, host and path, fit to be shown.
    shown: String,
    /// Why it cannot be sent.
    problem: Option<&'static str>,
}

impl<'a> Request<'a> {
    pub(crate) fn new(secrets: &'a Secrets, method: Method, url: String) -> Request<'a> {
        let place = url.split_once("://").map_or(url.as_str(), |(_, rest)| rest);
        let place = place.split(['?', '#']).next().unwrap_or_default();
        // A name and password before the host.
        let authority_end = place.find('/').unwrap_or(place.len());
        let place = place[..authority_end].rfind('@').map_or(place, |at| &place[at + 1..]);
        let shown = format!("{} {}", name_of(method), secrets.hide(place));
        let request = http::Request { method, url, headers: Vec::new(), body: Vec::new(), timeout_ms: None };
        Request { secrets, request, shown, problem: None }
    }

    /// Adds `/` and one path segment, percent-encoded. A secret stays whole. An empty one, `.` and `..` would name
    /// another resource than was meant: such a request is not sent.
    pub fn segment(mut self, segment: impl Display) -> Request<'a> {
        let segment = segment.to_string();
        if matches!(segment.as_str(), "" | "." | "..") {
            self.problem = Some("a segment of its path is empty, `.` or `..`");
        }
        let url = &mut self.request.url;
        if !url.ends_with('/') {
            url.push('/');
        }
        if !self.shown.ends_with('/') {
            self.shown.push('/');
        }
        match self.secrets.name_of(&segment) {
            Some(name) => {
                url.push_str(&segment);
                self.shown.push_str(&format!("{{{name}}}"));
            }
            None => {
                encode_into(url, &segment);
                self.shown.push('*');
            }
        }
        self
    }

    /// Adds parameters to the query, percent-encoded. A secret stays whole.
    pub fn query(mut self, parameters: &[(&str, &str)]) -> Request<'a> {
        for (name, value) in parameters {
            let url = &mut self.request.url;
            url.push(if url.contains('?') { '&' } else { '?' });
            encode_into(url, name);
            url.push('=');
            match self.secrets.name_of(value) {
                Some(_) => url.push_str(value),
                None => encode_into(url, value),
            }
        }
        self
    }

    /// Adds a header.
    pub fn header(mut self, name: impl Into<String>, value: impl AsRef<str>) -> Request<'a> {
        self.request.headers.push((name.into(), value.as_ref().to_owned()));
        self
    }

    /// Adds `Authorization: Bearer …`.
    pub fn bearer(self, token: impl Display) -> Request<'a> {
        self.header("Authorization", format!("Bearer {token}"))
    }

    /// `body` as JSON, with its content type.
    pub fn json(mut self, body: &impl Serialize) -> Request<'a> {
        match serde_json::to_vec(body) {
            Ok(body) => self.header("Content-Type", "application/json").body(body),
            Err(_) => {
                self.problem = Some("its body has a key that JSON cannot have");
                self
            }
        }
    }

    /// The body as it is. Say the content type with [`header`](Request::header).
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Request<'a> {
        self.request.body = body.into();
        self
    }

    /// Give up after this long, within the endpoint's own deadline.
    pub fn timeout_ms(mut self, timeout_ms: u32) -> Request<'a> {
        self.request.timeout_ms = Some(timeout_ms);
        self
    }

    /// Sends it. Any status is an answer; [`Response::ok`] and [`Response::json`] judge it.
    ///
    /// # Errors
    ///
    /// Transient when there was no answer: `unreachable` (nothing was sent), `interrupted` and `timeout` (it may have been
    /// taken). Misconfigured (`host-denied`) when the operator granted no such host, rejected (`request-invalid`,
    /// `answer-too-large`) when asking again cannot help.
    pub fn send(self) -> Result<Response, Failure> {
        let Request { request, shown, problem, .. } = self;
        if let Some(problem) = problem {
            return Err(Failure::rejected("request-invalid", format!("{shown} cannot be sent: {problem}")));
        }
        match host::send(&request) {
            Ok(http::Response { status, headers, body }) => Ok(Response { status, headers, body, shown }),
            Err(Error::Timeout) => Err(Failure::transient("timeout", format!("{shown} did not answer in time"))),
            Err(Error::Unreachable(why)) => {
                Err(Failure::transient("unreachable", format!("{shown} could not be reached: {why}")))
            }
            Err(Error::Interrupted(why)) => Err(Failure::transient(
                "interrupted",
                format!("{shown} may have been taken, the connection broke: {why}"),
            )),
            Err(Error::Denied(why)) => {
                Err(Failure::misconfigured("host-denied", format!("{shown} is not allowed: {why}")))
            }
            Err(Error::Invalid(why)) => {
                Err(Failure::rejected("request-invalid", format!("{shown} cannot be sent: {why}")))
            }
            Err(Error::TooLarge(limit)) => Err(Failure::rejected(
                "answer-too-large",
                format!("{shown} answered with more than the {limit} bytes that are read"),
            )),
        }
    }
}

/// An answer, whatever its status.
#[derive(Debug)]
pub struct Response {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    shown: String,
}

impl Response {
    /// The status code.
    pub fn status(&self) -> u16 {
        self.status
    }

    /// The first header of this name; `name` in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// The body, at most 4 MiB.
    pub fn body(&self) -> &[u8] {
        &self.body
    }

    /// This answer when its status is 2xx.
    ///
    /// # Errors
    ///
    /// 429: rate-limited, with the Retry-After when there is one. 5xx, 408 and 425: transient. 401 and 403:
    /// unauthorized. Everything else: rejected. The code is `http-` and the status.
    pub fn ok(self) -> Result<Response, Failure> {
        if (200..300).contains(&self.status) {
            return Ok(self);
        }
        let detail = Detail {
            code: format!("http-{}", self.status),
            message: format!("{} answered {}", self.shown, self.status),
            http_status: Some(self.status),
        };
        Err(match self.status {
            429 => Failure::RateLimited(RateLimit { retry_after_ms: self.retry_after_ms(), detail }),
            408 | 425 | 500.. => Failure::Transient(detail),
            401 | 403 => Failure::Unauthorized(detail),
            _ => Failure::Rejected(detail),
        })
    }

    /// This answer when its status is 2xx, nothing when it is 404.
    ///
    /// # Errors
    ///
    /// For any other status as [`ok`](Response::ok).
    pub fn found(self) -> Result<Option<Response>, Failure> {
        if self.status == 404 { Ok(None) } else { self.ok().map(Some) }
    }

    /// The body of a 2xx answer, read as JSON.
    ///
    /// # Errors
    ///
    /// For any other status as [`ok`](Response::ok). Rejected with code `answer-invalid` when the body does not fit
    /// `T`: what the target did may have happened, so it is not asked again.
    pub fn json<T: DeserializeOwned>(self) -> Result<T, Failure> {
        let answer = self.ok()?;
        serde_json::from_slice(&answer.body).map_err(|error| {
            let complaint = complaint_in(&error, &answer.body);
            Failure::Rejected(Detail {
                code: "answer-invalid".to_owned(),
                message: format!("{} answered {} with an unexpected body: {complaint}", answer.shown, answer.status),
                http_status: Some(answer.status),
            })
        })
    }

    /// Retry-After (RFC 9110 § 10.2.3), in seconds or as a date, from now on.
    fn retry_after_ms(&self) -> Option<u64> {
        let value = self.header("retry-after")?.trim();
        if let Ok(seconds) = value.parse::<u64>() {
            return Some(seconds.saturating_mul(1000));
        }
        let at_ms = u64::try_from(parse_http_date(value)?).ok()? * 1000;
        Some(at_ms.saturating_sub(host::now_ms()))
    }
}

fn name_of(method: Method) -> &'static str {
    match method {
        Method::Get => "GET",
        Method::Head => "HEAD",
        Method::Post => "POST",
        Method::Put => "PUT",
        Method::Patch => "PATCH",
        Method::Delete => "DELETE",
    }
}

/// Percent-encodes everything but the unreserved characters (RFC 3986 § 2.3).
fn encode_into(url: &mut String, text: &str) {
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => url.push(char::from(byte)),
            _ => {
                let _ = write!(url, "%{byte:02X}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::test::{Host, event};
    use crate::{Context, Event, Json, Raw, Receipt};

    const URL: &str = "https://ana:pw@crm.test/api/leads?phone=55";

    fn get(cx: &Context, _: Event<Raw>) -> Result<Receipt, Failure> {
        Ok(cx.get(URL).send()?.ok()?.into())
    }

    #[test]
    fn every_status_says_what_happens_next() {
        for status in [200, 201, 204, 299] {
            let run = Host::new().answer(Method::Get, URL, status, json!(null)).run(get, event("t", json!({})));
            assert_eq!(run.receipt().http_status, Some(status));
        }
        for (status, kind) in [
            (301, "Rejected"),
            (400, "Rejected"),
            (401, "Unauthorized"),
            (403, "Unauthorized"),
            (404, "Rejected"),
            (408, "Transient"),
            (410, "Rejected"),
            (422, "Rejected"),
            (425, "Transient"),
            (429, "RateLimited"),
            (500, "Transient"),
            (503, "Transient"),
            (599, "Transient"),
        ] {
            let run = Host::new().answer(Method::Get, URL, status, json!(null)).run(get, event("t", json!({})));
            let failure = run.failure();
            assert!(format!("{failure:?}").starts_with(&format!("Failure::{kind}(")), "{status}: {failure:?}");
            let detail = failure.detail();
            assert_eq!((&detail.code, detail.http_status), (&format!("http-{status}"), Some(status)));
            assert_eq!(detail.message, format!("GET crm.test/api/leads answered {status}"));
        }
    }

    #[test]
    fn no_answer_says_what_happens_next() {
        for (error, kind, code) in [
            (Error::Timeout, "Transient", "timeout"),
            (Error::Unreachable("connection refused".into()), "Transient", "unreachable"),
            (Error::Interrupted("connection reset".into()), "Transient", "interrupted"),
            (Error::Denied("grant it".into()), "Misconfigured", "host-denied"),
            (Error::Invalid("no scheme".into()), "Rejected", "request-invalid"),
            (Error::TooLarge(4), "Rejected", "answer-too-large"),
        ] {
            let run = Host::new().no_answer(Method::Get, URL, error).run(get, event("t", json!({})));
            let failure = run.failure();
            assert!(format!("{failure:?}").starts_with(&format!("Failure::{kind}(")), "{failure:?}");
            assert_eq!(failure.detail().code, code);
        }
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now_ms = 784_111_777_000;
        for (value, expected) in [
            ("30", Some(30_000)),
            (" 0 ", Some(0)),
            ("Sun, 06 Nov 1994 08:50:00 GMT", Some(23_000)),
            ("Sun, 06 Nov 1994 08:00:00 GMT", Some(0)),
            ("soon", None),
            ("-1", None),
            ("18446744073709551615", Some(u64::MAX)),
        ] {
            let run = Host::new()
                .now_ms(now_ms)
                .answer_with(Method::Get, URL, 429, &[("retry-after", value)], "")
                .run(get, event("t", json!({})));
            let Failure::RateLimited(limit) = run.failure() else { panic!("{:?}", run.failure()) };
            assert_eq!(limit.retry_after_ms, expected, "{value}");
        }
    }

    /// What comes from an event can neither leave its place in the URL nor show up in a message.
    #[test]
    fn data_is_encoded_and_not_shown() {
        fn put(cx: &Context, event: Event<String>) -> Result<Receipt, Failure> {
            let token = cx.secret("token")?;
            let request = cx.put(format!("https://a.test/{token}/leads")).segment(&event.payload).segment(&token);
            let request = request.query(&[("q", &event.payload), ("t", token.as_ref())]);
            Ok(request.json(&json!({})).send()?.ok()?.into())
        }
        let run = Host::new()
            .secret("token")
            .answer(Method::Put, "*", 500, json!(null))
            .run(put, event("t", json!("a/b?c=é&d#%.")));
        let encoded = "a%2Fb%3Fc%3D%C3%A9%26d%23%25.";
        assert_eq!(
            run.requests[0].url,
            format!("https://a.test/{{token}}/leads/{encoded}/{{token}}?q={encoded}&t={{token}}")
        );
        assert_eq!(run.failure().detail().message, "PUT a.test/{token}/leads/*/{token} answered 500");

        for climbing in ["..", ".", ""] {
            let run = Host::new().secret("token").run(put, event("t", json!(climbing)));
            assert_eq!(run.failure().detail().code, "request-invalid", "{climbing}");
        }
    }

    #[test]
    fn an_answer_that_does_not_fit_is_not_asked_for_again() {
        fn read(cx: &Context, _: Event<Json>) -> Result<Receipt, Failure> {
            let _: Vec<String> = cx.get(URL).send()?.json()?;
            Ok(Receipt::new())
        }
        let run = Host::new().answer(Method::Get, URL, 200, json!(["Ana", 5])).run(read, event("t", json!({})));
        let Failure::Rejected(detail) = run.failure() else { panic!("{:?}", run.failure()) };
        assert_eq!(
            detail.message,
            "GET crm.test/api/leads answered 200 with an unexpected body: [1]: expected a string, found integer (line 1, column 8)"
        );
    }
}
