//! One run from its seed to its verdict: lives of the node with faults, quiet moments in which
//! everything is checked, and a last crash after which everything must still be there.

use crate::check;
use crate::client::{Nature, settled_subscriptions};
use crate::disk::Disk;
use crate::fact::Wish;
use crate::history::{Micros, Violation};
use crate::marks::Marks;
use crate::node::{Node, SECRET, store_config};
use crate::plan::{Fault, Overrides, Plan, Sizes};
use crate::pool::{EventIndex, Pool};
use crate::world::World;
use proto::{Filter, Placement};
use serve::Phase;
use shards::home::{HomeInput, Reply};
use std::collections::BTreeSet;
use store::mem::MemIndex;
use store::offline::OfflineError;
use store::record::PUT_HEADER_BYTES;
use store::{OpenError, reindex, reshard};

/// Within this time everything that was asked for must be answered once no fault happens.
const QUIET_US: u64 = 200_000_000;
/// Within this time a relay without load answers an event and a query. It sleeps half a second when
/// nobody wakes it.
const PROMPT_US: u64 = 200_000;
/// Time that live events have to reach everybody who is told of them.
const DELIVERY_US: u64 = 1_000_000;
/// Exact queries at every quiet moment.
const EXACT_QUERIES: usize = 6;

/// What came of a run.
#[derive(Debug)]
pub struct Outcome {
    /// Hash of everything that happened.
    pub trace: u64,
    /// What happened.
    pub marks: Marks,
    /// Client operations.
    pub ops: u64,
    /// Virtual time.
    pub elapsed_us: Micros,
}

/// A run that broke a promise.
#[derive(Debug)]
pub struct Failure {
    /// Which.
    pub violation: Violation,
    /// When.
    pub at_us: Micros,
    /// In which life of the node.
    pub life: u32,
    /// Where the events that the violation names are on the disks.
    pub evidence: Vec<String>,
    /// The story, if it was wanted.
    pub story: Vec<String>,
}

/// Runs a seed.
///
/// # Errors
/// The first promise that was broken.
pub fn run(
    seed: u64,
    overrides: &Overrides,
    pool: &Pool,
    is_story_wanted: bool,
) -> Result<Outcome, Box<Failure>> {
    let plan = Plan::draw(seed, pool.families.len(), overrides);
    let mut world = World::new(&plan, pool);
    world.dice.story = is_story_wanted.then(Vec::new);
    let ended = Run { world: &mut world, sizes: plan.sizes.clone() }.all();
    match ended {
        Ok(()) => Ok(Outcome {
            trace: world.trace,
            marks: world.dice.marks,
            ops: u64::from(plan.ops),
            elapsed_us: world.now_us,
        }),
        Err(violation) => Err(Box::new(Failure {
            evidence: evidence(&world, &violation),
            violation,
            at_us: world.now_us,
            life: world.life,
            story: world.dice.story.unwrap_or_default(),
        })),
    }
}

struct Run<'w, 'p> {
    world: &'w mut World<'p>,
    sizes: Sizes,
}

/// How a life ends.
enum End {
    /// By a fault that the run had in store.
    Crashed,
    /// Everything was done and checked.
    Quiet,
}

impl Run<'_, '_> {
    fn all(&mut self) -> Result<(), Violation> {
        let plan = self.world.plan;
        for fault in &plan.faults {
            self.world.dice.marks.hit(fault.name());
        }
        let lives = plan.lives;
        for life in 1..=lives {
            if !self.start()? {
                return Ok(());
            }
            match self.live(life == lives)? {
                End::Crashed => self.world.dice.marks.hit("crashed at work"),
                End::Quiet if life < lives => self.end_quietly()?,
                End::Quiet => {}
            }
            if let End::Crashed = self.crash_now()? {
                continue;
            }
        }
        self.last_crash()
    }

    // --- starting -----------------------------------------------------------------------------------

    /// Starts the node. `false` when it may refuse to: bytes of its log have rotted.
    fn start(&mut self) -> Result<bool, Violation> {
        let world = &mut *self.world;
        let now = world.now();
        match Node::start(&self.sizes, &world.disks, &world.network, world.pool, now) {
            Ok(node) => {
                world.begin_life(node);
                Ok(true)
            }
            Err((shard, error)) => self.refused(shard, &error),
        }
    }

