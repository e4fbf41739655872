"""Alarms of branches that only a person can end: raised once, and again from time to time while it lasts. Take this
file along: it knows nothing of shops."""

import logging
import time

log = logging.getLogger("sweeper")

# Sweeps in a row that must find the same: between the look at the database and the coordinator's answer a branch may
# have ended.
SIGHTS = 2

# Pause before the same branch raises its alarm again.
REPEAT_S = 3600

# Branches that are remembered, and so told one by one. Those beyond are counted, and told in one line.
REMEMBERED_MAX = 1000

TEXTS = {
    "in_doubt_unknown": "the coordinator has never seen it, or has forgotten it: was a database restored?",
    "in_doubt_ended": "the coordinator was told that it had ended",
    "in_doubt_other_cluster": "the coordinator is not of its group, or knows the participant with another database",
    "in_doubt_unanswered": "no coordinator has answered for it for too long: is its address right, and does it run?",
    "in_doubt_not_decided": "its transaction is not decided long after it should be",
    "in_doubt_not_ended": "it was decided long ago, and its Commit or Cancel does not arrive, or is not done",
}


class Alarms:
    def __init__(self):
        # By branch: what is wrong, the number of sweeps that have found it, and when it was told last.
        self.seen = {}
        # Steps that are owed something, or that nobody answers for, and since when, as far as this process has seen.
        self.waiting = {}
        self.listed = set()
        # Of this sweep, beyond those that are remembered: their number for each alarm, and the first and last tx_id.
        self.more = {}

    def begin(self):
        """A new sweep begins."""
        self.listed = set()
        self.more = {}

    def lists(self, branch):
        """The sweep has found the branch in doubt."""
        self.listed.add(branch)

    def raise_(self, branch, alarm):
        known = self.seen.get(branch)
        if known is None and len(self.seen) >= REMEMBERED_MAX:
            count, first, last = self.more.get(alarm, (0, branch[1], branch[1]))
            self.more[alarm] = (count + 1, min(first, branch[1]), max(last, branch[1]))
            return
        if known is None or known[0] != alarm:
            known = self.seen[branch] = [alarm, 0, None]
        known[1] += 1
        now = time.monotonic()
        if known[1] >= SIGHTS and (known[2] is None or now - known[2] >= REPEAT_S):
            known[2] = now
            cluster_id, tx_id, branch_id = branch
            of = f"branch {branch_id} of {tx_id} (group {cluster_id})"
            log.error("alarm=%s %s is in doubt: %s", alarm, of, TEXTS[alarm])

    def waits_s(self, branch):
        """For how long this process has seen a step wait."""
        if branch not in self.waiting and len(self.waiting) >= REMEMBERED_MAX:
            return 0
        return time.monotonic() - self.waiting.setdefault(branch, time.monotonic())

    def clear(self, branch):
        self.seen.pop(branch, None)

    def is_well(self, branch):
        """Nothing is owed to it."""
        self.clear(branch)
        self.waiting.pop(branch, None)

    def end(self):
        """Forgets what is in doubt no longer. Every branch was listed."""
        self.seen = {branch: known for branch, known in self.seen.items() if branch in self.listed}
        self.waiting = {branch: at for branch, at in self.waiting.items() if branch in self.listed}
        for alarm, (count, first, last) in self.more.items():
            log.error("alarm=%s %d more branches are in doubt, from %s to %s: %s", alarm, count, first, last, TEXTS[alarm])
