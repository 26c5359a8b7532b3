-- What happens by itself: schedules, and the runs of sync jobs.

create table schedules (
    -- 0 schedule, 1 sync job
    kind bigint not null,
    name text collate "C" not null,
    config text not null,
    -- The last time that it was due and was fired; of a new one, when it came to be.
    fired_at bigint not null,
    primary key (kind, name)
);

-- One row per run.
create table sync_jobs (
    id bigint primary key,
    name text collate "C" not null,
    -- 0 running, 1 succeeded, 2 failed
    state bigint not null,
    -- Null when an operator started it.
    due_at bigint,
    started_at bigint not null,
    finished_at bigint,
    -- Where it goes on; null at its beginning.
    cursor text,
    pages bigint not null,
    -- Events that its pages gave rise to, and how many of the items were known from an earlier run.
    items bigint not null,
    known bigint not null,
    code text,
    message text
);
-- No job runs twice at the same time, on however many nodes.
create unique index sync_jobs_running on sync_jobs (name) where state = 0;
create index sync_jobs_name on sync_jobs (name, id);
