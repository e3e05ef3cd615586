"""What a relay has, found out over its wire."""

import time

from .judge import EXPIRY_SLACK_S, PRIVATE_KINDS, Judge
from .wire import Client, Cut, query

# The greatest limit of a default relay.
ROWS = 500
PROBE_WINDOW = 64


def walk(client):
    """Every event that the relay serves to anybody, newest first, by id."""
    served, until = {}, None
    while True:
        page = query(client, {"limit": ROWS} if until is None else {"limit": ROWS, "until": until})
        known = len(served)
        served.update((event["id"], event) for event in page)
        if len(page) < ROWS:
            return served
        oldest = min(event["created_at"] for event in page)
        if len(served) == known or oldest == until:
            raise Cut(f"cannot page past the second {oldest}: it has {ROWS} events or more")
        until = oldest


def fetch(client, ids):
    """Which of `ids` the relay serves when it is asked for them."""
    found = {}
    for start in range(0, len(ids), ROWS):
        for event in query(client, {"ids": ids[start : start + ROWS], "limit": ROWS}):
            found[event["id"]] = event
    return found


def probe(client, ledger, entries):
    """Sends events again that nobody but their people may read, and returns the ids of those that
    the relay says it has. One that it takes as new was not there."""
    there, waiting = set(), 0
    queue = list(entries)
    while queue or waiting:
        while queue and waiting < PROBE_WINDOW:
            entry = queue.pop()
            ledger.add_sent(entry.line)
            client.queue_text(f'["EVENT",{entry.line}]')
            waiting += 1
        message = client.recv()
        if message[0] != "OK":
            continue
        waiting -= 1
        _, id_, accepted, text = message[:4]
        ledger.add_answer(id_, accepted, text)
        if accepted and text.startswith("duplicate:"):
            there.add(id_)
    return there


def audit(address, ledger):
    """Looks at everything and returns (lost, wrong, number of events looked at)."""
    client = Client(address)
    try:
        entries = ledger.entries
        walked = walk(client)
        # A page and a lookup by id take different ways through the index: they must agree.
        fetched = fetch(client, list(entries))
        private = [
            entry
            for entry in entries.values()
            if entry.event["kind"] in PRIVATE_KINDS and entry.is_acknowledged
        ]
        probed = probe(client, ledger, private)
        judge = Judge(entries, {**walked, **fetched}, probed, int(time.time()))
        lost, wrong = judge.verdict()
        for id_ in walked.keys() ^ fetched.keys():
            # What expires between the two looks is the one difference that is none.
            if id_ in entries and not judge.is_expired(entries[id_].event, EXPIRY_SLACK_S):
                way = "by time and not by id" if id_ in walked else "by id and not by time"
                wrong.append((id_, f"is found {way}"))
        return lost, wrong, len(entries)
    finally:
        client.close()
