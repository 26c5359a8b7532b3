-- Keys of the ring that wrap something here, or may: written before one wraps for the first time, and removed when all
-- rows have been gone through without finding it. An index of every event's key_id said the same, and cost each sealed
-- event 400 written bytes.
create table wrapping_keys (
    key_id integer primary key
);
insert into wrapping_keys (key_id)
    select key_id from integration_events where key_id is not null union select key_id from secrets;
drop index integration_events_key_id;
