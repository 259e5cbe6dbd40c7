// SPDX-License-Identifier: Apache-2.0
//! What byrnie wishes `std` had. Every crate may import this one; it imports none of them and
//! knows no word of networking.

pub mod clock;
pub mod count;
pub mod drain;
pub mod hash;
pub mod mailbox;
pub mod ring;
pub mod rng;
pub mod share;
pub mod size;
pub mod text;

pub use clock::{Clock, Instant, Now, Timestamp};
pub use rng::Rng;
pub use text::Text;
