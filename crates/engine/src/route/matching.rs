// SPDX-License-Identifier: Apache-2.0
//! One match: conditions on path, method, headers and query that must all hold, and its rank among
//! other matches. Values that can't be read (not UTF-8, repeated) fit only what they literally equal.

use byrnie_base::Text;
use byrnie_codec::Head;
use byrnie_model::route::{Match, NamedMatch, PathMatch, ValueMatch};
use regex::bytes::{Regex, RegexBuilder};
use std::borrow::Cow;

/// Most memory of one compiled regular expression, in bytes.
const REGEX_BYTES_MAX: usize = 1 << 20;

/// Conditions that must all hold.
#[derive(Debug)]
pub(crate) struct CompiledMatch {
    path: PathTest,
    method: Option<Text>,
    headers: Box<[ValueTest]>,
    query: Box<[ValueTest]>,
}

#[derive(Debug)]
pub(crate) enum PathTest {
    Exact(Text),
    Prefix(Text),
    Regex(Regex),
    /// On the two segments of a gRPC call.
    Grpc {
        service: Option<Expected>,
        method: Option<Expected>,
    },
}

#[derive(Debug)]
struct ValueTest {
    name: Text,
    expected: Expected,
}

#[derive(Debug)]
pub(crate) enum Expected {
    Exact(Text),
    Regex(Regex),
}

/// Which condition a request does not meet, and what was asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Miss<'a> {
    Path(&'a PathTest),
    Method(&'a Text),
    Header(&'a Text),
    Query(&'a Text),
}

impl std::fmt::Display for Miss<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Path(path) => write!(f, "the path is not {path}"),
            Self::Method(method) => write!(f, "the method is not {method}"),
            Self::Header(name) => write!(f, "header {name} has another value or is absent"),
            Self::Query(name) => write!(f, "query parameter {name} has another value or is absent"),
        }
    }
}

/// Which of two matches comes first: the greater one
/// (<https://gateway-api.sigs.k8s.io/reference/spec/#httprouterule>). Where Gateway API leaves the
/// place of regular expressions open: after every prefix but `/`, which is no condition at all, and of gRPC's after exact names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Rank {
    path_class: u8,
    /// Of a gRPC match: of the service, as is the class.
    path_len: usize,
    /// Of the gRPC method; else 0.
    method_class: u8,
    method_len: usize,
    method: bool,
    headers: usize,
    query: usize,
}

impl CompiledMatch {
    /// Compiles a match.
    pub(crate) fn new(m: &Match) -> Result<Self, String> {
        let path = match &m.path {
            PathMatch::Exact(path) => PathTest::Exact(path.clone()),
            PathMatch::Prefix(path) => PathTest::Prefix(path.clone()),
            PathMatch::Regex(pattern) => PathTest::Regex(regex(pattern)?),
            PathMatch::Grpc { service, method } => PathTest::Grpc {
                service: service.as_ref().map(Expected::new).transpose()?,
                method: method.as_ref().map(Expected::new).transpose()?,
            },
        };
        let tests = |list: &[NamedMatch]| list.iter().map(ValueTest::new).collect::<Result<Box<[_]>, _>>();
        Ok(Self { path, method: m.method.clone(), headers: tests(&m.headers)?, query: tests(&m.query)? })
    }

    /// Its place among others.
    pub(crate) fn rank(&self) -> Rank {
        let word = |expected: &Option<Expected>| expected.as_ref().map_or((0, 0), Expected::rank);
        let none = (0, 0);
        let ((path_class, path_len), (method_class, method_len)) = match &self.path {
            PathTest::Exact(path) => ((3, path.len()), none),
            PathTest::Prefix(path) if path.len() > 1 => ((2, path.len()), none),
            PathTest::Regex(regex) => ((1, pattern_len(regex)), none),
            PathTest::Prefix(_) => (none, none),
            PathTest::Grpc { service, method } => (word(service), word(method)),
        };
        let (headers, query) = (self.headers.len(), self.query.len());
        Rank { path_class, path_len, method_class, method_len, method: self.method.is_some(), headers, query }
    }

    /// The prefix that the path fits, if it's a prefix match.
    pub(crate) fn prefix(&self) -> Option<&str> {
        match &self.path {
            PathTest::Prefix(path) => Some(path),
            PathTest::Exact(_) | PathTest::Regex(_) | PathTest::Grpc { .. } => None,
        }
    }

    /// How paths begin that it may fit.
    pub(crate) fn lead(&self) -> Lead {
        match &self.path {
            PathTest::Exact(path) => Lead::of(path),
            PathTest::Prefix(prefix) => Lead::of(whole_segments(prefix)),
            PathTest::Regex(_) | PathTest::Grpc { .. } => Lead::of(""),
        }
    }

    /// The first condition that `head` does not meet; `None` if it meets all.
    pub(crate) fn miss(&self, head: &Head) -> Option<Miss<'_>> {
        if !self.path.fits(head.path()) {
            return Some(Miss::Path(&self.path));
        }
        if let Some(method) = self.method.as_ref().filter(|method| method.as_str() != head.method()) {
            return Some(Miss::Method(method));
        }
        if let Some(test) = self.headers.iter().find(|test| !test.fits_header(head)) {
            return Some(Miss::Header(&test.name));
        }
        let query = head.query().unwrap_or_default();
        self.query.iter().find(|test| !test.fits_query(query)).map(|test| Miss::Query(&test.name))
    }
}

/// The first bytes of paths, as one word: by them most matches of a table are passed over without another look.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lead {
    word: u64,
    mask: u64,
}

impl Lead {
    /// Of those that begin by `start`.
    fn of(start: &str) -> Self {
        let mask = [u8::MAX; 8].iter().take(start.len()).fold(0, |mask, _| mask << 8 | 0xff);
        Self { word: Self::word(start), mask }
    }

