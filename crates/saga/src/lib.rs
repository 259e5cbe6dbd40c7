// SPDX-License-Identifier: Apache-2.0
//! Decides the next step of a transaction, and what becomes of a request that carries an idempotency
//! key. Pure: states and events in, states and answers out. It calls nobody, writes nothing, and reads
//! no clock.

pub mod ledger;
