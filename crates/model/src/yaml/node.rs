// SPDX-License-Identifier: Apache-2.0
//! A document as a tree in which every value knows where it stands. Read from YAML (of which JSON is
//! a part) or made from a JSON value, which has no places.

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use std::fmt;

/// A place in the text; all zero if there's none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) line: u32,
    pub(crate) column: u32,
    pub(crate) width: u32,
}

impl Span {
    /// The same place, behind so many lines and, on the first, so many characters.
    pub(super) fn behind(self, (lines, characters): (u32, u32)) -> Self {
        match self.line {
            0 => self,
            1 => Self { line: lines.saturating_add(1), column: self.column.saturating_add(characters), ..self },
            line => Self { line: line.saturating_add(lines), ..self },
        }
    }
}

/// A value and its place.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Node {
    pub(crate) span: Span,
    pub(crate) value: Raw,
}

/// A value.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Raw {
    Null,
    Bool(bool),
    /// Any integer that fits 64 bits, signed or not.
    Int(i128),
    Float(f64),
    String(String),
    List(Vec<Node>),
    Map(Vec<(Name, Node)>),
}

/// The key of a mapping and its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Name {
    pub(crate) text: String,
    pub(crate) span: Span,
}

/// Deepest nesting accepted. Gateway API needs 12.
pub(crate) const DEPTH_MAX: usize = 32;

impl Node {
    /// The value of a key; `None` also if this isn't a mapping.
    pub(crate) fn field(&self, name: &str) -> Option<&Self> {
        let Raw::Map(fields) = &self.value else { return None };
        fields.iter().find(|(key, _)| key.text == name).map(|(_, value)| value)
    }

    /// The characters, if it's text.
    pub(crate) fn text(&self) -> Option<&str> {
        if let Raw::String(text) = &self.value { Some(text) } else { None }
    }

    /// The place of a path such as `spec.rules[0].name`, or of as much of it as exists: then the place
    /// of the last key on the way.
    pub(crate) fn locate(&self, path: &str) -> Span {
        let (mut node, mut span) = (self, self.span);
        for segment in segments(path) {
            let next = match (&node.value, segment) {
                (Raw::Map(fields), Segment::Field(name)) => fields.iter().find(|(key, _)| key.text == name),
                (Raw::List(items), Segment::Index(index)) => match items.get(index) {
                    Some(item) => {
                        (node, span) = (item, item.span);
                        continue;
                    }
                    None => None,
                },
                _ => None,
            };
            let Some((key, value)) = next else { return span };
            node = value;
            // A mapping or a list is best shown by its key, a scalar by itself.
            span = if matches!(value.value, Raw::Map(_) | Raw::List(_) | Raw::Null) { key.span } else { value.span };
        }
        span
    }

    /// How many values this is.
    pub(super) fn count(&self) -> usize {
        1 + match &self.value {
            Raw::List(items) => items.iter().map(Self::count).sum(),
            Raw::Map(fields) => fields.iter().map(|(_, value)| value.count()).sum(),
            Raw::Null | Raw::Bool(_) | Raw::Int(_) | Raw::Float(_) | Raw::String(_) => 0,
        }
    }

    /// The same, behind so many lines and, on the first, so many characters.
    pub(super) fn behind(mut self, at: (u32, u32)) -> Self {
        self.span = self.span.behind(at);
        match &mut self.value {
            Raw::List(items) => *items = std::mem::take(items).into_iter().map(|item| item.behind(at)).collect(),
            Raw::Map(fields) => {
                for (name, value) in fields {
                    name.span = name.span.behind(at);
                    let inner = std::mem::replace(value, Self { span: Span::default(), value: Raw::Null });
                    *value = inner.behind(at);
                }
            }
            Raw::Null | Raw::Bool(_) | Raw::Int(_) | Raw::Float(_) | Raw::String(_) => {}
        }
        self
    }

    /// Whether a path exists in full.
    pub(crate) fn has(&self, path: &str) -> bool {
        let mut node = self;
        for segment in segments(path) {
            let next = match (&node.value, segment) {
                (Raw::Map(_), Segment::Field(name)) => node.field(name),
                (Raw::List(items), Segment::Index(index)) => items.get(index),
                _ => None,
            };
            let Some(next) = next else { return false };
            node = next;
        }
        true
    }