    /// The first bytes of `path`, with zeros for those that it lacks.
    pub(crate) fn word(path: &str) -> u64 {
        match path.as_bytes().first_chunk() {
            Some(first) => u64::from_le_bytes(*first),
            None => path.bytes().rev().fold(0, |word, byte| word << 8 | u64::from(byte)),
        }
    }

    /// Whether a path may fit of which this is the [`Lead::word`].
    pub(crate) const fn fits(self, word: u64) -> bool {
        word & self.mask == self.word
    }
}

impl PathTest {
    fn fits(&self, path: &str) -> bool {
        match self {
            Self::Exact(exact) => exact.as_str() == path,
            Self::Prefix(prefix) => has_prefix(path, prefix),
            Self::Regex(regex) => regex.is_match(path.as_bytes()),
            Self::Grpc { service, method } => {
                let call = path.strip_prefix('/').and_then(|call| call.split_once('/'));
                let fits = |expected: &Option<Expected>, word: &str| {
                    expected.as_ref().is_none_or(|expected| expected.fits(word.as_bytes()))
                };
                call.is_some_and(|(s, m)| !m.contains('/') && fits(service, s) && fits(method, m))
            }
        }
    }
}

impl std::fmt::Display for PathTest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Exact(path) => write!(f, "exactly {path}"),
            Self::Prefix(path) => write!(f, "{path} or below"),
            Self::Regex(regex) => write!(f, "like {}", pattern(regex)),
            Self::Grpc { service, method } => {
                let word = |expected: &Option<Expected>| expected.as_ref().map_or("*".to_owned(), ToString::to_string);
                write!(f, "/{}/{}", word(service), word(method))
            }
        }
    }
}

/// A regular expression as it was written.
fn pattern(regex: &Regex) -> &str {
    let whole = regex.as_str();
    whole.strip_prefix(r"\A(?:").and_then(|rest| rest.strip_suffix(r")\z")).unwrap_or(whole)
}

fn pattern_len(regex: &Regex) -> usize {
    pattern(regex).len()
}

impl std::fmt::Display for Expected {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Exact(text) => f.write_str(text),
            Self::Regex(regex) => f.write_str(pattern(regex)),
        }
    }
}

/// Whether whole segments at the beginning of `path` are `prefix`.
pub(crate) fn has_prefix(path: &str, prefix: &str) -> bool {
    path.strip_prefix(whole_segments(prefix)).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn whole_segments(prefix: &str) -> &str {
    prefix.strip_suffix('/').unwrap_or(prefix)
}

impl ValueTest {
    fn new(m: &NamedMatch) -> Result<Self, String> {
        Ok(Self { name: m.name.clone(), expected: Expected::new(&m.value)? })
    }

    /// A header that is repeated counts as one value joined by commas (RFC 9110 5.3).
    fn fits_header(&self, head: &Head) -> bool {
        let mut values = head.values(&self.name);
        let Some(first) = values.next() else { return false };
        let Some(second) = values.next() else { return self.expected.fits(first) };
        let mut joined = first.to_vec();
        for value in std::iter::once(second).chain(values) {
            joined.push(b',');
            joined.extend_from_slice(value);
        }
        self.expected.fits(&joined)
    }

    /// The first parameter of the name counts.
    fn fits_query(&self, query: &str) -> bool {
        let mut pairs = query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
        let found = pairs.find(|(name, _)| *decode(name) == *self.name.as_bytes());
        found.is_some_and(|(_, value)| self.expected.fits(&decode(value)))
    }
}

impl Expected {
    fn new(value: &ValueMatch) -> Result<Self, String> {
        Ok(match value {
            ValueMatch::Exact(value) => Self::Exact(value.clone()),
            ValueMatch::Regex(pattern) => Self::Regex(regex(pattern)?),
        })
    }

    /// Its class and the characters written: how long a pattern is says nothing of how much it fits.
    fn rank(&self) -> (u8, usize) {
        match self {
            Self::Exact(text) => (2, text.len()),
            Self::Regex(regex) => (1, pattern_len(regex)),
        }
    }

    fn fits(&self, value: &[u8]) -> bool {
        match self {
            Self::Exact(exact) => exact.as_bytes() == value,
            Self::Regex(regex) => regex.is_match(value),
        }
    }
}

/// A name or value of a query (`application/x-www-form-urlencoded`); what isn't an escape stands for itself.
fn decode(text: &str) -> Cow<'_, [u8]> {
    let bytes = text.as_bytes();
    if !bytes.iter().any(|b| matches!(b, b'%' | b'+')) {
        return Cow::Borrowed(bytes);
    }
    let hex = |at: usize| bytes.get(at).and_then(|b| char::from(*b).to_digit(16)).and_then(|d| u8::try_from(d).ok());
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let (byte, used) = match bytes[at] {
            b'+' => (b' ', 1),
            b'%' => match (hex(at + 1), hex(at + 2)) {
                (Some(high), Some(low)) => (high << 4 | low, 3),
                _ => (b'%', 1),
            },
            byte => (byte, 1),
        };
        decoded.push(byte);
        at += used;
    }
    Cow::Owned(decoded)
}

/// A regular expression over the whole value. Bytes, not characters: no value can make it fail open.
fn regex(pattern: &str) -> Result<Regex, String> {
    let build = |text: &str| RegexBuilder::new(text).unicode(false).size_limit(REGEX_BYTES_MAX).build();
    // By itself first: a pattern like `a)|(b` must not escape from the group around it.
    let whole = build(pattern).and_then(|_| build(&format!(r"\A(?:{pattern})\z")));
    whole.map_err(|_| format!("the regular expression {pattern:?} is malformed or too large"))
}
