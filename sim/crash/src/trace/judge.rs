//! The judge of a part of a case, in a process of its own: opening what a crash left may kill it.
//!
//! It reads ranges from its standard input, one a line, and writes what it does to its standard
//! output: `@ <effect> <variant>` before an image is opened, `! <effect> <variant> <violation>` when
//! it breaks a promise, `= <counts>` at the end of a range.

use super::case::Case;
use super::disk::{Disk, Image, Lie, Survival};
use super::effect::Action;
use super::scratch::Scratch;
use crate::check::{Checker, Depth, Violation};
use crate::marks::Known;
use anyhow::Context;
use bench::rng::{Rng, splitmix64};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, Write};
use std::path::PathBuf;

/// One image in so many is written to after it has been judged, closed, and judged again.
const GOES_ON: u64 = 16;
/// One index in so many that was not scrubbed yet is. That is the dearest part of judging, and much of
/// what it finds is found by reading everything, too.
const SCRUBS: u64 = 3;

/// How a judge works.
#[derive(Clone, Debug, clap::Args)]
pub struct JudgeOptions {
    /// Folder of a recorded case.
    #[arg(long)]
    pub case: PathBuf,
    /// Folder in memory to lay images out in; emptied.
    #[arg(long)]
    pub scratch: PathBuf,
    /// Images per system call.
    #[arg(long, default_value_t = 8)]
    pub variants: u32,
    /// Syncs that are taken to have done nothing.
    #[arg(long, value_enum)]
    pub lie: Option<Lie>,
    /// Judge one image only, as `EFFECT:VARIANT`, and leave it in the scratch folder.
    #[arg(long, value_parser = parse_at)]
    pub at: Option<(usize, u32)>,
}

fn parse_at(text: &str) -> Result<(usize, u32), String> {
    let parts = text.split_once(':').ok_or("write EFFECT:VARIANT, as a violation names them")?;
    let number = |text: &str| text.parse::<usize>().map_err(|error| error.to_string());
    Ok((number(parts.0)?, number(parts.1)? as u32))
}

/// What was done in a range.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Counts {
    /// Images made.
    pub images: u64,
    /// Images that differ from every other, or must hold more than an equal one; these were judged.
    pub states: u64,
    /// States of a step that was under way and had got through.
    pub in_flight: u64,
    /// States with a torn end of the log.
    pub torn: u64,
    /// States without a data directory.
    pub unmade: u64,
    /// States whose log and index were scrubbed.
    pub scrubbed: u64,
    /// States that were written to, closed, and judged again.
    pub went_on: u64,
}

impl Counts {
    /// Adds another range.
    pub fn add(&mut self, other: &Self) {
        self.images += other.images;
        self.states += other.states;
        self.in_flight += other.in_flight;
        self.torn += other.torn;
        self.unmade += other.unmade;
        self.scrubbed += other.scrubbed;
        self.went_on += other.went_on;
    }
}

/// How the images of a system call differ.
fn survival(variant: u32) -> Survival {
    let some = |sector_bytes, names_in_order, percent| Survival::Some {
        sector_bytes,
        names_in_order,
        percent,
    };
    match variant {
        0 => Survival::Nothing,
        1 => Survival::Everything,
        _ => match (variant - 2) % 6 {
            0 => some(512, false, 50),
            1 => some(4096, true, 50),
            2 => some(512, true, 50),
            3 => some(4096, false, 50),
            4 => some(512, false, 90),
            _ => some(4096, false, 15),
        },
    }
}

/// Names what a scrub depends on: the indexes and the segments, but for the last of each log, which
/// every start reads and checks itself.
fn scrub_identity(image: &Image<'_>) -> u64 {
    // Above 48 bits of first sequence a segment's name tells how often it was rewritten.
    let first_seq = |path: &str| {
        let name = path.rsplit('/').next()?.strip_suffix(".seg")?;
        Some(u64::from_str_radix(name, 16).ok()? & 0xffff_ffff_ffff)
    };
    let folder = |path: &str| path.rsplit_once('/').map(|(folder, _)| folder.to_owned());
    let mut last = BTreeMap::new();
    for entry in &image.entries {
        if let Some(first_seq) = first_seq(&entry.path) {
            let last = last.entry(folder(&entry.path)).or_insert(first_seq);
            *last = first_seq.max(*last);
        }
    }
    let mut identity = 0;
    for entry in &image.entries {
        let is_last = first_seq(&entry.path)
            .is_some_and(|first_seq| last.get(&folder(&entry.path)) == Some(&first_seq));
        if !is_last {
            identity = splitmix64(&mut identity) ^ entry.content;
        }
    }
    identity
}

