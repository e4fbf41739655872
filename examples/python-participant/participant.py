"""The service that the coordinator calls: messages in, the barrier's answers out."""

import logging
import re
import threading
import uuid

import grpc
from google.protobuf.duration_pb2 import Duration
from unanimo.v1 import participant_pb2 as wire
from unanimo.v1 import participant_pb2_grpc, transaction_pb2

import tracing
from barrier import Busy, Refused
from overtime import Bounded, Overtime

log = logging.getLogger("participant")

ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:-]{0,127}\Z")
CLUSTER_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:-]{0,31}\Z")

# What a call may require. Anything else is refused: without it the work would be another one.
FEATURES = ("must_succeed", "output_bytes_max", "saga", "step_inputs", "tcc")

# Modes that it takes part in, and each one's own name for Prepare, Commit and Cancel. A step of a saga is
# sent no Commit: its yes is the end of it.
MODES = {transaction_pb2.MODE_TCC: "tcc", transaction_pb2.MODE_SAGA: "saga"}
METHODS = {"tcc": ("try_", "confirm", "cancel"), "saga": ("run", None, "compensate")}

# After which a call that found something in its way is to be sent again, at first and at most. It doubles
# with each attempt.
RETRY_AFTER_MS = 200
RETRY_AFTER_MS_MAX = 30_000

# How long an operation may go on past its call's deadline, and how long a call is taken to wait that names none.
OVERTIME_S = 60
CALL_TIMEOUT_S = 30
# Longest time that a call may have. One without a deadline has more seconds left than a thread can wait.
CALL_TIME_MAX_S = 600

# Bytes of a refusal, and of a status as it travels. A longer status would end the whole connection, and every other
# call on it.
REASON_BYTES_MAX, MESSAGE_BYTES_MAX, STATUS_BYTES_MAX = 64, 1024, 1024

HEURISTICS = {
    "commit": wire.HEURISTIC_KIND_COMMIT,
    "rollback": wire.HEURISTIC_KIND_ROLLBACK,
    "hazard": wire.HEURISTIC_KIND_HAZARD,
}


class Gone(Exception):
    """The action of a branch in doubt is not offered any more, and its work is needed."""


