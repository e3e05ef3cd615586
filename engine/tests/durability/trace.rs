//! Reads a trace of `strace -f -y -xx` and judges it.

use proto::{Event, EventId};
use std::collections::BTreeMap;

/// What a trace that holds shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Proof {
    pub events: usize,
    pub segments: usize,
    pub syncs: usize,
}

/// What a trace that does not hold lacks, first of all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Violation {
    /// No write to a segment holds the event.
    NotWritten(String),
    /// `OK` began before a sync that began after the write had returned.
    NotSynced(String),
    /// `OK true` for the event is not in the trace.
    NoOk(String),
    /// An event was written to a segment whose directory had not been synced since its creation.
    DirectoryNotSynced(String),
    /// The trace shows io_uring, whose writes strace cannot see.
    Uring,
}

/// One system call: where in the trace it began and returned.
#[derive(Debug)]
struct Call {
    name: String,
    /// All between the name and the result, both halves of an interrupted line together.
    arguments: String,
    result: i64,
    /// The path that `-y` prints after a returned descriptor.
    result_path: Option<String>,
    began: usize,
    returned: usize,
}

impl Call {
    /// Path of the first argument, if it is a descriptor: `7</tmp/a/b>` with every byte as `\x..`
    /// or plain.
    fn path(&self) -> Option<String> {
        descriptor_path(&self.arguments)
    }

    /// All string arguments, joined: the payload of a write, however many pieces it has.
    fn payload(&self) -> Vec<u8> {
        let mut payload = Vec::new();
        let mut rest = self.arguments.as_str();
        while let Some(start) = rest.find('"') {
            let Some(length) = rest[start + 1..].find('"') else { break };
            payload.extend(unhex(&rest[start + 1..start + 1 + length]));
            rest = &rest[start + length + 2..];
        }
        payload
    }
}

fn descriptor_path(text: &str) -> Option<String> {
    let digits = text.trim_start().trim_start_matches(|c: char| c.is_ascii_digit());
    let inside = digits.strip_prefix('<')?;
    let end = inside.find('>')?;
    Some(String::from_utf8_lossy(&unhex(&inside[..end])).into_owned())
}

