-- Whom events are about, and what was erased because somebody asked for it.

-- Which events name a person. `subject` is an HMAC of the normal form, cut to 16 bytes, under a key outside the database.
create table subject_index (
    -- 0 CPF, 1 phone, 2 e-mail
    kind bigint not null,
    subject bytea not null,
    event_id bigint not null,
    primary key (kind, subject, event_id)
);
create index subject_index_event on subject_index (event_id);

-- One row per erasure. It holds nothing about the person.
create table erasures (
    id bigint primary key,
    -- What the operator calls the request; the same one is not carried out twice.
    request text collate "C" unique,
    created_at bigint not null,
    reason text not null,
    -- The API key's public id.
    actor text not null,
    -- 0 erasing, 1 targets are being told, 2 complete
    state bigint not null,
    -- The event that tells the targets.
    notice_id bigint not null,
    -- Keys of events that had been open and were hidden.
    rehidden bigint not null,
    finished_at bigint
);
create index erasures_open on erasures (state) where state < 2;

create table erased_events (
    event_id bigint primary key,
    erasure_id bigint not null,
    -- 0 still to be erased
    done bigint not null
);
create index erased_events_erasure on erased_events (erasure_id, done);

-- Endpoints that had got what was erased, or may have.
create table erasure_recipients (
    erasure_id bigint not null,
    endpoint_id bigint not null,
    events bigint not null,
    -- Of the first try that may have arrived, and the last.
    first_at bigint not null,
    last_at bigint not null,
    -- The delivery that tells it; null where nobody can be told.
    delivery_id bigint,
    primary key (erasure_id, endpoint_id)
);

-- How far the indexing of older events is: at most one row.
create table reindexing (
    id bigint primary key check (id = 1),
    -- The last event that was looked at, and the last that will be.
    cursor bigint not null,
    upto bigint not null,
    seen bigint not null,
    indexed bigint not null,
    started_at bigint not null,
    finished_at bigint
);
