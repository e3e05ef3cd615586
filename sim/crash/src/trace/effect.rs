//! From system calls to what they do to files: the part of the traced folder that each call touches,
//! by node and not by name, so that a file keeps its identity through renames.
//!
//! A call that could change a file and is not understood makes the whole trace worthless; it is
//! refused, never passed over.

use super::strace::Call;
use crate::marks::Mark;
use anyhow::{Context, bail, ensure};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

/// A file or directory, by the order of creation; 0 is the root.
pub type NodeId = usize;

/// Names that change together, each with what it names afterwards.
pub type Names = Vec<(String, Option<NodeId>)>;

/// What one call did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// A file came to be; it has a name only by the [`Action::Names`] that follows.
    NewFile(NodeId),
    /// A directory came to be.
    NewDirectory(NodeId),
    /// Bytes were written.
    Write {
        /// To which file.
        node: NodeId,
        /// Where.
        offset: u64,
        /// What.
        bytes: Arc<[u8]>,
        /// The descriptor makes each write durable before it returns.
        is_durable: bool,
    },
    /// A file was given a length.
    Length {
        /// Which file.
        node: NodeId,
        /// Its length.
        length: u64,
    },
    /// A file or directory was synced.
    Sync {
        /// Which.
        node: NodeId,
        /// Whether only what reading its data needs is covered: not that it became shorter.
        is_data_only: bool,
    },
    /// A sync failed: what it should have covered may be on the disk or not, and no later sync covers
    /// it, because the kernel takes it for written.
    FailedSync(NodeId),
    /// Names of a directory changed, all at once.
    Names {
        /// The directory.
        directory: NodeId,
        /// The names.
        names: Names,
    },
    /// The process said something.
    Mark(Mark),
}

/// An action, and when it began and was done; both count lines over all traces of a case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Effect {
    /// When the call began.
    pub began: usize,
    /// When it returned.
    pub returned: usize,
    /// What it did.
    pub action: Action,
}

/// Files whose content is worth nothing after a crash, and in which whatever is left must do no harm:
/// LMDB's table of readers, which is memory that processes share, and the lock of the data directory.
/// They are no part of an image.
pub const LOCKS: [&str; 2] = ["lock.mdb", "LOCK"];

const O_CREAT: i64 = 0o100;
const O_EXCL: i64 = 0o200;
const O_TRUNC: i64 = 0o1000;
const O_APPEND: i64 = 0o2000;
const O_DSYNC: i64 = 0o10000;
const O_TMPFILE: i64 = 0o20_000_000;
const AT_FDCWD: i64 = -100;
const AT_REMOVEDIR: i64 = 0x200;
const RENAME_NOREPLACE: i64 = 1;
const RENAME_EXCHANGE: i64 = 2;
const FALLOC_KEEP_SIZE: i64 = 1;
const PROT_WRITE: i64 = 2;
const MAP_SHARED_MASK: i64 = 3;
const CLONE_FILES: i64 = 0x400;
const F_DUPFD: i64 = 0;
const F_DUPFD_CLOEXEC: i64 = 1030;
const RWF_DSYNC_OR_SYNC: i64 = 6;

#[derive(Debug, Default)]
struct Node {
    /// Entries of a directory; nothing for a file.
    entries: Option<BTreeMap<String, NodeId>>,
    length: u64,
    is_lock: bool,
}

#[derive(Clone, Debug)]
enum Target {
    Node(NodeId),
    Marks,
    /// Something outside of the traced folder.
    Elsewhere,
}

/// An open file.
#[derive(Clone, Debug)]
struct Open {
    target: Target,
    /// Shared by duplicates.
    position: Rc<Cell<u64>>,
    appends: bool,
    is_durable: bool,
}

impl Open {
    fn elsewhere() -> Self {
        let position = Rc::default();
        Self { target: Target::Elsewhere, position, appends: false, is_durable: false }
    }
}

/// Follows the calls of one process after another over one folder.
#[derive(Debug)]
pub struct Interpreter {
    /// Absolute path of the folder.
    root: String,
    /// Absolute path of the file that marks go to.
    marks: String,
    nodes: Vec<Node>,
    descriptors: BTreeMap<i64, Open>,
    /// Bytes of a mark that is not whole yet.
    said: Vec<u8>,
    effects: Vec<Effect>,
    /// Lines of the traces before the one being read.
    lines: usize,
}

