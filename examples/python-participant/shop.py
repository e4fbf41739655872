"""A shop in Python that takes part in transactions: it reserves and sells pieces of its stock.

    PYTHONPATH=stubs python shop.py --database shop.db --item lamp=10
"""

import argparse
import contextlib
import itertools
import logging
import signal
import threading
import uuid
from concurrent import futures

import grpc
from unanimo.v1 import (
    coordinator_pb2,
    coordinator_pb2_grpc,
    directory_pb2,
    directory_pb2_grpc,
    participant_pb2_grpc,
)

import stock
from barrier import Barrier
from participant import FEATURES, Participant

log = logging.getLogger("shop")

# Threads for Prepares, and as many more for Commits and Cancels.
PREPARES_MAX = 8

# How long calls under way may take when the process is told to end.
DRAIN_S = 30

CALL_TIMEOUT_S = 5
RETRY_S = 1
PURGE_INTERVAL_S = 3600
# A page of rows: more than a coordinator takes in one question is refused.
INQUIRE_MAX = 256
# Branches are normally prepared for milliseconds.
GRACE_S = 60
# How long a branch whose transaction runs is not asked about again: a step that is done, and one that is reserved. The
# coordinator sends what it owes by itself.
STEP_PAUSE_S = 3600
RESERVED_PAUSE_S = 300

# A connection that swallows everything is found out, and replaced.
KEEP_ALIVE = [
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
]

# Verdicts on which nobody may act.
ALARMS = {
    coordinator_pb2.VERDICT_NEVER_SEEN: "in_doubt_unknown",
    coordinator_pb2.VERDICT_PURGED: "in_doubt_unknown",
    coordinator_pb2.VERDICT_HEURISTIC: "in_doubt_ended",
}


class Registration(threading.Thread):
    """Tells the coordinator where this process answers, again and again."""

    def __init__(self, channel, name, endpoint, database_id):
        super().__init__(daemon=True)
        self.directory = directory_pb2_grpc.ParticipantDirectoryServiceStub(channel)
        self.database_id = database_id
        self.of = {
            "participant": name,
            "endpoint": endpoint,
            # New for each start: calls that wait for this participant then go out at once.
            "instance_id": str(uuid.uuid4()),
        }
        self.stopped = threading.Event()

    def run(self):
        while not self.stopped.wait(self._register()):
            pass
        with contextlib.suppress(grpc.RpcError):
            request = directory_pb2.DeregisterEndpointRequest(**self.of)
            self.directory.DeregisterEndpoint(request, timeout=CALL_TIMEOUT_S)

    def stop(self):
        self.stopped.set()
        self.join()

    def _register(self):
        """Registers once; answers after how many seconds to do it again."""
        request = directory_pb2.RegisterEndpointRequest(
            **self.of,
            features=FEATURES,
            sdk="unanimo-example-python/0.1.0",
            database_id=self.database_id,
        )
        try:
            answer = self.directory.RegisterEndpoint(request, timeout=CALL_TIMEOUT_S)
        except grpc.RpcError as error:
            log.warning("not registered yet: %s", error.details())
            return RETRY_S
        return answer.keep_alive_interval.ToNanoseconds() / 1e9 or RETRY_S


