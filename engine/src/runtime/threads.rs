//! Threads and the end of the process.

use std::io;
use std::thread::JoinHandle;

/// Starts a named thread.
///
/// # Errors
/// When the system has none left.
pub fn spawn<T: Send + 'static>(
    name: String,
    body: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<T>> {
    std::thread::Builder::new().name(name).spawn(body)
}

/// Lets time pass on a thread that serves nobody.
pub fn sleep_ms(duration_ms: u64) {
    std::thread::sleep(std::time::Duration::from_millis(duration_ms));
}

/// Ends the process at once, without a word to anybody: no destructor runs, no client is answered.
pub fn end_process(code: i32) -> ! {
    std::process::exit(code)
}
