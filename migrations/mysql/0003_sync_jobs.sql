create table if not exists schedules (
    kind bigint not null,
    name varchar(255) not null,
    config longtext not null,
    fired_at bigint not null,
    primary key (kind, name)
) engine = InnoDB row_format = dynamic default character set utf8mb4 collate utf8mb4_bin;

create table if not exists sync_jobs (
    id bigint primary key,
    name varchar(255) not null,
    state bigint not null,
    due_at bigint,
    started_at bigint not null,
    finished_at bigint,
    `cursor` longtext,
    pages bigint not null,
    items bigint not null,
    known bigint not null,
    code longtext,
    message longtext,
    -- The name while it runs: no job runs twice at the same time.
    running varchar(255) generated always as (case when state = 0 then name end) stored,
    unique key sync_jobs_running (running),
    key sync_jobs_name (name, id)
) engine = InnoDB row_format = dynamic default character set utf8mb4 collate utf8mb4_bin;
