//! What was applied can be taken back, byte for byte: from any state of the files, after a power cut
//! at any step of the way there or back, after several different plans.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "makes worlds of files and looks at them"
)]

use proptest::prelude::*;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};
use tuning::host::{Disk, Host, Node};
use tuning::journal::{self, JournalError, STATE_FILE};
use tuning::plan::{Plan, PlannedFile, PlannedValue, SYSCTL_FILE, TMPFILES_FILE, UNIT_FILE};
use tuning::tree::Tree;

const PATHS: [&str; 3] = [SYSCTL_FILE, TMPFILES_FILE, UNIT_FILE];
const BYTES: &str = "/proc/sys/vm/dirty_bytes";
const RATIO: &str = "/proc/sys/vm/dirty_ratio";
const QUEUE: &str = "/proc/sys/net/core/somaxconn";
const PAGES: &str = "/sys/kernel/mm/transparent_hugepage/enabled";

/// What stands at a path before anything is applied.
#[derive(Clone, Debug)]
enum Before {
    /// Nothing, not even the folder.
    NoFolder,
    Absent,
    File(Vec<u8>, u32, u64),
    Link(String),
}

fn before() -> impl Strategy<Value = Before> {
    let bytes = prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..40),
        "[a-z.= \n]{0,40}".prop_map(String::into_bytes),
    ];
    let mode = prop_oneof![Just(0o644), Just(0o600), Just(0o400), Just(0o755)];
    prop_oneof![
        Just(Before::NoFolder),
        Just(Before::Absent),
        (bytes, mode, 1..2_000_000_000_u64).prop_map(|(b, m, t)| Before::File(b, m, t)),
        prop_oneof![Just("/dev/null".to_owned()), Just("elsewhere.conf".to_owned())]
            .prop_map(Before::Link),
    ]
}

fn plan() -> impl Strategy<Value = Plan> {
    let text = proptest::option::weighted(0.8, "[a-z =\n]{1,30}");
    let queue = proptest::option::of(1..5_u32);
    let pages = proptest::option::of(prop_oneof![Just("madvise"), Just("never")]);
    let dirty = proptest::option::of(1_000..1_003_u32);
    (proptest::array::uniform3(text), queue, pages, dirty).prop_map(
        |(texts, queue, pages, dirty)| {
            let files = PATHS.into_iter().zip(texts).map(|(path, text)| PlannedFile { path, text });
            let value = |path: &str, set: String, twin: Option<&str>| PlannedValue {
                path: path.into(),
                set,
                twin: twin.map(Into::into),
            };
            let values = [
                queue.map(|queue| value(QUEUE, queue.to_string(), None)),
                pages.map(|pages| value(PAGES, pages.into(), None)),
                dirty.map(|dirty| value(BYTES, dirty.to_string(), Some(RATIO))),
            ];
            Plan {
                files: files.collect(),
                values: values.into_iter().flatten().collect(),
                notes: vec![],
            }
        },
    )
}

/// A root with files in these states, and with the kernel's.
struct World {
    root: tempfile::TempDir,
}

impl World {
    fn new(befores: &[Before; 3]) -> Self {
        // In memory, where there is such a folder: every step syncs, and the order is what counts.
        let root = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        let world = Self { root };
        fs::create_dir(world.at("/etc")).unwrap();
        for (path, text) in [
            (QUEUE, "4096\n"),
            (BYTES, "0\n"),
            (RATIO, "20\n"),
            (PAGES, "[always] madvise never\n"),
        ] {
            fs::create_dir_all(world.at(path).parent().unwrap()).unwrap();
            fs::write(world.at(path), text).unwrap();
        }
        for (path, before) in PATHS.iter().zip(befores) {
            world.make(path, before);
        }
        world
    }

