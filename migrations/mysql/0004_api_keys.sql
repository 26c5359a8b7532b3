-- Its columns are in api_keys from the start: see 0001_init.sql.
do 0;
