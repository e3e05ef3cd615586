//! Whether the time of day is right.

use super::Subject;
use crate::host::Unreadable;
use crate::report::{Finding, Verdict};

pub(super) fn check(subject: &Subject<'_>) -> Finding {
    let (id, title) = ("clock.sync", "time of day");
    let should = "kept in step by a time service";
    let why = "events are taken and expire by it: a clock that is minutes off refuses what is new, \
               and clients' AUTH with it";
    let (is_synchronised, error_us) = match &subject.measured.clock {
        Ok(clock) => *clock,
        Err(reason) => {
            let unreadable =
                Unreadable { path: "adjtimex".into(), why: reason.clone(), is_absent: false };
            return Finding::unknown(id, title, &unreadable, should, why);
        }
    };
    let is = match is_synchronised {
        true => {
            format!("in step, to within {}", crate::text::duration(error_us.saturating_mul(1_000)))
        }
        false => "nobody keeps it in step".to_owned(),
    };
    Finding {
        id,
        title,
        verdict: if is_synchronised { Verdict::Ok } else { Verdict::Advice },
        is,
        should: should.into(),
        why: why.into(),
        commands: vec!["apt-get install chrony   # or: timedatectl set-ntp true".into()],
    }
}
