//! Reads of files that may not wait for a disk.

use rustix::fd::OwnedFd;
use rustix::io::{Errno, ReadWriteFlags, preadv2};
use std::io::IoSliceMut;

/// Reads up to `length` bytes at `offset` into `buffer`, which grows if it has to, but only what the
/// page cache has. `None`: it lacks some of them, and somebody has to wait.
pub fn read_at<'b>(
    file: &OwnedFd,
    offset: u64,
    length: usize,
    buffer: &'b mut Vec<u8>,
) -> Option<&'b [u8]> {
    if buffer.len() < length {
        buffer.resize(length, 0);
    }
    let mut filled = 0;
    while filled < length {
        let mut slices = [IoSliceMut::new(&mut buffer[filled..length])];
        match preadv2(file, &mut slices, offset + filled as u64, ReadWriteFlags::NOWAIT) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(Errno::INTR) => {}
            // EAGAIN: not in memory. Others (no such flag on this file system, a real error): the
            // blocking read will tell.
            Err(_) => return None,
        }
    }
    Some(&buffer[..filled])
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
        if let Some(read) = read_at(&file, 4, 100, &mut buffer) {
            assert_eq!(read, b"456789");
        }
        // What a longer read has left in the buffer is none of a shorter one's business.
        if let Some(read) = read_at(&file, 0, 2, &mut buffer) {
            assert_eq!(read, b"01");
        }
    }
}
