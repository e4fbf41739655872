"""The example's sweeper, and the ends of operations that have none. Run by sweep.rs: each function is a case, and says
its name when it has passed."""

import logging
import sqlite3
import subprocess
import sys
import threading
import time
import uuid

import grpc
from google.protobuf.timestamp_pb2 import Timestamp
from unanimo.v1 import coordinator_pb2, participant_pb2, transaction_pb2

import alarms
import barrier as module
import sweeper as sweeping
from barrier import Barrier, Busy
from participant import STATUS_BYTES_MAX, Participant, cut, on_the_wire, working
from sweeper import Sweeper

COMMIT, CANCEL = coordinator_pb2.VERDICT_COMMIT, coordinator_pb2.VERDICT_CANCEL
RUNNING, NEVER_SEEN = coordinator_pb2.VERDICT_RUNNING, coordinator_pb2.VERDICT_NEVER_SEEN
LATER = 99

MINUTE, HOUR, DAY = 60, 3600, 86400

told = []


class Collect(logging.Handler):
    def emit(self, record):
        told.append(record.getMessage())


logging.getLogger().addHandler(Collect())
barrier = Barrier(sys.argv[1])
with barrier.transaction() as db:
    db.execute("CREATE TABLE effect (who text)")


class Down(grpc.RpcError):
    def __init__(self, code=grpc.StatusCode.UNAVAILABLE):
        self.code, self.details = lambda: code, lambda: "nobody is there"


class Coordinator:
    """Tells the verdicts of branches, by tx_id."""

    def __init__(self):
        self.verdicts, self.questions, self.down = {}, [], None

    def InquireBranches(self, request, timeout):
        self.questions.append(request)
        if self.down is not None:
            raise Down(self.down)
        unknown = coordinator_pb2.BranchVerdict(verdict=RUNNING)
        verdicts = [self.verdicts.get(branch.tx_id, unknown) for branch in request.branches]
        return coordinator_pb2.InquireBranchesResponse(verdicts=verdicts)


def fresh():
    """A sweeper with a coordinator, and no rows."""
    with barrier.transaction() as db:
        db.execute("DELETE FROM barrier")
    told.clear()
    sweeper = Sweeper(grpc.insecure_channel("127.0.0.1:1"), "shop", barrier, 1)
    sweeper.coordinator = Coordinator()
    return sweeper, sweeper.coordinator


def row(coordinator, state="prepared", mode="tcc", age_s=10 * MINUTE, verdict=None, ended=False, over_s=None, until=None):
    """A row of such an age, and what the coordinator tells of it: its deadline was `over_s` ago."""
    tx_id, now = str(uuid.uuid4()), time.time()
    with barrier.transaction() as db:
        db.execute(
            "INSERT INTO barrier (tx_id, branch_id, cluster_id, mode, state, until, changed_at) "
            "VALUES (?, 'b', 'c', ?, ?, ?, ?)",
            (tx_id, mode, state, until, now - age_s),
        )
    if verdict is not None:
        bound = None
        if over_s is not None:
            bound = Timestamp()
            bound.FromNanoseconds(int((now - over_s) * 1e9))
        coordinator.verdicts[tx_id] = coordinator_pb2.BranchVerdict(
            verdict=verdict, ended=ended, prepare_until=bound
        )
    return tx_id


def sweep(sweeper, times=2):
    for _ in range(times):
        sweeper._ask_for_what_is_in_doubt()


def alarm_of(tx_id):
    of = [text for text in told if text.startswith("alarm=") and tx_id in text]
    assert len(of) <= 1, of
    return of[0].partition(" ")[0].removeprefix("alarm=") if of else None


def expect(seen, wanted):
    assert seen == wanted, f"{seen!r} instead of {wanted!r}"