    fn make(&self, path: &str, before: &Before) {
        let at = self.at(path);
        if !matches!(before, Before::NoFolder) {
            fs::create_dir_all(at.parent().unwrap()).unwrap();
        }
        match before {
            Before::NoFolder | Before::Absent => {}
            Before::Link(target) => symlink(target, at).unwrap(),
            Before::File(bytes, mode, modified_s) => {
                fs::write(&at, bytes).unwrap();
                let time = UNIX_EPOCH + Duration::from_secs(*modified_s);
                let file = fs::File::options().write(true).open(&at).unwrap();
                file.set_modified(time).unwrap();
                fs::set_permissions(&at, fs::Permissions::from_mode(*mode)).unwrap();
            }
        }
    }

    fn at(&self, path: &str) -> PathBuf {
        self.root.path().join(path.trim_start_matches('/'))
    }

    fn tree(&self) -> Tree {
        Tree::new(self.root.path())
    }

    /// Everything there is, with all that can be told apart about it.
    fn snapshot(&self) -> BTreeMap<String, String> {
        let mut all = BTreeMap::new();
        collect(self.root.path(), self.root.path(), &mut all);
        all
    }
}

fn collect(root: &Path, folder: &Path, all: &mut BTreeMap<String, String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let metadata = fs::symlink_metadata(&path).unwrap();
        let name = path.strip_prefix(root).unwrap().display().to_string();
        let mut what = format!("{:o} {}:{}", metadata.mode(), metadata.uid(), metadata.gid());
        if metadata.is_symlink() {
            what = format!("-> {}", fs::read_link(&path).unwrap().display());
        } else if metadata.is_dir() {
            collect(root, &path, all);
        } else {
            // The kernel's files have no time that means anything.
            let time = if name.starts_with("etc/") { metadata.mtime() } else { 0 };
            what = format!("{what} {time} {:?}", fs::read(&path).unwrap());
        }
        all.insert(name, what);
    }
}

/// A disk whose power fails after `left` steps: the next one is done in part or not at all, and none
/// after it. Its kernel behaves like Linux: a ratio and bytes clear each other, bytes are never set
/// to 0, and a choice is shown in brackets.
struct Failing {
    tree: Tree,
    left: Cell<usize>,
    has_kernel: bool,
}

impl Failing {
    fn new(tree: Tree, left: usize) -> Self {
        Self { tree, left: Cell::new(left), has_kernel: false }
    }

    fn step(&self) -> io::Result<()> {
        match self.left.get().checked_sub(1) {
            Some(left) => {
                self.left.set(left);
                Ok(())
            }
            None => Err(io::Error::other("the power is gone")),
        }
    }
}

impl Host for Failing {
    fn read(&self, path: &str) -> io::Result<Vec<u8>> {
        self.tree.read(path)
    }

    fn list(&self, path: &str) -> io::Result<Vec<String>> {
        self.tree.list(path)
    }
}

impl Disk for Failing {
    fn node(&self, path: &str) -> io::Result<Node> {
        self.tree.node(path)
    }

    fn create(&self, path: &str, node: &Node) -> io::Result<()> {
        if self.left.get() == 1
            && let Node::File { bytes, .. } = node
        {
            // The power goes in the middle of the write.
            let bytes = bytes[..bytes.len() / 2].to_vec();
            let half = Node::File { bytes, mode: 0o600, ids: None, modified: None };
            self.tree.create(path, &half)?;
            self.left.set(0);
        }
        self.step()?;
        self.tree.create(path, node)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.step()?;
        self.tree.rename(from, to)
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        self.step()?;
        self.tree.remove(path)
    }

    fn create_directory(&self, path: &str) -> io::Result<()> {
        self.step()?;
        self.tree.create_directory(path)
    }

    fn remove_directory(&self, path: &str) -> io::Result<bool> {
        self.step()?;
        self.tree.remove_directory(path)
    }

