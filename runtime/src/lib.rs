//! A runtime for integrations: durable webhooks in, sandboxed connectors in the middle, signed deliveries out.
//!
//! The modules in the order in which an event meets them; ARCHITECTURE.md walks one through. Imports go down only,
//! which `tests/layers.rs` holds in place.

// Faces: the command line, and what shows, measures and tries a hub from outside.
pub mod bench;
mod child;
pub mod cli;
pub mod client;
pub mod demo;
pub mod send;
mod toolchain;

// What is opened and started.
pub mod app;

// The doors: operators, partners, time, work.
mod admin;
mod ingress;
mod scheduler;
mod worker;

// The rooms.
mod apply;
mod audit;
mod catalog;
mod committer;
mod follow;
mod keys;
mod listen;
mod membership;
mod plugin;
mod privacy;
mod queue;
mod registry;
mod retention;
mod rewrap;
mod sync;

// The cellar: the truth.
mod store;

// The stones.
pub mod clock;
pub mod config;
mod delivery;
mod event;
mod keyring;
mod limits;
mod metrics;
mod outbound;
mod personal;
mod private;
mod problem;
mod record;
mod redact;
mod seal;
mod signals;
mod signature;
pub mod telemetry;
