//! A disk that keeps only what was synced: what is certain, what is pending, and the images that a
//! power cut may leave of the two.
//!
//! The rules are the weakest that file systems are trusted with. A write that no later sync of its
//! file covers survives by sectors, each on its own; of several unsynced writes to one sector the
//! first few survive. Lengths survive on their own. A name survives when its directory is synced, not
//! when its file is. A rename happens as a whole or not at all. What a failed sync should have covered
//! is never certain again unless it is written once more.

use super::effect::{Action, Effect, Names, NodeId};
use bench::rng::{Rng, splitmix64};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Memory is cached, and written back, in pages of this size.
const PAGE_BYTES: u64 = 4096;

/// Which part of what is pending survives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Survival {
    /// Nothing.
    Nothing,
    /// Everything, as when a process is killed and the machine is not.
    Everything,
    /// Each sector, length and name by the toss of a coin.
    Some {
        /// What is written whole or not at all.
        sector_bytes: u64,
        /// Names of a directory survive in order, as in a journal; else each on its own.
        names_in_order: bool,
        /// Part of the pending changes that survive, in percent.
        percent: u8,
    },
}

#[derive(Debug)]
enum Change {
    Write { offset: u64, bytes: Arc<[u8]> },
    Length(u64),
}

#[derive(Debug)]
struct Pending {
    returned: usize,
    change: Change,
    /// A failed sync should have covered it.
    is_doomed: bool,
}

#[derive(Debug, Default)]
struct FileNode {
    durable: Vec<u8>,
    /// Goes up whenever `durable` changes.
    version: u64,
    pending: Vec<Pending>,
}

#[derive(Debug, Default)]
struct DirectoryNode {
    durable: BTreeMap<String, NodeId>,
    version: u64,
    pending: Vec<(usize, Names)>,
}

#[derive(Debug)]
enum Node {
    File(FileNode),
    Directory(DirectoryNode),
}

/// The disk. Holds two copies of a file at most: what is durable, and what is pending over it.
#[derive(Debug)]
pub struct Disk {
    nodes: Vec<Node>,
    /// Syncs of files with such names do nothing; see [`Disk::lying`].
    lies: Option<Lie>,
    /// Last known name of each node, for [`Lie`].
    names: BTreeMap<NodeId, String>,
}

/// A disk that says it has synced what it has not: the controls of the replayer itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Lie {
    /// About the index's data.
    Index,
    /// About directories.
    Directories,
}

/// A file or directory of an image.
#[derive(Debug)]
pub struct Entry<'a> {
    /// Relative to the root; directories come before what is in them.
    pub path: String,
    /// Which node it is.
    pub node: NodeId,
    /// Names the content: the same node with the same number has the same bytes.
    pub content: u64,
    /// Bytes of a file; nothing for a directory.
    pub bytes: Option<Cow<'a, [u8]>>,
}

/// What a power cut left.
#[derive(Debug)]
pub struct Image<'a> {
    /// In order of their paths.
    pub entries: Vec<Entry<'a>>,
    /// Two images with the same number are the same.
    pub identity: u64,
}

impl Disk {
    /// An empty folder.
    pub fn new(lies: Option<Lie>) -> Self {
        let root = Node::Directory(DirectoryNode::default());
        Self { nodes: vec![root], lies, names: BTreeMap::new() }
    }

