//! Walking through the events under one prefix, a page at a time, in no order that matters: the
//! oldest generation first, within one in the order of its keys.
//!
//! The generations may change between two pages. A page therefore says of which one it was, by its
//! sequences; if there is no such generation any more, the one that has them now is walked through
//! from its beginning. Whoever walks may meet an event again, but never misses one.

use super::generations::{Generations, IndexGeneration};
use super::{PAGE_ROWS_EXAMINED_MAX, ReadRows, loc_row};
use crate::effect::{Seq, WalkPage, WalkRequest, WorldError};
use crate::key::{SEQ_BYTES, Tail, push_seq, read_seq};

/// Where a page goes on.
struct From<'a> {
    first_seq: Seq,
    last_seq: Seq,
    key: &'a [u8],
}

impl<'a> From<'a> {
    fn read(bytes: &'a [u8]) -> Option<Self> {
        let (first, rest) = bytes.split_at_checked(SEQ_BYTES)?;
        let (last, key) = rest.split_at_checked(SEQ_BYTES)?;
        Some(Self { first_seq: read_seq(first)?, last_seq: read_seq(last)?, key })
    }

    fn write(generation: &IndexGeneration, key: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(2 * SEQ_BYTES + key.len());
        push_seq(&mut out, generation.first_seq);
        push_seq(&mut out, generation.last_seq);
        out.extend_from_slice(key);
        out
    }
}

pub(super) fn walk(rows: &dyn ReadRows, request: &WalkRequest) -> Result<WalkPage, WorldError> {
    let (mut page, mut seqs, mut examined) = (WalkPage::default(), Vec::new(), 0);
    let from = request.from.as_deref().and_then(From::read);
    for generation in Generations::read(rows)?.list() {
        let mut start = &request.prefix[..];
        if let Some(from) = &from {
            let is_over = !generation.is_open() && generation.last_seq < from.first_seq;
            if is_over {
                continue;
            }
            if (generation.first_seq, generation.last_seq) == (from.first_seq, from.last_seq) {
                start = from.key;
            }
        }
        let lies = generation.lies;
        rows.walk(lies.table(request.table), &lies.key(start), &mut |key, _| {
            let key = lies.strip(key).filter(|key| key.starts_with(&request.prefix));
            let Some(key) = key else { return false };
            if seqs.len() >= request.rows_max as usize || examined >= PAGE_ROWS_EXAMINED_MAX {
                page.next = Some(From::write(generation, key));
                return false;
            }
            examined += 1;
            let tail = Tail::read(key).filter(|tail| tail.created_at() <= request.until);
            seqs.extend(tail.map(|tail| tail.seq));
            true
        })?;
        if page.next.is_some() {
            break;
        }
    }
    for seq in seqs {
        page.rows.extend(loc_row(rows, seq)?);
    }
    Ok(page)
}
