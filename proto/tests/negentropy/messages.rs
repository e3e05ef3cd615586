//! Messages by themselves: the table in `vectors/`, damage, noise, and messages made to be large.

use super::ends::{Choices, Server, Sets, answer, check_message};
use super::spreads;
use proptest::prelude::*;
use proto::EventId;
use proto::id::read_hex_any_case;
use proto::nip::nip77::{
    Accumulator, Answer, FRAME_BYTES_MIN, Initiator, Mode, NegError, Range, SortedItems, ranges,
    respond,
};

/// The ranges of a message as the table writes them.
fn spell(message: &[u8]) -> Result<String, NegError> {
    let mut text = Vec::new();
    for range in ranges(message)? {
        let Range { upper, mode, .. } = range?;
        let upper = match upper.timestamp() {
            u64::MAX => "inf".to_owned(),
            timestamp => timestamp.to_string(),
        };
        text.push(match mode {
            Mode::Skip => format!("{upper} skip"),
            Mode::Fingerprint(fingerprint) => format!("{upper} {fingerprint:?}"),
            Mode::Ids(ids) => format!("{upper} ids {}", ids.len()),
        });
    }
    Ok(text.join(", "))
}

#[test]
fn messages_and_fingerprints_are_as_the_table_says() {
    let mut reached = std::collections::BTreeSet::new();
    for row in include_str!("../vectors/negentropy.tsv").lines() {
        let cells: Vec<&str> = row.split('\t').collect();
        match cells[..] {
            ["message", hex, expected, _] => {
                let message = read_hex_any_case(hex.replace(' ', "").as_bytes()).unwrap();
                let verdict = spell(&message);
                if let Err(error) = verdict {
                    reached.insert(format!("{error:?}"));
                }
                let verdict = verdict.unwrap_or_else(|error| format!("{error:?}"));
                assert_eq!(verdict, expected, "{row}");
            }
            ["fingerprint", ids, expected, _] => {
                let ids = ids.split(' ').filter(|id| !id.is_empty());
                let ids: Vec<EventId> =
                    ids.map(|id| EventId::from_hex(id.as_bytes()).unwrap()).collect();
                let sum: Accumulator = ids.iter().collect();
                assert_eq!(format!("{:?}", sum.fingerprint()), expected, "{row}");
            }
            _ => assert!(row.starts_with('#'), "{row}"),
        }
    }
    assert_eq!(reached.len(), 8, "{reached:?}");
}

#[test]
fn another_version_is_answered_with_ours_and_refused_by_an_initiator() {
    let set = SortedItems::new(vec![]);
    let initiator = Initiator::new(set.clone(), 4_096);
    for version in [0x60, 0x62, 0x6f] {
        assert_eq!(answer(&set, &[version, 1, 2, 3], 4_096), [0x61]);
        assert_eq!(initiator.step(&[version]), Err(NegError::OtherVersion(version)));
    }
    for message in [&[][..], &[0x5f], &[0x70], &[0]] {
        assert!(respond(&set, message, 4_096).is_err());
        assert!(initiator.step(message).is_err());
    }
    // Only a version: everything is skipped.
    assert_eq!(answer(&set, &[0x61], 4_096), [0x61]);
    assert_eq!(initiator.step(&[0x61]).unwrap(), Default::default());
}

/// A varint as the protocol writes it.
fn varint(mut value: u64) -> Vec<u8> {
    let mut digits = vec![(value & 0x7f) as u8];
    while value > 0x7f {
        value >>= 7;
        digits.insert(0, (value & 0x7f) as u8 | 0x80);
    }
    digits
}

/// Adjacent ranges, one a second from `since` on, each with this behind its bound.
fn one_a_second(since: u64, count: usize, payload: &[u8]) -> Vec<u8> {
    let mut message = vec![0x61];
    for index in 0..count {
        message.extend(varint(if index == 0 { since + 1 } else { 2 }));
        message.push(0);
        message.extend_from_slice(payload);
    }
    message
}

#[test]
fn an_answer_stays_within_its_frame_whatever_the_message_asks() {
    let items = Choices(3).items(20_000, 1_700_000_000, 100_000);
    let set = SortedItems::new(items.clone());
    let wrong_fingerprint: Vec<u8> = [1].into_iter().chain([0xee; 16]).collect();
    for since in [1_600_000_000, 1_699_900_000] {
        for payload in [&[2, 0][..], &wrong_fingerprint] {
            let message = one_a_second(since, 12_000, payload);
            for frame in [FRAME_BYTES_MIN, 5_000, 100_000] {
                assert!(answer(&set, &message, frame).len() <= frame);
                assert!(Server::new(items.clone()).answer(&message, frame).len() <= frame);
            }
        }
    }
    // Limits below the least one are taken as that.
    let message = Initiator::new(SortedItems::new(vec![]), 0).initiate();
    let Ok(Answer::Message(short)) = respond(&set, &message, 0) else { panic!() };
    assert!((FRAME_BYTES_MIN - 200..=FRAME_BYTES_MIN).contains(&short.len()));
}

#[test]
fn ranges_that_are_skipped_need_no_items() {
    let items = Choices(4).items(3_000, 1_700_000_000, 1_000_000);
    let server = Server::new(items);
    let skips = one_a_second(1_699_500_000, 3_000, &[0]);
    assert_eq!(respond(&server.set, &skips, 4_096), Ok(Answer::Message(vec![0x61])));
    // One range that is not: the bucket at either end, which is the same here.
    let mut message = one_a_second(1_699_500_000, 3, &[0]);
    message.extend([2, 0, 2, 0]);
    let Ok(Answer::NeedItems(spans)) = respond(&server.set, &message, 4_096) else { panic!() };
    assert_eq!(spans.len(), 1);
    assert!(spans[0].since <= 1_699_500_002 && spans[0].until >= 1_699_500_003);
    assert_eq!(spans[0].until - spans[0].since, 4_095);
}

#[test]
fn an_id_that_is_listed_twice_is_needed_once() {
    let id = EventId([7; 32]);
    let message = [&[0x61, 0, 0, 2, 2][..], &id.0, &id.0].concat();
    let step = Initiator::new(SortedItems::new(vec![]), 4_096).step(&message).unwrap();
    assert_eq!((step.have, step.need, step.message), (vec![], vec![id], None));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn noise_and_damaged_messages_are_refused_or_answered(
        seed in any::<u64>(), seconds in spreads(), damages in 0..6usize,
        noise in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        let mut choices = Choices(seed);
        let sets = Sets::new(seed, [200, choices.below(40), choices.below(40)], seconds);
        let theirs = SortedItems::new(sets.theirs());
        let initiator = Initiator::new(SortedItems::new(sets.ours()), 4_096);
        let mut message = initiator.initiate();
        for _ in 0..3 {
            let mut bad = message.clone();
            for _ in 0..damages {
                let at = choices.below(bad.len());
                match choices.below(3) {
                    0 => bad[at] = choices.next() as u8,
                    1 => bad.truncate(at + 1),
                    _ => bad.insert(at, [0, 1, 2, 0x7f, 0x80, 0xff][choices.below(6)]),
                }
            }
            check_message(&bad).ok();
            let step = initiator.step(&answer(&theirs, &message, 4_096)).unwrap();
            let Some(next) = step.message else { break };
            message = next;
        }
        check_message(&noise).ok();
        let versioned: Vec<u8> = [0x61].into_iter().chain(noise).collect();
        check_message(&versioned).ok();
    }
}
