//! Reads what `strace -f -xx -X raw` writes: one system call after another, each with the lines in
//! which it began and returned.

use anyhow::{Context, bail};
use std::collections::BTreeMap;

/// Calls that change no file and no descriptor. They are not even traced; everything else is, and the
/// replayer refuses a trace with a call that it does not know.
pub const HARMLESS: &str = "read,pread64,readv,preadv,preadv2,futex,brk,munmap,mprotect,madvise,\
    rt_sigaction,rt_sigprocmask,rt_sigreturn,sigaltstack,getrandom,clock_gettime,clock_nanosleep,\
    clock_getres,nanosleep,gettimeofday,time,sched_yield,sched_getaffinity,sched_setaffinity,getpid,\
    gettid,getppid,prctl,arch_prctl,set_tid_address,set_robust_list,rseq,prlimit64,getrlimit,poll,\
    ppoll,fstat,newfstatat,statx,stat,lstat,access,faccessat,faccessat2,readlink,readlinkat,getcwd,\
    statfs,fstatfs,getdents64,uname,sysinfo,flock,fadvise64,readahead,getuid,geteuid,getgid,getegid,\
    getrusage,times,membarrier,mlock,munlock,mincore,restart_syscall,wait4,waitid,kill,tgkill";

/// One system call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// The thread.
    pub thread: u32,
    /// Its name.
    pub name: String,
    /// What stood between the parentheses.
    pub arguments: Vec<u8>,
    /// What it returned; nothing if the process ended first.
    pub result: Option<i64>,
    /// Line in which it began.
    pub began: usize,
    /// Line in which it returned.
    pub returned: usize,
}

impl Call {
    /// The arguments, as text, split at the commas between them.
    fn split(&self) -> Vec<&[u8]> {
        let (mut parts, mut start, mut depth, mut quoted) = (Vec::new(), 0, 0_u32, false);
        for (at, byte) in self.arguments.iter().enumerate() {
            match byte {
                b'"' => quoted = !quoted,
                b'[' | b'{' | b'(' if !quoted => depth += 1,
                b']' | b'}' | b')' if !quoted => depth = depth.saturating_sub(1),
                b',' if !quoted && depth == 0 => {
                    parts.push(self.arguments[start..at].trim_ascii());
                    start = at + 1;
                }
                _ => {}
            }
        }
        parts.push(self.arguments[start..].trim_ascii());
        parts
    }

    /// A numeric argument; descriptors that are printed as unsigned come out negative.
    ///
    /// # Errors
    /// When it is no number.
    pub fn number(&self, index: usize) -> anyhow::Result<i64> {
        let parts = self.split();
        let text = parts.get(index).and_then(|part| std::str::from_utf8(part).ok());
        let number = text.and_then(read_number);
        number.with_context(|| format!("{}: argument {index} is no number: {text:?}", self.name))
    }

    /// A string argument.
    ///
    /// # Errors
    /// When it is no whole string.
    pub fn text(&self, index: usize) -> anyhow::Result<Vec<u8>> {
        let parts = self.split();
        let part = parts.get(index).copied().unwrap_or_default();
        let inside = part.strip_prefix(b"\"").and_then(|rest| rest.strip_suffix(b"\""));
        let inside = inside.with_context(|| format!("{}: argument {index} is cut", self.name))?;
        unhex(inside)
    }

    /// A string argument that is a path.
    ///
    /// # Errors
    /// When it is no whole string, or not UTF-8.
    pub fn path(&self, index: usize) -> anyhow::Result<String> {
        Ok(String::from_utf8(self.text(index)?)?)
    }

    /// What a call writes: its string argument, or all strings of its vector, cut at its result.
    ///
    /// # Errors
    /// When the trace does not hold all of it.
    pub fn payload(&self) -> anyhow::Result<Vec<u8>> {
        let mut payload = Vec::new();
        let mut rest = self.arguments.as_slice();
        while let Some(start) = rest.iter().position(|byte| *byte == b'"') {
            let inside = &rest[start + 1..];
            let end =
                inside.iter().position(|byte| *byte == b'"').context("a string has no end")?;
            payload.extend(unhex(&inside[..end])?);
            rest = &inside[end + 1..];
        }
        let written = usize::try_from(self.result.unwrap_or(0)).unwrap_or(0);
        if payload.len() < written {
            bail!("{} wrote {written} bytes and the trace holds {}", self.name, payload.len());
        }
        payload.truncate(written);
        Ok(payload)
    }
}

fn read_number(text: &str) -> Option<i64> {
    if let Some(hex) = text.strip_prefix("0x") {
        let wide = u64::from_str_radix(hex, 16).ok()?;
        // An int that is negative is printed in 32 bits.
        return Some(if hex.len() == 8 { i64::from(wide as u32 as i32) } else { wide as i64 });
    }
    if text.len() > 1 && text.starts_with('0') {
        return i64::from_str_radix(text, 8).ok();
    }
    text.parse().ok()
}

/// Turns `\x41` into `A`. Nothing else stands in a string of such a trace.
fn unhex(text: &[u8]) -> anyhow::Result<Vec<u8>> {
    let (quads, rest) = text.as_chunks::<4>();
    let byte = |quad: &[u8; 4]| match quad {
        [b'\\', b'x', high, low] => proto::id::read_hex::<1>(&[*high, *low]).map(|byte| byte[0]),
        _ => None,
    };
    let bytes: Option<Vec<u8>> = quads.iter().map(byte).collect();
    bytes.filter(|_| rest.is_empty()).context("a string of the trace is not in hex")
}

