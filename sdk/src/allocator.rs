//! The guest's allocator: a bump arena in memory that is there from the start.
//!
//! An instance lives for one delivery, so nothing needs to be reused but the block on top, and starting anew is the
//! reset. What must not happen in the common delivery is `memory.grow`: in the host it is an mprotect and its undoing
//! another, and each interrupts every core.
#![allow(unsafe_code, reason = "GlobalAlloc is an unsafe trait, and an arena is made of raw addresses")]

use std::alloc::{GlobalAlloc, Layout};
use std::arch::wasm32::{memory_grow, memory_size};
use std::cell::Cell;
use std::ptr::{addr_of, addr_of_mut, copy_nonoverlapping, null_mut};

/// Bytes that are certain. After them comes what is left of the last page of the initial memory, so that a component
/// with 64 KiB of stack and up to 32 KiB of constants has 128 KiB of memory and no page more than it uses: the host
/// wipes all of it after every delivery.
const ARENA: usize = 32 * 1024;
const PAGE: usize = 64 * 1024;

#[repr(align(16))]
struct Arena(#[expect(dead_code, reason = "used by address")] [u8; ARENA]);

static mut ARENA_BYTES: Arena = Arena([0; ARENA]);

#[global_allocator]
static ALLOCATOR: Bump = Bump { top: Cell::new(0), end: Cell::new(0), in_arena: Cell::new(true) };

/// Addresses, not pointers: they wander from the arena into memory that no Rust object owns.
struct Bump {
    /// The first free byte; 0 before the first call.
    top: Cell<usize>,
    end: Cell<usize>,
    in_arena: Cell<bool>,
}

// SAFETY: wasm32-unknown-unknown without atomics has one thread.
unsafe impl Sync for Bump {}

impl Bump {
    /// An aligned block at the top. Null when there is no more memory.
    fn take(&self, size: usize, align: usize) -> *mut u8 {
        if self.top.get() == 0 {
            let start = addr_of_mut!(ARENA_BYTES) as usize;
            self.top.set(start);
            self.end.set(start + ARENA);
        }
        loop {
            let start = (self.top.get() + align - 1) & !(align - 1);
            match start.checked_add(size) {
                Some(top) if top <= self.end.get() => {
                    self.top.set(top);
                    return start as *mut u8;
                }
                Some(top) if self.extend(top) => {}
                _ => return null_mut(),
            }
        }
    }

    /// Makes room up to `top`: first by moving behind the program's data, then by growing.
    #[cold]
    fn extend(&self, top: usize) -> bool {
        if self.in_arena.replace(false) {
            unsafe extern "C" {
                static __heap_base: u8;
            }
            self.top.set(addr_of!(__heap_base) as usize);
            self.end.set(memory_size(0) * PAGE);
            return true;
        }
        // What is a little too big grows by a page, what is far too big in bigger steps.
        let spare = (memory_size(0) / 4).min(16);
        let pages = (top - self.end.get()).div_ceil(PAGE) + spare;
        let grown = memory_grow(0, pages) != usize::MAX;
        if grown {
            self.end.set(self.end.get() + pages * PAGE);
        }
        grown
    }
}

// SAFETY: blocks lie in the arena or behind `__heap_base`, never overlap (`top` only falls when the block under it is
// given back), and are aligned as asked.
unsafe impl GlobalAlloc for Bump {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        self.take(layout.size(), layout.align())
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        if block as usize + layout.size() == self.top.get() {
            self.top.set(block as usize);
        }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let start = block as usize;
        // A growing Vec or String is usually the last block.
        if start + layout.size() == self.top.get()
            && let Some(top) = start.checked_add(size)
            && top <= self.end.get()
        {
            self.top.set(top);
            return block;
        }
        if size <= layout.size() {
            return block;
        }
        let moved = self.take(size, layout.align());
        if !moved.is_null() {
            // SAFETY: both blocks hold at least the old size, and a new block overlaps none in use.
            unsafe { copy_nonoverlapping(block, moved, layout.size()) };
        }
        moved
    }
}