def what_is_in_doubt_for_too_long_is_an_alarm():
    for alarm, of in (
        ("in_doubt_unknown", {"verdict": NEVER_SEEN, "age_s": 2 * MINUTE}),
        ("in_doubt_ended", {"verdict": COMMIT, "ended": True, "age_s": 2 * MINUTE}),
        # Decided, and the Commit or Cancel does not come or is not done.
        (None, {"verdict": COMMIT, "age_s": 4 * MINUTE}),
        ("in_doubt_not_ended", {"verdict": COMMIT}),
        ("in_doubt_not_ended", {"verdict": CANCEL}),
        ("in_doubt_not_ended", {"verdict": CANCEL, "mode": "saga", "age_s": 2 * HOUR}),
        (None, {"verdict": CANCEL, "mode": "saga", "age_s": HOUR}),
        (None, {"verdict": COMMIT, "mode": "saga", "age_s": DAY}),
        # Not decided: for long, and past its deadline. A step may wait for its saga for ever.
        (None, {"verdict": RUNNING, "age_s": 50 * MINUTE}),
        ("in_doubt_not_decided", {"verdict": RUNNING, "age_s": 2 * HOUR}),
        ("in_doubt_not_decided", {"verdict": LATER, "age_s": 2 * HOUR}),
        (None, {"verdict": RUNNING, "age_s": DAY, "over_s": 50 * MINUTE}),
        (None, {"verdict": RUNNING, "age_s": DAY, "over_s": -DAY}),
        ("in_doubt_not_decided", {"verdict": RUNNING, "age_s": DAY, "over_s": 2 * HOUR}),
        (None, {"verdict": RUNNING, "mode": "saga", "age_s": 9 * DAY}),
    ):
        sweeper, coordinator = fresh()
        tx_id = row(coordinator, **of)
        sweep(sweeper, 1)
        expect(alarm_of(tx_id), None)  # One look may be a coincidence.
        sweep(sweeper, 3)
        expect(alarm_of(tx_id), alarm)


def a_step_that_waits_for_its_compensation_is_an_alarm_in_time():
    sweeper, coordinator = fresh()
    tx_id = row(coordinator, mode="saga", verdict=CANCEL, age_s=HOUR)
    sweep(sweeper)
    expect((alarm_of(tx_id), len(coordinator.questions)), (None, 2))
    for branch in sweeper.alarms.waiting:
        sweeper.alarms.waiting[branch] -= 6 * MINUTE
    sweep(sweeper)
    expect(alarm_of(tx_id), "in_doubt_not_ended")


def a_coordinator_that_does_not_answer_is_an_alarm():
    sweeper, coordinator = fresh()
    old, young = row(coordinator), row(coordinator, age_s=4 * MINUTE)
    step = row(coordinator, mode="saga", age_s=2 * HOUR)
    coordinator.down = grpc.StatusCode.UNAVAILABLE
    sweep(sweeper, 3)
    expect([alarm_of(of) for of in (old, young, step)], ["in_doubt_unanswered", None, "in_doubt_unanswered"])
    # A proxy's no is no answer.
    sweeper, coordinator = fresh()
    coordinator.down, old = grpc.StatusCode.NOT_FOUND, row(coordinator)
    sweep(sweeper)
    expect(alarm_of(old), "in_doubt_unanswered")
    sweeper, coordinator = fresh()
    coordinator.down, old = grpc.StatusCode.FAILED_PRECONDITION, row(coordinator)
    sweep(sweeper)
    expect(alarm_of(old), "in_doubt_other_cluster")


def a_silent_group_costs_one_question_and_no_purge():
    sweeper, coordinator = fresh()
    coordinator.down, sweeping.INQUIRE_MAX = grpc.StatusCode.UNAVAILABLE, 2
    kept = [row(coordinator, state="committed", until=1) for _ in range(5)]
    gone = row(coordinator, state="refused", until=1)
    sweeper._purge()
    sweeping.INQUIRE_MAX = 256
    expect(len(coordinator.questions), 1)
    with barrier.transaction() as db:
        left = {tx_id for (tx_id,) in db.execute("SELECT tx_id FROM barrier")}
    expect(left, set(kept))
    # Questions that fail do not keep it from purging.
    rounds = iter([False, True])
    sweeper._ask_for_what_is_in_doubt, sweeper.stopped.wait = lambda: 1 / 0, lambda _: next(rounds)
    gone = row(coordinator, state="refused", until=1)
    sweeper.run()
    with barrier.transaction() as db:
        expect(db.execute("SELECT 1 FROM barrier WHERE tx_id = ?", (gone,)).fetchone(), None)


