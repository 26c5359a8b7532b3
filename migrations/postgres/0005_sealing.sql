-- Content at rest. What is sealed is bound to its row and column; the keys that open the keys lie outside the database.

-- What the row holds of its event's content: 0 as it came, 1 sealed, 2 nothing any more (its time was over), 3 nothing any more
-- (erased at a person's request).
alter table integration_events add column content bigint not null default 0;
-- Headers and idempotency key, where they are sealed.
alter table integration_events add column sealed bytea;
-- What connector and target said, where that is sealed.
alter table delivery_attempts add column sealed bytea;

-- One random key per sealed event, wrapped by a key of the ring. Without its row the event's content is gone.
create table payload_keys (
    event_id bigint primary key,
    -- The ring's key.
    key_id bigint not null,
    wrapped bytea not null
);
create index payload_keys_key_id on payload_keys (key_id, event_id);

-- Which ring the indexes in this database were made with.
create table keyring (
    fingerprint bytea primary key
);

-- Secrets that operators hand to the hub, each version sealed with a key of its own.
create table secrets (
    name text collate "C" not null,
    version bigint not null,
    -- The ring's key that wraps this version's.
    key_id bigint not null,
    wrapped bytea not null,
    sealed bytea not null,
    created_at bigint not null,
    -- Until when it counts, once a later version is there.
    not_after bigint,
    primary key (name, version)
);
