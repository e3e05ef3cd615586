//! Ages and points of time as operators write them: `90d`, `2h`.

/// A whole number and the seconds of the unit behind it; no seconds where there is no unit. `None`
/// if the text is nothing of the kind.
pub(super) fn parse(text: &str) -> Option<(u64, Option<u64>)> {
    let digits = text.trim_end_matches(|unit: char| !unit.is_ascii_digit());
    let unit_s = match &text[digits.len()..] {
        "" => None,
        "s" => Some(1),
        "m" => Some(60),
        "h" => Some(3_600),
        "d" => Some(86_400),
        "w" => Some(7 * 86_400),
        "M" => Some(30 * 86_400),
        "y" | "Y" => Some(365 * 86_400),
        _ => return None,
    };
    digits.parse().ok().map(|count| (count, unit_s))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_a_known_unit_or_none() {
        assert_eq!(parse("90d"), Some((90, Some(86_400))));
        assert_eq!(parse("3M"), Some((3, Some(30 * 86_400))));
        assert_eq!(parse("5m"), Some((5, Some(60))));
        assert_eq!(parse("17"), Some((17, None)));
        for text in ["", "d", "1q", "-1d", "1dd", "1 d", "99999999999999999999d"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
