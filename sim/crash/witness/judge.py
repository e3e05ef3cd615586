"""What must and what must not be there, given what was answered: NIP-01, NIP-09 and NIP-40 as rules
over sets of events, without an order, because two connections have none.

The verdict is strict where the protocol is (an acknowledged event without an excuse is there) and
open where the outcome is unknown: an event without an answer may be there or not, but what it
replaces or deletes may be missing only if it is there itself.
"""

from collections import defaultdict

DELETION = 5
GIFT_WRAP = 1059
# Served only to the people in them; whether they are there is found out by sending them again.
PRIVATE_KINDS = frozenset((4, 1059, 21059))
# An event may go a little before or after the second in which it expires.
EXPIRY_SLACK_S = 120


def is_ephemeral(kind):
    return 20_000 <= kind < 30_000


def slot(event):
    """What only one event can hold at a time, or None."""
    kind, key = event["kind"], event["pubkey"]
    if kind in (0, 3) or 10_000 <= kind < 20_000:
        return kind, key, ""
    if 30_000 <= kind < 40_000:
        return kind, key, next((t[1] for t in event["tags"] if t[0] == "d" and len(t) > 1), "")
    return None


def beats(one, other):
    """Whether `one` replaces `other` in their slot."""
    if one["created_at"] != other["created_at"]:
        return one["created_at"] > other["created_at"]
    return one["id"] < other["id"]


def expires_at(event):
    for tag in event["tags"]:
        if tag[0] == "expiration" and len(tag) > 1 and tag[1].isdigit():
            return int(tag[1])
    return None


def deletes(deletion, event):
    """Whether a deletion request is about `event`."""
    if event["kind"] == DELETION:
        return False
    deleter = deletion["pubkey"]
    is_recipient = event["kind"] == GIFT_WRAP and ["p", deleter] in [t[:2] for t in event["tags"]]
    holds = slot(event)
    for tag in deletion["tags"]:
        if len(tag) < 2:
            continue
        if tag[0] == "e" and tag[1] == event["id"]:
            if event["pubkey"] == deleter or is_recipient:
                return True
        if tag[0] == "a" and holds and event["pubkey"] == deleter:
            kind, _, rest = tag[1].partition(":")
            key, _, d = rest.partition(":")
            is_covered = event["created_at"] <= deletion["created_at"]
            if is_covered and (kind, key, d) == (str(holds[0]), holds[1], holds[2]):
                return True
    return False


class Judge:
    """The verdict over one look at the relay. `served` holds what it served, by id; `probed` the ids
    of private events that it says it has; `now_s` is the time of the look."""

    def __init__(self, entries, served, probed, now_s):
        self.entries = entries
        self.served = served
        self.probed = probed
        self.now_s = now_s
        self.by_slot = defaultdict(list)
        self.deletions_of_id = defaultdict(list)
        self.deletions_of_slot = defaultdict(list)
        for entry in entries.values():
            event = entry.event
            if entry.is_refused:
                continue
            if slot(event):
                self.by_slot[slot(event)].append(event)
            if event["kind"] == DELETION:
                self._index_deletion(event)

    def _index_deletion(self, event):
        for tag in event["tags"]:
            if len(tag) > 1 and tag[0] == "e":
                self.deletions_of_id[tag[1]].append(event)
            if len(tag) > 1 and tag[0] == "a" and tag[1].count(":") >= 2:
                kind, key, d = tag[1].split(":", 2)
                if kind.isdigit():
                    self.deletions_of_slot[int(kind), key, d].append(event)

    def is_there(self, event):
        return event["id"] in self.served or event["id"] in self.probed

    def is_deleted(self, event):
        """Whether a deletion request that is there is about it."""
        requests = self.deletions_of_id[event["id"]] + self.deletions_of_slot[slot(event)]
        return any(self.is_there(one) and deletes(one, event) for one in requests)

    def is_expired(self, event, slack_s):
        at = expires_at(event)
        return at is not None and at <= self.now_s + slack_s

    def is_gone(self, event):
        """Whether it may be missing by itself: not stored by nature, deleted or expired."""
        return (
            is_ephemeral(event["kind"])
            or self.is_deleted(event)
            or self.is_expired(event, EXPIRY_SLACK_S)
        )

    def may_be_missing(self, event):
        if self.is_gone(event):
            return True
        rivals = self.by_slot[slot(event)] if slot(event) else []
        return any(
            beats(rival, event) and (self.is_there(rival) or self.is_gone(rival))
            for rival in rivals
        )

    def verdict(self):
        """(lost, wrong): ids of acknowledged events that are missing; what is served and must not
        be, as (id, why)."""
        lost = [
            id_
            for id_, entry in self.entries.items()
            if entry.is_acknowledged
            and not self.is_there(entry.event)
            and not self.may_be_missing(entry.event)
        ]
        wrong = []
        for id_, event in self.served.items():
            entry = self.entries.get(id_)
            for is_wrong, why in self._reasons(entry, event):
                if is_wrong():
                    wrong.append((id_, why))
                    break
        for holders in self.by_slot.values():
            there = [event["id"] for event in holders if self.is_there(event)]
            if len(there) > 1:
                wrong.append((there[0], f"its slot has {len(there)} events"))
        return lost, wrong

    def _reasons(self, entry, event):
        return (
            (lambda: entry is None, "was never sent"),
            (lambda: event != entry.event, "differs from what was sent"),
            (lambda: entry.is_refused, "was refused"),
            (lambda: is_ephemeral(event["kind"]), "is ephemeral"),
            (lambda: event["kind"] in PRIVATE_KINDS, "is private"),
            (lambda: self.is_deleted(event), "is deleted"),
            (lambda: self.is_expired(event, -EXPIRY_SLACK_S), "is expired"),
        )
