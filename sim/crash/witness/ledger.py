"""What the witness sent and what it was answered, in memory and as a log on the host's own disk.

One line per fact, written before anything is concluded from it:

    sent <id>
    true <id> <message of OK>
    false <id> <message of OK>
    cut <number>            the power went here; what has no answer stays without one
    fresh                   an empty disk from here on: nothing before counts any more
"""

import json
import threading


class Entry:
    """One event and its answers. An event may be sent more than once."""

    __slots__ = ("event", "line", "sends", "answers")

    def __init__(self, event, line):
        self.event = event
        self.line = line
        self.sends = 0
        self.answers = []

    @property
    def is_acknowledged(self):
        """OK true was received, once at least."""
        return any(accepted for accepted, _ in self.answers)

    @property
    def is_refused(self):
        """Every time that it was sent, OK false was received."""
        return len(self.answers) == self.sends > 0 and not self.is_acknowledged

    @property
    def is_unknown(self):
        """It was sent and its fate is not known: it may be served and it may be missing."""
        return not self.is_acknowledged and not self.is_refused


class Ledger:
    """Everything about one disk. Shared by the writing threads."""

    def __init__(self, path):
        self.lock = threading.Lock()
        self.log = open(path, "a", encoding="utf-8", buffering=1 << 16)
        self.entries = {}
        self.cuts = 0
        # Over all disks.
        self.acknowledged = self.refused = self.sent = 0

    def fresh(self):
        """The disk was replaced by an empty one."""
        with self.lock:
            self.entries.clear()
            self.log.write("fresh\n")

    def cut(self):
        with self.lock:
            self.cuts += 1
            self.log.write(f"cut {self.cuts}\n")
            self.log.flush()

    def add_sent(self, line):
        """Notes that `line`, an event as JSON, goes out now, and returns its id."""
        event = json.loads(line)
        with self.lock:
            entry = self.entries.setdefault(event["id"], Entry(event, line))
            entry.sends += 1
            self.sent += 1
            self.log.write(f"sent {event['id']}\n")
        return event["id"]

    def add_answer(self, id_, accepted, message):
        """Notes an OK; False if nothing was asked that this could answer."""
        with self.lock:
            self.log.write(f"{'true' if accepted else 'false'} {id_} {message}\n")
            entry = self.entries.get(id_)
            if entry is None or len(entry.answers) == entry.sends:
                return False
            if accepted and not entry.is_acknowledged:
                self.acknowledged += 1
            elif not accepted:
                self.refused += 1
            entry.answers.append((accepted, message))
            return True

    def unknown(self):
        """Lines of the events whose fate is not known."""
        with self.lock:
            return [entry.line for entry in self.entries.values() if entry.is_unknown]
