//! Choices read off the fuzzer's input, for the targets whose inputs have a structure: every input
//! is some run, a changed byte changes one choice, and an input that has ended chooses zeros.

/// The rest of an input.
#[derive(Clone, Copy)]
pub struct Bytes<'a>(pub &'a [u8]);

impl<'a> Bytes<'a> {
    /// Whether nothing is left to read.
    pub fn is_over(&self) -> bool {
        self.0.is_empty()
    }

    pub fn byte(&mut self) -> u8 {
        let Some((byte, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *byte
    }

    /// A number below `end`, which one byte chooses, or two where one cannot reach it.
    pub fn below(&mut self, end: usize) -> usize {
        let byte = usize::from(self.byte());
        let wide = if end > 256 { byte << 8 | usize::from(self.byte()) } else { byte };
        wide % end.max(1)
    }

    pub fn pick<'t, T>(&mut self, of: &'t [T]) -> &'t T {
        &of[self.below(of.len())]
    }

    /// True once in `count`, as one byte says.
    pub fn one_in(&mut self, count: usize) -> bool {
        self.below(count) == count - 1
    }

    pub fn u16(&mut self) -> u16 {
        u16::from_le_bytes([self.byte(), self.byte()])
    }

    pub fn u32(&mut self) -> u32 {
        u32::from(self.u16()) | u32::from(self.u16()) << 16
    }

    /// An integer that is likely to lie at an end of something.
    pub fn edgy(&mut self) -> u64 {
        match self.byte() % 8 {
            0 => 0,
            1 => u64::MAX,
            2 => u64::from(u32::MAX),
            3 => 1 << (self.byte() % 64),
            4 => (1u64 << (self.byte() % 64)) - 1,
            5 => u64::from(self.u16()),
            6 => u64::from(self.u32()),
            _ => u64::from(self.byte()),
        }
    }

    /// The next `length` bytes, or what is left of them.
    pub fn take(&mut self, length: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(length.min(self.0.len()));
        self.0 = rest;
        taken
    }

    /// Text of up to 255 bytes, whatever the bytes are.
    pub fn text(&mut self) -> String {
        let length = usize::from(self.byte());
        String::from_utf8_lossy(self.take(length)).into_owned()
    }
}
