//! A partner that signs its webhooks with the legacy HMAC.

use hmac::{Hmac, KeyInit as _, Mac as _};
use hyper::Method;
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use serde_json::Value;
use sha2::Sha256;
use tomada::client::{Answer, Client};

pub(crate) const SECRET: &str = "a secret of the partner";

/// A file with the secret, for `file:` references: the environment belongs to all tests at once.
pub(crate) fn secret_file() -> String {
    static FILE: std::sync::OnceLock<tempfile::NamedTempFile> = std::sync::OnceLock::new();
    let file = FILE.get_or_init(|| {
        let file = tempfile::NamedTempFile::new().expect("a file for the secret");
        std::fs::write(file.path(), SECRET).expect("the secret is written");
        file
    });
    format!("file:{}", file.path().display())
}

/// A source that signs with the secret, and one webhook.
pub(crate) fn source(path: &str, event: &str) -> String {
    format!(
        r#"
        [sources.partner]
        auth = {{ scheme = "hmac-hex", secrets = ["{}"] }}
        idempotency = {{ pointer = "/idempotency_key" }}
        [[sources.partner.webhooks]]
        path = "{path}"
        event = "{event}"
        queue = "integrations"
        "#,
        secret_file()
    )
}

pub(crate) fn signature(body: &str) -> String {
    signature_with(SECRET.as_bytes(), body)
}

pub(crate) fn signature_with(secret: &[u8], body: &str) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret).expect("any key");
    mac.update(body.as_bytes());
    hex::encode(mac.finalize().into_bytes())
}

pub(crate) struct Partner {
    client: Client,
    path: String,
}

impl Partner {
    pub(crate) async fn of(url: &str, path: &str) -> Partner {
        Partner::try_of(url, path).await.expect("the hub answers")
    }

    pub(crate) async fn try_of(url: &str, path: &str) -> anyhow::Result<Partner> {
        Ok(Partner { client: Client::connect(url, None).await?, path: path.to_owned() })
    }

    pub(crate) async fn try_send(&mut self, body: &Value) -> anyhow::Result<Answer> {
        let body = body.to_string();
        let signature = signature(&body);
        self.send_with(&[("x-webhook-signature", &signature)], &body).await
    }

    /// Sends and expects the 202. Answers the event's id and whether it was known.
    pub(crate) async fn send(&mut self, body: &Value) -> (String, bool) {
        let answer = self.try_send(body).await.expect("an answer");
        assert_eq!(answer.status, 202, "{}", answer.problem());
        let accepted: Value = answer.json().expect("JSON");
        (accepted["id"].as_str().expect("an id").to_owned(), accepted["duplicate"].as_bool().expect("a flag"))
    }

    pub(crate) async fn send_with(&mut self, headers: &[(&str, &str)], body: &str) -> anyhow::Result<Answer> {
        self.request(Method::POST, &self.path.clone(), headers, body).await
    }

    pub(crate) async fn request(
        &mut self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> anyhow::Result<Answer> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(HeaderName::from_bytes(name.as_bytes())?, HeaderValue::from_str(value)?);
        }
        self.client.send(method, path, map, body.to_owned().into()).await
    }
}
