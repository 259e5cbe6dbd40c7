// SPDX-License-Identifier: Apache-2.0
//! From a tree to a type, strictly: a field that the type doesn't have is a fault with its place and
//! the name that was probably meant, for our own types and for those of others, which would drop it.

use super::node::{Node, Raw, Span};
use crate::code::{self, Code};
use crate::diagnostic::nearest;
use serde::de::{self, DeserializeSeed, IntoDeserializer, Unexpected, Visitor};
use std::cell::RefCell;
use std::fmt;

/// What is wrong with a value. Becomes a diagnostic once the document is known.
#[derive(Clone, Debug)]
pub(crate) struct Fault {
    pub(crate) code: &'static Code,
    pub(crate) path: String,
    pub(crate) span: Option<Span>,
    pub(crate) message: String,
    /// Instead of the registry's.
    pub(crate) fix: Option<String>,
}

impl Fault {
    pub(crate) fn new(code: &'static Code, path: impl Into<String>, message: impl Into<String>) -> Self {
        Self { code, path: path.into(), span: None, message: message.into(), fix: None }
    }

    /// The same with a fix of its own.
    pub(crate) fn fixed(mut self, fix: impl Into<String>) -> Self {
        self.fix = Some(fix.into());
        self
    }

    fn bare(code: &'static Code, message: String) -> Self {
        Self::new(code, "", message)
    }

    /// Places a fault that has no place yet.
    fn or_at(mut self, trail: &Trail<'_>, span: Span) -> Self {
        if self.span.is_none() {
            self.span = Some(span);
            self.path = trail.to_string();
        }
        self
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Fault {}

impl de::Error for Fault {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::bare(&code::BAD_VALUE, message.to_string())
    }

    fn invalid_type(found: Unexpected<'_>, wanted: &dyn de::Expected) -> Self {
        Self::bare(&code::WRONG_TYPE, format!("expected {}, found {}", words(wanted), describe(found)))
    }

    fn invalid_value(found: Unexpected<'_>, wanted: &dyn de::Expected) -> Self {
        Self::bare(&code::BAD_VALUE, format!("expected {}, found {}", words(wanted), describe(found)))
    }

    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> Self {
        let meant = nearest(variant, expected.iter().copied()).map(|m| format!("; did you mean \"{m}\"?"));
        let list = expected.join(", ");
        Self::bare(&code::BAD_VALUE, format!("\"{variant}\" is none of {list}{}", meant.unwrap_or_default()))
    }

    fn unknown_field(field: &str, expected: &'static [&'static str]) -> Self {
        let meant = nearest(field, expected.iter().copied());
        let mut fault = Self::bare(&code::UNKNOWN_FIELD, format!("unknown field \"{field}\""));
        if let Some(meant) = meant {
            fault.message.push_str(&format!("; did you mean \"{meant}\"?"));
            fault.fix = Some(format!("Write \"{meant}\", or remove the field."));
        } else if !expected.is_empty() {
            fault.fix = Some(format!("Remove it. The fields here are: {}.", expected.join(", ")));
        }
        fault
    }

    fn missing_field(field: &'static str) -> Self {
        Self::bare(&code::MISSING_FIELD, format!("the field \"{field}\" is missing"))
    }
}

/// What serde's own types expect, in words.
fn words(wanted: &dyn de::Expected) -> String {
    let text = wanted.to_string();
    match text.as_str() {
        "u8" => "a whole number from 0 to 255".to_owned(),
        "u16" => "a whole number from 0 to 65535".to_owned(),
        "u32" => "a whole number from 0 to 4294967295".to_owned(),
        "i32" | "i64" | "u64" => "a whole number".to_owned(),
        "a boolean" => "true or false".to_owned(),
        "a sequence" => "a list".to_owned(),
        "a map" => "a mapping".to_owned(),
        "a string" => "text".to_owned(),
        _ if text.starts_with("struct ") => "a mapping".to_owned(),
        _ => text,
    }
}

fn describe(found: Unexpected<'_>) -> String {
    match found {
        Unexpected::Bool(value) => format!("{value} (quote it if text is meant)"),
        Unexpected::Unsigned(value) => format!("the number {value}"),
        Unexpected::Signed(value) => format!("the number {value}"),
        Unexpected::Float(value) => format!("the number {value}"),
        Unexpected::Str(text) => format!("the text \"{}\"", text.chars().take(60).collect::<String>()),
        Unexpected::Unit | Unexpected::Option => "nothing".to_owned(),
        Unexpected::Seq => "a list".to_owned(),
        Unexpected::Map | Unexpected::StructVariant | Unexpected::NewtypeStruct => "a mapping".to_owned(),
        other => other.to_string(),
    }
}

/// The way from the document's root to a value.
#[derive(Clone, Copy)]
struct Trail<'a> {
    parent: Option<&'a Trail<'a>>,
    step: Step<'a>,
}

#[derive(Clone, Copy)]
enum Step<'a> {
    Field(&'a str),
    Index(usize),
}

impl fmt::Display for Trail<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(parent) = self.parent {
            fmt::Display::fmt(parent, f)?;
        }
        match self.step {
            Step::Index(index) => write!(f, "[{index}]"),
            Step::Field(name) if name.contains(['.', '[']) => write!(f, "[\"{name}\"]"),
            Step::Field(name) if self.parent.is_some() => write!(f, ".{name}"),
            Step::Field(name) => f.write_str(name),
        }
    }
}

