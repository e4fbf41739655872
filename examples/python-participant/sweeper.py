"""Asks the coordinator about branches that are in doubt, and removes rows that nobody needs. Take this file along: it
knows nothing of shops."""

import itertools
import logging
import math
import threading
import time

import grpc
from unanimo.v1 import coordinator_pb2, coordinator_pb2_grpc

from alarms import Alarms
from barrier import AHEAD_S
from clock import PurgeClock

log = logging.getLogger("sweeper")

CALL_TIMEOUT_S = 5
PURGE_INTERVAL_S = 3600
# A page of rows: more than a coordinator takes in one question is refused.
INQUIRE_MAX = 256
# Branches are normally prepared for milliseconds.
GRACE_S = 60
# How long a branch whose transaction runs is not asked about again: a step that is done, and one that is reserved. The
# coordinator sends what it owes by itself.
STEP_PAUSE_S = 3600
RESERVED_PAUSE_S = 300

# Ages of a branch at which it raises an alarm although nothing but time speaks against it: no coordinator answers for
# it, or it is decided and not ended; and, past its transaction's deadline, it is not decided.
ALARM_AFTER_S = 5 * GRACE_S
NOT_DECIDED_S = 3600

# Verdicts on which nobody may act.
ALARMS = {
    coordinator_pb2.VERDICT_NEVER_SEEN: "in_doubt_unknown",
    coordinator_pb2.VERDICT_PURGED: "in_doubt_unknown",
    coordinator_pb2.VERDICT_HEURISTIC: "in_doubt_ended",
}
DECIDED = (coordinator_pb2.VERDICT_COMMIT, coordinator_pb2.VERDICT_CANCEL)

# In place of a verdict: no coordinator has answered, and one of another group has.
NO_ANSWER, OTHER_CLUSTER = "no answer", "another group"


