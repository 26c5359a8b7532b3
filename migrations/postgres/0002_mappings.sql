-- Mappings are edited over the API as well as by `apply`, which says what it is about to replace.

-- Who wrote the version, and who put it in force last: apply, api.
alter table event_mappings add column origin text not null default 'apply';
alter table event_mappings add column activated_by text not null default 'apply';

-- event_mappings.id of the rules that an attempt ran with; mapping_version beside it is the component that ran them.
alter table delivery_attempts add column mapping_id bigint;
