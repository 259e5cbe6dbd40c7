// SPDX-License-Identifier: Apache-2.0
//! Header lines and names that configuration asks for: checked and looked up once, when it's compiled, and not for each
//! head that they are written to or dropped from.

use crate::fields::Fields;
use crate::head::Head;
use crate::known::Known;
use crate::reject::Reject;

/// A header line that is well formed.
#[derive(Clone, Debug)]
pub struct ReadyLine {
    name: ReadyName,
    /// `name: value CRLF`.
    bytes: Box<[u8]>,
}

/// A header name whose id has been found.
#[derive(Clone, Debug)]
pub struct ReadyName {
    known: Known,
    text: Box<str>,
}

impl ReadyName {
    /// The name, in any case.
    pub fn new(name: &str) -> Self {
        Self { known: Known::of(name.as_bytes()), text: name.into() }
    }
}

impl ReadyLine {
    /// The line, or `None` if [`Head::append`] would refuse it, or make something else of it than a line: then it's to be
    /// asked each time.
    pub fn new(name: &str, value: &[u8]) -> Option<Self> {
        let mut head = Head::new();
        head.append(name, value).ok()?;
        let bytes = head.fields.emitted();
        Some(Self { name: ReadyName::new(name), bytes: bytes.into() }).filter(|line| !line.bytes.is_empty())
    }

    /// Its name.
    pub(crate) fn name(&self) -> &ReadyName {
        &self.name
    }

    /// All of it, with the length of its name.
    pub(crate) fn parts(&self) -> (Known, usize, &[u8]) {
        (self.name.known, self.name.text.len(), &self.bytes)
    }
}

impl Head {
    /// Appends a line, as [`Head::append`].
    ///
    /// # Errors
    /// If the head grows too large.
    pub fn append_ready(&mut self, line: &ReadyLine) -> Result<(), Reject> {
        Ok(self.fields.push_ready(line)?)
    }

    /// Replaces all lines of the name by this one, as [`Head::set`].
    ///
    /// # Errors
    /// As [`Head::append_ready`].
    pub fn set_ready(&mut self, line: &ReadyLine) -> Result<(), Reject> {
        self.remove_ready(line.name());
        self.append_ready(line)
    }

    /// Drops all lines of the name, as [`Head::remove`].
    pub fn remove_ready(&mut self, name: &ReadyName) {
        self.fields.remove_as(name.known, &name.text);
    }
}

impl Fields {
    fn emitted(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.emit(&mut bytes, |_| false);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::h1::emit_request;

    fn written(edit: impl Fn(&mut Head)) -> String {
        let mut head = Head::new();
        head.start_request("GET", "http", "shop.test", "/").unwrap();
        for (name, value) in [("Server", "a"), ("X-Old", "b"), ("accept", "c"), ("x-old", "d")] {
            head.append(name, value.as_bytes()).unwrap();
        }
        edit(&mut head);
        let mut bytes = Vec::new();
        emit_request(&head, &mut bytes);
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn a_ready_line_does_what_the_same_words_do() {
        for (name, value) in
            [("x-old", "1"), ("X-New", " padded "), ("server", "2"), ("cookie", "a=b"), ("x-empty", "")]
        {
            let line = ReadyLine::new(name, value.as_bytes()).unwrap();
            let appended = written(|head| head.append(name, value.as_bytes()).unwrap());
            assert_eq!(written(|head| head.append_ready(&line).unwrap()), appended);
            let set = written(|head| head.set(name, value.as_bytes()).unwrap());
            assert_eq!(written(|head| head.set_ready(&line).unwrap()), set);
            let removed = written(|head| head.remove(&name.to_lowercase()));
            assert_eq!(written(|head| head.remove_ready(&ReadyName::new(name))), removed);
        }
    }

    #[test]
    fn what_is_more_than_a_line_or_none_is_never_ready() {
        for (name, value) in [
            ("host", "other.test"),
            ("content-length", "5"),
            ("connection", "close"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "h2c"),
            ("bad name", "1"),
            ("", "1"),
            ("x-bad", "a\nb"),
        ] {
            assert!(ReadyLine::new(name, value.as_bytes()).is_none(), "{name}");
        }
    }
}
