-- No trigger keeps its rows from being changed, as in SQLite and PostgreSQL: with binary logging it takes a right to make
-- one that managed servers do not give. The chain of hashes finds what was changed, here as there.
create table if not exists audit_log (
    id bigint primary key,
    at bigint not null,
    actor longtext not null,
    address longtext,
    action longtext not null,
    object longtext not null,
    reason longtext,
    details longtext not null,
    previous_hash varbinary(255) not null,
    hash varbinary(255) not null
) engine = InnoDB row_format = dynamic default character set utf8mb4 collate utf8mb4_bin;
