-- Its columns are in integration_events from the start: see 0001_init.sql. There never was a table payload_keys.
do 0;
