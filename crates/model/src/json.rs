// SPDX-License-Identifier: Apache-2.0
//! What JSON may say and no two readers agree on: a member that stands twice (RFC 8259, 4).

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use std::collections::BTreeSet;
use std::fmt;

/// Says which member stands twice in one object, and where; nothing of a text without one, or that is no JSON.
pub fn repeated(text: &[u8]) -> Option<String> {
    let error = serde_json::from_slice::<Unique>(text).err()?;
    error.is_data().then(|| error.to_string())
}

/// A value whose objects have each member once.
struct Unique;

impl<'de> Deserialize<'de> for Unique {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Look)
    }
}

struct Look;

impl<'de> Visitor<'de> for Look {
    type Value = Unique;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Unique, E> {
        Ok(Unique)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Unique, E> {
        Ok(Unique)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Unique, E> {
        Ok(Unique)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Unique, E> {
        Ok(Unique)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Unique, E> {
        Ok(Unique)
    }

    fn visit_str<E>(self, _: &str) -> Result<Unique, E> {
        Ok(Unique)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Unique, A::Error> {
        while items.next_element::<Unique>()?.is_some() {}
        Ok(Unique)
    }

    /// Numbers that have to stay as they are written come this way as well, as one member.
    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Unique, A::Error> {
        let mut seen = BTreeSet::new();
        while let Some(name) = members.next_key::<String>()? {
            if seen.contains(&name) {
                return Err(A::Error::custom(format!("{name:?} stands twice")));
            }
            seen.insert(name);
            members.next_value::<Unique>()?;
        }
        Ok(Unique)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_that_stands_twice_is_found_at_any_depth() {
        for fine in [
            "",
            "{",
            "{\"a\": [1, 1.5e3, -2, true, null, \"a\", {\"a\": {}}], \"b\": {\"a\": 12345678901234567890123}}",
        ] {
            assert_eq!(repeated(fine.as_bytes()), None, "{fine}");
        }
        for twice in ["{\"a\": 1, \"a\": 1}", "[{\"b\": {\"x\": 1, \"a\": 1, \"\\u0061\": 2}}]"] {
            let said = repeated(twice.as_bytes()).unwrap();
            assert!(said.contains("\"a\" stands twice at line 1"), "{said}");
        }
    }
}
