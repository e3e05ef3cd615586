//! Tags and content by kind.

use super::authors::{Author, Authors};
use super::signer::Draft;
use super::{Past, shape, text};
use crate::rng::Rng;
use proto::json::write_string;
use proto::nip::nip01::{KindClass, class};
use std::collections::VecDeque;

/// Different `d` values that one author uses for one kind.
const D_VALUES: u64 = 5;
/// Largest content, so that no event passes a relay's 256 KiB.
const CONTENT_BYTES_MAX: usize = 200_000;

/// The `d` value number `d`; number 0 is the empty one.
pub(super) fn d_value(d: u8) -> String {
    if d == 0 { String::new() } else { format!("list-{d}") }
}

/// A JSON object of strings, keys in the order given: content that is itself JSON must not depend
/// on the features of a library.
fn object(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut json = Vec::new();
    for (index, (key, value)) in fields.iter().enumerate() {
        json.push(if index == 0 { b'{' } else { b',' });
        write_string(key.as_bytes(), &mut json);
        json.push(b':');
        write_string(value.as_bytes(), &mut json);
    }
    json.push(b'}');
    json
}

/// What a body is made from.
pub(super) struct Writer<'a> {
    pub(super) rng: &'a mut Rng,
    pub(super) authors: &'a Authors,
    pub(super) recent: &'a VecDeque<Past>,
    pub(super) popular: &'a [Past],
    pub(super) author: &'a Author,
}