def a_clock_that_is_ahead_for_a_moment_purges_nothing():
    sweeper, coordinator = fresh()
    young, old = row(coordinator, state="cancelled", until=time.time()), row(coordinator, state="refused", until=1)

    def left():
        with barrier.transaction() as db:
            return {tx_id for (tx_id,) in db.execute("SELECT tx_id FROM barrier")}

    real, ahead = time.time, 0
    time.time = lambda: real() + ahead
    try:
        for ahead in (8 * DAY, -8 * DAY, 2 * DAY):
            sweeper._purge()
            expect(left(), {young, old})
        expect(len([text for text in told if text.startswith("alarm=clock_skew")]), 1)
        ahead = 0
        sweeper._purge()
        expect(left(), {young})
        # It stays where it was set.
        ahead = 8 * DAY
        sweeper._purge()
        expect(left(), {young})
        at, since = sweeper.clock.even
        sweeper.clock.even = (at - HOUR, since - HOUR)
        sweeper._purge()
        expect(left(), set())
    finally:
        time.time = real


def what_is_of_a_time_to_come_is_asked_about():
    sweeper, coordinator = fresh()
    ahead, _young = row(coordinator, age_s=-HOUR), row(coordinator, age_s=-10)
    sweep(sweeper, 1)
    expect([branch.tx_id for question in coordinator.questions for branch in question.branches], [ahead])
    # Nobody knows its age: the second time that it is not decided, it is an alarm.
    coordinator.verdicts[ahead] = coordinator_pb2.BranchVerdict(verdict=RUNNING)
    sweep(sweeper, 2)
    expect(alarm_of(ahead), "in_doubt_not_decided")


def what_runs_is_asked_about_less_often_and_keeps_its_age():
    sweeper, coordinator = fresh()
    tx_id = row(coordinator, verdict=RUNNING, age_s=50 * MINUTE)
    sweep(sweeper, 3)
    expect(len(coordinator.questions), 1)
    with barrier.transaction() as db:
        db.execute("UPDATE barrier SET ask_at = ask_at - 301, changed_at = changed_at - 900")
    sweep(sweeper, 3)
    # One that is an alarm is asked about in each sweep, until it is well.
    expect((len(coordinator.questions), alarm_of(tx_id)), (4, "in_doubt_not_decided"))
    coordinator.verdicts[tx_id] = coordinator_pb2.BranchVerdict(verdict=CANCEL)
    with barrier.transaction() as db:
        db.execute("UPDATE barrier SET state = 'cancelled'")
    sweep(sweeper)
    expect(sweeper.alarms.seen, {})


def an_alarm_is_told_once_in_an_hour_and_memory_is_bounded():
    sweeper, coordinator = fresh()
    tx_id = row(coordinator, verdict=NEVER_SEEN)
    sweep(sweeper, 5)
    expect(len([text for text in told if tx_id in text]), 1)
    for known in sweeper.alarms.seen.values():
        known[2] -= alarms.REPEAT_S
    sweep(sweeper)
    expect(len([text for text in told if tx_id in text]), 2)
    for number in range(alarms.REMEMBERED_MAX + 5):
        sweeper.alarms.raise_(("c", str(number), "b"), "in_doubt_ended")
        sweeper.alarms.waits_s(("c", str(number), "b"))
    expect((len(sweeper.alarms.seen), len(sweeper.alarms.waiting)), (1000, 1000))
    # One of these was there before.
    sweeper.alarms.end()
    beyond = [text for text in told if "alarm=in_doubt_ended 6 more branches" in text]
    expect(len(beyond), 1)


def a_file_of_an_older_version_is_taken():
    path = sys.argv[1] + ".old"
    old = module.SCHEMA.replace("    ask_at     real,\n", "")
    assert "ask_at" not in old
    with sqlite3.connect(path) as db:
        db.executescript(old)
    for _ in range(2):
        expect(Barrier(path).in_doubt(60, ("", "", ""), 9), [])


class Aborted(Exception):
    pass


