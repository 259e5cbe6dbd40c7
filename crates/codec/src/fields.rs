// SPDX-License-Identifier: Apache-2.0
//! Header lines in one arena of bytes. Heads and trailer sections hold their lines here. Every line
//! is stored as `name: value CRLF`, so that emitting is copying runs of kept lines, and editing is
//! marking lines dropped and appending others. A cleared arena keeps its memory.

use crate::Limits;
use crate::known::Known;
use crate::ready::ReadyLine;
use crate::reject::RejectReason;
use std::ops::Range;

/// Most bytes of one arena, edits included. Far above any head limit: it bounds what edits can add.
const ARENA_BYTES_MAX: usize = 1024 * 1024;
/// Most lines of one arena, dropped ones included.
const LINES_MAX: usize = 1024;

/// An ordered list of header lines.
#[derive(Clone, Debug, Default)]
pub struct Fields {
    bytes: Vec<u8>,
    lines: Vec<Line>,
    /// The known names that have ever had a line here, a bit each: most questions end at it.
    present: u128,
    /// How many lines came with the section that was taken; they stand first.
    received: u32,
}

/// One line: `bytes[start..end]` is `name: value CRLF`.
#[derive(Clone, Copy, Debug)]
struct Line {
    start: u32,
    end: u32,
    name_len: u16,
    known: Known,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Kept,
    /// Held as typed state elsewhere: neither listed nor emitted, but its value can still be asked for by id.
    Typed,
    Dropped,
}

impl Fields {
    /// No lines.
    pub fn new() -> Self {
        Self::default()
    }

