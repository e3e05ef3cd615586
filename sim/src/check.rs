//! The promises E1 to E7, as checks over the history. They draw no chance, so that a run with them
//! is the run without them, and they never ask the product's rules what is right.

use crate::client::{Nature, Subscription};
use crate::fact::{Class, Fact, Wish};
use crate::history::{History, Micros, Violation};
use crate::pool::{EventIndex, Pool};
use crate::world::Dice;
use std::collections::{BTreeMap, BTreeSet};

/// Order of the stored phase.
fn place(fact: &Fact) -> (std::cmp::Reverse<u64>, &str) {
    (std::cmp::Reverse(fact.created_at), &fact.id)
}

fn limit_of(wish: &Wish, max_limit: u64) -> usize {
    wish.limit.unwrap_or(max_limit).min(max_limit) as usize
}

/// Whether an event is one that is kept.
pub fn is_kept(fact: &Fact) -> bool {
    fact.class != Class::Ephemeral && fact.kind != 21_059 && fact.is_genuine
}

/// A stored row arrives, all before it in `sub.rows`.
///
/// # Errors
/// The row is out of order, beyond the limits, or of an event that had ended.
pub fn row(
    sub: &Subscription,
    index: EventIndex,
    pool: &Pool,
    history: &History,
) -> Result<(), Violation> {
    let fact = &pool.events[index].fact;
    if let Some(last) = sub.rows.last()
        && place(&pool.events[*last].fact) >= place(fact)
    {
        let detail = format!("{} after {}", fact.id, pool.events[*last].fact.id);
        return Err(Violation::new("E7: stored events come in order", detail));
    }
    let is_within_a_limit = sub.wishes.iter().filter(|wish| wish.wants(fact)).any(|wish| {
        let before = sub.rows.iter().filter(|row| wish.wants(&pool.events[**row].fact)).count();
        before < limit_of(wish, sub.max_limit)
    });
    if !is_within_a_limit {
        let detail = format!("{} is beyond every filter's limit", fact.id);
        return Err(Violation::new("E7: limits are kept", detail));
    }
    if let Some(by) = ended_by(index, sub.sent_us, pool, history) {
        let by = &pool.events[by].fact;
        let detail =
            format!("{} was served, which {} of kind {} had ended", fact.id, by.id, by.kind);
        return Err(Violation::new("E5: what has ended is not served", detail));
    }
    Ok(())
}

/// What had ended an event for good before `before_us`, as everybody knew.
fn ended_by(
    index: EventIndex,
    before_us: Micros,
    pool: &Pool,
    history: &History,
) -> Option<EventIndex> {
    let fact = &pool.events[index].fact;
    pool.events[index].removers.iter().copied().find(|by| {
        let is_known = history.stored_since(*by).is_some_and(|since| since < before_us);
        if !is_known || history.removed_us.contains_key(by) || history.rotten.contains(by) {
            return false;
        }
        let remover = &pool.events[*by].fact;
        if remover.forbids(fact) {
            // An expired deletion or one of a key that vanished has left its mark.
            return true;
        }
        if remover.takes_wrap(fact) && !history.removed_us.contains_key(&index) {
            let taken = history.stored_since(index).zip(history.first_sent(*by));
            return taken.is_some_and(|(stored, asked)| stored < asked);
        }
        // A version is ended by a later one for as long as that one is sure to be there.
        remover.slot.is_some()
            && remover.slot == fact.slot
            && history.is_settled(pool, *by, u64::MAX)
    })
}

/// A REQ's stored phase is over.
///
/// # Errors
/// An event is missing that was there all the time, or, at a quiet moment, the answer is not exact.
pub fn answer(
    sub: &Subscription,
    pool: &Pool,
    history: &History,
    now_us: Micros,
    dice: &mut Dice,
) -> Result<(), Violation> {
    if let Some((visible, since_us)) = &history.visible
        && sub.sent_us > *since_us
    {
        dice.marks.hit("exact answer");
        return exact(sub, visible, pool, history);
    }
    let is_finished = sub.eose.is_some_and(|(_, is_finished)| is_finished);
    for index in history.events.keys().copied() {
        let fact = &pool.events[index].fact;
        let was_there = history.stored_since(index).is_some_and(|since| since < sub.sent_us);
        if !was_there || !is_kept(fact) || sub.rows.contains(&index) {
            continue;
        }
        if !fact.is_readable_by(&sub.keys) || !history.is_settled(pool, index, now_us) {
            continue;
        }
        let wanted = sub.wishes.iter().filter(|wish| wish.wants(fact));
        for wish in wanted {
            let limit = limit_of(wish, sub.max_limit);
            let before = sub.rows.iter().map(|row| &pool.events[*row].fact);
            let before = before.filter(|row| place(row) < place(fact) && wish.wants(row)).count();
            if before < limit || (is_finished && limit > 0) {
                let detail = format!(
                    "{} of kind {} is not among the {} rows for {}{}",
                    fact.id,
                    fact.kind,
                    sub.rows.len(),
                    wish.json(),
                    if is_finished { ", which say they are all" } else { "" },
                );
                return Err(Violation::new("E7: a REQ returns what is stored", detail));
            }
        }
    }
    Ok(())
}

