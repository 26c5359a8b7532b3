-- What is kept no longer: how far each rule has come, and what it had to leave.

-- A rule under one policy goes through the events in the order of their ids, which is the order of time.
create table retention_walks (
    -- The small numbers of runtime/src/store/rows.rs.
    rule bigint not null,
    -- What it is about and how long that is kept, as text. Another policy is another walk.
    policy text collate "C" not null,
    -- The last id that it has seen.
    place bigint not null,
    primary key (rule, policy)
);

-- Events that a walk has passed because something about them was not over yet. They are looked at again and again.
create table retention_stragglers (
    rule bigint not null,
    event_id bigint not null,
    primary key (rule, event_id)
);

-- How many rows each rule has removed or emptied, ever.
create table retention_removed (
    rule bigint primary key,
    removed bigint not null
);

-- Idempotency keys are not in the order of time: they are gone through in the order of the keys, a part at a time.
create table retention_keys (
    -- 1: there is one row.
    id bigint primary key,
    -- The last key that was seen; null between two rounds.
    place bytea,
    -- The smallest event id of the keys that this round has left, and that the last whole round had left.
    oldest bigint,
    oldest_before bigint
);
insert into retention_keys (id) values (1);