    /// Applies what a call did; whether that can have changed any image.
    pub fn apply(&mut self, effect: &Effect) -> bool {
        match &effect.action {
            Action::NewFile(_) => self.nodes.push(Node::File(FileNode::default())),
            Action::NewDirectory(_) => self.nodes.push(Node::Directory(DirectoryNode::default())),
            Action::Write { node, offset, bytes, is_durable } => {
                let is_durable = *is_durable && !self.lies_about(*node);
                let change = Change::Write { offset: *offset, bytes: Arc::clone(bytes) };
                self.file(*node).push(effect.returned, change);
                if is_durable {
                    self.file(*node).promote_write(*offset, bytes.len() as u64);
                }
            }
            Action::Length { node, length } => {
                self.file(*node).push(effect.returned, Change::Length(*length));
            }
            Action::Sync { node, is_data_only } => {
                if self.lies_about(*node) {
                    return false;
                }
                match &mut self.nodes[*node] {
                    Node::File(file) => file.sync(effect.began, *is_data_only),
                    Node::Directory(directory) => directory.sync(effect.began),
                }
            }
            Action::FailedSync(node) => {
                if let Node::File(file) = &mut self.nodes[*node] {
                    let covered = file.pending.iter_mut();
                    let covered = covered.filter(|pending| pending.returned < effect.began);
                    covered.for_each(|pending| pending.is_doomed = true);
                }
            }
            Action::Names { directory, names } => {
                for (name, node) in names {
                    if let Some(node) = node {
                        self.names.insert(*node, name.clone());
                    }
                }
                if let Node::Directory(directory) = &mut self.nodes[*directory] {
                    directory.pending.push((effect.returned, names.clone()));
                }
            }
            Action::Mark(_) => return false,
        }
        true
    }

    fn file(&mut self, node: NodeId) -> &mut FileNode {
        if let Node::Directory(_) = self.nodes[node] {
            // The interpreter opens directories for reading only; the kernel allows nothing else.
            self.nodes[node] = Node::File(FileNode::default());
        }
        match &mut self.nodes[node] {
            Node::File(file) => file,
            Node::Directory(_) => unreachable!("it has just been made a file"),
        }
    }

    fn lies_about(&self, node: NodeId) -> bool {
        match self.lies {
            None => false,
            Some(Lie::Index) => self.names.get(&node).is_some_and(|name| name == "data.mdb"),
            Some(Lie::Directories) => matches!(self.nodes[node], Node::Directory(_)),
        }
    }

    /// What is left if the power is cut now.
    pub fn image(&self, survival: Survival, rng: &mut Rng) -> Image<'_> {
        let mut image = Image { entries: Vec::new(), identity: 0 };
        self.collect(0, String::new(), survival, rng, &mut image);
        image
    }

    fn collect<'a>(
        &'a self,
        node: NodeId,
        path: String,
        survival: Survival,
        rng: &mut Rng,
        image: &mut Image<'a>,
    ) {
        match &self.nodes[node] {
            Node::File(file) => {
                let (content, bytes) = file.image(survival, rng);
                let content = mix(content, node as u64);
                image.identity = mix(mix(image.identity, content), hash(&path));
                image.entries.push(Entry { path, node, content, bytes: Some(bytes) });
            }
            Node::Directory(directory) => {
                image.identity = mix(image.identity, hash(&path));
                let is_root = path.is_empty();
                if !is_root {
                    image.entries.push(Entry { path: path.clone(), node, content: 0, bytes: None });
                }
                for (name, child) in directory.image(survival, rng).iter() {
                    let path = if is_root { name.clone() } else { format!("{path}/{name}") };
                    self.collect(*child, path, survival, rng, image);
                }
            }
        }
    }
}

/// Mixes a number into a hash.
fn mix(hash: u64, number: u64) -> u64 {
    let mut state = hash.rotate_left(5) ^ number;
    splitmix64(&mut state)
}

fn hash(text: &str) -> u64 {
    text.bytes().fold(text.len() as u64, |hash, byte| mix(hash, byte.into()))
}

fn survives(rng: &mut Rng, percent: u8) -> bool {
    rng.chance(percent.into(), 100)
}

impl DirectoryNode {
    fn sync(&mut self, began: usize) {
        let covered = self.pending.iter().take_while(|(returned, _)| *returned < began).count();
        for (_, names) in self.pending.drain(..covered) {
            set_names(&mut self.durable, &names);
            self.version += 1;
        }
    }

