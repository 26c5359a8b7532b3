//! What signatures are made of: the keys that the texts of secrets stand for, HMAC and Ed25519. The door, the host of
//! the connectors and `tomada send` all ask here.
//!
//! Pure: no clock, no I/O.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::hmac;
use ring::signature::{ED25519, Ed25519KeyPair, UnparsedPublicKey};

use crate::config::Algorithm;

/// Bytes of a Standard Webhooks secret, at least. The specification has 24 to 64; fewer than 16 can be guessed.
const MIN_KEY: usize = 16;

/// An HMAC key that was taken in once: a clone of its state saves two of the four compressions of a short message.
#[derive(Clone)]
pub(crate) struct MacKey(hmac::Key);

impl MacKey {
    pub(crate) fn new(algorithm: Algorithm, secret: &[u8]) -> MacKey {
        let algorithm = match algorithm {
            Algorithm::Sha1 => hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY,
            Algorithm::Sha256 => hmac::HMAC_SHA256,
            Algorithm::Sha512 => hmac::HMAC_SHA512,
        };
        MacKey(hmac::Key::new(algorithm, secret))
    }

    pub(crate) fn sha256(secret: &[u8]) -> MacKey {
        MacKey::new(Algorithm::Sha256, secret)
    }

    /// Of the parts one after the other.
    pub(crate) fn sign(&self, parts: &[&[u8]]) -> hmac::Tag {
        let mut context = hmac::Context::with_key(&self.0);
        for part in parts {
            context.update(part);
        }
        context.sign()
    }
}

/// The public half of an Ed25519 key pair.
pub(crate) struct PublicKey([u8; 32]);

impl PublicKey {
    /// `whpk_` and base64 of 32 bytes, as Standard Webhooks writes it.
    ///
    /// # Errors
    /// It is something else. The message does not repeat it.
    pub(crate) fn read(text: &[u8]) -> Result<PublicKey, String> {
        let bytes = text.strip_prefix(b"whpk_").and_then(|encoded| STANDARD.decode(encoded).ok());
        let key = bytes.and_then(|bytes| bytes.try_into().ok());
        key.map(PublicKey).ok_or_else(|| "is no public key: whpk_ and base64 of 32 bytes".to_owned())
    }

    pub(crate) fn fits(&self, message: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&ED25519, &self.0).verify(message, signature).is_ok()
    }
}

/// An Ed25519 signature (64 bytes) by a `whsk_…` key: base64 of the 32-byte seed, or of the seed and the public key.
///
/// # Errors
/// The key is something else, or its halves do not belong together. The message does not repeat it.
pub(crate) fn sign_ed25519(key: &[u8], message: &[u8]) -> Result<[u8; 64], String> {
    let bytes = key.strip_prefix(b"whsk_").and_then(|encoded| STANDARD.decode(encoded).ok()).unwrap_or_default();
    let pair = match bytes.len() {
        32 => Ed25519KeyPair::from_seed_unchecked(&bytes),
        64 => Ed25519KeyPair::from_seed_and_public_key(&bytes[..32], &bytes[32..]),
        _ => return Err("is no signing key: whsk_ and base64 of 32 or 64 bytes".into()),
    };
    let pair = pair.map_err(|_| "is no signing key: its two halves do not belong together")?;
    let mut signature = [0; 64];
    signature.copy_from_slice(pair.sign(message).as_ref());
    Ok(signature)
}

/// The key of a Standard Webhooks secret: base64 after an optional `whsec_`.
///
/// # Errors
/// It is not base64, or of fewer than 16 bytes. The message does not repeat it.
pub(crate) fn standard_webhooks_key(secret: &[u8]) -> Result<Vec<u8>, String> {
    let encoded = secret.strip_prefix(b"whsec_").unwrap_or(secret);
    match STANDARD.decode(encoded) {
        Ok(key) if key.len() >= MIN_KEY => Ok(key),
        Ok(key) => Err(format!(
            "has {} bytes: a Standard Webhooks secret has 24 to 64, and fewer than {MIN_KEY} can be guessed",
            key.len()
        )),
        Err(_) => Err("is not base64: a Standard Webhooks secret is whsec_ and base64".into()),
    }
}

