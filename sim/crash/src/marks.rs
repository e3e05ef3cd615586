//! What a workload says about itself while it runs: lines in a file of their own, one write each, so
//! that they stand in the trace of its system calls where they were said.

use std::fs::File;
use std::io::Write;
use std::path::Path;

/// One line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mark {
    /// The data directory has been made.
    Made,
    /// The store is open; each shard holds this many entries, and nothing that is visible may be lost
    /// any more.
    Open(Vec<usize>),
    /// Entries up to this number are about to be handed in.
    Sent(usize),
    /// From this entry on: whether each is stored, as the store decided.
    Decided(usize, Vec<bool>),
    /// So many entries have been acknowledged.
    Acked(usize),
    /// A system call was made to fail; which, and on what file.
    Fault(String),
    /// The work that was asked for is done.
    Done,
    /// The process ends without another answer.
    Failed(String),
}

impl Mark {
    /// As it stands in the file.
    pub fn to_line(&self) -> String {
        match self {
            Self::Made => "MADE\n".to_owned(),
            Self::Open(held) => {
                let held: Vec<String> = held.iter().map(usize::to_string).collect();
                format!("OPEN {}\n", held.join(","))
            }
            Self::Sent(entries) => format!("SENT {entries}\n"),
            Self::Decided(first, stored) => {
                let signs: String = stored.iter().map(|yes| if *yes { '+' } else { '-' }).collect();
                format!("DECIDED {first} {signs}\n")
            }
            Self::Acked(entries) => format!("ACKED {entries}\n"),
            Self::Fault(what) => format!("FAULT {what}\n"),
            Self::Done => "DONE\n".to_owned(),
            Self::Failed(why) => format!("FAILED {}\n", why.replace('\n', " ")),
        }
    }

    /// Reads one line.
    pub fn parse(line: &str) -> Option<Self> {
        let (word, rest) = line.trim_end().split_once(' ').unwrap_or((line.trim_end(), ""));
        Some(match word {
            "MADE" => Self::Made,
            "OPEN" => Self::Open(rest.split(',').map(str::parse).collect::<Result<_, _>>().ok()?),
            "SENT" => Self::Sent(rest.parse().ok()?),
            "DECIDED" => {
                let (first, signs) = rest.split_once(' ').unwrap_or((rest, ""));
                Self::Decided(first.parse().ok()?, signs.chars().map(|sign| sign == '+').collect())
            }
            "ACKED" => Self::Acked(rest.parse().ok()?),
            "FAULT" => Self::Fault(rest.to_owned()),
            "DONE" => Self::Done,
            "FAILED" => Self::Failed(rest.to_owned()),
            _ => return None,
        })
    }

    /// Reads a whole file of them.
    ///
    /// # Errors
    /// When the file cannot be read or holds another line.
    pub fn read_all(path: &Path) -> anyhow::Result<Vec<Self>> {
        let text = std::fs::read_to_string(path)?;
        let mark = |line: &str| {
            Self::parse(line)
                .ok_or_else(|| anyhow::anyhow!("{}: not a mark: {line}", path.display()))
        };
        text.lines().map(mark).collect()
    }
}

/// Where marks go.
#[derive(Debug)]
pub struct Marks(File);

impl Marks {
    /// Appends to the file at `path`.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn open(path: &Path) -> std::io::Result<Self> {
        Ok(Self(File::options().append(true).create(true).open(path)?))
    }

    /// Says something, in one write.
    ///
    /// # Errors
    /// When the write fails.
    pub fn say(&mut self, mark: &Mark) -> std::io::Result<()> {
        self.0.write_all(mark.to_line().as_bytes())
    }
}

/// What is known of a data directory after the marks so far: the bounds of what may be found in it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Known {
    /// A data directory must be there.
    pub is_made: bool,
    /// Entries that each shard must hold; the last entry counts for all further shards.
    pub acked: Vec<usize>,
    /// Entries that may be there.
    pub sent: usize,
    /// Entries that were ever handed in: time has come as far as they have, and does not go back when
    /// a start finds fewer.
    pub latest: usize,
}

impl Known {
    /// Learns from a mark.
    pub fn learn(&mut self, mark: &Mark) {
        match mark {
            Mark::Made => self.is_made = true,
            Mark::Open(held) => {
                self.acked.clone_from(held);
                // What was under way before and did not get this far is cut off.
                self.sent = held.iter().max().copied().unwrap_or(0);
            }
            Mark::Sent(entries) => {
                self.sent = *entries;
                self.latest = self.latest.max(*entries);
            }
            Mark::Acked(entries) => self.acked = vec![*entries],
            Mark::Decided(..) | Mark::Fault(_) | Mark::Done | Mark::Failed(_) => {}
        }
    }

    /// Entries that a shard must hold.
    pub fn acked_by(&self, shard: u16) -> usize {
        self.acked.get(usize::from(shard)).or(self.acked.last()).copied().unwrap_or(0)
    }

    /// Entries that every shard must hold.
    pub fn acked_by_all(&self) -> usize {
        self.acked.iter().min().copied().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_read_as_they_were_written() {
        let marks = [
            Mark::Made,
            Mark::Open(vec![3, 4]),
            Mark::Sent(5),
            Mark::Decided(5, vec![true, false]),
            Mark::Decided(6, Vec::new()),
            Mark::Acked(5),
            Mark::Fault("fsync /a b".to_owned()),
            Mark::Done,
            Mark::Failed("index: x".to_owned()),
        ];
        let mut known = Known::default();
        for mark in &marks {
            assert_eq!(Mark::parse(&mark.to_line()).as_ref(), Some(mark));
            known.learn(mark);
        }
        assert_eq!(known, Known { is_made: true, acked: vec![5], sent: 5, latest: 5 });
        known.learn(&Mark::Open(vec![6, 7]));
        assert_eq!((known.acked_by(0), known.acked_by(1), known.acked_by_all()), (6, 7, 6));
        assert_eq!(known.sent, 7);
        assert_eq!(Mark::parse("NONSENSE 1"), None);
    }
}
