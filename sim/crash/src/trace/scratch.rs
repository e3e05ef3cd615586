//! A folder in memory that becomes one image after another. Only what differs from what lies there is
//! written: an image is seldom far from the one before.

use super::disk::Image;
use super::effect::{LOCKS, NodeId};
use bench::rng::Rng;
use rustix::fs::{Timespec, Timestamps};
use std::collections::BTreeMap;
use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

/// Files are compared in pieces of this size.
const PIECE_BYTES: usize = 4096;

/// What was written to a file.
#[derive(Debug)]
struct Written {
    node: NodeId,
    content: u64,
    bytes: Vec<u8>,
    inode: u64,
    /// Set by us, so that whoever changes the file changes it.
    modified_s: i64,
}

/// The folder. Holds a copy of every file in it.
#[derive(Debug)]
pub struct Scratch {
    root: PathBuf,
    files: BTreeMap<String, Written>,
    stamps: i64,
}

impl Scratch {
    /// Over an empty folder.
    pub fn new(root: &Path) -> Self {
        Self { root: root.to_owned(), files: BTreeMap::new(), stamps: 0 }
    }

    /// The folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Makes the folder hold an image and nothing else, but for locks with anything in them.
    ///
    /// # Errors
    /// When the file system fails.
    pub fn become_image(&mut self, image: &Image<'_>, rng: &mut Rng) -> io::Result<()> {
        let wanted: BTreeMap<&str, bool> = image
            .entries
            .iter()
            .map(|entry| (entry.path.as_str(), entry.bytes.is_some()))
            .collect();
        self.remove_others(&self.root.clone(), "", &wanted, rng)?;
        for entry in &image.entries {
            match &entry.bytes {
                None => make_directory(&self.root.join(&entry.path))?,
                Some(bytes) => self.write(&entry.path, entry.node, entry.content, bytes)?,
            }
        }
        Ok(())
    }

    fn remove_others(
        &mut self,
        directory: &Path,
        prefix: &str,
        wanted: &BTreeMap<&str, bool>,
        rng: &mut Rng,
    ) -> io::Result<()> {
        for entry in std::fs::read_dir(directory)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let path = if prefix.is_empty() { name.clone() } else { format!("{prefix}/{name}") };
            let is_directory = entry.file_type()?.is_dir();
            if LOCKS.contains(&name.as_str()) {
                leave_lock(&entry.path(), rng)?;
                continue;
            }
            match wanted.get(path.as_str()) {
                Some(true) if !is_directory => {}
                Some(false) if is_directory => {
                    self.remove_others(&entry.path(), &path, wanted, rng)?;
                }
                _ if is_directory => std::fs::remove_dir_all(entry.path())?,
                _ => std::fs::remove_file(entry.path())?,
            }
        }
        Ok(())
    }

    fn write(&mut self, path: &str, node: NodeId, content: u64, bytes: &[u8]) -> io::Result<()> {
        let absolute = self.root.join(path);
        let there = std::fs::symlink_metadata(&absolute).ok();
        let before = self.files.remove(path);
        let before = before.filter(|have| there.as_ref().is_some_and(|there| have.is(there)));
        if let Some(have) = &before
            && have.node == node
            && have.content == content
        {
            self.files.extend(before.map(|have| (path.to_owned(), have)));
            return Ok(());
        }
        let file = File::options().write(true).create(true).truncate(false).open(&absolute)?;
        let known = before.map(|have| have.bytes).unwrap_or_default();
        write_difference(&file, &known, bytes)?;
        file.set_len(bytes.len() as u64)?;
        self.stamps += 1;
        let modified_s = self.stamps;
        let time = Timespec { tv_sec: modified_s, tv_nsec: 0 };
        rustix::fs::futimens(&file, &Timestamps { last_access: time, last_modification: time })?;
        let inode = file.metadata()?.ino();
        let written = Written { node, content, bytes: bytes.to_vec(), inode, modified_s };
        self.files.insert(path.to_owned(), written);
        Ok(())
    }
}