class Participant(participant_pb2_grpc.ParticipantServiceServicer):
    def __init__(self, name, barrier, actions, prepares_max, overtime_s=OVERTIME_S):
        self.name, self.barrier, self.actions = name, barrier, actions
        self.bounded, self.overtime_s = Bounded(barrier), overtime_s
        # Fewer than the server has threads: Commit and Cancel always find one, or Prepares that wait
        # for what only a Commit frees would keep it out.
        self.prepare_slots = threading.BoundedSemaphore(prepares_max)

    def Prepare(self, request, call):
        self._check(request, call)
        def operation():
            if not self.prepare_slots.acquire(blocking=False):
                raise Busy()
            try:
                return self.barrier.prepare(
                    request.context,
                    MODES.get(request.context.mode, ""),
                    bound(request),
                    must_succeed(request),
                    lambda db: self._work(request, db),
                    self._take_back(request),
                )
            finally:
                self.prepare_slots.release()

        try:
            vote, row = self._run(request, call, operation)
        except Busy:
            return wire.PrepareResponse(working=working(request))
        self._tell("prepare", request, call, vote)
        database_id = self.barrier.database_id
        if vote == "prepared":
            output = transaction_pb2.Payload(data=row.output, media_type=row.output_type)
            return wire.PrepareResponse(
                prepared=wire.Prepared(output=output), database_id=database_id
            )
        refusal = transaction_pb2.Refusal(
            reason=cut(row.reason, REASON_BYTES_MAX), message=cut(row.message, MESSAGE_BYTES_MAX)
        )
        return wire.PrepareResponse(refused=refusal, database_id=database_id)

    def Commit(self, request, call):
        return self._phase_two(
            "commit",
            request,
            call,
            self.barrier.commit,
            1,
            wire.CommitResponse,
        )

    def Cancel(self, request, call):
        return self._phase_two(
            "cancel",
            request,
            call,
            lambda context, work: self.barrier.cancel(
                context, bound(request), work, self._take_back(request)
            ),
            2,
            wire.CancelResponse,
        )

    def _phase_two(self, name, request, call, operation, method, response):
        self._check(request, call)
        unknown = unknown_feature(request)
        if unknown:
            # No answer: the call comes again, perhaps at another endpoint.
            text = f"{self.name} does not know the required feature {unknown}"
            abort(call, grpc.StatusCode.UNIMPLEMENTED, text)
        asked, own = request.context.database_id, self.barrier.database_id
        if asked not in ("", own):
            # A Commit of a branch of this participant, or it would be no call of ours. What this database holds of the
            # branch, if anything, is not what was voted for.
            note = f"this process has the database {own}, and not {asked} as those that are registered"
            log.error("alarm=participant_other_database %s", note)
            return response(heuristic=wire.HeuristicOutcome(kind=wire.HEURISTIC_KIND_HAZARD, note=note))

        def work(db, mode, output):
            return self._end(request, method, db, mode, output)

        try:
            end, note = self._run(request, call, lambda: operation(request.context, work))
        except Busy:
            return response(working=working(request))
        self._tell(name, request, call, end)
        if end == "done":
            return response(done=wire.Done())
        return response(heuristic=wire.HeuristicOutcome(kind=HEURISTICS[end], note=note))

    def _tell(self, name, request, call, end):
        of, trace_id = request.context, tracing.id_of(tracing.of_call(call))
        log.info("%s %s of %s: %s trace=%s", name, of.branch_id, of.tx_id, end, trace_id)

    def _run(self, request, call, operation):
        """Runs an operation of the barrier. One that fails is no answer: the call comes again."""
        of = f"branch {request.context.branch_id} of {request.context.tx_id}"
        traceparent = tracing.of_call(call)
        left_s = call.time_remaining()
        time_s = self.overtime_s + (CALL_TIMEOUT_S if left_s is None else min(left_s, CALL_TIME_MAX_S))
        try:
            return self.bounded.run(time_s, lambda: tracing.within(traceparent, operation))
        except Busy:
            raise
        except Overtime as error:
            log.error("alarm=operation_overtime %s: %s", of, error)
            abort(call, grpc.StatusCode.DEADLINE_EXCEEDED, str(error))
        except Gone as error:
            log.error("alarm=open_action_gone %s: %s", of, error)
            abort(call, grpc.StatusCode.INTERNAL, str(error))
        except Exception as error:
            log.exception("no answer for %s; it comes again", of)
            abort(call, grpc.StatusCode.UNKNOWN, f"{type(error).__name__}: {error}")

    def _end(self, request, method, db, mode, output):
        """By the row's mode and output: the request's mode may be of a later version, and its output may have
        been lost by the coordinator."""
        name = METHODS[mode][method]
        if name is None:
            return None
        action = self.actions.get(mode, {}).get(request.action)
        if action is None:
            raise Gone(f"{self.name} has no action {request.action} in mode {mode} any more, and its branch is prepared")
        return getattr(action, name)(db, request.payload.data, inputs(request), output)

    def _take_back(self, request):
        """Of an action that says `outside = True`: takes back what any attempt may have left outside of the
        database, where that holds no trace of it. Its cancel, or compensate, gets None as the output, and
        must tolerate what never happened. None for all other actions."""
        mode = MODES.get(request.context.mode)
        action = self.actions.get(mode, {}).get(request.action)
        if not getattr(action, "outside", False):
            return None

        def take_back(db):
            try:
                return getattr(action, METHODS[mode][2])(db, request.payload.data, inputs(request), None)
            except Refused as no:
                # No attempt can have worked on what cannot be read. Phase two has no other no.
                if no.reason != "PAYLOAD_UNREADABLE":
                    raise RuntimeError(no.message) from no
                return None

        return take_back

    def _work(self, request, db):
        """Answers with the output and its media type."""
        unknown = unknown_feature(request)
        if unknown:
            text = f"{self.name} does not know the required feature {unknown}"
            raise Refused("FEATURE_UNSUPPORTED", text)
        # Raised inside the barrier, a refusal is a vote like any other: stored.
        mode = MODES.get(request.context.mode)
        if mode is None:
            raise Refused("MODE_NOT_OFFERED", f"{self.name} takes part in TCC and sagas only")
        action = self.actions[mode].get(request.action)
        if action is None:
            raise Refused(
                "ACTION_NOT_OFFERED", f"{self.name} has no action {request.action} in mode {mode}"
            )
        output, media_type = getattr(action, METHODS[mode][0])(
            db, request.payload.data, inputs(request)
        )
        # The coordinator cannot undo the saga any more for an output that a later step would miss.
        most = request.output_bytes_max if request.HasField("output_bytes_max") else len(output)
        if len(output) > most:
            text = f"the output must be at most {most} bytes here, has {len(output)}"
            raise Refused("OUTPUT_TOO_LARGE", text)
        return output, media_type

    def _check(self, request, call):
        """What names no branch of ours gets an error status, which is no vote."""
        context = request.context
        try:
            canonical = str(uuid.UUID(context.tx_id)) == context.tx_id
        except ValueError:
            canonical = False
        if not canonical:
            abort(call, grpc.StatusCode.INVALID_ARGUMENT, "context.tx_id must be a UUID")
        for field, rule in (("gid", ID), ("branch_id", ID), ("cluster_id", CLUSTER_ID)):
            if not rule.match(getattr(context, field)):
                abort(call, grpc.StatusCode.INVALID_ARGUMENT, f"context.{field} breaks the rules")
        if context.branch_number == 0 or context.mode == transaction_pb2.MODE_UNSPECIFIED:
            abort(call, grpc.StatusCode.INVALID_ARGUMENT, "context has no branch_number or mode")
        if context.participant != self.name:
            text = f"this is participant {self.name}, and not {context.participant}"
            abort(call, grpc.StatusCode.FAILED_PRECONDITION, text)
        is_other = context.database_id not in ("", self.barrier.database_id)
        if is_other and not isinstance(request, wire.CommitRequest):
            text = f"this process has the database {self.barrier.database_id}"
            abort(call, grpc.StatusCode.FAILED_PRECONDITION, text)
        # A copy of the database has the same id. Nothing is done to it, and no Commit is taken for answered.
        if not is_other and context.database_place not in ("", self.barrier.database_place):
            text = f"this process has its database at {self.barrier.database_place}, and not at {context.database_place}"
            abort(call, grpc.StatusCode.FAILED_PRECONDITION, text)