impl Interpreter {
    /// Of a folder that is empty when the first process starts.
    pub fn new(root: &str, marks: &str) -> Self {
        let directory = Node { entries: Some(BTreeMap::new()), ..Node::default() };
        Self {
            root: root.to_owned(),
            marks: marks.to_owned(),
            nodes: vec![directory],
            descriptors: BTreeMap::new(),
            said: Vec::new(),
            effects: Vec::new(),
            lines: 0,
        }
    }

    /// Takes the whole trace of the next process.
    ///
    /// # Errors
    /// When a call is not understood.
    pub fn process(&mut self, calls: &[Call]) -> anyhow::Result<()> {
        self.descriptors.clear();
        for standard in 0..=2 {
            self.descriptors.insert(standard, Open::elsewhere());
        }
        let mut last = 0;
        let mut in_order: Vec<&Call> = calls.iter().collect();
        // A descriptor is free as soon as its closing begins: another thread may have been given the
        // number before the closing returns.
        in_order.sort_by_key(|call| if call.name == "close" { call.began } else { call.returned });
        for call in in_order {
            last = last.max(call.began + 1);
            self.call(call).with_context(|| {
                let start = &call.arguments[..call.arguments.len().min(200)];
                format!(
                    "line {}: {}({})",
                    call.began + 1,
                    call.name,
                    String::from_utf8_lossy(start)
                )
            })?;
        }
        self.lines += last;
        Ok(())
    }

    /// How many effects there are so far.
    pub fn effects(&self) -> usize {
        self.effects.len()
    }

    /// What all calls did.
    pub fn finish(self) -> Vec<Effect> {
        self.effects
    }

    fn emit(&mut self, call: &Call, action: Action) {
        let (began, returned) = (self.lines + call.began, self.lines + call.returned);
        self.effects.push(Effect { began, returned, action });
    }

    fn call(&mut self, call: &Call) -> anyhow::Result<()> {
        // Killed at its entry a call has done nothing; one that was killed in the middle of a write
        // would be found out by the comparison with what is really there.
        let Some(result) = call.result else { return Ok(()) };
        if result < 0 {
            return self.failed(call);
        }
        match call.name.as_str() {
            "open" | "openat" | "creat" => self.open(call, result),
            "close" => drop_result(self.descriptors.remove(&call.number(0)?)),
            "dup" => self.duplicate(call.number(0)?, result),
            "dup2" | "dup3" => self.duplicate(call.number(0)?, call.number(1)?),
            "fcntl" => match call.number(1)? {
                F_DUPFD | F_DUPFD_CLOEXEC => self.duplicate(call.number(0)?, result),
                _ => Ok(()),
            },
            "lseek" => {
                self.descriptor(call.number(0)?)?.position.set(result as u64);
                Ok(())
            }
            "write" | "writev" => self.write(call, None, false),
            "pwrite64" => self.write(call, Some(call.number(3)?), false),
            "pwritev" => self.write(call, Some(call.number(3)?), false),
            "pwritev2" => {
                let is_durable = call.number(5)? & RWF_DSYNC_OR_SYNC != 0;
                self.write(call, Some(call.number(3)?), is_durable)
            }
            "ftruncate" => {
                let node = self.node(call.number(0)?)?;
                self.length(call, node, call.number(1)? as u64)
            }
            "fallocate" => self.allocate(call),
            "fsync" | "fdatasync" => {
                if let Some(node) = self.node(call.number(0)?)? {
                    let is_data_only = call.name == "fdatasync";
                    self.emit(call, Action::Sync { node, is_data_only });
                }
                Ok(())
            }
            // It promises nothing.
            "sync_file_range" => Ok(()),
            "mkdir" => self.make_directory(call, AT_FDCWD, 0),
            "mkdirat" => self.make_directory(call, call.number(0)?, 1),
            "unlink" | "rmdir" => self.unlink(call, AT_FDCWD, 0),
            "unlinkat" => {
                ensure!(call.number(2)? & !AT_REMOVEDIR == 0, "unknown flags");
                self.unlink(call, call.number(0)?, 1)
            }
            "rename" => self.rename(call, (AT_FDCWD, 0), (AT_FDCWD, 1), 0),
            "renameat" => self.rename(call, (call.number(0)?, 1), (call.number(2)?, 3), 0),
            "renameat2" => {
                let flags = call.number(4)?;
                self.rename(call, (call.number(0)?, 1), (call.number(2)?, 3), flags)
            }
            "mmap" => self.map(call),
            "clone" | "clone3" => {
                // A thread shares the descriptors; a process of its own would need a table of its own.
                ensure!(find_flags(call)? & CLONE_FILES != 0, "another process was started");
                Ok(())
            }
            "execve" => {
                ensure!(self.descriptors.len() == 3, "another program was started");
                Ok(())
            }
            "chdir" | "fchdir" => bail!("the current folder changed"),
            "chmod" | "fchmod" | "fchmodat" | "utimensat" | "umask" | "close_range" => {
                ensure!(call.name != "close_range", "descriptors were closed by range");
                Ok(())
            }
            // Descriptors of other kinds; what is done to files through them is refused below.
            "epoll_create1" | "epoll_ctl" | "epoll_wait" | "epoll_pwait" | "eventfd2" | "pipe2"
            | "exit" | "exit_group" => Ok(()),
            "ioctl" => {
                ensure!(self.node(call.number(0)?)?.is_none(), "a file of the folder is concerned");
                Ok(())
            }
            _ => bail!("the replayer does not know this call"),
        }
    }

