//! What a simulated node holds of memory: an allocator that counts while a node runs.
//!
//! All simulated nodes live in one process and one thread, so what the operating system says of the process says nothing
//! of a node. [`Meter`] is the system's allocator and keeps the balance of what is asked for and given back between the
//! beginning and the end of [`measure`]: the world measures every call into a node, and takes care that nothing which one
//! side made is given back by the other. Outside of [`measure`] it costs a look at a thread-local flag. What C libraries
//! allocate is not seen.
#![allow(unsafe_code)] // an allocator is unsafe by its trait; each function hands its arguments on unchanged

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
};

/// The system's allocator, which counts what a simulated node asks for. A program that measures memory in the simulator
/// has to make it its `#[global_allocator]`.
#[derive(Debug, Clone, Copy, Default)]
pub struct Meter;

struct Balance {
    counts: Cell<bool>,
    bytes: Cell<isize>,
    peak: Cell<isize>,
}

thread_local! {
    static BALANCE: Balance =
        const { Balance { counts: Cell::new(false), bytes: Cell::new(0), peak: Cell::new(0) } };
}

#[inline]
fn count(bytes: isize) {
    // A thread that ends has no balance any more.
    let _ = BALANCE.try_with(|balance| {
        if balance.counts.get() {
            let now = balance.bytes.get() + bytes;
            balance.bytes.set(now);
            balance.peak.set(balance.peak.get().max(now));
        }
    });
}

fn size(bytes: usize) -> isize {
    isize::try_from(bytes).unwrap_or(isize::MAX)
}

// SAFETY: every request goes to the system's allocator as it came, and so does every pointer that comes back; counting
// allocates nothing.
unsafe impl GlobalAlloc for Meter {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(size(layout.size()));
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(size(layout.size()));
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, new: usize) -> *mut u8 {
        count(size(new) - size(layout.size()));
        unsafe { System.realloc(pointer, layout, new) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(-size(layout.size()));
        unsafe { System.dealloc(pointer, layout) }
    }
}

/// What happened to the memory during a measured call.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Change {
    /// Bytes more than before, or fewer.
    pub bytes: isize,
    /// The most above what was held before, in between.
    pub peak: isize,
}

/// Ends counting even when the measured code panics.
struct Pause(bool);

impl Drop for Pause {
    fn drop(&mut self) {
        BALANCE.with(|balance| balance.counts.set(self.0));
    }
}

/// Runs `f` and tells what it left allocated. Not to be nested.
pub(super) fn measure<R>(f: impl FnOnce() -> R) -> (R, Change) {
    BALANCE.with(|balance| {
        balance.bytes.set(0);
        balance.peak.set(0);
        balance.counts.set(true);
        let pause = Pause(false);
        let result = f();
        drop(pause);
        (result, Change { bytes: balance.bytes.get(), peak: balance.peak.get() })
    })
}

/// Runs `f` without counting, within [`measure`] or not.
pub(super) fn outside<R>(f: impl FnOnce() -> R) -> R {
    BALANCE.with(|balance| {
        let _pause = Pause(balance.counts.replace(false));
        f()
    })
}

/// Bytes that leave the measured code: a copy that nobody is charged for where that is needed, else the bytes themselves.
pub(super) fn handed_out(bytes: Vec<u8>) -> Vec<u8> {
    if BALANCE.with(|balance| balance.counts.get()) { outside(|| bytes.clone()) } else { bytes }
}

/// Whether this program's allocator is a [`Meter`].
pub(super) fn is_there() -> bool {
    let (kept, change) = measure(|| std::hint::black_box(Box::new(7u64)));
    drop(kept);
    change.bytes > 0
}
