//! A corpus signed, framed and kept in a file, so that a second run begins at once and two machines
//! can be shown to send the same bytes.
//!
//! The file: `TPCORPUS`, a format number, the seed, the number of events, the bytes of the
//! description and of the body, the CRC-32C of both; then the description (one line of text) and
//! the body: for each event the first eight bytes of its id, its role, the bytes of its JSON, and
//! the JSON. All numbers little-endian. Equal seeds and options make equal files.

use super::{Corpus, Role, Sample, Unsigned};
use crate::load::Frames;
use std::io::{self, Read, Write};

const MAGIC: &[u8; 8] = b"TPCORPUS";
const FORMAT: u32 = 1;
const HEADER_BYTES: usize = 48;
/// Events that one thread signs before it asks for more.
const CHUNK_EVENTS: usize = 512;

/// Events ready to be sent, and what each of them is.
#[derive(Debug, Default)]
pub struct Prepared {
    /// The frames.
    pub frames: Frames,
    /// What each is.
    pub roles: Vec<Role>,
    /// Seed they were made from; 0 if they were imported.
    pub seed: u64,
    /// What they are, for people.
    pub description: String,
}

impl Prepared {
    /// Signs a corpus on `threads` threads; the result does not depend on how many.
    #[allow(
        clippy::disallowed_methods,
        reason = "signing spreads over cores; the order does not change"
    )]
    pub fn sign(
        corpus: Corpus,
        seed: u64,
        description: &str,
        threads: usize,
        progress: &mut dyn FnMut(u64),
    ) -> Self {
        let mut prepared = Self { seed, description: description.to_owned(), ..Self::default() };
        let mut unsigned = corpus.unsigned();
        let threads = threads.max(1);
        loop {
            let round: Vec<Unsigned> = unsigned.by_ref().take(CHUNK_EVENTS * threads).collect();
            if round.is_empty() {
                break;
            }
            let chunks: Vec<Vec<Sample>> = std::thread::scope(|scope| {
                let signing: Vec<_> = round
                    .chunks(CHUNK_EVENTS)
                    .map(|chunk| {
                        scope.spawn(move || chunk.iter().map(Unsigned::sign).collect::<Vec<_>>())
                    })
                    .collect();
                signing
                    .into_iter()
                    .map(|thread| thread.join().expect("signing does not panic"))
                    .collect()
            });
            let mut json = Vec::new();
            for sample in chunks.into_iter().flatten() {
                json.clear();
                sample.event.view().write_json(&mut json);
                prepared.push(&json, key_of(&sample.event), sample.role);
            }
            progress(prepared.roles.len() as u64);
        }
        prepared.frames.finish();
        prepared
    }

    /// Takes events from a dump of JSON lines. Lines that are no event are counted, not sent: a
    /// relay's verdict on them would be no figure of its speed.
    ///
    /// # Errors
    /// What the reader reports.
    pub fn import(input: &mut dyn io::BufRead, description: &str) -> io::Result<(Self, u64)> {
        let mut prepared = Self { description: description.to_owned(), ..Self::default() };
        let (mut line, mut refused) = (Vec::new(), 0);
        let limits = proto::Limits::default();
        loop {
            line.clear();
            if input.read_until(b'\n', &mut line)? == 0 {
                break;
            }
            let text = line.trim_ascii();
            if text.is_empty() {
                continue;
            }
            match proto::parse::parse_event(text, &limits) {
                Ok(event) => {
                    // Canonical form: what the file says besides the seven fields is not sent.
                    let mut json = Vec::new();
                    event.view().write_json(&mut json);
                    prepared.push(&json, key_of(&event), Role::Fresh);
                }
                Err(_) => refused += 1,
            }
        }
        prepared.frames.finish();
        Ok((prepared, refused))
    }

    /// `count` of these events from the `first` on, beginning again at the end.
    #[must_use]
    pub fn rotated(&self, first: u64, count: u32) -> Self {
        let mut rotated =
            Self { seed: self.seed, description: self.description.clone(), ..Self::default() };
        let length = u64::from(self.frames.len().max(1));
        for offset in 0..u64::from(count) {
            let index = ((first + offset) % length) as u32;
            rotated.push(
                self.frames.json(index),
                self.frames.key(index),
                self.roles[index as usize],
            );
        }
        rotated.frames.finish();
        rotated
    }

    fn push(&mut self, json: &[u8], key: u64, role: Role) {
        self.frames.push_json(json, key);
        self.roles.push(role);
    }

    /// Writes the file.
    ///
    /// # Errors
    /// What `out` reports.
    pub fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        let mut entries = Vec::new();
        let (mut crc, mut body_bytes) = (crc32c::crc32c(self.description.as_bytes()), 0_u64);
        // Twice over the events: once for the checksum that stands in front of them.
        for index in 0..self.frames.len() {
            entries.clear();
            self.write_entry(index, &mut entries);
            crc = crc32c::crc32c_append(crc, &entries);
            body_bytes += entries.len() as u64;
        }
        let mut header = Vec::with_capacity(HEADER_BYTES);
        header.extend_from_slice(MAGIC);
        header.extend_from_slice(&FORMAT.to_le_bytes());
        header.extend_from_slice(&self.frames.len().to_le_bytes());
        header.extend_from_slice(&self.seed.to_le_bytes());
        header.extend_from_slice(&(self.description.len() as u64).to_le_bytes());
        header.extend_from_slice(&body_bytes.to_le_bytes());
        header.extend_from_slice(&crc.to_le_bytes());
        header.extend_from_slice(&crc32c::crc32c(&header).to_le_bytes());
        out.write_all(&header)?;
        out.write_all(self.description.as_bytes())?;
        for index in 0..self.frames.len() {
            entries.clear();
            self.write_entry(index, &mut entries);
            out.write_all(&entries)?;
        }
        Ok(())
    }

    fn write_entry(&self, index: u32, out: &mut Vec<u8>) {
        let json = self.frames.json(index);
        out.extend_from_slice(&self.frames.key(index).to_le_bytes());
        out.push(match self.roles[index as usize] {
            Role::Fresh => 0,
            Role::Duplicate => 1,
            Role::BadSignature => 2,
            Role::Stale => 3,
        });
        out.extend_from_slice(&(json.len() as u32).to_le_bytes());
        out.extend_from_slice(json);
    }

    /// Reads a file that [`Prepared::write`] made.
    ///
    /// # Errors
    /// If it is another kind of file, cut short or altered.
    pub fn read(input: &mut dyn Read) -> io::Result<Self> {
        let mut header = [0; HEADER_BYTES];
        input.read_exact(&mut header)?;
        let word = |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().expect("four"));
        let long = |at: usize| u64::from_le_bytes(header[at..at + 8].try_into().expect("eight"));
        if &header[..8] != MAGIC || word(8) != FORMAT {
            return Err(broken("this is no prepared corpus of format 1"));
        }
        if word(44) != crc32c::crc32c(&header[..44]) {
            return Err(broken("the header is damaged"));
        }
        let mut rest = Vec::new();
        input.read_to_end(&mut rest)?;
        if rest.len() as u64 != long(24) + long(32) || crc32c::crc32c(&rest) != word(40) {
            return Err(broken("the corpus is cut short or damaged"));
        }
        let (description, mut body) = rest.split_at(long(24) as usize);
        let mut prepared = Self {
            seed: long(16),
            description: String::from_utf8_lossy(description).into_owned(),
            ..Self::default()
        };
        for _ in 0..word(12) {
            let (key, role, json) =
                take_entry(&mut body).ok_or_else(|| broken("an entry is cut"))?;
            prepared.push(json, key, role);
        }
        prepared.frames.finish();
        Ok(prepared)
    }
}

