//! Errors as their receivers get them: problem+json (RFC 9457), one sentence that says what to do.

use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use crate::limits::Standing;
use crate::redact::redact_lines;

#[derive(Debug)]
pub(crate) struct Problem {
    status: StatusCode,
    detail: String,
    headers: Vec<(HeaderName, HeaderValue)>,
    /// The policy whose quota is used up.
    violated: Option<&'static str>,
}

impl Problem {
    pub(crate) fn new(status: StatusCode, detail: impl Into<String>) -> Problem {
        Problem { status, detail: detail.into(), headers: Vec::new(), violated: None }
    }

    /// The hub is at its limit for the moment.
    pub(crate) fn busy(detail: &str) -> Problem {
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail)
            .with(header::RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER_S))
    }

    pub(crate) fn status(&self) -> StatusCode {
        self.status
    }

    /// Whether it is the hub that cannot, and not the request that is wrong.
    pub(crate) fn is_busy(&self) -> bool {
        self.status == StatusCode::SERVICE_UNAVAILABLE
    }

    /// The sender has to wait.
    pub(crate) fn quota_exceeded(standing: &Standing) -> Problem {
        let wait_s = standing.wait_s;
        let detail = match standing.name {
            "address" => format!("too many requests from this address failed: try again in {wait_s} s"),
            _ => format!("more requests than the limit allows: send it again in {wait_s} s"),
        };
        let mut problem = Problem::new(StatusCode::TOO_MANY_REQUESTS, detail)
            .with(header::RETRY_AFTER, HeaderValue::from(wait_s))
            .with(RATE_LIMIT_POLICY, policy(standing))
            .with(RATE_LIMIT, limit(standing));
        problem.violated = Some(standing.name);
        problem
    }

    pub(crate) fn with(mut self, name: HeaderName, value: HeaderValue) -> Problem {
        self.headers.push((name, value));
        self
    }
}

/// Seconds: long enough that a commit has room again, short enough that a partner's retry is soon.
const RETRY_AFTER_S: &str = "2";

// draft-ietf-httpapi-ratelimit-headers-10, which may still change.
const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
const QUOTA_EXCEEDED: &str = "https://iana.org/assignments/http-problem-types#quota-exceeded";

/// Says in a successful answer how its sender stands.
pub(crate) fn tell(headers: &mut HeaderMap, standing: &Standing) {
    headers.insert(RATE_LIMIT_POLICY, policy(standing));
    headers.insert(RATE_LIMIT, limit(standing));
}

/// So many requests (`q`) per so many seconds (`w`).
fn policy(standing: &Standing) -> HeaderValue {
    value(format!("\"{}\";q={};w={}", standing.name, standing.quota, standing.window_s))
}

/// So many requests are left (`r`), and in so many seconds (`t`) there are more. Never later than `Retry-After`.
fn limit(standing: &Standing) -> HeaderValue {
    value(format!("\"{}\";r={};t={}", standing.name, standing.remaining, standing.until_s()))
}

fn value(text: String) -> HeaderValue {
    // Names and numbers always fit.
    HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static(""))
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut body = json!({
            "type": "about:blank",
            "title": self.status.canonical_reason().unwrap_or("Error"),
            "status": self.status.as_u16(),
            // The last resort: no answer repeats the key that it was asked with.
            "detail": redact_lines(&self.detail),
        });
        if let Some(policy) = self.violated {
            body["type"] = QUOTA_EXCEEDED.into();
            body["violated-policies"] = json!([policy]);
        }
        let mut response = (self.status, body.to_string()).into_response();
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        for (name, value) in self.headers {
            response.headers_mut().insert(name, value);
        }
        response
    }
}
