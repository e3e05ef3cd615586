//! A disk that fails: wraps segments and loses, tears and reorders what was not synced, fails a
//! chosen operation, stops at a chosen operation, flips bits. Everything follows from the plan's
//! seed.

use crate::effect::{Seq, WorldError};
use crate::mem::{no_segment, write_into};
use crate::seam::{SegmentEntry, Segments};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

/// What a disk writes as a whole or not at all.
pub const SECTOR_BYTES: usize = 512;

/// What goes wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FaultPlan {
    /// Decides which unsynced sectors survive.
    pub seed: u64,
    /// The operation (counted from 1 over everything that changes the disk) that reports an error; what it
    /// wrote may or may not survive.
    pub fail_at: Option<u64>,
    /// The operation in the middle of which the machine stops.
    pub stop_at: Option<u64>,
    /// How many of 256 unsynced sectors survive a stop.
    pub survive_of_256: u16,
    /// Syncs do nothing: the control of every durability test.
    pub skip_sync: bool,
}

/// What the disk did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FaultCounts {
    /// Operations so far.
    pub operations: u64,
    /// Operations that reported an error.
    pub failed: u64,
    /// Sectors that were lost.
    pub sectors_lost: u64,
    /// Sectors that were written and not synced and survived.
    pub sectors_kept: u64,
}

#[derive(Debug)]
enum Unsynced {
    Create { segment: Seq, header: Vec<u8> },
    Write { segment: Seq, offset: u32, bytes: Vec<u8> },
    Seal { segment: Seq, length: u32 },
    Publish { segment: Seq, bytes: Vec<u8> },
    Unlink { segment: Seq },
}

#[derive(Debug)]
struct State {
    plan: FaultPlan,
    random: u64,
    counts: FaultCounts,
    unsynced: Vec<Unsynced>,
    /// Rewritten segments that have no name yet: nothing of them survives.
    staged: BTreeMap<Seq, Vec<u8>>,
    is_stopped: bool,
}