    fn refused(&mut self, shard: u16, error: &OpenError) -> Result<bool, Violation> {
        let has_flipped = self.world.dice.marks.0.contains_key("bit flipped");
        if has_flipped {
            self.world.dice.marks.hit("start refused because of rot");
            return Ok(false);
        }
        let detail = format!("shard {shard}: {error}");
        Err(Violation::new("E1: a start finds what was written", detail))
    }

    // --- a life ---------------------------------------------------------------------------------------

    fn live(&mut self, is_last: bool) -> Result<End, Violation> {
        let plan = self.world.plan;
        let clients = self.world.clients.len() as u32;
        let ops_each = (plan.ops / plan.lives / clients).max(1);
        let span_us = u64::from(ops_each) * plan.think_us_max / 2;
        self.world.is_calm = false;
        self.world.schedule_clients(ops_each);
        self.world.schedule_faults(span_us.max(1), is_last);
        let is_over = |world: &mut World<'_>| {
            world.crashed.is_some() || world.clients.iter().all(|client| client.ops == 0)
        };
        self.world.run_until(u64::MAX / 4, is_over)?;
        if self.world.crashed.is_some() {
            return Ok(End::Crashed);
        }
        if self.world.dice.rng.chance(1, 2) {
            // Time for checkpoints by age, rewriting, expiry, removals.
            let span_us = self.world.dice.rng.between(1, 90) * 1_000_000;
            self.world.run_until(span_us, |world| world.crashed.is_some())?;
            if self.world.crashed.is_some() {
                return Ok(End::Crashed);
            }
        }
        self.quiet()?;
        Ok(End::Quiet)
    }

    fn crash_now(&mut self) -> Result<End, Violation> {
        let Some(is_power) = self.world.crashed else { return Ok(End::Quiet) };
        self.world.dice.marks.hit(if is_power { "power cut at work" } else { "killed at work" });
        let survive = if is_power { self.world.plan.survive_of_256 } else { 256 };
        self.world.end_life(survive);
        self.world.clients.iter_mut().for_each(|client| client.ops = 0);
        self.between_lives()?;
        Ok(End::Crashed)
    }

    /// Nothing is under way: the operator stops the relay, or it ends otherwise.
    fn end_quietly(&mut self) -> Result<(), Violation> {
        let plan = self.world.plan;
        match self.world.dice.rng.below(3) {
            0 => {
                self.shut_down()?;
                // Whatever is written is synced, too.
                self.world.end_life(0);
            }
            1 if plan.has(Fault::PowerCut) => self.world.end_life(plan.survive_of_256),
            _ => self.world.end_life(256),
        }
        self.between_lives()
    }

    /// What happens to the disks and the configuration while the relay is down.
    fn between_lives(&mut self) -> Result<(), Violation> {
        let world = &mut *self.world;
        let plan = world.plan;
        if plan.has(Fault::Reconfigure) && world.dice.rng.chance(1, 2) {
            world.dice.marks.hit("other limits after a restart");
            let shards = world.disks.len() as u16;
            let is_tight = plan.has(Fault::TightRings);
            self.sizes = Sizes::draw(&mut world.dice.rng, shards, is_tight);
        }
        if plan.has(Fault::BitFlip) {
            (0..plan.flips).for_each(|_| self.flip());
        }
        if plan.has(Fault::Reindex) && self.world.dice.rng.chance(1, 2) {
            self.reindex();
        }
        // Rot would have to be cured first, and ends the run elsewhere.
        let may_reshard = plan.has(Fault::Reshard) && !plan.has(Fault::BitFlip);
        if may_reshard && self.world.dice.rng.chance(1, 2) {
            self.reshard()?;
        }
        Ok(())
    }

    /// The operator gives the relay another number of shards; one time in three the command is killed
    /// on its way, and what it had copied is removed by the next start.
    fn reshard(&mut self) -> Result<(), Violation> {
        let world = &mut *self.world;
        let shards = world.dice.rng.between(1, 8) as u16;
        let steps_max = match world.dice.rng.chance(1, 3) {
            true => world.dice.rng.below(20),
            false => u64::MAX,
        };
        let pairs = |disks: &[Disk]| -> Vec<_> {
            disks.iter().map(|disk| (disk.index.clone(), disk.segments.clone())).collect()
        };
        let seed = world.dice.rng.next_u64();
        let new: Vec<Disk> =
            (0..shards).map(|shard| Disk::new(SECRET, seed ^ u64::from(shard))).collect();
        let now = world.now();
        let steps = std::cell::Cell::new(0);
        let should_stop = || {
            steps.set(steps.get() + 1);
            steps.get() > steps_max
        };
        let watch = &mut reshard::Watch { progress: &mut |_, _| {}, should_stop: &should_stop };
        let placement = Placement::even(SECRET, shards);
        let config = store_config(&self.sizes, 0);
        let (from, to) = (pairs(&world.disks), pairs(&new));
        match reshard::copy(&from, &to, &placement, &config, &|| now, watch) {
            Ok(_) => {
                world.dice.marks.hit("resharded");
                world.disks = new;
                // The copy is synced before the switch.
                for disk in &world.disks {
                    disk.restart(0, &mut world.dice);
                }
            }
            Err(OfflineError::Stopped) => {
                world.dice.marks.hit("resharding stopped on its way");
            }
            Err(error) => {
                let detail = format!("to {shards} shards: {error}");
                return Err(Violation::new("E1: resharding finds what was written", detail));
            }
        }
        for disk in &world.disks {
            disk.restart(256, &mut world.dice);
        }
        self.sizes.executors = self.sizes.executors.min(world.disks.len() as u16).max(1);
        Ok(())
    }

    fn flip(&mut self) {
        let world = &mut *self.world;
        let shard = world.dice.rng.index(world.disks.len());
        let disk = world.disks[shard].clone();
        let before = store::Segments::list(&disk.segments).unwrap_or_default();
        let bytes: Vec<_> = before
            .iter()
            .filter_map(|entry| {
                let read = store::Segments::read(&disk.segments, entry.segment);
                read.ok().map(|bytes| (entry.segment, bytes))
            })
            .collect();
        let Some((segment, offset)) = disk.flip(&mut world.dice) else { return };
        world.dice.marks.hit("bit flipped");
        let Some((_, bytes)) = bytes.iter().find(|(have, _)| *have == segment) else { return };
        for index in world.history.events.keys().copied() {
            let packed = world.pool.events[index].event.packed();
            let mut found = bytes.windows(packed.len()).enumerate();
            let is_hit = found.any(|(at, window)| {
                // Length and checksum stand before it.
                let guarded = at.saturating_sub(PUT_HEADER_BYTES)..at + packed.len();
                window == packed && guarded.contains(&(offset as usize))
            });
            if is_hit {
                world.history.rotten.insert(index);
            }
        }
    }

    /// The operator rebuilds the index of every shard from its log.
    fn reindex(&mut self) {
        let world = &mut *self.world;
        for (shard, disk) in (0..).zip(&mut world.disks) {
            let index = MemIndex::new(SECRET);
            let config = store_config(&self.sizes, shard);
            let rebuilt =
                reindex::rebuild(&config, &index, &disk.segments, &mut |_, _| {}, &|| false);
            match rebuilt {
                Ok(_) => {
                    world.dice.tell(world.now_us, || format!("shard {shard}: index rebuilt"));
                    world.dice.marks.hit("index rebuilt");
                    disk.index = index;
                    world.dice.tell(world.now_us, || format!("now {}", disk.summary()));
                }
                // A log that has rotted is refused; a last segment that was never written to is
                // the start's to settle. The old index stays.
                Err(_) => world.dice.marks.hit("reindex refused"),
            }
        }
    }

    // --- ends ---------------------------------------------------------------------------------------

    fn shut_down(&mut self) -> Result<(), Violation> {
        self.world.dice.marks.hit("shut down in order");
        self.world.phase = Phase::Draining;
        let is_over = |world: &mut World<'_>| {
            // A write that was under way may fail now, which ends the process its own way.
            let Some(node) = world.node.as_ref().filter(|_| world.crashed.is_none()) else {
                return true;
            };
            let is_control_done = !node.control.home().has_submissions();
            if world.drained == node.cores.len() && is_control_done {
                world.phase = Phase::Closing;
            }
            node.cores.iter().all(|at| at.core.is_over())
        };
        if self.world.run_until(QUIET_US, is_over)? {
            return Ok(());
        }
        let detail = format!("{} cores have drained", self.world.drained);
        Err(Violation::new("liveness: the relay ends when it is told to", detail))
    }

    /// After the last check the power goes once more, and everything is still there, in the log
    /// alone, too.
    fn last_crash(&mut self) -> Result<(), Violation> {
        let survive = self.world.plan.survive_of_256;
        self.world.end_life(survive);
        self.world.history.visible = None;
        if self.world.plan.has(Fault::Reindex) {
            // By now segments have been rewritten that an earlier rebuild would have found whole.
            self.reindex();
        }
        if !self.start()? {
            return Ok(());
        }
        self.world.is_calm = true;
        let visible = self.scan()?;
        check::visible(&visible, self.world.pool, &self.world.history)?;
        self.agree()
    }

    // --- quiet moments ------------------------------------------------------------------------------

    fn quiet(&mut self) -> Result<(), Violation> {
        self.world.is_calm = true;
        self.settle()?;
        // Live events that became durable just now are still under way.
        self.world.run_until(DELIVERY_US, |_| false)?;
        self.settle()?;
        if self.world.crashed.is_some() {
            return Ok(());
        }
        let visible = self.scan()?;
        check::visible(&visible, self.world.pool, &self.world.history)?;
        for client in &self.world.clients {
            let names = settled_subscriptions(client);
            let Some(session) = &client.session else { continue };
            if client.nature == Nature::Malicious {
                continue;
            }
            for name in names {
                let sub = &session.subscriptions[name];
                let (pool, history) = (self.world.pool, &self.world.history);
                check::live(name, sub, pool, history, &mut self.world.dice)?;
            }
        }
        self.world.history.visible = Some((visible, self.world.now_us));
        self.exact_queries()?;
        self.world.history.visible = None;
        self.prompt()?;
        self.leave()?;
        self.agree()
    }

    /// Waits until everything that was asked for is answered and the shards rest, or a write that was
    /// under way when the faults ended has failed and taken the process with it.
    fn settle(&mut self) -> Result<(), Violation> {
        let is_settled = |world: &mut World<'_>| {
            if world.crashed.is_some() {
                return true;
            }
            let rests = world.node.as_ref().is_none_or(|node| {
                let mut shards = node.cores.iter().flat_map(|at| at.core.owners.shards());
                shards.all(|(_, shard)| shard.is_idle() && !shard.has_work())
            });
            let clients = &world.clients;
            let waits = |client: &crate::client::Client| {
                client.nature != Nature::Malicious && client.is_waiting().is_some()
            };
            rests && !world.has_jobs() && !clients.iter().any(waits)
        };
        if self.world.run_until(QUIET_US, is_settled)? {
            return Ok(());
        }
        let waiting = self.world.clients.iter().filter(|client| client.nature != Nature::Malicious);
        let waiting: Vec<String> = waiting.filter_map(|client| client.is_waiting()).collect();
        let busy = self.busy_shards();
        let has_jobs = self.world.has_jobs();
        let detail = format!(
            "clients still wait for {waiting:?}; shards at work: {busy:?}; disks at work: {has_jobs}"
        );
        Err(Violation::new("liveness: everything is answered once faults end", detail))
    }

    /// The shards that do not rest, with what they hold.
    fn busy_shards(&self) -> Vec<String> {
        let cores = self.world.node.iter().flat_map(|node| &node.cores);
        let shards = cores.flat_map(|at| at.core.owners.shards());
        let busy = shards.filter(|(_, shard)| !shard.is_idle() || shard.has_work());
        busy.map(|(number, shard)| format!("{number}: {:?}", shard.stats())).collect()
    }

    /// What the operator sees: everything, private kinds too.
    fn scan(&mut self) -> Result<BTreeSet<EventIndex>, Violation> {
        let now = self.world.now();
        self.world.history.scanned_unix_s = now.unix_s;
        let Some(node) = &mut self.world.node else { return Ok(BTreeSet::new()) };
        node.control.replies.clear();
        let asked = node
            .control
            .ask(now, |client| HomeInput::Scan { client, filters: vec![Filter::default()] });
        self.world.call_control();
        let is_over = |world: &mut World<'_>| {
            let replies = world.node.iter().flat_map(|node| &node.control.replies);
            let mut ends = replies.filter(|reply| {
                matches!(reply, Reply::Eose { client, .. } | Reply::Closed { client, .. }
                    if *client == asked)
            });
            ends.next().is_some()
        };
        if !self.world.run_until(QUIET_US, is_over)? {
            let detail = "a scan by the operator never ends";
            return Err(Violation::new("liveness: everything is answered once faults end", detail));
        }
        let Some(node) = &mut self.world.node else { return Ok(BTreeSet::new()) };
        let mut visible = BTreeSet::new();
        for reply in std::mem::take(&mut node.control.replies) {
            match reply {
                Reply::Stored { client, event, .. } if client == asked => {
                    let id = event.view().id().to_string();
                    let genuine = self.world.pool.genuine(&id);
                    let is_same =
                        |index: &EventIndex| self.world.pool.events[*index].event == event;
                    let Some(index) = genuine.filter(is_same) else {
                        let detail = format!("the operator was given {id}");
                        return Err(Violation::new("E3: only genuine events are stored", detail));
                    };
                    visible.insert(index);
                }
                Reply::Closed { client, reason, .. } if client == asked => {
                    let detail = format!("a scan by the operator failed: {reason:?}");
                    return Err(Violation::new("liveness: reads work once faults end", detail));
                }
                _ => {}
            }
        }
        node.control.gone(now, asked);
        Ok(visible)
    }

    /// A client that is not of the malicious kind and is connected, connecting one if need be.
    fn somebody(&mut self) -> Result<usize, Violation> {
        let honest = self.world.plan.slow_clients.min(self.world.plan.clients - 1);
        let connected = |world: &World<'_>| {
            let fit = |client: &&crate::client::Client| {
                client.nature != Nature::Malicious
                    && client.session.as_ref().is_some_and(crate::client::Session::is_open)
            };
            world.clients.iter().find(fit).map(|client| client.index)
        };
        if let Some(client) = connected(self.world) {
            return Ok(client);
        }
        self.world.clients[honest].lost();
        self.world.connect(honest);
        self.world.run_until(QUIET_US, |world| connected(world).is_some())?;
        connected(self.world).ok_or_else(|| {
            let detail = "nobody can connect any more";
            Violation::new("liveness: everything is answered once faults end", detail)
        })
    }

    fn exact_queries(&mut self) -> Result<(), Violation> {
        let who = self.somebody()?;
        for number in 0..EXACT_QUERIES {
            let client = &mut self.world.clients[who];
            let count = 1 + client.rng.below(2) as usize;
            let wishes: Vec<Wish> = (0..count).map(|_| client.wish(self.world.pool)).collect();
            // Time moves on, so that the query is after the scan.
            self.world.now_us += 1;
            let now_us = self.world.now_us;
            let max_limit = self.world.history.max_limit;
            let deed = client.subscribe_to(&format!("exact{number}"), wishes, now_us, max_limit);
            self.world.carry_out(who, deed);
            self.settle()?;
        }
        Ok(())
    }

    /// Without load an event and a query are answered at once, not when a timer comes to help.
    fn prompt(&mut self) -> Result<(), Violation> {
        for _ in 0..2 {
            let who = self.somebody()?;
            let began_us = self.world.now_us;
            let (pool, history) = (self.world.pool, &mut self.world.history);
            let client = &mut self.world.clients[who];
            let deed = client.publish(pool, history, began_us);
            self.world.carry_out(who, deed);
            let client = &mut self.world.clients[who];
            let wish = client.wish(pool);
            let max_limit = self.world.history.max_limit;
            let deed = client.subscribe_to("prompt", vec![wish], began_us, max_limit);
            self.world.carry_out(who, deed);
            let is_over = |world: &mut World<'_>| world.clients[who].is_waiting().is_none();
            self.world.run_until(QUIET_US, is_over)?;
            let took_us = self.world.now_us - began_us;
            if took_us > PROMPT_US {
                let detail = format!("an event and a query took {} ms", took_us / 1_000);
                return Err(Violation::new("liveness: a quiet relay answers at once", detail));
            }
        }
        Ok(())
    }

    /// All clients leave, and nothing of them is left behind.
    fn leave(&mut self) -> Result<(), Violation> {
        for client in 0..self.world.clients.len() {
            self.world.carry_out(client, crate::client::Deed::Close);
        }
        let is_empty = |world: &mut World<'_>| {
            let left = world.node.as_ref().and_then(left_behind);
            left.is_none()
        };
        if self.world.run_until(QUIET_US, is_empty)? {
            return Ok(());
        }
        let left = self.world.node.as_ref().and_then(left_behind).unwrap_or_default();
        Err(Violation::new("S1: nothing of a client is left behind", left))
    }

    /// E6: every event that has a place can be found by everything that it should be found by.
    fn agree(&mut self) -> Result<(), Violation> {
        let rotten = !self.world.history.rotten.is_empty();
        for (shard, disk) in self.world.disks.iter().enumerate() {
            if rotten {
                continue;
            }
            agree(shard, disk)?;
        }
        Ok(())
    }
}

