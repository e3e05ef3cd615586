//! One client's share: of query slots, of bytes of open filters, of sessions. The shards are played
//! by the test.
#![allow(clippy::unwrap_used)]

use proto::hash::Placement;
use proto::nip::nip77::{Initiator, SortedItems};
use proto::{
    ClientMessage, EventId, Filter, Limits, Now, PublicKey, Reason, Secret, SeededState, TagFilter,
};
use shards::door::Asks;
use shards::home::{Home, HomeConfig, HomeEffects, HomeInput, NegConfig, Reply};
use shards::message::{
    Client, Page, QUERY_SLOTS, Query, QueryId, QueryMode, SUBMIT_CREDIT, ShardId, ToHome, ToShard,
};
use store::effect::Position;

const NOW: Now = Now { monotonic_ms: 1_000_000, unix_s: 1_750_000_000 };
const FILTER_BYTES_MAX: usize = 2 << 20;

fn home(shards: u16, neg: NegConfig) -> Home {
    Home::new(HomeConfig {
        core: 0,
        placement: Placement::even(Secret([3; 16]), shards),
        limits: Limits::default(),
        subscriptions_max: 1_000,
        auth_required: false,
        public_url: None,
        page_bytes_max: 64 << 20,
        filter_bytes_max: FILTER_BYTES_MAX,
        neg,
        door: Asks::NOTHING,
        submit_credit: SUBMIT_CREDIT,
        query_slots: shards::message::QUERY_SLOTS,
        seed: SeededState::new(Secret([7; 16])),
    })
}

fn at(home: &mut Home, monotonic_ms: u64, input: HomeInput) -> HomeEffects {
    let mut fx = HomeEffects::default();
    home.step(Now { monotonic_ms, ..NOW }, input, &mut fx);
    fx
}

fn step(home: &mut Home, input: HomeInput) -> HomeEffects {
    at(home, NOW.monotonic_ms, input)
}

fn client(slot: u32) -> Client {
    Client { slot, generation: 1 }
}

fn say(home: &mut Home, slot: u32, message: ClientMessage) -> HomeEffects {
    step(home, HomeInput::Message(client(slot), message))
}

fn req(home: &mut Home, slot: u32, sub: &str, filter: Filter) -> HomeEffects {
    say(home, slot, ClientMessage::Req(sub.into(), vec![filter]))
}

fn queries(fx: &HomeEffects) -> Vec<(ShardId, Query)> {
    let queries = fx.to_shard.iter().filter_map(|(shard, message)| match message {
        ToShard::Query(query) => Some((*shard, (**query).clone())),
        _ => None,
    });
    queries.collect()
}

fn unparked(fx: &HomeEffects) -> Vec<u32> {
    let unparked = fx.replies.iter().filter_map(|reply| match reply {
        Reply::Unpark(client) => Some(client.slot),
        _ => None,
    });
    unparked.collect()
}

fn closed(fx: &HomeEffects) -> Option<Reason> {
    fx.replies.iter().find_map(|reply| match reply {
        Reply::Closed { reason, .. } => Some(*reason),
        _ => None,
    })
}

fn neg_err(fx: &HomeEffects) -> Option<(Reason, Option<u64>, Option<String>)> {
    fx.replies.iter().find_map(|reply| match reply {
        Reply::NegErr { reason, records_max, note, .. } => {
            Some((*reason, *records_max, note.as_deref().map(str::to_owned)))
        }
        _ => None,
    })
}

fn neg_answers(fx: &HomeEffects) -> usize {
    fx.replies.iter().filter(|reply| matches!(reply, Reply::NegMsg { .. })).count()
}

fn empty_page(query: QueryId) -> ToHome {
    ToHome::Page { query, page: Page { rows: Vec::new(), complete_to: None, left_out: false } }
}

