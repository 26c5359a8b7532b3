//! The hub's functions. In the sandbox they are imports; natively the test host of this thread answers.

#[cfg(not(target_family = "wasm"))]
pub(crate) use crate::test::{hmac_sha256, log, now_ms, placeholder, random, send, send_mail, sign_ed25519};

#[cfg(target_family = "wasm")]
mod imports {
    use crate::bindings::connector::tomada::hub;

    pub(crate) use hub::clock::now_ms;
    pub(crate) use hub::http::send;
    pub(crate) use hub::log::write as log;
    pub(crate) use hub::mail::send as send_mail;
    pub(crate) use hub::random::bytes as random;
    pub(crate) use hub::secrets::{hmac_sha256, placeholder, sign_ed25519};
}
#[cfg(target_family = "wasm")]
pub(crate) use imports::*;