    fn image(&self, survival: Survival, rng: &mut Rng) -> Cow<'_, BTreeMap<String, NodeId>> {
        if self.pending.is_empty() || survival == Survival::Nothing {
            return Cow::Borrowed(&self.durable);
        }
        let mut entries = self.durable.clone();
        for (_, names) in &self.pending {
            match survival {
                Survival::Some { names_in_order, percent, .. } => {
                    if survives(rng, percent) {
                        set_names(&mut entries, names);
                    } else if names_in_order {
                        break;
                    }
                }
                Survival::Everything | Survival::Nothing => set_names(&mut entries, names),
            }
        }
        Cow::Owned(entries)
    }
}

fn set_names(entries: &mut BTreeMap<String, NodeId>, names: &Names) {
    for (name, node) in names {
        match node {
            Some(node) => drop(entries.insert(name.clone(), *node)),
            None => drop(entries.remove(name)),
        }
    }
}

/// Writes into a buffer that grows with zeros.
fn put(buffer: &mut Vec<u8>, offset: u64, bytes: &[u8]) {
    let (start, end) = (offset as usize, offset as usize + bytes.len());
    if buffer.len() < end {
        buffer.resize(end, 0);
    }
    buffer[start..end].copy_from_slice(bytes);
}

fn overlaps(pending: &Pending, from: u64, to: u64) -> bool {
    match &pending.change {
        Change::Write { offset, bytes } => *offset < to && from < offset + bytes.len() as u64,
        Change::Length(_) => false,
    }
}

impl FileNode {
    fn push(&mut self, returned: usize, change: Change) {
        self.pending.push(Pending { returned, change, is_doomed: false });
    }

    fn make_durable(&mut self, change: &Change) {
        match change {
            Change::Write { offset, bytes } => put(&mut self.durable, *offset, bytes),
            Change::Length(length) => self.durable.resize(*length as usize, 0),
        }
        self.version += 1;
    }

    /// A sync that began when everything up to `began` had been written.
    fn sync(&mut self, began: usize, is_data_only: bool) {
        let mut kept = Vec::new();
        let pending = std::mem::take(&mut self.pending);
        let mut length = self.durable.len() as u64;
        for one in pending {
            let shortens = matches!(one.change, Change::Length(to) if to < length);
            match &one.change {
                Change::Write { offset, bytes } => length = length.max(offset + bytes.len() as u64),
                Change::Length(to) => length = *to,
            }
            let is_covered = one.returned < began && !(is_data_only && shortens);
            if is_covered && !one.is_doomed {
                // A page that was written again goes to the disk as a whole, with what a failed sync
                // left in it.
                if let Change::Write { offset, bytes } = &one.change {
                    let (from, to) = pages(*offset, bytes.len() as u64);
                    self.save_doomed(&mut kept, from, to);
                }
                self.make_durable(&one.change);
            } else {
                kept.push(one);
            }
        }
        self.pending = kept;
    }

    /// The last write went to the disk before it returned.
    fn promote_write(&mut self, offset: u64, length: u64) {
        let (from, to) = pages(offset, length);
        let Some(last) = self.pending.pop() else { return };
        let mut kept = std::mem::take(&mut self.pending);
        // Writes of the same pages from before go along.
        self.save(&mut kept, from, to, false);
        self.make_durable(&last.change);
        self.pending = kept;
    }

    fn save_doomed(&mut self, pending: &mut Vec<Pending>, from: u64, to: u64) {
        self.save(pending, from, to, true);
    }

    /// Makes durable the parts of pending writes that lie in `from..to`.
    fn save(&mut self, pending: &mut Vec<Pending>, from: u64, to: u64, only_doomed: bool) {
        let mut left = Vec::with_capacity(pending.len());
        for one in std::mem::take(pending) {
            let is_meant = overlaps(&one, from, to) && (one.is_doomed || !only_doomed);
            let Change::Write { offset, bytes } = &one.change else {
                left.push(one);
                continue;
            };
            if !is_meant {
                left.push(one);
                continue;
            }
            let end = offset + bytes.len() as u64;
            let (start, stop) = (from.max(*offset), to.min(end));
            let part = |from: u64, to: u64| -> Arc<[u8]> {
                bytes[(from - offset) as usize..(to - offset) as usize].into()
            };
            let kept = |offset: u64, to: u64| Pending {
                change: Change::Write { offset, bytes: part(offset, to) },
                ..one
            };
            if *offset < start {
                left.push(kept(*offset, start));
            }
            if stop < end {
                left.push(kept(stop, end));
            }
            self.make_durable(&Change::Write { offset: start, bytes: part(start, stop) });
        }
        *pending = left;
    }

