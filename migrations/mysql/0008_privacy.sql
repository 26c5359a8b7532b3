create table if not exists subject_index (
    kind bigint not null,
    subject varbinary(16) not null,
    event_id bigint not null,
    primary key (kind, subject, event_id),
    key subject_index_event (event_id)
) engine = InnoDB row_format = dynamic default character set utf8mb4 collate utf8mb4_bin;

create table if not exists erasures (
    id bigint primary key,
    -- Up to 200 characters as an operator wrote them, trailing spaces and all.
    request varbinary(1024) unique,
    created_at bigint not null,
    reason longtext not null,
    actor longtext not null,
    state bigint not null,
    notice_id bigint not null,
    rehidden bigint not null,
    finished_at bigint,
    key erasures_open (state)
) engine = InnoDB row_format = dynamic default character set utf8mb4 collate utf8mb4_bin;

create table if not exists erased_events (
    event_id bigint primary key,
    erasure_id bigint not null,
    done bigint not null,
    key erased_events_erasure (erasure_id, done)
) engine = InnoDB row_format = dynamic default character set utf8mb4 collate utf8mb4_bin;

create table if not exists erasure_recipients (
    erasure_id bigint not null,
    endpoint_id bigint not null,
    events bigint not null,
    first_at bigint not null,
    last_at bigint not null,
    delivery_id bigint,
    primary key (erasure_id, endpoint_id)
) engine = InnoDB row_format = dynamic default character set utf8mb4 collate utf8mb4_bin;

create table if not exists reindexing (
    -- 1: there is at most one row.
    id bigint primary key,
    `cursor` bigint not null,
    upto bigint not null,
    seen bigint not null,
    indexed bigint not null,
    started_at bigint not null,
    finished_at bigint
) engine = InnoDB row_format = dynamic default character set utf8mb4 collate utf8mb4_bin;
