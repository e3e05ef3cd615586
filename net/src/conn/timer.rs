//! Deadlines: the handshake, an unfinished message, pings, the end.

use super::{Conn, ConnCore, State};
use crate::counters::CloseCause;
use crate::ws::Opcode;
use proto::Now;

impl Conn {
    /// When [`Conn::tick`] has something to do, in monotonic milliseconds; to be asked again after
    /// every call that takes `now`. A call that comes late is late by as much, a call that comes
    /// early does nothing, so a coarse timer wheel will do.
    pub fn next_deadline_ms(&self, core: &ConnCore) -> u64 {
        match self.state {
            State::Open => self.timer_ms.min(self.message_deadline_ms(core)),
            State::Request(_) | State::Closing | State::Lingering | State::Flushing => {
                self.timer_ms
            }
            State::Dead => u64::MAX,
        }
    }

    fn message_deadline_ms(&self, core: &ConnCore) -> u64 {
        let started_ms = self.decoder.started_ms();
        started_ms.map_or(u64::MAX, |ms| ms.saturating_add(core.config.timeouts.message_ms))
    }

    /// Does what is due. A cause means that the connection begins to end;
    /// [`Conn::teardown`] says what that means for the socket.
    pub fn tick(&mut self, now: Now, core: &mut ConnCore) -> Option<CloseCause> {
        let now_ms = now.monotonic_ms;
        match self.state {
            State::Request(_) if now_ms >= self.timer_ms => {
                self.abort(CloseCause::HandshakeTimeout, core);
                Some(CloseCause::HandshakeTimeout)
            }
            State::Open if now_ms >= self.message_deadline_ms(core) => {
                self.close_open(now, CloseCause::MessageTimeout, core);
                Some(CloseCause::MessageTimeout)
            }
            State::Open if now_ms >= self.timer_ms => self.ping(now_ms, core),
            State::Closing | State::Lingering | State::Flushing if now_ms >= self.timer_ms => {
                self.abort(CloseCause::PeerGone, core);
                None
            }
            _ => None,
        }
    }

    /// Any byte since the last ping is as good as a Pong, and so is a backlog that moves. A parked client is not asked: its Pong
    /// would wait unread in the socket.
    fn ping(&mut self, now_ms: u64, core: &mut ConnCore) -> Option<CloseCause> {
        let timeouts = &core.config.timeouts;
        self.timer_ms = now_ms.saturating_add(timeouts.ping_ms);
        if self.has_heard || self.is_parked {
            self.has_heard = false;
            self.pings_unanswered = 0;
        }
        if self.pings_unanswered >= timeouts.pings_missed_max {
            self.abort(CloseCause::PingTimeout, core);
            return Some(CloseCause::PingTimeout);
        }
        if !self.is_parked {
            self.pings_unanswered += 1;
            self.outbox.push_control(Opcode::Ping, &[], &mut core.outboxes);
            core.counters.pings += 1;
            core.counters.frames_out += 1;
        }
        None
    }
}
