"""The example's barrier and service, with an action that works outside of its database. Run by outside.rs: each
function is a case, and says its name when it has passed."""

import sys
import time
import uuid

from google.protobuf.timestamp_pb2 import Timestamp
from unanimo.v1 import participant_pb2 as wire
from unanimo.v1 import transaction_pb2

from barrier import Barrier, Refused
from participant import Participant


class Died(Exception):
    """Stands for a process that was killed: its local transaction is rolled back."""


class Elsewhere:
    """The other service, and its ledger: keys that are held, and keys that were released."""

    held, released, cancels = set(), set(), []


class Pay:
    outside = True

    @staticmethod
    def first(db, payload):
        key, _, deed = payload.decode().partition(" ")
        if not key:
            raise Refused("PAYLOAD_UNREADABLE", "write a key")
        db.execute("INSERT INTO effect VALUES (?, 'try')", (key,))
        if key in Elsewhere.released:
            raise Refused("RELEASED", "the key was released")
        Elsewhere.held.add(key)
        if deed == "die":
            raise Died()
        if deed == "refuse":
            raise Refused("NO", "said the handler")
        return b"held", "text/plain"

    @staticmethod
    def back(db, payload, output):
        key, _, deed = payload.decode().partition(" ")
        if not key:
            raise Refused("PAYLOAD_UNREADABLE", "write a key")
        Elsewhere.cancels.append((key, output))
        Elsewhere.held.discard(key)
        Elsewhere.released.add(key)
        db.execute("INSERT INTO effect VALUES (?, 'cancel')", (key,))
        if deed == "stuck":
            raise Died()

    @classmethod
    def try_(cls, db, payload, _inputs):
        return cls.first(db, payload)

    run = try_

    @staticmethod
    def confirm(db, payload, _inputs, _output):
        pass

    @classmethod
    def cancel(cls, db, payload, _inputs, output):
        cls.back(db, payload, output)

    compensate = cancel


class Inside(Pay):
    outside = False


class Call:
    @staticmethod
    def time_remaining(*_):
        return None

    @staticmethod
    def invocation_metadata(*_):
        return ()

    @staticmethod
    def abort(_code, text):
        # What the operation has raised.
        raise sys.exc_info()[1] or RuntimeError(text)


barrier = Barrier(sys.argv[1])
with barrier.transaction() as db:
    db.execute("CREATE TABLE effect (key text NOT NULL, what text NOT NULL)")
participant = Participant(
    "pay", barrier, {"tcc": {"pay": Pay, "inside": Inside}, "saga": {"pay": Pay}}, 8
)


# A process of a version that does not have the action yet.
older = Participant("pay", barrier, {"tcc": {}, "saga": {}}, 8)


class Branch:
    def __init__(self, deed="", mode=transaction_pb2.MODE_TCC, action="pay", key=None):
        self.key = uuid.uuid4().hex if key is None else key
        self.deed, self.action = deed, action
        self.context = transaction_pb2.BranchContext(
            tx_id=str(uuid.uuid4()),
            gid="g",
            branch_id="b",
            branch_number=1,
            cluster_id="c",
            participant="pay",
            mode=mode,
        )

    def payload(self, deed):
        data = f"{self.key} {self.deed if deed is None else deed}".strip()
        return transaction_pb2.Payload(data=data.encode())

    def request(self, deed=None, until=None, must_succeed=False):
        bound = Timestamp()
        bound.FromSeconds(int(until or time.time() + 60))
        return wire.PrepareRequest(
            context=self.context,
            action=self.action,
            payload=self.payload(deed),
            prepare_until=None if must_succeed else bound,
            must_succeed=must_succeed,
            attempt=1,
        )

    def prepare(self, deed=None, until=None, must_succeed=False):
        try:
            answer = participant.Prepare(self.request(deed, until, must_succeed), Call)
        except Died:
            return "died"
        kind = answer.WhichOneof("answer")
        return answer.refused.reason if kind == "refused" else kind

    def cancel(self, deed=None):
        bound = Timestamp()
        bound.FromSeconds(int(time.time() + 60))
        request = wire.CancelRequest(
            context=self.context,
            action=self.action,
            payload=self.payload(deed),
            prepare_until=bound,
            attempt=1,
        )
        try:
            return participant.Cancel(request, Call).WhichOneof("answer")
        except Died:
            return "died"

    def effects(self):
        with barrier.transaction() as db:
            effects = db.execute("SELECT what FROM effect WHERE key = ?", (self.key,)).fetchall()
        return [what for (what,) in effects]

    def cancels(self):
        return [output for key, output in Elsewhere.cancels if key == self.key]


def expect(found, expected):
    assert found == expected, f"{found!r} instead of {expected!r}"


