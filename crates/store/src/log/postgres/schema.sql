create schema byrnie;
-- One row: the format, and the mesh whose transactions these are. Whoever tells of itself locks it.
create table byrnie.meta (
  one bool primary key default true check (one),
  version int not null,
  trust_domain text not null);
-- Who drives a shard; an owner counts for as long as it is a member.
create table byrnie.seat (
  shard int2 primary key,
  epoch int8 not null default 0,
  owner text not null default '');
-- Coordinators, and until when each counts as being there.
create table byrnie.member (
  name text primary key,
  until timestamptz not null);
-- What one coordinator asks of another, and the answer.
create table byrnie.letter (
  number int8 primary key generated always as identity,
  shard int2 not null,
  at timestamptz not null default clock_timestamp(),
  body bytea not null,
  answer bytea);
-- A transaction: how many entries it has, when it ended (ms since 1970; 0: not yet), and what lists show of it.
create table byrnie.txn (
  id bytea primary key,
  shard int2 not null,
  entries int4 not null,
  ended int8 not null,
  summary bytea not null) with (fillfactor = 70);
create index txn_unfinished on byrnie.txn (shard, id) where ended = 0;
create index txn_ended on byrnie.txn (ended, id) where ended > 0;
-- What happened to it.
create table byrnie.entry (
  id bytea not null,
  number int4 not null,
  body bytea not null,
  primary key (id, number));
