//! The ring of receive buffers that one core lends to the kernel. A connection that waits for
//! bytes holds no buffer; the kernel takes one when bytes arrive.

use io_uring::IoUring;
use io_uring::types::BufRingEntry;
use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::io;
use std::sync::atomic::{AtomicU16, Ordering};

/// Buffers of a ring; a power of two, as the kernel wants it.
pub(crate) const BUFFERS: u16 = 1_024;
/// Buffers that the kernel is lent at first. It uses them in turn, so that all of them become resident
/// however little comes; it gets twice as many whenever it has run out.
const BUFFERS_FIRST: u16 = 128;
/// Bytes of a buffer.
pub(crate) const BUFFER_BYTES: usize = 4_096;
/// The group under which the ring is registered; there is one per `io_uring`.
pub(crate) const GROUP: u16 = 0;

const PAGE_BYTES: usize = 4_096;

/// Up to 4 MiB of buffers, half a MiB at first, and their 16 KiB ring. Owned by one core's reactor, which keeps it until the
/// kernel has given up every operation that may use it.
///
/// Invariant: a buffer is the kernel's from the moment its entry is published by the tail until a
/// completion names it, and ours from then until it is given back; `tail` counts the entries
/// published, modulo 2^16.
pub(crate) struct BufferRing {
    entries: *mut BufRingEntry,
    buffers: *mut u8,
    tail: u16,
    /// Buffers that the kernel has been lent at all.
    lent: u16,
    leaked: bool,
}

impl BufferRing {
    fn layouts() -> (Layout, Layout) {
        let ring_bytes = usize::from(BUFFERS) * size_of::<BufRingEntry>();
        let buffer_bytes = usize::from(BUFFERS) * BUFFER_BYTES;
        let ring = Layout::from_size_align(ring_bytes, PAGE_BYTES);
        let buffers = Layout::from_size_align(buffer_bytes, PAGE_BYTES);
        (
            ring.expect("16 KiB aligned to a page is a valid layout"),
            buffers.expect("4 MiB aligned to a page is a valid layout"),
        )
    }

    /// Allocates the ring, registers it and lends every buffer.
    pub(crate) fn register(ring: &IoUring) -> io::Result<Self> {
        let (ring_layout, buffers_layout) = Self::layouts();
        // SAFETY: the layout's size is not zero.
        let entries = unsafe { alloc_zeroed(ring_layout) }.cast::<BufRingEntry>();
        if entries.is_null() {
            handle_alloc_error(ring_layout);
        }
        // SAFETY: the layout's size is not zero.
        let buffers = unsafe { alloc_zeroed(buffers_layout) };
        if buffers.is_null() {
            handle_alloc_error(buffers_layout);
        }
        let mut lent = Self { entries, buffers, tail: 0, lent: BUFFERS_FIRST, leaked: false };
        // SAFETY: `entries` points to `BUFFERS` zeroed entries on a page boundary, and stays
        // allocated until this is dropped, which the reactor does after the `io_uring` itself.
        unsafe {
            ring.submitter().register_buf_ring_with_flags(entries as u64, BUFFERS, GROUP, 0)?;
        }
        for buffer in 0..BUFFERS_FIRST {
            lent.give_back(buffer);
        }
        Ok(lent)
    }

    /// The kernel found no buffer: lends it as many more as it has been lent so far, if there are any.
    pub(crate) fn lend_more(&mut self) {
        let first = self.lent;
        self.lent = first.saturating_mul(2).min(BUFFERS);
        for buffer in first..self.lent {
            self.give_back(buffer);
        }
    }

    /// The first `count` bytes of a buffer that a completion has just named.
    pub(crate) fn bytes(&self, buffer: u16, count: usize) -> &[u8] {
        assert!(buffer < BUFFERS && count <= BUFFER_BYTES, "the kernel names buffers of this ring");
        // SAFETY: the buffer lies within the allocation, checked above.
        let start = unsafe { self.buffers.add(usize::from(buffer) * BUFFER_BYTES) };
        // SAFETY: the kernel has written `count` bytes and, having named the buffer in a
        // completion, does not touch it until `give_back`; that needs `&mut self`.
        unsafe { std::slice::from_raw_parts(start, count) }
    }

    /// Gives up the memory for good, because the kernel may still write to it.
    pub(crate) fn leak(&mut self) {
        self.leaked = true;
    }

    /// Lends a buffer to the kernel again.
    pub(crate) fn give_back(&mut self, buffer: u16) {
        assert!(buffer < BUFFERS, "the kernel names buffers of this ring");
        let place = usize::from(self.tail & (BUFFERS - 1));
        // SAFETY: `place` is below BUFFERS, so the entry lies within the allocation.
        let entry = unsafe { self.entries.add(place) };
        // SAFETY: the kernel reads an entry only between tail and head; this one is outside, as no
        // more than BUFFERS entries are ever published at once. The reference ends with the block.
        let entry = unsafe { &mut *entry };
        // SAFETY: the buffer lies within the allocation, checked above.
        let address = unsafe { self.buffers.add(usize::from(buffer) * BUFFER_BYTES) };
        entry.set_addr(address as u64);
        entry.set_len(BUFFER_BYTES as u32);
        entry.set_bid(buffer);
        self.tail = self.tail.wrapping_add(1);
        // SAFETY: `entries` is the base of the ring and its first entry is initialised.
        let tail = unsafe { BufRingEntry::tail(self.entries) };
        // SAFETY: the tail is an aligned u16 within the allocation that the kernel reads
        // concurrently and nobody else writes; the atomic lives as long as the allocation.
        let tail = unsafe { AtomicU16::from_ptr(tail.cast_mut()) };
        // Release: the kernel must see the entry before it sees the tail that covers it.
        tail.store(self.tail, Ordering::Release);
    }
}

impl Drop for BufferRing {
    fn drop(&mut self) {
        if self.leaked {
            return;
        }
        let (ring_layout, buffers_layout) = Self::layouts();
        // SAFETY: allocated in `register` with this layout; the reactor has waited for every
        // operation that could use it.
        unsafe { dealloc(self.entries.cast(), ring_layout) };
        // SAFETY: as above.
        unsafe { dealloc(self.buffers, buffers_layout) };
    }
}
