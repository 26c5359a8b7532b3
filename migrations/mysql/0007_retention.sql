create table if not exists retention_walks (
    rule bigint not null,
    -- As bytes, of which an index takes four times as many as of characters.
    policy varbinary(3000) not null,
    place bigint not null,
    primary key (rule, policy)
) engine = InnoDB row_format = dynamic default character set utf8mb4 collate utf8mb4_bin;

create table if not exists retention_stragglers (
    rule bigint not null,
    event_id bigint not null,
    primary key (rule, event_id)
) engine = InnoDB row_format = dynamic default character set utf8mb4 collate utf8mb4_bin;

create table if not exists retention_removed (
    rule bigint primary key,
    removed bigint not null
) engine = InnoDB row_format = dynamic default character set utf8mb4 collate utf8mb4_bin;

create table if not exists retention_keys (
    id bigint primary key,
    place varbinary(1024),
    oldest bigint,
    oldest_before bigint
) engine = InnoDB row_format = dynamic default character set utf8mb4 collate utf8mb4_bin;

insert ignore into retention_keys (id) values (1);
