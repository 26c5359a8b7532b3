-- What a key may do, as what, from where and when. Keys from before could do everything, and still can.

-- JSON arrays of words. ["*"] is every scope, those of later versions too; null is no restriction.
alter table api_keys add column scopes text not null default '["*"]';
alter table api_keys add column sources text;
alter table api_keys add column addresses text;
alter table api_keys add column not_before bigint;
alter table api_keys add column expires_at bigint;
-- The hash of the secret before the last rotation, and until when it is good.
alter table api_keys add column previous_hash bytea;
alter table api_keys add column previous_until bigint;
-- The id of the key that it was made with.
alter table api_keys add column created_by text;
-- To the minute.
alter table api_keys add column last_used_at bigint;
