//! NIP-11, CORS, the landing page, health and metrics on the same port.

use crate::common::client::http;
use crate::common::{RelayOptions, Setup, draft};
use crate::on_every_setup;
use bench::Signer;
use serde_json::{Value, json};

on_every_setup!(
    the_information_document_says_what_is_on,
    every_origin_may_ask,
    other_paths_and_methods_get_their_answers,
    health_and_metrics,
);

const CORS: [&str; 3] = [
    "access-control-allow-origin: *",
    "access-control-allow-headers:",
    "access-control-allow-methods:",
];

fn the_information_document_says_what_is_on(setup: Setup) {
    let relay = RelayOptions::new(setup)
        .config(
            "[relay]\nname = \"Test relay\"\ndescription = \"it has \\\"quotes\\\"\"\n\
             software = \"https://software.example\"\n",
        )
        .start();
    let request = "GET / HTTP/1.1\r\nHost: relay.example\r\nAccept: application/nostr+json\r\n\
        Connection: close\r\n\r\n";
    let (head, body) = http(relay.address, request);
    assert!(head.starts_with("http/1.1 200"), "{head}");
    assert!(head.contains("content-type: application/nostr+json"), "{head}");
    for header in CORS {
        assert!(head.contains(header), "{head} lacks {header}");
    }
    let document: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(document["name"], "Test relay");
    assert_eq!(document["description"], "it has \"quotes\"");
    let mut nips: Vec<u64> = document["supported_nips"]
        .as_array()
        .unwrap()
        .iter()
        .map(|n| n.as_u64().unwrap())
        .collect();
    nips.sort_unstable();
    assert_eq!(nips, [1, 2, 4, 9, 11, 13, 17, 40, 42, 45, 59, 62, 65, 67, 70, 77]);
    assert_eq!(document["negentropy"], 1);
    let limitation = &document["limitation"];
    let expected = json!({
        "max_message_length": 524_288, "max_subscriptions": 100, "max_limit": 500,
        "default_limit": 500, "max_subid_length": 64, "max_event_tags": 5_000,
        "min_pow_difficulty": 0, "auth_required": false, "payment_required": false,
        "created_at_lower_limit": 94_608_000, "created_at_upper_limit": 900,
    });
    for (key, value) in expected.as_object().unwrap() {
        assert_eq!(&limitation[key], value, "{key}");
    }
    assert_eq!(document["software"], "https://software.example");
}

fn every_origin_may_ask(setup: Setup) {
    let relay = setup.start();
    let request = "OPTIONS / HTTP/1.1\r\nHost: relay.example\r\nOrigin: https://client.example\r\n\
        Access-Control-Request-Method: GET\r\nAccess-Control-Request-Headers: accept\r\n\
        Connection: close\r\n\r\n";
    let (head, body) = http(relay.address, request);
    assert!(head.starts_with("http/1.1 204") || head.starts_with("http/1.1 200"), "{head}");
    for header in CORS {
        assert!(head.contains(header), "{head} lacks {header}");
    }
    assert!(body.is_empty());
}

fn other_paths_and_methods_get_their_answers(setup: Setup) {
    let relay = setup.start();
    let get = |path: &str| {
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: h\r\nAccept: text/html\r\nConnection: close\r\n\r\n"
        );
        http(relay.address, &request)
    };
    let (head, body) = get("/");
    assert!(head.starts_with("http/1.1 200") && head.contains("content-type: text/html"), "{head}");
    assert!(body.contains("<html"), "{body}");
    assert!(get("/nothing-here").0.starts_with("http/1.1 404"));
    let (head, _) = http(
        relay.address,
        "DELETE / HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
    );
    assert!(head.starts_with("http/1.1 405"), "{head}");
    let (head, _) = http(relay.address, "this is no HTTP at all\r\n\r\n");
    assert!(head.starts_with("http/1.1 400"), "{head}");
}

fn health_and_metrics(setup: Setup) {
    let relay = setup.start();
    let get = |path: &str| {
        http(relay.address, &format!("GET {path} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"))
    };
    assert!(get("/health").0.starts_with("http/1.1 200"));
    let mut client = relay.connect();
    let signer = Signer::from_seed(1);
    let event = client.post(&signer, &draft(1));
    client.publish(&event);
    let (head, text) = get("/metrics");
    assert!(head.starts_with("http/1.1 200"), "{head}");
    let value = |name: &str| -> f64 {
        let lines = text.lines().filter(|line| line.starts_with(name));
        lines.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum()
    };
    assert_eq!(value("turnpike_events_total{outcome=\"accepted\"}"), 1.0, "{text}");
    assert_eq!(value("turnpike_events_total{outcome=\"duplicate\"}"), 1.0, "{text}");
    assert!(value("turnpike_connections") >= 1.0, "{text}");
    for line in text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        assert!(line.starts_with("turnpike_"), "{line}");
    }
}