/// A client that has taken every slot there is gets no further one before those who came later and
/// hold nothing.
#[test]
fn whoever_holds_a_quarter_of_the_slots_waits_for_those_who_hold_less() {
    let mut home = home(1, NegConfig::default());
    let mut open = Vec::new();
    for sub in 0..QUERY_SLOTS {
        open.extend(queries(&req(&mut home, 1, &sub.to_string(), Filter::default())));
    }
    assert_eq!(open.len(), QUERY_SLOTS as usize, "nobody else wanted them");
    assert!(queries(&req(&mut home, 1, "more", Filter::default())).is_empty());
    for slot in 2..30 {
        assert!(queries(&req(&mut home, slot, "s", Filter::default())).is_empty());
    }
    let mut served = Vec::new();
    for (shard, query) in open.iter().take(29) {
        let fx = step(&mut home, HomeInput::From(*shard, empty_page(query.id)));
        served.extend(unparked(&fx));
    }
    let expected: Vec<u32> = (2..30).chain([1]).collect();
    assert_eq!(served, expected, "it came first and is served last");
}

fn wide(values: usize, salt: u8) -> Filter {
    let authors = (0..values).map(|number| {
        let mut key = [salt; 32];
        key[..8].copy_from_slice(&(number as u64).to_be_bytes());
        PublicKey(key)
    });
    let topic = TagFilter { letter: b't', values: vec![vec![salt; 100].into()] };
    let limit = Some(0);
    Filter { authors: Some(authors.collect()), tags: vec![topic], limit, ..Filter::default() }
}

#[test]
fn open_filters_are_charged_exactly_and_refused_beyond_their_budget() {
    let mut home = home(2, NegConfig::default());
    assert_eq!(home.filter_bytes(), 0);
    let mut refused = None;
    for sub in 0..1_000 {
        let before = home.filter_bytes();
        let fx = req(&mut home, 1, &sub.to_string(), wide(100, sub as u8));
        if let Some(reason) = closed(&fx) {
            assert_eq!(home.filter_bytes(), before);
            refused = Some(reason);
            break;
        }
        assert!(home.filter_bytes() >= before + 100 * 32);
    }
    assert_eq!(refused, Some(Reason::FilterBudget));
    assert_eq!(home.counters().refused.of(Reason::FilterBudget), 1);
    let of_one = home.filter_bytes();
    assert!(of_one <= FILTER_BYTES_MAX / 8 && of_one > FILTER_BYTES_MAX / 10, "{of_one}");
    // What one has used up is not what others have.
    assert_eq!(closed(&req(&mut home, 2, "s", wide(100, 1))), None);
    // Room comes back with CLOSE, with a REQ of the same name, and when the client goes.
    let first = home.filter_bytes();
    step(&mut home, HomeInput::Message(client(1), ClientMessage::Close("0".into())));
    assert!(home.filter_bytes() < first);
    assert_eq!(closed(&req(&mut home, 1, "0", wide(100, 0))), None);
    assert_eq!(home.filter_bytes(), first);
    assert_eq!(closed(&req(&mut home, 1, "0", wide(100, 0))), None);
    assert_eq!(home.filter_bytes(), first);
    for slot in 3..100 {
        for sub in 0..30 {
            req(&mut home, slot, &sub.to_string(), wide(100, sub));
        }
        assert!(home.filter_bytes() <= FILTER_BYTES_MAX);
    }
    (1..100).for_each(|slot| drop(step(&mut home, HomeInput::Gone(client(slot)))));
    assert_eq!(home.filter_bytes(), 0);
}

fn nothing() -> Vec<u8> {
    Initiator::new(SortedItems::new(Vec::new()), 4_096).initiate()
}

fn open(home: &mut Home, slot: u32, sub: &str) -> HomeEffects {
    let filter = Box::new(Filter { kinds: Some(vec![1]), ..Filter::default() });
    say(home, slot, ClientMessage::NegOpen(sub.into(), filter, nothing()))
}

fn position(number: u32) -> Position {
    let mut id = [9; 32];
    id[..4].copy_from_slice(&number.to_be_bytes());
    Position { created_at: 1_000_000 - number, id: EventId(id) }
}

/// Answers a session's read with ids `from..to`; `is_last`: there are no more.
fn ids(home: &mut Home, query: QueryId, (from, to): (u32, u32), is_last: bool) -> HomeEffects {
    let ids: Vec<Position> = (from..to).map(position).collect();
    let complete_to = if is_last { None } else { ids.last().copied() };
    step(home, HomeInput::From(0, ToHome::Ids { query, ids, complete_to }))
}

fn opened(home: &mut Home, slot: u32, sub: &str, count: u32) -> HomeEffects {
    let fx = open(home, slot, sub);
    let (_, query) = queries(&fx).remove(0);
    assert!(matches!(query.mode, QueryMode::Ids { .. }));
    ids(home, query.id, (0, count), true)
}

