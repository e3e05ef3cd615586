//! Standard input of a command that may be asked to end while nothing comes: the system takes up a
//! read again after a signal, so a read that waits would not notice.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::os::fd::AsFd;

/// How long a wait for input lasts before it is looked whether to end.
const ATTEMPT: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };

/// Reads until the input ends or `should_stop` says so, which looks like an end.
pub struct Input<'a> {
    file: File,
    should_stop: &'a dyn Fn() -> bool,
}

impl<'a> Input<'a> {
    /// What the process was given as standard input.
    ///
    /// # Errors
    /// When there is none, or no descriptor is left.
    pub fn standard(should_stop: &'a dyn Fn() -> bool) -> io::Result<Self> {
        let owned = io::stdin().as_fd().try_clone_to_owned()?;
        Ok(Self { file: File::from(owned), should_stop })
    }
}

impl Read for Input<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        while !(self.should_stop)() {
            let mut fds = [PollFd::new(&self.file, PollFlags::IN)];
            // A signal ends the wait early: then it is looked again.
            if matches!(poll(&mut fds, Some(&ATTEMPT)), Ok(1..)) {
                match self.file.read(bytes) {
                    // Another process that has the same input was quicker.
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                    result => return result,
                }
            }
        }
        Ok(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;
    use std::io::Write;

    #[test]
    fn a_wait_for_input_ends_when_it_is_to() {
        let (reader, mut writer) = io::pipe().unwrap();
        writer.write_all(b"half a li").unwrap();
        let looks = Cell::new(0);
        let should_stop = || {
            looks.set(looks.get() + 1);
            looks.get() > 3
        };
        let file = File::from(std::os::fd::OwnedFd::from(reader));
        let mut input = Input { file, should_stop: &should_stop };
        let mut bytes = [0; 64];
        assert_eq!(input.read(&mut bytes).unwrap(), 9);
        // The writer is still there and writes nothing.
        assert_eq!(input.read(&mut bytes).unwrap(), 0);
        drop(writer);
    }
}
