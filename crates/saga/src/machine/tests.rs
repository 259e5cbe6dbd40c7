// SPDX-License-Identifier: Apache-2.0
//! The machine: single cases here, all interleavings of bounded worlds in `explore`.

mod cases;
mod explore;
mod world;
