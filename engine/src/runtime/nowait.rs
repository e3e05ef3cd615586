//! Reads of files that may not wait for a disk.

use rustix::fd::OwnedFd;
use rustix::io::{Errno, ReadWriteFlags, preadv2};
use std::io::IoSliceMut;

/// Reads up to `length` bytes at `offset` into `buffer`, which then holds just these, but only what
/// the page cache has. `false`: it lacks some of them, and somebody has to wait.
pub fn read_at(file: &OwnedFd, offset: u64, length: usize, buffer: &mut Vec<u8>) -> bool {
    buffer.clear();
    buffer.resize(length, 0);
    let mut filled = 0;
    while filled < length {
        let mut slices = [IoSliceMut::new(&mut buffer[filled..])];
        match preadv2(file, &mut slices, offset + filled as u64, ReadWriteFlags::NOWAIT) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(Errno::INTR) => {}
            // EAGAIN: not in memory. Others (no such flag on this file system, a real error): the
            // blocking read will tell.
            Err(_) => return false,
        }
    }
    buffer.truncate(filled);
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_just_written_is_read_and_the_end_is_the_end() {
        let file = tempfile::tempfile().unwrap();
        rustix::io::pwrite(&file, b"0123456789", 0).unwrap();
        let file = OwnedFd::from(file);
        let mut buffer = vec![1, 2, 3];
        if read_at(&file, 4, 100, &mut buffer) {
            assert_eq!(buffer, b"456789");
        }
    }
}
