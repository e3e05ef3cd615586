"""What both boxes are told on the command line."""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

# Over which the events are spread.
SPAN_S = 2 * 86_400
# Before the command of a process that must not outlive the run, however that ends.
WITH_US = ("setpriv", "--pdeathsig", "KILL", "--")
RUNTIMES = ("epoll", "io-uring")


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
    add("--base-time", type=int, default=int(time.time()) - SPAN_S - 3_600,
        help="of the first event, unix seconds (two days ago); printed")
    add("--fresh-every", type=positive, default=None,
        help="cycles after which an empty disk is taken (5; 1 for a control)")
    add("--events-per-cycle", type=positive, default=events_per_cycle,
        help=f"a cut comes after 1 to this many OKs ({events_per_cycle})")
    add("--connections", type=positive, default=4, help="that write at once (4)")
    add("--window", type=positive, default=48, help="events under way on each (48)")
    add("--shards", type=positive, default=2, help="of the relay (2)")
    add("--runtimes", type=runtimes, default=os.environ.get("TURNPIKE_RUNTIMES", ",".join(RUNTIMES)),
        help="taken in turn (what TURNPIKE_RUNTIMES says, else epoll,io-uring)")
    add("--work", type=Path, default=None,
        help="folder for disk, logs and evidence; a temporary one, removed after a success")
    add("--json", action="store_true", help="the report on one line")
    return parsed


def existing(text):
    path = Path(text).absolute()
    if not path.exists():
        raise argparse.ArgumentTypeError(f"{text} does not exist")
    return path


def runtimes(text):
    names = text.split(",")
    if not set(names) <= set(RUNTIMES):
        raise argparse.ArgumentTypeError(f"{text} is not {' or '.join(RUNTIMES)}, or both")
    return names


def positive(text):
    if not text.isdigit() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text} is no number above 0")
    return int(text)


def complete(options, prefix, lines_per_cycle):
    """Fills in what depends on other flags, makes the folder, and opens the corpus, which has to
    last until the last cut."""
    if options.fresh_every is None:
        options.fresh_every = 1 if options.control else 5
    options.is_temporary = options.work is None
    if options.is_temporary:
        options.work = Path(tempfile.mkdtemp(prefix=prefix))
    options.work = options.work.absolute()
    options.work.mkdir(parents=True, exist_ok=True)
    if options.corpus is None:
        options.lines = signed_lines(options, options.cycles * lines_per_cycle)
    else:
        options.lines = open(options.corpus, encoding="utf-8")
    print(f"--seed {options.seed} --base-time {options.base_time}, work in {options.work}", flush=True)
    return options


def signed_lines(options, count):
    """Public-relay traffic of two days, one event in fifty repeated and one in fifty with a wrong
    signature, signed as it is read."""
    bench = options.bench or options.binary.with_name("turnpike-bench")
    if not bench.exists():
        sys.exit(f"{bench} does not exist: cargo build --release -p bench, or --bench or --corpus")
    signing = subprocess.Popen(
        [bench, "corpus", "--seed", str(options.seed), "--count", str(count),
         "--base-time", str(options.base_time), "--span-s", str(SPAN_S),
         "--duplicates", "20", "--bad-signatures", "20", "--out", "-"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        encoding="utf-8",
    )
    # It ends with the pipe that it writes to.
    return signing.stdout


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


def config(checkpoint_events, more=""):
    """The relay's configuration: a fast client from one address, and small segments and checkpoints,
    so that cuts fall into their making."""
    return f"""\
[rates]
connections_per_second = 0
connections_per_address_max = 0
messages_per_second = 0
events_per_second = 0
queries_per_second = 0
invalid_per_minute = 0

[store]
segment_mib = 4
checkpoint_events = {checkpoint_events}
free_min_mib = 0
{more}"""