    /// Content after a power cut, and a number that names it.
    fn image(&self, survival: Survival, rng: &mut Rng) -> (u64, Cow<'_, [u8]>) {
        let base = mix(self.version, 0);
        if self.pending.is_empty() || survival == Survival::Nothing {
            return (base, Cow::Borrowed(&self.durable));
        }
        match survival {
            Survival::Some { sector_bytes, percent, .. } => {
                let (content, bytes) = self.survivors(sector_bytes, percent, rng);
                (mix(base, content), Cow::Owned(bytes))
            }
            Survival::Everything | Survival::Nothing => {
                let mut all = Self { durable: self.durable.clone(), ..Self::default() };
                self.pending.iter().for_each(|pending| all.make_durable(&pending.change));
                (mix(base, self.pending.len() as u64), Cow::Owned(all.durable))
            }
        }
    }

    fn survivors(&self, sector_bytes: u64, percent: u8, rng: &mut Rng) -> (u64, Vec<u8>) {
        // By sector: how many of the writes that touch it survive, from the first.
        let mut touched = BTreeMap::<u64, u32>::new();
        for pending in &self.pending {
            for sector in sectors(&pending.change, sector_bytes) {
                *touched.entry(sector).or_default() += 1;
            }
        }
        let mut content = 1;
        for (sector, survivors) in &mut touched {
            let count = *survivors;
            *survivors = (0..count).take_while(|_| survives(rng, percent)).count() as u32;
            content = mix(content, mix(*sector, (*survivors).into()));
        }
        let lengths = self.lengths();
        let length = match survives(rng, percent) {
            true if rng.chance(1, 2) => *lengths.last().unwrap_or(&0),
            true => *rng.pick(&lengths),
            false => self.durable.len() as u64,
        };
        content = mix(content, length);
        let mut bytes = self.durable.clone();
        for pending in &self.pending {
            let Change::Write { offset, bytes: written } = &pending.change else { continue };
            for sector in sectors(&pending.change, sector_bytes) {
                let Some(left) = touched.get_mut(&sector) else { continue };
                if *left == 0 {
                    continue;
                }
                *left -= 1;
                let from = (sector * sector_bytes).max(*offset);
                let to = ((sector + 1) * sector_bytes).min(offset + written.len() as u64);
                let part = &written[(from - offset) as usize..(to - offset) as usize];
                put(&mut bytes, from, part);
            }
        }
        bytes.resize(length as usize, 0);
        (content, bytes)
    }

    /// Every length that the file had since the last that is certain.
    fn lengths(&self) -> Vec<u64> {
        let mut length = self.durable.len() as u64;
        let mut lengths = vec![length];
        for pending in &self.pending {
            length = match &pending.change {
                Change::Write { offset, bytes } => length.max(offset + bytes.len() as u64),
                Change::Length(length) => *length,
            };
            lengths.push(length);
        }
        lengths
    }
}

fn pages(offset: u64, length: u64) -> (u64, u64) {
    let from = offset / PAGE_BYTES * PAGE_BYTES;
    (from, (offset + length).next_multiple_of(PAGE_BYTES))
}

