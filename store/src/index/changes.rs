//! What a checkpoint writes: the rows of a frozen generation, sorted per table, because the cost of
//! a commit is the number of distinct pages it touches.

use super::generations::{Generations, Half, Lies};
use super::segments::Deaths;
use super::sums::SumChanges;
use super::{
    META_APPLIED, ReadRows, Table, WriteRows, applied, loc_row, purge_mark, slot_mark, vanish_mark,
};
use crate::delta::Generation;
use crate::effect::{IndexRow, Seq, WorldError};
use crate::key::{
    EventKeys, LocRow, Tail, expiry_key, hash_kind_prefix, id_key, loc_key, mark_id_key,
    mark_slot_key, ordered, push_seq, read_seq, write_purge,
};
use crate::record::KillCause;
use crate::seam::Bodies;
use proto::Secret;

/// Bytes of deletions gathered before they are sorted and applied.
const REMOVAL_BYTES_MAX: usize = 32 << 20;

#[derive(Clone, Copy, Debug)]
struct Span {
    from: usize,
    key_bytes: u32,
    value_bytes: u32,
    is_removal: bool,
}

/// Rows to put into or remove from one table, in one allocation.
#[derive(Clone, Debug, Default)]
pub struct Rows {
    bytes: Vec<u8>,
    spans: Vec<Span>,
}

impl Rows {
    /// With room for this many rows of this many bytes.
    pub(super) fn with_room(rows: usize, row_bytes: usize) -> Self {
        Self { bytes: Vec::with_capacity(rows * row_bytes), spans: Vec::with_capacity(rows) }
    }

    /// Adds a row to put.
    pub fn put(&mut self, key: &[u8], value: &[u8]) {
        self.push(key, value, false);
    }

    /// Adds a row to remove.
    pub fn remove(&mut self, key: &[u8]) {
        self.push(key, &[], true);
    }

    fn push(&mut self, key: &[u8], value: &[u8], is_removal: bool) {
        let from = self.bytes.len();
        self.bytes.extend_from_slice(key);
        self.bytes.extend_from_slice(value);
        let (key_bytes, value_bytes) = (key.len() as u32, value.len() as u32);
        self.spans.push(Span { from, key_bytes, value_bytes, is_removal });
    }

    /// Brings the rows into order.
    pub fn sort(&mut self) {
        let bytes = &self.bytes;
        let key = |span: &Span| &bytes[span.from..span.from + span.key_bytes as usize];
        // Stable: of two rows with one key the later one is applied last.
        self.spans.sort_by(|a, b| key(a).cmp(key(b)));
    }

    /// The rows in order: key, and the value to put or `None` to remove.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], Option<&[u8]>)> {
        self.spans.iter().map(|span| {
            let value_from = span.from + span.key_bytes as usize;
            let value = &self.bytes[value_from..value_from + span.value_bytes as usize];
            (&self.bytes[span.from..value_from], (!span.is_removal).then_some(value))
        })
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.spans.len()
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }
}

/// Rows per table; those of tables that are split go to the open generation.
#[derive(Debug)]
struct Changes {
    half: Half,
    tables: [Rows; Table::ALL.len()],
}

impl Changes {
    fn new(half: Half) -> Self {
        Self { half, tables: Default::default() }
    }

    fn of(&mut self, table: Table) -> &mut Rows {
        &mut self.tables[self.half.table(table) as usize]
    }

    fn bytes(&self) -> usize {
        self.tables.iter().map(|rows| rows.bytes.len() + size_of_val(&rows.spans[..])).sum()
    }

    /// Sorts and applies everything gathered, table by table.
    fn apply(&mut self, to: &mut dyn WriteRows) -> Result<(), WorldError> {
        for table in Table::ALL {
            let mut rows = std::mem::take(&mut self.tables[table as usize]);
            if !rows.is_empty() {
                rows.sort();
                to.apply(table, &rows)?;
            }
        }
        Ok(())
    }

