// SPDX-License-Identifier: Apache-2.0
//! The role that issues identities. `issue` holds the root and signs, `token` decides who may ask for
//! the first time. It never sees a private key but its own.

pub mod issue;
pub mod token;

pub use issue::{Asker, Authority, Certificate, Error};
pub use token::{Grant, Token};
