// SPDX-License-Identifier: Apache-2.0
//! The code of strings (RFC 7541 appendix B). It is canonical: among codes of one length the next byte has the
//! next code, and the first code of a length follows the last of the one before. So the lengths are all that
//! is written down; the tables are worked out from them when this is compiled.

use super::Broken;

/// The symbol that no string may hold.
const END: u16 = 256;
/// The longest code, in bits.
const BITS_MAX: usize = 30;
/// Codes up to so many bits are found by one look into a table.
const SHORT_BITS: u32 = 8;

/// Bits of the code of each byte, and of the end.
#[rustfmt::skip]
const LENGTHS: [u8; 257] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28,
    6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10,
    13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6,
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28,
    20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24,
    22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27,
    20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26,
    30,
];

struct Tables {
    /// Symbol and length by the next eight bits; length 0 where the code is longer.
    short: [(u8, u8); 1 << SHORT_BITS],
    /// Symbols in the order of their codes.
    symbols: [u16; 257],
    /// By length: the first code, ...
    first: [u32; BITS_MAX + 1],
    /// ... where its symbol stands, ...
    at: [u16; BITS_MAX + 1],
    /// ... and what 32 bits that begin with a code of this length or a shorter one stay below.
    below: [u64; BITS_MAX + 1],
}

const TABLES: Tables = {
    let mut tables = Tables {
        short: [(0, 0); 1 << SHORT_BITS],
        symbols: [0; 257],
        first: [0; BITS_MAX + 1],
        at: [0; BITS_MAX + 1],
        below: [0; BITS_MAX + 1],
    };
    let (mut bits, mut code, mut count) = (1, 0_u32, 0);
    while bits <= BITS_MAX {
        (tables.first[bits], tables.at[bits]) = (code, count as u16);
        let mut symbol = 0;
        while symbol <= END as usize {
            if LENGTHS[symbol] as usize == bits {
                tables.symbols[count] = symbol as u16;
                if bits as u32 <= SHORT_BITS {
                    let spread = 1 << (SHORT_BITS - bits as u32);
                    let mut next = 0;
                    while next < spread {
                        tables.short[code as usize * spread + next] = (symbol as u8, bits as u8);
                        next += 1;
                    }
                }
                code += 1;
                count += 1;
            }
            symbol += 1;
        }
        tables.below[bits] = (code as u64) << (32 - bits);
        code <<= 1;
        bits += 1;
    }
    tables
};

/// Appends what `coded` stands for.
///
/// # Errors
/// If it holds the end symbol, or is padded with anything but up to seven ones (RFC 7541 5.2).
pub(crate) fn decode(coded: &[u8], out: &mut Vec<u8>) -> Result<(), Broken> {
    // The next bits, from the top; those below the first `count` are zeros.
    let (mut bits, mut count, mut rest) = (0_u64, 0_u32, coded);
    // A byte takes five bits at least.
    out.reserve(coded.len() * 8 / 5);
    loop {
        if count < 32 {
            if let Some((four, after)) = rest.split_first_chunk::<4>() {
                bits |= u64::from(u32::from_be_bytes(*four)) << (32 - count);
                (count, rest) = (count + 32, after);
            } else {
                while let Some((byte, after)) = rest.split_first() {
                    bits |= u64::from(*byte) << (56 - count);
                    (count, rest) = (count + 8, after);
                }
            }
        }
        let (symbol, length) = TABLES.short[(bits >> (64 - SHORT_BITS)) as usize];
        if length != 0 && u32::from(length) <= count {
            out.push(symbol);
            (bits, count) = (bits << length, count - u32::from(length));
            continue;
        }
        match long(bits, count) {
            Some((symbol, length)) => {
                out.push(u8::try_from(symbol).map_err(|_| Broken)?);
                (bits, count) = (bits << length, count - length);
            }
            // Nothing is left but padding.
            None if count < 8 && bits.leading_ones() >= count => return Ok(()),
            None => return Err(Broken),
        }
    }
}

