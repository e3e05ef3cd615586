//! A client core: one thread, one epoll set, thousands of connections. It takes up actions when
//! their time has come, whether or not the relay has answered the ones before, and counts every
//! latency from the intended time, so that a relay that stalls cannot make the load wait for it.
#![allow(clippy::disallowed_methods, reason = "reads the clock and its own files in /proc")]

mod answers;

use super::connection::{Asked, Connection, Pending, State};
use super::fleet::{Live, Load, Settle, Work};
use super::frame;
use super::plan::{Action, Op};
use super::record::{Metric, Record};
use super::target::Target;
use rustix::event::epoll;
use rustix::fd::{AsFd, OwnedFd};
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec};
use std::sync::atomic::Ordering;
use std::time::Instant;

/// Bytes that one read takes.
const READ_BYTES: usize = 256 << 10;
/// Reads of one connection in a row, so that a fast one does not starve the others.
const READS_MAX: usize = 4;
/// Actions taken up between two looks at the sockets.
const ACTIONS_PER_TURN: usize = 256;
/// Socket events taken per look.
const EVENTS_PER_TURN: usize = 1_024;
/// Unsent bytes of one core beyond which actions are counted as overflows.
const UNSENT_BYTES_MAX: usize = 1 << 30;
/// How often slow readers read.
const SLOW_TICK_NS: u64 = 50_000_000;
/// How often a core that is done looks whether the others are.
const IDLE_TICK_NS: u64 = 2_000_000;
/// The timer's mark among socket events.
const TIMER: u64 = u64::MAX;

/// Monotonic nanoseconds since the fleet was made.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    epoch: Instant,
}

impl Clock {
    pub(super) fn new() -> Self {
        Self { epoch: Instant::now() }
    }

    /// Nanoseconds since the clock was made, at least 1.
    pub fn now_ns(&self) -> u64 {
        self.epoch.elapsed().as_nanos() as u64 + 1
    }
}

/// What a client core itself used.
#[derive(Clone, Copy, Debug, Default)]
pub struct CoreUse {
    /// CPU time in the measured window.
    pub cpu_ns: u64,
    /// Time in it that the thread was ready and did not run.
    pub wait_ns: u64,
    /// Length of the window.
    pub wall_ns: u64,
}

impl CoreUse {
    fn now(clock: Clock) -> Self {
        let cpu = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
        let wait_ns = std::fs::read_to_string("/proc/thread-self/schedstat")
            .ok()
            .and_then(|text| text.split(' ').nth(1)?.parse().ok())
            .unwrap_or(0);
        Self {
            cpu_ns: cpu.tv_sec as u64 * 1_000_000_000 + cpu.tv_nsec as u64,
            wait_ns,
            wall_ns: clock.now_ns(),
        }
    }

    fn since(self, before: Self) -> Self {
        Self {
            cpu_ns: self.cpu_ns - before.cpu_ns,
            wait_ns: self.wait_ns.saturating_sub(before.wait_ns),
            wall_ns: self.wall_ns - before.wall_ns,
        }
    }

    /// Share of the window that the thread was ready and had no CPU: the machine's doing.
    pub fn waiting(&self) -> f64 {
        self.wait_ns as f64 / self.wall_ns.max(1) as f64
    }

    /// Share of the window that the thread computed.
    pub fn busy(&self) -> f64 {
        self.cpu_ns as f64 / self.wall_ns.max(1) as f64
    }
}

/// Owned by the thread that runs it during a work, and by the fleet in between. Its bound is that
/// of its connections, [`UNSENT_BYTES_MAX`] and the read buffer.
pub(super) struct Core {
    index: u32,
    cores: u32,
    clock: Clock,
    target: Target,
    epoll: OwnedFd,
    timer: OwnedFd,
    pub(super) connections: Vec<Connection>,
    buffer: Vec<u8>,
    dirty: Vec<u32>,
    unsent: usize,
}

