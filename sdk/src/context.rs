//! What a connector may do during one call.

use std::cell::RefCell;
use std::fmt;
use std::ops::Deref;

use crate::bindings::connector::tomada::hub::secrets;
use crate::http::{Method, Request};
use crate::mail::Mail;
use crate::{Failure, Json, host};

/// One call of a connector: its settings, and the hub's services. `S` is the author's settings type.
#[derive(Debug)]
pub struct Context<S = Json> {
    /// The endpoint's settings.
    pub settings: S,
    secrets: Secrets,
}

impl<S> Context<S> {
    /// A GET request. `url` is absolute; values that come from an event go through [`Request::segment`] and
    /// [`Request::query`], which encode them.
    pub fn get(&self, url: impl Into<String>) -> Request<'_> {
        self.request(Method::Get, url)
    }

    /// A POST request.
    pub fn post(&self, url: impl Into<String>) -> Request<'_> {
        self.request(Method::Post, url)
    }

    /// A PUT request.
    pub fn put(&self, url: impl Into<String>) -> Request<'_> {
        self.request(Method::Put, url)
    }

    /// A PATCH request.
    pub fn patch(&self, url: impl Into<String>) -> Request<'_> {
        self.request(Method::Patch, url)
    }

    /// A DELETE request.
    pub fn delete(&self, url: impl Into<String>) -> Request<'_> {
        self.request(Method::Delete, url)
    }

    /// A request with any method.
    pub fn request(&self, method: Method, url: impl Into<String>) -> Request<'_> {
        Request::new(&self.secrets, method, url.into())
    }

    /// An e-mail. It takes `mail = true` in the attribute, and `smtp` in the endpoint's configuration.
    pub fn mail(&self) -> Mail {
        Mail::default()
    }

    /// The secret of this name, to be put into a request. Its value never enters the sandbox.
    ///
    /// # Errors
    ///
    /// Misconfigured, when the endpoint has no secret of this name.
    pub fn secret(&self, name: &str) -> Result<Secret, Failure> {
        if let Some(secret) = self.secrets.0.borrow().iter().find(|secret| secret.name == name) {
            return Ok(secret.clone());
        }
        let placeholder = host::placeholder(name).map_err(missing)?;
        let secret = Secret { name: name.to_owned(), placeholder };
        self.secrets.0.borrow_mut().push(secret.clone());
        Ok(secret)
    }

    /// HMAC-SHA256 of `data` keyed with a secret (with the decoded bytes of a `whsec_…` one). The hub computes it.
    ///
    /// # Errors
    ///
    /// Misconfigured, when the endpoint has no secret of this name, or what follows `whsec_` in it is not base64.
    pub fn hmac_sha256(&self, secret: &str, data: impl AsRef<[u8]>) -> Result<Signature, Failure> {
        host::hmac_sha256(secret, data.as_ref()).map(Signature).map_err(missing)
    }

    /// Ed25519 signature of `data`, 64 bytes, with a `whsk_…` secret (base64 of the seed, or of the seed and the public
    /// key). The hub computes it.
    ///
    /// # Errors
    ///
    /// Misconfigured, when the endpoint has no secret of this name, or it is no such key.
    pub fn sign_ed25519(&self, secret: &str, data: impl AsRef<[u8]>) -> Result<Signature, Failure> {
        host::sign_ed25519(secret, data.as_ref()).map(Signature).map_err(missing)
    }

    /// Whether the endpoint has a secret of this name. That it can be used is another question, which using it answers.
    pub fn has_secret(&self, name: &str) -> bool {
        self.secret(name).is_ok()
    }

    /// Milliseconds since 1970-01-01 UTC.
    pub fn now_ms(&self) -> u64 {
        host::now_ms()
    }

    /// `len` bytes from the hub's secure generator, at most 1,024.
    pub fn random(&self, len: u32) -> Vec<u8> {
        host::random(len)
    }

    pub(crate) fn new(settings: S) -> Context<S> {
        Context { settings, secrets: Secrets::default() }
    }
}

fn missing(error: secrets::Error) -> Failure {
    let secrets::Error::Missing(message) = error;
    Failure::misconfigured("secret-missing", message)
}

/// A secret that can be used and not be read: displayed, it is a placeholder, which the hub replaces in requests to the
/// hosts that the secret is bound to and nowhere else.
#[derive(Clone)]
pub struct Secret {
    name: String,
    placeholder: String,
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.placeholder)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl AsRef<str> for Secret {
    fn as_ref(&self) -> &str {
        &self.placeholder
    }
}

/// The secrets that this call has asked for. Requests need them to keep placeholders whole and to leave them out of
/// messages.
#[derive(Debug, Default)]
pub(crate) struct Secrets(RefCell<Vec<Secret>>);

impl Secrets {
    /// The name of the secret that `text` is the placeholder of.
    pub(crate) fn name_of(&self, text: &str) -> Option<String> {
        self.0.borrow().iter().find(|secret| secret.placeholder == text).map(|secret| secret.name.clone())
    }

    /// `text` with `{name}` for every placeholder.
    pub(crate) fn hide(&self, text: &str) -> String {
        let secrets = self.0.borrow();
        secrets
            .iter()
            .fold(text.to_owned(), |text, secret| text.replace(&secret.placeholder, &format!("{{{}}}", secret.name)))
    }
}

/// An HMAC-SHA256, 32 bytes, or an Ed25519 signature, 64 bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signature(Vec<u8>);

impl Signature {
    /// In lower-case hexadecimal, two characters for each byte.
    pub fn hex(&self) -> String {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        self.0
            .iter()
            .flat_map(|byte| [byte >> 4, byte & 15])
            .map(|digit| char::from(DIGITS[usize::from(digit)]))
            .collect()
    }

    /// In standard base64 with padding (RFC 4648 § 4).
    pub fn base64(&self) -> String {
        const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let mut text = String::with_capacity(self.0.len().div_ceil(3) * 4);
        for chunk in self.0.chunks(3) {
            let bits = chunk.iter().fold(0, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
            for digit in 0..4 {
                let index = (bits >> (18 - 6 * digit)) as usize % 64;
                text.push(if digit <= chunk.len() { char::from(DIGITS[index]) } else { '=' });
            }
        }
        text
    }
}

impl Deref for Signature {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::Signature;

    /// RFC 4648 § 10, and the bytes that tell standard base64 from the other one.
    #[test]
    fn signatures_are_written_like_everybody_does() {
        for (bytes, base64) in [
            (&b""[..], ""),
            (b"f", "Zg=="),
            (b"fo", "Zm8="),
            (b"foo", "Zm9v"),
            (b"foob", "Zm9vYg=="),
            (b"fooba", "Zm9vYmE="),
            (b"foobar", "Zm9vYmFy"),
            (b"\xfb\xff", "+/8="),
        ] {
            assert_eq!(Signature(bytes.to_vec()).base64(), base64);
        }
        assert_eq!(Signature(vec![0, 0x1f, 0xff]).hex(), "001fff");
    }
}