/// A code longer than those of the table, if it is there as a whole.
fn long(bits: u64, count: u32) -> Option<(u16, u32)> {
    let length = (SHORT_BITS as usize + 1..=BITS_MAX).find(|length| bits >> 32 < TABLES.below[*length])?;
    if length as u32 > count {
        return None;
    }
    let nth = ((bits >> (64 - length)) as u32).wrapping_sub(TABLES.first[length]);
    let symbol = TABLES.symbols.get(TABLES.at[length] as usize + nth as usize)?;
    Some((*symbol, length as u32))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// The code of a symbol, from the lowest bit.
    fn code(symbol: usize) -> (u32, u32) {
        let bits = LENGTHS[symbol] as usize;
        let at = TABLES.symbols.iter().position(|found| usize::from(*found) == symbol).unwrap();
        (TABLES.first[bits] + (at as u32 - u32::from(TABLES.at[bits])), bits as u32)
    }

    /// A string in this code, as other encoders write it.
    pub(in crate::h2) fn encode(text: &[u8]) -> Vec<u8> {
        let mut all = Vec::new();
        for byte in text {
            let (code, bits) = code(usize::from(*byte));
            all.extend((0..bits).rev().map(|at| code >> at & 1));
        }
        all.resize(all.len().next_multiple_of(8), 1);
        all.chunks(8).map(|byte| byte.iter().fold(0, |sum, bit| sum << 1 | *bit as u8)).collect()
    }

    fn decoded(coded: &[u8]) -> Result<Vec<u8>, Broken> {
        let mut out = Vec::new();
        decode(coded, &mut out).map(|()| out)
    }

    #[test]
    fn codes_are_those_of_the_rfc() {
        for (symbol, expected) in [
            (b'0' as usize, (0x0, 5)),
            (b' ' as usize, (0x14, 6)),
            (b'w' as usize, (0x78, 7)),
            (b'&' as usize, (0xf8, 8)),
            (b'!' as usize, (0x3f8, 10)),
            (0, (0x1ff8, 13)),
            (b'\\' as usize, (0x7fff0, 19)),
            (9, (0xff_ffea, 24)),
            (255, (0x3ff_ffee, 26)),
            (249, (0xfff_fffe, 28)),
            (22, (0x3fff_fffe, 30)),
            (256, (0x3fff_ffff, 30)),
        ] {
            assert_eq!(code(symbol), expected, "{symbol}");
        }
    }

    /// RFC 7541 C.4 and C.6.
    #[test]
    fn the_examples_of_the_rfc_are_read() {
        let cases: [(&[u8], &str); 4] = [
            (b"\xf1\xe3\xc2\xe5\xf2\x3a\x6b\xa0\xab\x90\xf4\xff", "www.example.com"),
            (b"\xa8\xeb\x10\x64\x9c\xbf", "no-cache"),
            (b"\x64\x02", "302"),
            (
                b"\xd0\x7a\xbe\x94\x10\x54\xd4\x44\xa8\x20\x05\x95\x04\x0b\x81\x66\xe0\x82\xa6\x2d\x1b\xff",
                "Mon, 21 Oct 2013 20:13:21 GMT",
            ),
        ];
        for (coded, text) in cases {
            assert_eq!(decoded(coded).unwrap(), text.as_bytes());
            assert_eq!(encode(text.as_bytes()), coded);
        }
    }

    #[test]
    fn every_pair_of_bytes_comes_back() {
        for first in 0..=255 {
            for second in 0..=255 {
                let text = [first, second, b'a'];
                assert_eq!(decoded(&encode(&text)).unwrap(), text);
            }
        }
    }

    #[test]
    fn what_is_no_string_is_refused() {
        for coded in [&b"\x1f\xff"[..], b"\x18", b"\xff\xff\xff\xff", b"\xff", b"\xff\xff", b"\xff\xff\xff\xf0", b"\0"]
        {
            assert!(decoded(coded).is_err(), "{}", coded.escape_ascii());
        }
        assert_eq!(decoded(b"").unwrap(), b"");
    }
}