struct Judge<'a> {
    options: &'a JudgeOptions,
    case: Case,
    checker: Checker,
    scratch: Scratch,
    seen: BTreeSet<u64>,
    /// Indexes, each with the sealed segments beside it, that have been scrubbed.
    scrubbed: BTreeSet<u64>,
}

/// Judges the ranges that standard input names.
///
/// # Errors
/// When the case cannot be read or the scratch folder not be written.
pub fn judge(options: &JudgeOptions) -> anyhow::Result<Option<Violation>> {
    let case = Case::load(&options.case)?;
    let checker = Checker::new(case.options.seed, case.options.steps);
    std::fs::create_dir_all(&options.scratch)?;
    let scratch = Scratch::new(&options.scratch);
    let mut judge =
        Judge { options, case, checker, scratch, seen: BTreeSet::new(), scrubbed: BTreeSet::new() };
    if let Some((effect, variant)) = options.at {
        let mut last = None;
        judge.range(effect, effect + 1, (effect, variant), &mut |at, said| {
            if let Said::Broken(violation) = said
                && at == (effect, variant)
            {
                last = Some(violation.clone());
            }
            Ok(())
        })?;
        return Ok(last);
    }
    let mut out = std::io::stdout().lock();
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let numbers: Vec<usize> = line.split(' ').filter_map(|word| word.parse().ok()).collect();
        let [from, to, effect, variant] = numbers[..] else { anyhow::bail!("not a range: {line}") };
        let counts = judge.range(from, to, (effect, variant as u32), &mut |at, said| {
            match said {
                Said::Opening => writeln!(out, "@ {} {}", at.0, at.1)?,
                Said::Broken(violation) => {
                    writeln!(out, "! {} {} {}", at.0, at.1, serde_json::to_string(violation)?)?;
                }
            }
            Ok(out.flush()?)
        })?;
        writeln!(out, "= {}", serde_json::to_string(&counts)?)?;
        out.flush()?;
    }
    Ok(None)
}

enum Said<'a> {
    Opening,
    Broken(&'a Violation),
}

/// Hears what a judge has to say of the image after an effect.
type Say<'s> = dyn FnMut((usize, u32), Said<'_>) -> anyhow::Result<()> + 's;

impl Judge<'_> {
    /// Judges the images after each of the effects `from..to`, beginning with image `first`.
    fn range(
        &mut self,
        from: usize,
        to: usize,
        first: (usize, u32),
        say: &mut Say<'_>,
    ) -> anyhow::Result<Counts> {
        let mut counts = Counts::default();
        let mut disk = Disk::new(self.options.lie);
        let mut known = Known::default();
        let case = std::mem::take(&mut self.case.effects);
        for (at, effect) in case.iter().enumerate().take(to) {
            let changes = disk.apply(effect);
            if let Action::Mark(mark) = &effect.action {
                known.learn(mark);
            } else if !changes {
                continue;
            }
            if at < from {
                continue;
            }
            for variant in 0..self.options.variants {
                let is_wanted = self.options.at.is_none_or(|only| only == (at, variant));
                if (at, variant) < first || !is_wanted {
                    continue;
                }
                self.image(&disk, &known, (at, variant), &mut counts, say)
                    .with_context(|| format!("image {at}:{variant}"))?;
            }
        }
        self.case.effects = case;
        Ok(counts)
    }

    fn image(
        &mut self,
        disk: &Disk,
        known: &Known,
        at: (usize, u32),
        counts: &mut Counts,
        say: &mut Say<'_>,
    ) -> anyhow::Result<()> {
        let mut seed = self.case.options.seed ^ ((at.0 as u64) << 8) ^ u64::from(at.1);
        let mut rng = Rng::new(splitmix64(&mut seed));
        let image = disk.image(survival(at.1), &mut rng);
        counts.images += 1;
        let mut demanded = image.identity ^ u64::from(known.is_made);
        for number in known.acked.iter().chain([&known.sent, &known.latest]) {
            demanded = splitmix64(&mut demanded) ^ *number as u64;
        }
        if !self.seen.insert(demanded) {
            return Ok(());
        }
        counts.states += 1;
        self.scratch.become_image(&image, &mut rng)?;
        say(at, Said::Opening)?;
        let goes_on = rng.chance(1, GOES_ON);
        counts.went_on += u64::from(goes_on);
        let scrubs = rng.chance(1, SCRUBS) && self.scrubbed.insert(scrub_identity(&image));
        counts.scrubbed += u64::from(scrubs);
        let depth = Depth { draw: rng.next_u64(), goes_on, scrubs };
        match self.checker.check(self.scratch.root(), known, depth) {
            Ok(found) => {
                counts.in_flight += u64::from(found.is_in_flight);
                counts.torn += u64::from(found.is_torn);
                counts.unmade += u64::from(found.is_unmade);
                Ok(())
            }
            Err(violation) => say(at, Said::Broken(&violation)),
        }
    }
}
