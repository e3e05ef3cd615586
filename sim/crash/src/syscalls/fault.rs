//! Which system calls are made to fail, and how; and the shim that does it.

use anyhow::{Context, ensure};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Source of the shim, compiled where it is used.
const SHIM: &str = include_str!("shim.c");

/// Calls that do the same kind of thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Class {
    /// `write`, `pwrite64`, `writev`, `pwritev`
    Write,
    /// `fsync`, `fdatasync`
    Sync,
    /// `open`, `openat`, `creat`
    Open,
    /// `rename`, `renameat`, `renameat2`
    Rename,
    /// `ftruncate`
    Truncate,
    /// `fallocate`
    Allocate,
    /// `mmap`
    Map,
    /// `unlink`, `unlinkat`, `rmdir`
    Unlink,
    /// `mkdir`, `mkdirat`
    Mkdir,
    /// `read`, `pread64`, `readv`
    Read,
    /// `getdents64`
    List,
}

/// How a call fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// The device failed.
    Eio,
    /// No room, once.
    Enospc,
    /// No room, and from then on none for whatever needs some.
    Full,
    /// A signal came in between.
    Eintr,
    /// No memory.
    Enomem,
    /// Half of it is done.
    Short,
}

impl Class {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::Write,
        Self::Sync,
        Self::Open,
        Self::Rename,
        Self::Truncate,
        Self::Allocate,
        Self::Map,
        Self::Unlink,
        Self::Mkdir,
        Self::Read,
        Self::List,
    ];

    /// The ways in which such a call can fail.
    pub fn faults(self) -> &'static [Fault] {
        use Fault::{Eintr, Eio, Enomem, Enospc, Full, Short};
        match self {
            Self::Write => &[Eio, Enospc, Full, Eintr, Short],
            Self::Sync => &[Eio, Enospc, Eintr],
            Self::Open | Self::Allocate => &[Eio, Enospc, Full, Eintr],
            Self::Rename | Self::Mkdir => &[Eio, Enospc],
            Self::Truncate => &[Eio, Enospc, Eintr],
            Self::Map => &[Enomem],
            Self::Unlink | Self::List => &[Eio],
            Self::Read => &[Eio, Eintr, Short],
        }
    }

    fn numbers(self) -> Vec<libc::c_long> {
        let mut numbers = match self {
            Self::Write => {
                vec![libc::SYS_write, libc::SYS_pwrite64, libc::SYS_writev, libc::SYS_pwritev]
            }
            Self::Sync => vec![libc::SYS_fsync, libc::SYS_fdatasync],
            Self::Open => vec![libc::SYS_openat],
            Self::Rename => vec![libc::SYS_renameat, libc::SYS_renameat2],
            Self::Truncate => vec![libc::SYS_ftruncate],
            Self::Allocate => vec![libc::SYS_fallocate],
            Self::Map => vec![libc::SYS_mmap],
            Self::Unlink => vec![libc::SYS_unlinkat],
            Self::Mkdir => vec![libc::SYS_mkdirat],
            Self::Read => vec![libc::SYS_read, libc::SYS_pread64, libc::SYS_readv],
            Self::List => vec![libc::SYS_getdents64],
        };
        numbers.extend(self.older_numbers());
        numbers
    }

    /// Calls that only older architectures have.
    #[cfg(target_arch = "x86_64")]
    fn older_numbers(self) -> Vec<libc::c_long> {
        match self {
            Self::Open => vec![libc::SYS_open, libc::SYS_creat],
            Self::Rename => vec![libc::SYS_rename],
            Self::Unlink => vec![libc::SYS_unlink, libc::SYS_rmdir],
            Self::Mkdir => vec![libc::SYS_mkdir],
            _ => Vec::new(),
        }
    }

    #[cfg(not(target_arch = "x86_64"))]
    fn older_numbers(self) -> Vec<libc::c_long> {
        Vec::new()
    }
}

impl Fault {
    fn errno(self) -> i32 {
        match self {
            Self::Eio => libc::EIO,
            Self::Enospc => libc::ENOSPC,
            Self::Eintr => libc::EINTR,
            Self::Enomem => libc::ENOMEM,
            // A disk that fills up takes a part of a write first.
            Self::Full | Self::Short => 0,
        }
    }
}

/// The compiled shim.
#[derive(Debug)]
pub struct Shim(PathBuf);

impl Shim {
    /// Compiles it into a folder.
    ///
    /// # Errors
    /// When there is no C compiler, or it refuses.
    pub fn build(folder: &Path) -> anyhow::Result<Self> {
        let (source, library) = (folder.join("shim.c"), folder.join("shim.so"));
        std::fs::write(&source, SHIM)?;
        let compiler = std::env::var_os("CC").unwrap_or_else(|| "cc".into());
        let output = Command::new(&compiler)
            .args(["-O2", "-shared", "-fPIC", "-o"])
            .args([&library, &source])
            .output()
            .with_context(|| format!("the C compiler {compiler:?} cannot be started"))?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "the shim does not compile: {said}");
        Ok(Self(library))
    }

    /// Lets the call number `at` of a class, on what lies in `folder`, fail in a command.
    pub fn attach(
        &self,
        command: &mut Command,
        folder: &Path,
        marks: &Path,
        class: Class,
        fault: Fault,
        at: u64,
    ) {
        let mut numbers = class.numbers();
        if fault == Fault::Full {
            // Whatever needs room is met from then on, but does not count before.
            let needy = [Class::Write, Class::Open, Class::Allocate, Class::Mkdir];
            for number in needy.into_iter().flat_map(Class::numbers) {
                if !numbers.contains(&number) {
                    numbers.push(number);
                }
            }
        }
        let counted = class.numbers().len();
        let list: Vec<String> = numbers.iter().map(ToString::to_string).collect();
        // A full disk that shows first when something is opened or set aside leaves nothing half done.
        let is_whole = fault == Fault::Full && class != Class::Write;
        let errno = if is_whole { libc::ENOSPC } else { fault.errno() };
        command
            .env("LD_PRELOAD", &self.0)
            .env("CRASH_FAULT_DIR", folder)
            .env("CRASH_FAULT_MARKS", marks)
            .env("CRASH_FAULT_CALLS", list.join(","))
            .env("CRASH_FAULT_COUNTED", counted.to_string())
            .env("CRASH_FAULT_AT", at.to_string())
            .env("CRASH_FAULT_ERRNO", errno.to_string())
            .env("CRASH_FAULT_STAYS", u8::from(fault == Fault::Full).to_string());
    }
}