    /// A call that failed changed nothing, except that a failed sync changed what later ones cover.
    fn failed(&mut self, call: &Call) -> anyhow::Result<()> {
        if matches!(call.name.as_str(), "fsync" | "fdatasync")
            && let Some(node) = self.node(call.number(0)?)?
        {
            self.emit(call, Action::FailedSync(node));
        }
        Ok(())
    }

    fn descriptor(&self, descriptor: i64) -> anyhow::Result<&Open> {
        let open = self.descriptors.get(&descriptor);
        open.with_context(|| format!("nobody opened descriptor {descriptor}"))
    }

    /// The file or directory of the folder that a descriptor stands for.
    fn node(&self, descriptor: i64) -> anyhow::Result<Option<NodeId>> {
        Ok(match self.descriptor(descriptor)?.target {
            Target::Node(node) => Some(node),
            Target::Marks | Target::Elsewhere => None,
        })
    }

    fn duplicate(&mut self, from: i64, to: i64) -> anyhow::Result<()> {
        let open = self.descriptor(from)?.clone();
        drop_result(self.descriptors.insert(to, open))
    }

    /// The directory and last name of a path within the folder; nothing for one outside.
    fn resolve(&self, directory: i64, path: &str) -> anyhow::Result<Option<(NodeId, String)>> {
        let (mut node, inside) = if path.starts_with('/') {
            let Some(inside) = path.strip_prefix(&self.root) else { return Ok(None) };
            if !(inside.is_empty() || inside.starts_with('/')) {
                return Ok(None);
            }
            (0, inside)
        } else {
            // The current folder lies outside.
            let node = if directory == AT_FDCWD { None } else { self.node(directory)? };
            let Some(node) = node else { return Ok(None) };
            (node, path)
        };
        let names: Vec<&str> = inside.split('/').filter(|part| !part.is_empty()).collect();
        ensure!(!names.contains(&".") && !names.contains(&".."), "a path with dots");
        let Some((last, parents)) = names.split_last() else {
            return Ok(Some((node, String::new())));
        };
        for name in parents {
            let entries = self.nodes[node].entries.as_ref();
            node = *entries.and_then(|entries| entries.get(*name)).context("no such directory")?;
        }
        Ok(Some((node, (*last).to_owned())))
    }

    fn entry(&self, directory: NodeId, name: &str) -> Option<NodeId> {
        if name.is_empty() {
            return Some(directory);
        }
        self.nodes[directory].entries.as_ref()?.get(name).copied()
    }

    fn set_names(&mut self, call: &Call, directory: NodeId, names: Names) -> anyhow::Result<()> {
        let entries = self.nodes[directory].entries.as_mut().context("not a directory")?;
        for (name, node) in &names {
            match node {
                Some(node) => drop(entries.insert(name.clone(), *node)),
                None => drop(entries.remove(name)),
            }
        }
        let names: Names =
            names.into_iter().filter(|(name, _)| !LOCKS.contains(&name.as_str())).collect();
        if !names.is_empty() {
            self.emit(call, Action::Names { directory, names });
        }
        Ok(())
    }

