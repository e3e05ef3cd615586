//! `turnpike topology`.

use super::{Imagined, Place, Seen, runtime};
use crate::cli::{Global, Outcome, configure};
use clap::Args;
use std::io::Write;
use tuning::topology::{Facts, Topology, cards};

const HELP: &str = "\
What it does: says which processor will do what, before anything is started:
the executors with their shards, the threads that are not pinned, and where the
interrupts of network cards should go. The relay starts by the same rule. While
a relay runs over the data directory, its processors are shown.

Executors fill one hardware thread of every core before they fill a second one,
node by node. CPUAffinity= in the unit, taskset, or a container's cpuset limit
what they may have.

Examples:
  turnpike topology                        this machine, this configuration
  turnpike topology --shards 7             the same with another store
  turnpike topology --cores 64 --shards 56 --memory-mib 131072
                                           another machine, thought of

Exit codes: 0 done, 1 failed, 2 wrong usage or configuration.";

/// More cores than a machine is believed to have.
const CORES_MAX: u16 = 4_096;
/// Most memory that is thought of, 64 TiB.
const MEMORY_MIB_MAX: u64 = 1 << 26;

#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(in crate::cli) struct TopologyCommand {
    #[command(flatten)]
    place: Place,
    /// Think of a machine with this many cores, one thread each
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=i64::from(CORES_MAX)))]
    cores: Option<u16>,
    /// Think of a machine with this much memory
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u64).range(1..=MEMORY_MIB_MAX))]
    memory_mib: Option<u64>,
    /// Print a JSON object
    #[arg(long)]
    json: bool,
}

pub(in crate::cli) fn run(global: &Global, command: &TopologyCommand) -> Outcome {
    let config = configure(global)?;
    let imagined =
        Imagined { cores: command.cores.map(usize::from), memory_mib: command.memory_mib };
    let mut seen = Seen::look(&config, global, &command.place, imagined)?;
    let runtime = runtime(&config, &mut seen.warnings);
    let topology = Topology {
        machine: &seen.machine,
        layout: &seen.layout,
        cards: if imagined.cores.is_some() { Vec::new() } else { cards(&seen.tree) },
        facts: Facts {
            shards_from: seen.shards_from,
            runtime,
            memory_bytes: seen.memory_bytes,
            memory: seen.needs.memory,
            warnings: seen.warnings,
        },
    };
    let mut out = std::io::stdout().lock();
    if command.json {
        writeln!(out, "{}", topology.json())?;
    } else {
        write!(out, "{}", topology.table())?;
    }
    out.flush()?;
    Ok(())
}