/// Reads a whole trace; calls come in the order in which they returned. Calls that never returned,
/// because the process was killed, come last and have no result.
///
/// # Errors
/// When a line is not what strace writes.
pub fn parse(trace: &[u8]) -> anyhow::Result<Vec<Call>> {
    let mut unfinished = BTreeMap::<u32, Call>::new();
    let mut calls = Vec::new();
    for (line, text) in trace.split(|byte| *byte == b'\n').enumerate() {
        if text.is_empty() {
            continue;
        }
        let read = read_line(text, line, &mut unfinished);
        let call = read.with_context(|| {
            let start = String::from_utf8_lossy(&text[..text.len().min(200)]).into_owned();
            format!("line {} of the trace: {start}", line + 1)
        })?;
        calls.extend(call);
    }
    calls.extend(unfinished.into_values());
    Ok(calls)
}

fn read_line(
    text: &[u8],
    line: usize,
    unfinished: &mut BTreeMap<u32, Call>,
) -> anyhow::Result<Option<Call>> {
    let space = text.iter().position(|byte| *byte == b' ').context("no thread")?;
    let thread = std::str::from_utf8(&text[..space])?.parse().context("no thread")?;
    let rest = text[space..].trim_ascii();
    if rest.starts_with(b"+++") || rest.starts_with(b"---") {
        return Ok(None);
    }
    if let Some(resumed) = rest.strip_prefix(b"<... ") {
        let mut call = unfinished.remove(&thread).context("nothing was interrupted")?;
        let at = find(resumed, b" resumed>").context("no call is named")?;
        if resumed[..at] != *call.name.as_bytes() {
            bail!("another call was interrupted");
        }
        call.arguments.extend_from_slice(&resumed[at + b" resumed>".len()..]);
        return finish(call, line).map(Some);
    }
    let open = rest.iter().position(|byte| *byte == b'(').context("no call")?;
    let name = String::from_utf8(rest[..open].to_vec())?;
    let rest = &rest[open + 1..];
    let arguments = rest.strip_suffix(b" <unfinished ...>");
    let call = |arguments: &[u8]| Call {
        thread,
        name,
        arguments: arguments.to_vec(),
        result: None,
        began: line,
        returned: usize::MAX,
    };
    match arguments {
        Some(arguments) => {
            unfinished.insert(thread, call(arguments));
            Ok(None)
        }
        None => finish(call(rest), line).map(Some),
    }
}

/// Takes the result off the end of the arguments.
fn finish(mut call: Call, line: usize) -> anyhow::Result<Call> {
    let marker = b" = ";
    let end = call.arguments.windows(marker.len()).rposition(|window| window == marker);
    let end = end.context("no result")?;
    let result = std::str::from_utf8(&call.arguments[end + marker.len()..])?;
    let word = result.split(' ').next().unwrap_or_default();
    // A call that does not return has a question mark there.
    call.result = if word == "?" { None } else { Some(read_number(word).context("no result")?) };
    let arguments = call.arguments[..end].trim_ascii_end();
    call.arguments = arguments.strip_suffix(b")").context("no end of the arguments")?.to_vec();
    call.returned = line;
    Ok(call)
}

fn find(text: &[u8], what: &[u8]) -> Option<usize> {
    text.windows(what.len()).position(|window| window == what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_read_whole_interrupted_and_unfinished() {
        let trace = b"7 openat(-100, \"\\x2f\\x61\", 0x80241, 0666) = 3\n\
            8 pwrite64(3, \"\\x01\\x02\", 2, 4096 <unfinished ...>\n\
            7 fdatasync(5) = -1 EIO (Input/output error) (INJECTED)\n\
            8 <... pwrite64 resumed>) = 2\n\
            7 writev(3, [{iov_base=\"\\x2c\\x22\", iov_len=2}, {iov_base=\"\\x29\", iov_len=1}], 2) = 3\n\
            7 --- SIGCHLD {si_signo=SIGCHLD} ---\n\
            8 fsync(3 <unfinished ...>\n\
            8 +++ killed by SIGKILL +++\n";
        let calls = parse(trace).unwrap();
        let names: Vec<&str> = calls.iter().map(|call| call.name.as_str()).collect();
        assert_eq!(names, ["openat", "fdatasync", "pwrite64", "writev", "fsync"]);
        assert_eq!((calls[0].number(0).unwrap(), calls[0].number(2).unwrap()), (-100, 0x80241));
        assert_eq!(calls[0].path(1).unwrap(), "/a");
        assert_eq!(calls[1].result, Some(-1));
        assert_eq!((calls[2].began, calls[2].returned, calls[2].number(3).unwrap()), (1, 3, 4096));
        assert_eq!(calls[2].payload().unwrap(), [1, 2]);
        assert_eq!(calls[3].payload().unwrap(), *b",\")");
        assert_eq!((calls[4].result, calls[4].returned), (None, usize::MAX));
        assert_eq!(read_number("0xffffff9c"), Some(-100));
    }

    #[test]
    fn what_is_cut_is_refused() {
        assert!(parse(b"7 write(3, \"\\x01\"..., 200) = 200").unwrap()[0].payload().is_err());
        assert!(parse(b"7 <... read resumed>) = 1").is_err());
        assert!(parse(b"nonsense").is_err());
        assert!(parse(b"7 open(\"plain\", 0) = 1").unwrap()[0].text(0).is_err());
    }
}