    fn poke(&self, path: &str, value: &[u8]) -> io::Result<()> {
        self.step()?;
        if !self.has_kernel {
            return self.tree.poke(path, value);
        }
        let text = std::str::from_utf8(value).unwrap().trim();
        match path {
            BYTES if text == "0" => return Err(io::ErrorKind::InvalidInput.into()),
            BYTES => self.tree.poke(RATIO, b"0\n")?,
            RATIO if text != "0" => self.tree.poke(BYTES, b"0\n")?,
            PAGES => {
                let choices = ["always", "madvise", "never"];
                if !choices.contains(&text) {
                    return Err(io::ErrorKind::InvalidInput.into());
                }
                let show = |word: &str| match word == text {
                    true => format!("[{word}]"),
                    false => word.to_owned(),
                };
                let shown = choices.map(show).join(" ") + "\n";
                return self.tree.poke(path, shown.as_bytes());
            }
            _ => {}
        }
        self.tree.poke(path, value)
    }
}

/// Steps that need no limit.
const ALL: usize = usize::MAX;
/// More steps than an apply or an undo takes.
const STEPS_MAX: usize = 40;

proptest! {
    #[test]
    fn apply_then_undo_leaves_everything_as_it_was(
        befores in proptest::array::uniform3(before()), plan in plan(), with_values: bool,
        has_kernel: bool,
    ) {
        let world = World::new(&befores);
        let was = world.snapshot();
        let disk = Failing { has_kernel, ..Failing::new(world.tree(), ALL) };
        let done = journal::apply(&disk, &plan, with_values, true).unwrap();
        prop_assert!(done.left.is_empty(), "{:?}", done.left);
        for file in &plan.files {
            if let Some(text) = &file.text {
                prop_assert_eq!(fs::read(world.at(file.path)).unwrap(), text.as_bytes());
                let mode = fs::metadata(world.at(file.path)).unwrap().mode() & 0o7777;
                let is_written = done.files.iter().any(|path| path == file.path);
                prop_assert!(mode == 0o644 || !is_written);
            }
        }
        let again = journal::apply(&disk, &plan, with_values, false).unwrap();
        prop_assert!(again.files.is_empty() && again.values.is_empty(), "{:?}", again);
        let undone = journal::undo(&disk, false).unwrap();
        prop_assert_eq!(undone.is_some(), !done.files.is_empty() || !done.values.is_empty());
        prop_assert_eq!(world.snapshot(), was);
        prop_assert!(journal::undo(&disk, false).unwrap().is_none());
    }

    #[test]
    fn an_apply_that_was_interrupted_can_be_undone_and_finished(
        befores in proptest::array::uniform3(before()), first in plan(), second in plan(),
        cut in 0..STEPS_MAX, finishes: bool,
    ) {
        let world = World::new(&befores);
        let was = world.snapshot();
        let cut_short = journal::apply(&Failing::new(world.tree(), cut), &first, true, true);
        if finishes {
            // A refused value is told and no error, so an apply may end well without power.
            let _ = cut_short;
            let done = journal::apply(&world.tree(), &second, true, true).unwrap();
            prop_assert!(done.left.is_empty(), "{:?}", done.left);
            for file in &second.files {
                if let Some(text) = &file.text {
                    prop_assert_eq!(fs::read(world.at(file.path)).unwrap(), text.as_bytes());
                }
            }
        }
        journal::undo(&world.tree(), false).unwrap();
        prop_assert_eq!(world.snapshot(), was);
    }

    #[test]
    fn an_undo_that_was_interrupted_can_be_done_again(
        befores in proptest::array::uniform3(before()), plans in proptest::array::uniform2(plan()),
        cut in 0..STEPS_MAX,
    ) {
        let world = World::new(&befores);
        let was = world.snapshot();
        for plan in &plans {
            journal::apply(&world.tree(), plan, true, true).unwrap();
        }
        let _ = journal::undo(&Failing::new(world.tree(), cut), false);
        journal::undo(&world.tree(), false).unwrap();
        prop_assert_eq!(world.snapshot(), was);
    }

    #[test]
    fn nothing_is_touched_that_was_there_before_unless_asked(
        befores in proptest::array::uniform3(before()), plan in plan(),
    ) {
        let world = World::new(&befores);
        let was = world.snapshot();
        let is_there = |file: &PlannedFile| fs::symlink_metadata(world.at(file.path)).is_ok();
        let in_the_way = plan.files.iter().any(|file| file.text.is_some() && is_there(file));
        match journal::apply(&world.tree(), &plan, true, false) {
            Ok(_) => prop_assert!(!in_the_way),
            Err(error) => {
                prop_assert!(in_the_way && matches!(error, JournalError::Conflicts(_)));
                prop_assert_eq!(world.snapshot(), was);
            }
        }
    }
}

