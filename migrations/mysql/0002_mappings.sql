-- Its columns are in event_mappings and delivery_attempts from the start: see 0001_init.sql.
do 0;
