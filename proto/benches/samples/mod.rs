//! Signed sample events, made from fixed keys so that every run measures the same bytes.

use proto::{Event, EventId, EventParts, PublicKey, Signature};
use secp256k1::Keypair;

/// A signed event with these canonical spans.
pub fn signed(secret: u8, kind: u16, tags_json: &str, content_json: &str) -> Event {
    let pair = Keypair::from_secret_bytes([secret.max(1); 32]).expect("below the curve's order");
    let mut parts = EventParts {
        id: EventId([0; 32]),
        pubkey: PublicKey(pair.x_only_public_key().0.to_byte_array()),
        sig: Signature([0; 64]),
        created_at: 1_700_000_000,
        kind,
        tags_json: tags_json.as_bytes(),
        content_json: content_json.as_bytes(),
    };
    parts.id = parts.compute_id();
    parts.sig = Signature(pair.sign_schnorr_no_aux_rand(&parts.id.0).to_byte_array());
    parts.pack()
}

/// A short note: its EVENT message has 489 bytes.
pub fn note() -> Event {
    let content = r#""The quick brown fox jumps over the lazy dog.\nWell \"done\", says the dog, and sleeps on while the fox goes home to its den." "#;
    signed(7, 1, r#"[["t","nostr"]]"#, content.trim_end())
}

/// A follow list with 130 tags and a long content, about 30 KB as a message.
pub fn large() -> Event {
    let mut tags = String::from("[");
    for index in 0..130 {
        let key = format!("{:064x}", index * 7919);
        tags.push_str(&format!(r#"["p","{key}","wss://relay.example.com"],"#));
    }
    tags.pop();
    tags.push(']');
    let line = r"one line of a longer text, as people write it, and then the next;\n";
    signed(7, 3, &tags, &format!("\"{}\"", line.repeat(240)))
}
