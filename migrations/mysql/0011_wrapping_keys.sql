-- Keys of the ring that wrap something here, or may: see migrations/sqlite.
create table if not exists wrapping_keys (
    key_id bigint primary key
) engine = InnoDB row_format = dynamic default character set utf8mb4 collate utf8mb4_bin;

insert ignore into wrapping_keys (key_id)
    select key_id from integration_events where key_id is not null union select key_id from secrets;

-- `drop index if exists`, which MySQL does not know.
set @dropping = (
    select if(count(*) = 0, 'do 0', 'alter table integration_events drop key integration_events_key_id')
    from information_schema.statistics
    where table_schema = database() and table_name = 'integration_events'
        and index_name = 'integration_events_key_id'
);
prepare dropping from @dropping;
execute dropping;
deallocate prepare dropping;
