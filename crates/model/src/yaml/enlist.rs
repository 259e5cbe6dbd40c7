// SPDX-License-Identifier: Apache-2.0
//! `spec.idempotency.enlist` of a TrafficPolicy.

use super::reader::Reader;
use crate::code;
use crate::policy::enlist::{Act, ENLIST_MAX, Enlist};
use crate::saga::METHODS;
use serde::{Deserialize, Serialize};

/// A call by which the program takes part in its caller's transaction, and what is called for it at the end. Each is a method
/// and a path, such as `POST /reservations`.
#[derive(Debug, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct EnlistSpec {
    /// Which calls; a path that ends in `/*` stands for all below it.
    call: String,
    /// What takes it back. Nobody but the coordinator may call it.
    compensate: String,
    /// What makes it final, if anything has to; TCC needs it. Nobody but the coordinator may call it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    complete: Option<String>,
}

const AT: &str = "spec.idempotency.enlist";

pub(super) fn read(reader: &mut Reader<'_>, specs: &[EnlistSpec]) -> Vec<Enlist> {
    reader.at_most(specs.len(), ENLIST_MAX, AT);
    let mut enlist: Vec<Enlist> = Vec::new();
    for (number, spec) in specs.iter().enumerate() {
        let at = format!("{AT}[{number}]");
        let one = Enlist {
            call: act(reader, &spec.call, &format!("{at}.call")),
            compensate: act(reader, &spec.compensate, &format!("{at}.compensate")),
            complete: spec.complete.as_ref().map(|complete| act(reader, complete, &format!("{at}.complete"))),
        };
        for (act, field) in one.ends() {
            let whole = !act.path.ends_with('*');
            reader.require(whole, &format!("{at}.{field}"), "is one place; a `*` stands in `call` alone");
        }
        enlist.push(one);
    }
    // Whatever is reserved for the coordinator is never a call that takes part.
    let joined = |act: &Act| enlist.iter().any(|other| other.call.covers(&act.method, &act.path));
    for (number, one) in enlist.iter().enumerate() {
        if let Some((_, field)) = one.ends().find(|(act, _)| joined(act)) {
            let why = "is a `call` that takes part, too; let it have a place of its own";
            reader.fault(&code::CONTRADICTION, format!("{AT}[{number}].{field}"), why);
        }
    }
    enlist
}

impl Enlist {
    fn ends(&self) -> impl Iterator<Item = (&Act, &'static str)> {
        std::iter::once((&self.compensate, "compensate")).chain(self.complete.iter().map(|act| (act, "complete")))
    }
}

/// `METHOD /PATH`.
fn act(reader: &mut Reader<'_>, text: &str, path: &str) -> Act {
    let (method, place) = text.split_once(' ').unwrap_or(("", text));
    let clean = place.starts_with('/')
        && place.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'?' | b'#' | b'%' | b'{' | b'}'))
        && !place.split('/').any(|segment| matches!(segment, "." | ".."))
        && !place.strip_suffix("/*").unwrap_or(place).contains('*');
    let fits = METHODS.contains(&method) && clean;
    reader.require(fits, path, "is a method and a path, such as `POST /reservations`");
    Act { method: method.into(), path: place.into() }
}

impl From<&Enlist> for EnlistSpec {
    fn from(one: &Enlist) -> Self {
        let text = |act: &Act| format!("{} {}", act.method, act.path);
        Self { call: text(&one.call), compensate: text(&one.compensate), complete: one.complete.as_ref().map(text) }
    }
}