/// The answer of a naive relay that holds `visible`.
pub fn naive(
    (wishes, max_limit): (&[Wish], u64),
    keys: &[String],
    visible: &BTreeSet<EventIndex>,
    pool: &Pool,
    history: &History,
) -> Vec<EventIndex> {
    let mut picked: BTreeMap<_, EventIndex> = BTreeMap::new();
    for wish in wishes {
        let mut matching: Vec<EventIndex> = visible.iter().copied().collect();
        matching.retain(|index| {
            let fact = &pool.events[*index].fact;
            wish.wants(fact) && fact.is_readable_by(keys) && fact.expires_at > history.unix_s
        });
        matching.sort_by_key(|index| place(&pool.events[*index].fact));
        matching.truncate(limit_of(wish, max_limit));
        picked.extend(matching.into_iter().map(|index| (place(&pool.events[index].fact), index)));
    }
    picked.into_values().collect()
}

fn exact(
    sub: &Subscription,
    visible: &BTreeSet<EventIndex>,
    pool: &Pool,
    history: &History,
) -> Result<(), Violation> {
    let expected = naive((&sub.wishes, sub.max_limit), &sub.keys, visible, pool, history);
    // Time goes on while the answer is under way.
    let expires_soon = |index: &&EventIndex| {
        let at = pool.events[**index].fact.expires_at;
        at < history.unix_s + 5 && at + 5 > history.unix_s
    };
    if expected == sub.rows || visible.iter().any(|index| expires_soon(&index)) {
        return Ok(());
    }
    let name = |list: &[EventIndex]| -> Vec<String> {
        list.iter().map(|index| pool.events[*index].fact.id[..8].to_owned()).collect()
    };
    let filters: Vec<String> = sub.wishes.iter().map(Wish::json).collect();
    let detail = format!("{:?} for {filters:?}, expected {:?}", name(&sub.rows), name(&expected));
    Err(Violation::new("E7: at a quiet moment answers are exact", detail))
}

/// A COUNT is answered.
///
/// # Errors
/// It lies outside of what is possible.
pub fn count(
    count: u64,
    wishes: &[Wish],
    (keys, keys_asked): (&[String], &[String]),
    sent_us: Micros,
    pool: &Pool,
    history: &History,
) -> Result<(), Violation> {
    let mut least = 0;
    let mut most = 0;
    for index in history.events.keys().copied() {
        let fact = &pool.events[index].fact;
        if !is_kept(fact) || !wishes.iter().any(|wish| wish.wants(fact)) {
            continue;
        }
        let was_there = history.stored_since(index).is_some_and(|since| since < sent_us);
        let is_certain = was_there && history.is_settled(pool, index, u64::MAX);
        least += u64::from(is_certain && fact.is_readable_by(keys));
        most += u64::from(history.may_be_taken(index) && fact.is_readable_by(keys_asked));
    }
    if (least..=most).contains(&count) {
        return Ok(());
    }
    let detail = format!("{count} for {}, possible are {least} to {most}", wishes[0].json());
    Err(Violation::new("E7: COUNT counts what is stored", detail))
}

/// A query was refused or a subscription ended.
///
/// # Errors
/// The reason is none that an honest client can meet.
pub fn closed(reason: &str, nature: Nature) -> Result<(), Violation> {
    let is_plausible = ["error:", "rate-limited:", "auth-required:"]
        .iter()
        .any(|prefix| reason.starts_with(prefix));
    if is_plausible || nature == Nature::Malicious {
        return Ok(());
    }
    Err(Violation::new("honest queries are answered", reason))
}