fn plan_of(texts: [Option<&str>; 3], values: &[(&str, &str)]) -> Plan {
    let files = PATHS
        .into_iter()
        .zip(texts)
        .map(|(path, text)| PlannedFile { path, text: text.map(str::to_owned) });
    let values = values.iter().map(|(path, set)| PlannedValue {
        path: (*path).into(),
        set: (*set).into(),
        twin: None,
    });
    Plan { files: files.collect(), values: values.collect(), notes: Vec::new() }
}

const NOTHING: [Before; 3] = [Before::NoFolder, Before::NoFolder, Before::NoFolder];

/// The control of the test above: an interruption does come between the steps.
#[test]
fn the_power_does_go() {
    let plan = plan_of([Some("a"), Some("b"), Some("c")], &[(QUEUE, "5")]);
    let mut failed = 0;
    for cut in 0..STEPS_MAX {
        let world = World::new(&NOTHING);
        let result = journal::apply(&Failing::new(world.tree(), cut), &plan, true, true);
        failed += usize::from(result.is_err());
    }
    assert!((10..STEPS_MAX).contains(&failed), "{failed}");
}

#[test]
fn what_an_operator_changed_since_is_not_thrown_away() {
    let world = World::new(&NOTHING);
    let plan = plan_of([Some("ours\n"), None, Some("unit\n")], &[(QUEUE, "9000")]);
    journal::apply(&world.tree(), &plan, true, false).unwrap();
    fs::write(world.at(SYSCTL_FILE), "theirs\n").unwrap();
    let changed = world.snapshot();
    for result in [
        journal::undo(&world.tree(), false).map(drop),
        journal::apply(&world.tree(), &plan, true, false).map(drop),
    ] {
        let error = result.unwrap_err().to_string();
        assert!(error.contains(SYSCTL_FILE) && error.contains("--replace"), "{error}");
    }
    assert_eq!(world.snapshot(), changed, "half of it would be worse than nothing");
    journal::undo(&world.tree(), true).unwrap().unwrap();
    assert!(!world.at(SYSCTL_FILE).exists());
}

#[test]
fn a_value_that_was_set_since_stays_and_is_told() {
    let world = World::new(&NOTHING);
    let plan = plan_of([None; 3], &[(QUEUE, "9000")]);
    journal::apply(&world.tree(), &plan, true, false).unwrap();
    fs::write(world.at(QUEUE), "65535\n").unwrap();
    let done = journal::undo(&world.tree(), false).unwrap().unwrap();
    assert!(done.left[0].contains("set to 65535 since; it was 4096"), "{done:?}");
    assert_eq!(fs::read_to_string(world.at(QUEUE)).unwrap(), "65535\n");
}

