//! An outbox under any sequence of pushes, writes and clearing: verdicts as a counter of bytes gives
//! them, bytes out once and in order, and every chunk back in the core's budget.

use crate::bytes::Bytes;
use net::outbox::{CHUNK_BYTES, Class, Outbox, OutboxBudget, OutboxLimits, Pushed};
use net::ws::{Form, Opcode};
use std::collections::VecDeque;

/// The frame as RFC 6455 writes it.
fn frame(opcode: u8, form: Form, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x80 | opcode | if form == Form::Deflated { 0x40 } else { 0 }];
    match payload.len() {
        length @ 0..=125 => frame.push(length as u8),
        length @ 126..=0xffff => {
            frame.push(126);
            frame.extend_from_slice(&(length as u16).to_be_bytes());
        }
        length => {
            frame.push(127);
            frame.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    frame.extend_from_slice(payload);
    frame
}

fn payload(bytes: &mut Bytes<'_>) -> Vec<u8> {
    let length = match bytes.byte() % 4 {
        0 => usize::from(bytes.byte()),
        1 => CHUNK_BYTES - 20 + usize::from(bytes.byte() % 40),
        2 => usize::from(bytes.u16()),
        _ => 65_530 + usize::from(bytes.byte() % 12),
    };
    let first = usize::from(bytes.byte());
    (first..first + length).map(|at| (at * 31) as u8).collect()
}

#[derive(Default)]
struct Naive {
    /// Pushed and not taken.
    queued: VecDeque<u8>,
    in_flight: VecDeque<Vec<u8>>,
}

impl Naive {
    fn pending(&self) -> usize {
        self.queued.len() + self.in_flight.iter().map(Vec::len).sum::<usize>()
    }

    fn verdict(&self, class: Class, length: usize, limits: &OutboxLimits) -> Pushed {
        let pending = self.pending();
        if class == Class::Live && pending >= limits.soft_bytes {
            Pushed::OverSoft
        } else if pending > 0 && pending + length > limits.hard_bytes {
            Pushed::OverHard
        } else {
            Pushed::Ok
        }
    }
}

pub fn run(data: &[u8]) {
    let mut bytes = Bytes(data);
    let soft_bytes = usize::from(bytes.byte()) * 256;
    let limits =
        OutboxLimits { soft_bytes, hard_bytes: soft_bytes + usize::from(bytes.byte()) * 512 };
    let total_bytes_max = usize::from(bytes.byte()) * 1_024;
    let mut budget = OutboxBudget::new(total_bytes_max);
    let (mut outbox, mut naive) = (Outbox::default(), Naive::default());
    while !bytes.is_over() {
        match bytes.byte() % 8 {
            0..=2 => {
                let body = payload(&mut bytes);
                let class = if bytes.one_in(2) { Class::Live } else { Class::Reply };
                let form = if bytes.one_in(3) { Form::Deflated } else { Form::Plain };
                let (head, tail) = body.split_at(bytes.u16() as usize % (body.len() + 1));
                let expected = naive.verdict(class, body.len(), &limits);
                let parts = [head, tail];
                let pushed = outbox.push_text_frame(form, &parts, class, &limits, &mut budget);
                assert_eq!(pushed, expected);
                if pushed == Pushed::Ok {
                    naive.queued.extend(frame(1, form, &body));
                }
            }
            3 => {
                let length = usize::from(bytes.byte());
                let body = bytes.take(length);
                outbox.push_control(Opcode::Pong, body, &mut budget);
                naive.queued.extend(frame(10, Form::Plain, &body[..body.len().min(125)]));
            }
            4 => {
                let body = payload(&mut bytes);
                outbox.push_raw(&body, &mut budget);
                naive.queued.extend(body);
            }
            5 | 6 => match outbox.take() {
                Some(chunk) => {
                    let expected: Vec<u8> = naive.queued.drain(..chunk.len()).collect();
                    assert!(chunk == expected, "bytes came out in another order");
                    naive.in_flight.push_back(chunk);
                }
                None => assert!(naive.queued.is_empty(), "bytes are kept back"),
            },
            _ if bytes.one_in(16) => {
                outbox.clear(&mut budget);
                naive.queued.clear();
            }
            _ => {
                if let Some(chunk) = naive.in_flight.pop_front() {
                    outbox.sent(chunk, &mut budget);
                }
            }
        }
        let pending = naive.pending();
        assert_eq!(outbox.pending_bytes(), pending);
        assert_eq!(outbox.has_queued(), !naive.queued.is_empty());
        assert_eq!(outbox.is_below_low_water(&limits), pending < limits.soft_bytes / 4);
        assert!(budget.held_bytes() >= pending);
        let flying = naive.in_flight.len() * CHUNK_BYTES;
        assert!(budget.held_bytes() < naive.queued.len() + flying + 2 * CHUNK_BYTES);
        assert_eq!(budget.is_over(), budget.held_bytes() > total_bytes_max);
    }
    outbox.clear(&mut budget);
    for chunk in naive.in_flight.drain(..) {
        outbox.sent(chunk, &mut budget);
    }
    assert_eq!((outbox.pending_bytes(), budget.held_bytes()), (0, 0), "chunks are lost");
}
