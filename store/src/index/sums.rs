//! Sums of sync sets in the index: table `sum`, set and bucket to count and sum, changed by the
//! transaction that changes the places whose flags say which events are in which set.

use super::changes::Rows;
use super::{ReadRows, Table, WriteRows, applied, damaged, loc_row};
use crate::effect::{IndexRow, Loc, Position, Seq, WorldError};
use crate::key::{LocRow, loc_key, read_seq};
use crate::seam::Bodies;
use crate::sums::{self, Resummed, SumsPage, SumsRequest, SumsState};
use proto::Filter;
use proto::nip::nip77::{Accumulator, bucket_of};
use std::collections::BTreeMap;

/// Key of the state of the sums in table `meta`.
const META_SUMS: &[u8] = b"sums";
/// Events that one transaction looks at when sums are computed anew.
const RESUM_EVENTS: usize = 16_384;

fn sum_key(set: u8, bucket: u32) -> [u8; 5] {
    let mut key = [set; 5];
    key[1..].copy_from_slice(&bucket.to_be_bytes());
    key
}

fn read_sum(value: &[u8]) -> Result<Accumulator, WorldError> {
    let bytes = value.try_into().map_err(|_| damaged(Table::Sum))?;
    Ok(Accumulator::from_bytes(bytes))
}

/// Changes to sums, gathered before they are applied; differences wrap as the sums do.
#[derive(Debug, Default)]
pub(super) struct SumChanges {
    sums: BTreeMap<(u8, u32), Accumulator>,
}

impl SumChanges {
    /// An event comes.
    pub(super) fn add(&mut self, loc: &Loc, position: &Position) {
        for set in sums::sets(loc.flags) {
            let bucket = bucket_of(position.created_at);
            self.sums.entry((set, bucket)).or_default().add(&position.id);
        }
    }

    /// An event goes.
    pub(super) fn remove(&mut self, row: &IndexRow) {
        for set in sums::sets(row.loc.flags) {
            let bucket = bucket_of(row.position.created_at);
            self.sums.entry((set, bucket)).or_default().subtract(&row.position.id);
        }
    }

    /// Lays the changes over what the table holds; an empty bucket has no row.
    pub(super) fn rows(self, from: &dyn ReadRows, to: &mut Rows) -> Result<(), WorldError> {
        for ((set, bucket), change) in self.sums {
            let key = sum_key(set, bucket);
            let mut sum = Ok(Accumulator::new());
            from.row(Table::Sum, &key, &mut |value| sum = read_sum(value))?;
            let mut sum = sum?;
            sum.merge(&change);
            if sum.count() == 0 {
                to.remove(&key);
            } else {
                to.put(&key, &sum.to_bytes());
            }
        }
        Ok(())
    }
}

/// The sums of one set.
pub(super) fn page(rows: &dyn ReadRows, request: &SumsRequest) -> Result<SumsPage, WorldError> {
    let mut page = SumsPage { applied: applied(rows)?, ..SumsPage::default() };
    let mut wrong = None;
    rows.walk(Table::Sum, &[request.set], &mut |key, value| {
        let bucket = key.strip_prefix(&[request.set]).map(TryInto::<[u8; 4]>::try_into);
        match (bucket, read_sum(value)) {
            (None, _) => return false,
            (Some(Ok(bucket)), Ok(sum)) => page.buckets.push((u32::from_be_bytes(bucket), sum)),
            (Some(_), _) => wrong = Some(damaged(Table::Sum)),
        }
        wrong.is_none()
    })?;
    if let Some(wrong) = wrong {
        return Err(wrong);
    }
    let bit = sums::bit(request.set);
    for seq in &request.dead {
        let row = loc_row(rows, *seq)?.filter(|row| row.loc.flags & bit != 0);
        page.dead.extend(row.map(|row| row.position));
    }
    Ok(page)
}

fn state(rows: &dyn ReadRows) -> Result<Option<SumsState>, WorldError> {
    let mut state = Ok(None);
    rows.row(Table::Meta, META_SUMS, &mut |value| {
        state = SumsState::decode(value).map(Some).ok_or_else(|| damaged(Table::Meta));
    })?;
    state
}

/// Whether the sums are those of these filters.
///
/// # Errors
/// [`WorldError::Index`] when the world fails.
pub fn are_of(rows: &dyn ReadRows, filters: &[Filter]) -> Result<bool, WorldError> {
    let wanted = SumsState { digest: sums::digest(filters), next: None };
    Ok(state(rows)? == Some(wanted))
}

/// Goes on with making the sums those of these filters: begins if the index holds others, and looks
/// at a number of events. To be repeated, each time in a transaction of its own, until all are done;
/// a start that comes in between goes on where this one was.
///
/// # Errors
/// [`WorldError`] when the world fails.
pub fn resum(
    to: &mut dyn WriteRows,
    filters: &[Filter],
    bodies: &dyn Bodies,
) -> Result<Resummed, WorldError> {
    let digest = sums::digest(filters);
    let total = to.count(Table::Loc)? as u64;
    let from = match state(to)? {
        Some(SumsState { digest: have, next: None }) if have == digest => {
            return Ok(Resummed { done: total, total });
        }
        Some(SumsState { digest: have, next: Some(next) }) if have == digest => next,
        _ => {
            clear(to)?;
            0
        }
    };
    let (rows, next) = chunk(to, from)?;
    let mut sums = SumChanges::default();
    let mut places = Rows::default();
    for mut row in rows {
        let event = bodies.body(&row.loc)?;
        // What cannot be read is served to nobody, so it is in no set.
        let bits = event.map_or(0, |event| sums::membership(filters, &event.view()));
        let flags = row.loc.flags & Loc::LOG_FLAGS | bits;
        if flags != row.loc.flags {
            row.loc.flags = flags;
            let place = LocRow { loc: row.loc, position: row.position };
            places.put(&loc_key(row.seq), &place.encode());
        }
        sums.add(&row.loc, &row.position);
    }
    to.apply(Table::Loc, &places)?;
    let mut rows = Rows::default();
    sums.rows(to, &mut rows)?;
    to.apply(Table::Sum, &rows)?;
    let mut rows = Rows::default();
    rows.put(META_SUMS, &SumsState { digest, next }.encode());
    to.apply(Table::Meta, &rows)?;
    // Sequences have gaps, so what lies before one is a guess until nothing is left.
    let done = next.map_or(total, |next| next.min(total.saturating_sub(1)));
    Ok(Resummed { done, total })
}

/// The places of the next events, and where those after them begin.
fn chunk(rows: &dyn ReadRows, from: Seq) -> Result<(Vec<IndexRow>, Option<Seq>), WorldError> {
    let (mut found, mut next, mut is_damaged) = (Vec::new(), None, false);
    rows.walk(Table::Loc, &loc_key(from), &mut |key, value| {
        let (Some(seq), Some(place)) = (read_seq(key), LocRow::decode(value)) else {
            is_damaged = true;
            return false;
        };
        if found.len() == RESUM_EVENTS {
            next = Some(seq);
            return false;
        }
        found.push(IndexRow { position: place.position, seq, loc: place.loc });
        true
    })?;
    if is_damaged { Err(damaged(Table::Loc)) } else { Ok((found, next)) }
}

/// Removes the sums of another configuration.
fn clear(to: &mut dyn WriteRows) -> Result<(), WorldError> {
    let mut rows = Rows::default();
    to.walk(Table::Sum, &[], &mut |key, _| {
        rows.remove(key);
        true
    })?;
    to.apply(Table::Sum, &rows)
}
