//! The data directory: what every shard's store shares, made once and locked by one process.
//!
//! `FORMAT` holds the format version, the node's id, the secret that keys placement and index, and
//! which shard owns which bucket; `LOCK` holds the id of the process that has the directory open.
//! `shard-000/log` and `shard-000/index` belong to shard 0, and so on; after the directory has been
//! resharded k times they are called `shard-000.k`, and replacing `FORMAT` is what makes them live. A directory is made under a
//! temporary name and renamed, so one that exists is whole.

use super::{sync_directory, sync_file};
use proto::hash::BUCKETS;
use proto::{Placement, Secret};
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Version of the directory's format that this program writes and reads.
pub const DIRECTORY_VERSION: u32 = 2;
/// Most shards of one directory.
pub const SHARDS_MAX: u16 = BUCKETS as u16;

/// Mode of a new directory: nobody but its owner.
const DIRECTORY_MODE: u32 = 0o700;
/// How often the lock is tried, and the pause between: [`holder`] takes it for a moment, and a
/// process that has just been killed may not have let go of it yet.
const LOCK_ATTEMPTS: u32 = 10;
const LOCK_PAUSE: Duration = Duration::from_millis(20);

const FORMAT_MAGIC: &[u8; 8] = b"TURNPIKE";
const FORMAT_FILE: &str = "FORMAT";
const LOCK_FILE: &str = "LOCK";
/// Bytes of a `FORMAT` of version 1, which has no layout.
const FORMAT_BYTES_1: usize = 8 + 4 + 16 + 16 + 2 + BUCKETS * 2 + 4;
const FORMAT_BYTES: usize = FORMAT_BYTES_1 + 2;

/// Why a data directory could not be opened or made.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// The file system failed.
    #[error("{path}: {error}")]
    Io {
        /// What was being worked on.
        path: PathBuf,
        /// The system's words.
        #[source]
        error: io::Error,
    },
    /// Another process has it open.
    #[error("{path} is in use by process {pid}; stop it, or use its admin socket")]
    Held {
        /// The directory.
        path: PathBuf,
        /// The other process, as it wrote itself down.
        pid: String,
    },
    /// Written by a newer program.
    #[error("{path} has format version {version}; this program reads version {DIRECTORY_VERSION}")]
    Newer {
        /// The directory.
        path: PathBuf,
        /// Its version.
        version: u32,
    },
    /// `FORMAT` is damaged.
    #[error("{path} is damaged: {what}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: &'static str,
    },
    /// A path that exists and is no data directory.
    #[error("{path} exists, is not empty, and is no data directory (it has no file FORMAT)")]
    Foreign {
        /// The path.
        path: PathBuf,
    },
    /// A number of shards that cannot be.
    #[error("a data directory has 1 to {SHARDS_MAX} shards, not {0}")]
    Shards(u16),
    /// The names of layouts have run out.
    #[error(
        "this data directory cannot be resharded again: export it and import it into a new one"
    )]
    Layouts,
}

/// What `FORMAT` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Format {
    /// Names this node among others.
    pub node_id: [u8; 16],
    /// Keys placement and index.
    pub secret: Secret,
    /// Number of shards.
    pub shards: u16,
    /// How often the directory has been resharded: names the folders of its shards.
    pub layout: u16,
    /// Owner of every bucket.
    pub shard_of_bucket: Box<[u16]>,
}

/// Random bytes for a new directory, drawn by the caller from the system's entropy.
#[derive(Clone, Copy, Debug)]
pub struct Entropy {
    /// Becomes [`Format::node_id`].
    pub node_id: [u8; 16],
    /// Becomes [`Format::secret`].
    pub secret: [u8; 16],
}

impl Format {
    /// The format of a new directory, its buckets spread evenly.
    ///
    /// # Errors
    /// [`DirectoryError::Shards`] unless there is at least one shard and a bucket for each.
    pub fn new(shards: u16, entropy: Entropy) -> Result<Self, DirectoryError> {
        if shards == 0 || shards > SHARDS_MAX {
            return Err(DirectoryError::Shards(shards));
        }
        Ok(Self {
            node_id: entropy.node_id,
            secret: Secret(entropy.secret),
            shards,
            layout: 0,
            shard_of_bucket: even_table(shards),
        })
    }

