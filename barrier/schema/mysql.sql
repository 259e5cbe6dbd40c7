-- SPDX-License-Identifier: Apache-2.0
-- MySQL and MariaDB. Bytes, since their text compares without regard to case and to spaces at the end.
create table mesh_barrier (
  txn varbinary(160) not null, branch varbinary(64) not null, op varbinary(16) not null,
  by_op varchar(16) not null, response mediumtext, primary key (txn, branch, op)
) engine = InnoDB default character set utf8mb4;
