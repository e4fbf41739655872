"""A shop in Python that takes part in transactions: it reserves pieces of its stock.

    PYTHONPATH=stubs python shop.py --database shop.db --item lamp=10
"""

import argparse
import contextlib
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
from participant import Participant

log = logging.getLogger("shop")

# Threads for Prepares, and as many more for Commits and Cancels.
PREPARES_MAX = 8

# How long calls under way may take when the process is told to end.
DRAIN_S = 30

CALL_TIMEOUT_S = 5
RETRY_S = 1
PURGE_INTERVAL_S = 3600
INQUIRE_MAX = 256


class Registration(threading.Thread):
    """Tells the coordinator where this process answers, again and again; and purges meanwhile."""

    def __init__(self, coordinator, name, endpoint, barrier):
        super().__init__(daemon=True)
        self.channel = grpc.insecure_channel(coordinator.removeprefix("http://"))
        self.directory = directory_pb2_grpc.ParticipantDirectoryServiceStub(self.channel)
        self.name_of, self.endpoint, self.barrier = name, endpoint, barrier
        # New for each start: calls that wait for this participant then go out at once.
        self.instance = str(uuid.uuid4())
        self.stopped = threading.Event()

    def run(self):
        since_purge_s = PURGE_INTERVAL_S
        while True:
            pause_s = self._register()
            since_purge_s += pause_s
            if since_purge_s >= PURGE_INTERVAL_S:
                since_purge_s = 0
                self._purge()
            if self.stopped.wait(pause_s):
                break
        request = directory_pb2.DeregisterRequest(
            participant=self.name_of, endpoint=self.endpoint
        )
        with contextlib.suppress(grpc.RpcError):
            self.directory.Deregister(request, timeout=CALL_TIMEOUT_S)

    def stop(self):
        self.stopped.set()
        self.join()

    def _register(self):
        """Registers once; answers after how many seconds to do it again."""
        request = directory_pb2.RegisterRequest(
            participant=self.name_of, endpoint=self.endpoint, instance_id=self.instance
        )
        try:
            answer = self.directory.Register(request, timeout=CALL_TIMEOUT_S)
        except grpc.RpcError as error:
            log.warning("not registered yet: %s", error.details())
            return RETRY_S
        return answer.keep_alive_interval.ToNanoseconds() / 1e9 or RETRY_S

    def _purge(self):
        """Rows that nobody needs any more. What is committed stays until the coordinator says that
        it knows of it, or has itself forgotten the transaction."""
        try:
            self.barrier.purge()
            keys = self.barrier.ended_long_ago(INQUIRE_MAX)
            if not keys:
                return
            branches = [
                coordinator_pb2.InquireBranch(tx_id=tx_id, branch_id=branch_id)
                for tx_id, branch_id in keys
            ]
            request = coordinator_pb2.InquireRequest(participant=self.name_of, branches=branches)
            coordinator = coordinator_pb2_grpc.CoordinatorServiceStub(self.channel)
            results = coordinator.Inquire(request, timeout=CALL_TIMEOUT_S).results
            self.barrier.forget(
                key
                for key, result in zip(keys, results)
                if result.ended or result.verdict == coordinator_pb2.VERDICT_PURGED
            )
        except Exception:  # The next round does it.
            log.exception("not purged")


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
    return parser.parse_args()


def main():
    args = arguments()
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    barrier = Barrier(args.database)
    with barrier.transaction() as db:
        db.execute(stock.SCHEMA)
        # What is there is not filled up again at the next start.
        db.executemany("INSERT INTO stock (item, free) VALUES (?, ?) ON CONFLICT DO NOTHING", args.item)

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
    endpoint = args.advertise or f"http://{host}:{port}"
    print(f"participant {args.name} {endpoint}", flush=True)

    registration = Registration(args.coordinator, args.name, endpoint, barrier)
    registration.start()
    told_to_end = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: told_to_end.set())
    told_to_end.wait()
    registration.stop()
    server.stop(DRAIN_S).wait()


if __name__ == "__main__":
    main()