    /// The same node's format with another number of shards, in the next layout.
    ///
    /// # Errors
    /// [`DirectoryError::Shards`] unless there is at least one shard and a bucket for each.
    pub fn resharded(&self, shards: u16) -> Result<Self, DirectoryError> {
        if shards == 0 || shards > SHARDS_MAX {
            return Err(DirectoryError::Shards(shards));
        }
        let layout = self.layout.checked_add(1).ok_or(DirectoryError::Layouts)?;
        let shard_of_bucket = even_table(shards);
        Ok(Self { shards, layout, shard_of_bucket, ..self.clone() })
    }

    /// Which shard owns which key. What is read from a directory is always the even table, so that
    /// whoever places keys agrees with what is on the disk.
    pub fn placement(&self) -> Placement {
        Placement::even(self.secret, self.shards)
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(FORMAT_BYTES);
        out.extend_from_slice(FORMAT_MAGIC);
        out.extend_from_slice(&DIRECTORY_VERSION.to_le_bytes());
        out.extend_from_slice(&self.node_id);
        out.extend_from_slice(&self.secret.0);
        out.extend_from_slice(&self.shards.to_le_bytes());
        out.extend_from_slice(&self.layout.to_le_bytes());
        for shard in &self.shard_of_bucket {
            out.extend_from_slice(&shard.to_le_bytes());
        }
        let crc = crc32c::crc32c(&out);
        out.extend_from_slice(&crc.to_le_bytes());
        out
    }

    fn decode(bytes: &[u8], path: &Path) -> Result<Self, DirectoryError> {
        let damaged = |what| DirectoryError::Damaged { path: path.to_owned(), what };
        let rest = bytes.strip_prefix(FORMAT_MAGIC).ok_or(damaged("it is no FORMAT file"))?;
        let version = rest.first_chunk().ok_or(damaged("it is too short"))?;
        let version = u32::from_le_bytes(*version);
        if version > DIRECTORY_VERSION {
            return Err(DirectoryError::Newer { path: path.to_owned(), version });
        }
        let expected = if version < 2 { FORMAT_BYTES_1 } else { FORMAT_BYTES };
        if bytes.len() != expected {
            return Err(damaged("it has the wrong length"));
        }
        let (covered, crc) = bytes.split_at(expected - 4);
        if crc != crc32c::crc32c(covered).to_le_bytes() {
            return Err(damaged("its checksum is wrong"));
        }
        let mut node_id = [0; 16];
        node_id.copy_from_slice(&bytes[12..28]);
        let mut secret = [0; 16];
        secret.copy_from_slice(&bytes[28..44]);
        let mut words =
            covered[44..].chunks_exact(2).map(|word| u16::from_le_bytes([word[0], word[1]]));
        let shards = words.next().unwrap_or(0);
        let layout = if version < 2 { 0 } else { words.next().unwrap_or(0) };
        let shard_of_bucket: Box<[u16]> = words.collect();
        if shards == 0 || shard_of_bucket.iter().any(|shard| *shard >= shards) {
            return Err(damaged("a bucket belongs to a shard that does not exist"));
        }
        if shard_of_bucket != even_table(shards) {
            return Err(damaged("its buckets are not spread as this program spreads them"));
        }
        Ok(Self { node_id, secret: Secret(secret), shards, layout, shard_of_bucket })
    }
}

/// Every bucket's shard, as [`Placement::even`] has it.
fn even_table(shards: u16) -> Box<[u16]> {
    (0..BUCKETS as u16).map(|bucket| bucket % shards).collect()
}

/// An open data directory. The lock lasts as long as this value.
#[derive(Debug)]
pub struct DataDirectory {
    path: PathBuf,
    format: Format,
    /// Held for its lock.
    _lock: File,
}

fn io_at(path: &Path) -> impl FnOnce(io::Error) -> DirectoryError {
    let path = path.to_owned();
    move |error| DirectoryError::Io { path, error }
}

impl DataDirectory {
    /// Whether `path` holds a data directory.
    pub fn exists(path: &Path) -> bool {
        path.join(FORMAT_FILE).exists()
    }

