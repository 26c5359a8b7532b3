-- Of the pepper that the hashes of API keys here are made with; one row. Nodes that share the database share it.
create table if not exists pepper (
    fingerprint varbinary(255) primary key
) engine = InnoDB row_format = dynamic default character set utf8mb4 collate utf8mb4_bin;