fn sectors(change: &Change, sector_bytes: u64) -> std::ops::Range<u64> {
    match change {
        Change::Write { offset, bytes } if !bytes.is_empty() => {
            offset / sector_bytes..(offset + bytes.len() as u64).div_ceil(sector_bytes)
        }
        _ => 0..0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HALF: Survival = Survival::Some { sector_bytes: 512, names_in_order: false, percent: 50 };

    struct Script {
        disk: Disk,
        line: usize,
    }

    impl Script {
        /// A disk with the file `name`, node 1, whose name is durable.
        fn with_file(lies: Option<Lie>, name: &str) -> Self {
            let mut script = Self { disk: Disk::new(lies), line: 0 };
            script.act(Action::NewFile(1));
            script.name(name, Some(1));
            script.act(Action::Sync { node: 0, is_data_only: false });
            script
        }

        fn act(&mut self, action: Action) {
            self.line += 2;
            let (began, returned) = (self.line, self.line + 1);
            self.disk.apply(&Effect { began, returned, action });
        }

        fn name(&mut self, name: &str, node: Option<NodeId>) {
            let names = vec![(name.to_owned(), node)];
            self.act(Action::Names { directory: 0, names });
        }

        fn write(&mut self, offset: u64, bytes: &[u8], is_durable: bool) {
            self.act(Action::Write { node: 1, offset, bytes: bytes.into(), is_durable });
        }

        fn sync(&mut self, is_data_only: bool) {
            self.act(Action::Sync { node: 1, is_data_only });
        }

        /// The files of a number of images, each once.
        fn images(&self, survival: Survival) -> Vec<BTreeMap<String, Vec<u8>>> {
            let mut images = Vec::new();
            for seed in 0..400 {
                let image = self.disk.image(survival, &mut Rng::new(seed));
                let files = image
                    .entries
                    .into_iter()
                    .filter_map(|entry| Some((entry.path, entry.bytes?.into_owned())));
                let files: BTreeMap<String, Vec<u8>> = files.collect();
                if !images.contains(&files) {
                    images.push(files);
                }
            }
            images
        }

        /// What node 1 may hold.
        fn contents(&self, survival: Survival) -> Vec<Vec<u8>> {
            self.images(survival)
                .into_iter()
                .filter_map(|files| files.into_values().next())
                .collect()
        }
    }

    #[test]
    fn what_was_synced_is_certain_and_the_rest_survives_by_sectors() {
        let mut script = Script::with_file(None, "f");
        script.write(0, &[1; 1_024], false);
        script.sync(true);
        script.write(256, &[2; 512], false);
        assert_eq!(script.contents(Survival::Nothing), [vec![1; 1_024]]);
        let mut all = vec![1; 1_024];
        all[256..768].fill(2);
        assert_eq!(script.contents(Survival::Everything), [all.clone()]);
        let some = script.contents(HALF);
        assert_eq!(some.len(), 4, "two sectors, each with or without");
        let mut first = vec![1; 1_024];
        first[256..512].fill(2);
        assert!(some.contains(&first) && some.contains(&all));
        let pages = Survival::Some { sector_bytes: 4096, names_in_order: true, percent: 50 };
        assert_eq!(script.contents(pages).len(), 2, "one page");
        script.sync(false);
        assert_eq!(script.contents(HALF), [all]);
    }

    #[test]
    fn of_two_writes_to_a_sector_the_first_survives_first() {
        let mut script = Script::with_file(None, "f");
        script.write(0, &[0; 512], true);
        script.write(0, &[1; 300], false);
        script.write(200, &[2; 300], false);
        let some = script.contents(HALF);
        assert_eq!(some.len(), 3);
        assert!(!some.iter().any(|bytes| bytes[0] == 0 && bytes[499] == 2), "not the second alone");
    }

    #[test]
    fn lengths_survive_on_their_own_and_a_data_sync_leaves_a_cut_out() {
        let mut script = Script::with_file(None, "f");
        script.write(0, &[1; 100], true);
        script.write(100, &[2; 100], false);
        let some = script.contents(HALF);
        assert!(some.contains(&vec![1; 100]), "{some:?}");
        let mut hole = vec![1; 100];
        hole.resize(200, 0);
        assert!(some.contains(&hole), "the length without the bytes");
        script.sync(true);
        script.act(Action::Length { node: 1, length: 50 });
        script.sync(true);
        assert!(script.contents(HALF).iter().any(|bytes| bytes.len() == 200));
        script.sync(false);
        assert_eq!(script.contents(HALF), [vec![1; 50]]);
    }

    #[test]
    fn a_sync_covers_what_had_returned_when_it_began() {
        let mut script = Script::with_file(None, "f");
        let bytes: Arc<[u8]> = [1; 10].into();
        let write = Action::Write { node: 1, offset: 0, bytes, is_durable: false };
        let sync = Action::Sync { node: 1, is_data_only: false };
        script.disk.apply(&Effect { began: 100, returned: 103, action: write });
        script.disk.apply(&Effect { began: 102, returned: 104, action: sync.clone() });
        assert_eq!(script.contents(Survival::Nothing), [Vec::<u8>::new()]);
        script.disk.apply(&Effect { began: 105, returned: 106, action: sync });
        assert_eq!(script.contents(Survival::Nothing), [vec![1; 10]]);
    }

    #[test]
    fn a_failed_sync_is_not_made_good_by_a_later_one_but_by_another_write() {
        let mut script = Script::with_file(None, "f");
        script.write(0, &[1; 10], true);
        script.write(0, &[2; 10], false);
        script.act(Action::FailedSync(1));
        script.sync(false);
        assert_eq!(script.contents(Survival::Nothing), [vec![1; 10]]);
        assert_eq!(script.contents(Survival::Everything), [vec![2; 10]]);
        script.write(5_000, &[3; 10], false);
        script.sync(false);
        assert_eq!(script.contents(Survival::Nothing)[0][..10], [1; 10], "another page");
        script.write(5, &[2; 5], false);
        script.sync(false);
        assert_eq!(script.contents(Survival::Nothing)[0][..10], [2; 10], "the page as a whole");
    }

    #[test]
    fn names_survive_by_their_directory_alone() {
        let mut script = Script::with_file(None, "a");
        script.write(0, b"x", false);
        script.sync(false);
        let rename = vec![("a".to_owned(), None), ("b".to_owned(), Some(1))];
        script.act(Action::Names { directory: 0, names: rename });
        let named = |files: &BTreeMap<String, Vec<u8>>| files.keys().cloned().collect::<String>();
        let names = |script: &Script, survival| -> Vec<String> {
            let mut names: Vec<String> = script.images(survival).iter().map(named).collect();
            names.sort_unstable();
            names
        };
        assert_eq!(names(&script, HALF), ["a", "b"], "as a whole or not at all");
        script.name("b", None);
        script.name("c", Some(1));
        let in_order = Survival::Some { sector_bytes: 512, names_in_order: true, percent: 50 };
        assert_eq!(names(&script, in_order), ["", "a", "b", "c"]);
        assert!(names(&script, HALF).contains(&"ac".to_owned()), "each on its own");
        script.act(Action::Sync { node: 0, is_data_only: false });
        assert_eq!(names(&script, HALF), ["c"]);
    }

    #[test]
    fn a_disk_lies_about_what_it_is_told_to() {
        let mut honest = Script::with_file(None, "data.mdb");
        let mut lying = Script::with_file(Some(Lie::Index), "data.mdb");
        for script in [&mut honest, &mut lying] {
            script.write(0, b"x", true);
            script.write(1, b"y", false);
            script.sync(false);
        }
        assert_eq!(honest.contents(Survival::Nothing), [b"xy".to_vec()]);
        assert_eq!(lying.contents(Survival::Nothing), [b"".to_vec()]);
        let lying = Script::with_file(Some(Lie::Directories), "f");
        assert_eq!(lying.images(Survival::Nothing), [BTreeMap::new()]);
    }

    #[test]
    fn equal_images_have_equal_numbers() {
        let mut script = Script::with_file(None, "f");
        script.write(0, &[1; 2_000], false);
        let mut seen = BTreeMap::new();
        for seed in 0..200 {
            let image = script.disk.image(HALF, &mut Rng::new(seed));
            let bytes = image.entries[0].bytes.as_deref().unwrap_or_default().to_vec();
            let other = seen.insert(image.identity, bytes.clone());
            assert!(other.is_none_or(|other| other == bytes));
        }
        assert!(seen.len() > 10);
    }
}
