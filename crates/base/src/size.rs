// SPDX-License-Identifier: Apache-2.0
//! Budgets of memory as compile errors: what exists once per exchange or connection states here how
//! large it may be, so that growth is a decision.

/// Fails to compile if a type is larger than so many bytes: `assert_size!(Exchange, 512);`. The same of the future that a call
/// makes, which isn't called: `assert_size!(async serve(any(), any()), 1024);`, with [`any`] for whatever it takes.
///
/// [`any`]: crate::size::any
#[macro_export]
macro_rules! assert_size {
    (async $call:expr, $bytes:expr) => {
        // An index that is out of bounds is told as a number, which a message of a constant can't be.
        const _: () = [(); $bytes + 1][$crate::size::of_future(&|| $call)];
    };
    ($type:ty, $bytes:expr) => {
        const _: () = assert!(
            ::std::mem::size_of::<$type>() <= $bytes,
            concat!(stringify!($type), " is larger than ", stringify!($bytes), " bytes")
        );
    };
}

/// Bytes of the future that this would make, without making one.
#[must_use]
pub const fn of_future<F: Future>(_: &impl FnOnce() -> F) -> usize {
    size_of::<F>()
}

/// Stands for a value in a call that is never made.
///
/// # Panics
///
/// If it is made after all.
#[must_use]
pub fn any<T>() -> T {
    unreachable!("only the sizes of calls are looked at")
}

#[cfg(test)]
mod tests {
    use super::any;

    assert_size!(u64, 8);
    assert_size!(Option<Box<u8>>, 8);

    async fn hold(bytes: [u8; 100]) -> usize {
        std::future::ready(()).await;
        bytes.len()
    }

    assert_size!(async hold(any()), 256);

    #[test]
    fn a_future_holds_what_it_needs_after_it_waited() {
        assert!(super::of_future(&|| hold(any())) > 100);
    }
}
