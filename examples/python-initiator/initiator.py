"""Calls to a coordinator that survive lost answers. Take this file along: it knows nothing of orders."""

import random
import time

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from unanimo.v1 import coordinator_pb2 as wire
from unanimo.v1 import coordinator_pb2_grpc, transaction_pb2

import secure

COMMITTED = transaction_pb2.OUTCOME_COMMITTED
ABORTED = transaction_pb2.OUTCOME_ABORTED

# Deadline of one call. Longer than most transactions take, so that one call is mostly enough.
CALL_TIMEOUT_S = 10

# Pauses between calls: doubled from the first to the last, and spread.
FIRST_PAUSE_S, LAST_PAUSE_S = 0.1, 5

# Shortest time from one answer "not decided" to the next call.
NOT_DECIDED_PAUSE_S = 1

# Codes that do not pass by themselves where the status is not the coordinator's own.
LASTING = (
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.OUT_OF_RANGE,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.UNAUTHENTICATED,
    grpc.StatusCode.UNIMPLEMENTED,
)


class NotKnown(Exception):
    """No answer has come, and patience has run out or asking again does not help. The outcome may be
    either, or may still be open."""


class Refused(Exception):
    """The coordinator itself said no, and nothing of what was asked for has happened by any of the calls. The same
    call does not help until something else has changed."""

    def __init__(self, reason, message, metadata):
        super().__init__(f"{reason}: {message}")
        self.reason, self.metadata = reason, metadata


class Initiator:
    def __init__(self, address, files=secure.Files()):
        # Without pings a connection whose other end vanished would hang until the system notices.
        pings = [("grpc.keepalive_time_ms", 30_000), ("grpc.keepalive_timeout_ms", 10_000)]
        self.stub = coordinator_pb2_grpc.CoordinatorServiceStub(
            secure.channel(address, files, options=pings)
        )

    def submit(self, request, patience_s):
        """Runs a transaction to its outcome. The request is sent again as it is, byte for byte: its gid
        makes it the same transaction, however often it arrives."""
        return self._until_decided(self.stub.SubmitTransaction, request, patience_s)

    def rollback(self, gid, patience_s):
        """Asks for ABORT. Afterwards nothing of this gid will ever run, unless it was committed before:
        look at the outcome."""
        request = wire.RollbackTransactionRequest(gid=gid, wait_for=transaction_pb2.WAIT_FOR_ENDED)
        return self._until_decided(self.stub.RollbackTransaction, request, patience_s)

    def outcome(self, gid, patience_s):
        """The transaction as it stands, or None if the coordinator knows no such gid."""
        request = wire.GetTransactionRequest(
            gid=gid, wait_for=transaction_pb2.WAIT_FOR_ENDED, include_outputs=True
        )
        try:
            return self._answer(self.stub.GetTransaction, request, patience_s, changes=False).transaction
        except Refused as no:
            if no.reason in ("GID_UNKNOWN", "TRANSACTION_NEVER_SEEN", "TRANSACTION_PURGED"):
                return None
            raise

    def _until_decided(self, call, request, patience_s):
        until, is_stored = time.monotonic() + patience_s, False
        while True:
            asked = time.monotonic()
            result = self._answer(call, request, until - asked, is_open=is_stored).result
            if result.outcome in (COMMITTED, ABORTED):
                return result
            # Not decided, or a value of a later version, which means the same. Mostly the call has waited.
            is_stored = True
            time.sleep(max(0, asked + NOT_DECIDED_PAUSE_S - time.monotonic()))

    def _answer(self, call, request, patience_s, changes=True, is_open=False):
        """Calls until the coordinator answers. `is_open`: an earlier call may have had its effect."""
        until, pause_s = time.monotonic() + patience_s, FIRST_PAUSE_S
        while (left_s := until - time.monotonic()) > 0:
            try:
                return call(request, timeout=min(left_s, CALL_TIMEOUT_S))
            except grpc.RpcError as error:
                if request.include_outputs and is_too_large(error):
                    # The outputs are no part of what makes two requests the same.
                    smaller = type(request)()
                    smaller.CopyFrom(request)
                    smaller.include_outputs = False
                    request, is_open = smaller, changes
                    continue
                told_s, may_have_worked = judge(error, changes, is_open)
                is_open |= may_have_worked
            pause_s = min(2 * pause_s, LAST_PAUSE_S)
            time.sleep(min(max(told_s, pause_s * random.uniform(0.5, 1)), max(left_s, 0)))
        raise NotKnown("no answer so far")


def details(error):
    """Returns the coordinator's ErrorInfo, which is empty in a status of anybody else, and the pause that
    it asks for."""
    status, pause_s, info = rpc_status.from_call(error), 0, error_details_pb2.ErrorInfo()
    for detail in status.details if status else ():
        retry = error_details_pb2.RetryInfo()
        if detail.Unpack(retry):
            pause_s = retry.retry_delay.ToNanoseconds() / 1e9
        detail.Unpack(info)
    return info if info.domain == "unanimo" else error_details_pb2.ErrorInfo(), pause_s


def is_too_large(error):
    """Tells whether this program's own gRPC library refused an answer for its size."""
    return error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED and not details(error)[0].reason


def judge(error, changes, is_open):
    """Returns the pause before the next attempt, and whether this one may have had its effect. Raises Refused if
    the coordinator itself said no, and NotKnown where asking again does not help.

    A no speaks of its own call alone. If an earlier one has had no answer (`is_open`) it may have worked, or may
    still arrive: then the outcome is not known. That a gid belongs to another transaction excludes them all.

    Any other status, UNAVAILABLE, DEADLINE_EXCEEDED, INTERNAL or UNKNOWN from the connection, a proxy or a
    library, tells nothing about the transaction.
    """
    info, pause_s = details(error)
    may_have_worked = changes and (not info.reason or info.metadata["effect"] != "none")
    if info.reason and info.metadata["retryable"] != "true":
        if info.reason != "GID_REUSED" and (is_open or may_have_worked):
            told = f"{info.reason}: {error.details()}; it says nothing of an earlier call without an answer"
            raise NotKnown(told) from error
        raise Refused(info.reason, error.details(), dict(info.metadata)) from error
    if not info.reason and error.code() in LASTING:
        raise NotKnown(f"{error.code().name}: {error.details()}; a person must look") from error
    return pause_s, may_have_worked