/// The key of an endpoint's secret: `whsec_…` stands for the bytes that its base64 holds, any other for itself.
///
/// # Errors
/// As [`standard_webhooks_key`] has them, after `whsec_`.
pub(crate) fn hmac_key(secret: &[u8]) -> Result<Vec<u8>, String> {
    if secret.starts_with(b"whsec_") { standard_webhooks_key(secret) } else { Ok(secret.to_vec()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_one_key_wherever_it_is_read() {
        let encoded = b"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
        let key = standard_webhooks_key(encoded).unwrap();
        assert_eq!(key.len(), 24);
        assert_eq!(standard_webhooks_key(&encoded[6..]).unwrap(), key);
        assert_eq!(hmac_key(encoded).unwrap(), key);
        assert_eq!(hmac_key(&encoded[6..]).unwrap(), &encoded[6..], "without whsec_ it is not decoded");
        for wrong in
            [&b"whsec_"[..], b"whsec_It's a secret", b"whsec_c2hvcnQ=", b"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaS"]
        {
            let shown = String::from_utf8_lossy(wrong);
            let error = standard_webhooks_key(wrong).unwrap_err();
            assert_eq!(hmac_key(wrong).unwrap_err(), error, "{shown}");
            assert!(!error.contains("secret's") && !error.contains("c2hvcnQ"), "{error}");
        }
    }

    /// Published by Svix (64 bytes) and by Standard Webhooks' Go library (a seed).
    #[test]
    fn ed25519_signs_as_others_published() {
        for (secret, public, expected) in [
            (
                "whsk_6Xb/dCcHpPea21PS1N9VY/NZW723CEc77N4rJCubMbfVKIDij2HKpMKkioLlX0dRqSKJp4AJ6p9lMicMFs6Kvg==",
                "whpk_1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4=",
                "hnO3f9T8Ytu9HwrXslvumlUpqtNVqkhqw/enGzPCXe5BdqzCInXqYXFymVJaA7AZdpXwVLPo3mNl8EM+m7TBAg==",
            ),
            (
                "whsk_VEVTVFNJR05JTkdLRVlET05PVFVTRVRISVNGT1JBTlk=",
                "whpk_ZlN4eg7dSSqi0moX9hQUk3orrOouK3QVQSlJa248c/g=",
                "tQ9V2XOqn7jL/DQenEFpqIugdBVtiMmER5mhSkXBNwM0mkATuDe6KYYUuxqtaiHeYGb7KaaBRdM5WqyeFiL8Ag==",
            ),
        ] {
            let message = br#"msg_p5jXN8AQM9LWM0D4loKWxJek.1614265330.{"test": 2432232314}"#;
            let signature = sign_ed25519(secret.as_bytes(), message).unwrap();
            assert_eq!(STANDARD.encode(signature), expected);
            let public = PublicKey::read(public.as_bytes()).unwrap();
            assert!(public.fits(message, &signature) && !public.fits(b"", &signature));
        }
        for wrong in [
            "",
            "whsk_",
            "whsk_AAAA",
            "whsec_VEVTVFNJR05JTkdLRVlET05PVFVTRVRISVNGT1JBTlk=",
            "whsk_6Xb/dCcHpPea21PS1N9VY/NZW723CEc77N4rJCubMbdmU3h6Dt1JKqLSahf2FBSTeius6i4rdBVBKUlrbjxz+A==",
        ] {
            assert!(sign_ed25519(wrong.as_bytes(), b"").is_err(), "{wrong}");
        }
        for wrong in ["whpk_", "whpk_AAAA", "1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4="] {
            assert!(PublicKey::read(wrong.as_bytes()).is_err(), "{wrong}");
        }
    }
}
