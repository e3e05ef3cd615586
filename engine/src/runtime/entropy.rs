//! The process's source of chance: the kernel's. Nothing else draws any.

use proto::{Secret, SeededState};
use rustix::rand::{GetRandomFlags, getrandom};

/// Fills `out` from the kernel's generator.
///
/// # Panics
/// When the kernel has no entropy to give: without it no seed and no challenge can be trusted, and
/// since Linux 5.6 this cannot happen after boot.
pub fn fill(out: &mut [u8]) {
    let mut filled = 0;
    while filled < out.len() {
        match getrandom(&mut out[filled..], GetRandomFlags::empty()) {
            Ok(count) => filled += count,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => panic!("the kernel's random generator failed: {error}"),
        }
    }
}

/// Random bytes.
pub fn bytes<const N: usize>() -> [u8; N] {
    let mut out = [0; N];
    fill(&mut out);
    out
}

/// A hash seed for maps whose keys peers choose.
pub fn seed() -> SeededState {
    SeededState::new(Secret(bytes()))
}

#[cfg(test)]
mod tests {
    #[test]
    fn two_draws_differ() {
        assert_ne!(super::bytes::<32>(), super::bytes::<32>());
    }
}
