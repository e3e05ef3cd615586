//! The lines of a case.

/// Expected at the end of a line.
pub type Expected = Vec<String>;

/// One line.
#[derive(Clone, Debug)]
pub enum Line {
    /// `event NAME KEY KIND TIME TAGS [CONTENT]`, the last two as they are spelt.
    Event { name: String, key: String, kind: u16, at: String, json: String },
    /// `mined NAME KEY KIND TIME BITS COMMITTED`.
    Mined { name: String, key: String, kind: u16, at: String, bits: u32, committed: u32 },
    /// `spoil NAME AS PART`: a copy with a wrong id or signature.
    Spoil { name: String, copy: String, part: String },
    /// `publish NAME -> VERDICT`.
    Publish(String, String),
    /// `message TEXT -> REASON`: a message that no parser takes.
    Message(String, String),
    /// `client NAME`: who speaks from here on.
    Client(String),
    /// `auth KEY...`.
    Auth(Vec<String>),
    /// `req FILTERS -> NAMES [| finish or more]`.
    Req(String, Expected, Option<String>),
    /// `count FILTERS -> NUMBER or REASON`.
    Count(String, String),
    /// `refused FILTERS -> REASON`.
    Refused(String, String),
    /// `live FILTERS`.
    Live(String),
    /// `hears NAMES`: of the speaker's live subscription, since the last such line.
    Hears(Expected),
    /// `sync FILTER have NAMES -> need NAMES extra NAMES`.
    Sync { filter: String, have: Expected, need: Expected, extra: Expected },
    /// `clock SECONDS`: forwards.
    Clock(u64),
    /// `restart`: a kill, and a start on the same disk.
    Restart,
    /// `relay SETTING VALUE`, before anything else.
    Relay(String, String),
}

/// A case with its line numbers.
#[derive(Clone, Debug)]
pub struct Case {
    pub title: String,
    pub lines: Vec<(usize, Line)>,
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

/// The first `count` words and the rest.
fn split(text: &str, count: usize) -> (Vec<String>, String) {
    let mut rest = text.trim();
    let mut first = Vec::new();
    for _ in 0..count {
        let (word, after) = rest.split_once(' ').unwrap_or((rest, ""));
        first.push(word.to_owned());
        rest = after.trim_start();
    }
    (first, rest.to_owned())
}

fn line(text: &str) -> Line {
    let (verb, rest) = text.split_once(' ').unwrap_or((text, ""));
    let (asked, answer) = rest.rsplit_once("->").unwrap_or((rest, ""));
    let (asked, answer) = (asked.trim().to_owned(), answer.trim().to_owned());
    match verb {
        "event" => {
            let (first, json) = split(rest, 4);
            let [name, key, kind, at] = &first[..] else { panic!("{text}") };
            let (name, key, at) = (name.clone(), key.clone(), at.clone());
            Line::Event { name, key, kind: kind.parse().unwrap(), at, json }
        }
        "mined" => {
            let words = words(rest);
            let [name, key, kind, at, bits, committed] = &words[..] else { panic!("{text}") };
            Line::Mined {
                name: name.clone(),
                key: key.clone(),
                kind: kind.parse().unwrap(),
                at: at.clone(),
                bits: bits.parse().unwrap(),
                committed: committed.parse().unwrap(),
            }
        }
        "spoil" => {
            let words = words(rest);
            let [name, copy, part] = &words[..] else { panic!("{text}") };
            Line::Spoil { name: name.clone(), copy: copy.clone(), part: part.clone() }
        }
        "publish" => Line::Publish(asked, answer),
        "message" => Line::Message(asked, answer),
        "client" => Line::Client(rest.to_owned()),
        "auth" => Line::Auth(words(rest)),
        "req" => {
            let (names, completeness) = match answer.split_once('|') {
                Some((names, completeness)) => (names, Some(completeness.trim().to_owned())),
                None => (answer.as_str(), None),
            };
            Line::Req(asked, words(names), completeness)
        }
        "count" => Line::Count(asked, answer),
        "refused" => Line::Refused(asked, answer),
        "live" => Line::Live(rest.to_owned()),
        "hears" => Line::Hears(words(rest)),
        "sync" => {
            let (filter, have) = asked.rsplit_once(" have").unwrap();
            let (need, extra) = answer.split_once("extra").unwrap();
            let need = need.trim().strip_prefix("need").unwrap();
            Line::Sync {
                filter: filter.to_owned(),
                have: words(have),
                need: words(need),
                extra: words(extra),
            }
        }
        "clock" => Line::Clock(rest.parse().unwrap()),
        "restart" => Line::Restart,
        "relay" => {
            let (setting, value) = rest.split_once(' ').unwrap_or((rest, ""));
            Line::Relay(setting.to_owned(), value.to_owned())
        }
        _ => panic!("no such line: {text}"),
    }
}

/// The cases of a file.
pub fn parse(text: &str) -> Vec<Case> {
    let mut cases: Vec<Case> = Vec::new();
    for (number, text) in (1..).zip(text.lines()) {
        let text = text.trim();
        if text.is_empty() || text.starts_with('#') {
            continue;
        }
        if let Some(title) = text.strip_prefix("case ") {
            cases.push(Case { title: title.to_owned(), lines: Vec::new() });
        } else {
            let case = cases.last_mut().expect("a file begins with a case");
            case.lines.push((number, line(text)));
        }
    }
    cases
}
