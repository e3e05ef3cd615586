"""What both boxes are told on the command line."""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

# Lines of the corpus per cycle, so that what is refused or repeated leaves enough.
LINES_PER_EVENT = 2


def parser(description, epilog, cycles, events_per_cycle):
    """The flags that both boxes share."""
    parsed = argparse.ArgumentParser(
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parsed.add_argument
    add("--binary", required=True, type=existing, help="the relay: target/release/turnpike")
    add("--cycles", type=positive, default=cycles, help=f"power cuts under load ({cycles})")
    add("--control", action="store_true",
        help="the binary was built with the feature skip-sync and has to be found out")
    add("--bench", type=existing, default=None,
        help="turnpike-bench, which signs the events; beside the relay if not given")
    add("--corpus", type=existing, default=None,
        help="signed events as JSON lines, instead of what turnpike-bench makes")
    add("--seed", type=int, default=int(time.time()), help="of events and cuts; printed")
    add("--fresh-every", type=positive, default=None,
        help="cycles after which an empty disk is taken (5; 1 for a control)")
    add("--events-per-cycle", type=positive, default=events_per_cycle,
        help=f"a cut comes after 1 to this many OKs ({events_per_cycle})")
    add("--connections", type=positive, default=4, help="that write at once (4)")
    add("--window", type=positive, default=48, help="events under way on each (48)")
    add("--shards", type=positive, default=2, help="of the relay (2)")
    add("--runtimes", type=lambda text: text.split(","), default=["epoll", "io-uring"],
        help="taken in turn (epoll,io-uring)")
    add("--work", type=Path, default=None,
        help="folder for disk, logs and evidence; a temporary one, removed after a success")
    add("--json", action="store_true", help="the report on one line")
    return parsed


def existing(text):
    path = Path(text).absolute()
    if not path.exists():
        raise argparse.ArgumentTypeError(f"{text} does not exist")
    return path


def positive(text):
    if not text.isdigit() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text} is no number above 0")
    return int(text)


def complete(options, prefix):
    """Fills in what depends on other flags, and makes the folder and the corpus."""
    if options.fresh_every is None:
        options.fresh_every = 1 if options.control else 5
    options.is_temporary = options.work is None
    if options.is_temporary:
        options.work = Path(tempfile.mkdtemp(prefix=prefix))
    options.work = options.work.absolute()
    options.work.mkdir(parents=True, exist_ok=True)
    if options.corpus is None:
        options.corpus = make_corpus(options)
    print(f"seed {options.seed}, work in {options.work}", flush=True)
    return options


def make_corpus(options):
    """Public-relay traffic of the last two days, one event in fifty repeated and one in fifty with a
    wrong signature."""
    bench = options.bench or options.binary.with_name("turnpike-bench")
    if not bench.exists():
        sys.exit(f"{bench} does not exist: cargo build --release -p bench, or --bench or --corpus")
    corpus = options.work / "corpus.jsonl"
    count = max(1_000, options.cycles * options.events_per_cycle * LINES_PER_EVENT)
    subprocess.run(
        [bench, "corpus", "--seed", str(options.seed), "--count", str(count),
         "--base-time", str(int(time.time()) - 2 * 86_400), "--span-s", str(2 * 86_400 - 3_600),
         "--duplicates", "20", "--bad-signatures", "20", "--out", corpus],
        check=True,
        stderr=subprocess.DEVNULL,
    )
    return corpus


def need(programs):
    """Ends with the names of the packages that are missing."""
    paths = os.environ.get("PATH", "").split(":") + ["/usr/sbin", "/sbin"]
    missing = sorted(
        {
            package
            for program, package in programs.items()
            if not any(os.access(f"{path}/{program}", os.X_OK) for path in paths)
        }
    )
    if missing:
        sys.exit(f"missing; as root: apt-get install --no-install-recommends {' '.join(missing)}")


# A fast client from one address, and small segments and checkpoints, so that cuts fall into their
# making.
CONFIG = """\
[rates]
connections_per_second = 0
connections_per_address_max = 0
messages_per_second = 0
events_per_second = 0
queries_per_second = 0
invalid_per_minute = 0

[store]
segment_mib = 4
checkpoint_events = 1500
free_min_mib = 0
"""
