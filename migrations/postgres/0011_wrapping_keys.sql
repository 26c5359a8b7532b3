-- Keys of the ring that wrap something here, or may: see migrations/sqlite.
create table wrapping_keys (
    key_id bigint primary key
);
insert into wrapping_keys (key_id)
    select key_id from integration_events where key_id is not null union select key_id from secrets;
drop index integration_events_key_id;