    fn put_event(&mut self, generation: &Generation, header: &crate::delta::Header) {
        let tail = Tail::of(header.created_at, &header.id, header.seq);
        let row = LocRow { loc: header.loc, position: header.position() };
        self.of(Table::Loc).put(&loc_key(header.seq), &row.encode());
        self.of(Table::Id).put(&id_key(&header.id, header.seq), &[]);
        self.of(Table::Time).put(&ordered(&[], tail), &[]);
        self.of(Table::Kind).put(&ordered(&header.kind.to_be_bytes(), tail), &[]);
        let author = hash_kind_prefix(header.author, header.kind);
        self.of(Table::Author).put(&ordered(&author, tail), &[]);
        for tag in generation.tags(header) {
            let tag = hash_kind_prefix(*tag, header.kind);
            self.of(Table::Tag).put(&ordered(&tag, tail), &[]);
        }
        if let Some(slot) = header.slot {
            self.of(Table::Slot).put(&slot.0, &loc_key(header.seq));
        }
        if header.loc.expires_at != 0 {
            self.of(Table::Expiry).put(&expiry_key(header.loc.expires_at, header.seq), &[]);
        }
    }

    /// Removes what is not split of an event, but for its slot.
    fn remove_place(&mut self, row: &IndexRow) {
        self.of(Table::Loc).remove(&loc_key(row.seq));
        if row.loc.expires_at != 0 {
            self.of(Table::Expiry).remove(&expiry_key(row.loc.expires_at, row.seq));
        }
    }

    /// Removes what the place alone tells of an event of the open generation.
    fn remove_position(&mut self, row: &IndexRow) {
        let tail = Tail::of(row.position.created_at, &row.position.id, row.seq);
        self.of(Table::Id).remove(&id_key(&row.position.id, row.seq));
        self.of(Table::Time).remove(&ordered(&[], tail));
    }

    /// Removes what only the body tells of an event of the open generation.
    fn remove_keys(&mut self, keys: &EventKeys, seq: Seq) {
        let tail = Tail::of(keys.created_at, &keys.id, seq);
        self.of(Table::Kind).remove(&ordered(&keys.kind.to_be_bytes(), tail));
        let author = hash_kind_prefix(keys.author, keys.kind);
        self.of(Table::Author).remove(&ordered(&author, tail));
        for tag in &keys.tags {
            self.of(Table::Tag).remove(&ordered(&hash_kind_prefix(*tag, keys.kind), tail));
        }
    }
}

/// Applies a generation: the rows of what it killed go, the rows of what lives come, and the
/// applied sequence moves on, all in the caller's transaction. Returns that sequence.
///
/// # Errors
/// [`WorldError::Index`] when the world fails or the generation does not follow what is applied.
pub fn write_generation(
    to: &mut dyn WriteRows,
    generation: &Generation,
    bodies: &dyn Bodies,
    secret: &Secret,
) -> Result<Seq, WorldError> {
    let before = applied(to)?;
    if before + 1 != generation.first_seq() {
        let first = generation.first_seq();
        return Err(WorldError::Index(format!(
            "a checkpoint that begins with record {first} does not follow record {before}"
        )));
    }
    let mut generations = Generations::read(to)?;
    let mut changes = Changes::new(generations.open(generation.first_seq()).1);
    let mut deaths = Deaths::default();
    let mut sums = SumChanges::default();
    let killed_at = generation.frozen_unix_s();
    let mut victims: Vec<(Seq, KillCause)> =
        generation.deaths().map(|(victim, death)| (victim, death.why)).collect();
    victims.retain(|(victim, _)| *victim < generation.first_seq());
    victims.sort_unstable();
    for (victim, why) in victims {
        let Some(row) = loc_row(to, victim)? else { continue };
        let rows_go = generations.bury(victim);
        remove_event(to, &mut changes, &row, rows_go, bodies, secret)?;
        deaths.bury(&row.loc, why, killed_at);
        sums.remove(&row);
        if changes.bytes() > REMOVAL_BYTES_MAX {
            changes.apply(to)?;
        }
    }
    changes.apply(to)?;
    let open = generations.open(generation.first_seq()).0;
    for header in generation.headers() {
        match generation.death(header.seq) {
            Some(death) => deaths.bury(&header.loc, death.why, killed_at),
            None => {
                changes.put_event(generation, header);
                open.add(header.created_at);
                sums.add(&header.loc, &header.position());
            }
        }
    }
    deaths.rows(to, changes.of(Table::Segment))?;
    sums.rows(to, changes.of(Table::Sum))?;
    for (id, by) in generation.marked_ids() {
        changes.of(Table::Marker).put(&mark_id_key(id, by), &[]);
    }
    for (slot, until) in generation.marked_slots() {
        let until = until.max(slot_mark(to, slot)?.unwrap_or(0));
        changes.of(Table::Marker).put(&mark_slot_key(slot), &until.to_be_bytes());
    }
    write_vanishes(to, &mut changes, generation)?;
    let mut last = Vec::new();
    push_seq(&mut last, generation.last_seq());
    changes.of(Table::Meta).put(META_APPLIED, &last);
    changes.apply(to)?;
    generations.write(to)?;
    Ok(generation.last_seq())
}

