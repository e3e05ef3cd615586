//! The data directory: `FORMAT`, `LOCK` and a folder per shard. Made under another name and then
//! renamed, so that there is never half of one.

use super::entropy;
use proto::Secret;
use proto::id::{read_hex, write_hex};
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

/// Format of directories that this program makes and reads.
const VERSION: u32 = 1;

/// What `FORMAT` says. The bucket table is the even one over `shards`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Format {
    version: u32,
    node_id: String,
    secret: String,
    shards: u16,
}

/// An open data directory, locked for this process as long as it lives.
#[derive(Debug)]
pub struct Directory {
    path: PathBuf,
    /// Random name of the directory, for reports.
    pub node_id: String,
    /// Keys placement and index.
    pub secret: Secret,
    /// Shards that it was made with.
    pub shards: u16,
    _lock: File,
}

/// Why a data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// Another process has it.
    #[error("{path} is in use by process {pid}")]
    Held {
        /// The directory.
        path: String,
        /// Who, as the lock file says.
        pid: String,
    },
    /// There is none.
    #[error("there is no data directory at {0}")]
    Missing(String),
    /// A newer program made it.
    #[error("{path} has format version {version}; this program knows version {VERSION} and older")]
    Newer {
        /// The directory.
        path: String,
        /// Its version.
        version: u32,
    },
    /// `FORMAT` cannot be read.
    #[error("{path} is no data directory: {what}")]
    Malformed {
        /// The file.
        path: String,
        /// What is wrong.
        what: String,
    },
    /// The shards asked for are not those it was made with.
    #[error("{path} was made with {made} shards and {asked} are asked for; leave the number out")]
    Shards {
        /// The directory.
        path: String,
        /// Its number.
        made: u16,
        /// The operator's.
        asked: u16,
    },
    /// The system refuses.
    #[error("{path}: {error}")]
    System {
        /// What was touched.
        path: String,
        /// The system's words.
        error: io::Error,
    },
}

impl Directory {
    /// Opens and locks the directory at `path`, first making it with `shards_of_new` shards if
    /// there is none. `shards_asked` other than 0 must be what it was made with.
    ///
    /// # Errors
    /// [`DirectoryError`].
    pub fn open_or_create(
        path: &Path,
        shards_of_new: u16,
        shards_asked: u16,
    ) -> Result<Self, DirectoryError> {
        if !path.join("FORMAT").exists() {
            create(path, shards_of_new)?;
        }
        let directory = Self::open(path)?;
        if shards_asked != 0 && shards_asked != directory.shards {
            return Err(DirectoryError::Shards {
                path: path.display().to_string(),
                made: directory.shards,
                asked: shards_asked,
            });
        }
        Ok(directory)
    }

    /// Opens and locks the directory at `path`, which must exist.
    ///
    /// # Errors
    /// [`DirectoryError`].
    pub fn open(path: &Path) -> Result<Self, DirectoryError> {
        let format_path = path.join("FORMAT");
        let text = match fs::read_to_string(&format_path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(DirectoryError::Missing(path.display().to_string()));
            }
            other => other.map_err(|error| system(&format_path, error))?,
        };
        let format = parse(&format_path, &text)?;
        let secret = read_hex(format.secret.as_bytes()).map(Secret);
        let secret = secret.filter(|_| format.shards > 0).ok_or_else(|| {
            DirectoryError::Malformed {
                path: format_path.display().to_string(),
                what: "it has no secret, or no shards".into(),
            }
        })?;
        let lock = lock(path)?;
        let (node_id, shards) = (format.node_id, format.shards);
        Ok(Self { path: path.to_owned(), node_id, secret, shards, _lock: lock })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The folder of a shard.
    pub fn shard_dir(&self, shard: u16) -> PathBuf {
        self.path.join(format!("shard-{shard:03}"))
    }

    /// The socket by which commands reach a running relay.
    pub fn admin_socket(path: &Path) -> PathBuf {
        path.join("admin.sock")
    }
}

fn parse(path: &Path, text: &str) -> Result<Format, DirectoryError> {
    let malformed = |what: String| DirectoryError::Malformed {
        path: path.display().to_string(),
        what,
    };
    let table: toml::Table = text.parse().map_err(|error: toml::de::Error| {
        malformed(error.message().to_owned())
    })?;
    // The version first: a newer format may have other keys.
    let version = table.get("version").and_then(toml::Value::as_integer);
    let version = version.and_then(|version| u32::try_from(version).ok());
    match version {
        None => Err(malformed("it names no version".into())),
        Some(version) if version > VERSION => {
            let path = path.parent().unwrap_or(path).display().to_string();
            Err(DirectoryError::Newer { path, version })
        }
        Some(_) => table.try_into().map_err(|error: toml::de::Error| {
            malformed(error.message().to_owned())
        }),
    }
}

