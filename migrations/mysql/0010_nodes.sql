-- What nodes know of each other is in nodes from the start: see 0001_init.sql.

-- Counts changes of what every node holds in memory, so that the others see one.
create table if not exists revisions (
    -- 1: there is one row.
    id bigint primary key,
    revision bigint not null
) engine = InnoDB row_format = dynamic default character set utf8mb4 collate utf8mb4_bin;

insert ignore into revisions (id, revision) values (1, 0);
