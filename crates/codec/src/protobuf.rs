// SPDX-License-Identifier: Apache-2.0
//! Protobuf's wire format, as far as OTLP, the details of a gRPC status and reports of load need it: varints, eight bytes, and
//! what has a length. Reading never panics, and stops at the first thing that makes no sense.

/// Most fields of one message that are read, unless somebody knows that there are more.
const FIELDS_MAX: usize = 64;

/// Puts a message together.
#[derive(Debug, Default)]
pub(crate) struct Writer(Vec<u8>);

impl Writer {
    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    fn varint(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.0.push(number as u8 | 0x80);
            number >>= 7;
        }
        self.0.push(number as u8);
    }

    fn key(&mut self, field: u32, kind: u8) {
        self.varint(u64::from(field) << 3 | u64::from(kind));
    }

    /// A number; 0 is left out.
    pub(crate) fn number(&mut self, field: u32, number: u64) {
        if number != 0 {
            self.number_always(field, number);
        }
    }

    /// A number in a choice, where 0 says something.
    pub(crate) fn number_always(&mut self, field: u32, number: u64) {
        self.key(field, 0);
        self.varint(number);
    }

    /// Eight bytes, the lowest first, even if they're 0.
    pub(crate) fn fixed(&mut self, field: u32, number: u64) {
        self.key(field, 1);
        self.0.extend_from_slice(&number.to_le_bytes());
    }

    /// A text; an empty one is left out.
    pub(crate) fn text(&mut self, field: u32, text: &str) {
        if !text.is_empty() {
            self.always(field, text);
        }
    }

    /// A text in a choice, where an empty one says something.
    pub(crate) fn always(&mut self, field: u32, text: &str) {
        self.bytes(field, text.as_bytes());
    }

    /// Bytes as they are.
    pub(crate) fn bytes(&mut self, field: u32, bytes: &[u8]) {
        self.key(field, 2);
        self.varint(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    /// Numbers of eight bytes, packed.
    pub(crate) fn packed(&mut self, field: u32, numbers: impl ExactSizeIterator<Item = u64>) {
        self.key(field, 2);
        self.varint(numbers.len() as u64 * 8);
        numbers.for_each(|number| self.0.extend_from_slice(&number.to_le_bytes()));
    }

    /// A message within this one.
    pub(crate) fn message(&mut self, field: u32, write: impl FnOnce(&mut Self)) {
        self.key(field, 2);
        let start = self.0.len();
        write(self);
        // Its length stands before it, and is known only now.
        let mut length = Self::default();
        length.varint((self.0.len() - start) as u64);
        self.0.splice(start..start, length.0);
    }
}

/// One field of a message.
pub(crate) enum Field<'a> {
    Number(u64, u64),
    /// Eight bytes, the lowest first.
    Fixed(u64, u64),
    Bytes(u64, &'a [u8]),
    Other,
}

impl<'a> Field<'a> {
    /// The bytes, if it's field `wanted` and has some.
    pub(crate) fn bytes_of(&self, wanted: u64) -> Option<&'a [u8]> {
        match self {
            Self::Bytes(field, bytes) if *field == wanted => Some(bytes),
            _ => None,
        }
    }

    /// The number, if it's field `wanted` and has one.
    pub(crate) fn number_of(&self, wanted: u64) -> Option<u64> {
        match self {
            Self::Number(field, number) if *field == wanted => Some(*number),
            _ => None,
        }
    }
}

/// The fields of a message, up to the first that makes no sense.
pub(crate) fn fields(message: &[u8]) -> impl Iterator<Item = Field<'_>> {
    fields_up_to(message, FIELDS_MAX)
}

/// The same, `most` of them.
pub(crate) fn fields_up_to(mut rest: &[u8], most: usize) -> impl Iterator<Item = Field<'_>> {
    std::iter::from_fn(move || {
        let key = varint(&mut rest)?;
        let field = key >> 3;
        Some(match key & 7 {
            0 => Field::Number(field, varint(&mut rest)?),
            1 => Field::Fixed(field, u64::from_le_bytes(*take(&mut rest, 8)?.first_chunk()?)),
            2 => {
                let length = varint(&mut rest)?;
                Field::Bytes(field, take(&mut rest, length)?)
            }
            5 => take(&mut rest, 4).map(|_| Field::Other)?,
            _ => return None,
        })
    })
    .take(most)
}

fn take<'a>(rest: &mut &'a [u8], length: u64) -> Option<&'a [u8]> {
    let (taken, left) = rest.split_at_checked(usize::try_from(length).ok()?)?;
    *rest = left;
    Some(taken)
}

fn varint(rest: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (byte, left) = rest.split_first()?;
        *rest = left;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}
