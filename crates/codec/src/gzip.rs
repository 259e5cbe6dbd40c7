// SPDX-License-Identifier: Apache-2.0
//! The gzip coding of bodies (RFC 1952, RFC 9110 8.4.1.3), one way only: nothing here is ever unpacked, so that no
//! body can grow by it. Bytes in, bytes out, a piece at a time; what lies in between is bounded.

use std::fmt;
use zlib_rs::{Deflate, DeflateConfig, DeflateFlush, Method, Status, Strategy};

/// Memory that one body takes while it is coded, in bytes, at most.
pub const GZIP_BYTES_MAX: usize = 256 * 1024;

/// How hard it tries: of the levels from 1 to 9, the least that weighs repetitions against each other.
const LEVEL: i32 = 3;
/// How far back repetitions are looked for: 2^14 bytes, and 16 more for the header and the check sum of gzip.
const WINDOW_BITS: i32 = 14 + 16;
/// What waits to be written: 2^(7 + 6) literals. Where both are larger, bodies grow smaller by little.
const MEMORY_LEVEL: i32 = 7;

/// What is to become of what the coder still holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flush {
    /// It may wait for more.
    No,
    /// It is wanted now, and more may come.
    Now,
    /// That was all.
    End,
}

/// The coder can't go on, and the body can't be completed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Broken;

/// One body on its way.
pub struct Gzip {
    deflate: Deflate,
    /// Something that was put in hasn't come out yet.
    holds: bool,
}

impl fmt::Debug for Gzip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gzip").field("holds", &self.holds).finish_non_exhaustive()
    }
}

impl Default for Gzip {
    fn default() -> Self {
        Self::new()
    }
}

impl Gzip {
    /// A body of which nothing has come.
    pub fn new() -> Self {
        let config = DeflateConfig {
            level: LEVEL,
            method: Method::Deflated,
            window_bits: WINDOW_BITS,
            mem_level: MEMORY_LEVEL,
            strategy: Strategy::Default,
        };
        Self { deflate: Deflate::new_with_config(config), holds: false }
    }

    /// Whether something that was put in hasn't come out yet.
    pub fn holds(&self) -> bool {
        self.holds
    }

    /// Takes what it can of `piece` and writes what it can into `out`: how much of each. Call it again with the rest until all
    /// of the piece is taken and `out` isn't filled.
    ///
    /// # Errors
    /// If more comes after the end.
    pub fn step(&mut self, piece: &[u8], out: &mut [u8], flush: Flush) -> Result<(usize, usize), Broken> {
        let (taken, made) = (self.deflate.total_in(), self.deflate.total_out());
        let flush = match flush {
            Flush::No => DeflateFlush::NoFlush,
            Flush::Now => DeflateFlush::SyncFlush,
            Flush::End => DeflateFlush::Finish,
        };
        let status = self.deflate.compress(piece, out, flush).map_err(|_| Broken)?;
        let (taken, made) = (self.deflate.total_in() - taken, self.deflate.total_out() - made);
        let (taken, made) = (usize::try_from(taken).unwrap_or(usize::MAX), usize::try_from(made).unwrap_or(usize::MAX));
        let done = flush != DeflateFlush::NoFlush && made < out.len() || status == Status::StreamEnd;
        self.holds = !done && (self.holds || taken > 0);
        Ok((taken, made))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;
    use std::process::{Command, Stdio};

    fn put(gzip: &mut Gzip, mut piece: &[u8], flush: Flush, room: usize, all: &mut Vec<u8>) {
        let mut out = vec![0; room];
        loop {
            let (taken, made) = gzip.step(piece, &mut out, flush).unwrap();
            all.extend_from_slice(&out[..made]);
            piece = &piece[taken..];
            if piece.is_empty() && made < out.len() {
                return;
            }
        }
    }

    /// What an inflater reads of as much as has come.
    fn unpack(coded: &[u8]) -> Vec<u8> {
        let mut inflate = zlib_rs::Inflate::new(true, 15 + 16);
        let mut out = vec![0; 4 << 20];
        inflate.decompress(coded, &mut out, zlib_rs::InflateFlush::SyncFlush).unwrap();
        out.truncate(usize::try_from(inflate.total_out()).unwrap());
        out
    }

    /// Words that repeat as those of a page do.
    fn text(bytes: usize) -> Vec<u8> {
        let words = ["order", "price", "payments", "\": {\"", "1402.50", "\"}, ", "customer", "\n"];
        let mut n = 7_u32;
        let mut all = Vec::with_capacity(bytes + 16);
        while all.len() < bytes {
            n = n.wrapping_mul(1_103_515_245).wrapping_add(12_345);
            all.extend_from_slice(words[(n >> 16) as usize % words.len()].as_bytes());
        }
        all.truncate(bytes);
        all
    }

    #[test]
    fn what_goes_in_comes_out_whatever_the_pieces() {
        let text = text(300_000);
        for (piece, room) in [(300_000, 8192), (1, 64), (4096, 1), (17, 4096)] {
            let (mut gzip, mut all) = (Gzip::new(), Vec::new());
            let part = &text[..if piece == 1 || room == 1 { 3000 } else { text.len() }];
            for piece in part.chunks(piece) {
                put(&mut gzip, piece, Flush::No, room, &mut all);
            }
            assert!(gzip.holds());
            put(&mut gzip, &[], Flush::End, room, &mut all);
            assert!(!gzip.holds());
            assert_eq!(unpack(&all), part, "{piece} {room}");
        }
        let (mut gzip, mut all) = (Gzip::new(), Vec::new());
        put(&mut gzip, &[], Flush::End, 64, &mut all);
        assert_eq!((unpack(&all), gzip.step(b"more", &mut [0; 64], Flush::No)), (Vec::new(), Err(Broken)));
    }

    #[test]
    fn what_is_flushed_can_be_read_before_more_comes() {
        let (mut gzip, mut all) = (Gzip::new(), Vec::new());
        for event in ["data: one\n\n", "data: two\n\n"] {
            put(&mut gzip, event.as_bytes(), Flush::No, 64, &mut all);
            assert!(gzip.holds());
            put(&mut gzip, &[], Flush::Now, 64, &mut all);
            assert!(!gzip.holds());
            assert!(unpack(&all).ends_with(event.as_bytes()));
        }
    }

    #[test]
    fn the_programs_of_others_read_it() {
        let (text, mut gzip, mut all) = (text(100_000), Gzip::new(), Vec::new());
        put(&mut gzip, &text, Flush::End, 1000, &mut all);
        assert!(all.len() < text.len() / 3, "{}", all.len());
        let mut other = Command::new("gzip").arg("-dc").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut into = other.stdin.take().unwrap();
        let writer = std::thread::spawn(move || into.write_all(&all).unwrap());
        assert!(other.wait_with_output().unwrap().stdout == text);
        writer.join().unwrap();
    }
}
