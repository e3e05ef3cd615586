//! The index of live subscriptions against asking each of them, while they come and go and their
//! slots are used again.

use crate::bytes::Bytes;
use crate::events;
use proto::{Event, Filter, Secret, SeededState};
use shards::subindex::{SubIndex, SubscriptionKey, filter_bytes};
use std::collections::BTreeMap;

pub fn run(data: &[u8]) {
    let mut bytes = Bytes(data);
    let mut index = SubIndex::new(SeededState::new(Secret([7; 16])));
    let mut live: BTreeMap<SubscriptionKey, Vec<Filter>> = BTreeMap::new();
    let mut events: Vec<Event> = Vec::new();
    let mut number = 0;
    while !bytes.is_over() {
        number += 1;
        match bytes.byte() % 6 {
            0 | 1 => {
                let slot = bytes.below(8) as u32;
                // A slot holds one subscription at a time; the next use has another generation.
                if live.keys().any(|key| key.slot == slot) {
                    continue;
                }
                let key = SubscriptionKey { slot, generation: number };
                let filters: Vec<Filter> =
                    (0..=bytes.below(3)).map(|_| events::filter(&mut bytes, &events)).collect();
                filters.iter().for_each(|filter| assert!(filter_bytes(filter) > 0));
                index.insert(key, &filters);
                live.insert(key, filters);
            }
            2 => {
                let keys: Vec<SubscriptionKey> = live.keys().copied().collect();
                if !keys.is_empty() {
                    let key = *bytes.pick(&keys);
                    let filters = live.remove(&key).unwrap_or_default();
                    index.remove(&filters, |key| live.contains_key(&key));
                }
            }
            _ => {
                let event = events::plain(&mut bytes, number as usize);
                let matches = |filters: &[Filter]| {
                    filters.iter().any(|filter| filter.matches(&event.view()))
                };
                let mut found: Vec<SubscriptionKey> = Vec::new();
                index.candidates(&event.view(), |key| found.push(key));
                found.retain(|key| live.get(key).is_some_and(|filters| matches(filters)));
                found.sort_unstable();
                found.dedup();
                let expected: Vec<SubscriptionKey> = live
                    .iter()
                    .filter(|(_, filters)| matches(filters))
                    .map(|(key, _)| *key)
                    .collect();
                assert_eq!(found, expected);
                events.push(event);
            }
        }
    }
    // When all have ended, nothing is left of them.
    for filters in std::mem::take(&mut live).into_values() {
        index.remove(&filters, |_| false);
    }
    for event in &events {
        index.candidates(&event.view(), |found| panic!("{found:?} is still in the index"));
    }
}