class Call:
    def __init__(self, left_s=0.2):
        self.left_s, self.code, self.text = left_s, None, None

    def time_remaining(self):
        return self.left_s

    def invocation_metadata(self):
        return ()

    def abort(self, code, text):
        self.code, self.text = code, text
        raise Aborted()


class Work:
    """An action that does what it is told, and hangs until it is let go."""

    let_go = threading.Event()

    @classmethod
    def try_(cls, db, payload, _inputs):
        deed = payload.decode()
        db.execute("INSERT INTO effect VALUES (?)", (deed,))
        endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) "
        if deed == "hang":
            cls.let_go.wait(60)
        elif deed == "count":
            db.execute(endless + "SELECT count(*) FROM n").fetchall()
        elif deed == "write":
            db.execute(endless + "INSERT INTO effect SELECT i FROM n WHERE i < 0")
        elif deed == "go on":
            for _ in range(3):
                try:
                    db.execute(endless + "SELECT count(*) FROM n").fetchall()
                except sqlite3.OperationalError:
                    pass
        elif deed.startswith("fail"):
            raise LookupError(deed)
        return b"", ""

    @classmethod
    def confirm(cls, db, payload, _inputs, _output):
        db.execute("INSERT INTO effect VALUES ('confirmed')")
        if payload.decode() == "hang":
            cls.let_go.wait(60)

    cancel = confirm


# Seconds that gRPC says are left of a call without a deadline.
FOR_EVER_S = float(2**63 - 1)


def a_call_without_a_deadline_is_answered():
    expect(call("Prepare", context(), "reserve", FOR_EVER_S), "prepared")


gave_up = []
participant = Participant("shop", barrier, {"tcc": {"work": Work}, "saga": {}}, 2, overtime_s=0)
participant.bounded.give_up, participant.bounded.end_s = lambda: gave_up.append(1), 0.5


def context():
    return transaction_pb2.BranchContext(
        tx_id=str(uuid.uuid4()), gid="g", branch_id="b", branch_number=1, cluster_id="c", participant="shop",
        mode=transaction_pb2.MODE_TCC,
    )


def call(method, of, deed, left_s=0.2):
    kinds = {"Prepare": participant_pb2.PrepareRequest, "Commit": participant_pb2.CommitRequest,
             "Cancel": participant_pb2.CancelRequest}
    payload, seen = transaction_pb2.Payload(data=deed.encode()), Call(left_s)
    try:
        request = kinds[method](context=of, action="work", payload=payload, attempt=1)
        return getattr(participant, method)(request, seen).WhichOneof("answer")
    except Aborted:
        return seen.code.name


def effects():
    with barrier.transaction() as db:
        return db.execute("SELECT who FROM effect").fetchall()


def threads():
    return [thread for thread in threading.enumerate() if thread.daemon]


def until(condition):
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end, "it takes too long"
        time.sleep(0.01)


def a_statement_without_an_end_is_interrupted():
    for deed in ("count", "write"):
        fresh()
        of = context()
        expect(call("Prepare", of, deed), "DEADLINE_EXCEEDED")
        assert any(text.startswith("alarm=operation_overtime branch b of") for text in told), told
        expect((effects(), threads(), gave_up), ([], [], []))
        # Nothing of it is left: its branch may be called again, or cancelled.
        expect(call("Prepare", of, "ok", 5), "prepared")
        expect(call("Cancel", of, "ok", 5), "done")
        with barrier.transaction() as db:
            db.execute("DELETE FROM effect")
    # Work that goes on behind each interrupted statement has a vote, which its caller does not hear.
    of = context()
    expect(call("Prepare", of, "go on"), "DEADLINE_EXCEEDED")
    expect((threads(), gave_up), ([], []))
    expect(call("Prepare", of, "ok", 5), "prepared")
    expect(call("Cancel", of, "ok", 5), "done")