impl State {
    /// The next number of the plan's sequence.
    fn draw(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.random ^ (self.random >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn survives(&mut self) -> bool {
        let survives = (self.draw() & 255) < u64::from(self.plan.survive_of_256);
        if survives {
            self.counts.sectors_kept += 1;
        } else {
            self.counts.sectors_lost += 1;
        }
        survives
    }
}

/// What becomes of one operation.
enum Fate {
    Durable,
    Unsynced,
    Fails,
}

/// Segments on a disk that fails. Clones share the disk.
#[derive(Clone, Debug)]
pub struct FaultSegments<S> {
    inner: S,
    state: Rc<RefCell<State>>,
}

fn failed(segment: Seq, what: &str) -> WorldError {
    WorldError::Log { segment, what: what.to_owned() }
}

impl<S: Segments> FaultSegments<S> {
    /// Wraps segments, which hold what is durable.
    pub fn new(inner: S, plan: FaultPlan) -> Self {
        let state = State {
            plan,
            random: plan.seed,
            counts: FaultCounts::default(),
            unsynced: Vec::new(),
            staged: BTreeMap::new(),
            is_stopped: false,
        };
        Self { inner, state: Rc::new(RefCell::new(state)) }
    }

    /// What the disk did so far.
    pub fn counts(&self) -> FaultCounts {
        self.state.borrow().counts
    }

    /// Whether the machine has stopped.
    pub fn is_stopped(&self) -> bool {
        self.state.borrow().is_stopped
    }

    /// Power is cut and comes back: of what was not synced, each sector survives by itself, which
    /// is a loss, a tear or a reordering. Goes on with another plan.
    ///
    /// # Errors
    /// [`WorldError::Log`] when the wrapped segments fail.
    pub fn power_cut(&self, next: FaultPlan) -> Result<(), WorldError> {
        let mut state = self.state.borrow_mut();
        let mut never_named = BTreeSet::new();
        for effect in std::mem::take(&mut state.unsynced) {
            match effect {
                // A name and a length are whole or not at all, and without its name a file is gone.
                Unsynced::Create { segment, header } => {
                    if state.survives() {
                        self.inner.create(segment, &header)?;
                    } else {
                        never_named.insert(segment);
                    }
                }
                Unsynced::Seal { segment, .. } | Unsynced::Write { segment, .. }
                    if never_named.contains(&segment) => {}
                Unsynced::Seal { segment, length } => {
                    if state.survives() {
                        self.inner.seal(segment, length)?;
                    }
                }
                Unsynced::Unlink { segment } => {
                    if state.survives() {
                        self.inner.unlink(segment)?;
                    }
                }
                // The bytes were synced before the name was given, unless syncs do nothing.
                Unsynced::Publish { segment, bytes } => {
                    if !state.survives() {
                        continue;
                    }
                    let kept =
                        if state.plan.skip_sync { vec![0; bytes.len()] } else { bytes.clone() };
                    self.inner.stage(segment, 0, &kept)?;
                    self.inner.publish(segment)?;
                    if state.plan.skip_sync {
                        self.keep_sectors(&mut state, segment, 0, &bytes)?;
                    }
                }
                Unsynced::Write { segment, offset, bytes } => {
                    self.keep_sectors(&mut state, segment, offset, &bytes)?;
                }
            }
        }
        let counts = state.counts;
        *state = State {
            plan: next,
            random: next.seed,
            counts: FaultCounts { operations: 0, ..counts },
            unsynced: Vec::new(),
            staged: BTreeMap::new(),
            is_stopped: false,
        };
        Ok(())
    }

    fn keep_sectors(
        &self,
        state: &mut State,
        segment: Seq,
        offset: u32,
        bytes: &[u8],
    ) -> Result<(), WorldError> {
        let (mut at, end) = (offset as usize, offset as usize + bytes.len());
        while at < end {
            let to = (at / SECTOR_BYTES + 1).saturating_mul(SECTOR_BYTES).min(end);
            if state.survives() {
                let from = offset as usize;
                self.inner.write(segment, at as u32, &bytes[at - from..to - from])?;
            }
            at = to;
        }
        Ok(())
    }

    /// After `operations` further ones the machine stops (`is_error`: one reports an error instead,
    /// and the machine goes on).
    pub fn stop_after(&self, operations: u64, is_error: bool) {
        let mut state = self.state.borrow_mut();
        let at = Some(state.counts.operations + operations + 1);
        match is_error {
            true => state.plan.fail_at = at,
            false => state.plan.stop_at = at,
        }
    }

    /// Nothing more goes wrong.
    pub fn clear_plan(&self) {
        let mut state = self.state.borrow_mut();
        (state.plan.fail_at, state.plan.stop_at) = (None, None);
    }

    /// How many of 256 unsynced sectors survive the next power cut, and which.
    pub fn set_survival(&self, survive_of_256: u16, seed: u64) {
        let mut state = self.state.borrow_mut();
        state.plan.survive_of_256 = survive_of_256;
        state.random = seed;
    }

    /// Flips bits of a byte at rest.
    ///
    /// # Errors
    /// [`WorldError::Log`] when there is no such byte.
    pub fn flip(&self, segment: Seq, offset: u32, mask: u8) -> Result<(), WorldError> {
        let byte = self.inner.read_at(segment, offset, 1)?;
        let byte = byte.first().ok_or_else(|| failed(segment, "no such byte"))?;
        self.inner.write(segment, offset, &[byte ^ mask])
    }

    fn fate(&self, segment: Seq) -> Result<Fate, WorldError> {
        let mut state = self.state.borrow_mut();
        if state.is_stopped {
            return Err(failed(segment, "the machine has stopped"));
        }
        state.counts.operations += 1;
        let operation = Some(state.counts.operations);
        if operation == state.plan.stop_at {
            state.is_stopped = true;
            return Ok(Fate::Fails);
        }
        if operation == state.plan.fail_at {
            return Ok(Fate::Fails);
        }
        Ok(if state.plan.skip_sync { Fate::Unsynced } else { Fate::Durable })
    }

    fn perform_or_lose(
        &self,
        segment: Seq,
        effect: Unsynced,
        durably: impl FnOnce(&S) -> Result<(), WorldError>,
    ) -> Result<(), WorldError> {
        match self.fate(segment)? {
            Fate::Durable => durably(&self.inner),
            Fate::Unsynced => {
                self.state.borrow_mut().unsynced.push(effect);
                Ok(())
            }
            Fate::Fails => {
                let mut state = self.state.borrow_mut();
                state.counts.failed += 1;
                state.unsynced.push(effect);
                Err(failed(segment, "input/output error"))
            }
        }
    }
}

impl<S: Segments> Segments for FaultSegments<S> {
    fn list(&self) -> Result<Vec<SegmentEntry>, WorldError> {
        let mut entries = self.inner.list()?;
        for effect in &self.state.borrow().unsynced {
            if let Unsynced::Create { segment, header } = effect
                && !entries.iter().any(|entry| entry.segment == *segment)
            {
                entries.push(SegmentEntry { segment: *segment, bytes: header.len() as u64 });
            }
            if let Unsynced::Unlink { segment } = effect {
                entries.retain(|entry| entry.segment != *segment);
            }
            if let Unsynced::Publish { segment, bytes } = effect {
                entries.push(SegmentEntry { segment: *segment, bytes: bytes.len() as u64 });
            }
        }
        entries.sort_unstable();
        Ok(entries)
    }

    fn read(&self, wanted: Seq) -> Result<Vec<u8>, WorldError> {
        let mut bytes = self.inner.read(wanted);
        for effect in &self.state.borrow().unsynced {
            match effect {
                Unsynced::Create { segment, header } if *segment == wanted => {
                    bytes = Ok(header.clone());
                }
                Unsynced::Publish { segment, bytes: published } if *segment == wanted => {
                    bytes = Ok(published.clone());
                }
                Unsynced::Unlink { segment } if *segment == wanted => {
                    bytes = Err(no_segment(wanted));
                }
                Unsynced::Write { segment, offset, bytes: written } if *segment == wanted => {
                    if let Ok(bytes) = &mut bytes {
                        write_into(bytes, *offset as usize, written);
                    }
                }
                Unsynced::Seal { segment, length } if *segment == wanted => {
                    if let Ok(bytes) = &mut bytes {
                        bytes.truncate(*length as usize);
                    }
                }
                _ => {}
            }
        }
        bytes
    }

    fn read_at(&self, segment: Seq, offset: u32, length: usize) -> Result<Vec<u8>, WorldError> {
        let bytes = self.read(segment)?;
        let from = (offset as usize).min(bytes.len());
        let to = (from + length).min(bytes.len());
        Ok(bytes[from..to].to_vec())
    }

    fn create(&self, segment: Seq, header: &[u8]) -> Result<(), WorldError> {
        let effect = Unsynced::Create { segment, header: header.to_vec() };
        self.perform_or_lose(segment, effect, |inner| inner.create(segment, header))
    }

    /// Nothing is durable before it is synced, whether the write reports an error or not.
    fn write(&self, segment: Seq, offset: u32, bytes: &[u8]) -> Result<(), WorldError> {
        let fate = self.fate(segment)?;
        let mut state = self.state.borrow_mut();
        state.unsynced.push(Unsynced::Write { segment, offset, bytes: bytes.to_vec() });
        match fate {
            Fate::Fails => {
                state.counts.failed += 1;
                Err(failed(segment, "input/output error"))
            }
            Fate::Durable | Fate::Unsynced => Ok(()),
        }
    }

    /// A sync that fails leaves everything as it was: any of it may survive or not.
    fn sync(&self, segment: Seq) -> Result<(), WorldError> {
        match self.fate(segment)? {
            Fate::Unsynced => return Ok(()),
            Fate::Fails => {
                self.state.borrow_mut().counts.failed += 1;
                return Err(failed(segment, "input/output error"));
            }
            Fate::Durable => {}
        }
        let mut state = self.state.borrow_mut();
        for effect in std::mem::take(&mut state.unsynced) {
            match effect {
                Unsynced::Write { segment: of, offset, bytes } if of == segment => {
                    self.inner.write(segment, offset, &bytes)?;
                }
                other => state.unsynced.push(other),
            }
        }
        self.inner.sync(segment)
    }

    fn seal(&self, segment: Seq, length: u32) -> Result<(), WorldError> {
        let effect = Unsynced::Seal { segment, length };
        self.perform_or_lose(segment, effect, |inner| inner.seal(segment, length))
    }

    fn stage(&self, segment: Seq, offset: u32, bytes: &[u8]) -> Result<(), WorldError> {
        if let Fate::Fails = self.fate(segment)? {
            self.state.borrow_mut().counts.failed += 1;
            return Err(failed(segment, "input/output error"));
        }
        let mut state = self.state.borrow_mut();
        let file = state.staged.entry(segment).or_default();
        file.truncate(offset as usize);
        write_into(file, offset as usize, bytes);
        Ok(())
    }

    fn publish(&self, segment: Seq) -> Result<(), WorldError> {
        let staged = self.state.borrow_mut().staged.remove(&segment);
        let bytes = staged.ok_or_else(|| no_segment(segment))?;
        let effect = Unsynced::Publish { segment, bytes: bytes.clone() };
        self.perform_or_lose(segment, effect, |inner| {
            inner.stage(segment, 0, &bytes)?;
            inner.publish(segment)
        })
    }

    fn unlink(&self, segment: Seq) -> Result<(), WorldError> {
        self.perform_or_lose(segment, Unsynced::Unlink { segment }, |inner| inner.unlink(segment))
    }

    fn quarantine(&self, segment: Seq) -> Result<(), WorldError> {
        self.inner.quarantine(segment)
    }
}
