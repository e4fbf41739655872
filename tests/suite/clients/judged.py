"""What the initiator in Python makes of sequences of answers. Run by clients.rs: each line of the table is a case, and
the number of those that have passed is printed."""

import types

import grpc
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2
from unanimo.v1 import coordinator_pb2 as wire
from unanimo.v1 import transaction_pb2

import initiator
import order
from initiator import Initiator, NotKnown, Refused

initiator.FIRST_PAUSE_S = initiator.LAST_PAUSE_S = initiator.NOT_DECIDED_PAUSE_S = 0.001


class Status(grpc.RpcError):
    """A status as the library raises it: the coordinator's own with a reason, and anybody's without."""

    def __init__(self, code, reason="", domain="unanimo", **metadata):
        self.status, self.trailing = code, ()
        if reason:
            info = error_details_pb2.ErrorInfo(reason=reason, domain=domain, metadata=metadata)
            detail = any_pb2.Any()
            detail.Pack(info)
            status = status_pb2.Status(code=code.value[0], message=self.details(), details=[detail])
            self.trailing = (("grpc-status-details-bin", status.SerializeToString()),)

    def code(self):
        return self.status

    def details(self):
        return "said somebody"

    def trailing_metadata(self):
        return self.trailing


CODE = grpc.StatusCode


def no(reason, effect="none", code=CODE.INVALID_ARGUMENT, **more):
    return Status(code, reason, retryable="false", effect=effect, **more)


def not_now(effect="none"):
    return Status(CODE.UNAVAILABLE, "STORE_UNAVAILABLE", retryable="true", effect=effect)


LOST = Status(CODE.UNAVAILABLE)
LATE = Status(CODE.DEADLINE_EXCEEDED)
PROXY = Status(CODE.PERMISSION_DENIED)
NOBODY = Status(CODE.NOT_FOUND)
TOO_LARGE = Status(CODE.RESOURCE_EXHAUSTED)
OTHERS = no("FIELD_INVALID", domain="example.com")
REUSED = no("GID_REUSED", code=CODE.ALREADY_EXISTS)
UNKNOWN = no("PARTICIPANT_UNKNOWN")
FEATURE = no("FEATURE_UNSUPPORTED", code=CODE.UNIMPLEMENTED)
CLOSED = no("TRANSACTION_CLOSED", effect="unknown", code=CODE.FAILED_PRECONDITION)
OLD = Status(CODE.FAILED_PRECONDITION, "SOMETHING_NEW")
NOTHING = no("GID_UNKNOWN", code=CODE.NOT_FOUND)


def result(outcome, heuristic=transaction_pb2.HEURISTIC_NONE):
    result = wire.TransactionResult(tx_id="t", outcome=outcome, heuristic=heuristic)
    return types.SimpleNamespace(result=result, transaction=result)


OPEN = result(transaction_pb2.OUTCOME_NOT_DECIDED)
YES = result(transaction_pb2.OUTCOME_COMMITTED)
ABORTED = result(transaction_pb2.OUTCOME_ABORTED)

# Answers in order, and what the caller is told. A no is one only if no call before may have worked.
SUBMITS = [
    ([YES], YES),
    ([LOST, not_now(), YES], YES),
    ([LATE, OPEN, ABORTED], ABORTED),
    ([UNKNOWN], Refused),
    ([not_now(), not_now(), UNKNOWN], Refused),
    ([LOST, UNKNOWN], NotKnown),
    ([LATE, not_now(), FEATURE], NotKnown),
    ([not_now("unknown"), UNKNOWN], NotKnown),
    ([OPEN, UNKNOWN], NotKnown),
    ([OPEN, LOST, NOTHING], NotKnown),
    ([CLOSED], NotKnown),
    ([OLD], NotKnown),
    ([REUSED], Refused),
    ([LOST, REUSED], Refused),
    ([PROXY], NotKnown),
    ([UNKNOWN, YES], Refused),
    ([OTHERS, YES], NotKnown),
    ([NOBODY, YES], NotKnown),
    ([OTHERS, UNKNOWN], NotKnown),
    ([TOO_LARGE, YES], YES),
    ([TOO_LARGE, UNKNOWN], NotKnown),
    ([TOO_LARGE, TOO_LARGE], NotKnown),
    ([LOST] * 1000, NotKnown),
]

# A question changes nothing, so that an answer that is lost does not matter.
QUESTIONS = [
    ([LOST, YES], YES.result),
    ([LOST, LATE, NOTHING], None),
    ([not_now("unknown"), NOTHING], None),
    ([LOST, no("FIELD_INVALID")], Refused),
    ([PROXY], NotKnown),
]


def said(answers, ask):
    answers = iter(answers)

    def call(_request, timeout):
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    of = Initiator("127.0.0.1:1")
    of.stub = types.SimpleNamespace(SubmitTransaction=call, GetTransaction=call, RollbackTransaction=call)
    try:
        return ask(of)
    except (NotKnown, Refused) as error:
        return type(error)


def submit(of):
    return of.submit(wire.SubmitTransactionRequest(gid="g", include_outputs=True), 0.5)


passed = 0
for answers, expected in SUBMITS:
    expected = getattr(expected, "result", expected)
    found = said(answers, submit)
    assert found == expected, f"{answers}: {found!r} instead of {expected!r}"
    passed += 1
for answers, expected in QUESTIONS:
    found = said(answers, lambda of: of.outcome("g", 0.5))
    assert found == expected, f"{answers}: {found!r} instead of {expected!r}"
    passed += 1

# The exit code of order.py: a branch that has not done as was decided is no success.
NONE, MIXED, HAZARD = (
    transaction_pb2.HEURISTIC_NONE,
    transaction_pb2.HEURISTIC_MIXED,
    transaction_pb2.HEURISTIC_HAZARD,
)
for outcome, heuristic, code in (
    (transaction_pb2.OUTCOME_COMMITTED, NONE, 0),
    (transaction_pb2.OUTCOME_COMMITTED, MIXED, 6),
    (transaction_pb2.OUTCOME_COMMITTED, HAZARD, 6),
    (transaction_pb2.OUTCOME_COMMITTED, 99, 6),
    (transaction_pb2.OUTCOME_COMMITTED, transaction_pb2.HEURISTIC_UNSPECIFIED, 6),
    (transaction_pb2.OUTCOME_ABORTED, NONE, 4),
    (transaction_pb2.OUTCOME_ABORTED, MIXED, 6),
    (transaction_pb2.OUTCOME_NOT_DECIDED, NONE, 5),
    (99, NONE, 5),
):
    found = order.tell(result(outcome, heuristic).result)
    assert found == code, f"{outcome} {heuristic}: {found} instead of {code}"
    passed += 1
print(f"passed {passed}")