    /// Makes a data directory at `path`, which must not exist or be empty.
    ///
    /// # Errors
    /// [`DirectoryError`] when `path` is taken or the file system fails.
    pub fn create(path: &Path, format: &Format) -> Result<(), DirectoryError> {
        if path.exists() {
            let mut entries = std::fs::read_dir(path).map_err(io_at(path))?;
            if entries.next().is_some() {
                return Err(DirectoryError::Foreign { path: path.to_owned() });
            }
        }
        let parent = parent_of(path);
        std::fs::create_dir_all(parent).map_err(io_at(parent))?;
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let temporary = parent.join(format!(".{name}.new-{}", std::process::id()));
        let make = || {
            if temporary.exists() {
                std::fs::remove_dir_all(&temporary)?;
            }
            // What is in it, private messages too, is the owner's; others come in through the relay.
            std::fs::DirBuilder::new().mode(DIRECTORY_MODE).create(&temporary)?;
            make_shards(&temporary, format)?;
            let mut file = File::create(temporary.join(FORMAT_FILE))?;
            file.write_all(&format.encode())?;
            sync_file(&file)?;
            sync_directory(&temporary)?;
            // Renaming onto an empty directory replaces it.
            std::fs::rename(&temporary, path)?;
            sync_directory(parent)
        };
        make().map_err(io_at(path))
    }

