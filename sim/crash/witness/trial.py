"""The cycle: start, look at what the last cut has left, load, cut the power; again and again.

A box is anything with
    replace_disk()           switches everything off and takes an empty disk
    start(runtime)           the relay, powered up on that disk; returns its (host, port)
    start_and_cut(runtime, delay_s)
                             the same, with the power going while it starts
    settle()                 everything that was written until now is made durable from outside
    cut(rng)                 the power goes; returns a word that says how
    disk_went_first          whether the relay was still running when its disk went, at the last cut
    rejected()               why the relay could not be started, for the report
    keep(directory)          copies what explains a failure
    close()                  frees what the machine lent
"""

import json
import random
import sys
import time

from .audit import audit
from .ledger import Ledger
from .load import Lines, Load
from .wire import Cut

# Seconds in which a load has to get its share of OKs before the cut comes anyway.
LOAD_PATIENCE_S = 60
# Violations that are printed one by one.
SHOWN_MAX = 10


class StartFailed(Exception):
    """The relay did not come up on what the cut has left."""


class Trial:
    """Some cycles on one box."""

    def __init__(self, box, options, say=lambda line: print(line, flush=True)):
        self.box = box
        self.options = options
        self.say = say
        self.rng = random.Random(options.seed)
        self.ledger = Ledger(f"{options.work}/ledger.log")
        self.lines = Lines(options.lines)
        self.lost = {}
        self.wrong = []
        self.faults = []
        self.cuts = {}
        self.runtimes = {}
        self.looked_at = 0
        self.cycle_s = []

    def run(self):
        """Runs the cycles, and ends with a look at what the last cut has left."""
        try:
            for number in range(1, self.options.cycles + 1):
                began_s = time.monotonic()
                is_fresh = (number - 1) % self.options.fresh_every == 0
                if is_fresh:
                    if number > 1:
                        self._look(number - 1)
                    self.box.replace_disk()
                    self.ledger.fresh()
                self._cycle(number, is_fresh)
                self.cycle_s.append(time.monotonic() - began_s)
                if self._has_failed():
                    break
            if not self._has_failed():
                self._look(self.options.cycles)
        finally:
            self.ledger.log.flush()
            if self._has_failed():
                self.box.keep(self.options.work)
            self.box.close()
            self.options.lines.close()
        return self.report()

    def _has_failed(self):
        """A control is there to fail: it goes on."""
        return bool(self.lost or self.wrong or self.faults) and not self.options.control

    def _cycle(self, number, is_fresh):
        runtime = self.options.runtimes[number % len(self.options.runtimes)]
        if self.rng.random() < self.options.cut_starts and not self.options.control:
            delay_s = self.rng.uniform(0, self.options.start_s)
            self.box.start_and_cut(self.rng.choice(self.options.runtimes), delay_s)
            self._cut_happened("while it started")
        try:
            address = self.box.start(runtime)
        except StartFailed as failed:
            return self._failed_start(number, failed)
        known = 0 if is_fresh else self._audit(number, address)
        if self._has_failed():
            return None
        self.lines.put_first(self._again())
        target = self.rng.randint(1, self.options.events_per_cycle)
        load = Load(address, self.ledger, self.lines, self.options.connections, self.options.window)
        if self.options.control:
            # So that events are lost, and not the files that they are in.
            load.wait_for(target // 2, LOAD_PATIENCE_S)
            self.box.settle()
            target += load.accepted
        load.wait_for(target, LOAD_PATIENCE_S)
        time.sleep(self.rng.uniform(0, self.options.dawdle_s))
        how = self.box.cut(self.rng)
        self._cut_happened(how)
        load.join()
        self.runtimes[runtime] = self.runtimes.get(runtime, 0) + 1
        if self.lines.is_used_up:
            self.faults.append("the corpus is used up, so the relay was idle at the cut")
        self.faults.extend(load.faults)
        if not self.box.disk_went_first:
            self.faults.extend(load.troubles)
        took_s = time.monotonic() - load.began_s
        self.say(
            f"cycle {number}: {runtime}, looked at {known}, acknowledged {load.accepted} in "
            f"{took_s:.1f} s, cut {how}"
        )
        return None

    def _again(self):
        """Half of what never got an answer is sent once more."""
        unknown = self.ledger.unknown()
        return self.rng.sample(unknown, len(unknown) // 2)

    def _cut_happened(self, how):
        self.ledger.cut()
        self.cuts[how] = self.cuts.get(how, 0) + 1

    def _look(self, number):
        try:
            address = self.box.start(self.rng.choice(self.options.runtimes))
        except StartFailed as failed:
            return self._failed_start(number, failed)
        known = self._audit(number, address)
        return self.say(f"after cycle {number}: looked at {known}")

    def _failed_start(self, number, failed):
        """A relay that does not start has lost all that it acknowledged."""
        gone = [id_ for id_, entry in self.ledger.entries.items() if entry.is_acknowledged]
        self.faults.append(f"after cycle {number}: the relay does not start: {failed}")
        self.lost.update((id_, number) for id_ in gone)
        self.say(f"after cycle {number}: the relay does not start, {len(gone)} events are lost")

    def _audit(self, number, address):
        try:
            lost, wrong, known = audit(address, self.ledger)
        except Cut as cut:
            self.faults.append(f"after cycle {number}: the look at the relay broke off: {cut}")
            return 0
        self.lost.update((id_, number) for id_ in lost)
        self.wrong.extend((id_, why, number) for id_, why in wrong)
        self.looked_at += known
        if lost or wrong:
            self.say(f"after cycle {number}: {len(lost)} events lost, {len(wrong)} wrongly served")
        return known

    def report(self):
        cycles = len(self.cycle_s)
        return {
            "seed": self.options.seed,
            "cycles": cycles,
            "cycles_by_runtime": self.runtimes,
            "cuts": self.cuts,
            "sent": self.ledger.sent,
            "acknowledged": self.ledger.acknowledged,
            "refused": self.ledger.refused,
            "looked_at": self.looked_at,
            "lost": len(self.lost),
            "wrong": len(self.wrong),
            "faults": self.faults[:SHOWN_MAX],
            "seconds_per_cycle": round(sum(self.cycle_s) / max(cycles, 1), 1),
            "first_lost": [f"{id_} in cycle {number}" for id_, number in self.lost.items()][:SHOWN_MAX],
            "first_wrong": [f"{id_} {why}, cycle {number}" for id_, why, number in self.wrong][
                :SHOWN_MAX
            ],
        }


def conclude(report, options):
    """Prints the report and returns the exit code: a control has to be found out, anything else
    has to be without a fault, and neither counts without load."""
    print(json.dumps(report, indent=None if options.json else 2, ensure_ascii=False))
    if report["acknowledged"] < 20 * report["cycles"]:
        print("FAILED: too little was acknowledged for the cuts to prove anything", file=sys.stderr)
        return 1
    if options.control:
        if report["lost"] == 0:
            print("FAILED: the control without syncs lost nothing, so this box proves nothing",
                  file=sys.stderr)
            return 1
        print(f"the control lost {report['lost']} events and was found out", file=sys.stderr)
        return 0
    if report["lost"] or report["wrong"] or report["faults"]:
        print(f"FAILED: what explains it is in {options.work}", file=sys.stderr)
        return 1
    print(f"{report['cycles']} cycles, {report['acknowledged']} events acknowledged, 0 lost",
          file=sys.stderr)
    return 0