    fn new_node(&mut self, call: &Call, node: Node) -> NodeId {
        let id = self.nodes.len();
        let is_directory = node.entries.is_some();
        self.nodes.push(node);
        self.emit(call, if is_directory { Action::NewDirectory(id) } else { Action::NewFile(id) });
        id
    }

    fn open(&mut self, call: &Call, descriptor: i64) -> anyhow::Result<()> {
        let (directory, path, flags) = match call.name.as_str() {
            "openat" => (call.number(0)?, call.path(1)?, call.number(2)?),
            "creat" => (AT_FDCWD, call.path(0)?, O_CREAT | O_TRUNC),
            _ => (AT_FDCWD, call.path(0)?, call.number(1)?),
        };
        ensure!(flags & O_TMPFILE != O_TMPFILE, "a file without a name");
        let target = if path == self.marks {
            Target::Marks
        } else {
            match self.resolve(directory, &path)? {
                None => Target::Elsewhere,
                Some((parent, name)) => Target::Node(self.open_node(call, parent, name, flags)?),
            }
        };
        let open = Open {
            target,
            position: Rc::default(),
            appends: flags & O_APPEND != 0,
            is_durable: flags & O_DSYNC != 0,
        };
        drop_result(self.descriptors.insert(descriptor, open))
    }

    fn open_node(
        &mut self,
        call: &Call,
        parent: NodeId,
        name: String,
        flags: i64,
    ) -> anyhow::Result<NodeId> {
        if let Some(node) = self.entry(parent, &name) {
            ensure!(flags & O_EXCL == 0 || flags & O_CREAT == 0, "it was there already");
            if flags & O_TRUNC != 0 {
                self.length(call, Some(node), 0)?;
            }
            return Ok(node);
        }
        ensure!(flags & O_CREAT != 0, "no such file");
        let is_lock = LOCKS.contains(&name.as_str());
        let node = self.new_node(call, Node { is_lock, ..Node::default() });
        self.set_names(call, parent, vec![(name, Some(node))])?;
        Ok(node)
    }

    fn write(&mut self, call: &Call, at: Option<i64>, is_durable: bool) -> anyhow::Result<()> {
        let open = self.descriptor(call.number(0)?)?.clone();
        let node = match open.target {
            Target::Elsewhere => return Ok(()),
            Target::Marks => return self.say(call),
            Target::Node(node) => node,
        };
        if self.nodes[node].is_lock {
            return Ok(());
        }
        let bytes = call.payload()?;
        let offset = match at {
            Some(at) => at as u64,
            None if open.appends => self.nodes[node].length,
            None => open.position.get(),
        };
        let end = offset + bytes.len() as u64;
        if at.is_none() {
            open.position.set(end);
        }
        self.nodes[node].length = self.nodes[node].length.max(end);
        let is_durable = is_durable || open.is_durable;
        self.emit(call, Action::Write { node, offset, bytes: bytes.into(), is_durable });
        Ok(())
    }