/// What belongs to one work.
struct Run<'a> {
    work: &'a Work<'a>,
    live: &'a Live,
    record: Record,
    start_ns: u64,
    /// Answers waited for.
    outstanding: u64,
    /// Connections of a pipelined work that still have something to send.
    pipelines: u32,
    /// Last time something arrived at a connection that reads all there is.
    heard_ns: u64,
    /// When the bytes arrived that are being taken in.
    now_ns: u64,
    /// When this core had nothing left to do.
    done_ns: u64,
    last: super::record::Counts,
}

impl Core {
    pub(super) fn new(
        index: u32,
        cores: u32,
        connections: u32,
        target: &Target,
        clock: Clock,
    ) -> std::io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        let timer = rustix::time::timerfd_create(TimerfdClockId::Monotonic, flags)?;
        epoll::add(&epoll, &timer, epoll::EventData::new_u64(TIMER), epoll::EventFlags::IN)?;
        Ok(Self {
            index,
            cores,
            clock,
            target: target.clone(),
            epoll,
            timer,
            connections: (0..connections).map(|_| Connection::new()).collect(),
            buffer: vec![0; READ_BYTES],
            dirty: Vec::new(),
            unsent: 0,
        })
    }

    fn is_own(&self, connection: u32) -> bool {
        connection % self.cores == self.index
    }

    /// Does this core's part of `work`, which began at `start_ns`.
    pub(super) fn run(&mut self, work: &Work<'_>, live: &Live, start_ns: u64) -> (Record, CoreUse) {
        let window = (start_ns + work.window_ns.0, start_ns + work.window_ns.1);
        let mut run = Run {
            work,
            live,
            record: Record::new(start_ns, window, work.interval_ns),
            start_ns,
            outstanding: 0,
            pipelines: 0,
            heard_ns: start_ns,
            now_ns: start_ns,
            done_ns: u64::MAX,
            last: super::record::Counts::default(),
        };
        let (cores, index) = (self.cores, self.index);
        let mut actions: Box<dyn Iterator<Item = Action>> = match &work.load {
            Load::Open(plan) => {
                Box::new(plan().filter(move |action| action.connection % cores == index))
            }
            Load::Pipelined(_) => {
                self.begin_pipelines(&mut run);
                Box::new(std::iter::empty())
            }
        };
        let mut next = actions.next();
        let mut events = Vec::with_capacity(EVENTS_PER_TURN);
        let end_ns = start_ns + work.duration_ns;
        let mut used = (None, None);
        let mut is_busy = true;
        let mut slow_due_ns = start_ns;
        loop {
            let now_ns = self.clock.now_ns();
            run.record.turn(now_ns);
            if used.0.is_none() && now_ns >= window.0 {
                used.0 = Some(CoreUse::now(self.clock));
            }
            let mut taken = 0;
            while let Some(action) = next
                && start_ns + action.at_ns <= now_ns
                && taken < ACTIONS_PER_TURN
            {
                let intended_ns = start_ns + action.at_ns;
                run.record.latency(Metric::ClientLag, intended_ns, now_ns);
                self.take_up(&mut run, action.connection / self.cores, action.op, intended_ns);
                next = actions.next();
                taken += 1;
            }
            self.send_dirty(&mut run);
            if now_ns >= slow_due_ns {
                self.read_slowly(&mut run);
                slow_due_ns = now_ns + SLOW_TICK_NS;
            }
            run.publish_progress();
            if used.1.is_none() && now_ns >= window.1 {
                used.1 = Some(CoreUse::now(self.clock));
            }
            let is_done = next.is_none() && run.pipelines == 0 && now_ns >= end_ns;
            let gave_up = now_ns >= end_ns.max(run.heard_ns) + work.patience_ns;
            if is_busy && (is_done && run.outstanding == 0 || gave_up) {
                is_busy = false;
                run.done_ns = now_ns;
                live.busy.fetch_sub(1, Ordering::AcqRel);
            }
            if (!is_busy && run.is_settled(now_ns)) || live.stop.load(Ordering::Relaxed) {
                break;
            }
            let mut until_ns =
                if is_busy { end_ns.max(now_ns + IDLE_TICK_NS) } else { now_ns + IDLE_TICK_NS };
            if is_done {
                until_ns = now_ns + IDLE_TICK_NS;
            }
            if let Some(action) = next {
                until_ns = until_ns.min(start_ns + action.at_ns);
            }
            until_ns = until_ns.min(slow_due_ns);
            if taken == ACTIONS_PER_TURN {
                until_ns = now_ns;
            }
            self.wait(&mut events, until_ns);
            for event in events.drain(..) {
                self.on_event(&mut run, event);
            }
        }
        let now_ns = self.clock.now_ns();
        self.settle_accounts(&mut run, now_ns);
        run.record.close_interval();
        run.publish_progress();
        let to = used.1.unwrap_or_else(|| CoreUse::now(self.clock));
        let used = used.0.map_or_else(CoreUse::default, |from| to.since(from));
        (run.record, used)
    }

    /// Waits for sockets, at most until `until_ns`. The timer keeps its nanoseconds, which the
    /// millisecond timeout of epoll does not.
    fn wait(&mut self, events: &mut Vec<epoll::Event>, until_ns: u64) {
        let left_ns = until_ns.saturating_sub(self.clock.now_ns());
        let nothing = Timespec { tv_sec: 0, tv_nsec: 0 };
        let timeout = if left_ns == 0 {
            Some(&nothing)
        } else {
            let value = Timespec {
                tv_sec: (left_ns / 1_000_000_000) as i64,
                tv_nsec: (left_ns % 1_000_000_000) as _,
            };
            let timer = Itimerspec { it_interval: nothing, it_value: value };
            rustix::time::timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &timer)
                .expect("a valid time for an open timer");
            None
        };
        events.clear();
        match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(events), timeout) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => panic!("epoll refuses to wait: {error}"),
        }
    }

    fn on_event(&mut self, run: &mut Run<'_>, event: epoll::Event) {
        let data = event.data.u64();
        if data == TIMER {
            return;
        }
        let index = data as u32;
        let flags = event.flags;
        let connection = &mut self.connections[index as usize];
        if connection.socket.is_none() {
            return;
        }
        if connection.state == State::Connecting {
            if flags.intersects(
                epoll::EventFlags::OUT | epoll::EventFlags::ERR | epoll::EventFlags::HUP,
            ) {
                match connection.connected() {
                    Ok(()) => self.watch(index, false),
                    Err(error) => self.failed_to_connect(run, index, &error.to_string()),
                }
            }
            return;
        }
        if flags.contains(epoll::EventFlags::OUT) {
            self.send(run, index);
        }
        if flags.intersects(epoll::EventFlags::IN | epoll::EventFlags::ERR | epoll::EventFlags::HUP)
        {
            self.read(run, index, usize::MAX);
        }
    }

    /// Tells epoll what to report of a connection.
    fn watch(&mut self, index: u32, to_write: bool) {
        let connection = &mut self.connections[index as usize];
        connection.waits_to_write = to_write;
        let Some(socket) = &connection.socket else { return };
        let mut flags = epoll::EventFlags::empty();
        if connection.read_bytes_per_s == 0 || connection.state != State::Open {
            flags |= epoll::EventFlags::IN;
        }
        if to_write {
            flags |= epoll::EventFlags::OUT;
        }
        epoll::modify(&self.epoll, socket, epoll::EventData::new_u64(u64::from(index)), flags)
            .expect("the socket is in the set");
    }

    fn take_up(&mut self, run: &mut Run<'_>, index: u32, op: Op, intended_ns: u64) {
        match op {
            Op::Disconnect => return self.disconnect(run, index),
            Op::Reconnect => {
                self.disconnect(run, index);
                return self.connect(run, index, intended_ns);
            }
            Op::Connect | Op::Publish(_) | Op::Query(_) | Op::Subscribe(_) => {}
        }
        if self.connections[index as usize].state == State::Closed {
            self.connect(run, index, intended_ns);
        }
        if self.unsent > UNSENT_BYTES_MAX {
            run.record.totals.overflows += 1;
            return;
        }
        match op {
            Op::Publish(event) => self.publish(run, index, event, intended_ns),
            Op::Query(request) => self.ask(run, index, request, intended_ns, false),
            Op::Subscribe(request) => {
                self.connections[index as usize].standing.push(request);
                self.ask(run, index, request, intended_ns, true);
            }
            Op::Connect | Op::Disconnect | Op::Reconnect => {}
        }
    }

    fn publish(&mut self, run: &mut Run<'_>, index: u32, event: u32, intended_ns: u64) {
        let frames = run.work.frames;
        let frame = frames.frame(event);
        if self.target.message_bytes_max.is_some_and(|max| frame.len() as u64 > max) {
            run.record.totals.too_long += 1;
            return;
        }
        run.record.totals.published += 1;
        run.work.ledger.publish(event, intended_ns);
        let connection = &mut self.connections[index as usize];
        connection.out().extend_from_slice(frame);
        self.unsent += frame.len();
        connection.pending.push_back(Pending { key: frames.key(event), intended_ns });
        run.outstanding += 1;
        self.mark_dirty(index);
    }

    fn ask(
        &mut self,
        run: &mut Run<'_>,
        index: u32,
        request: u32,
        intended_ns: u64,
        is_standing: bool,
    ) {
        run.record.totals.queries += 1;
        let connection = &mut self.connections[index as usize];
        let number = connection.next_number;
        connection.next_number += 1;
        let letter = if is_standing { 's' } else { 'q' };
        let head = format!("[\"REQ\",\"{letter}{number}\",");
        let before = connection.out().len();
        let filters = &run.work.requests[request as usize];
        frame::write_text(&[head.as_bytes(), filters, b"]"], connection.out());
        self.unsent += connection.out().len() - before;
        connection.asked.push(Asked { number, intended_ns, is_standing });
        run.outstanding += 1;
        self.mark_dirty(index);
    }

    fn mark_dirty(&mut self, index: u32) {
        let connection = &mut self.connections[index as usize];
        if !connection.is_dirty {
            connection.is_dirty = true;
            self.dirty.push(index);
        }
    }

    fn send_dirty(&mut self, run: &mut Run<'_>) {
        let mut dirty = std::mem::take(&mut self.dirty);
        for index in dirty.drain(..) {
            self.connections[index as usize].is_dirty = false;
            self.send(run, index);
        }
        self.dirty = dirty;
    }

    fn send(&mut self, run: &mut Run<'_>, index: u32) {
        let connection = &mut self.connections[index as usize];
        if connection.state != State::Open {
            return;
        }
        match connection.send() {
            Ok(sent) => {
                self.unsent -= sent;
                run.record.totals.bytes_out += sent as u64;
                let to_write = connection.unsent() > 0;
                if to_write != connection.waits_to_write {
                    self.watch(index, to_write);
                }
            }
            Err(_) => self.ended_by_relay(run, index),
        }
    }

    fn connect(&mut self, run: &mut Run<'_>, index: u32, intended_ns: u64) {
        let connection = &mut self.connections[index as usize];
        connection.intended_ns = intended_ns;
        let number = index * self.cores + self.index;
        run.outstanding += 1;
        if let Err(error) = connection.connect(&self.target, number) {
            return self.failed_to_connect(run, index, &error.to_string());
        }
        let socket = connection.socket.as_ref().expect("it was just opened");
        let data = epoll::EventData::new_u64(u64::from(index));
        if let Err(error) = epoll::add(&self.epoll, socket.as_fd(), data, epoll::EventFlags::OUT) {
            self.failed_to_connect(run, index, &error.to_string());
        }
    }

    fn failed_to_connect(&mut self, run: &mut Run<'_>, index: u32, why: &str) {
        run.record.totals.connect_failures += 1;
        run.record.reason(format!("connect {why}").replace(':', " ").as_bytes());
        self.drop_socket(run, index);
    }

    fn disconnect(&mut self, run: &mut Run<'_>, index: u32) {
        if self.connections[index as usize].state != State::Closed {
            let before = run.record.totals.lost;
            self.drop_socket(run, index);
            // What this client gave up by leaving is not the relay's loss.
            run.record.totals.lost = before;
        }
    }

    fn ended_by_relay(&mut self, run: &mut Run<'_>, index: u32) {
        run.record.totals.disconnects += 1;
        self.drop_socket(run, index);
    }

    /// Forgets a connection with all that it waited for.
    fn drop_socket(&mut self, run: &mut Run<'_>, index: u32) {
        let connection = &mut self.connections[index as usize];
        let was_connecting = matches!(connection.state, State::Connecting | State::Upgrading)
            || connection.socket.is_none();
        self.unsent -= connection.close();
        let lost = connection.outstanding() as u64;
        connection.pending.clear();
        connection.asked.clear();
        run.record.totals.lost += lost;
        run.outstanding -= lost + u64::from(was_connecting);
        self.end_pipeline(run, index);
    }

    /// Reads what has arrived, at most about `bytes_max`.
    fn read(&mut self, run: &mut Run<'_>, index: u32, bytes_max: usize) {
        let mut buffer = std::mem::take(&mut self.buffer);
        let mut left = bytes_max;
        for _ in 0..READS_MAX {
            let part = left.min(buffer.len());
            let connection = &mut self.connections[index as usize];
            let read = match connection.receive(&mut buffer[..part]) {
                Ok(None) => break,
                Ok(Some(read)) if read > 0 => read,
                Ok(Some(_)) | Err(_) => {
                    if connection.state == State::Upgrading {
                        self.failed_to_connect(run, index, "the relay hung up");
                    } else {
                        self.ended_by_relay(run, index);
                    }
                    break;
                }
            };
            run.record.totals.bytes_in += read as u64;
            run.now_ns = self.clock.now_ns();
            if bytes_max == usize::MAX {
                run.heard_ns = run.now_ns;
            }
            if !self.take_bytes(run, index, &buffer[..read]) {
                break;
            }
            left -= read;
            if read < part || left == 0 {
                break;
            }
        }
        self.buffer = buffer;
        self.top_up(run, index);
    }

    /// Every connection's share of a pipelined work, and the first windowful of it.
    fn begin_pipelines(&mut self, run: &mut Run<'_>) {
        let Load::Pipelined(pipeline) = &run.work.load else { return };
        for index in 0..self.connections.len() as u32 {
            let number = index * self.cores + self.index;
            let lane = number.checked_sub(pipeline.connections.start);
            let connection = &mut self.connections[index as usize];
            connection.cursor = match lane {
                Some(lane) if pipeline.connections.contains(&number) => pipeline.items.start + lane,
                _ => u32::MAX,
            };
            if connection.cursor < pipeline.items.end {
                run.pipelines += 1;
                self.top_up(run, index);
            } else {
                connection.cursor = u32::MAX;
            }
        }
    }

    /// Sends more of a pipelined work once half of the window has been answered.
    fn top_up(&mut self, run: &mut Run<'_>, index: u32) {
        let Load::Pipelined(pipeline) = &run.work.load else { return };
        let connection = &self.connections[index as usize];
        if connection.cursor == u32::MAX || connection.outstanding() > pipeline.window as usize / 2
        {
            return;
        }
        let step = pipeline.connections.len() as u32;
        let now_ns = self.clock.now_ns();
        let is_over = now_ns >= run.start_ns + pipeline.stop_ns;
        while self.connections[index as usize].outstanding() < pipeline.window as usize && !is_over
        {
            let cursor = self.connections[index as usize].cursor;
            if cursor >= pipeline.items.end {
                break;
            }
            self.connections[index as usize].cursor = cursor.saturating_add(step);
            let op = if pipeline.are_queries { Op::Query(cursor) } else { Op::Publish(cursor) };
            self.take_up(run, index, op, now_ns);
        }
        if is_over || self.connections[index as usize].cursor >= pipeline.items.end {
            self.end_pipeline(run, index);
        }
    }

    fn end_pipeline(&mut self, run: &mut Run<'_>, index: u32) {
        let connection = &mut self.connections[index as usize];
        if matches!(run.work.load, Load::Pipelined(_)) && connection.cursor != u32::MAX {
            connection.cursor = u32::MAX;
            run.pipelines -= 1;
        }
    }

    /// Lets every slow reader have its share of bytes.
    fn read_slowly(&mut self, run: &mut Run<'_>) {
        for index in 0..self.connections.len() as u32 {
            let connection = &self.connections[index as usize];
            if connection.read_bytes_per_s > 0 && connection.state == State::Open {
                let share = u64::from(connection.read_bytes_per_s) * SLOW_TICK_NS / 1_000_000_000;
                self.read(run, index, share.max(1) as usize);
            }
        }
    }

    /// What was never answered took at least as long as we waited: it goes into the distribution,
    /// not out of sight.
    fn settle_accounts(&mut self, run: &mut Run<'_>, now_ns: u64) {
        for connection in &mut self.connections {
            for pending in connection.pending.drain(..) {
                run.record.totals.unanswered += 1;
                run.record.latency(Metric::PublishOk, pending.intended_ns, now_ns);
            }
            for asked in connection.asked.drain(..) {
                run.record.totals.unanswered += 1;
                run.record.latency(Metric::QueryEose, asked.intended_ns, now_ns);
            }
        }
    }

    /// Whether `connection`, a number of the fleet, is open; `None` if another core has it.
    pub(super) fn is_open(&self, connection: u32) -> Option<bool> {
        let index = (connection / self.cores) as usize;
        self.is_own(connection).then(|| self.connections[index].state == State::Open)
    }

    /// Makes a connection a slow reader, from its next socket on.
    pub(super) fn slow_down(&mut self, connection: u32, read_bytes_per_s: u32) {
        if self.is_own(connection) {
            let index = (connection / self.cores) as usize;
            self.connections[index].read_bytes_per_s = read_bytes_per_s;
        }
    }
}

