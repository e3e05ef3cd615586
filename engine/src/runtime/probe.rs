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
    /// The executor of the glommio crate, if this build has it.
    Glommio,
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
/// When the operator insists on `io_uring` and the host forbids it, or on a backend that this build
/// does not have.
pub fn choose(choice: RuntimeChoice) -> io::Result<Chosen> {
    match choice {
        RuntimeChoice::Epoll => {
            return Ok(Chosen { backend: Backend::Epoll, line: "epoll".into() });
        }
        RuntimeChoice::Glommio => return glommio(),
        RuntimeChoice::Auto | RuntimeChoice::IoUring => {}
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

#[cfg(feature = "glommio")]
fn glommio() -> io::Result<Chosen> {
    match super::glommio::probe() {
        Ok(()) => Ok(Chosen { backend: Backend::Glommio, line: "glommio".into() }),
        Err(error) => Err(io::Error::new(
            error.kind(),
            format!(
                "glommio was asked for but cannot be used here: {error}; start with --runtime auto \
                 or --runtime epoll"
            ),
        )),
    }
}

#[cfg(not(feature = "glommio"))]
fn glommio() -> io::Result<Chosen> {
    Err(io::Error::new(
        io::ErrorKind::Unsupported,
        "glommio was asked for, and this build lacks it: build with `--features glommio`, or start \
         with --runtime auto",
    ))
}