    /// Forgets all lines and keeps the memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.lines.clear();
        (self.present, self.received) = (0, 0);
    }

    /// True if no line is kept.
    pub fn is_empty(&self) -> bool {
        self.kept().next().is_none()
    }

    /// Whether there are more than `most` lines. Those of one cookie, which HTTP/2 sends in crumbs (RFC 9113 8.2.3), are one, but
    /// leave room for what proxies add.
    pub(crate) fn exceeds(&self, most: usize) -> bool {
        let is_crumb = |line: &&Line| line.known == Known::Cookie;
        self.lines.len() > LINES_MAX / 2
            || self.lines.len() > most && {
                let crumbs = self.lines.iter().filter(is_crumb).count();
                self.lines.len() - crumbs.saturating_sub(1) > most
            }
    }

    /// Whether they are no more than a trailer section may have, as it is written in HTTP/1: lines, names and, with the empty line at
    /// its end, bytes.
    ///
    /// # Errors
    /// If they are more.
    pub(crate) fn check_trailers(&self, limits: &Limits) -> Result<(), RejectReason> {
        const END: usize = b"\r\n".len();
        if self.lines.len() > limits.trailers_max || self.bytes.len() + END > limits.trailer_bytes_max {
            return Err(RejectReason::TrailersTooLarge);
        }
        if self.names().any(|name| name.len() > limits.name_bytes_max) {
            return Err(RejectReason::HeaderNameTooLong);
        }
        Ok(())
    }

    /// The kept lines as (name as received, value), in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.kept().map(|line| (self.name(line), self.value(line)))
    }

    /// The names of all lines, typed ones too.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.lines.iter().map(|line| self.name(line))
    }

    /// As [`Fields::iter`], with the ids of the names.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (Known, &[u8], &[u8])> {
        self.kept().map(|line| {
            let start = line.start as usize;
            (line.known, &self.bytes[start..start + usize::from(line.name_len)], self.value(line))
        })
    }

    /// The first kept value of `name` (any case).
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        let known = Known::of(name.as_bytes());
        if !self.has(known) {
            return None;
        }
        self.kept().find(|line| self.matches(line, known, name)).map(|line| self.value(line))
    }

    /// The kept values of `name` (any case), in order.
    pub fn values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        let known = Known::of(name.as_bytes());
        let lines = if self.has(known) { self.lines.as_slice() } else { &[] };
        lines
            .iter()
            .filter(move |line| line.state == State::Kept && self.matches(line, known, name))
            .map(|line| self.value(line))
    }

    /// The first kept value of a known name.
    pub fn known(&self, known: Known) -> Option<&[u8]> {
        if !self.has(known) {
            return None;
        }
        self.kept().find(|line| line.known == known).map(|line| self.value(line))
    }

    /// Appends a line.
    ///
    /// # Errors
    /// If the name isn't a token, the value holds a control character, or the arena is full.
    pub fn append(&mut self, name: &str, value: &[u8]) -> Result<(), RejectReason> {
        self.append_as(Known::of(name.as_bytes()), name, value)
    }

    /// As [`Fields::append`], of a name whose id has been found already.
    pub(crate) fn append_as(&mut self, known: Known, name: &str, value: &[u8]) -> Result<(), RejectReason> {
        // What has an id is one of a list of tokens.
        if known == Known::Other && (name.is_empty() || !name.bytes().all(is_token_byte)) {
            return Err(RejectReason::HeaderName);
        }
        // Without an early end, so that many bytes are looked at by one instruction.
        if !value.iter().fold(true, |fine, byte| fine & is_value_byte(*byte)) {
            return Err(RejectReason::HeaderValue);
        }
        self.push(name.as_bytes(), value.trim_ascii(), known)
    }

    /// Drops the kept lines named `name` (any case).
    pub fn remove(&mut self, name: &str) {
        self.remove_as(Known::of(name.as_bytes()), name);
    }

    /// As [`Fields::remove`], of a name whose id has been found already.
    pub(crate) fn remove_as(&mut self, known: Known, name: &str) {
        if known != Known::Other {
            return self.remove_known(known);
        }
        let bytes = &self.bytes;
        for line in self.lines.iter_mut().filter(|line| line.state == State::Kept && line.known == known) {
            let start = line.start as usize;
            if bytes[start..start + usize::from(line.name_len)].eq_ignore_ascii_case(name.as_bytes()) {
                line.state = State::Dropped;
            }
        }
    }

    /// Drops the kept lines of a known name.
    pub fn remove_known(&mut self, known: Known) {
        if !self.has(known) {
            return;
        }
        for line in self.lines.iter_mut().filter(|line| line.state == State::Kept && line.known == known) {
            line.state = State::Dropped;
        }
    }

    /// Drops every kept line for which `drop` says so.
    pub(crate) fn remove_where(&mut self, drop: impl Fn(Known, &[u8]) -> bool) {
        let bytes = &self.bytes;
        for line in self.lines.iter_mut().filter(|line| line.state == State::Kept) {
            let start = line.start as usize;
            if drop(line.known, &bytes[start..start + usize::from(line.name_len)]) {
                line.state = State::Dropped;
            }
        }
    }

    /// The values of a typed name as received; they stay readable for those who must see the lines.
    pub(crate) fn typed(&self, known: Known) -> impl Iterator<Item = &[u8]> {
        let lines = if self.has(known) { self.lines.as_slice() } else { &[] };
        lines.iter().filter(move |line| line.known == known && line.state == State::Typed).map(|line| self.value(line))
    }

    /// How many lines of a known name are kept.
    pub(crate) fn count(&self, known: Known) -> usize {
        if self.has(known) { self.kept().filter(|line| line.known == known).count() } else { 0 }
    }

    /// Begins a section in place of the one that was taken before: until it's whole and taken no line may be asked for.
    pub(crate) fn begin_section(&mut self) {
        self.present = 0;
    }

    /// Takes the section of which so many lines were [`Fields::received`]; `normal`: all are stored as they came.
    pub(crate) fn take_section(&mut self, section: &[u8], lines: usize, normal: bool) {
        self.lines.truncate(lines);
        self.received = self.lines.len() as u32;
        self.bytes.clear();
        self.bytes.extend_from_slice(section);
        if !normal {
            self.straighten();
        }
    }

    /// Whether `bytes`, from `start` of the section on, begin with the very line that came in this place of the section
    /// before, as most do that come on one connection: then it's taken, and needn't be read again. Answers its length.
    pub(crate) fn received_again(&mut self, number: usize, start: usize, bytes: &[u8]) -> Option<usize> {
        let line = *self.lines.get(number).filter(|_| number < self.received as usize)?;
        let text = &self.bytes[line.start as usize..line.end as usize];
        if !bytes.starts_with(text) {
            return None;
        }
        let length = text.len();
        self.received(number, start..start + length, usize::from(line.name_len), line.known);
        Some(length)
    }

    /// The line of this number, at `place` of the section.
    pub(crate) fn received(&mut self, number: usize, place: Range<usize>, name_len: usize, known: Known) {
        let state = if known.is_typed() { State::Typed } else { State::Kept };
        // The section is bounded by the limits of a head, far below 4 GiB; names by theirs.
        let (start, end) = (place.start as u32, place.end as u32);
        let line = Line { start, end, name_len: name_len as u16, known, state };
        match self.lines.get_mut(number) {
            Some(place) => *place = line,
            None => self.lines.push(line),
        }
        self.present |= known.bit();
    }

    /// Writes lines that came with other blanks around their values anew, in normal form, behind the section.
    fn straighten(&mut self) {
        for line in &mut self.lines {
            let name = line.start as usize..line.start as usize + usize::from(line.name_len);
            let raw = name.end + 1..line.end as usize - 2;
            let begun = self.bytes[raw.clone()].trim_ascii_start().len();
            let value = raw.end - begun..raw.end - begun + self.bytes[raw.clone()].trim_ascii().len();
            if self.bytes[name.end + 1] == b' ' && value.start == name.end + 2 && value.end == raw.end {
                continue;
            }
            line.start = self.bytes.len() as u32;
            self.bytes.extend_from_within(name);
            self.bytes.extend_from_slice(b": ");
            self.bytes.extend_from_within(value);
            self.bytes.extend_from_slice(b"\r\n");
            line.end = self.bytes.len() as u32;
        }
    }

    /// Appends a line whose parts are known to be clean.
    pub(crate) fn push(&mut self, name: &[u8], value: &[u8], known: Known) -> Result<(), RejectReason> {
        let start = self.bytes.len();
        let end = start + name.len() + value.len() + 4;
        if end > ARENA_BYTES_MAX || self.lines.len() >= LINES_MAX {
            return Err(RejectReason::HeadTooLarge);
        }
        let Ok(name_len) = u16::try_from(name.len()) else {
            return Err(RejectReason::HeaderNameTooLong);
        };
        self.bytes.reserve(end - start);
        self.bytes.extend_from_slice(name);
        self.bytes.extend_from_slice(b": ");
        self.bytes.extend_from_slice(value);
        self.bytes.extend_from_slice(b"\r\n");
        let state = if known.is_typed() { State::Typed } else { State::Kept };
        self.lines.push(Line { start: start as u32, end: end as u32, name_len, known, state });
        self.present |= known.bit();
        Ok(())
    }

    /// Appends a line that was made before.
    pub(crate) fn push_ready(&mut self, line: &ReadyLine) -> Result<(), RejectReason> {
        let (known, name_len, bytes) = line.parts();
        let start = self.bytes.len();
        let end = start + bytes.len();
        if end > ARENA_BYTES_MAX || self.lines.len() >= LINES_MAX {
            return Err(RejectReason::HeadTooLarge);
        }
        self.bytes.extend_from_slice(bytes);
        // A name too long for it was refused when the line was made.
        let name_len = name_len as u16;
        self.lines.push(Line { start: start as u32, end: end as u32, name_len, known, state: State::Kept });
        self.present |= known.bit();
        Ok(())
    }

    /// Writes the kept lines but those for which `skip` says so, copying runs of neighbours at once.
    pub(crate) fn emit(&self, out: &mut Vec<u8>, skip: impl Fn(Known) -> bool) {
        let mut run = 0..0;
        for line in self.kept().filter(|line| !skip(line.known)) {
            let (start, end) = (line.start as usize, line.end as usize);
            if start != run.end {
                out.extend_from_slice(&self.bytes[run]);
                run = start..start;
            }
            run.end = end;
        }
        out.extend_from_slice(&self.bytes[run]);
    }

    /// Bytes of memory that the lines may take without asking for more.
    pub fn capacity(&self) -> usize {
        self.bytes.capacity() + self.lines.capacity() * size_of::<Line>()
    }

    /// Bytes that [`Fields::emit`] writes at most.
    pub(crate) fn bytes_len(&self) -> usize {
        self.bytes.len()
    }

    /// False if there surely is no line of any of these names, of which [`Known::bits`] made one word.
    pub(crate) fn has_any(&self, names: u128) -> bool {
        self.present & names != 0
    }

    /// False if there surely is no such line. Unknown names share a bit.
    pub(crate) fn has(&self, known: Known) -> bool {
        self.present & known.bit() != 0
    }

    fn kept(&self) -> impl Iterator<Item = &Line> {
        self.lines.iter().filter(|line| line.state == State::Kept)
    }

    fn matches(&self, line: &Line, known: Known, name: &str) -> bool {
        if line.known != known || known != Known::Other {
            return line.known == known;
        }
        let start = line.start as usize;
        self.bytes[start..start + usize::from(line.name_len)].eq_ignore_ascii_case(name.as_bytes())
    }

    fn name(&self, line: &Line) -> &str {
        let start = line.start as usize;
        // Names are tokens, hence ASCII: the empty string can't be reached.
        std::str::from_utf8(&self.bytes[start..start + usize::from(line.name_len)]).unwrap_or_default()
    }

    fn value(&self, line: &Line) -> &[u8] {
        &self.bytes[line.start as usize + usize::from(line.name_len) + 2..line.end as usize - 2]
    }
}

/// A byte of a token (RFC 9110 5.6.2).
pub(crate) const fn is_token_byte(b: u8) -> bool {
    TOKEN[b as usize]
}

const TOKEN: [bool; 256] = {
    let mut table = [false; 256];
    let mut i = 0;
    while i < 256 {
        let b = i as u8;
        table[i] = b.is_ascii_alphanumeric()
            || matches!(
                b,
                b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_' | b'`' | b'|' | b'~'
            );
        i += 1;
    }
    table
};

/// A byte of a field value (RFC 9110 5.5): visible, blank, tab, or beyond ASCII.
pub(crate) const fn is_value_byte(b: u8) -> bool {
    (b == b'\t') | ((b >= b' ') & (b != 0x7f))
}
