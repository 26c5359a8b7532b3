-- Of the pepper that the hashes of API keys here are made with; one row. Nodes that share the database share it.
create table pepper (
    fingerprint bytea primary key
);