    fn say(&mut self, call: &Call) -> anyhow::Result<()> {
        self.said.extend(call.payload()?);
        while let Some(end) = self.said.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.said.drain(..=end).collect();
            let line = String::from_utf8(line)?;
            let mark = Mark::parse(&line).with_context(|| format!("not a mark: {line}"))?;
            self.emit(call, Action::Mark(mark));
        }
        Ok(())
    }

    fn length(&mut self, call: &Call, node: Option<NodeId>, length: u64) -> anyhow::Result<()> {
        let Some(node) = node.filter(|node| !self.nodes[*node].is_lock) else { return Ok(()) };
        self.nodes[node].length = length;
        self.emit(call, Action::Length { node, length });
        Ok(())
    }

    fn allocate(&mut self, call: &Call) -> anyhow::Result<()> {
        let Some(node) = self.node(call.number(0)?)? else { return Ok(()) };
        let (mode, offset, length) = (call.number(1)?, call.number(2)?, call.number(3)?);
        match mode {
            FALLOC_KEEP_SIZE => Ok(()),
            0 => {
                let end = self.nodes[node].length.max((offset + length) as u64);
                self.length(call, Some(node), end)
            }
            _ => bail!("unknown mode"),
        }
    }

    fn make_directory(&mut self, call: &Call, at: i64, argument: usize) -> anyhow::Result<()> {
        let Some((parent, name)) = self.resolve(at, &call.path(argument)?)? else { return Ok(()) };
        let entries = Some(BTreeMap::new());
        let node = self.new_node(call, Node { entries, ..Node::default() });
        self.set_names(call, parent, vec![(name, Some(node))])
    }

    fn unlink(&mut self, call: &Call, at: i64, argument: usize) -> anyhow::Result<()> {
        let Some((parent, name)) = self.resolve(at, &call.path(argument)?)? else { return Ok(()) };
        self.set_names(call, parent, vec![(name, None)])
    }

    fn rename(
        &mut self,
        call: &Call,
        from: (i64, usize),
        to: (i64, usize),
        flags: i64,
    ) -> anyhow::Result<()> {
        let from = self.resolve(from.0, &call.path(from.1)?)?;
        let to = self.resolve(to.0, &call.path(to.1)?)?;
        let ((parent, from), (other, to)) = match (from, to) {
            (Some(from), Some(to)) => (from, to),
            (None, None) => return Ok(()),
            _ => bail!("a rename into or out of the folder"),
        };
        ensure!(parent == other, "a rename from one directory to another");
        let node = self.entry(parent, &from).context("nothing to rename")?;
        let left = match flags {
            0 | RENAME_NOREPLACE => None,
            RENAME_EXCHANGE => Some(self.entry(parent, &to).context("nothing to exchange")?),
            _ => bail!("unknown flags"),
        };
        self.set_names(call, parent, vec![(from, left), (to, Some(node))])
    }

    fn map(&mut self, call: &Call) -> anyhow::Result<()> {
        let (protection, flags, descriptor) = (call.number(2)?, call.number(3)?, call.number(4)?);
        let node = if descriptor < 0 { None } else { self.node(descriptor)? };
        let Some(node) = node else { return Ok(()) };
        let writes = protection & PROT_WRITE != 0 && matches!(flags & MAP_SHARED_MASK, 1 | 3);
        ensure!(!writes || self.nodes[node].is_lock, "a file is written through a map");
        Ok(())
    }
}

fn drop_result<T>(_: T) -> anyhow::Result<()> {
    Ok(())
}