fn system(path: &Path, error: io::Error) -> DirectoryError {
    DirectoryError::System { path: path.display().to_string(), error }
}

fn create(path: &Path, shards: u16) -> Result<(), DirectoryError> {
    let hex = |bytes: &[u8]| {
        let mut out = Vec::new();
        write_hex(bytes, &mut out);
        String::from_utf8_lossy(&out).into_owned()
    };
    let node_id = hex(&entropy::bytes::<16>());
    let format = Format {
        version: VERSION,
        node_id: node_id.clone(),
        secret: hex(&entropy::bytes::<16>()),
        shards,
    };
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
    let temporary = path.with_file_name(format!("{}.new-{node_id}", name.unwrap_or_default()));
    let build = || -> io::Result<()> {
        fs::create_dir_all(&temporary)?;
        let mut file = File::create_new(temporary.join("FORMAT"))?;
        let body = toml::to_string(&format).map_err(io::Error::other)?;
        file.write_all(b"# Made by turnpike. The secret keys the placement of events: keep it.\n")?;
        file.write_all(body.as_bytes())?;
        file.sync_all()?;
        for shard in 0..shards {
            fs::create_dir_all(temporary.join(format!("shard-{shard:03}")))?;
        }
        sync_dir(&temporary)?;
        match fs::remove_dir(path) {
            // An empty directory that someone made beforehand gives way.
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        fs::rename(&temporary, path)?;
        sync_dir(path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(".".as_ref()))
    };
    build().map_err(|error| {
        let _ = fs::remove_dir_all(&temporary);
        system(path, error)
    })
}

fn sync_dir(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

fn lock(path: &Path) -> Result<File, DirectoryError> {
    let lock_path = path.join("LOCK");
    let mut file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&lock_path)
        .map_err(|error| system(&lock_path, error))?;
    if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        let mut pid = String::new();
        let _ = file.read_to_string(&mut pid);
        let pid = pid.trim().to_owned();
        return Err(DirectoryError::Held { path: path.display().to_string(), pid });
    }
    let write = || -> io::Result<()> {
        file.set_len(0)?;
        writeln!(&file, "{}", std::process::id())
    };
    write().map_err(|error| system(&lock_path, error))?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_made_once_and_belongs_to_one_at_a_time() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("data");
        assert!(matches!(Directory::open(&path), Err(DirectoryError::Missing(_))));
        let first = Directory::open_or_create(&path, 3, 0).unwrap();
        assert_eq!(first.shards, 3);
        let secret = first.secret;
        let held = Directory::open(&path).unwrap_err();
        assert!(matches!(&held, DirectoryError::Held { pid, .. }
            if *pid == std::process::id().to_string()));
        drop(first);
        let again = Directory::open_or_create(&path, 5, 3).unwrap();
        assert!(again.secret == secret && again.shards == 3);
        drop(again);
        let other = Directory::open_or_create(&path, 5, 5).unwrap_err();
        assert!(matches!(other, DirectoryError::Shards { made: 3, asked: 5, .. }));
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1, "nothing is left lying about");
    }

    #[test]
    fn an_empty_directory_is_taken_and_a_full_one_is_not() {
        let root = tempfile::tempdir().unwrap();
        let empty = root.path().join("empty");
        fs::create_dir(&empty).unwrap();
        assert!(Directory::open_or_create(&empty, 1, 0).is_ok());
        let full = root.path().join("full");
        fs::create_dir(&full).unwrap();
        fs::write(full.join("letter"), "x").unwrap();
        assert!(matches!(
            Directory::open_or_create(&full, 1, 0),
            Err(DirectoryError::System { .. })
        ));
        assert!(full.join("letter").exists());
    }

    #[test]
    fn a_newer_format_is_refused_by_its_version() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("FORMAT"), "version = 9\nshards_of = [1]\n").unwrap();
        let error = Directory::open(root.path()).unwrap_err();
        assert!(matches!(error, DirectoryError::Newer { version: 9, .. }), "{error}");
        fs::write(root.path().join("FORMAT"), "version = 1\nshards = 2\n").unwrap();
        assert!(matches!(Directory::open(root.path()), Err(DirectoryError::Malformed { .. })));
    }
}
