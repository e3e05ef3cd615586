//! Text as people and programs write it: several scripts, emoji, quotes, line breaks, links, and
//! now and then a control character.

use crate::rng::Rng;

const LATIN: &[&str] = &[
    "relay", "the", "a", "of", "good", "morning", "zap", "note", "to", "and", "fees", "block",
    "why", "not", "because", "open", "protocol", "people", "today", "coffee", "is", "it", "this",
    "client", "keys", "today's", "never", "always", "run", "node", "art", "music", "sats", "gm",
];
const EUROPEAN: &[&str] = &[
    "größer",
    "für",
    "naïve",
    "garçon",
    "mañana",
    "śnieg",
    "über",
    "così",
    "ação",
    "ñandú",
    "жизнь",
    "привет",
    "мир",
    "сеть",
    "ελευθερία",
    "δίκτυο",
];
const ASIAN: &[&str] = &[
    "おはよう",
    "世界",
    "自由",
    "こんにちは",
    "比特币",
    "网络",
    "안녕하세요",
    "세계",
    "नमस्ते",
    "สวัสดี",
    "مرحبا",
    "שלום",
];
const EMOJI: &[&str] = &["🤙", "⚡", "🫂", "💜", "🚀", "👩‍🚀", "🏴‍☠️", "😂", "🔥", "✨"];

/// Prose of about `bytes` bytes: never more than a word longer.
pub(super) fn prose(rng: &mut Rng, bytes: usize) -> String {
    let script = rng.below(100);
    let mut out = String::with_capacity(bytes + 32);
    while out.len() < bytes {
        let word = match rng.below(100) {
            0..=2 => rng.pick(EMOJI),
            _ if script < 70 => rng.pick(LATIN),
            _ if script < 83 => rng.pick(EUROPEAN),
            _ => rng.pick(ASIAN),
        };
        out.push_str(word);
        match rng.below(400) {
            0..=5 => out.push('\n'),
            6..=7 => out.push_str("\n\n"),
            8..=11 => out.push_str(" \"so they say\" "),
            12..=13 => out.push_str(" C:\\nodes\\relay "),
            14 => out.push('\t'),
            15..=17 => out.push_str(" https://example.com/a/b?c=d&e=%20 "),
            18..=20 => out.push_str(" #nostr "),
            21 if rng.chance(1, 20) => out.push('\u{1b}'),
            _ => out.push(' '),
        }
    }
    out
}

/// `bytes` bytes of the base64 alphabet: what an encrypted message looks like.
pub(super) fn cipher_text(rng: &mut Rng, bytes: usize) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    (0..bytes).map(|_| char::from(ALPHABET[rng.index(64)])).collect()
}

/// `bytes` ASCII letters.
pub(super) fn letters(rng: &mut Rng, bytes: usize) -> Vec<u8> {
    (0..bytes).map(|_| b'a' + rng.below(26) as u8).collect()
}

/// One topic for a `t` tag; the first ones are the popular ones.
pub(super) fn topic(rng: &mut Rng) -> String {
    const POPULAR: [&str; 8] =
        ["nostr", "bitcoin", "zap", "photography", "plebchain", "art", "日本", "grownostr"];
    if rng.chance(4, 5) {
        (*rng.pick(&POPULAR)).to_owned()
    } else {
        format!("topic{}", rng.below(500))
    }
}