/// Reads the value at `name` of the document as a `T`; what is wrong is added to `faults`.
/// `shown` is where faults of the value as a whole are shown.
pub(crate) fn read<T: de::DeserializeOwned>(
    node: &Node,
    name: &str,
    shown: Span,
    faults: &mut Vec<Fault>,
) -> Option<T> {
    let unknown = RefCell::new(Vec::new());
    let trail = Trail { parent: None, step: Step::Field(name) };
    let result = T::deserialize(De { node, shown, trail, unknown: &unknown });
    faults.append(&mut unknown.into_inner());
    match result {
        Ok(value) => Some(value),
        Err(fault) => {
            faults.push(fault.or_at(&trail, shown));
            None
        }
    }
}

#[derive(Clone, Copy)]
struct De<'a> {
    node: &'a Node,
    /// Mappings and lists are best shown by their key.
    shown: Span,
    trail: Trail<'a>,
    /// Fields that the types don't have: noted and passed over, so that all are reported at once.
    unknown: &'a RefCell<Vec<Fault>>,
}

impl<'a> De<'a> {
    fn visit<'de, V: Visitor<'de>>(
        self,
        fields: Option<&'static [&'static str]>,
        visitor: V,
    ) -> Result<V::Value, Fault> {
        let result = match &self.node.value {
            Raw::Null => visitor.visit_unit(),
            Raw::Bool(value) => visitor.visit_bool(*value),
            Raw::Int(value) => match (i64::try_from(*value), u64::try_from(*value)) {
                (Ok(int), _) => visitor.visit_i64(int),
                (Err(_), Ok(int)) => visitor.visit_u64(int),
                (Err(_), Err(_)) => Err(de::Error::custom("the number is too large")),
            },
            Raw::Float(value) => visitor.visit_f64(*value),
            Raw::String(text) => visitor.visit_str(text),
            Raw::List(items) => visitor.visit_seq(Items { de: self, items, next: 0 }),
            Raw::Map(map) => visitor.visit_map(Fields { de: self, map, next: 0, fields }),
        };
        result.map_err(|fault| fault.or_at(&self.trail, self.shown))
    }
}

impl<'de> de::Deserializer<'de> for De<'_> {
    type Error = Fault;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.visit(None, visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        if self.node.value == Raw::Null { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        if let Raw::List(_) = self.node.value {
            let fault: Fault = de::Error::invalid_type(Unexpected::Seq, &"a mapping");
            return Err(fault.or_at(&self.trail, self.shown));
        }
        self.visit(Some(fields), visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        let result = match &self.node.value {
            Raw::String(text) => visitor.visit_enum(text.as_str().into_deserializer()),
            _ => self.visit(None, TextOnly).map(|never| match never {}),
        };
        result.map_err(|fault: Fault| fault.or_at(&self.trail, self.shown))
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_unit()
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct
        seq tuple tuple_struct map identifier
    }
}

/// Refuses everything, saying that text is wanted.
struct TextOnly;

enum Never {}

impl Visitor<'_> for TextOnly {
    type Value = Never;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }
}

struct Items<'a> {
    de: De<'a>,
    items: &'a [Node],
    next: usize,
}

impl<'de> de::SeqAccess<'de> for Items<'_> {
    type Error = Fault;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Fault> {
        let Some(node) = self.items.get(self.next) else { return Ok(None) };
        let trail = Trail { parent: Some(&self.de.trail), step: Step::Index(self.next) };
        self.next += 1;
        let de = De { node, shown: node.span, trail, unknown: self.de.unknown };
        seed.deserialize(de).map(Some).map_err(|f| f.or_at(&trail, node.span))
    }
}

struct Fields<'a> {
    de: De<'a>,
    map: &'a [(super::node::Name, Node)],
    next: usize,
    /// The fields of the type, if it's one with fixed fields.
    fields: Option<&'static [&'static str]>,
}

impl<'de> de::MapAccess<'de> for Fields<'_> {
    type Error = Fault;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Fault> {
        while let Some((name, _)) = self.map.get(self.next) {
            let trail = Trail { parent: Some(&self.de.trail), step: Step::Field(&name.text) };
            if let Some(fields) = self.fields.filter(|fields| !fields.contains(&name.text.as_str())) {
                let fault: Fault = de::Error::unknown_field(&name.text, fields);
                self.de.unknown.borrow_mut().push(fault.or_at(&trail, name.span));
                self.next += 1;
                continue;
            }
            let key = seed.deserialize(name.text.as_str().into_deserializer());
            return key.map(Some).map_err(|fault: Fault| fault.or_at(&trail, name.span));
        }
        Ok(None)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Fault> {
        let Some((name, node)) = self.map.get(self.next) else { return Err(de::Error::custom("value without key")) };
        self.next += 1;
        let trail = Trail { parent: Some(&self.de.trail), step: Step::Field(&name.text) };
        let shown = if matches!(node.value, Raw::Map(_) | Raw::List(_)) { name.span } else { node.span };
        let result = seed.deserialize(De { node, shown, trail, unknown: self.de.unknown });
        result.map_err(|fault| fault.or_at(&trail, shown))
    }
}