fn agree(shard: usize, disk: &Disk) -> Result<(), Violation> {
    use store::key::EventKeys;
    use store::{Bodies, Index};
    let broken = |detail: String| {
        Violation::new("E6: index and log agree", format!("shard {shard}: {detail}"))
    };
    let world = |error: store::WorldError| broken(error.to_string());
    let applied = disk.index.applied().map_err(world)?;
    let rows = disk.index.locs(1, applied, usize::MAX).map_err(world)?;
    let mut events = Vec::new();
    for row in rows {
        let body = disk.segments.body(&row.loc).map_err(world)?;
        let body = body.ok_or_else(|| broken(format!("record {} has no body", row.seq)))?;
        if body.view().id() != row.position.id {
            return Err(broken(format!("record {} is another event", row.seq)));
        }
        events.push((row.seq, EventKeys::of(&body.view(), &SECRET)));
    }
    let missing = disk.index.missing_rows(&events).map_err(world)?;
    match events.iter().zip(missing).find(|(_, missing)| !missing.is_empty()) {
        Some(((seq, _), missing)) => Err(broken(format!("record {seq} lacks rows in {missing:?}"))),
        None => Ok(()),
    }
}

/// Where the events that a violation names are, what the history knows of them and what could have
/// removed them.
fn evidence(world: &World<'_>, violation: &Violation) -> Vec<String> {
    let mut lines = Vec::new();
    let words = violation.detail.split(|c: char| !c.is_ascii_hexdigit());
    for id in words.filter(|word| word.len() == 64) {
        let Some(index) = world.pool.genuine(id) else { continue };
        let pooled = &world.pool.events[index];
        lines.push(format!(
            "{} of kind {}: {:?}",
            &id[..8],
            pooled.fact.kind,
            world.history.events.get(&index)
        ));
        for by in &pooled.removers {
            let fact = &world.pool.events[*by].fact;
            if let Some(known) = world.history.events.get(by) {
                lines.push(format!("  remover {} of kind {}: {known:?}", &fact.id[..8], fact.kind));
            }
        }
        for (shard, disk) in world.disks.iter().enumerate() {
            lines.extend(whereabouts(shard, disk, &pooled.event));
        }
    }
    lines
}