/// Watermarks of keys, and the removals that have begun or ended. Requests of one key have rising
/// times, so of several in a generation the last one counts.
fn write_vanishes(
    to: &dyn WriteRows,
    changes: &mut Changes,
    generation: &Generation,
) -> Result<(), WorldError> {
    for (key, until) in generation.purged() {
        if purge_mark(to, key)?.is_some_and(|vanish| vanish.until <= until) {
            changes.of(Table::Purge).remove(&key.0);
        }
    }
    for (key, vanish) in generation.vanished() {
        let until = vanish.until.max(vanish_mark(to, key)?.unwrap_or(0));
        changes.of(Table::Vanish).put(&key.0, &until.to_be_bytes());
        if generation.purged_until(key).is_none_or(|until| until < vanish.until) {
            changes.of(Table::Purge).put(&key.0, &write_purge(&vanish));
        }
    }
    Ok(())
}

/// Removes an event; of one in a closed generation the rows that are split stay, void for want of a
/// place.
fn remove_event(
    to: &dyn WriteRows,
    changes: &mut Changes,
    row: &IndexRow,
    rows_go: bool,
    bodies: &dyn Bodies,
    secret: &Secret,
) -> Result<(), WorldError> {
    changes.remove_place(row);
    if rows_go {
        changes.remove_position(row);
    }
    // Without its body the event's other rows stay behind; lacking a place, they are skipped.
    let Some(event) = bodies.body(&row.loc)? else { return Ok(()) };
    let keys = EventKeys::of(&event.view(), secret);
    if rows_go {
        changes.remove_keys(&keys, row.seq);
    }
    if let Some(slot) = keys.slot {
        let mut holder = None;
        to.row(Table::Slot, &slot.0, &mut |value| holder = read_seq(value))?;
        if holder == Some(row.seq) {
            changes.of(Table::Slot).remove(&slot.0);
        }
    }
    Ok(())
}

/// Which tables lack a row of an event that has a place, for each event in turn.
///
/// # Errors
/// [`WorldError::Index`] when the world fails.
pub fn missing_rows(
    rows: &dyn ReadRows,
    events: &[(Seq, EventKeys)],
) -> Result<Vec<Vec<Table>>, WorldError> {
    let generations = Generations::read(rows)?;
    events.iter().map(|(seq, keys)| missing_rows_of(rows, &generations, *seq, keys)).collect()
}

fn missing_rows_of(
    rows: &dyn ReadRows,
    generations: &Generations,
    seq: Seq,
    keys: &EventKeys,
) -> Result<Vec<Table>, WorldError> {
    let tail = Tail::of(keys.created_at, &keys.id, seq);
    let mut missing = Vec::new();
    // A page opens a generation only within its times.
    let is_within =
        generations.of(seq).filter(|have| (have.oldest..=have.newest).contains(&keys.created_at));
    if is_within.is_none() {
        missing.push(Table::Meta);
    }
    let lies = generations.of(seq).map_or(Lies::Half(Half::A), |have| have.lies);
    let mut wanted = vec![
        (Table::Id, id_key(&keys.id, seq)),
        (Table::Time, ordered(&[], tail)),
        (Table::Kind, ordered(&keys.kind.to_be_bytes(), tail)),
        (Table::Author, ordered(&hash_kind_prefix(keys.author, keys.kind), tail)),
    ];
    for tag in &keys.tags {
        wanted.push((Table::Tag, ordered(&hash_kind_prefix(*tag, keys.kind), tail)));
    }
    if keys.expires_at != 0 {
        wanted.push((Table::Expiry, expiry_key(keys.expires_at, seq)));
    }
    for (table, key) in wanted {
        let key = if Table::SPLIT.contains(&table) { lies.key(&key) } else { key };
        let mut is_there = false;
        rows.row(lies.table(table), &key, &mut |_| is_there = true)?;
        if !is_there {
            missing.push(table);
        }
    }
    if let Some(slot) = keys.slot {
        let mut holder = None;
        rows.row(Table::Slot, &slot.0, &mut |value| holder = read_seq(value))?;
        if holder != Some(seq) {
            missing.push(Table::Slot);
        }
    }
    missing.dedup();
    Ok(missing)
}