class Sweeper(threading.Thread):
    """Asks the coordinator about branches that are in doubt, and removes rows that nobody needs."""

    def __init__(self, channel, name, barrier, interval_s):
        super().__init__(daemon=True)
        self.coordinator = coordinator_pb2_grpc.CoordinatorServiceStub(channel)
        self.name_of, self.barrier, self.interval_s = name, barrier, interval_s
        self.stopped = threading.Event()

    def run(self):
        since_purge_s = PURGE_INTERVAL_S
        while not self.stopped.wait(self.interval_s):
            since_purge_s += self.interval_s
            try:
                self._ask_for_what_is_in_doubt()
                if since_purge_s >= PURGE_INTERVAL_S:
                    self._purge()
                    since_purge_s = 0
            except Exception as error:  # The next round does it.
                log.warning("not swept: %r", error)

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

        for (*key, mode), verdict in self._verdicts(page):
            cluster_id, tx_id, branch_id = key
            if mode == "saga" and verdict.verdict == coordinator_pb2.VERDICT_COMMIT:
                committed.append(key)
                continue
            # A verdict of a later version is read as RUNNING.
            alarm = ALARMS.get(verdict.verdict)
            if alarm is None and verdict.ended:
                alarm = "in_doubt_ended"
            if alarm is not None:
                log.error(
                    "alarm=%s branch %s of %s (group %s) is in doubt, and only a person can end it",
                    alarm,
                    branch_id,
                    tx_id,
                    cluster_id,
                )
            elif mode == "saga":
                running.append(key)
            elif verdict.verdict == coordinator_pb2.VERDICT_RUNNING:
                reserved.append(key)
        self.barrier.commit_steps(committed)
        self.barrier.ask_later(running, STEP_PAUSE_S)
        self.barrier.ask_later(reserved, RESERVED_PAUSE_S)

    def _purge(self):
        self.barrier.purge()
        # What is committed stays until the coordinator says that it will never ask for it again, or has
        # itself purged the transaction.
        self.barrier.bound(self._over(self.barrier.unbounded))
        self.barrier.forget(self._over(self.barrier.committed))

    def _over(self, page):
        """Committed rows that nobody will ask for again. One that the coordinator believes to be cancelled
        is evidence, and stays."""
        return [
            row[:3]
            for row, verdict in self._verdicts(page)
            if verdict.verdict == coordinator_pb2.VERDICT_PURGED
            or (verdict.ended and verdict.verdict == coordinator_pb2.VERDICT_COMMIT)
        ]

    def _verdicts(self, page):
        """Rows and the coordinator's record of each, page by page, each group's by themselves."""
        after = ("", "", "")
        while rows := page(after, INQUIRE_MAX):
            after = rows[-1][:3]
            for cluster_id, keys in itertools.groupby(rows, key=lambda row: row[0]):
                keys = list(keys)
                branches = [
                    coordinator_pb2.InquiredBranch(tx_id=tx_id, branch_id=branch_id)
                    for _, tx_id, branch_id, _ in keys
                ]
                request = coordinator_pb2.InquireBranchesRequest(
                    participant=self.name_of,
                    branches=branches,
                    cluster_id=cluster_id,
                    database_id=self.barrier.database_id,
                )
                try:
                    answer = self.coordinator.InquireBranches(request, timeout=CALL_TIMEOUT_S)
                except grpc.RpcError as error:
                    # Of another group than this coordinator's: nothing can be told of them here.
                    if error.code() != grpc.StatusCode.FAILED_PRECONDITION:
                        raise
                    log.error("alarm=in_doubt_other_cluster group %s: %s", cluster_id, error.details())
                    continue
                yield from zip(keys, answer.verdicts)


def item(text):
    name, _, pieces = text.partition("=")
    return name, int(pieces)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--name", default="py-shop", help="the participant's name")
    parser.add_argument("--database", default="shop.db", help="its SQLite file")
    parser.add_argument("--listen", default="127.0.0.1:0", help="port 0 takes a free one")
    parser.add_argument("--coordinator", default="http://127.0.0.1:7610", metavar="URL")
    parser.add_argument("--advertise", metavar="URL", help="how the coordinator reaches this process")
    parser.add_argument("--item", type=item, action="append", default=[], metavar="ITEM=PIECES")
    parser.add_argument(
        "--sweep-interval", type=float, default=30, metavar="SECONDS", help="between two sweeps"
    )
    return parser.parse_args()


def main():
    args = arguments()
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    barrier = Barrier(args.database)
    server = grpc.server(
        futures.ThreadPoolExecutor(2 * PREPARES_MAX),
        options=[
            # A second process on the same port is a mistake, and not a partner.
            ("grpc.so_reuseport", 0),
            ("grpc.max_receive_message_length", 8 << 20),
        ],
    )
    service = Participant(args.name, barrier, stock.ACTIONS, PREPARES_MAX)
    participant_pb2_grpc.add_ParticipantServiceServicer_to_server(service, server)
    host = args.listen.rpartition(":")[0]
    port = server.add_insecure_port(args.listen)
    server.start()
    # Commits and Cancels are served before anything is set up. In a database whose prepared transactions
    # hold locks, one of a former life would keep these statements waiting, and nobody would end it.
    with barrier.transaction() as db:
        for table in stock.SCHEMA:
            db.execute(table)
        # What is there is not filled up again at the next start.
        db.executemany("INSERT INTO stock (item, free) VALUES (?, ?) ON CONFLICT DO NOTHING", args.item)
    endpoint = args.advertise or f"http://{host}:{port}"
    print(f"participant {args.name} {endpoint}", flush=True)

    channel = grpc.insecure_channel(args.coordinator.removeprefix("http://"), options=KEEP_ALIVE)
    registration = Registration(channel, args.name, endpoint, barrier.database_id)
    sweeper = Sweeper(channel, args.name, barrier, args.sweep_interval)
    for thread in (registration, sweeper):
        thread.start()
    told_to_end = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: told_to_end.set())
    told_to_end.wait()
    for thread in (registration, sweeper):
        thread.stop()
    server.stop(DRAIN_S).wait()


if __name__ == "__main__":
    main()
