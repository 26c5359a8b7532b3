//! The hub's promises, tested through its doors: whatever is inside may be rewritten, and these stay.

#![allow(clippy::disallowed_methods, reason = "the patience of tests is measured")]

mod audit;
mod canary;
mod cluster;
mod crash;
mod doors;
mod fairness;
mod feedback;
mod flows;
mod harness;
mod hostile;
mod ingress;
mod keys;
mod layers;
mod limits;
mod logs;
mod mail;
mod mappings;
mod metrics;
mod once;
mod outage;
mod plain;
mod predecessor;
mod privacy;
mod record;
mod redis;
mod retention;
mod retry;
mod rolling;
mod rotation;
mod schedules;
mod sealed;
mod secrets;
mod signatures;
mod swap;
mod sync;
mod tokens;