fn take_entry<'a>(body: &mut &'a [u8]) -> Option<(u64, Role, &'a [u8])> {
    let key = u64::from_le_bytes(body.get(..8)?.try_into().ok()?);
    let role = match body.get(8)? {
        0 => Role::Fresh,
        1 => Role::Duplicate,
        2 => Role::BadSignature,
        3 => Role::Stale,
        _ => return None,
    };
    let length = u32::from_le_bytes(body.get(9..13)?.try_into().ok()?) as usize;
    let json = body.get(13..13 + length)?;
    *body = &body[13 + length..];
    Some((key, role, json))
}

fn key_of(event: &proto::Event) -> u64 {
    let id = event.view().id().0;
    u64::from_be_bytes(id[..8].try_into().expect("an id has 32 bytes"))
}

fn broken(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{CorpusOptions, Shape};

    fn made(seed: u64, threads: usize) -> Vec<u8> {
        let options = CorpusOptions {
            duplicate_per_mille: 200,
            bad_signature_per_mille: 50,
            ..CorpusOptions::default()
        };
        let corpus = Corpus::new(Shape::Public, seed, 1_500, options);
        let mut out = Vec::new();
        Prepared::sign(corpus, seed, "public", threads, &mut |_| {}).write(&mut out).unwrap();
        out
    }

    #[test]
    fn the_same_seed_is_the_same_file_and_reads_back() {
        let file = made(4, 1);
        assert_eq!(file, made(4, 3));
        assert_ne!(file, made(5, 1));
        let read = Prepared::read(&mut &file[..]).unwrap();
        assert_eq!((read.seed, read.description.as_str()), (4, "public"));
        assert_eq!(read.frames.len(), 1_500);
        assert!(read.roles.contains(&Role::Duplicate) && read.roles.contains(&Role::BadSignature));
        let mut again = Vec::new();
        read.write(&mut again).unwrap();
        assert_eq!(again, file);
    }

    #[test]
    fn a_damaged_or_cut_file_is_refused() {
        let file = made(4, 2);
        assert!(Prepared::read(&mut &file[..file.len() - 1]).is_err());
        for at in [0, 9, 20, 46, 50, file.len() / 2] {
            let mut damaged = file.clone();
            damaged[at] ^= 4;
            assert!(Prepared::read(&mut &damaged[..]).is_err(), "byte {at}");
        }
    }

    #[test]
    fn a_dump_is_imported_and_what_is_no_event_left_out() {
        let file = made(4, 1);
        let prepared = Prepared::read(&mut &file[..]).unwrap();
        let mut dump = Vec::new();
        for index in 0..50 {
            dump.extend_from_slice(prepared.frames.json(index));
            dump.extend_from_slice(b"\n");
        }
        dump.extend_from_slice(b"{\"no\":\"event\"}\n\n");
        let (imported, refused) = Prepared::import(&mut &dump[..], "dump").unwrap();
        assert_eq!((imported.frames.len(), refused), (50, 1));
        assert_eq!(imported.frames.frame(7), prepared.frames.frame(7));
    }
}
