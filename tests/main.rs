//! The hub's promises, tested through its doors: whatever is inside may be rewritten, and these stay.

#![allow(clippy::disallowed_methods, reason = "the patience of tests is measured")]

mod crash;
mod fairness;
mod feedback;
mod harness;
mod hostile;
mod ingress;
mod layers;
mod lead;
mod mappings;
mod once;
mod retry;
mod schedules;
mod swap;
