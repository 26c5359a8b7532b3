//! What is not the hot path, said once for all three databases ([`super::sql`]). Each function is part of a transaction,
//! or reads.

pub(super) mod audit;
pub(super) mod catalog;
pub(super) mod connectors;
pub(super) mod content;
pub(super) mod deliveries;
pub(super) mod events;
pub(super) mod keyring;
pub(super) mod keys;
pub(super) mod mappings;
pub(super) mod nodes;
pub(super) mod privacy;
pub(super) mod retention;
pub(super) mod schedules;
pub(super) mod secrets;