class Sweeper(threading.Thread):
    def __init__(self, channel, name, barrier, interval_s):
        super().__init__(daemon=True)
        self.coordinator = coordinator_pb2_grpc.CoordinatorServiceStub(channel)
        self.name_of, self.barrier, self.interval_s = name, barrier, interval_s
        self.alarms, self.clock, self.stopped = Alarms(), PurgeClock(), threading.Event()

    def run(self):
        since_purge_s = PURGE_INTERVAL_S
        while not self.stopped.wait(self.interval_s):
            since_purge_s += self.interval_s
            self._try(self._ask_for_what_is_in_doubt)
            # Not less, whatever the questions have come to.
            if since_purge_s >= PURGE_INTERVAL_S and self._try(self._purge):
                since_purge_s = 0

    @staticmethod
    def _try(work):
        try:
            work()
            return True
        except Exception as error:  # The next round does it.
            log.warning("not swept: %r", error)
            return False

    def stop(self):
        self.stopped.set()
        self.join()

    def _ask_for_what_is_in_doubt(self):
        """To ask is enough: the coordinator then sends again the Commit or Cancel that it owes, with
        the payload that the handler needs. What it does not know, or believes to have ended, only a
        person can end: the row stays, and is an alarm. A step of a saga that is committed is sent
        nothing: its row is committed here."""
        committed, running, reserved = [], [], []

        def page(after, limit):
            return self.barrier.in_doubt(GRACE_S, after, limit)

        self.alarms.begin()
        for (*key, mode, changed_at), verdict in self._verdicts(page):
            branch, is_step = tuple(key), mode == "saga"
            self.alarms.lists(branch)
            age_s = time.time() - changed_at
            if age_s < -AHEAD_S and not is_step:
                # Prepared before the clock was set back: nobody knows its age.
                age_s = math.inf
            alarm = self._alarm(branch, is_step, age_s, verdict)
            if alarm is not None:
                # It is asked about in the next sweep.
                self.alarms.raise_(branch, alarm)
                continue
            self.alarms.clear(branch)
            if verdict in (NO_ANSWER, OTHER_CLUSTER) or verdict.verdict == coordinator_pb2.VERDICT_CANCEL:
                continue
            self.alarms.is_well(branch)
            if verdict.verdict != coordinator_pb2.VERDICT_COMMIT:
                (running if is_step else reserved).append(key)
            elif is_step:
                committed.append(key)
        self.alarms.end()
        self.barrier.commit_steps(committed)
        self.barrier.ask_later(running, STEP_PAUSE_S)
        self.barrier.ask_later(reserved, RESERVED_PAUSE_S)

    def _alarm(self, branch, is_step, age_s, verdict):
        """What is wrong with a branch in doubt, or None."""
        if verdict is OTHER_CLUSTER:
            return "in_doubt_other_cluster"

        def waits_for_too_long():
            # The age of a step does not tell that: a healthy one was not asked about for an hour, maybe.
            waits_s = max(self.alarms.waits_s(branch), age_s - STEP_PAUSE_S) if is_step else age_s
            return waits_s >= ALARM_AFTER_S

        if verdict is NO_ANSWER:
            return "in_doubt_unanswered" if waits_for_too_long() else None
        if verdict.verdict in ALARMS:
            return ALARMS[verdict.verdict]
        # A verdict of a later version is read as RUNNING.
        if verdict.verdict not in DECIDED:
            has_bound = verdict.HasField("prepare_until")
            over_s = time.time() - verdict.prepare_until.ToNanoseconds() / 1e9 if has_bound else age_s
            # A step may wait for its saga's decision for ever.
            is_late = not is_step and min(age_s, over_s) >= NOT_DECIDED_S
            return "in_doubt_not_decided" if is_late else None
        if is_step and verdict.verdict == coordinator_pb2.VERDICT_COMMIT:
            return None
        if verdict.ended:
            return "in_doubt_ended"
        return "in_doubt_not_ended" if waits_for_too_long() else None

    def _purge(self):
        now = self.clock.now()
        if now is None:
            return
        self.barrier.purge(now)
        # What is committed stays until the coordinator says that it will never ask for it again, or has
        # itself purged the transaction.
        self.barrier.bound(self._over(self.barrier.unbounded))
        self.barrier.forget(self._over(self.barrier.committed))

    def _over(self, page):
        """Committed rows that nobody will ask for again. One that the coordinator believes to be cancelled
        is evidence, and stays. So does one of which no coordinator tells."""
        return [
            row[:3]
            for row, verdict in self._verdicts(page)
            if verdict not in (NO_ANSWER, OTHER_CLUSTER)
            and (
                verdict.verdict == coordinator_pb2.VERDICT_PURGED
                or (verdict.ended and verdict.verdict == coordinator_pb2.VERDICT_COMMIT)
            )
        ]

    def _verdicts(self, page):
        """Rows and the coordinator's record of each, page by page, each group's by themselves."""
        after, silent = ("", "", ""), set()
        while rows := page(after, INQUIRE_MAX):
            after = rows[-1][:3]
            for cluster_id, of in itertools.groupby(rows, key=lambda row: row[0]):
                of = list(of)
                yield from zip(of, self._ask(cluster_id, of, silent))

    def _ask(self, cluster_id, rows, silent):
        """A verdict for each row. A group that has not answered is not asked again before the next sweep: each
        question would cost its timeout."""
        if cluster_id in silent:
            return [NO_ANSWER] * len(rows)
        branches = [
            coordinator_pb2.InquiredBranch(tx_id=tx_id, branch_id=branch_id)
            for _, tx_id, branch_id, *_ in rows
        ]
        request = coordinator_pb2.InquireBranchesRequest(
            participant=self.name_of,
            branches=branches,
            cluster_id=cluster_id,
            database_id=self.barrier.database_id,
        )
        try:
            verdicts = self.coordinator.InquireBranches(request, timeout=CALL_TIMEOUT_S).verdicts
        except grpc.RpcError as error:
            if error.code() == grpc.StatusCode.FAILED_PRECONDITION:
                # Of another group than this coordinator's: nothing can be told of them here.
                log.warning("group %s is another one's: %s", cluster_id, error.details())
                return [OTHER_CLUSTER] * len(rows)
            log.warning("no coordinator answers for group %s: %s", cluster_id, error.details())
            verdicts = []
        if len(verdicts) == len(rows):
            return verdicts
        silent.add(cluster_id)
        return [NO_ANSWER] * len(rows)
