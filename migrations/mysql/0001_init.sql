-- MySQL 8.0 and MariaDB 10.6 or later; what the columns hold is said in migrations/sqlite.
--
-- * A statement that changes tables ends the transaction, so a file may be carried out by half. It is then begun again
--   from its first line: each of its statements must do no harm the second time (`if not exists`, `insert ignore`).
--   Neither server's words for adding a column can say that in both, so the columns that migrations/sqlite adds later
--   stand in the tables from the start, and the files that only add columns have nothing to do here.
-- * utf8mb4_bin is the one binary collation that both have. It takes trailing spaces for nothing; names, event types and
--   the ids of keys hold none (`config::is_name`), and what may hold any is varbinary where it is unique.
-- * There are no indexes of some of the rows. Where it matters, a column that is null for the others stands in for that:
--   what is null lies together at one end of the index and is not touched again.
-- * varchar(255) is longer than any name (64), event type (128) and source of an event (`endpoint:` and a name).

create table if not exists nodes (
    id bigint auto_increment primary key,
    started_at bigint not null,
    left_at bigint,
    -- Its machine's.
    name varchar(128) not null default '',
    -- Until when its lease holds, on the database's own clock.
    lease_until bigint not null default 0,
    -- Which version of which connector runs there, as a JSON object.
    running longtext
) engine = InnoDB row_format = dynamic default character set utf8mb4 collate utf8mb4_bin;

create table if not exists sources (
    name varchar(255) primary key,
    config longtext not null
) engine = InnoDB row_format = dynamic default character set utf8mb4 collate utf8mb4_bin;

create table if not exists queues (
    id bigint auto_increment primary key,
    name varchar(255) not null unique,
    config longtext not null
) engine = InnoDB row_format = dynamic default character set utf8mb4 collate utf8mb4_bin;

create table if not exists webhook_endpoints (
    id bigint auto_increment primary key,
    name varchar(255) not null unique,
    config longtext not null,
    paused longtext,
    removed_at bigint
) engine = InnoDB row_format = dynamic default character set utf8mb4 collate utf8mb4_bin;

create table if not exists event_mappings (
    id bigint auto_increment primary key,
    name varchar(255) not null,
    version bigint not null,
    config longtext not null,
    created_at bigint not null,
    active bigint not null,
    origin varchar(255) not null default 'apply',
    activated_by varchar(255) not null default 'apply',
    unique key event_mappings_name_version (name, version)
) engine = InnoDB row_format = dynamic default character set utf8mb4 collate utf8mb4_bin;

create table if not exists routes (
    id bigint auto_increment primary key,
    event_type varchar(255) not null,
    endpoint_id bigint not null,
    config longtext not null,
    removed_at bigint,
    foreign key routes_endpoint (endpoint_id) references webhook_endpoints (id)
) engine = InnoDB row_format = dynamic default character set utf8mb4 collate utf8mb4_bin;

create table if not exists connectors (
    name varchar(255) primary key,
    kind varchar(255) not null,
    active bigint,
    previous bigint
) engine = InnoDB row_format = dynamic default character set utf8mb4 collate utf8mb4_bin;

create table if not exists connector_versions (
    id bigint auto_increment primary key,
    name varchar(255) not null,
    digest varchar(255) not null,
    manifest longtext not null,
    component longblob not null,
    created_at bigint not null,
    unique key connector_versions_name_digest (name, digest)
) engine = InnoDB row_format = dynamic default character set utf8mb4 collate utf8mb4_bin;

create table if not exists api_keys (
    id varchar(255) primary key,
    name longtext not null,
    hash varbinary(255) not null,
    created_at bigint not null,
    revoked_at bigint,
    scopes longtext not null default ('["*"]'),
    sources longtext,
    addresses longtext,
    not_before bigint,
    expires_at bigint,
    previous_hash varbinary(255),
    previous_until bigint,
    created_by varchar(255),
    last_used_at bigint
) engine = InnoDB row_format = dynamic default character set utf8mb4 collate utf8mb4_bin;