#[test]
fn sessions_are_limited_per_client_and_reopening_replaces() {
    let mut home = home(1, NegConfig::default());
    for sub in 0..8 {
        assert_eq!(neg_answers(&opened(&mut home, 1, &sub.to_string(), 10)), 1);
    }
    let refused = neg_err(&open(&mut home, 1, "ninth")).unwrap();
    assert_eq!((refused.0, home.neg_sessions()), (Reason::NegSessions, 8));
    assert_eq!(neg_answers(&opened(&mut home, 1, "3", 20)), 1);
    assert_eq!(home.neg_sessions(), 8);
    // REQs have names of their own.
    assert_eq!(closed(&req(&mut home, 1, "3", Filter::default())), None);
    assert_eq!((home.neg_sessions(), home.subscriptions()), (8, 1));
    say(&mut home, 1, ClientMessage::NegClose("3".into()));
    assert_eq!((home.neg_sessions(), home.subscriptions()), (7, 1));
    let fx = say(&mut home, 1, ClientMessage::NegMsg("3".into(), nothing()));
    assert_eq!(neg_err(&fx).unwrap().0, Reason::NegUnknown);
    step(&mut home, HomeInput::Gone(client(1)));
    assert_eq!((home.neg_sessions(), home.neg_bytes(), home.filter_bytes()), (0, 0, 0));
    let mut off = self::home(1, NegConfig { sessions_max: 0, ..NegConfig::default() });
    assert_eq!(neg_err(&open(&mut off, 1, "s")).unwrap().0, Reason::NegOff);
}

#[test]
fn a_session_with_too_many_records_ends_with_the_limit_and_reads_no_further() {
    let mut home = home(1, NegConfig { records_max: 100, ..NegConfig::default() });
    let (_, query) = queries(&open(&mut home, 1, "s")).remove(0);
    let fx = ids(&mut home, query.id, (0, 101), false);
    assert_eq!(neg_err(&fx), Some((Reason::NegTooMany, Some(100), None)));
    assert!(fx.to_shard.iter().any(|(_, message)| matches!(message, ToShard::Cancel { .. })));
    assert_eq!((home.neg_sessions(), home.neg_bytes()), (0, 0));
    assert!(!home.has_queries());
    // The operator's may have what the core has.
    step(&mut home, HomeInput::Trusted(client(2)));
    assert_eq!(neg_answers(&opened(&mut home, 2, "s", 101)), 1);
    // As many as the limit are not too many; and a limit of the filter's own keeps it small.
    assert_eq!(neg_answers(&opened(&mut home, 1, "s", 100)), 1);
    let newest = Box::new(Filter { limit: Some(5), ..Filter::default() });
    let fx = say(&mut home, 1, ClientMessage::NegOpen("l".into(), newest, nothing()));
    let (_, query) = queries(&fx).remove(0);
    let fx = ids(&mut home, query.id, (0, 5), false);
    assert_eq!((neg_answers(&fx), neg_err(&fx)), (1, None));
}

/// When a core's sessions hold too much, the client that holds most loses its largest one.
#[test]
fn the_greediest_client_pays_for_a_full_core() {
    let config = NegConfig { records_core_max: 1_000, ..NegConfig::default() };
    let mut home = home(1, config);
    for (sub, count) in [("a", 200), ("b", 300), ("c", 250)] {
        assert_eq!(neg_answers(&opened(&mut home, 1, sub, count)), 1);
    }
    assert_eq!(neg_answers(&opened(&mut home, 2, "mine", 240)), 1);
    let (_, query) = queries(&open(&mut home, 3, "new")).remove(0);
    let fx = ids(&mut home, query.id, (0, 100), true);
    let ended: Vec<(u32, &str)> = fx
        .replies
        .iter()
        .filter_map(|reply| match reply {
            Reply::NegErr { client, sub, reason: Reason::NegTooMany, .. } => {
                Some((client.slot, &**sub))
            }
            _ => None,
        })
        .collect();
    assert_eq!((ended, neg_answers(&fx)), (vec![(1, "b")], 1));
    assert_eq!(home.neg_sessions(), 4);
    assert!(home.neg_bytes() <= 37 * 1_000);
}