def abort(call, code, text):
    """Ends a call without an answer."""
    call.abort(code, cut(text, STATUS_BYTES_MAX, on_the_wire))


def cut(text, bytes_max, size=len):
    """The beginning of a text: so many bytes of UTF-8 at most, by their `size`."""
    # What is no text, such as half of a pair of surrogates, cannot be sent.
    text, bytes_ = text.encode(errors="replace").decode(), 0
    for index, character in enumerate(text):
        bytes_ += size(character.encode())
        if bytes_ > bytes_max:
            return text[:index]
    return text


def on_the_wire(bytes_):
    """The size of bytes in a status, where most others than letters and digits are written as %XX."""
    return sum(1 if 0x20 <= byte <= 0x7E and byte != 0x25 else 3 for byte in bytes_)


def working(request):
    """Something is in the way. It may be for as long as a person needs to remove it: the pause grows."""
    doubled = RETRY_AFTER_MS << min(max(request.attempt, 1) - 1, 16)
    milliseconds = min(doubled, RETRY_AFTER_MS_MAX)
    return wire.Working(retry_after=Duration(seconds=milliseconds // 1000, nanos=milliseconds % 1000 * 10**6))


def unknown_feature(request):
    """The first required feature that is not known, or None."""
    return next((name for name in request.requires if name not in FEATURES), None)


def must_succeed(request):
    """Whether no refusal may be stored. The name in `requires` is enough where something else is not
    known."""
    named = "must_succeed" in request.requires and unknown_feature(request) is not None
    return request.must_succeed or named


def inputs(request):
    """Outputs of earlier steps, by the names that the saga's definition gives them."""
    return {name: payload.data for name, payload in request.inputs.items()}


def bound(request):
    """Until when a Prepare of the branch may come, in seconds since 1970; None if there is no bound."""
    if request.HasField("prepare_until"):
        return request.prepare_until.ToNanoseconds() / 1e9
    return None
