//! Events and filters that an input chooses, from few authors, kinds, seconds and tags, so that ties,
//! crowds, slots and deletions are common.

use crate::bytes::Bytes;
use crate::store_world::{Draft, author};
use proto::nip::{nip09, nip62};
use proto::{Event, EventId, Filter, TagFilter};

/// Seconds of the events begin here.
pub const FROM_S: u32 = 1_000;

/// An event without rules of its own. `number` keeps it apart from others.
pub fn plain(bytes: &mut Bytes<'_>, number: usize) -> Event {
    let kind = *bytes.pick(&[1u16, 1, 7, 4, 1059, 9_999, 40_000]);
    let created_at = FROM_S + bytes.below(24) as u32;
    let mut draft = Draft::new(bytes.below(6) as u64, kind, created_at).content(number);
    for _ in 0..bytes.below(4) {
        let letter = *bytes.pick(&["e", "p", "t", "a"]);
        draft = draft.tag(letter, &format!("v{}", bytes.below(5)));
    }
    if bytes.one_in(12) {
        draft = draft.tag("expiration", &(1_699_999_990 + bytes.below(1_000)).to_string());
    }
    if !bytes.one_in(3) {
        return draft.pack();
    }
    // Ids that begin alike.
    let mut id = EventId([0xab; 32]);
    id.0[4..12].copy_from_slice(&(number as u64).to_be_bytes());
    id.0[31] = bytes.byte();
    draft.pack_as(Some(id))
}

/// An event for the rules of replacement, deletion and vanishing, about those in `pool`.
pub fn ruled(bytes: &mut Bytes<'_>, number: u64, pool: &[Event], by_id: bool) -> Event {
    let (writer, at) = (bytes.below(3) as u64, 100 + bytes.below(5) as u32);
    let draft = match bytes.byte() % 8 {
        0 => Draft::new(writer, 0, at),
        1 => Draft::new(writer, 10_002, at),
        2 | 3 => Draft::new(writer, 30_023, at).tag("d", &format!("d{}", bytes.below(2))),
        4 => Draft::new(writer, 1, at),
        // Whether a gift wrap outlives its recipient's request to vanish is a matter of order.
        5 if by_id => {
            Draft::new(100 + number, 1059, at).tag("p", &author(bytes.below(3) as u64).to_hex())
        }
        5 => Draft::new(writer, 7, at),
        6 => Draft::new(writer, nip62::KIND, at).tag("relay", "ALL_RELAYS"),
        _ => deletion(bytes, writer, at, pool, by_id),
    };
    // Of two requests to vanish with one time the first counts, so there is one at most.
    let content = if draft.kind == nip62::KIND { 0 } else { bytes.below(4) };
    draft.content(content).pack()
}

fn deletion(bytes: &mut Bytes<'_>, writer: u64, at: u32, pool: &[Event], by_id: bool) -> Draft {
    let mut draft = Draft::new(writer, nip09::KIND, at);
    for _ in 0..=bytes.below(2) {
        if by_id && !pool.is_empty() && bytes.one_in(2) {
            draft = draft.tag("e", &bytes.pick(pool).view().id().to_hex());
        } else {
            let owner = if bytes.one_in(4) { bytes.below(3) as u64 } else { writer };
            let (key, d) = (author(owner), bytes.below(2));
            let coordinate = match bytes.below(3) {
                0 => format!("0:{key}:"),
                1 => format!("10002:{key}:"),
                _ => format!("30023:{key}:d{d}"),
            };
            draft = draft.tag("a", &coordinate);
        }
    }
    draft
}

fn some<T: Ord>(
    bytes: &mut Bytes<'_>,
    max: usize,
    mut one: impl FnMut(&mut Bytes<'_>) -> T,
) -> Vec<T> {
    let count = bytes.below(max + 1);
    let mut items: Vec<T> = (0..count).map(|_| one(bytes)).collect();
    items.sort_unstable();
    items.dedup();
    items
}

/// A filter that is likely to find some of `events`.
pub fn filter(bytes: &mut Bytes<'_>, events: &[Event]) -> Filter {
    let shape = bytes.u16();
    let mut filter = Filter::default();
    if shape & 7 == 1 && !events.is_empty() {
        filter.ids = Some(some(bytes, 4, |bytes| bytes.pick(events).view().id()));
    }
    if shape >> 3 & 3 == 1 {
        filter.authors = Some(some(bytes, 4, |bytes| author(bytes.below(7) as u64)));
    }
    if shape >> 5 & 3 == 1 {
        filter.kinds =
            Some(some(bytes, 4, |bytes| *bytes.pick(&[1, 7, 4, 1059, 9_999, 40_000, 30_023, 9])));
    }
    for (at, letter) in (7..).zip([b'a', b'e', b'p', b't']) {
        if shape >> at & 1 == 1 && bytes.one_in(2) {
            let values = some(bytes, 3, |bytes| format!("v{}", bytes.below(6)).into_bytes().into());
            filter.tags.push(TagFilter { letter, values });
        }
    }
    if shape >> 11 & 3 == 1 {
        filter.since = Some(u64::from(FROM_S) + bytes.below(26) as u64);
    }
    if shape >> 13 & 3 == 1 {
        filter.until = Some(u64::from(FROM_S) + bytes.below(26) as u64);
    }
    filter
}