    /// The tree of a JSON value; `None` if it's nested too deeply.
    pub(crate) fn from_json(value: &serde_json::Value, depth_left: usize) -> Option<Self> {
        use serde_json::Value;
        let deeper = depth_left.checked_sub(1)?;
        let value = match value {
            Value::Null => Raw::Null,
            Value::Bool(value) => Raw::Bool(*value),
            Value::Number(number) => match (number.as_i64(), number.as_u64()) {
                (Some(int), _) => Raw::Int(int.into()),
                (None, Some(int)) => Raw::Int(int.into()),
                (None, None) => Raw::Float(number.as_f64().unwrap_or(f64::NAN)),
            },
            Value::String(text) => Raw::String(text.clone()),
            Value::Array(items) => {
                Raw::List(items.iter().map(|item| Self::from_json(item, deeper)).collect::<Option<_>>()?)
            }
            Value::Object(fields) => Raw::Map(
                fields
                    .iter()
                    .map(|(key, value)| {
                        let name = Name { text: key.clone(), span: Span::default() };
                        Some((name, Self::from_json(value, deeper)?))
                    })
                    .collect::<Option<_>>()?,
            ),
        };
        Some(Self { span: Span::default(), value })
    }
}

enum Segment<'a> {
    Field(&'a str),
    Index(usize),
}

/// The steps of a path: `a.b[0]["c.d"]`.
fn segments(path: &str) -> impl Iterator<Item = Segment<'_>> {
    let mut rest = path;
    std::iter::from_fn(move || {
        rest = rest.strip_prefix('.').unwrap_or(rest);
        if rest.is_empty() {
            return None;
        }
        if let Some(quoted) = rest.strip_prefix("[\"") {
            let (name, after) = quoted.split_once("\"]").unwrap_or((quoted, ""));
            rest = after;
            return Some(Segment::Field(name));
        }
        if let Some(indexed) = rest.strip_prefix('[') {
            let (index, after) = indexed.split_once(']').unwrap_or((indexed, ""));
            rest = after;
            return Some(Segment::Index(index.parse().unwrap_or(usize::MAX)));
        }
        let end = rest.find(['.', '[']).unwrap_or(rest.len());
        let (name, after) = rest.split_at(end);
        rest = after;
        Some(Segment::Field(name))
    })
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = serde_saphyr::Spanned::<Raw>::deserialize(deserializer)?;
        let mut span = place(&spanned.referenced);
        // A mapping in block style begins with its first key.
        if let Raw::Map(fields) = &spanned.value
            && let Some((first, _)) = fields.first()
            && (first.span.line, first.span.column) == (span.line, span.column)
        {
            span = first.span;
        }
        Ok(Self { span, value: spanned.value })
    }
}

/// The place as this module counts it.
pub(crate) fn place(at: &serde_saphyr::Location) -> Span {
    let fit = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
    Span { line: fit(at.line()), column: fit(at.column()), width: fit(at.span().len()).max(1) }
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(RawVisitor)
    }
}

struct RawVisitor;

impl<'de> Visitor<'de> for RawVisitor {
    type Value = Raw;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E: Error>(self) -> Result<Raw, E> {
        Ok(Raw::Null)
    }

    fn visit_none<E: Error>(self) -> Result<Raw, E> {
        Ok(Raw::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Raw, D::Error> {
        Raw::deserialize(deserializer)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Raw, E> {
        Ok(Raw::Bool(value))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Raw, E> {
        Ok(Raw::Int(value.into()))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Raw, E> {
        Ok(Raw::Int(value.into()))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Raw, E> {
        Ok(Raw::Float(value))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Raw, E> {
        Ok(Raw::String(value.to_owned()))
    }

    fn visit_string<E: Error>(self, value: String) -> Result<Raw, E> {
        Ok(Raw::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Raw, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Raw::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Raw, A::Error> {
        let mut map = Vec::new();
        while let Some(key) = fields.next_key::<Node>()? {
            let Raw::String(text) = key.value else {
                return Err(A::Error::custom("a key of a mapping must be text"));
            };
            map.push((Name { text, span: key.span }, fields.next_value()?));
        }
        Ok(Raw::Map(map))
    }
}