impl Run<'_> {
    /// Adds what happened since the last turn to the numbers that the observer sees.
    fn publish_progress(&mut self) {
        let since = self.record.totals.since(&self.last);
        self.last = self.record.totals;
        let answers = since.accepted + since.duplicates + since.rejected;
        let add = |cell: &std::sync::atomic::AtomicU64, value: u64| {
            if value > 0 {
                cell.fetch_add(value, Ordering::Relaxed);
            }
        };
        add(&self.live.published, since.published);
        add(&self.live.answers, answers);
        add(&self.live.deliveries, since.deliveries);
        add(&self.live.queries, since.answered);
        add(&self.live.connects, since.connects + since.connect_failures);
    }

    /// Whether a core that has nothing left to do may leave: the others are done, and what is still
    /// on its way to subscribers has come or is not coming.
    fn is_settled(&self, now_ns: u64) -> bool {
        if self.live.busy.load(Ordering::Acquire) > 0 {
            return false;
        }
        let silent_ns = now_ns.saturating_sub(self.heard_ns.max(self.start_ns));
        match self.work.settle {
            Settle::Answers => true,
            Settle::Quiet { ns } => {
                silent_ns >= ns || now_ns >= self.done_ns.saturating_add(self.work.patience_ns)
            }
            Settle::Deliveries { count } => {
                self.live.deliveries.load(Ordering::Relaxed) >= count
                    || silent_ns >= self.work.patience_ns
            }
        }
    }
}
