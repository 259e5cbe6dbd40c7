-- One row: the format of what follows.
create table byrnie.ledger_meta (
  one bool primary key default true check (one),
  version int not null);
insert into byrnie.ledger_meta (version) values (1);
-- The one clock of leases and expiry, in ms since 1970.
create function byrnie.ledger_now() returns int8 language sql volatile
  as 'select (extract(epoch from clock_timestamp()) * 1000)::int8';
-- What is remembered of one key. States: 1 under way, 2 done, 3 ambiguous, 4 under way again.
create table byrnie.ledger_key (
  name bytea primary key,
  fingerprint bytea not null,
  claim int8 not null,
  state int2 not null,
  lapses int8 not null,
  kept bytea not null,
  expires int8 not null) with (fillfactor = 80);
alter table byrnie.ledger_key alter column kept set storage external;
create index ledger_expires on byrnie.ledger_key (expires);
-- How much that is: the sum of all rows. A control plane counts in one of them, so that they don't wait for each other.
create table byrnie.ledger_part (
  part int2 primary key,
  keys int8 not null default 0,
  bytes int8 not null default 0) with (fillfactor = 50);
-- Control planes that answer for this ledger: where, by whose certificates, and when each was last heard of.
create table byrnie.ledger_keeper (
  id text primary key,
  address text not null,
  roots text not null,
  seen timestamptz not null default clock_timestamp());
