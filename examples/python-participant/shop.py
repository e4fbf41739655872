"""A shop in Python that takes part in transactions: it reserves and sells pieces of its stock.

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
from unanimo.v1 import directory_pb2, directory_pb2_grpc, participant_pb2_grpc

import secure
import stock
from accept import Accept, credentials
from barrier import Barrier, once_free
from participant import FEATURES, OVERTIME_S, Participant
from sweeper import Sweeper

log = logging.getLogger("shop")

# Threads for Prepares, and as many more for Commits and Cancels.
PREPARES_MAX = 8

# How long calls under way may take when the process is told to end.
DRAIN_S = 30

CALL_TIMEOUT_S = 5
RETRY_S = 1

# A connection that swallows everything is found out, and replaced.
KEEP_ALIVE = [
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
]


class Registration(threading.Thread):
    """Tells the coordinator where this process answers, again and again."""

    def __init__(self, channel, name, endpoint, barrier):
        super().__init__(daemon=True)
        self.directory = directory_pb2_grpc.ParticipantDirectoryServiceStub(channel)
        self.barrier = barrier
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
            database_id=self.barrier.database_id,
            database_place=self.barrier.database_place,
        )
        try:
            answer = self.directory.RegisterEndpoint(request, timeout=CALL_TIMEOUT_S)
        except grpc.RpcError as error:
            log.warning("not registered yet: %s", error.details())
            return RETRY_S
        return answer.keep_alive_interval.ToNanoseconds() / 1e9 or RETRY_S


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
    parser.add_argument(
        "--overtime",
        type=float,
        default=OVERTIME_S,
        metavar="SECONDS",
        help="how long an operation may go on past its call's deadline",
    )
    parser.add_argument("--tls-cert", metavar="FILE", help="serve with TLS: the certificate")
    parser.add_argument("--tls-key", metavar="FILE", help="its private key")
    parser.add_argument("--tls-client-ca", metavar="FILE", help="authorities of which every caller needs a certificate")
    parser.add_argument(
        "--accept", action="append", default=[], metavar="NAME", help="hear callers with this name in their certificate"
    )
    parser.add_argument("--accept-tokens", metavar="FILE", help="hear callers with a token of which it has the hash")
    secure.add_arguments(parser, prefix="coordinator-")
    args = parser.parse_args()
    if bool(args.tls_cert) != bool(args.tls_key):
        raise SystemExit("a certificate and its key belong together: give --tls-cert and --tls-key")
    if args.tls_client_ca and not args.tls_cert:
        raise SystemExit("--tls-client-ca is for a server with TLS: give --tls-cert and --tls-key")
    if args.accept and not args.tls_client_ca:
        raise SystemExit("--accept compares names in verified certificates: give --tls-client-ca")
    return args


def main():
    args = arguments()
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    barrier = Barrier(args.database)
    server = grpc.server(
        futures.ThreadPoolExecutor(2 * PREPARES_MAX),
        # Without names and tokens everybody who reaches the port is heard.
        interceptors=[Accept(args.accept, args.accept_tokens)] if args.accept or args.accept_tokens else [],
        options=[
            # A second process on the same port is a mistake, and not a partner.
            ("grpc.so_reuseport", 0),
            ("grpc.max_receive_message_length", 8 << 20),
        ],
    )
    service = Participant(args.name, barrier, stock.ACTIONS, PREPARES_MAX, args.overtime)
    participant_pb2_grpc.add_ParticipantServiceServicer_to_server(service, server)
    host = args.listen.rpartition(":")[0]
    if args.tls_cert:
        tls = credentials(args.tls_cert, args.tls_key, args.tls_client_ca)
        port = server.add_secure_port(args.listen, tls)
    else:
        port = server.add_insecure_port(args.listen)
    if not secure.is_here(args.listen):
        if not args.tls_cert:
            log.warning("other machines can reach %s, which has no TLS: whoever is on the way can read and change calls", args.listen)
        if not (args.tls_client_ca or args.accept_tokens):
            log.warning("other machines can reach %s, and every caller is heard: whoever reaches it can commit", args.listen)
    server.start()
    # Commits and Cancels are served before anything is set up. In a database whose prepared transactions
    # hold locks, one of a former life would keep these statements waiting, and nobody would end it.
    def set_up():
        with barrier.transaction() as db:
            for table in stock.SCHEMA:
                db.execute(table)
            # What is there is not filled up again at the next start.
            db.executemany("INSERT INTO stock (item, free) VALUES (?, ?) ON CONFLICT DO NOTHING", args.item)

    once_free(set_up)
    endpoint = args.advertise or f"{'https' if args.tls_cert else 'http'}://{host}:{port}"
    print(f"participant {args.name} {endpoint}", flush=True)

    channel = secure.channel(args.coordinator, secure.files(args, "coordinator-"), KEEP_ALIVE)
    registration = Registration(channel, args.name, endpoint, barrier)
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