fn whereabouts(shard: usize, disk: &Disk, event: &proto::Event) -> Vec<String> {
    use store::{Index, Segments};
    let mut lines = Vec::new();
    let packed = event.packed();
    for entry in disk.segments.list().unwrap_or_default() {
        let bytes = disk.segments.read(entry.segment).unwrap_or_default();
        for (at, window) in bytes.windows(packed.len()).enumerate() {
            if window == packed {
                let segment = entry.segment;
                lines.push(format!("  shard {shard}: in segment {segment:x} at {at}"));
            }
        }
    }
    let applied = disk.index.applied().unwrap_or(0);
    let rows = disk.index.locs(1, applied, usize::MAX).unwrap_or_default();
    let own = rows.iter().filter(|row| row.position.id == event.view().id());
    lines
        .extend(own.map(|row| format!("  shard {shard}: indexed as {} at {:?}", row.seq, row.loc)));
    if !lines.is_empty() {
        lines.push(format!("  shard {shard}: applied {applied}"));
    }
    lines
}

/// What a node without clients still holds of them.
fn left_behind(node: &Node) -> Option<String> {
    for (index, at) in node.cores.iter().enumerate() {
        let clients = &at.core.clients;
        let home = &clients.home;
        let figures = [
            ("connections", clients.open()),
            ("subscriptions", home.subscriptions()),
            ("page bytes", home.page_bytes()),
            ("filter bytes", home.filter_bytes()),
            ("outbox bytes", clients.net.outboxes.held_bytes()),
            ("input bytes", clients.net.input.held_bytes()),
            ("sessions", home.neg_sessions()),
            ("queries", usize::from(home.has_queries())),
            ("submissions", usize::from(home.has_submissions())),
        ];
        if let Some((name, count)) = figures.into_iter().find(|(_, count)| *count > 0) {
            return Some(format!("core {index} holds {count} {name}"));
        }
        for (shard, state) in at.core.owners.shards() {
            if state.open_queries() > 0 {
                return Some(format!("shard {shard} has {} open queries", state.open_queries()));
            }
            if state.interest() > 0 {
                return Some(format!("shard {shard} has {} listeners", state.interest()));
            }
        }
    }
    None
}
