//! Write connectors and mappings for the Tomada hub.
//!
//! A connector talks to one system. It is a plain function: what it needs to know stands in its types, what it may
//! do stands in its attribute, and `?` says the right thing to the hub, because every [`Failure`] carries what
//! happens next (try again, wait, pause the endpoint, give up).
//!
//! ```
//! use tomada_sdk::prelude::*;
//!
//! #[derive(Deserialize)]
//! struct Lead {
//!     name: String,
//! }
//!
//! #[connector(name = "slack", hosts = ["slack.com"], secrets = ["token"], events = ["lead.created"])]
//! fn handle(cx: &Context, event: Event<Lead>) -> Result<Receipt, Failure> {
//!     let text = format!("New lead: {}", event.payload.name);
//!     let message = json!({"channel": "#leads", "text": text});
//!     let answer = cx.post("https://slack.com/api/chat.postMessage").bearer(&cx.secret("token")?).json(&message).send()?;
//!     Ok(answer.ok()?.into())
//! }
//!
//! // `cargo test` runs it without a sandbox.
//! use tomada_sdk::test::{Host, event};
//! let run = Host::new()
//!     .secret("token")
//!     .answer(Method::Post, "https://slack.com/api/*", 200, json!({"ok": true}))
//!     .run(handle, event("lead.created", json!({"name": "Ana"})));
//! assert_eq!(run.receipt().http_status, Some(200));
//! assert_eq!(run.requests[0].header("authorization"), Some("Bearer {token}"));
//! ```
//!
//! A mapping turns one payload into another and can reach nothing at all:
//!
//! ```
//! use tomada_sdk::prelude::*;
//!
//! #[derive(Deserialize)]
//! struct Order {
//!     id: u64,
//!     paid: bool,
//! }
//!
//! #[mapping(name = "order-to-ticket")]
//! fn map(event: Event<Order>) -> Result<Mapped<Json>, Detail> {
//!     if !event.payload.paid {
//!         return Ok(Mapped::Skip("not paid yet".into()));
//!     }
//!     Ok(Mapped::Payload(json!({"ticket": event.payload.id})))
//! }
//! ```
//!
//! `tomada connector build` turns either into a component, `tomada connector push` gives it to a running hub.
//!
//! # What the sandbox is
//!
//! Every delivery gets a fresh instance: statics start anew, nothing is kept. There is no clock, file, socket or
//! environment beside what [`Context`] offers; `std::time`, `std::fs` and `std::net` panic. A panic ends this one
//! attempt, and its message, file and line stand in it.

#![deny(missing_docs)]

// The attributes and the bindings name this crate by its path, here as everywhere.
extern crate self as tomada_sdk;

#[cfg(target_arch = "wasm32")]
mod allocator;
#[doc(hidden)]
pub mod bindings;
mod context;
mod event;
mod failure;
#[doc(hidden)]
pub mod guest;
mod host;
pub mod http;
pub mod log;
pub mod mail;
mod receipt;
#[cfg(not(target_family = "wasm"))]
pub mod test;
pub mod time;

pub use context::{Context, Secret, Signature};
pub use event::{Event, FromPayload, IntoPayload, Mapped, Raw};
pub use failure::{Detail, Failure, RateLimit};
pub use receipt::{Emitted, Receipt};
pub use tomada_sdk_macros::{connector, mapping};

/// Any JSON value.
pub type Json = serde_json::Value;

/// What nearly every connector and mapping uses.
pub mod prelude {
    pub use crate::http::{Method, Request, Response};
    pub use crate::{Context, Detail, Event, Failure, Json, Mapped, Raw, Receipt, connector, log, mapping};
    pub use serde::{Deserialize, Serialize};
    pub use serde_json::json;
}

#[doc(hidden)]
pub use wit_bindgen as __wit_bindgen;
