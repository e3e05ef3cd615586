//! The machine as files below a root. Reading is all that a check needs; writing is for the journal
//! alone.

use std::fmt;
use std::io;

/// Reads files and folders by their absolute name on the machine, such as `/proc/sys/fs/nr_open`.
pub trait Host {
    /// The whole file.
    ///
    /// # Errors
    /// The system's.
    fn read(&self, path: &str) -> io::Result<Vec<u8>>;

    /// The names in a folder, sorted.
    ///
    /// # Errors
    /// The system's.
    fn list(&self, path: &str) -> io::Result<Vec<String>>;
}

/// Why a value is not known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreadable {
    /// The file.
    pub path: String,
    /// The system's word.
    pub why: String,
    /// It is not there, which for much in `/sys` only means that this machine has no such thing.
    pub is_absent: bool,
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.why)
    }
}

impl Unreadable {
    fn new(path: &str, error: &io::Error) -> Self {
        let is_absent = matches!(
            error.kind(),
            // A device that has no such value says so in words of its own.
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
        );
        let why = if is_absent { "not there".to_owned() } else { error.to_string() };
        Self { path: path.to_owned(), why, is_absent }
    }

    /// The file is there, and what it says is not what such a file says.
    pub fn odd(path: &str, said: &str) -> Self {
        let said: String = said.chars().take(40).collect();
        Self { path: path.to_owned(), why: format!("says {said:?}"), is_absent: false }
    }
}

/// A file as text without the line break at its end; bytes that are no UTF-8 are replaced.
///
/// # Errors
/// [`Unreadable`] says which file and why.
pub fn text(host: &dyn Host, path: &str) -> Result<String, Unreadable> {
    match host.read(path) {
        Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).trim_end().to_owned()),
        Err(error) => Err(Unreadable::new(path, &error)),
    }
}

/// A file as it is, if it can be read and is text.
pub(crate) fn text_raw(host: &dyn Host, path: &str) -> Option<String> {
    String::from_utf8(host.read(path).ok()?).ok()
}

/// A file that holds one number.
///
/// # Errors
/// [`Unreadable`], also when it holds something else.
pub fn number(host: &dyn Host, path: &str) -> Result<u64, Unreadable> {
    let text = text(host, path)?;
    text.trim().parse().map_err(|_| Unreadable::odd(path, &text))
}

/// The names in a folder.
///
/// # Errors
/// [`Unreadable`] says which folder and why.
pub fn list(host: &dyn Host, path: &str) -> Result<Vec<String>, Unreadable> {
    host.list(path).map_err(|error| Unreadable::new(path, &error))
}

/// What stands at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Node {
    /// Nothing.
    Absent,
    /// A regular file.
    File {
        /// What is in it.
        bytes: Vec<u8>,
        /// Permission bits.
        mode: u32,
        /// User and group; `None` for whoever makes it.
        ids: Option<(u32, u32)>,
        /// When it was last changed, in seconds and nanoseconds since 1970; `None` for the present.
        modified: Option<(u64, u32)>,
    },
    /// A symbolic link.
    Link {
        /// Where it points to.
        target: String,
    },
    /// A folder.
    Directory,
    /// A device, socket or pipe.
    Other,
}

/// Changes files below a root. Each call is one step that a power cut may come before or after;
/// [`crate::journal`] orders them so that any prefix can be taken back.
pub trait Disk: Host {
    /// What stands at `path`, links not followed.
    ///
    /// # Errors
    /// The system's; that nothing is there is no error.
    fn node(&self, path: &str) -> io::Result<Node>;

    /// Makes `path` hold `node`, a file or a link, in place of whatever file or link is there. The
    /// bytes are on stable storage when this returns. Not atomic: used for names that nobody reads.
    ///
    /// # Errors
    /// The system's.
    fn create(&self, path: &str, node: &Node) -> io::Result<()>;

    /// Renames a file within its folder, in place of what has the new name, durably.
    ///
    /// # Errors
    /// The system's.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file or link, durably.
    ///
    /// # Errors
    /// The system's; that it is gone already is no error.
    fn remove(&self, path: &str) -> io::Result<()>;

    /// Makes one folder.
    ///
    /// # Errors
    /// The system's.
    fn create_directory(&self, path: &str) -> io::Result<()>;

    /// Removes a folder if it is empty; `false` if it is not, or not there.
    ///
    /// # Errors
    /// The system's.
    fn remove_directory(&self, path: &str) -> io::Result<bool>;

    /// Writes into a file of the kernel's, which must be there; nothing is created.
    ///
    /// # Errors
    /// The system's: the kernel refuses what it does not like.
    fn poke(&self, path: &str, value: &[u8]) -> io::Result<()>;
}
