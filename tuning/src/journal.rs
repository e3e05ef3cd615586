//! Carrying a plan out so that it can be taken back: what was there is written down, on stable
//! storage, before the first change, and every file is replaced by a rename. After a power cut at
//! any point [`undo`] finds its way back, and so does a second [`apply`].

use crate::host::{Disk, Host, Node};
use crate::plan::{Plan, PlannedFile, PlannedValue, normal};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io;

/// Where it is written down what was there before.
pub const STATE_FILE: &str = "/etc/turnpike-tune.json";
/// The folder of [`STATE_FILE`], which is locked while files are changed.
pub const STATE_FOLDER: &str = "/etc";
/// Version of what is in it.
const VERSION: u32 = 1;
/// Beginning and end of the names under which files are written before they are renamed. Nobody
/// reads a name that begins with a dot and ends like this.
const TEMPORARY: (&str, &str) = (".", ".turnpike-new");
const FILE_MODE: u32 = 0o644;
const PRIVATE_MODE: u32 = 0o600;
/// The permission bit of everybody else to read.
const READ_BY_ALL: u32 = 0o004;

/// Why nothing was done, or not all.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// Files are not as this program left them, or were there before it.
    #[error("nothing was changed:\n{}", .0.iter().map(|one| format!("  {one}")).collect::<Vec<_>>().join("\n"))]
    Conflicts(Vec<String>),
    /// [`STATE_FILE`] cannot be understood.
    #[error("{STATE_FILE} cannot be read: {0}; nothing was changed")]
    State(String),
    /// The system refused a step.
    #[error(
        "{path}: {error}; what was done until then is written down in {STATE_FILE}, and \
         `turnpike tune --undo` takes it back"
    )]
    Io {
        /// What was being changed.
        path: String,
        /// The system's words.
        #[source]
        error: io::Error,
    },
}

fn at(path: &str) -> impl FnOnce(io::Error) -> JournalError {
    let path = path.to_owned();
    move |error| JournalError::Io { path, error }
}

/// What was done.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Done {
    /// Files that were written, put back or removed.
    pub files: Vec<String>,
    /// Values that were set, with what they were and are.
    pub values: Vec<(String, String, String)>,
    /// What was left alone or could not be done, each with its reason.
    pub left: Vec<String>,
}

/// The bytes of a file: as text where they are text, so that the state can be read by people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Content {
    Text(String),
    Hex(String),
}

impl Content {
    fn of(bytes: &[u8]) -> Self {
        match std::str::from_utf8(bytes) {
            Ok(text) => Self::Text(text.to_owned()),
            Err(_) => Self::Hex(bytes.iter().map(|byte| format!("{byte:02x}")).collect()),
        }
    }

    fn bytes(&self) -> Option<Vec<u8>> {
        match self {
            Self::Text(text) => Some(text.clone().into_bytes()),
            Self::Hex(digits) if digits.len().is_multiple_of(2) && digits.is_ascii() => {
                let pairs = digits.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).ok());
                pairs.map(|pair| u8::from_str_radix(pair?, 16).ok()).collect()
            }
            Self::Hex(_) => None,
        }
    }
}

/// What stood at a path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Saved {
    Absent,
    File { content: Content, mode: u32, ids: Option<(u32, u32)>, modified: Option<(u64, u32)> },
    Link { target: String },
}

impl Saved {
    fn of(node: &Node) -> Option<Self> {
        match node.clone() {
            Node::Absent => Some(Self::Absent),
            Node::File { bytes, mode, ids, modified } => {
                Some(Self::File { content: Content::of(&bytes), mode, ids, modified })
            }
            Node::Link { target } => Some(Self::Link { target }),
            Node::Directory | Node::Other => None,
        }
    }

    fn node(&self) -> Option<Node> {
        Some(match self.clone() {
            Self::Absent => Node::Absent,
            Self::File { content, mode, ids, modified } => {
                Node::File { bytes: content.bytes()?, mode, ids, modified }
            }
            Self::Link { target } => Node::Link { target },
        })
    }