#[test]
fn what_the_kernel_refuses_or_does_not_have_is_told_and_the_rest_is_done() {
    let world = World::new(&NOTHING);
    let disk = Failing { has_kernel: true, ..Failing::new(world.tree(), ALL) };
    let plan = plan_of(
        [Some("a\n"), None, None],
        &[("/proc/sys/absent", "1"), (PAGES, "sometimes"), (QUEUE, "9000")],
    );
    let done = journal::apply(&disk, &plan, true, false).unwrap();
    assert_eq!(done.values, [(QUEUE.to_owned(), "4096".to_owned(), "9000".to_owned())]);
    assert_eq!(done.left.len(), 2, "{done:?}");
    assert!(done.left[0].contains("absent is not there"), "{done:?}");
    assert!(done.left[1].contains("could not be set to sometimes"), "{done:?}");
}

#[test]
fn a_file_with_the_same_text_is_not_ours_and_stays() {
    let mut befores = NOTHING;
    befores[0] = Before::File(b"same\n".to_vec(), 0o600, 7);
    let world = World::new(&befores);
    let was = world.snapshot();
    let plan = plan_of([Some("same\n"), Some("new\n"), None], &[]);
    let done = journal::apply(&world.tree(), &plan, true, false).unwrap();
    assert_eq!(done.files, [TMPFILES_FILE]);
    journal::undo(&world.tree(), false).unwrap();
    assert_eq!(world.snapshot(), was);
}

#[test]
fn a_folder_that_somebody_else_uses_by_now_stays_and_is_told() {
    let world = World::new(&NOTHING);
    let plan = plan_of([None, None, Some("unit\n")], &[]);
    journal::apply(&world.tree(), &plan, true, false).unwrap();
    let theirs = world.at(UNIT_FILE).with_file_name("10-theirs.conf");
    fs::write(&theirs, "x").unwrap();
    let done = journal::undo(&world.tree(), false).unwrap().unwrap();
    assert!(done.left[0].contains("not empty"), "{done:?}");
    assert!(theirs.exists() && !world.at(UNIT_FILE).exists());
}

#[test]
fn a_folder_in_the_place_of_a_file_is_refused_even_when_asked_to_replace() {
    let world = World::new(&NOTHING);
    fs::create_dir_all(world.at(SYSCTL_FILE)).unwrap();
    let was = world.snapshot();
    let plan = plan_of([Some("a\n"), Some("b\n"), None], &[]);
    let error = journal::apply(&world.tree(), &plan, true, true).unwrap_err();
    assert!(error.to_string().contains("neither a file nor a link"), "{error}");
    assert_eq!(world.snapshot(), was);
}

#[test]
fn a_state_that_is_damaged_or_newer_changes_nothing() {
    let plan = plan_of([Some("a\n"), None, None], &[]);
    for text in [
        "",
        "{",
        r#"{"version":2,"files":{},"values":{},"folders":[]}"#,
        r#"{"version":1,"files":{"/x":{"before":{"file":{"content":{"hex":"0"},"mode":1,"ids":null,
            "modified":null}},"written":[]}},"values":{},"folders":[]}"#,
    ] {
        let world = World::new(&NOTHING);
        fs::write(world.at(STATE_FILE), text).unwrap();
        let was = world.snapshot();
        for result in [
            journal::apply(&world.tree(), &plan, true, true).map(drop),
            journal::undo(&world.tree(), true).map(drop),
        ] {
            let error = result.unwrap_err().to_string();
            assert!(error.contains(STATE_FILE) && error.contains("nothing was changed"), "{error}");
        }
        assert_eq!(world.snapshot(), was);
    }
}

#[test]
fn what_not_everybody_could_read_is_not_readable_in_the_state() {
    let mut befores = NOTHING;
    befores[0] = Before::File(b"secret\n".to_vec(), 0o600, 7);
    for (befores, mode) in [(befores, 0o600), (NOTHING, 0o644)] {
        let world = World::new(&befores);
        let plan = plan_of([Some("a\n"), None, None], &[]);
        journal::apply(&world.tree(), &plan, true, true).unwrap();
        assert_eq!(fs::metadata(world.at(STATE_FILE)).unwrap().mode() & 0o7777, mode);
    }
}
