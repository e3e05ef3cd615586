//! Lines of a dump, and how far an earlier import of it came.

use serde::{Deserialize, Serialize};
use std::io::{self, BufRead, Read};
use std::path::{Path, PathBuf};

/// Lines longer than this are skipped without being kept.
const LINE_BYTES_MAX: usize = 16 << 20;

/// A line that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Line {
    /// Consumed, its end included; 0 at the end of the input.
    pub(super) bytes: u64,
    /// It was beyond the limit, and nothing of it was kept.
    pub(super) is_too_long: bool,
}

/// Reads one line with its end.
pub(super) fn read_line(reader: &mut dyn BufRead, line: &mut Vec<u8>) -> io::Result<Line> {
    line.clear();
    let bytes = reader.take(LINE_BYTES_MAX as u64).read_until(b'\n', line)? as u64;
    if bytes < LINE_BYTES_MAX as u64 || line.ends_with(b"\n") {
        return Ok(Line { bytes, is_too_long: false });
    }
    line.clear();
    let mut skipped = 0;
    loop {
        let buffer = reader.fill_buf()?;
        let end = buffer.iter().position(|byte| *byte == b'\n');
        let used = end.map_or(buffer.len(), |end| end + 1);
        let is_done = end.is_some() || used == 0;
        reader.consume(used);
        skipped += used as u64;
        if is_done {
            return Ok(Line { bytes: bytes + skipped, is_too_long: true });
        }
    }
}

/// How far an earlier import of a file came.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Progress {
    pub(super) path: String,
    pub(super) bytes: u64,
    pub(super) modified_ns: i128,
    pub(super) offset: u64,
}

/// The file in the data directory that says how far an import came.
pub(super) struct Kept {
    path: PathBuf,
}

impl Kept {
    pub(super) fn new(data_dir: &Path, progress: &Progress) -> Self {
        // Not placement, not a map: only a name that two paths do not share.
        let key = proto::Secret(*b"import progress!").hash64(0, progress.path.as_bytes());
        Self { path: data_dir.join(format!("import-{key:016x}.json")) }
    }

    /// The offset, if it is about the same, unchanged file.
    pub(super) fn read(&self, now: &Progress) -> Option<u64> {
        let text = std::fs::read_to_string(&self.path).ok()?;
        let before: Progress = serde_json::from_str(&text).ok()?;
        let is_same = before.path == now.path
            && before.bytes == now.bytes
            && before.modified_ns == now.modified_ns
            && before.offset <= now.bytes;
        (is_same && before.offset > 0).then_some(before.offset)
    }

    /// Losing this costs time and nothing else, so failures are let go and nothing is synced.
    pub(super) fn write(&self, progress: &Progress) {
        let temporary = self.path.with_extension("new");
        let text = serde_json::to_string(progress).unwrap_or_default();
        if std::fs::write(&temporary, text).is_ok() {
            let _ = std::fs::rename(&temporary, &self.path);
        }
    }

    pub(super) fn forget(&self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_counted_to_the_byte_and_monsters_are_skipped() {
        let mut text = b"one\n\ntwo\n".to_vec();
        text.extend(std::iter::repeat_n(b'x', LINE_BYTES_MAX + 5));
        text.extend_from_slice(b"\nlast");
        let mut reader = io::Cursor::new(&text);
        let mut line = Vec::new();
        let mut lines = Vec::new();
        let mut total = 0;
        loop {
            let read = read_line(&mut reader, &mut line).unwrap();
            if read.bytes == 0 {
                break;
            }
            total += read.bytes;
            assert_eq!(read.is_too_long, read.bytes > LINE_BYTES_MAX as u64);
            lines.push(line.clone());
        }
        assert_eq!(total, text.len() as u64);
        let expected: [&[u8]; 5] = [b"one\n", b"\n", b"two\n", b"", b"last"];
        assert_eq!(lines, expected);
    }

    #[test]
    fn an_offset_counts_for_the_same_unchanged_file_only() {
        let root = tempfile::tempdir().unwrap();
        let progress =
            |bytes, offset| Progress { path: "/x".into(), bytes, modified_ns: 1, offset };
        let kept = Kept::new(root.path(), &progress(10, 0));
        assert_eq!(kept.read(&progress(10, 0)), None);
        kept.write(&progress(10, 7));
        assert_eq!(kept.read(&progress(10, 0)), Some(7));
        assert_eq!(kept.read(&progress(11, 0)), None);
        kept.forget();
        assert_eq!(kept.read(&progress(10, 0)), None);
    }
}