impl Written {
    /// Whether a file is as we left it.
    fn is(&self, there: &Metadata) -> bool {
        there.ino() == self.inode
            && there.mtime() == self.modified_s
            && there.mtime_nsec() == 0
            && there.len() == self.bytes.len() as u64
    }
}

fn make_directory(path: &Path) -> io::Result<()> {
    match std::fs::create_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

/// Writes the pieces in which a file that holds `known` differs from `wanted`.
fn write_difference(file: &File, known: &[u8], wanted: &[u8]) -> io::Result<()> {
    let piece = |bytes: &[u8], at: usize| -> Option<(usize, usize)> {
        let end = (at + PIECE_BYTES).min(bytes.len());
        (at < end).then_some((at, end))
    };
    let differs = |at: usize| {
        let (_, end) = piece(wanted, at).unwrap_or((at, at));
        known.get(at..end) != Some(&wanted[at..end])
    };
    let mut at = 0;
    while at < wanted.len() {
        if !differs(at) {
            at += PIECE_BYTES;
            continue;
        }
        let start = at;
        while at < wanted.len() && differs(at) {
            at += PIECE_BYTES;
        }
        let end = at.min(wanted.len());
        file.write_all_at(&wanted[start..end], start as u64)?;
    }
    Ok(())
}

/// A lock that survives holds anything.
fn leave_lock(path: &Path, rng: &mut Rng) -> io::Result<()> {
    match rng.below(8) {
        0 => std::fs::remove_file(path),
        1 => {
            let file = File::options().write(true).open(path)?;
            let length = file.metadata()?.len();
            let noise: Vec<u8> =
                (0..length.div_ceil(8)).flat_map(|_| rng.next_u64().to_le_bytes()).collect();
            file.write_all_at(&noise[..length as usize], 0)?;
            file.set_len(if rng.chance(1, 2) { length } else { rng.below(length + 1) })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::disk::Entry;
    use super::*;
    use std::borrow::Cow;

    fn image(files: &[(&str, u64, &[u8])]) -> Image<'static> {
        let mut entries = vec![Entry { path: "d".to_owned(), node: 1, content: 0, bytes: None }];
        for (name, content, bytes) in files {
            let bytes = Some(Cow::Owned(bytes.to_vec()));
            entries.push(Entry { path: format!("d/{name}"), node: 2, content: *content, bytes });
        }
        Image { entries, identity: 0 }
    }

    #[test]
    fn whatever_was_done_to_an_image_the_next_one_is_exact() {
        let folder = tempfile::tempdir().unwrap();
        let (mut scratch, mut rng) = (Scratch::new(folder.path()), Rng::new(1));
        let long = vec![7; 10_000];
        scratch.become_image(&image(&[("a", 1, &long), ("b", 1, b"b")]), &mut rng).unwrap();
        let read = |name: &str| std::fs::read(folder.path().join("d").join(name)).ok();
        assert_eq!(read("a"), Some(long.clone()));
        // Somebody works on it, and leaves the length as it was.
        let a = File::options().write(true).open(folder.path().join("d/a")).unwrap();
        a.write_all_at(b"changed", 5_000).unwrap();
        std::fs::remove_file(folder.path().join("d/b")).unwrap();
        std::fs::create_dir(folder.path().join("d/new")).unwrap();
        std::fs::write(folder.path().join("d/LOCK"), b"1234").unwrap();
        scratch.become_image(&image(&[("a", 1, &long), ("b", 1, b"b")]), &mut rng).unwrap();
        assert_eq!((read("a"), read("b")), (Some(long), Some(b"b".to_vec())));
        assert!(!folder.path().join("d/new").exists());
        scratch.become_image(&image(&[("a", 2, b"short")]), &mut rng).unwrap();
        assert_eq!((read("a"), read("b")), (Some(b"short".to_vec()), None));
    }
}
