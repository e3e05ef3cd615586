//! The disk of one shard: log segments that lose what was not synced, and an index whose commits
//! are atomic. It outlives the node's lives.

use crate::plan::Fault;
use crate::world::Dice;
use proto::Secret;
use store::fault::{FaultPlan, FaultSegments};
use store::index::{Did, UpkeepDone};
use store::mem::{MemIndex, MemSegments};
use store::record::{Batch, SEGMENT_HEADER_BYTES, SegmentHeader};
use store::rewrite::format::first_seq_of;
use store::rewrite::{Outcome, Refusal};
use store::seam::{SegmentEntry, perform};
use store::{Segments, Seq, StoreEffect, StoreInput, Unwritten, WorldError};

/// Segments under faults.
pub type SimSegments = FaultSegments<MemSegments>;

/// One shard's disk. Owned by the world.
#[derive(Clone, Debug)]
pub struct Disk {
    /// The log.
    pub segments: SimSegments,
    /// The index.
    pub index: MemIndex,
}

/// What the world does to an effect.
#[derive(Clone, Copy, Debug, Default)]
pub struct Weather {
    /// There is no room.
    pub is_full: bool,
    /// Chances of an error, in a million.
    pub read_errors_ppm: u64,
    /// Chances of an error that ends the process, in a million.
    pub write_errors_ppm: u64,
}

fn broken() -> WorldError {
    WorldError::Index("injected input/output error".to_owned())
}

impl Disk {
    /// An empty disk.
    pub fn new(secret: Secret, seed: u64) -> Self {
        let plan = FaultPlan { seed, ..FaultPlan::default() };
        Self {
            segments: FaultSegments::new(MemSegments::default(), plan),
            index: MemIndex::new(secret),
        }
    }

    /// Performs an effect as the engine does, or lets it fail.
    pub fn perform(&self, effect: StoreEffect, weather: Weather, dice: &mut Dice) -> StoreInput {
        if weather.is_full
            && let Some(answer) = self.no_room(&effect, dice)
        {
            return answer;
        }
        if is_read(&effect) {
            if dice.ppm(weather.read_errors_ppm) {
                dice.marks.hit("read failed");
                return failed_read(effect);
            }
        } else if dice.ppm(weather.write_errors_ppm) {
            dice.marks.hit("write failed");
            return self.failed_write(effect, dice);
        }
        let answer = perform(&self.index, &self.segments, effect);
        match &answer {
            StoreInput::Rewritten(Outcome::Done(done)) => {
                dice.marks.hit("segments rewritten");
                dice.marks.add("kills left out by a rewriting", done.kills_dropped);
            }
            StoreInput::UpkeepDone(done) => match done.did {
                Did::Sealed { .. } => dice.marks.hit("generation sealed"),
                Did::Began => dice.marks.hit("generations written anew"),
                Did::Nothing | Did::Closed | Did::Copied | Did::Cleared | Did::NoRoom => {}
            },
            StoreInput::Scanned { .. } => {
                let scanned = self.index.last_scanned();
                dice.marks.add("generation opened by a scan", u64::from(scanned.opened));
                let spared = scanned.generations.saturating_sub(scanned.opened);
                dice.marks.add("generation left alone by a scan", u64::from(spared));
            }
            _ => {}
        }
        answer
    }

    fn no_room(&self, effect: &StoreEffect, dice: &mut Dice) -> Option<StoreInput> {
        let unwritten = match effect {
            StoreEffect::Log(log) => Unwritten::Log(log.clone()),
            StoreEffect::Checkpoint(_) => Unwritten::Checkpoint,
            StoreEffect::Upkeep(_) => {
                dice.marks.hit("no room for upkeep");
                let done = UpkeepDone { did: Did::NoRoom, ..UpkeepDone::default() };
                return Some(StoreInput::UpkeepDone(done));
            }
            StoreEffect::Rewrite(job) => {
                dice.marks.hit("no room for a rewrite");
                let why = Refusal::World(WorldError::NoSpace("injected".to_owned()));
                let refused = Outcome::Refused { sources: job.sources.clone(), why };
                return Some(StoreInput::Rewritten(refused));
            }
            _ => return None,
        };
        dice.marks.hit("no room");
        Some(StoreInput::NoSpace(unwritten))
    }

    /// The effect fails somewhere in its middle.
    fn failed_write(&self, effect: StoreEffect, dice: &mut Dice) -> StoreInput {
        match effect {
            effect @ (StoreEffect::Checkpoint(_) | StoreEffect::Upkeep(_)) => {
                // A commit that reports an error may have happened.
                if dice.rng.chance(1, 2) {
                    let _ = perform(&self.index, &self.segments, effect);
                }
                StoreInput::Failed(broken())
            }
            effect => {
                self.segments.stop_after(dice.rng.below(3), true);
                let answer = perform(&self.index, &self.segments, effect);
                self.segments.clear_plan();
                answer
            }
        }
    }

