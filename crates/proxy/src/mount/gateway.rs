// SPDX-License-Identifier: Apache-2.0
//! The listener of the proxy at the edge: plain HTTP/1.1 and h2c from outside. Those of gateways come with the
//! configuration: see `gates`.

use super::Wanted;
use crate::config::Gateway;
use crate::door::Door;

pub(super) fn fixed(gateway: &Gateway) -> Vec<Wanted> {
    vec![Wanted { door: Door::Edge, what: "edge", address: gateway.edge }]
}