-- No index by status: nothing looks for unrouted events by it, and every accept would pay.
create table if not exists integration_events (
    id bigint primary key,
    source varchar(255) not null,
    event_type varchar(255) not null,
    status bigint not null,
    created_at bigint not null,
    idempotency_key longtext not null,
    content_type longtext not null,
    headers longtext,
    parent_id bigint,
    payload longblob not null,
    content bigint not null default 0,
    sealed longblob,
    key_id bigint,
    wrapped varbinary(255),
    -- The nulls of both come in the order of the ids, at one end: next to nothing.
    key integration_events_parent (parent_id),
    key integration_events_key_id (key_id)
) engine = InnoDB row_format = dynamic default character set utf8mb4 collate utf8mb4_bin;

create table if not exists idempotency_keys (
    -- At most `endpoint:`, a name of 64 bytes, NUL and a key of 255 bytes.
    `key` varbinary(1024) primary key,
    event_id bigint not null
) engine = InnoDB row_format = dynamic default character set utf8mb4 collate utf8mb4_bin;

create table if not exists webhook_deliveries (
    id bigint primary key,
    event_id bigint not null,
    endpoint_id bigint not null,
    route_id bigint not null,
    queue_id bigint not null,
    priority bigint not null,
    status bigint not null,
    node_id bigint not null,
    tries bigint not null,
    charged bigint not null,
    ordering_key bigint,
    -- The higher the priority, the smaller: before 10.8 MariaDB reads `desc` in an index and does not do it, and a claim
    -- would sort, and lock, an endpoint's whole backlog.
    urgency bigint generated always as (-priority) stored,
    -- The ordering key as long as a later delivery has to wait for this one.
    open_ordering bigint generated always as (case when status in (0, 1, 5) then ordering_key end) stored,
    -- The claim, what a node holds, and what operators count. Finished rows are in it as well, behind everything that is
    -- asked for: their status comes first.
    key webhook_deliveries_owed (status, node_id, endpoint_id, urgency, id),
    key webhook_deliveries_ordering (endpoint_id, open_ordering, id),
    -- An event's deliveries are a range of ids, but a range whose ends stand in another row is looked up by no index here.
    key webhook_deliveries_event (event_id)
) engine = InnoDB row_format = dynamic default character set utf8mb4 collate utf8mb4_bin;

create table if not exists retry_queue (
    delivery_id bigint primary key,
    next_retry_at bigint not null,
    key retry_queue_next_retry_at (next_retry_at)
) engine = InnoDB row_format = dynamic default character set utf8mb4 collate utf8mb4_bin;

create table if not exists delivery_attempts (
    delivery_id bigint not null,
    number bigint not null,
    started_at bigint not null,
    duration_us bigint not null,
    outcome bigint not null,
    http_status bigint,
    code longtext,
    message longtext,
    connector_version bigint,
    mapping_version bigint,
    log longtext,
    mapping_id bigint,
    sealed longblob,
    primary key (delivery_id, number)
) engine = InnoDB row_format = dynamic default character set utf8mb4 collate utf8mb4_bin;

create table if not exists dead_letter (
    delivery_id bigint primary key,
    event_id bigint not null,
    endpoint_id bigint not null,
    reason bigint not null,
    http_status bigint,
    code longtext,
    message longtext,
    created_at bigint not null,
    key dead_letter_endpoint (endpoint_id, delivery_id)
) engine = InnoDB row_format = dynamic default character set utf8mb4 collate utf8mb4_bin;

-- What the nodes take turns in, a row each: `Lock` of runtime/src/store/sql.rs has the names. A row that is not there
-- cannot be locked.
create table if not exists locks (
    id bigint primary key
) engine = InnoDB row_format = dynamic default character set utf8mb4 collate utf8mb4_bin;

insert ignore into locks (id) values (1), (2), (3), (4), (5), (6), (7), (8);