def work_that_hangs_ends_the_process():
    fresh()
    expect(call("Prepare", context(), "hang"), "DEADLINE_EXCEEDED")
    expect(len(gave_up), 1)
    assert any("this process ends" in text for text in told), told
    Work.let_go.set()
    until(lambda: not threads())
    Work.let_go.clear()
    of = context()
    expect(call("Prepare", of, "ok", 5), "prepared")
    expect(call("Commit", of, "hang"), "DEADLINE_EXCEEDED")
    expect(len(gave_up), 2)
    Work.let_go.set()
    until(lambda: not threads())
    expect(call("Commit", of, "ok", 5), "done")
    Work.let_go.clear()
    # As it is in a process of its own.
    ends = (
        "import types\n"
        "from overtime import Bounded\n"
        "bounded = Bounded(types.SimpleNamespace(interrupt=lambda _: None))\n"
        "bounded.end_s = 0.1\n"
        "bounded.run(0.1, __import__('threading').Event().wait)\n"
    )
    expect(subprocess.run([sys.executable, "-c", ends]).returncode, 70)


def the_pauses_of_working_grow_up_to_a_limit():
    pauses = []
    for attempt in (0, 1, 2, 3, 9, 99, 2**32 - 1):
        pause = working(participant_pb2.CommitRequest(attempt=attempt)).retry_after
        pauses.append(pause.seconds * 1000 + pause.nanos // 10**6)
    first, most = pauses[1], pauses[-1]
    assert 0 < first <= 1000 and 10_000 <= most <= 60_000, pauses
    expect(pauses, [first, first, 2 * first, 4 * first, min(256 * first, most), most, most])


def no_text_ends_a_connection():
    fresh()
    for text in ("fail " + "x" * 90_000, "fail " + "é" * 90_000, "fail %" * 20_000, "fail \ud800" * 9):
        seen = Call(5)
        payload = transaction_pb2.Payload(data=text.encode(errors="surrogatepass"))
        request = participant_pb2.PrepareRequest(context=context(), action="work", payload=payload, attempt=1)
        try:
            participant.Prepare(request, seen)
            raise AssertionError("it has an answer")
        except Aborted:
            pass
        size = on_the_wire(seen.text.encode())
        assert seen.text.startswith(("LookupError: fail", "UnicodeDecodeError")), seen.text
        assert STATUS_BYTES_MAX - 9 < size <= STATUS_BYTES_MAX or len(text) < 1000, size
        expect(seen.code, grpc.StatusCode.UNKNOWN)
    long = participant_pb2.PrepareRequest(context=context(), action="a" * 90_000, attempt=1)
    refused = participant.Prepare(long, Call(5)).refused
    expect((refused.reason, len(refused.message)), ("ACTION_NOT_OFFERED", 1024))
    expect(len(cut("é" * 2000, 1024).encode()), 1024)
    expect(cut("a\ud800b", 9), "a?b")


def an_action_that_is_gone_is_an_alarm():
    fresh()
    for method in ("Commit", "Cancel"):
        of = context()
        expect(call("Prepare", of, "well"), "prepared")
        kept, told[:] = participant.actions["tcc"].pop("work"), []
        try:
            expect(call(method, of, "well"), "INTERNAL")
            alarms_told = [line for line in told if line.startswith("alarm=open_action_gone")]
            assert len(alarms_told) == 1 and of.tx_id in alarms_told[0], told
        finally:
            participant.actions["tcc"]["work"] = kept
        expect(call(method, of, "well"), "done")


for case in (
    what_is_in_doubt_for_too_long_is_an_alarm,
    a_step_that_waits_for_its_compensation_is_an_alarm_in_time,
    a_coordinator_that_does_not_answer_is_an_alarm,
    a_silent_group_costs_one_question_and_no_purge,
    a_clock_that_is_ahead_for_a_moment_purges_nothing,
    what_is_of_a_time_to_come_is_asked_about,
    what_runs_is_asked_about_less_often_and_keeps_its_age,
    an_alarm_is_told_once_in_an_hour_and_memory_is_bounded,
    a_file_of_an_older_version_is_taken,
    a_statement_without_an_end_is_interrupted,
    work_that_hangs_ends_the_process,
    the_pauses_of_working_grow_up_to_a_limit,
    no_text_ends_a_connection,
    a_call_without_a_deadline_is_answered,
    an_action_that_is_gone_is_an_alarm,
):
    case()
    print(case.__name__)
