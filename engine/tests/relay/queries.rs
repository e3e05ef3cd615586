//! REQ and COUNT: order, limits, unions, corners of filters, NIP-67.

use crate::common::client::{Client, id_of};
use crate::common::{Setup, now_s};
use crate::on_every_setup;
use bench::{Draft, Signer};
use proto::Event;
use serde_json::{Value, json};

on_every_setup!(
    answers_are_ordered_and_limited_exactly,
    filters_of_one_request_are_a_union_without_repeats,
    corners_of_filters,
    counts_are_exact,
    long_and_odd_tag_values_are_found,
    since_and_until_are_inclusive,
);

/// 120 notes by 12 authors in 40 different seconds, in the order in which a relay returns them.
fn notes(client: &mut Client) -> Vec<Event> {
    let base = now_s() - 1_000;
    let mut events: Vec<Event> = (0..120)
        .map(|index| {
            let draft = Draft::new(1, base + index / 3)
                .tag(&["t", if index % 5 == 0 { "fifth" } else { "other" }])
                .content(&index.to_string());
            client.post(&Signer::from_seed(u64::from(index) % 12), &draft)
        })
        .collect();
    events.sort_by_key(|event| (std::cmp::Reverse(event.view().created_at()), event.view().id()));
    events
}

fn ids(events: &[Event]) -> Vec<String> {
    events.iter().map(id_of).collect()
}

fn answers_are_ordered_and_limited_exactly(setup: Setup) {
    let relay = setup.start();
    let mut client = relay.connect();
    let expected = ids(&notes(&mut client));
    for limit in [1, 2, 7, 50, 119, 120, 500] {
        let stored = client.query(&json!({"kinds": [1], "limit": limit}));
        let length = expected.len().min(limit);
        assert_eq!(stored.ids(), expected[..length], "limit {limit}");
        let hint = if limit < expected.len() { ["more"] } else { ["finish"] };
        assert_eq!(stored.hint, hint, "limit {limit}");
    }
    let none = client.query(&json!({"kinds": [1], "limit": 0}));
    assert!(none.events.is_empty(), "limit 0 is live only");
}

fn filters_of_one_request_are_a_union_without_repeats(setup: Setup) {
    let relay = setup.start();
    let mut client = relay.connect();
    let events = notes(&mut client);
    let author = Signer::from_seed(3).pubkey().to_hex();
    let wanted: Vec<String> = events
        .iter()
        .filter(|event| {
            let view = event.view();
            view.pubkey().to_hex() == author
                || view.tags().first_value(b"t").as_deref() == Some(b"fifth")
        })
        .map(id_of)
        .collect();
    let union =
        [json!({"authors": [author]}), json!({"#t": ["fifth"]}), json!({"authors": [author]})];
    let stored = client.query_all(&union).unwrap();
    assert_eq!(stored.ids(), wanted);
    assert_eq!(client.count(&union), Ok(wanted.len() as u64));
    // Each filter has its own limit: the newest of the author and the two newest of the topic.
    let own = |wanted: &dyn Fn(&Event) -> bool, limit: usize| -> Vec<String> {
        events.iter().filter(|event| wanted(event)).take(limit).map(id_of).collect()
    };
    let by_author = own(&|event| event.view().pubkey().to_hex() == author, 1);
    let by_topic =
        own(&|event| event.view().tags().first_value(b"t").as_deref() == Some(b"fifth"), 2);
    let stored = client
        .query_all(&[
            json!({"authors": [author], "limit": 1}),
            json!({"#t": ["fifth"], "limit": 2}),
        ])
        .unwrap();
    let expected: Vec<String> = ids(&events)
        .into_iter()
        .filter(|id| by_author.contains(id) || by_topic.contains(id))
        .collect();
    assert_eq!(stored.ids(), expected);
}

fn corners_of_filters(setup: Setup) {
    let relay = setup.start();
    let mut client = relay.connect();
    let events = notes(&mut client);
    let newest = events[0].view();
    let none: [Value; 8] = [
        json!({"ids": []}),
        json!({"authors": []}),
        json!({"kinds": []}),
        json!({"#t": []}),
        json!({"kinds": [1], "authors": ["ab".repeat(32)]}),
        json!({"since": newest.created_at() + 1}),
        json!({"since": 20, "until": 10}),
        json!({"since": u64::MAX}),
    ];
    for filter in none {
        let stored = client.query(&filter);
        assert!(stored.events.is_empty(), "{filter}");
        assert_eq!(stored.hint, ["finish"], "{filter}");
        assert_eq!(client.count(std::slice::from_ref(&filter)), Ok(0), "{filter}");
    }
    assert_eq!(client.query(&json!({})).events.len(), events.len());
    assert_eq!(client.query(&json!({"until": u64::MAX})).events.len(), events.len());
    let repeated = json!({"ids": [newest.id().to_hex(), newest.id().to_hex()]});
    assert_eq!(client.query_ids(&repeated), [newest.id().to_hex()]);
}

fn counts_are_exact(setup: Setup) {
    let relay = setup.start();
    let mut client = relay.connect();
    let events = notes(&mut client);
    assert_eq!(client.count(&[json!({"kinds": [1]})]), Ok(events.len() as u64));
    assert_eq!(client.count(&[json!({"#t": ["fifth"]})]), Ok(24));
    let author = Signer::from_seed(0).pubkey().to_hex();
    assert_eq!(client.count(&[json!({"authors": [author]})]), Ok(10));
    assert_eq!(client.count(&[json!({"authors": [author], "#t": ["fifth"]})]), Ok(2));
}

fn long_and_odd_tag_values_are_found(setup: Setup) {
    let relay = setup.start();
    let mut client = relay.connect();
    let long = "x".repeat(3_000);
    let almost = format!("{}y", "x".repeat(2_999));
    let values = ["", "a", "quo\"te", "new\nline", "漢字", &"z".repeat(32), &"z".repeat(33), &long];
    for (index, value) in values.iter().enumerate() {
        let signer = Signer::from_seed(100 + index as u64);
        let event = client.post(&signer, &Draft::new(1, now_s()).tag(&["x", value]));
        assert_eq!(client.query_ids(&json!({"#x": [value]})), [id_of(&event)], "{value:?}");
        assert_eq!(client.query_ids(&json!({"#X": [value]})), [""; 0], "case counts");
    }
    assert_eq!(client.query_ids(&json!({"#x": [almost]})), [""; 0]);
    // Only the first value of a tag is indexed, and only one-letter names.
    let signer = Signer::from_seed(200);
    client.post(&signer, &Draft::new(1, now_s()).tag(&["x", "first", "second"]).tag(&["xx", "v"]));
    assert_eq!(client.query_ids(&json!({"#x": ["second"]})), [""; 0]);
    assert_eq!(client.count(&[json!({"#x": ["first"]})]), Ok(1));
}

fn since_and_until_are_inclusive(setup: Setup) {
    let relay = setup.start();
    let mut client = relay.connect();
    let events = notes(&mut client);
    let at = events[60].view().created_at();
    let wanted = |keep: &dyn Fn(u32) -> bool| -> Vec<String> {
        events.iter().filter(|event| keep(event.view().created_at())).map(id_of).collect()
    };
    assert_eq!(client.query_ids(&json!({"since": at})), wanted(&|t| t >= at));
    assert_eq!(client.query_ids(&json!({"until": at})), wanted(&|t| t <= at));
    assert_eq!(client.query_ids(&json!({"since": at, "until": at})), wanted(&|t| t == at));
    assert_eq!(wanted(&|t| t == at).len(), 3);
}
