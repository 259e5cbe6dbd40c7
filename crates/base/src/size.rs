// SPDX-License-Identifier: Apache-2.0
//! Budgets of memory as compile errors: what exists once per exchange or connection states here how
//! large it may be, so that growth is a decision.

/// Fails to compile if a type is larger than so many bytes: `assert_size!(Exchange, 512);`.
#[macro_export]
macro_rules! assert_size {
    ($type:ty, $bytes:expr) => {
        const _: () = assert!(
            ::std::mem::size_of::<$type>() <= $bytes,
            concat!(stringify!($type), " is larger than ", stringify!($bytes), " bytes")
        );
    };
}

#[cfg(test)]
mod tests {
    assert_size!(u64, 8);
    assert_size!(Option<Box<u8>>, 8);
}
