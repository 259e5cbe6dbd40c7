-- SPDX-License-Identifier: Apache-2.0
create table mesh_barrier (
  txn varchar(160) not null, branch varchar(64) not null, op varchar(16) not null,
  by_op varchar(16) not null, response text, primary key (txn, branch, op));
