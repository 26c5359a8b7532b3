create table if not exists keyring (
    fingerprint varbinary(255) primary key
) engine = InnoDB row_format = dynamic default character set utf8mb4 collate utf8mb4_bin;

create table if not exists secrets (
    name varchar(255) not null,
    version bigint not null,
    key_id bigint not null,
    wrapped varbinary(255) not null,
    sealed longblob not null,
    created_at bigint not null,
    not_after bigint,
    primary key (name, version)
) engine = InnoDB row_format = dynamic default character set utf8mb4 collate utf8mb4_bin;
