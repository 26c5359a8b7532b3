//! The shapes of rows that every database shares.

use crate::delivery::{Delivery, Outcome, Status};
use crate::event::{DeliveryId, Event, EventId};

#[derive(Debug, Default)]
pub(crate) struct Promoted {
    pub(crate) deliveries: Vec<Delivery>,
    /// Endpoints of those that went back to the table.
    pub(crate) to_table: Vec<i64>,
}

/// The whole configuration as it stands in the database; `config` is JSON.
#[derive(Debug, Default)]
pub(crate) struct CatalogRows {
    pub(crate) sources: Vec<(String, String)>,
    pub(crate) queues: Vec<(i64, String, String)>,
    pub(crate) endpoints: Vec<EndpointRow>,
    pub(crate) routes: Vec<RouteRow>,
    pub(crate) mappings: Vec<MappingRow>,
}

#[derive(Debug)]
pub(crate) struct EndpointRow {
    pub(crate) id: i64,
    pub(crate) name: String,
    pub(crate) config: String,
    pub(crate) paused: Option<String>,
    pub(crate) removed: bool,
}

#[derive(Debug)]
pub(crate) struct RouteRow {
    pub(crate) id: i64,
    pub(crate) endpoint: i64,
    pub(crate) config: String,
    pub(crate) removed: bool,
}

/// The version in force.
#[derive(Debug)]
pub(crate) struct MappingRow {
    pub(crate) name: String,
    pub(crate) config: String,
}

/// What `apply` writes. Names and JSON; ids are the store's own affair.
#[derive(Debug, Default)]
pub(crate) struct CatalogChange {
    pub(crate) put_sources: Vec<(String, String)>,
    pub(crate) drop_sources: Vec<String>,
    pub(crate) put_queues: Vec<(String, String)>,
    pub(crate) drop_queues: Vec<String>,
    pub(crate) put_endpoints: Vec<(String, String)>,
    pub(crate) drop_endpoints: Vec<String>,
    pub(crate) put_mappings: Vec<(String, String)>,
    pub(crate) drop_mappings: Vec<String>,
    /// Event type, endpoint name, JSON.
    pub(crate) add_routes: Vec<(String, String, String)>,
    pub(crate) drop_routes: Vec<i64>,
}

#[derive(Debug)]
pub(crate) struct NewVersion {
    pub(crate) name: String,
    pub(crate) kind: &'static str,
    pub(crate) digest: String,
    pub(crate) manifest: String,
    pub(crate) component: Vec<u8>,
}

#[derive(Debug, Clone)]
pub(crate) struct VersionRow {
    pub(crate) id: i64,
    pub(crate) name: String,
    pub(crate) digest: String,
    pub(crate) manifest: String,
    pub(crate) size: u64,
    pub(crate) created_ms: u64,
}

#[derive(Debug)]
pub(crate) struct ConnectorRow {
    pub(crate) name: String,
    pub(crate) kind: String,
    pub(crate) active: Option<i64>,
    pub(crate) previous: Option<i64>,
}

/// Newest first; `before` is the last id of the page before.
#[derive(Debug, Default)]
pub(crate) struct EventFilter {
    pub(crate) event_type: Option<String>,
    pub(crate) source: Option<String>,
    pub(crate) unrouted: bool,
    pub(crate) parent: Option<DeliveryId>,
    pub(crate) before: Option<EventId>,
    pub(crate) limit: u32,
}

#[derive(Debug)]
pub(crate) struct EventRow {
    pub(crate) id: EventId,
    pub(crate) source: String,
    pub(crate) event_type: String,
    pub(crate) unrouted: bool,
    pub(crate) created_ms: u64,
    pub(crate) parent: Option<DeliveryId>,
    pub(crate) deliveries: Vec<DeliveryRow>,
}

#[derive(Debug)]
pub(crate) struct DeliveryRow {
    pub(crate) id: DeliveryId,
    pub(crate) endpoint: i64,
    pub(crate) status: Status,
    pub(crate) tries: u32,
    pub(crate) next_retry_ms: Option<u64>,
}

#[derive(Debug)]
pub(crate) struct EventDetail {
    pub(crate) event: Event,
    pub(crate) key: String,
    pub(crate) row: EventRow,
    pub(crate) attempts: Vec<AttemptRow>,
    /// Events that this one's deliveries gave rise to.
    pub(crate) children: Vec<EventRow>,
}

#[derive(Debug)]
pub(crate) struct AttemptRow {
    pub(crate) delivery: DeliveryId,
    pub(crate) number: u32,
    pub(crate) started_ms: u64,
    pub(crate) duration_us: u64,
    pub(crate) outcome: Outcome,
    pub(crate) http_status: Option<u16>,
    pub(crate) code: Option<String>,
    pub(crate) message: Option<String>,
    pub(crate) connector_digest: Option<String>,
    pub(crate) mapping_digest: Option<String>,
    pub(crate) log: Option<String>,
}

#[derive(Debug, Default)]
pub(crate) struct DeadLetterFilter {
    pub(crate) endpoint: Option<i64>,
    pub(crate) before: Option<DeliveryId>,
    pub(crate) limit: u32,
}

#[derive(Debug)]
pub(crate) struct DeadLetterRow {
    pub(crate) delivery: DeliveryId,
    pub(crate) event: EventId,
    pub(crate) event_type: String,
    pub(crate) endpoint: i64,
    pub(crate) reason: Outcome,
    pub(crate) http_status: Option<u16>,
    pub(crate) code: Option<String>,
    pub(crate) message: Option<String>,
    pub(crate) tries: u32,
    pub(crate) created_ms: u64,
}

#[derive(Debug, Clone)]
pub(crate) struct KeyRow {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) hash: Vec<u8>,
    pub(crate) created_ms: u64,
    pub(crate) revoked_ms: Option<u64>,
}