def what_died_is_cancelled_outside_and_once():
    for mode in (transaction_pb2.MODE_TCC, transaction_pb2.MODE_SAGA):
        branch = Branch("die", mode)
        expect(branch.prepare(), "died")
        expect(branch.key in Elsewhere.held, True)
        expect(branch.cancel(), "done")
        expect(branch.key in Elsewhere.held, False)
        expect(branch.cancel(), "done")
        expect(branch.cancels(), [None])
        expect(branch.effects(), ["cancel"])
        expect(branch.prepare(""), "ALREADY_ENDED")
        expect(branch.key in Elsewhere.held, False)


def a_cancel_that_fails_comes_again():
    branch = Branch("stuck")
    expect(branch.cancel(), "died")
    expect(branch.effects(), [])
    expect(branch.cancel(""), "done")
    expect(branch.cancels(), [None, None])
    expect(branch.effects(), ["cancel"])


def no_refusal_leaves_anything_outside():
    refused, late = Branch("refuse"), Branch("die")
    expect(refused.prepare(), "NO")
    expect(late.prepare(), "died")
    expect(late.prepare("", until=1), "TOO_LATE")
    for branch in (refused, late):
        expect(branch.key in Elsewhere.held, False)
        expect(branch.effects(), ["cancel"])
        expect(branch.cancels(), [None])
        expect(branch.cancel(), "done")
        expect(branch.cancels(), [None])
    unreadable = Branch(key="")
    expect(unreadable.prepare(), "PAYLOAD_UNREADABLE")
    expect(Branch(key="").cancel(), "done")


def a_refusal_is_not_stored_before_it_is_taken_back():
    branch = Branch("stuck")
    expect(branch.prepare(until=1), "died")
    expect(branch.prepare(""), "RELEASED")


def what_must_succeed_is_not_taken_back():
    branch = Branch("refuse", transaction_pb2.MODE_SAGA)
    expect(branch.prepare(must_succeed=True), "NO")
    expect(branch.cancels(), [])
    expect(branch.key in Elsewhere.held, True)


def a_yes_is_cancelled_with_its_output():
    branch = Branch()
    expect(branch.prepare(), "prepared")
    expect(branch.cancel(), "done")
    expect(branch.cancels(), [b"held"])
    expect(branch.effects(), ["try", "cancel"])


def what_an_older_version_refused_is_cancelled_outside():
    for mode in (transaction_pb2.MODE_TCC, transaction_pb2.MODE_SAGA):
        branch = Branch("die", mode)
        expect(branch.prepare(), "died")
        expect(branch.key in Elsewhere.held, True)
        expect(older.Prepare(branch.request(""), Call).refused.reason, "ACTION_NOT_OFFERED")
        expect(branch.cancel("stuck"), "died")
        expect(branch.prepare(""), "ACTION_NOT_OFFERED")
        for _ in range(2):
            expect(branch.cancel(""), "done")
        expect(branch.key in Elsewhere.held, False)
        expect(branch.cancels(), [None, None])
        expect(branch.effects(), ["cancel"])
        expect(branch.prepare(""), "ALREADY_ENDED")


def other_actions_are_as_ever():
    branch = Branch("die", action="inside")
    expect(branch.prepare(), "died")
    expect(branch.cancel(), "done")
    expect(branch.cancels(), [])
    expect(branch.prepare(""), "ALREADY_ENDED")


def what_another_process_did_not_know_is_cancelled_where_it_is_known():
    known = participant.actions
    older = {"tcc": {"inside": Inside}, "saga": {}}
    for deed, reason in (("", "ACTION_NOT_OFFERED"), ("key", "PAYLOAD_UNREADABLE")):
        for mode in (transaction_pb2.MODE_TCC, transaction_pb2.MODE_SAGA):
            branch = Branch("die", mode)
            expect(branch.prepare(), "died")
            key = branch.key
            if deed:
                branch.key = ""
                # What was held has the key that this process can read.
                expect(branch.prepare(""), reason)
                branch.key = key
            else:
                participant.actions = older
                expect(branch.prepare(""), reason)
                expect(branch.prepare(""), reason)
                participant.actions = known
            expect(key in Elsewhere.held, True)
            expect(branch.cancel(), "done")
            expect(branch.cancel(), "done")
            expect(key in Elsewhere.held, False)
            expect(branch.cancels(), [None])
            expect(branch.effects(), ["cancel"])
            assert branch.prepare("") != "prepared"
    # A no that its handler gave has been undone outside before it was stored.
    branch = Branch("refuse")
    expect(branch.prepare(), "NO")
    expect(branch.cancel(), "done")
    expect(branch.cancels(), [None])


for case in (
    what_died_is_cancelled_outside_and_once,
    a_cancel_that_fails_comes_again,
    no_refusal_leaves_anything_outside,
    a_refusal_is_not_stored_before_it_is_taken_back,
    what_must_succeed_is_not_taken_back,
    a_yes_is_cancelled_with_its_output,
    what_an_older_version_refused_is_cancelled_outside,
    other_actions_are_as_ever,
    what_another_process_did_not_know_is_cancelled_where_it_is_known,
):
    case()
    print(case.__name__)