    /// Locks and reads the data directory at `path`.
    ///
    /// # Errors
    /// [`DirectoryError`] when another process holds it, it is newer than this program, damaged, or
    /// the file system fails.
    pub fn open(path: &Path) -> Result<Self, DirectoryError> {
        let lock = lock(path)?;
        let format_path = path.join(FORMAT_FILE);
        let bytes = std::fs::read(&format_path).map_err(io_at(&format_path))?;
        let format = Format::decode(&bytes, &format_path)?;
        sync_names(path).map_err(io_at(path))?;
        remove_other_layouts(path, format.layout).map_err(io_at(path))?;
        Ok(Self { path: path.to_owned(), format, _lock: lock })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What `FORMAT` says.
    pub fn format(&self) -> &Format {
        &self.format
    }

    /// Where the log of a shard is.
    pub fn log_directory(&self, shard: u16) -> PathBuf {
        log_directory(&self.path, self.format.layout, shard)
    }

    /// Where the index of a shard is.
    pub fn index_directory(&self, shard: u16) -> PathBuf {
        index_directory(&self.path, self.format.layout, shard)
    }

    /// Makes the empty folders of another layout, in place of what an earlier attempt left.
    ///
    /// # Errors
    /// [`DirectoryError::Io`] when the file system fails.
    pub fn prepare(&self, format: &Format) -> Result<(), DirectoryError> {
        assert_ne!(format.layout, self.format.layout, "the live layout is not prepared again");
        let prepare = || {
            remove_other_layouts(&self.path, self.format.layout)?;
            make_shards(&self.path, format)?;
            sync_directory(&self.path)
        };
        prepare().map_err(io_at(&self.path))
    }

    /// Where the log of a shard of a layout that is being prepared is.
    pub fn prepared_log_directory(&self, format: &Format, shard: u16) -> PathBuf {
        log_directory(&self.path, format.layout, shard)
    }

    /// Where the index of a shard of a layout that is being prepared is.
    pub fn prepared_index_directory(&self, format: &Format, shard: u16) -> PathBuf {
        index_directory(&self.path, format.layout, shard)
    }

    /// Makes a layout that was prepared and filled the live one, whole or not at all, and removes
    /// the one before. Nothing of the old one may be open.
    ///
    /// # Errors
    /// [`DirectoryError::Io`] when the file system fails.
    pub fn switch(&mut self, format: Format) -> Result<(), DirectoryError> {
        let path = self.path.join(FORMAT_FILE);
        let temporary = path.with_extension("new");
        let write = || {
            let mut file = File::create(&temporary)?;
            file.write_all(&format.encode())?;
            sync_file(&file)?;
            std::fs::rename(&temporary, &path)?;
            sync_directory(&self.path)
        };
        write().map_err(io_at(&path))?;
        self.format = format;
        remove_other_layouts(&self.path, self.format.layout).map_err(io_at(&self.path))
    }
}

/// Makes the folders of a format's shards.
fn make_shards(path: &Path, format: &Format) -> io::Result<()> {
    for shard in 0..format.shards {
        std::fs::create_dir_all(log_directory(path, format.layout, shard))?;
        sync_directory(&shard_directory(path, format.layout, shard))?;
    }
    Ok(())
}

/// Removes the shards of layouts that are not the live one: what a reshard left that was killed
/// before it switched, or after. Names that are no shard's are left alone.
fn remove_other_layouts(path: &Path, live: u16) -> io::Result<()> {
    for entry in std::fs::read_dir(path)? {
        let entry = entry?;
        let name = entry.file_name();
        let is_other = name.to_str().and_then(layout_of).is_some_and(|layout| layout != live);
        if is_other {
            std::fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

/// Makes durable what a process before may have renamed and not lived to sync: the directory itself,
/// which would be gone after a power cut with all that is acknowledged from now on, and `FORMAT`,
/// whose predecessor would name a layout that is about to be removed.
fn sync_names(path: &Path) -> io::Result<()> {
    sync_directory(path)?;
    match sync_directory(parent_of(path)) {
        // Whoever may not look into the parent did not make the directory.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        synced => synced,
    }
}

fn parent_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// The layout that a folder named so belongs to; `None` if it is no shard's.
fn layout_of(name: &str) -> Option<u16> {
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let rest = name.strip_prefix("shard-")?;
    let (shard, layout) = rest.split_once('.').unwrap_or((rest, "0"));
    let is_shard = shard.len() >= 3 && is_number(shard) && is_number(layout);
    is_shard.then(|| layout.parse().ok()).flatten()
}

fn shard_directory(path: &Path, layout: u16, shard: u16) -> PathBuf {
    if layout == 0 {
        return path.join(format!("shard-{shard:03}"));
    }
    path.join(format!("shard-{shard:03}.{layout}"))
}

fn log_directory(path: &Path, layout: u16, shard: u16) -> PathBuf {
    shard_directory(path, layout, shard).join("log")
}

fn index_directory(path: &Path, layout: u16, shard: u16) -> PathBuf {
    shard_directory(path, layout, shard).join("index")
}

fn lock(path: &Path) -> Result<File, DirectoryError> {
    let lock_path = path.join(LOCK_FILE);
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    let mut file = options.open(&lock_path).map_err(io_at(&lock_path))?;
    match try_lock_patiently(&file) {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut pid = String::new();
            file.read_to_string(&mut pid).map_err(io_at(&lock_path))?;
            let pid = pid.trim().to_owned();
            return Err(DirectoryError::Held { path: path.to_owned(), pid });
        }
        Err(TryLockError::Error(error)) => return Err(io_at(&lock_path)(error)),
    }
    let write = |file: &mut File| {
        file.set_len(0)?;
        file.rewind()?;
        writeln!(file, "{}", std::process::id())
    };
    write(&mut file).map_err(io_at(&lock_path))?;
    Ok(file)
}

fn try_lock_patiently(file: &File) -> Result<(), TryLockError> {
    for _ in 1..LOCK_ATTEMPTS {
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => std::thread::sleep(LOCK_PAUSE),
            other => return other,
        }
    }
    file.try_lock()
}

/// How many shards the data directory at `path` has, without opening it: also while a relay does;
/// `None` if there is no data directory.
///
/// # Errors
/// [`DirectoryError`] when `FORMAT` cannot be read.
pub fn shards(path: &Path) -> Result<Option<u16>, DirectoryError> {
    let format_path = path.join(FORMAT_FILE);
    match std::fs::read(&format_path) {
        Ok(bytes) => Ok(Some(Format::decode(&bytes, &format_path)?.shards)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(io_at(&format_path)(error)),
    }
}

/// The process that holds the directory at `path`, if one does.
///
/// # Errors
/// [`DirectoryError::Io`] when the file system fails.
pub fn holder(path: &Path) -> Result<Option<String>, DirectoryError> {
    match lock_probe(path) {
        Ok(held) => Ok(held),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(io_at(path)(error)),
    }
}

fn lock_probe(path: &Path) -> io::Result<Option<String>> {
    let mut file = File::open(path.join(LOCK_FILE))?;
    match file.try_lock_shared() {
        Ok(()) => Ok(None),
        Err(TryLockError::WouldBlock) => {
            let mut pid = String::new();
            file.read_to_string(&mut pid)?;
            Ok(Some(pid.trim().to_owned()))
        }
        Err(TryLockError::Error(error)) => Err(error),
    }
}
