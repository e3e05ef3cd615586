//! What a client core does with what the relay says: frames, messages, and whom they answer.

use super::super::connection::{Asked, State};
use super::super::frame::{self, Opcode};
use super::super::message::Message;
use super::super::record::Metric;
use super::{Core, Run};

impl Core {
    /// Takes in bytes of a connection; false if that ended it.
    pub(super) fn take_bytes(&mut self, run: &mut Run<'_>, index: u32, bytes: &[u8]) -> bool {
        let connection = &mut self.connections[index as usize];
        let mut partial = std::mem::take(&mut connection.partial);
        let input = if partial.is_empty() {
            bytes
        } else {
            partial.extend_from_slice(bytes);
            &partial
        };
        let mut at = 0;
        if connection.state == State::Upgrading {
            match connection.upgraded(input) {
                Ok(Some(head)) => {
                    at = head;
                    self.opened(run, index);
                }
                Ok(None) => {
                    connection.partial = input.to_vec();
                    return true;
                }
                Err(why) => {
                    self.failed_to_connect(run, index, &why);
                    return false;
                }
            }
        }
        let now_ns = run.now_ns;
        loop {
            match frame::read(&input[at..]) {
                Ok(Some(frame)) => {
                    at += frame.bytes;
                    if !self.on_frame(run, index, frame, now_ns) {
                        return false;
                    }
                }
                Ok(None) => break,
                Err(error) => {
                    run.record.reason(error.to_string().as_bytes());
                    run.record.totals.malformed += 1;
                    self.ended_by_relay(run, index);
                    return false;
                }
            }
        }
        let rest = input.len() - at;
        let connection = &mut self.connections[index as usize];
        if partial.is_empty() {
            if rest > 0 {
                connection.partial = bytes[at..].to_vec();
            }
        } else if rest > 0 {
            partial.drain(..at);
            connection.partial = partial;
        }
        true
    }

    fn opened(&mut self, run: &mut Run<'_>, index: u32) {
        let connection = &mut self.connections[index as usize];
        run.record.totals.connects += 1;
        run.record.latency(Metric::Connect, connection.intended_ns, run.now_ns);
        run.outstanding -= 1;
        let again = std::mem::take(&mut connection.standing);
        let asked_already = connection.asked.iter().filter(|asked| asked.is_standing).count();
        for request in again.iter().take(again.len() - asked_already) {
            self.ask(run, index, *request, run.now_ns, true);
        }
        self.connections[index as usize].standing = again;
        let to_write = self.connections[index as usize].unsent() > 0;
        self.watch(index, to_write);
    }

    fn on_frame(
        &mut self,
        run: &mut Run<'_>,
        index: u32,
        frame: frame::Frame<'_>,
        now_ns: u64,
    ) -> bool {
        let connection = &mut self.connections[index as usize];
        match frame.opcode {
            Opcode::Data if frame.is_last => self.on_message(run, index, frame.payload, now_ns),
            Opcode::Data | Opcode::Continuation => {
                connection.message.extend_from_slice(frame.payload);
                if frame.is_last {
                    let message = std::mem::take(&mut connection.message);
                    self.on_message(run, index, &message, now_ns);
                }
            }
            Opcode::Ping => {
                let before = connection.out().len();
                frame::write_pong(frame.payload, connection.out());
                self.unsent += connection.out().len() - before;
                self.mark_dirty(index);
            }
            Opcode::Pong => {}
            Opcode::Close => {
                self.ended_by_relay(run, index);
                return false;
            }
        }
        true
    }

    fn on_message(&mut self, run: &mut Run<'_>, index: u32, text: &[u8], now_ns: u64) {
        match Message::parse(text) {
            Message::Ok { key, accepted, reason } => {
                self.on_ok(run, index, key, accepted, reason, now_ns)
            }
            Message::Event { subscription, body } => {
                self.on_stored_or_live(run, index, subscription, body, now_ns)
            }
            Message::Eose { subscription } => {
                if let Some(asked) = self.end_asked(run, index, subscription) {
                    run.record.totals.answered += 1;
                    run.record.latency(Metric::QueryEose, asked.intended_ns, now_ns);
                    if !asked.is_standing {
                        let connection = &mut self.connections[index as usize];
                        let before = connection.out().len();
                        frame::write_text(
                            &[b"[\"CLOSE\",\"", subscription, b"\"]"],
                            connection.out(),
                        );
                        self.unsent += connection.out().len() - before;
                        self.mark_dirty(index);
                    }
                }
            }
            Message::Closed { subscription, reason } => {
                run.record.totals.closed += 1;
                run.record.reason(reason);
                self.end_asked(run, index, subscription);
            }
            Message::Notice(notice) => {
                run.record.totals.notices += 1;
                run.record.reason(notice);
            }
            Message::Other => {}
            Message::Malformed => run.record.totals.malformed += 1,
        }
    }

    fn on_ok(
        &mut self,
        run: &mut Run<'_>,
        index: u32,
        key: u64,
        accepted: bool,
        reason: &[u8],
        now_ns: u64,
    ) {
        let pending = &mut self.connections[index as usize].pending;
        let Some(place) = pending.iter().position(|pending| pending.key == key) else {
            run.record.totals.strays += 1;
            return;
        };
        let pending = pending.remove(place).expect("the place was just found");
        run.outstanding -= 1;
        run.record.latency(Metric::PublishOk, pending.intended_ns, now_ns);
        if !accepted {
            run.record.totals.rejected += 1;
            run.record.reason(reason);
        } else if reason.starts_with(b"duplicate") {
            run.record.totals.duplicates += 1;
        } else {
            run.record.totals.accepted += 1;
        }
    }

    fn on_stored_or_live(
        &mut self,
        run: &mut Run<'_>,
        index: u32,
        subscription: &[u8],
        body: &[u8],
        now_ns: u64,
    ) {
        let connection = &self.connections[index as usize];
        let number = number_of(subscription);
        let is_stored = connection.asked.iter().any(|asked| Some(asked.number) == number);
        let bytes = (body.len() + subscription.len() + 12) as u64;
        if is_stored {
            run.record.totals.query_events += 1;
            run.record.totals.query_bytes += bytes;
            return;
        }
        if subscription.first() == Some(&b'q') {
            // It came live between the EOSE of a query and its CLOSE: nobody waits for it.
            run.record.totals.strays += 1;
            return;
        }
        run.record.totals.deliveries += 1;
        run.record.totals.delivery_bytes += bytes;
        if self.connections[index as usize].read_bytes_per_s > 0 {
            // A slow reader's latency is its own making; what counts is that of the others.
            return;
        }
        let published = run
            .work
            .frames
            .find_event(body)
            .and_then(|event| run.work.ledger.deliver(event, now_ns));
        match published {
            Some(published_ns) => run.record.latency(Metric::Delivery, published_ns, now_ns),
            None => run.record.totals.foreign += 1,
        }
    }

    fn end_asked(&mut self, run: &mut Run<'_>, index: u32, subscription: &[u8]) -> Option<Asked> {
        let number = number_of(subscription)?;
        let asked = &mut self.connections[index as usize].asked;
        let place = asked.iter().position(|asked| asked.number == number)?;
        run.outstanding -= 1;
        Some(asked.remove(place))
    }
}

/// The number in a subscription's name, after its letter.
fn number_of(subscription: &[u8]) -> Option<u32> {
    let mut number = 0_u32;
    for digit in subscription.get(1..)? {
        if !digit.is_ascii_digit() {
            return None;
        }
        number = number.checked_mul(10)?.checked_add(u32::from(digit - b'0'))?;
    }
    Some(number)
}