#[test]
fn malformed_messages_end_their_session_with_a_precise_word_and_no_other() {
    let cases: [(&[u8], &str); 6] = [
        (b"", "invalid: message is empty"),
        (b"\x20", "invalid: message does not begin with a protocol version"),
        (b"\x61\x00", "invalid: message ends inside a range"),
        (b"\x61\x00\x00\x07", "invalid: a range has an unknown mode"),
        (b"\x61\x01\x21", "invalid: the id prefix of a bound is longer than 32 bytes"),
        (b"\x61\x00\x00\x02\x05abc", "invalid: message ends inside a range"),
    ];
    let mut home = home(1, NegConfig::default());
    assert_eq!(neg_answers(&opened(&mut home, 1, "other", 10)), 1);
    for (bytes, text) in cases {
        let expected = Some((Reason::NegMalformed, None, Some(text.to_owned())));
        // In NEG-OPEN it costs no read.
        let filter = Box::new(Filter::default());
        let fx = say(&mut home, 1, ClientMessage::NegOpen("bad".into(), filter, bytes.to_vec()));
        assert_eq!(neg_err(&fx), expected);
        assert!(fx.to_shard.is_empty());
        assert_eq!(neg_answers(&opened(&mut home, 1, "bad", 10)), 1);
        let fx = say(&mut home, 1, ClientMessage::NegMsg("bad".into(), bytes.to_vec()));
        assert_eq!(neg_err(&fx), expected);
        assert_eq!(home.neg_sessions(), 1);
    }
    let fx = say(&mut home, 1, ClientMessage::NegMsg("other".into(), vec![0x62]));
    assert!(matches!(&fx.replies[..], [Reply::NegMsg { message, .. }] if *message == [0x61]));
    let fx = say(&mut home, 1, ClientMessage::NegMsg("other".into(), nothing()));
    assert_eq!(neg_answers(&fx), 1, "the session is alive");
}

#[test]
fn an_idle_session_ends_and_one_in_use_does_not() {
    let mut home = home(1, NegConfig::default());
    assert_eq!(neg_answers(&opened(&mut home, 1, "idle", 10)), 1);
    assert_eq!(neg_answers(&opened(&mut home, 1, "busy", 10)), 1);
    let soon = NOW.monotonic_ms + 40_000;
    let message = ClientMessage::NegMsg("busy".into(), nothing());
    assert_eq!(neg_answers(&at(&mut home, soon, HomeInput::Message(client(1), message))), 1);
    let later = NOW.monotonic_ms + 60_000;
    let fx = at(&mut home, later, HomeInput::Turn);
    assert_eq!(neg_err(&fx).unwrap().0, Reason::NegTimeout);
    assert_eq!(home.neg_sessions(), 1);
    assert!(neg_err(&at(&mut home, later + 39_000, HomeInput::Turn)).is_none());
    let fx = at(&mut home, later + 40_000, HomeInput::Turn);
    assert_eq!(neg_err(&fx).unwrap().0, Reason::NegTimeout);
    assert_eq!((home.neg_sessions(), home.neg_bytes()), (0, 0));
}

/// A message for a session that is still being read parks its client, and so does one of a client
/// that does not read its answers.
#[test]
fn messages_wait_for_the_set_and_for_the_reader() {
    let is_parked = |fx: &HomeEffects| fx.replies.iter().any(|r| matches!(r, Reply::Park(_)));
    let mut home = home(1, NegConfig::default());
    let (_, query) = queries(&open(&mut home, 1, "s")).remove(0);
    let fx = say(&mut home, 1, ClientMessage::NegMsg("s".into(), nothing()));
    assert!(is_parked(&fx));
    let fx = ids(&mut home, query.id, (0, 10), true);
    assert_eq!((neg_answers(&fx), unparked(&fx)), (2, vec![1]), "both are answered");
    step(&mut home, HomeInput::Paused(client(1), true));
    let fx = say(&mut home, 1, ClientMessage::NegMsg("s".into(), nothing()));
    assert!(is_parked(&fx) && neg_answers(&fx) == 0);
    let fx = step(&mut home, HomeInput::Paused(client(1), false));
    assert_eq!((neg_answers(&fx), unparked(&fx)), (1, vec![1]));
    // A session that cannot be read lets its client go on.
    let (_, query) = queries(&open(&mut home, 1, "t")).remove(0);
    assert!(is_parked(&say(&mut home, 1, ClientMessage::NegMsg("t".into(), nothing()))));
    let failed = ToHome::QueryFailed { query: query.id, reason: Reason::ReadFailed };
    let fx = step(&mut home, HomeInput::From(0, failed));
    assert_eq!((neg_err(&fx).unwrap().0, unparked(&fx)), (Reason::ReadFailed, vec![1]));
}

