-- Nodes that share the database: each renews its lease, and whoever does not is declared dead by the others.
alter table nodes add column name text not null default '';
-- Until when it holds, on the database's own clock.
alter table nodes add column lease_until bigint not null default 0;
-- Which version of which connector runs there, as a JSON object.
alter table nodes add column running text;

-- Counts changes of what every node holds in memory, so that the others see one.
create table revisions (
    -- 1: there is one row.
    id bigint primary key,
    revision bigint not null
);
insert into revisions (id, revision) values (1, 0);
