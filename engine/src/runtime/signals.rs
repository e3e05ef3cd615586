//! Signals, told to one thread by its wake.

use super::threads;
use super::wake::Wake;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// What has been asked for by signal.
#[derive(Debug, Default)]
pub struct Asked {
    end: AtomicBool,
    reload: AtomicBool,
}

impl Asked {
    /// Whether SIGTERM or SIGINT came.
    pub fn to_end(&self) -> bool {
        self.end.load(Ordering::Acquire)
    }

    /// Whether SIGHUP came since the last look.
    pub fn to_reload(&self) -> bool {
        self.reload.swap(false, Ordering::AcqRel)
    }
}

/// Listens for SIGTERM, SIGINT and SIGHUP from now on. A second wish to end is granted at once.
///
/// # Errors
/// When the handlers cannot be installed.
pub fn listen(wake: Wake) -> io::Result<Arc<Asked>> {
    let asked = Arc::new(Asked::default());
    let noted = Arc::clone(&asked);
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP])?;
    threads::spawn("signals".into(), move || {
        for signal in signals.forever() {
            if signal == SIGHUP {
                noted.reload.store(true, Ordering::Release);
            } else if noted.end.swap(true, Ordering::AcqRel) {
                threads::end_process(1);
            }
            wake.wake();
        }
    })?;
    Ok(asked)
}
