//! A blocked Bloom filter of fixed size: all bits of a key lie in one cache line. "No" is exact.
//!
//! It knows nothing of what its keys are; whoever asks hashes them with a key of its own, so that
//! nobody can aim at a block.

/// Bits per key: about one false "maybe" in a hundred with [`PROBES`] bits set per key.
pub const BITS_PER_KEY: usize = 12;
/// Bits set per key, all in one cache line.
const PROBES: u32 = 6;
/// Words of a block: 64 bytes, a cache line.
const BLOCK_WORDS: usize = 8;

/// The filter. Bounded by what it was made for; whoever made it owns it.
#[derive(Debug)]
pub struct Bloom {
    blocks: Vec<[u64; BLOCK_WORDS]>,
    keys: usize,
    keys_max: usize,
}

impl Bloom {
    /// A filter with room for this many keys.
    pub fn new(keys_max: usize) -> Self {
        let blocks = (keys_max * BITS_PER_KEY).div_ceil(64 * BLOCK_WORDS);
        Self { blocks: vec![[0; BLOCK_WORDS]; blocks], keys: 0, keys_max }
    }

    fn block(&self, hash: u64) -> usize {
        // Multiply-shift maps the hash evenly on the blocks without a division.
        ((u128::from(hash) * self.blocks.len() as u128) >> 64) as usize
    }

    /// Whether a key with this hash may have been set.
    pub fn holds(&self, hash: u64) -> bool {
        let block = &self.blocks[self.block(hash)];
        probes(hash).all(|(word, bit)| block[word] & bit != 0)
    }

    /// Sets a key.
    pub fn set(&mut self, hash: u64) {
        let block = self.block(hash);
        for (word, bit) in probes(hash) {
            self.blocks[block][word] |= bit;
        }
        self.keys += 1;
    }

    /// Keys that it was made for.
    pub fn keys_max(&self) -> usize {
        self.keys_max
    }

    /// Whether it holds as many keys as it was made for.
    pub fn is_full(&self) -> bool {
        self.keys >= self.keys_max
    }

    /// Bytes held.
    pub fn bytes_held(&self) -> usize {
        self.blocks.len() * BLOCK_WORDS * 8
    }
}

/// Words and bits of a key within its block. The block was chosen by the high bits of the hash, so
/// the bits come from a remix of it.
fn probes(hash: u64) -> impl Iterator<Item = (usize, u64)> {
    let mixed = (hash ^ (hash >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (0..PROBES).map(move |probe| {
        let nine = (mixed >> (probe * 9 + 8)) as usize & 511;
        (nine >> 6, 1u64 << (nine & 63))
    })
}