/// The flags of a `clone` or `clone3`.
fn find_flags(call: &Call) -> anyhow::Result<i64> {
    let text = String::from_utf8_lossy(&call.arguments).into_owned();
    let after = text.split("flags=").nth(1).context("no flags")?;
    let digits: String = after.chars().skip_while(|c| *c == '0').collect();
    let hex = digits.strip_prefix('x').context("no flags in hex")?;
    let hex: String = hex.chars().take_while(char::is_ascii_hexdigit).collect();
    Ok(i64::from_str_radix(&hex, 16)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::strace;

    fn hex(text: &str) -> String {
        text.bytes().map(|byte| format!("\\x{byte:02x}")).collect()
    }

    fn process(lines: &[String]) -> anyhow::Result<Vec<Action>> {
        let mut interpreter = Interpreter::new("/r", "/m");
        let trace = lines.iter().map(|line| format!("7 {line}\n")).collect::<String>();
        interpreter.process(&strace::parse(trace.as_bytes())?)?;
        Ok(interpreter.finish().into_iter().map(|effect| effect.action).collect())
    }

    fn open(path: &str, flags: i64, descriptor: i64) -> String {
        format!("openat(-100, \"{}\", {flags:#x}, 0666) = {descriptor}", hex(path))
    }

    fn names(directory: NodeId, names: &[(&str, Option<NodeId>)]) -> Action {
        let names = names.iter().map(|(name, node)| ((*name).to_owned(), *node)).collect();
        Action::Names { directory, names }
    }

    fn wrote(node: NodeId, offset: u64, text: &str, is_durable: bool) -> Action {
        Action::Write { node, offset, bytes: text.as_bytes().into(), is_durable }
    }

    #[test]
    fn calls_become_what_they_do_to_files() {
        let actions = process(&[
            format!("mkdir(\"{}\", 0700) = 0", hex("/r/d")),
            open("/r/d/f", O_CREAT | 2, 3),
            open("/r/d/f", O_DSYNC | 2, 4),
            format!("write(3, \"{}\", 2) = 2", hex("ab")),
            "dup(3) = 5".to_owned(),
            format!("writev(5, [{{iov_base=\"{}\", iov_len=1}}], 1) = 1", hex("c")),
            format!("pwrite64(4, \"{}\", 3, 9) = 2", hex("xyz")),
            "lseek(3, 1, 0) = 1".to_owned(),
            format!("write(3, \"{}\", 1) = 1", hex("B")),
            "fallocate(3, 0x1, 0, 4096) = 0".to_owned(),
            "fdatasync(3) = 0".to_owned(),
            "fsync(4) = -1 EIO (Input/output error) (INJECTED)".to_owned(),
            format!("rename(\"{}\", \"{}\") = 0", hex("/r/d/f"), hex("/r/d/g")),
            "ftruncate(5, 1) = 0".to_owned(),
            open("/r/d/g", O_TRUNC | 2, 6),
            open("/elsewhere", O_CREAT | 2, 7),
            format!("write(7, \"{}\", 1) = 1", hex("q")),
            open("/m", O_CREAT | O_APPEND | 1, 8),
            format!("write(8, \"{}\", 8) = 8", hex("ACKED 3\n")),
            format!("unlink(\"{}\") = 0", hex("/r/d/g")),
        ]);
        let expected = [
            Action::NewDirectory(1),
            names(0, &[("d", Some(1))]),
            Action::NewFile(2),
            names(1, &[("f", Some(2))]),
            wrote(2, 0, "ab", false),
            wrote(2, 2, "c", false),
            wrote(2, 9, "xy", true),
            wrote(2, 1, "B", false),
            Action::Sync { node: 2, is_data_only: true },
            Action::FailedSync(2),
            names(1, &[("f", None), ("g", Some(2))]),
            Action::Length { node: 2, length: 1 },
            Action::Length { node: 2, length: 0 },
            Action::Mark(Mark::Acked(3)),
            names(1, &[("g", None)]),
        ];
        assert_eq!(actions.unwrap(), expected);
    }

    #[test]
    fn locks_are_no_part_of_it_and_other_shared_maps_are_refused() {
        let lock = open("/r/lock.mdb", O_CREAT | 2, 3);
        let map = "mmap(NULL, 4096, 0x3, 0x1, 3, 0) = 0x7f0000000000".to_owned();
        let write = format!("pwrite64(3, \"{}\", 1, 0) = 1", hex("l"));
        assert_eq!(process(&[lock, map.clone(), write]).unwrap(), [Action::NewFile(1)]);
        let data = open("/r/data.mdb", O_CREAT | 2, 3);
        assert!(process(&[data.clone(), map]).is_err());
        let only_read = "mmap(NULL, 4096, 0x1, 0x1, 3, 0) = 0x7f0000000000".to_owned();
        assert!(process(&[data, only_read]).is_ok());
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        let file = || open("/r/f", O_CREAT | 2, 3);
        for call in [
            "copy_file_range(3, NULL, 4, NULL, 5, 0) = 5",
            "io_uring_setup(8, {}) = 5",
            "fallocate(3, 0x3, 0, 4096) = 0",
            "msync(0x7f00, 4096, 0x4) = 0",
            "write(9, \"\\x61\", 1) = 1",
            "ioctl(3, 0x40049409, 4) = 0",
            "clone(child_stack=NULL, flags=0x11) = 8",
        ] {
            assert!(process(&[file(), call.to_owned()]).is_err(), "{call}");
        }
        assert!(
            process(&[file(), "clone3({flags=0x3d0f00, exit_signal=0}, 88) = 8".into()]).is_ok()
        );
    }

    #[test]
    fn a_number_is_free_when_its_closing_begins() {
        // Another thread gets 3 before the closing of the first 3 is seen to return.
        let trace = format!(
            "7 {}\n7 close(3 <unfinished ...>\n8 {}\n7 <... close resumed>) = 0\n\
             8 write(3, \"{}\", 1) = 1\n",
            open("/r/one", O_CREAT | 2, 3),
            open("/r/two", O_CREAT | 2, 3),
            hex("x")
        );
        let mut interpreter = Interpreter::new("/r", "/m");
        interpreter.process(&strace::parse(trace.as_bytes()).unwrap()).unwrap();
        let last = interpreter.finish().pop().unwrap();
        assert_eq!(last.action, wrote(2, 0, "x", false));
    }
}
