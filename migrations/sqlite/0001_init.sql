-- Times are epoch milliseconds, ids are made by the host and ordered by time, states are the small numbers that
-- runtime/src/delivery.rs names. What is hot (owed, running, waiting) is found through partial indexes only, so that
-- finished rows cost nothing.

-- One row per start of a process. The id is the fence: a delivery belongs to the node whose id it carries.
create table nodes (
    id integer primary key,
    started_at integer not null,
    left_at integer
);

create table sources (
    name text primary key,
    config text not null
);

create table queues (
    id integer primary key,
    name text not null unique,
    config text not null
);

create table webhook_endpoints (
    id integer primary key,
    name text not null unique,
    config text not null,
    -- Why it is paused; null while it runs.
    paused text,
    -- Kept as long as deliveries may point to it.
    removed_at integer
);

-- A mapping is never changed: each edit is a version of its own.
create table event_mappings (
    id integer primary key,
    name text not null,
    version integer not null,
    config text not null,
    created_at integer not null,
    -- The version in force; older ones stay reachable.
    active integer not null,
    unique (name, version)
);

create table routes (
    id integer primary key,
    event_type text not null,
    endpoint_id integer not null references webhook_endpoints (id),
    config text not null,
    removed_at integer
);

create table connectors (
    name text primary key,
    kind text not null,
    -- connector_versions.id
    active integer,
    previous integer
);

create table connector_versions (
    id integer primary key,
    name text not null,
    digest text not null,
    manifest text not null,
    component blob not null,
    created_at integer not null,
    unique (name, digest)
);

create table api_keys (
    id text primary key,
    name text not null,
    -- HMAC-SHA256 of the secret under the pepper that lives outside the database.
    hash blob not null,
    created_at integer not null,
    revoked_at integer
);

-- Written once, never updated.
create table integration_events (
    id integer primary key,
    source text not null,
    event_type text not null,
    -- 0 routed, 1 unrouted
    status integer not null,
    created_at integer not null,
    idempotency_key text not null,
    content_type text not null,
    headers text,
    -- The delivery that gave rise to it.
    parent_id integer,
    payload blob not null
);
-- Routed events are found by id, which is ordered by time; an index over all of them would only slow the accepts.
create index integration_events_status_created_at on integration_events (status, created_at) where status <> 0;
create index integration_events_parent on integration_events (parent_id) where parent_id is not null;

-- What makes an event one event. Its own table, so that the unique index is all there is of it.
create table idempotency_keys (
    -- source, NUL, key
    key blob primary key,
    event_id integer not null
) without rowid;

-- A delivery's id follows its event's (event_id < id < event_id + 64): an event's deliveries are a range of ids.
create table webhook_deliveries (
    id integer primary key,
    event_id integer not null,
    endpoint_id integer not null,
    route_id integer not null,
    queue_id integer not null,
    priority integer not null,
    status integer not null,
    -- The node that has it in memory; 0 is nobody.
    node_id integer not null,
    -- Tries so far, and those that count against the retry policy.
    tries integer not null,
    charged integer not null,
    -- Hash of the key in whose order deliveries to this endpoint go out.
    ordering_key integer
);
-- The claim: an endpoint's deliveries that nobody holds, best first. Per endpoint, so that one endpoint's backlog
-- never stands in another's way.
create index webhook_deliveries_owed on webhook_deliveries (node_id, endpoint_id, priority desc, id) where status = 0;
-- Delivered rows are no part of it: nobody asks for them by endpoint in a hurry.
create index webhook_deliveries_endpoint_status on webhook_deliveries (endpoint_id, status) where status in (1, 4, 5);
create index webhook_deliveries_ordering on webhook_deliveries (endpoint_id, ordering_key, id)
    where ordering_key is not null and status in (0, 1, 5);

create table retry_queue (
    delivery_id integer primary key,
    next_retry_at integer not null
);
create index retry_queue_next_retry_at on retry_queue (next_retry_at);

create table delivery_attempts (
    delivery_id integer not null,
    number integer not null,
    started_at integer not null,
    duration_us integer not null,
    outcome integer not null,
    http_status integer,
    code text,
    message text,
    -- connector_versions.id of what ran.
    connector_version integer,
    mapping_version integer,
    log text,
    primary key (delivery_id, number)
) without rowid;

create table dead_letter (
    delivery_id integer primary key,
    event_id integer not null,
    endpoint_id integer not null,
    reason integer not null,
    http_status integer,
    code text,
    message text,
    created_at integer not null
);
create index dead_letter_endpoint on dead_letter (endpoint_id, delivery_id);
