// SPDX-License-Identifier: Apache-2.0
//! What one compressed body takes of memory, whatever its length. A counting allocator watches.
#![expect(unsafe_code, reason = "an allocator can't be written without; nothing else here is unsafe")]

use byrnie_codec::gzip::{Flush, GZIP_BYTES_MAX, Gzip};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

struct Counting;

thread_local! {
    /// Bytes in use, and the most there were.
    static USED: Cell<(usize, usize)> = const { Cell::new((0, 0)) };
}

// SAFETY: every call is handed to the system's allocator as it came; counting touches a thread-local
// cell without a destructor, which allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        USED.with(|used| {
            let (now, most) = used.get();
            let now = now + layout.size();
            used.set((now, most.max(now)));
        });
        // SAFETY: the caller keeps the contract of `GlobalAlloc::alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        USED.with(|used| used.set((used.get().0.saturating_sub(layout.size()), used.get().1)));
        // SAFETY: `pointer` came from `System` with this layout.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn a_compressed_body_takes_no_more_memory_than_it_says_however_long_it_is() {
    let piece: Vec<u8> = (0..32 * 1024_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8 & 0x3f).collect();
    let mut out = [0; 4096];
    let before = USED.with(Cell::get).0;
    USED.with(|used| used.set((before, before)));
    let mut gzip = Gzip::new();
    for at in 0..64 {
        let flush = if at == 63 { Flush::End } else { Flush::No };
        let mut rest = &piece[..];
        loop {
            let (taken, made) = gzip.step(rest, &mut out, flush).unwrap();
            rest = &rest[taken..];
            if rest.is_empty() && made < out.len() {
                break;
            }
        }
    }
    let most = USED.with(Cell::get).1 - before;
    assert!((GZIP_BYTES_MAX / 2..=GZIP_BYTES_MAX).contains(&most), "{most} bytes");
    drop(gzip);
    assert_eq!(USED.with(Cell::get).0, before);
}