/// No answer is longer than the frame, nor than a message that the relay itself would take.
#[test]
fn answers_fit_the_frame_and_the_message_limit() {
    for message_bytes_max in [512 * 1024, 20_000] {
        let mut home = home(1, NegConfig::default());
        let limits = Limits { message_bytes_max, ..Limits::default() };
        step(&mut home, HomeInput::Reconfigure(Box::new((limits, 100, false))));
        let fx = opened(&mut home, 1, "s", 10_000);
        let lengths = fx.replies.iter().filter_map(|reply| match reply {
            Reply::NegMsg { message, .. } => Some(message.len()),
            _ => None,
        });
        let frame_bytes_max = (128 * 1024).min((message_bytes_max - 512) / 2);
        let lengths: Vec<usize> = lengths.collect();
        assert!(lengths.len() == 1 && lengths[0] <= frame_bytes_max, "{lengths:?}");
        assert!(lengths[0] > frame_bytes_max / 2, "as much as fits: {lengths:?}");
    }
}

/// Whatever bytes come, a session answers or ends, and the others stay as they are.
#[test]
fn random_messages_are_answered_or_refused() {
    let mut home = home(1, NegConfig::default());
    assert_eq!(neg_answers(&opened(&mut home, 1, "other", 300)), 1);
    let mut rng = bench::rng::Rng::new(4);
    let items = (0..200).map(|number| {
        let at = position(number * 3);
        proto::nip::nip77::Item { created_at: at.created_at, id: at.id }
    });
    let sound = Initiator::new(SortedItems::new(items.collect()), 4_096).initiate();
    let [mut answered, mut refused] = [0, 0];
    for _ in 0..3_000 {
        let mut bytes = sound.clone();
        for _ in 0..=rng.index(4) {
            let place = rng.index(bytes.len());
            bytes[place] = rng.next_u64() as u8;
        }
        bytes.truncate(1 + rng.index(bytes.len()));
        if home.neg_sessions() == 1 {
            assert_eq!(neg_answers(&opened(&mut home, 1, "s", 300)), 1);
        }
        // Every turn gives the client its bytes anew.
        step(&mut home, HomeInput::Turn);
        let fx = say(&mut home, 1, ClientMessage::NegMsg("s".into(), bytes));
        match (neg_answers(&fx), neg_err(&fx)) {
            (1, None) => answered += 1,
            (0, Some((Reason::NegMalformed, ..))) => refused += 1,
            other => panic!("{other:?}"),
        }
    }
    assert!(answered > 100 && refused > 100, "{answered} {refused}");
    let fx = say(&mut home, 1, ClientMessage::NegMsg("other".into(), nothing()));
    assert_eq!(neg_answers(&fx), 1);
}

/// NEG-OPENs take slots like every query, and a flood of them leaves nothing behind.
#[test]
fn a_flood_of_sessions_is_bounded_and_leaves_nothing_behind() {
    let mut home = home(4, NegConfig::default());
    let mut asked = Vec::new();
    for slot in 0..400 {
        for sub in 0..3 {
            asked.extend(queries(&open(&mut home, slot, &sub.to_string())));
        }
    }
    assert_eq!(asked.len() as u32, QUERY_SLOTS);
    (0..400).for_each(|slot| drop(step(&mut home, HomeInput::Gone(client(slot)))));
    assert_eq!((home.neg_sessions(), home.neg_bytes(), home.filter_bytes()), (0, 0, 0));
    assert!(home.has_queries(), "the shards still owe their replies");
    for (shard, query) in asked {
        let late = ToHome::Ids { query: query.id, ids: vec![position(1)], complete_to: None };
        step(&mut home, HomeInput::From(shard, late));
    }
    assert!(!home.has_queries());
}
