//! Which backend this host allows.

use super::reactor::Backend;
use super::uring;
use std::io;

/// What the operator asked for with `--runtime`.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    serde::Serialize,
    serde::Deserialize,
    clap::ValueEnum,
)]
#[serde(rename_all = "kebab-case")]
pub enum RuntimeChoice {
    /// `io_uring` if the host allows it, else epoll.
    #[default]
    Auto,
    /// `io_uring` or nothing.
    IoUring,
    /// epoll.
    Epoll,
}

/// The backend to use, and the line that tells the operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chosen {
    /// The backend.
    pub backend: Backend,
    /// `io-uring`, or `epoll`, with the reason where `auto` could not have the first.
    pub line: String,
}

/// Whether `io_uring` does here all that the relay wants of it; the error says what is missing.
///
/// # Errors
/// The system's refusal, or the name of what is missing.
pub fn io_uring() -> io::Result<()> {
    uring::probe()
}

/// Chooses a backend by trying it.
///
/// # Errors
/// When the operator insists on `io_uring` and the host forbids it.
pub fn choose(choice: RuntimeChoice) -> io::Result<Chosen> {
    if choice == RuntimeChoice::Epoll {
        return Ok(Chosen { backend: Backend::Epoll, line: "epoll".into() });
    }
    match (uring::probe(), choice) {
        (Ok(()), _) => Ok(Chosen { backend: Backend::IoUring, line: "io-uring".into() }),
        (Err(error), RuntimeChoice::IoUring) => Err(io::Error::new(
            error.kind(),
            format!(
                "io_uring was asked for but cannot be used here: {error}; start with --runtime \
                 auto or --runtime epoll"
            ),
        )),
        (Err(error), _) => {
            let line = format!("epoll (io_uring: {error})");
            Ok(Chosen { backend: Backend::Epoll, line })
        }
    }
}
