-- Who did what, as a chain: the hash of each row covers the row before it, under a key that lies outside the database.

create table audit_log (
    -- One more than the row before.
    id bigint primary key,
    at bigint not null,
    -- The public id of an API key, or `hub` for what it does itself.
    actor text collate "C" not null,
    -- An IPv4 /24 or an IPv6 /48; null for what the hub does itself.
    address text,
    action text collate "C" not null,
    object text not null,
    -- As whoever did it said.
    reason text,
    -- A JSON object, never content or secrets.
    details text not null,
    previous_hash bytea not null,
    hash bytea not null
);

-- Rows go at the old end only, and none is ever another.
create function audit_log_is_never_changed() returns trigger language plpgsql as $$
begin
    raise exception 'a row of the audit log is never changed' using errcode = 'restrict_violation';
end;
$$;
create trigger audit_log_is_never_changed before update on audit_log
    for each row execute function audit_log_is_never_changed();