    /// The machine or the process ends while `effect` is under way: it is done in part, in whole or
    /// not at all.
    pub fn interrupt(&self, effect: StoreEffect, dice: &mut Dice) {
        if is_read(&effect) || dice.rng.chance(1, 3) {
            return;
        }
        dice.marks.hit("stopped within an effect");
        if matches!(effect, StoreEffect::Rewrite(_)) {
            dice.marks.hit("stopped within a rewrite");
        }
        let is_at_work = self.index.is_at_work();
        if matches!(effect, StoreEffect::Upkeep(_)) && is_at_work {
            dice.marks.hit("stopped while sealing");
        }
        self.segments.stop_after(dice.rng.below(12), false);
        let _ = perform(&self.index, &self.segments, effect);
    }

    /// Power is gone and comes back (or only the process, with `survive_of_256` = 256).
    pub fn restart(&self, survive_of_256: u16, dice: &mut Dice) {
        let before = self.segments.counts();
        self.segments.set_survival(survive_of_256, dice.rng.next_u64());
        let plan = FaultPlan { seed: dice.rng.next_u64(), ..FaultPlan::default() };
        self.segments.power_cut(plan).expect("memory does not fail");
        let after = self.segments.counts();
        dice.marks.add("sectors lost", after.sectors_lost - before.sectors_lost);
        dice.marks.add("sectors kept", after.sectors_kept - before.sectors_kept);
    }

    /// What is on it, in a few words.
    pub fn summary(&self) -> String {
        let applied = store::Index::applied(&self.index).unwrap_or(0);
        let segments = self.segments.list().unwrap_or_default();
        let segments = segments.iter().map(|entry| format!("{:x}: {}", entry.segment, entry.bytes));
        format!("records to {applied} in the index, segments {:?}", segments.collect::<Vec<_>>())
    }

    /// Flips a bit of what was durable, and says where: anywhere in a segment, but in the log's last
    /// one only before its last batch, which nobody can tell from one that was torn.
    pub fn flip(&self, dice: &mut Dice) -> Option<(Seq, u32)> {
        let entries = self.segments.list().ok()?;
        let last = entries.iter().map(|entry| first_seq_of(entry.segment)).max()?;
        let rots = |entry: &SegmentEntry| match first_seq_of(entry.segment) < last {
            true => (entry.segment, entry.bytes),
            false => (entry.segment, self.bytes_before_last_batch(entry.segment)),
        };
        let rots: Vec<(Seq, u64)> =
            entries.iter().map(rots).filter(|(_, bytes)| *bytes > 0).collect();
        if rots.is_empty() {
            return None;
        }
        let (segment, bytes) = *dice.rng.pick(&rots);
        let offset = dice.rng.below(bytes) as u32;
        self.segments.flip(segment, offset, 1 << dice.rng.below(8)).ok()?;
        dice.marks.hit(Fault::BitFlip.name());
        Some((segment, offset))
    }

    /// Where the last valid batch of a segment begins; 0 if there is none, or if the segment is a
    /// rewritten one.
    fn bytes_before_last_batch(&self, segment: Seq) -> u64 {
        let bytes = self.segments.read(segment).unwrap_or_default();
        let Ok(header) = SegmentHeader::decode(&bytes) else { return 0 };
        let (mut at, mut last) = (SEGMENT_HEADER_BYTES, 0);
        while let Some(batch) = Batch::read(&bytes[at..], segment, header.epoch) {
            (last, at) = (at, at + batch.bytes.len());
        }
        last as u64
    }
}

/// Whether an effect changes nothing.
pub fn is_read(effect: &StoreEffect) -> bool {
    !matches!(
        effect,
        StoreEffect::Log(_)
            | StoreEffect::Checkpoint(_)
            | StoreEffect::Upkeep(_)
            | StoreEffect::Rewrite(_)
            | StoreEffect::Unlink { .. }
    )
}

fn failed_read(effect: StoreEffect) -> StoreInput {
    match effect {
        StoreEffect::Scan { token, request } => {
            StoreInput::Scanned { token, request, page: Err(broken()) }
        }
        StoreEffect::Lookup { token, keys } => {
            StoreInput::Looked { token, keys, found: Err(broken()) }
        }
        StoreEffect::Fetch { token, .. } => StoreInput::Fetched { token, bodies: Err(broken()) },
        StoreEffect::Ask { token, .. } => StoreInput::Answered { token, answer: Err(broken()) },
        StoreEffect::Expired { token, .. } => StoreInput::Expired { token, rows: Err(broken()) },
        StoreEffect::Survey => StoreInput::Surveyed(Err(broken())),
        StoreEffect::Log(_)
        | StoreEffect::Checkpoint(_)
        | StoreEffect::Upkeep(_)
        | StoreEffect::Rewrite(_)
        | StoreEffect::Unlink { .. } => unreachable!("these are no reads"),
    }
}
