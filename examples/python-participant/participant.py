"""The service that the coordinator calls: messages in, the barrier's answers out."""

import logging
import re
import threading
import uuid

import grpc
from google.protobuf.duration_pb2 import Duration
from unanimo.v1 import participant_pb2 as wire
from unanimo.v1 import participant_pb2_grpc, transaction_pb2

from barrier import Busy, Refused

log = logging.getLogger("participant")

ID = re.compile(r"[A-Za-z0-9_.:-]{1,128}\Z")

# After which a call that found something in its way is to be sent again.
RETRY_AFTER = Duration(nanos=200_000_000)

HEURISTICS = {
    "commit": wire.HEURISTIC_KIND_COMMIT,
    "rollback": wire.HEURISTIC_KIND_ROLLBACK,
    "hazard": wire.HEURISTIC_KIND_HAZARD,
}


class Participant(participant_pb2_grpc.ParticipantServiceServicer):
    def __init__(self, name, barrier, actions, prepares_max):
        self.name, self.barrier, self.actions = name, barrier, actions
        # Fewer than the server has threads: Commit and Cancel always find one, or Prepares that wait
        # for what only a Commit frees would keep it out.
        self.prepare_slots = threading.BoundedSemaphore(prepares_max)

    def Prepare(self, request, call):
        self._check(request, call)
        if not self.prepare_slots.acquire(blocking=False):
            return wire.PrepareResponse(working=wire.Working(retry_after=RETRY_AFTER))
        try:
            until = None
            if request.HasField("prepare_until"):
                until = request.prepare_until.ToNanoseconds() / 1e9
            vote, row = self.barrier.prepare(
                request.context, until, lambda db: self._action(request).try_(db, request.payload)
            )
        except Busy:
            return wire.PrepareResponse(working=wire.Working(retry_after=RETRY_AFTER))
        finally:
            self.prepare_slots.release()
        log.info("prepare %s of %s: %s", request.context.branch_id, request.context.tx_id, vote)
        if vote == "prepared":
            return wire.PrepareResponse(prepared=wire.Prepared(output=row.output))
        # A message is cut off at 1,024 bytes on its way; a reason must not be longer than 64.
        refusal = transaction_pb2.Refusal(reason=row.reason, message=row.message[:250])
        return wire.PrepareResponse(refused=refusal)

    def Commit(self, request, call):
        return self._finish(
            "commit",
            request,
            call,
            self.barrier.commit,
            lambda action: action.confirm,
            wire.ParticipantServiceCommitResponse,
        )

    def Cancel(self, request, call):
        return self._finish(
            "cancel",
            request,
            call,
            self.barrier.cancel,
            lambda action: action.cancel,
            wire.CancelResponse,
        )

    def _finish(self, name, request, call, operation, method, response):
        self._check(request, call)
        try:
            # The stored output, not the request's, which the coordinator may have lost.
            end, note = operation(
                request.context,
                lambda db, output: method(self._action(request))(db, request.payload, output),
            )
        except Busy:
            return response(working=wire.Working(retry_after=RETRY_AFTER))
        log.info("%s %s of %s: %s", name, request.context.branch_id, request.context.tx_id, end)
        if end == "done":
            return response(done=wire.Done())
        return response(heuristic=wire.HeuristicOutcome(kind=HEURISTICS[end], note=note))

    def _action(self, request):
        """Raised inside the barrier, a refusal is a vote like any other: stored."""
        if request.context.mode != transaction_pb2.MODE_TCC:
            raise Refused("MODE_NOT_OFFERED", f"{self.name} takes part in TCC only")
        if request.action not in self.actions:
            raise Refused("ACTION_NOT_OFFERED", f"{self.name} has no action {request.action}")
        return self.actions[request.action]

    def _check(self, request, call):
        """What names no branch of ours gets an error status, which is no vote."""
        context = request.context
        try:
            uuid.UUID(context.tx_id)
        except ValueError:
            call.abort(grpc.StatusCode.INVALID_ARGUMENT, "context.tx_id must be a UUID")
        for field in ("gid", "branch_id"):
            if not ID.match(getattr(context, field)):
                call.abort(grpc.StatusCode.INVALID_ARGUMENT, f"context.{field} breaks the rules")
        if context.branch_number == 0 or context.mode == transaction_pb2.MODE_UNSPECIFIED:
            call.abort(grpc.StatusCode.INVALID_ARGUMENT, "context has no branch_number or mode")
        if context.participant != self.name:
            text = f"this is participant {self.name}, and not {context.participant}"
            call.abort(grpc.StatusCode.FAILED_PRECONDITION, text)
