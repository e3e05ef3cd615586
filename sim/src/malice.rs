//! What clients do that they should not: garbage, near misses, floods.

use crate::client::{Client, Deed};
use crate::history::{History, Micros};
use crate::pool::Pool;
use crate::wire;
use crate::world::Dice;

/// One misdeed.
pub fn misbehave(
    client: &mut Client,
    pool: &Pool,
    history: &mut History,
    now_us: Micros,
    dice: &mut Dice,
) -> Deed {
    dice.marks.hit("misdeed");
    let salt = client.rng.next_u64() as u32;
    match client.rng.below(10) {
        0 => {
            let length = 1 + client.rng.index(200);
            let garbage = (0..length).map(|_| client.rng.next_u64() as u8).collect();
            Deed::Send(garbage)
        }
        1 => {
            // Reserved bits, unknown opcodes, fragments of control frames.
            let first = *client.rng.pick(&[0xc1, 0x83, 0x09, 0x80, 0xf1, 0x8b]);
            Deed::Send(wire::frame(first, b"x", salt))
        }
        2 => {
            // An honest beginning whose end never comes.
            let mut frame = wire::text_frame(&[b' '; 300], salt);
            frame.truncate(150);
            Deed::Send(frame)
        }
        3 => {
            Deed::Send(vec![0x81, 0xff, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 2, 3, 4])
        }
        4..=6 => near_miss(client, pool, salt),
        7 => {
            let mut bytes = Vec::new();
            for number in 0..12 {
                let text = format!("[\"REQ\",\"m{number}\",{{}}]");
                bytes.extend(wire::text_frame(text.as_bytes(), salt));
            }
            Deed::Send(bytes)
        }
        8 => {
            let text = *client.rng.pick(&[
                "[]",
                "{}",
                "[\"EVENT\"]",
                "[\"REQ\"]",
                "[\"REQ\",\"\",{}]",
                "[\"CLOSE\",5]",
                "[\"AUTH\",{}]",
                "[\"NEG-OPEN\",\"n\",{},\"6100\"]",
                "[\"NEG-OPEN\",\"n\",{},\"61000002ff\"]",
                "[\"NEG-MSG\",\"n\",\"zz\"]",
                "[\"COUNT\",\"x\",{\"kinds\":[70000]}]",
                "[\"REQ\",\"x\",{\"#e\":[\"zz\"]}]",
                "[\"REQ\",\"x\",{\"limit\":-1}]",
            ]);
            Deed::Send(wire::text_frame(text.as_bytes(), salt))
        }
        _ => client.publish(pool, history, now_us),
    }
}

/// A message that was right until one byte of it changed.
fn near_miss(client: &mut Client, pool: &Pool, salt: u32) -> Deed {
    // Of a forged one the change could make the right one.
    let event = loop {
        let event = client.rng.index(pool.events.len());
        if pool.events[event].fact.is_genuine {
            break event;
        }
    };
    let mut text = format!("[\"EVENT\",{}]", pool.events[event].json).into_bytes();
    // The id stays, or what the relay takes could be an event that the oracle does not know.
    client.expect_near_miss(&pool.events[event].fact.id);
    let from = text.len() / 3;
    let at = from + client.rng.index(text.len() - from);
    match client.rng.below(3) {
        0 => text[at] ^= 1 << client.rng.below(7),
        1 => text.truncate(at),
        _ => text.insert(at, b'"'),
    }
    Deed::Send(wire::text_frame(&text, salt))
}
