//! The text that a policy puts in place of a reason's own: what an OK, a CLOSED or a NEG-ERR says
//! when somebody outside this program decided.

use proto::{Prefix, Reason};
use std::borrow::Cow;

/// Bytes of a note that are passed on; the rest is cut off.
pub const NOTE_BYTES_MAX: usize = 512;

const PREFIXES: [Prefix; 10] = [
    Prefix::Duplicate,
    Prefix::Pow,
    Prefix::Blocked,
    Prefix::RateLimited,
    Prefix::Invalid,
    Prefix::Restricted,
    Prefix::AuthRequired,
    Prefix::Unsupported,
    Prefix::Closed,
    Prefix::Error,
];

/// What a client is told: the note if there is one, else the reason's own text. A note that begins
/// with no standard prefix gets `blocked: `, since clients decide by the prefix.
pub fn text(reason: Reason, note: Option<&str>) -> Cow<'static, str> {
    let note = note.map(str::trim).filter(|note| !note.is_empty());
    let Some(note) = note else { return Cow::Borrowed(reason.message()) };
    let note = &note[..note.floor_char_boundary(NOTE_BYTES_MAX)];
    if has_standard_prefix(note) {
        return Cow::Owned(note.to_owned());
    }
    Cow::Owned(format!("{}: {note}", Prefix::Blocked.word()))
}

fn has_standard_prefix(note: &str) -> bool {
    let Some((word, _)) = note.split_once(':') else { return false };
    PREFIXES.iter().any(|prefix| prefix.word() == word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_begins_with_a_standard_prefix_and_is_bounded() {
        let told = |note: &'static str| text(Reason::Policy, Some(note)).into_owned();
        assert_eq!(told("blocked: not on the list"), "blocked: not on the list");
        assert_eq!(told("restricted: members only"), "restricted: members only");
        assert_eq!(told("  not on the list\n"), "blocked: not on the list");
        assert_eq!(told("spam: really"), "blocked: spam: really");
        assert_eq!(told("Blocked: x"), "blocked: Blocked: x", "prefixes are lower case");
        assert_eq!(told("blocked"), "blocked: blocked");
        for empty in [None, Some(""), Some(" \n")] {
            assert_eq!(text(Reason::Policy, empty), Reason::Policy.message());
        }
        let long = "é".repeat(400);
        let told = text(Reason::Policy, Some(&long));
        assert_eq!(told.len(), "blocked: ".len() + NOTE_BYTES_MAX);
        let long = format!("x{long}");
        let told = text(Reason::Policy, Some(&long));
        assert_eq!(told.len(), "blocked: ".len() + NOTE_BYTES_MAX - 1, "cut between characters");
    }

    #[test]
    fn every_reason_begins_with_one_of_the_prefixes() {
        for reason in Reason::ALL {
            assert!(has_standard_prefix(reason.message()), "{reason:?}");
        }
        assert!(PREFIXES.is_sorted(), "in the order of the enum, each once");
    }
}