    fn is_private(&self) -> bool {
        matches!(self, Self::File { mode, .. } if mode & READ_BY_ALL == 0)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct FileRecord {
    before: Saved,
    /// What this program has put there, or was about to: more than one while an apply is under way.
    written: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct ValueRecord {
    /// The file as it was read.
    before: String,
    /// What this program has set, or was about to.
    set: Vec<String>,
    /// It is not set but cleared by the kernel when its twin is; on the way back it goes first.
    follows: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct State {
    version: u32,
    files: BTreeMap<String, FileRecord>,
    values: BTreeMap<String, ValueRecord>,
    /// Folders that this program has made, or was about to; those further up first.
    folders: Vec<String>,
}

impl State {
    fn new() -> Self {
        Self {
            version: VERSION,
            files: BTreeMap::new(),
            values: BTreeMap::new(),
            folders: Vec::new(),
        }
    }

    fn load(host: &dyn Host) -> Result<Option<Self>, JournalError> {
        let bytes = match host.read(STATE_FILE) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(JournalError::State(error.to_string())),
        };
        let state: Self = serde_json::from_slice(&bytes)
            .map_err(|error| JournalError::State(error.to_string()))?;
        if state.version != VERSION {
            let said = format!("it has version {}, this program knows {VERSION}", state.version);
            return Err(JournalError::State(said));
        }
        let is_damaged = state.files.values().any(|record| record.before.node().is_none());
        if is_damaged {
            return Err(JournalError::State("the bytes of a file are damaged".into()));
        }
        Ok(Some(state))
    }

    /// Writes it down, whole or not at all.
    fn save(&self, disk: &dyn Disk) -> Result<(), JournalError> {
        let mut bytes = serde_json::to_vec_pretty(self)
            .map_err(|error| JournalError::State(error.to_string()))?;
        bytes.push(b'\n');
        let is_private = self.files.values().any(|record| record.before.is_private());
        let mode = if is_private { PRIVATE_MODE } else { FILE_MODE };
        replace(disk, STATE_FILE, &Node::File { bytes, mode, ids: None, modified: None })
    }
}

/// The name under which what is to become `path` is written.
fn temporary(path: &str) -> String {
    let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
    format!("{folder}/{}{name}{}", TEMPORARY.0, TEMPORARY.1)
}

/// Makes `path` hold `node`, whole or not at all.
fn replace(disk: &dyn Disk, path: &str, node: &Node) -> Result<(), JournalError> {
    if *node == Node::Absent {
        return disk.remove(path).map_err(at(path));
    }
    let new = temporary(path);
    disk.create(&new, node).map_err(at(&new))?;
    disk.rename(&new, path).map_err(at(path))
}

/// A host that shows the values of the kernel as they were before the first apply.
pub struct Baseline<'a> {
    host: &'a dyn Host,
    values: BTreeMap<String, String>,
}

impl<'a> Baseline<'a> {
    /// Over `host`. A state that cannot be read hides nothing: whoever changes something reads it
    /// again, and fails.
    pub fn new(host: &'a dyn Host) -> Self {
        let state = State::load(host).ok().flatten();
        let values = state.into_iter().flat_map(|state| state.values);
        Self { host, values: values.map(|(path, record)| (path, record.before)).collect() }
    }
}

impl Host for Baseline<'_> {
    fn read(&self, path: &str) -> io::Result<Vec<u8>> {
        match self.values.get(path) {
            Some(before) => Ok(before.clone().into_bytes()),
            None => self.host.read(path),
        }
    }

    fn list(&self, path: &str) -> io::Result<Vec<String>> {
        self.host.list(path)
    }
}

/// What stood in each file before the first apply, as far as it is text; `None`: nothing.
pub(crate) fn originals(host: &dyn Host) -> BTreeMap<String, Option<String>> {
    let state = State::load(host).ok().flatten();
    let files = state.into_iter().flat_map(|state| state.files);
    files
        .map(|(path, record)| {
            let text = match record.before {
                Saved::File { content: Content::Text(text), .. } => Some(text),
                _ => None,
            };
            (path, text)
        })
        .collect()
}

/// Whether something has been applied and not been taken back.
///
/// # Errors
/// [`JournalError::State`].
pub fn is_applied(host: &dyn Host) -> Result<bool, JournalError> {
    Ok(State::load(host)?.is_some())
}

/// Carries `plan` out; `with_values` also in the running kernel. What is recorded from an earlier
/// apply stays the original. With `replaces` also files are replaced that this program did not write,
/// or that were changed since; [`undo`] brings them back as they were before the first apply.
///
/// # Errors
/// [`JournalError`]; after [`JournalError::Io`] some of it is done, and can be taken back.
pub fn apply(
    disk: &dyn Disk,
    plan: &Plan,
    with_values: bool,
    replaces: bool,
) -> Result<Done, JournalError> {
    let old = State::load(disk)?;
    let mut state = old.clone().unwrap_or_else(State::new);
    let mut done = Done::default();
    let mut conflicts = Vec::new();
    let mut steps = Vec::new();
    for file in &plan.files {
        match plan_file(disk, &mut state, file, replaces) {
            Ok(Some(node)) => steps.push((file.path, node)),
            Ok(None) => {}
            Err(Conflict::Said(conflict)) => conflicts.push(conflict),
            Err(Conflict::Failed(error)) => return Err(error),
        }
    }
    if !conflicts.is_empty() {
        return Err(JournalError::Conflicts(conflicts));
    }
    for (path, _) in &steps {
        note_folders(disk, &mut state, path)?;
    }
    let (pokes, obsolete) = match with_values {
        true => plan_values(disk, &mut state, plan, &mut done),
        false => (Vec::new(), Vec::new()),
    };
    if steps.is_empty() && pokes.is_empty() && obsolete.is_empty() {
        return Ok(done);
    }
    // From here on there is something to take back.
    state.save(disk)?;
    carry_out(disk, &state, steps, &mut done)?;
    for path in in_order_of_return(&state, &obsolete) {
        if restore_value(disk, &path, &state.values[&path], replaces, &mut done) {
            state.values.remove(&path);
        }
    }
    for (path, set) in pokes {
        set_value(disk, &path, &set, &mut done);
    }
    for file in plan.files.iter().filter(|file| file.text.is_none()) {
        // What an apply left that ended before its rename: nobody will know of the file any more.
        let left = temporary(file.path);
        disk.remove(&left).map_err(at(&left))?;
    }
    state.settle(plan, with_values);
    if state.files.is_empty() && state.values.is_empty() {
        state.end(disk, &mut done)?;
    } else {
        state.save(disk)?;
    }
    Ok(done)
}

/// These paths with those first that the kernel clears when the others are set: a ratio comes back
/// before the bytes that it takes over from.
fn in_order_of_return(state: &State, paths: &[String]) -> Vec<String> {
    let mut paths = paths.to_vec();
    paths.sort_by_key(|path| !state.values[path].follows);
    paths
}

fn carry_out(
    disk: &dyn Disk,
    state: &State,
    steps: Vec<(&'static str, Node)>,
    done: &mut Done,
) -> Result<(), JournalError> {
    for folder in &state.folders {
        if disk.node(folder).map_err(at(folder))? == Node::Absent {
            disk.create_directory(folder).map_err(at(folder))?;
        }
    }
    for (path, node) in steps {
        replace(disk, path, &node)?;
        done.files.push(path.to_owned());
    }
    Ok(())
}

enum Conflict {
    Said(String),
    Failed(JournalError),
}

/// What has to become of a file, if anything, with its place in `state` if it is to be changed.
fn plan_file(
    disk: &dyn Disk,
    state: &mut State,
    file: &PlannedFile,
    replaces: bool,
) -> Result<Option<Node>, Conflict> {
    let path = file.path;
    let now = disk.node(path).map_err(|error| Conflict::Failed(at(path)(error)))?;
    let Some(saved) = Saved::of(&now) else {
        return Err(Conflict::Said(format!("{path} is neither a file nor a link")));
    };
    let holds = |text: &str| matches!(&now, Node::File { bytes, .. } if bytes == text.as_bytes());
    let Some(record) = state.files.get_mut(path) else {
        let Some(text) = &file.text else { return Ok(None) };
        if holds(text) {
            return Ok(None);
        }
        if now != Node::Absent && !replaces {
            return Err(Conflict::Said(format!(
                "{path} is there and was not written by turnpike tune; --replace replaces it, and \
                 --undo brings it back"
            )));
        }
        let record = FileRecord { before: saved, written: vec![text.clone()] };
        state.files.insert(path.to_owned(), record);
        return Ok(Some(new_file(text)));
    };
    let is_ours = record.written.iter().any(|written| holds(written)) || saved == record.before;
    if !is_ours && !replaces {
        return Err(Conflict::Said(format!(
            "{path} was changed since turnpike tune wrote it; --replace discards what was changed"
        )));
    }
    match &file.text {
        Some(text) if holds(text) => Ok(None),
        Some(text) => {
            if !record.written.contains(text) {
                record.written.push(text.clone());
            }
            Ok(Some(new_file(text)))
        }
        None if saved == record.before => Ok(None),
        None => Ok(record.before.node()),
    }
}

fn new_file(text: &str) -> Node {
    Node::File { bytes: text.as_bytes().to_vec(), mode: FILE_MODE, ids: None, modified: None }
}

/// Writes down which folders above `path` have to be made.
fn note_folders(disk: &dyn Disk, state: &mut State, path: &str) -> Result<(), JournalError> {
    let mut missing = Vec::new();
    let mut folder = path;
    while let Some((above, _)) = folder.rsplit_once('/') {
        if above.is_empty() || disk.node(above).map_err(at(above))? != Node::Absent {
            break;
        }
        missing.push(above.to_owned());
        folder = above;
    }
    for folder in missing.into_iter().rev() {
        if !state.folders.contains(&folder) {
            state.folders.push(folder);
        }
    }
    Ok(())
}

/// Values to set, with their place in `state`; and those that an earlier plan set and this one does
/// not, which go back.
fn plan_values(
    disk: &dyn Disk,
    state: &mut State,
    plan: &Plan,
    done: &mut Done,
) -> (Vec<(String, String)>, Vec<String>) {
    let mut pokes = Vec::new();
    for value in &plan.values {
        let Some(raw) = crate::host::text_raw(disk, &value.path) else {
            done.left.push(format!("{} is not there and was not set", value.path));
            continue;
        };
        note_value(disk, state, value, &raw);
        if normal(&raw) != value.set {
            pokes.push((value.path.clone(), value.set.clone()));
        }
    }
    let is_planned = |path: &str| {
        plan.values.iter().any(|value| value.path == path || value.twin.as_deref() == Some(path))
    };
    let obsolete = state.values.keys().filter(|path| !is_planned(path)).cloned().collect();
    (pokes, obsolete)
}

fn note_value(disk: &dyn Disk, state: &mut State, value: &PlannedValue, raw: &str) {
    let record = state.values.entry(value.path.clone()).or_insert_with(|| ValueRecord {
        before: raw.to_owned(),
        set: Vec::new(),
        follows: false,
    });
    if !record.set.contains(&value.set) {
        record.set.push(value.set.clone());
    }
    let Some(twin) = &value.twin else { return };
    if let Some(raw) = crate::host::text_raw(disk, twin) {
        state.values.entry(twin.clone()).or_insert_with(|| ValueRecord {
            before: raw,
            set: vec!["0".into()],
            follows: true,
        });
    }
}

/// Sets a value; a refusal of the kernel is told and no reason to stop.
fn set_value(disk: &dyn Disk, path: &str, set: &str, done: &mut Done) {
    let before = crate::host::text_raw(disk, path).unwrap_or_default();
    let written = disk.poke(path, format!("{set}\n").as_bytes());
    let after = crate::host::text_raw(disk, path).unwrap_or_default();
    match written {
        Ok(()) if normal(&after) == set => {
            done.values.push((path.to_owned(), normal(&before), set.to_owned()));
        }
        Ok(()) => {
            done.left.push(format!("{path} stayed {} when {set} was written", normal(&after)))
        }
        Err(error) => done.left.push(format!("{path} could not be set to {set}: {error}")),
    }
}

impl State {
    /// Forgets what is not in force any more, once a plan has been carried out.
    fn settle(&mut self, plan: &Plan, with_values: bool) {
        for file in &plan.files {
            match &file.text {
                Some(text) => {
                    if let Some(record) = self.files.get_mut(file.path) {
                        record.written = vec![text.clone()];
                    }
                }
                None => drop(self.files.remove(file.path)),
            }
        }
        if !with_values {
            return;
        }
        for value in &plan.values {
            if let Some(record) = self.values.get_mut(&value.path) {
                record.set = vec![value.set.clone()];
            }
        }
    }

    /// Removes the folders that were made, and what was written down.
    fn end(&self, disk: &dyn Disk, done: &mut Done) -> Result<(), JournalError> {
        for folder in self.folders.iter().rev() {
            if !disk.remove_directory(folder).map_err(at(folder))?
                && disk.node(folder).map_err(at(folder))? != Node::Absent
            {
                let why = "was made by turnpike tune and is not empty; it stays";
                done.left.push(format!("{folder} {why}"));
            }
        }
        disk.remove(STATE_FILE).map_err(at(STATE_FILE))?;
        let left = temporary(STATE_FILE);
        disk.remove(&left).map_err(at(&left))
    }
}

/// Takes back what [`apply`] did: `None` when there is nothing to take back. With `replaces` also
/// where something was changed since.
///
/// # Errors
/// [`JournalError`]; after [`JournalError::Io`] it can be tried again.
pub fn undo(disk: &dyn Disk, replaces: bool) -> Result<Option<Done>, JournalError> {
    let Some(state) = State::load(disk)? else {
        // What an apply left that ended before it had written anything down.
        let left = temporary(STATE_FILE);
        disk.remove(&left).map_err(at(&left))?;
        return Ok(None);
    };
    let mut conflicts = Vec::new();
    let mut steps = Vec::new();
    for (path, record) in &state.files {
        let now = disk.node(path).map_err(at(path))?;
        let is_ours = match &now {
            Node::File { bytes, .. } => record.written.iter().any(|text| text.as_bytes() == bytes),
            _ => false,
        };
        let saved = Saved::of(&now);
        let is_back = saved.as_ref() == Some(&record.before);
        if saved.is_none() || !(is_ours || is_back || replaces) {
            conflicts.push(format!(
                "{path} was changed since turnpike tune wrote it; --replace discards what was changed"
            ));
        } else if !is_back {
            steps.push((path, record));
        }
    }
    if !conflicts.is_empty() {
        return Err(JournalError::Conflicts(conflicts));
    }
    let mut done = Done::default();
    for (path, record) in steps {
        let node = record.before.node().expect("a state whose bytes are damaged is not loaded");
        replace(disk, path, &node)?;
        done.files.push(path.clone());
    }
    for path in state.files.keys() {
        // What an apply left that ended before its rename.
        let left = temporary(path);
        disk.remove(&left).map_err(at(&left))?;
    }
    let paths: Vec<String> = state.values.keys().cloned().collect();
    for path in in_order_of_return(&state, &paths) {
        restore_value(disk, &path, &state.values[&path], replaces, &mut done);
    }
    state.end(disk, &mut done)?;
    Ok(Some(done))
}

/// Sets a value back; `false` when it is not as it was, which `done` then tells.
fn restore_value(
    disk: &dyn Disk,
    path: &str,
    record: &ValueRecord,
    replaces: bool,
    done: &mut Done,
) -> bool {
    let Some(now) = crate::host::text_raw(disk, path) else {
        done.left.push(format!("{path} is not there any more"));
        return false;
    };
    if now == record.before {
        return true;
    }
    let before = normal(&record.before);
    if !replaces && normal(&now) != before && !record.set.contains(&normal(&now)) {
        done.left.push(format!(
            "{path} was set to {} since; it was {before} before turnpike tune",
            normal(&now)
        ));
        return false;
    }
    let written = disk.poke(path, format!("{before}\n").as_bytes());
    let read = || crate::host::text_raw(disk, path).unwrap_or_default();
    if read() != record.before {
        // An ordinary file, as in an image, holds just what is written.
        let _ = disk.poke(path, record.before.as_bytes());
    }
    let now_again = normal(&read());
    if now_again == before {
        done.values.push((path.to_owned(), normal(&now), before));
        return true;
    }
    done.left.push(match written {
        Err(error) => format!("{path} could not be set back to {before}: {error}"),
        Ok(()) => format!("{path} stayed {now_again} when {before} was written"),
    });
    false
}
