"""The judge is shown each violation that it is there to find, and each excuse that it must accept.

    python3 -B -m unittest discover -s sim/crash/witness -t sim/crash
"""

import json
import tempfile
import unittest

from witness.judge import Judge
from witness.ledger import Ledger

NOW = 1_000_000


def event(id_, kind=1, key="alice", at=1_000, tags=()):
    return {"id": id_, "kind": kind, "pubkey": key, "created_at": at, "tags": list(tags)}


class JudgeTest(unittest.TestCase):
    def setUp(self):
        self.log = tempfile.NamedTemporaryFile(suffix=".log")
        self.ledger = Ledger(self.log.name)

    def tearDown(self):
        self.ledger.log.close()
        self.log.close()

    def send(self, one, *answers):
        self.ledger.add_sent(json.dumps(one))
        for accepted in answers:
            self.assertTrue(self.ledger.add_answer(one["id"], accepted, ""))
        return one

    def look(self, *served, probed=(), now_s=NOW):
        served = {one["id"]: one for one in served}
        return Judge(self.ledger.entries, served, set(probed), now_s).verdict()

    def test_an_acknowledged_event_that_is_missing_is_lost(self):
        one = self.send(event("a"), True)
        self.assertEqual(self.look(), (["a"], []))
        self.assertEqual(self.look(one), ([], []))

    def test_an_event_without_an_answer_may_be_there_or_not(self):
        one = self.send(event("a"))
        self.assertEqual(self.look(), ([], []))
        self.assertEqual(self.look(one), ([], []))

    def test_acknowledged_at_the_first_time_stays_acknowledged(self):
        self.send(event("a"), True)
        self.send(event("a"))
        self.assertEqual(self.look()[0], ["a"])

    def test_what_was_refused_is_not_served(self):
        one = self.send(event("a"), False)
        self.assertEqual(self.look(), ([], []))
        self.assertEqual(self.look(one)[1], [("a", "was refused")])

    def test_refused_once_and_then_without_an_answer_is_unknown(self):
        one = self.send(event("a"), False)
        self.send(one)
        self.assertEqual(self.look(one), ([], []))

    def test_what_was_never_sent_or_has_changed_is_found(self):
        self.assertEqual(self.look(event("x"))[1], [("x", "was never sent")])
        self.send(event("a"), True)
        self.assertEqual(self.look(event("a", at=7))[1], [("a", "differs from what was sent")])

    def test_a_version_may_be_missing_only_for_one_that_is_there(self):
        old = self.send(event("a", 0, at=1), True)
        new = self.send(event("b", 0, at=2))
        self.assertEqual(self.look(new), ([], []))
        self.assertEqual(self.look(old), ([], []))
        self.assertEqual(self.look()[0], ["a"])
        self.assertEqual(self.look(old, new)[1], [("a", "its slot has 2 events")])

    def test_an_older_version_is_no_excuse(self):
        old = self.send(event("a", 0, at=1), True)
        self.send(event("b", 0, at=2), True)
        self.assertEqual(self.look(old)[0], ["b"])

    def test_of_versions_of_one_second_the_lower_id_counts(self):
        first = self.send(event("a", 30_000, tags=[["d", "x"]]), True)
        second = self.send(event("b", 30_000, tags=[["d", "x"]]), True)
        self.assertEqual(self.look(first), ([], []))
        self.assertEqual(self.look(second)[0], ["a"])

    def test_other_slots_are_no_excuse(self):
        self.send(event("a", 30_000, at=1, tags=[["d", "x"]]), True)
        other = self.send(event("b", 30_000, at=2, tags=[["d", "y"]]), True)
        self.assertEqual(self.look(other)[0], ["a"])

    def test_a_deletion_excuses_only_if_it_is_there_and_then_forbids(self):
        one = self.send(event("a"), True)
        deletion = self.send(event("d", 5, tags=[["e", "a"]]))
        self.assertEqual(self.look(deletion), ([], []))
        self.assertEqual(self.look()[0], ["a"])
        self.assertEqual(self.look(one), ([], []))
        self.assertEqual(self.look(one, deletion)[1], [("a", "is deleted")])

    def test_only_the_author_and_the_recipient_of_a_wrap_delete(self):
        self.send(event("a"), True)
        self.send(event("w", 1059, tags=[["p", "bob"]]), True)
        deletion = self.send(event("d", 5, key="bob", tags=[["e", "a"], ["e", "w"]]), True)
        self.assertEqual(self.look(deletion)[0], ["a"])

    def test_a_deletion_by_slot_reaches_up_to_its_time(self):
        tags = [["d", "x"]]
        self.send(event("a", 30_000, at=5, tags=tags), True)
        deletion = self.send(event("d", 5, at=5, tags=[["a", "30000:alice:x"]]), True)
        self.assertEqual(self.look(deletion), ([], []))
        self.send(event("b", 30_000, at=6, tags=tags), True)
        self.assertEqual(self.look(deletion)[0], ["b"])

    def test_a_version_that_lost_to_a_deleted_one_may_be_missing(self):
        self.send(event("a", 0, at=1), True)
        self.send(event("b", 0, at=2), True)
        deletion = self.send(event("d", 5, at=3, tags=[["e", "b"]]), True)
        self.assertEqual(self.look(deletion), ([], []))

    def test_deletions_are_never_deleted(self):
        self.send(event("d", 5, tags=[["e", "a"]]), True)
        other = self.send(event("f", 5, tags=[["e", "d"]]), True)
        self.assertEqual(self.look(other)[0], ["d"])

    def test_expiry_excuses_and_forbids(self):
        one = self.send(event("a", tags=[["expiration", str(NOW)]]), True)
        self.assertEqual(self.look(), ([], []))
        self.assertEqual(self.look(now_s=NOW - 1_000)[0], ["a"])
        self.assertEqual(self.look(one, now_s=NOW + 1_000)[1], [("a", "is expired")])

    def test_ephemeral_and_private_events_are_not_served(self):
        ephemeral = self.send(event("a", 20_001), True)
        private = self.send(event("b", 4), True)
        self.assertEqual(self.look(probed=["b"]), ([], []))
        self.assertEqual(self.look()[0], ["b"])
        wrong = self.look(ephemeral, private)[1]
        self.assertEqual(wrong, [("a", "is ephemeral"), ("b", "is private")])

    def test_an_answer_to_nothing_is_noticed(self):
        self.send(event("a"), True)
        self.assertFalse(self.ledger.add_answer("a", True, ""))
        self.assertFalse(self.ledger.add_answer("z", True, ""))

    def test_the_log_holds_every_fact(self):
        self.send(event("a"), True)
        self.ledger.cut()
        self.ledger.fresh()
        self.ledger.log.flush()
        with open(self.log.name, encoding="utf-8") as log:
            self.assertEqual(log.read(), "sent a\ntrue a \ncut 1\nfresh\n")
        self.assertEqual(self.look(), ([], []))


if __name__ == "__main__":
    unittest.main()
