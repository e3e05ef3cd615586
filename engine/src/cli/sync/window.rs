//! Which stretch of time is synchronised.

use super::super::age;
use serde_json::{Value, json};

/// Seconds since 1970, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Window {
    pub(super) since: u32,
    pub(super) until: u32,
}

impl Window {
    pub(super) const ALL: Self = Self { since: 0, until: u32::MAX };

    /// The earlier and the later half; `None` of a single second.
    pub(super) fn halves(self) -> Option<(Self, Self)> {
        if self.since >= self.until {
            return None;
        }
        let middle = self.since + (self.until - self.since) / 2;
        let early = Self { until: middle, ..self };
        Some((early, Self { since: middle + 1, ..self }))
    }

    /// `filter` for this window only. A filter without ends of its own stays without, so that the
    /// relays see the filter whose sums they keep.
    pub(super) fn narrow(self, filter: &Value) -> Value {
        let mut filter = filter.clone();
        if self.since > Self::ALL.since {
            filter["since"] = self.since.into();
        }
        if self.until < Self::ALL.until {
            filter["until"] = self.until.into();
        }
        filter
    }

    /// The window that `filter` names itself, and `filter` without it.
    pub(super) fn of(filter: &Value) -> (Self, Value) {
        let mut rest = filter.as_object().cloned().unwrap_or_default();
        let mut end = |name: &str, default: u32| {
            let value = rest.remove(name).and_then(|value| value.as_u64());
            value.map_or(default, |value| u32::try_from(value).unwrap_or(u32::MAX))
        };
        let (since, until) = (end("since", Self::ALL.since), end("until", Self::ALL.until));
        (Self { since, until }, json!(rest))
    }

    /// What both windows share.
    pub(super) fn and(self, other: Self) -> Self {
        Self { since: self.since.max(other.since), until: self.until.min(other.until) }
    }
}

/// Reads `2h-`, `7d-2d`, `-1y` or two Unix times: the older end, a dash, the newer end.
pub(super) fn parse_range(text: &str, now_s: u64) -> Result<Window, String> {
    let Some((older, newer)) = text.split_once('-') else {
        return Err(format!("{text:?} has no dash; a range is OLDER-NEWER, such as 7d-2d or 2h-"));
    };
    let since = end(older, now_s)?.unwrap_or(Window::ALL.since);
    let until = end(newer, now_s)?.unwrap_or(Window::ALL.until);
    if since > until {
        return Err(format!("{text:?} ends before it begins; the older end comes first"));
    }
    Ok(Window { since, until })
}

fn end(text: &str, now_s: u64) -> Result<Option<u32>, String> {
    if text.is_empty() {
        return Ok(None);
    }
    let wrong = || format!("{text:?} is no time; write 2h, 7d, 3w, 6M, 1Y, or seconds since 1970");
    let (count, unit_s) = age::parse(text).ok_or_else(wrong)?;
    let Some(seconds) = unit_s else {
        return u32::try_from(count).map(Some).map_err(|_| wrong());
    };
    let ago = count.checked_mul(seconds).ok_or_else(wrong)?;
    Ok(Some(u32::try_from(now_s.saturating_sub(ago)).unwrap_or(u32::MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_older_end_first() {
        let read = |text| parse_range(text, 1_000_000);
        assert_eq!(read("2h-"), Ok(Window { since: 992_800, until: u32::MAX }));
        assert_eq!(read("2d-1d"), Ok(Window { since: 827_200, until: 913_600 }));
        assert_eq!(read("-1h"), Ok(Window { since: 0, until: 996_400 }));
        assert_eq!(read("5-70"), Ok(Window { since: 5, until: 70 }));
        assert_eq!(read("9Y-"), Ok(Window::ALL));
        for text in ["", "2h", "1d-2d", "2q-", "x-", "99999999999-", "2h--"] {
            assert!(read(text).is_err(), "{text}");
        }
    }

    #[test]
    fn halves_cover_everything_once_and_a_second_has_none() {
        let (early, late) = Window::ALL.halves().unwrap();
        assert_eq!((early.since, early.until + 1, late.until), (0, late.since, u32::MAX));
        assert_eq!(Window { since: 7, until: 7 }.halves(), None);
        let (early, late) = Window { since: 7, until: 8 }.halves().unwrap();
        assert_eq!((early.until, late.since), (7, 8));
    }

    #[test]
    fn a_filters_own_window_is_taken_out_and_put_back() {
        let filter = json!({"kinds": [1], "since": 5, "until": 99});
        let (window, rest) = Window::of(&filter);
        assert_eq!((window, &rest), (Window { since: 5, until: 99 }, &json!({"kinds": [1]})));
        assert_eq!(window.narrow(&rest), filter);
        assert_eq!(Window::ALL.narrow(&json!({})), json!({}));
    }
}