/// An event is answered.
///
/// # Errors
/// The answer contradicts what is known.
pub fn ok(
    event: EventIndex,
    is_true: bool,
    text: &str,
    pool: &Pool,
    history: &History,
) -> Result<(), Violation> {
    let fact = &pool.events[event].fact;
    let possible = |covers: &dyn Fn(&Fact) -> bool| {
        let removers = &pool.events[event].removers;
        removers.iter().any(|by| history.may_be_taken(*by) && covers(&pool.events[*by].fact))
    };
    let was_removed = history.removed_us.contains_key(&event);
    let is_right = match (is_true, text) {
        (true, "") => fact.is_genuine,
        (true, text) if text.contains("newer version") => {
            // A request to vanish leaves its watermark when the operator removes it.
            fact.kind == 62 && was_removed
                || possible(&|by| by.slot.is_some() && by.slot == fact.slot || by.vanishes(fact))
        }
        (true, _) => true,
        (false, text) if text.contains("signature") || text.contains("hash") => !fact.is_genuine,
        (false, text) if text.contains("deleted") => {
            possible(&|by| by.deletes(fact) || by.takes_wrap(fact))
        }
        (false, text) if text.contains("vanish") && text.starts_with("blocked") => {
            possible(&|by| by.vanishes(fact))
        }
        (false, text) if text.contains("banned") => was_removed,
        (false, text) if text.contains("expired") => fact.expires_at <= history.unix_s_max,
        (false, _) => true,
    };
    if is_right {
        return Ok(());
    }
    let detail = format!("{is_true} {text:?} for {} of kind {}", fact.id, fact.kind);
    Err(Violation::new("answers to events are right", detail))
}

/// At a quiet moment: what the operator sees, against everything that is known.
///
/// # Errors
/// E1, E2 or E5 is broken.
pub fn visible(
    visible: &BTreeSet<EventIndex>,
    pool: &Pool,
    history: &History,
) -> Result<(), Violation> {
    let mut slots: BTreeMap<_, EventIndex> = BTreeMap::new();
    for index in visible.iter().copied() {
        let fact = &pool.events[index].fact;
        let broken = |check, why: String| Err(Violation::new(check, format!("{} {why}", fact.id)));
        if !history.may_be_taken(index) {
            return broken("E2: what was refused is not stored", "is stored".to_owned());
        }
        if !is_kept(fact) || !fact.is_genuine {
            return broken("E3: only genuine events are stored", "is stored".to_owned());
        }
        if fact.expires_at <= history.scanned_unix_s {
            return broken("E5: expired events are gone", "is served".to_owned());
        }
        if history.banned.contains(&index) {
            return broken("E5: banned events stay away", "is served".to_owned());
        }
        if let Some(by) = ended_by(index, u64::MAX, pool, history) {
            let by = &pool.events[by].fact;
            let why =
                format!("of kind {} is there, and so is {} of kind {}", fact.kind, by.id, by.kind);
            return broken("E5: what has ended is gone", why);
        }
        if let Some(slot) = &fact.slot
            && let Some(other) = slots.insert(slot, index)
        {
            let why = format!("and {} share a slot", pool.events[other].fact.id);
            return broken("E5: a slot has one event", why);
        }
    }
    for index in history.events.keys().copied() {
        let fact = &pool.events[index].fact;
        let is_stored = history.stored_since(index).is_some() && is_kept(fact);
        if !is_stored || visible.contains(&index) {
            continue;
        }
        let is_excused = history.excuse(pool, index, u64::MAX).is_some()
            || history.rotten.contains(&index)
            || history.removed_us.contains_key(&index)
            || fact.expires_at <= history.unix_s_max;
        if !is_excused {
            let detail = format!("{} of kind {} was acknowledged and is gone", fact.id, fact.kind);
            return Err(Violation::new("E1: what was acknowledged is there", detail));
        }
    }
    Ok(())
}

/// At a quiet moment: an open subscription has been given everything that was published since its
/// EOSE, and everything between its REQ and its EOSE unless the limit left it out.
///
/// # Errors
/// E4 is broken.
pub fn live(
    name: &str,
    sub: &Subscription,
    pool: &Pool,
    history: &History,
    dice: &mut Dice,
) -> Result<(), Violation> {
    let Some((eose_us, _)) = sub.eose else { return Ok(()) };
    for index in history.events.keys().copied() {
        let fact = &pool.events[index].fact;
        let Some(sent) = history.first_sent(index) else { continue };
        let wishes: Vec<&Wish> = sub.wishes.iter().filter(|wish| wish.wants(fact)).collect();
        let is_certain = history.stored_since(index).is_some()
            && is_kept(fact)
            && history.is_settled(pool, index, u64::MAX)
            && fact.is_readable_by(&sub.keys);
        if sent <= sub.sent_us || wishes.is_empty() || !is_certain {
            continue;
        }
        if sub.rows.contains(&index) || sub.live.contains(&index) {
            dice.marks.hit("event after a REQ seen");
            continue;
        }
        // Before EOSE it may have been stored early enough to be a row beyond the limit.
        let is_beyond = |wish: &&Wish| {
            let rows = sub.rows.iter().map(|row| &pool.events[*row].fact);
            let before = rows.filter(|row| wish.wants(row) && place(row) < place(fact)).count();
            before >= limit_of(wish, sub.max_limit)
        };
        if sent < eose_us && wishes.iter().all(is_beyond) {
            continue;
        }
        let detail = format!("{} of kind {} never came for {name}", fact.id, fact.kind);
        return Err(Violation::new("E4: live subscribers see every matching event", detail));
    }
    Ok(())
}