impl Writer<'_> {
    /// The draft of an event of `kind`, and the number of its `d` value.
    pub(super) fn write(&mut self, kind: u16, created_at: u32) -> (Draft, u8) {
        let mut draft = Draft::new(kind, created_at);
        let mut d = 0;
        match kind {
            0 => self.profile(&mut draft),
            1 | 1000 | 9041 | 321 | 1010 | 5300 | 6300 => self.note(&mut draft, created_at),
            3 => self.follow_list(&mut draft),
            4 => self.direct_message(&mut draft),
            5 => self.deletion(&mut draft),
            6 => self.repost(&mut draft),
            7 => self.reaction(&mut draft),
            42 | 1111 => self.comment(&mut draft, kind),
            1059 => self.gift_wrap(&mut draft),
            1984 => self.report(&mut draft),
            9735 => self.zap_receipt(&mut draft),
            10_002 | 10_050 => self.relay_list(&mut draft, kind),
            20_001 | 23_194 | 23_195 | 24_133 => self.ephemeral(&mut draft),
            _ if class(kind) == KindClass::Addressable => {
                d = self.addressable(&mut draft, created_at)
            }
            _ => self.prose(&mut draft),
        }
        (draft, d)
    }

    fn prose(&mut self, draft: &mut Draft) {
        let bytes = shape::prose_bytes(self.rng);
        draft.set_content(text::prose(self.rng, bytes).as_bytes());
    }

    /// An earlier event: a popular one, or a recent one with the youngest likeliest.
    fn earlier(&mut self) -> Option<Past> {
        if !self.popular.is_empty() && self.rng.chance(1, 10) {
            return Some(*self.rng.pick(self.popular));
        }
        let length = self.recent.len();
        let age = self.rng.index(length).min(self.rng.index(length));
        self.recent.get(length.checked_sub(age + 1)?).copied()
    }

    fn person(&mut self) -> String {
        self.authors.mentioned(self.rng).to_hex()
    }

    fn profile(&mut self, draft: &mut Draft) {
        let bytes = shape::prose_bytes(self.rng).min(4_000);
        let about = text::prose(self.rng, bytes);
        let number = self.rng.below(1_000_000);
        let (name, picture) =
            (format!("user{number}"), format!("https://example.com/{number}.jpg"));
        draft.set_content(&object(&[("name", &name), ("about", &about), ("picture", &picture)]));
    }

    fn note(&mut self, draft: &mut Draft, created_at: u32) {
        if self.rng.chance(1, 2)
            && let Some(root) = self.earlier()
        {
            draft.push_tag(&["e", &root.id.to_hex(), "wss://relay.example", "root"]);
            if self.rng.chance(1, 3)
                && let Some(parent) = self.earlier()
            {
                draft.push_tag(&["e", &parent.id.to_hex(), "", "reply"]);
            }
            draft.push_tag(&["p", &root.pubkey.to_hex()]);
        }
        for _ in 0..self.rng.below(10).saturating_sub(7) {
            draft.push_tag(&["t", &text::topic(self.rng)]);
        }
        self.expiration(draft, created_at);
        self.prose(draft);
    }

    /// One event in a hundred expires: half of them within the hour, half in ten years.
    fn expiration(&mut self, draft: &mut Draft, created_at: u32) {
        if self.rng.chance(1, 100) {
            let after = if self.rng.chance(1, 2) { 3_600 } else { 315_360_000 };
            draft.push_tag(&["expiration", &created_at.saturating_add(after).to_string()]);
        }
    }

    fn follow_list(&mut self, draft: &mut Draft) {
        let count = shape::follows(self.rng);
        for key in self.authors.followed(self.rng, count) {
            draft.push_tag(&["p", &key.to_hex()]);
        }
    }

    fn direct_message(&mut self, draft: &mut Draft) {
        draft.push_tag(&["p", &self.person()]);
        let bytes = shape::prose_bytes(self.rng).clamp(24, CONTENT_BYTES_MAX) / 3 * 4;
        let content =
            format!("{}?iv={}", text::cipher_text(self.rng, bytes), "AAAAAAAAAAAAAAAAAAAAAA==");
        draft.set_content(content.as_bytes());
    }

    /// Names one or two of the author's own events, or the coordinate of one of its slots; an
    /// author without any names something that the relay has not got.
    fn deletion(&mut self, draft: &mut Draft) {
        let slots = self.authors.slots(self.author);
        if !slots.is_empty() && self.rng.chance(3, 10) {
            let slot = self.rng.pick(slots);
            let (kind, key) = (slot.kind.to_string(), slot.pubkey.to_hex());
            draft.push_tag(&["a", &format!("{kind}:{key}:{}", d_value(slot.d))]);
            draft.push_tag(&["k", &kind]);
            return;
        }
        let own = self.authors.recent(self.author);
        if own.is_empty() {
            let unknown = proto::EventId(self.rng.bytes32());
            draft.push_tag(&["e", &unknown.to_hex()]);
        }
        for _ in 0..self.rng.between(1, 2).min(own.len() as u64) {
            let victim = self.rng.pick(own);
            draft.push_tag(&["e", &victim.id.to_hex()]);
            draft.push_tag(&["k", &victim.kind.to_string()]);
        }
        draft.set_content(b"posted by accident");
    }

    fn repost(&mut self, draft: &mut Draft) {
        let Some(original) = self.earlier() else { return self.prose(draft) };
        draft.push_tag(&["e", &original.id.to_hex(), "wss://relay.example"]);
        draft.push_tag(&["p", &original.pubkey.to_hex()]);
        if self.rng.chance(1, 2) {
            let bytes = shape::prose_bytes(self.rng);
            let content = text::prose(self.rng, bytes);
            let (id, pubkey) = (original.id.to_hex(), original.pubkey.to_hex());
            draft.set_content(&object(&[("id", &id), ("pubkey", &pubkey), ("content", &content)]));
        }
    }

    fn reaction(&mut self, draft: &mut Draft) {
        let Some(target) = self.earlier() else { return };
        draft.push_tag(&["e", &target.id.to_hex()]);
        draft.push_tag(&["p", &target.pubkey.to_hex()]);
        if self.rng.chance(1, 3) {
            draft.push_tag(&["k", &target.kind.to_string()]);
        }
        draft.set_content(self.rng.pick(&["+", "🤙", "💜", "❤️", "-", ":shaka:"]).as_bytes());
    }

    fn comment(&mut self, draft: &mut Draft, kind: u16) {
        if let Some(root) = self.earlier() {
            let name = if kind == 1111 { "E" } else { "e" };
            draft.push_tag(&[name, &root.id.to_hex(), "", "root"]);
            draft.push_tag(&["p", &root.pubkey.to_hex()]);
        }
        self.prose(draft);
    }

    fn gift_wrap(&mut self, draft: &mut Draft) {
        draft.push_tag(&["p", &self.person()]);
        let bytes = 700 + shape::prose_bytes(self.rng).min(CONTENT_BYTES_MAX) / 3 * 4;
        draft.set_content(text::cipher_text(self.rng, bytes).as_bytes());
    }

    fn report(&mut self, draft: &mut Draft) {
        draft.push_tag(&["p", &self.person(), "spam"]);
        if let Some(target) = self.earlier() {
            draft.push_tag(&["e", &target.id.to_hex(), "spam"]);
        }
    }

    fn zap_receipt(&mut self, draft: &mut Draft) {
        draft.push_tag(&["p", &self.person()]);
        if let Some(target) = self.earlier() {
            draft.push_tag(&["e", &target.id.to_hex()]);
        }
        let invoice = String::from_utf8_lossy(&text::letters(self.rng, 260)).into_owned();
        draft.push_tag(&["bolt11", &format!("lnbc{invoice}")]);
        let (content, pubkey) = (text::prose(self.rng, 20), self.person());
        let request = object(&[("content", &content), ("pubkey", &pubkey)]);
        draft.push_tag(&["description", &String::from_utf8_lossy(&request)]);
    }

    fn relay_list(&mut self, draft: &mut Draft, kind: u16) {
        let name = if kind == 10_002 { "r" } else { "relay" };
        for _ in 0..self.rng.between(1, 6) {
            let url = format!("wss://relay{}.example.com/", self.rng.below(200));
            match self.rng.below(3) {
                0 if kind == 10_002 => draft.push_tag(&[name, &url, "read"]),
                1 if kind == 10_002 => draft.push_tag(&[name, &url, "write"]),
                _ => draft.push_tag(&[name, &url]),
            }
        }
    }

    fn ephemeral(&mut self, draft: &mut Draft) {
        draft.push_tag(&["p", &self.person()]);
        let bytes = self.rng.between(120, 600) as usize;
        draft.set_content(text::cipher_text(self.rng, bytes).as_bytes());
    }

    fn addressable(&mut self, draft: &mut Draft, created_at: u32) -> u8 {
        let d = self.rng.below(D_VALUES) as u8;
        draft.push_tag(&["d", &d_value(d)]);
        if self.rng.chance(1, 2) {
            draft.push_tag(&["t", &text::topic(self.rng)]);
        }
        if self.rng.chance(1, 4) {
            draft.push_tag(&["a", &format!("30023:{}:list-1", self.person())]);
        }
        self.expiration(draft, created_at);
        self.prose(draft);
        d
    }
}