/// Turns `\x41` into `A` and leaves other characters.
fn unhex(text: &str) -> Vec<u8> {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len() / 4);
    let mut at = 0;
    while at < bytes.len() {
        let escaped = bytes[at..].starts_with(b"\\x");
        let byte = bytes.get(at + 2..at + 4).filter(|_| escaped).and_then(proto::id::read_hex::<1>);
        match byte {
            Some([byte]) => {
                out.push(byte);
                at += 4;
            }
            None => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    out
}

fn parse(trace: &str) -> Vec<Call> {
    let mut unfinished = BTreeMap::<(&str, String), (usize, String)>::new();
    let mut calls = Vec::new();
    for (at, line) in trace.lines().enumerate() {
        let Some((pid, rest)) = line.split_once(' ') else { continue };
        let rest = rest.trim_start();
        if let Some(resumed) = rest.strip_prefix("<... ") {
            let Some((name, tail)) = resumed.split_once(" resumed>") else { continue };
            if let Some((began, head)) = unfinished.remove(&(pid, name.to_owned())) {
                calls.extend(finished(name, &format!("{head}{tail}"), began, at));
            }
            continue;
        }
        let Some((name, arguments)) = rest.split_once('(') else { continue };
        match arguments.strip_suffix(" <unfinished ...>") {
            Some(head) => {
                unfinished.insert((pid, name.to_owned()), (at, head.to_owned()));
            }
            None => calls.extend(finished(name, arguments, at, at)),
        }
    }
    calls.sort_by_key(|call| call.returned);
    calls
}

fn finished(name: &str, text: &str, began: usize, returned: usize) -> Option<Call> {
    let (arguments, result) = text.rsplit_once(" = ")?;
    let number: String = result.chars().take_while(|c| c.is_ascii_digit() || *c == '-').collect();
    Some(Call {
        name: name.to_owned(),
        arguments: arguments.trim_end().trim_end_matches(')').to_owned(),
        result: number.parse().ok()?,
        result_path: descriptor_path(result),
        began,
        returned,
    })
}

/// State of one segment file.
#[derive(Default)]
struct Segment {
    created: usize,
    /// When the directory was first synced after the creation.
    directory_synced: Option<usize>,
    /// Begin and end of each successful sync.
    syncs: Vec<(usize, usize)>,
}

/// Demands for each event: a write to a segment that contains it, then a sync of that segment, then
/// `OK true`; and for each segment a sync of its directory before the first of these writes.
pub fn check(trace: &[u8], events: &[Event]) -> Result<Proof, Violation> {
    let calls = parse(&String::from_utf8_lossy(trace));
    if calls.iter().any(|call| call.name == "io_uring_setup" && call.result >= 0) {
        return Err(Violation::Uring);
    }
    let segments = segments(&calls);
    let writes: Vec<(&Call, String, Vec<u8>)> = calls
        .iter()
        .filter(|call| call.name.contains("write") && call.result > 0)
        .filter_map(|call| Some((call, call.path().filter(|path| path.ends_with(".seg"))?)))
        .map(|(call, path)| (call, path, call.payload()))
        .collect();
    let oks = oks(&calls);
    let holders = holders(&writes, events);
    for event in events {
        let id = event.view().id().to_hex();
        let holder = holders.get(&event.view().id());
        let (write, path, _) = &writes[*holder.ok_or_else(|| Violation::NotWritten(id.clone()))?];
        let ok_began = *oks.get(&id).ok_or_else(|| Violation::NoOk(id.clone()))?;
        let segment =
            segments.get(path).ok_or_else(|| Violation::DirectoryNotSynced(path.clone()))?;
        let is_synced = segment
            .syncs
            .iter()
            .any(|(began, returned)| *began > write.returned && *returned < ok_began);
        if !is_synced {
            return Err(Violation::NotSynced(id));
        }
        if segment.directory_synced.is_none_or(|synced| synced > write.began) {
            return Err(Violation::DirectoryNotSynced(path.clone()));
        }
    }
    let used = segments.values().filter(|segment| !segment.syncs.is_empty());
    Ok(Proof {
        events: events.len(),
        segments: used.clone().count(),
        syncs: used.map(|segment| segment.syncs.len()).sum(),
    })
}

/// The first write that holds all bytes of each event. One pass: every eight bytes written are
/// looked up among the beginnings of the events.
fn holders(writes: &[(&Call, String, Vec<u8>)], events: &[Event]) -> BTreeMap<EventId, usize> {
    let beginnings: BTreeMap<&[u8], &Event> =
        events.iter().map(|event| (&event.packed()[..8], event)).collect();
    let mut holders = BTreeMap::new();
    for (index, (_, _, payload)) in writes.iter().enumerate() {
        for (at, window) in payload.windows(8).enumerate() {
            if let Some(event) = beginnings.get(window)
                && payload[at..].starts_with(event.packed())
            {
                holders.entry(event.view().id()).or_insert(index);
            }
        }
    }
    holders
}

/// Segments by path with their syncs. A file is created by `openat` with O_CREAT or by a rename.
fn segments(calls: &[Call]) -> BTreeMap<String, Segment> {
    let mut segments = BTreeMap::<String, Segment>::new();
    for call in calls {
        let created = match call.name.as_str() {
            "openat" | "openat2" | "creat" if call.arguments.contains("O_CREAT") => {
                call.result_path.clone()
            }
            name if name.starts_with("rename") && call.result == 0 => renamed_to(call),
            _ => None,
        };
        if let Some(path) = created.filter(|path| path.ends_with(".seg")) {
            let segment = Segment { created: call.returned, ..Segment::default() };
            segments.entry(path).or_insert(segment);
        }
        if !matches!(call.name.as_str(), "fsync" | "fdatasync") || call.result != 0 {
            continue;
        }
        let Some(path) = call.path() else { continue };
        if let Some(segment) = segments.get_mut(&path) {
            segment.syncs.push((call.began, call.returned));
        }
        let inside = format!("{}/", path.trim_end_matches('/'));
        for (name, segment) in &mut segments {
            let is_child = name.strip_prefix(&inside).is_some_and(|rest| !rest.contains('/'));
            if is_child && call.began > segment.created {
                segment.directory_synced.get_or_insert(call.returned);
            }
        }
    }
    segments
}

/// Target of a rename, absolute, or relative to the descriptor before it.
fn renamed_to(call: &Call) -> Option<String> {
    let quoted: Vec<&str> = call.arguments.split('"').collect();
    let target = String::from_utf8_lossy(&unhex(quoted.get(3)?)).into_owned();
    if target.starts_with('/') {
        return Some(target);
    }
    let descriptor = quoted.get(2)?.trim_start_matches([',', ' ']);
    Some(format!("{}/{target}", descriptor_path(descriptor)?))
}

/// When `OK true` of each id began to be sent. A sent piece may begin or end inside a message, so
/// the pieces of each descriptor are joined in order.
fn oks(calls: &[Call]) -> BTreeMap<String, usize> {
    let mut streams = BTreeMap::<String, Vec<(usize, Vec<u8>)>>::new();
    for call in calls.iter().filter(|call| call.result > 0) {
        if !(call.name.starts_with("send") || call.name.starts_with("write")) {
            continue;
        }
        let Some(path) = call.path().filter(|path| !path.starts_with('/')) else { continue };
        let mut payload = call.payload();
        payload.truncate(call.result as usize);
        streams.entry(path).or_default().push((call.began, payload));
    }
    let mut oks = BTreeMap::new();
    for pieces in streams.values() {
        let whole: Vec<u8> = pieces.iter().flat_map(|(_, bytes)| bytes.clone()).collect();
        let mut ends = Vec::new();
        let mut end = 0;
        for (began, bytes) in pieces {
            end += bytes.len();
            ends.push((end, *began));
        }
        let marker = b"[\"OK\",\"";
        for at in (0..whole.len()).filter(|at| whole[*at..].starts_with(marker)) {
            let id = whole.get(at + marker.len()..at + marker.len() + 64);
            let verdict = whole.get(at + marker.len() + 64..at + marker.len() + 71);
            if let (Some(id), Some(b"\",true,")) = (id, verdict) {
                let began = ends.iter().find(|(end, _)| *end > at).map_or(0, |(_, began)| *began);
                oks.entry(String::from_utf8_lossy(id).into_owned()).or_insert(began);
            }
        }
    }
    oks
}

mod tests {
    use super::*;
    use bench::{Draft, Signer};

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("\\x{byte:02x}")).collect()
    }

    fn event() -> Event {
        Signer::from_seed(1).sign(&Draft::new(1, 1_700_000_000).content("x"))
    }

    const CREATE: &str =
        "10 openat(AT_FDCWD</tmp>, \"\", O_RDWR|O_CREAT|O_EXCL, 0600) = 9</d/log/1.seg>";
    const DIRECTORY: &str = "10 fsync(8</d/log>) = 0";
    const SYNC: &str = "11 fdatasync(9</d/log/1.seg>) = 0";

    fn write() -> String {
        let packed = event().packed().to_vec();
        format!("11 pwrite64(9</d/log/1.seg>, \"{}\", {}, 0) = {1}", hex(&packed), packed.len())
    }

    fn ok() -> String {
        let text = format!("..[\"OK\",\"{}\",true,\"\"]", event().view().id());
        let length = text.len();
        format!(
            "10 sendto(12<socket:[7]>, \"{}\", {length}, 0, NULL, 0) = {length}",
            hex(text.as_bytes())
        )
    }

    fn judge(lines: &[&str]) -> Result<Proof, Violation> {
        check(lines.join("\n").as_bytes(), &[event()])
    }

    #[test]
    fn the_right_order_is_a_proof() {
        let (write, ok) = (write(), ok());
        let proof = judge(&[CREATE, DIRECTORY, &write, SYNC, &ok]).unwrap();
        assert_eq!(proof, Proof { events: 1, segments: 1, syncs: 1 });
    }

    #[test]
    fn every_wrong_order_is_found() {
        let (write, ok) = (write(), ok());
        let id = event().view().id().to_hex();
        let synced_late = judge(&[CREATE, DIRECTORY, &write, &ok, SYNC]);
        assert_eq!(synced_late, Err(Violation::NotSynced(id.clone())));
        let synced_early = judge(&[CREATE, DIRECTORY, SYNC, &write, &ok]);
        assert_eq!(synced_early, Err(Violation::NotSynced(id.clone())));
        let failed = SYNC.replace("= 0", "= -1 EIO");
        assert_eq!(
            judge(&[CREATE, DIRECTORY, &write, &failed, &ok]),
            Err(Violation::NotSynced(id.clone()))
        );
        let path = "/d/log/1.seg".to_owned();
        assert_eq!(
            judge(&[CREATE, &write, DIRECTORY, SYNC, &ok]),
            Err(Violation::DirectoryNotSynced(path.clone()))
        );
        assert_eq!(
            judge(&[DIRECTORY, CREATE, &write, SYNC, &ok]),
            Err(Violation::DirectoryNotSynced(path))
        );
        assert_eq!(judge(&[CREATE, DIRECTORY, SYNC, &ok]), Err(Violation::NotWritten(id.clone())));
        assert_eq!(judge(&[CREATE, DIRECTORY, &write, SYNC]), Err(Violation::NoOk(id)));
        assert_eq!(judge(&["10 io_uring_setup(8, {}) = 5"]), Err(Violation::Uring));
    }

    #[test]
    fn a_sync_that_began_before_the_write_returned_does_not_count() {
        let (write, ok) = (write(), ok());
        let id = event().view().id().to_hex();
        let begun = "12 fdatasync(9</d/log/1.seg> <unfinished ...>";
        let done = "12 <... fdatasync resumed>) = 0";
        let early = judge(&[CREATE, DIRECTORY, begun, &write, done, &ok]);
        assert_eq!(early, Err(Violation::NotSynced(id)));
        assert!(judge(&[CREATE, DIRECTORY, &write, begun, done, &ok]).is_ok());
    }

    #[test]
    fn an_ok_cut_in_two_is_dated_by_its_first_piece() {
        let write = write();
        let text = format!("[\"OK\",\"{}\",true,\"\"]", event().view().id());
        let (first, second) = text.split_at(30);
        let send = |part: &str| {
            format!("10 write(12<socket:[7]>, \"{}\", {}) = {1}", hex(part.as_bytes()), part.len())
        };
        let (first, second) = (send(first), send(second));
        assert!(judge(&[CREATE, DIRECTORY, &write, SYNC, &first, &second]).is_ok());
        assert!(judge(&[CREATE, DIRECTORY, &write, &first, SYNC, &second]).is_err());
    }
}
