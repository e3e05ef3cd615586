//! The seam: real files below a real folder, `/` or another.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "the one place of this crate that touches files; all else is told what is in them"
)]

use crate::host::{Disk, Host, Node};
use std::fs::{self, File, FileTimes, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

/// Most that is read of one file. What is read here is short; a path that leads to something else
/// must not fill the memory.
const READ_BYTES_MAX: u64 = 4 << 20;
/// Mode of a new folder.
const DIRECTORY_MODE: u32 = 0o755;

/// Files below `root`.
#[derive(Clone, Debug)]
pub struct Tree {
    root: PathBuf,
}

impl Tree {
    /// Below `root`.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// Where `path` of the machine is found. A link in `/sys` is followed by the kernel, so a `..`
    /// after it means its target's parent; hence nothing is shortened here.
    fn at(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    /// Where `path` is to be changed. A link within an image may lead out of it, onto the machine
    /// that builds it.
    fn at_for_change(&self, path: &str) -> io::Result<PathBuf> {
        let at = self.at(path);
        let parent = at.parent().unwrap_or(&self.root);
        let real = fs::canonicalize(parent)?;
        if !real.starts_with(fs::canonicalize(&self.root)?) {
            let message = format!(
                "{} leads out of {} by a link; nothing is changed there",
                parent.display(),
                self.root.display()
            );
            return Err(io::Error::other(message));
        }
        Ok(at)
    }

    /// Keeps others from changing the same folder through this type until it is dropped.
    ///
    /// # Errors
    /// [`ErrorKind::WouldBlock`] when another process does; else the system's.
    pub fn lock(&self, folder: &str) -> io::Result<Lock> {
        let file = File::open(self.at(folder))?;
        match file.try_lock() {
            Ok(()) => Ok(Lock { _file: file }),
            Err(fs::TryLockError::WouldBlock) => Err(ErrorKind::WouldBlock.into()),
            Err(fs::TryLockError::Error(error)) => Err(error),
        }
    }
}

/// Held for its lock.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

fn sync_parent(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(parent) => File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}

fn time_of(metadata: &fs::Metadata) -> Option<(u64, u32)> {
    let since = metadata.modified().ok()?.duration_since(UNIX_EPOCH).ok()?;
    Some((since.as_secs(), since.subsec_nanos()))
}

impl Host for Tree {
    fn read(&self, path: &str) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        File::open(self.at(path))?.take(READ_BYTES_MAX).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    fn list(&self, path: &str) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(self.at(path))? {
            names.push(entry?.file_name().to_string_lossy().into_owned());
        }
        names.sort();
        Ok(names)
    }
}

impl Disk for Tree {
    fn node(&self, path: &str) -> io::Result<Node> {
        let at = self.at(path);
        let metadata = match fs::symlink_metadata(&at) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Node::Absent),
            Err(error) => return Err(error),
        };
        let kind = metadata.file_type();
        if kind.is_symlink() {
            let target = fs::read_link(&at)?;
            let target = target.to_str().ok_or_else(|| {
                let message = format!("{} is a link to a name that is no text", at.display());
                io::Error::other(message)
            })?;
            return Ok(Node::Link { target: target.to_owned() });
        }
        if kind.is_dir() {
            return Ok(Node::Directory);
        }
        if !kind.is_file() {
            return Ok(Node::Other);
        }
        if metadata.len() > READ_BYTES_MAX {
            return Err(io::Error::other(format!("{} is too large to be kept", at.display())));
        }
        Ok(Node::File {
            bytes: fs::read(&at)?,
            mode: metadata.mode() & 0o7777,
            ids: Some((metadata.uid(), metadata.gid())),
            modified: time_of(&metadata),
        })
    }

    fn create(&self, path: &str, node: &Node) -> io::Result<()> {
        let at = self.at_for_change(path)?;
        match fs::remove_file(&at) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        match node {
            Node::Link { target } => std::os::unix::fs::symlink(target, &at)?,
            Node::File { bytes, mode, ids, modified } => {
                let mut options = OpenOptions::new();
                // Nobody reads it before it is whole and its owner is the right one.
                let mut file = options.write(true).create_new(true).mode(0o600).open(&at)?;
                file.write_all(bytes)?;
                let made = file.metadata()?;
                if let Some((uid, gid)) = *ids
                    && (made.uid(), made.gid()) != (uid, gid)
                {
                    std::os::unix::fs::fchown(&file, Some(uid), Some(gid))?;
                }
                file.set_permissions(fs::Permissions::from_mode(*mode))?;
                if let Some((seconds, nanoseconds)) = *modified {
                    let time = UNIX_EPOCH + Duration::new(seconds, nanoseconds);
                    file.set_times(FileTimes::new().set_modified(time))?;
                }
                file.sync_all()?;
            }
            Node::Absent | Node::Directory | Node::Other => {
                return Err(io::Error::other("only files and links are created"));
            }
        }
        sync_parent(&at)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let (from, to) = (self.at_for_change(from)?, self.at_for_change(to)?);
        fs::rename(&from, &to)?;
        sync_parent(&to)
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        let at = match self.at_for_change(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            at => at?,
        };
        match fs::remove_file(&at) {
            Ok(()) => sync_parent(&at),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn create_directory(&self, path: &str) -> io::Result<()> {
        let at = self.at_for_change(path)?;
        fs::create_dir(&at)?;
        // Whatever the umask is, the service manager has to be able to look in.
        fs::set_permissions(&at, fs::Permissions::from_mode(DIRECTORY_MODE))?;
        sync_parent(&at)
    }

    fn remove_directory(&self, path: &str) -> io::Result<bool> {
        let at = match self.at_for_change(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
            at => at?,
        };
        match fs::remove_dir(&at) {
            Ok(()) => sync_parent(&at).map(|()| true),
            Err(error)
                if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::DirectoryNotEmpty) =>
            {
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    fn poke(&self, path: &str, value: &[u8]) -> io::Result<()> {
        let at = self.at_for_change(path)?;
        let mut file = OpenOptions::new().write(true).truncate(true).open(at)?;
        file.write_all(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_link_leads_out_of_the_root_to_is_not_changed() {
        let outside = tempfile::tempdir().unwrap();
        let root = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(outside.path(), root.path().join("etc")).unwrap();
        let tree = Tree::new(root.path());
        let file = Node::File { bytes: b"x".to_vec(), mode: 0o644, ids: None, modified: None };
        let error = tree.create("/etc/a", &file).unwrap_err();
        assert!(error.to_string().contains("leads out of"), "{error}");
        assert!(tree.poke("/etc/a", b"x").is_err() && tree.create_directory("/etc/d").is_err());
        assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
    }

    #[test]
    fn nothing_is_created_by_a_poke_and_a_folder_with_something_in_it_stays() {
        let root = tempfile::tempdir().unwrap();
        let tree = Tree::new(root.path());
        assert_eq!(tree.poke("/value", b"1").unwrap_err().kind(), ErrorKind::NotFound);
        tree.create_directory("/d").unwrap();
        fs::write(root.path().join("d/f"), "x").unwrap();
        assert!(!tree.remove_directory("/d").unwrap() && !tree.remove_directory("/e").unwrap());
        tree.remove("/d/f").unwrap();
        tree.remove("/d/f").unwrap();
        assert!(tree.remove_directory("/d").unwrap());
    }

    #[test]
    fn one_process_at_a_time_holds_the_lock() {
        let root = tempfile::tempdir().unwrap();
        let tree = Tree::new(root.path());
        let held = tree.lock("/").unwrap();
        assert_eq!(tree.lock("/").unwrap_err().kind(), ErrorKind::WouldBlock);
        drop(held);
        tree.lock("/").unwrap();
    }
}
