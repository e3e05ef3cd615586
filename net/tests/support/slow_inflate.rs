//! Deflate streams read bit by bit (RFC 1951): an oracle without tables, windows or tricks, which
//! also says how far back the references reach.
#![allow(dead_code)]

/// What a message says, and its farthest reference.
pub struct Inflated {
    /// The message.
    pub plain: Vec<u8>,
    /// Greatest distance of a reference, in bytes.
    pub distance_max: usize,
}

struct Bits<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Bits<'_> {
    fn bit(&mut self) -> usize {
        let bit = self.bytes[self.at / 8] >> (self.at % 8) & 1;
        self.at += 1;
        usize::from(bit)
    }

    fn number(&mut self, bits: usize) -> usize {
        (0..bits).map(|at| self.bit() << at).sum()
    }

    fn byte_aligned(&mut self, bytes: usize) -> &[u8] {
        let start = self.at.div_ceil(8);
        self.at = (start + bytes) * 8;
        &self.bytes[start..start + bytes]
    }
}

/// A Huffman code: the symbols of each length, in order.
struct Code(Vec<Vec<usize>>);

impl Code {
    fn new(lengths: &[usize]) -> Self {
        let with = |length| (0..lengths.len()).filter(move |symbol| lengths[*symbol] == length);
        Self((1..16).map(|length| with(length).collect()).collect())
    }

    fn read(&self, bits: &mut Bits<'_>) -> usize {
        let (mut code, mut first) = (0, 0);
        for symbols in &self.0 {
            code = code << 1 | bits.bit();
            first <<= 1;
            if code - first < symbols.len() {
                return symbols[code - first];
            }
            first += symbols.len();
        }
        panic!("no such code")
    }
}

fn fixed() -> (Code, Code) {
    let length = |symbol| match symbol {
        0..144 => 8,
        144..256 => 9,
        256..280 => 7,
        _ => 8,
    };
    (Code::new(&(0..288).map(length).collect::<Vec<_>>()), Code::new(&[5; 30]))
}

fn dynamic(bits: &mut Bits<'_>) -> (Code, Code) {
    const ORDER: [usize; 19] = [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15];
    let (literals, distances) = (bits.number(5) + 257, bits.number(5) + 1);
    let mut lengths = [0; 19];
    for place in ORDER.into_iter().take(bits.number(4) + 4) {
        lengths[place] = bits.number(3);
    }
    let code = Code::new(&lengths);
    let mut lengths = Vec::new();
    while lengths.len() < literals + distances {
        let (length, times) = match code.read(bits) {
            16 => (*lengths.last().unwrap(), bits.number(2) + 3),
            17 => (0, bits.number(3) + 3),
            18 => (0, bits.number(7) + 11),
            length => (length, 1),
        };
        lengths.extend(std::iter::repeat_n(length, times));
    }
    let (literals, distances) = lengths.split_at(literals);
    (Code::new(literals), Code::new(distances))
}

/// Reads a compressed message without its tail.
pub fn slow_inflate(message: &[u8]) -> Inflated {
    let mut bytes = message.to_vec();
    bytes.extend_from_slice(&[0, 0, 0xff, 0xff]);
    let mut bits = Bits { bytes: &bytes, at: 0 };
    let (mut plain, mut distance_max) = (Vec::new(), 0);
    while bits.at < bytes.len() * 8 {
        assert_eq!(bits.bit(), 0, "the relay sends no final blocks");
        let (literals, distances) = match bits.number(2) {
            0 => {
                let head = bits.byte_aligned(4).to_vec();
                assert_eq!([head[0], head[1]], [!head[2], !head[3]]);
                let length = usize::from(u16::from_le_bytes([head[0], head[1]]));
                plain.extend_from_slice(bits.byte_aligned(length));
                continue;
            }
            1 => fixed(),
            2 => dynamic(&mut bits),
            _ => panic!("no such block"),
        };
        loop {
            let symbol = literals.read(&mut bits);
            match symbol {
                0..256 => plain.push(symbol as u8),
                256 => break,
                _ => {
                    let length = match symbol - 257 {
                        short @ 0..8 => short + 3,
                        28 => 258,
                        long => {
                            let extra = long / 4 - 1;
                            ((4 + long % 4) << extra) + 3 + bits.number(extra)
                        }
                    };
                    let distance = match distances.read(&mut bits) {
                        near @ 0..4 => near + 1,
                        far => {
                            let extra = far / 2 - 1;
                            ((2 + far % 2) << extra) + 1 + bits.number(extra)
                        }
                    };
                    distance_max = distance_max.max(distance);
                    for _ in 0..length {
                        plain.push(plain[plain.len() - distance]);
                    }
                }
            }
        }
    }
    Inflated { plain, distance_max }
}
