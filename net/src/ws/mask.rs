//! Masking of client frames (RFC 6455 5.3), eight bytes a step.

/// XORs `bytes` with the repeated `mask`, in place. The bytes begin at the mask's first byte.
pub fn apply_mask(bytes: &mut [u8], mask: [u8; 4]) {
    let wide = u64::from(u32::from_ne_bytes(mask)) * 0x1_0000_0001;
    let mut steps = bytes.chunks_exact_mut(8);
    for step in &mut steps {
        for (byte, key) in step.iter_mut().zip(wide.to_ne_bytes()) {
            *byte ^= key;
        }
    }
    for (byte, key) in steps.into_remainder().iter_mut().zip(wide.to_ne_bytes()) {
        *byte ^= key;
    }
}

/// The mask for the bytes that follow the first `offset` ones.
pub fn rotate(mask: [u8; 4], offset: usize) -> [u8; 4] {
    let mut rotated = mask;
    rotated.rotate_left(offset % 4);
    rotated
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn naive(bytes: &[u8], mask: [u8; 4]) -> Vec<u8> {
        bytes.iter().enumerate().map(|(at, byte)| byte ^ mask[at % 4]).collect()
    }

    #[test]
    fn the_example_of_the_rfc() {
        let mut hello = [0x7f, 0x9f, 0x4d, 0x51, 0x58];
        apply_mask(&mut hello, [0x37, 0xfa, 0x21, 0x3d]);
        assert_eq!(&hello, b"Hello");
    }

    proptest! {
        #[test]
        fn steps_equal_the_byte_loop(bytes in prop::collection::vec(any::<u8>(), 0..300), mask: [u8; 4], cut: usize) {
            let expected = naive(&bytes, mask);
            let mut whole = bytes.clone();
            apply_mask(&mut whole, mask);
            prop_assert_eq!(&whole, &expected);
            let mut split = bytes;
            let cut = cut % (split.len() + 1);
            let (head, tail) = split.split_at_mut(cut);
            apply_mask(head, mask);
            apply_mask(tail, rotate(mask, cut));
            prop_assert_eq!(&split, &expected);
        }
    }
}
