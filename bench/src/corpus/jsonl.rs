//! A corpus as JSON lines, signed on as many threads as there are.

use super::{Corpus, Sample, Unsigned};
use std::io::{self, Write};

/// Events that one thread signs before it asks for more.
const CHUNK_EVENTS: usize = 512;

/// What was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// Lines.
    pub events: u64,
    /// Bytes, line ends included.
    pub bytes: u64,
}

/// Appends one event and a line end.
pub fn write_line(sample: &Sample, out: &mut Vec<u8>) {
    sample.event.view().write_json(out);
    out.push(b'\n');
}

/// Writes the whole corpus in order; the bytes do not depend on `threads`. `progress` hears after
/// each round how much has been written in all.
///
/// # Errors
/// What `out` reports.
#[allow(
    clippy::disallowed_methods,
    reason = "signing spreads over cores; the order does not change"
)]
pub fn write(
    corpus: Corpus,
    threads: usize,
    out: &mut dyn Write,
    progress: &mut dyn FnMut(Written),
) -> io::Result<Written> {
    let mut written = Written::default();
    let mut unsigned = corpus.unsigned();
    let threads = threads.max(1);
    loop {
        let round: Vec<Unsigned> = unsigned.by_ref().take(CHUNK_EVENTS * threads).collect();
        if round.is_empty() {
            return Ok(written);
        }
        let chunks: Vec<Vec<u8>> = std::thread::scope(|scope| {
            let signing: Vec<_> = round
                .chunks(CHUNK_EVENTS)
                .map(|chunk| scope.spawn(move || signed_lines(chunk)))
                .collect();
            signing
                .into_iter()
                .map(|thread| thread.join().expect("signing does not panic"))
                .collect()
        });
        for chunk in chunks {
            out.write_all(&chunk)?;
            written.bytes += chunk.len() as u64;
        }
        written.events += round.len() as u64;
        progress(written);
    }
}

fn signed_lines(chunk: &[Unsigned]) -> Vec<u8> {
    let mut lines = Vec::new();
    for unsigned in chunk {
        write_line(&unsigned.sign(), &mut lines);
    }
    lines
}
