"""The example's barrier and business, where the work cannot be done, or its data has vanished. Run by work.rs: each
function is a case, and says its name when it has passed."""

import json
import signal
import sqlite3
import subprocess
import sys
import threading
import time
import types
import uuid

import barrier as module
import stock
from barrier import Barrier, Busy, Lost, Refused

barrier = Barrier(sys.argv[1])
with barrier.transaction() as db:
    for table in stock.SCHEMA:
        db.execute(table)
    db.execute("CREATE TABLE account (id text PRIMARY KEY, cents integer CHECK (cents >= 0))")
    db.execute("CREATE TABLE posting (account text REFERENCES account DEFERRABLE INITIALLY DEFERRED)")
    db.execute("CREATE TABLE effect (who text)")
    db.execute(
        "CREATE TRIGGER frozen BEFORE UPDATE ON account WHEN new.cents = 999 "
        "BEGIN SELECT RAISE(ABORT, 'the account is frozen'); END"
    )
    db.execute("INSERT INTO account VALUES ('ann', 5)")
    db.execute("INSERT INTO stock (item, free) VALUES ('lamp', 100)")


def branch(branch_id="b"):
    return types.SimpleNamespace(tx_id=str(uuid.uuid4()), branch_id=branch_id, cluster_id="c")


def prepare(of, work, must_succeed=False, take_back=None):
    state, row = barrier.prepare(of, "tcc", None, must_succeed, work, take_back)
    return state, row.reason


def run(statements):
    with barrier.transaction() as db:
        for statement in statements.split(";"):
            db.execute(statement)


def found(query):
    with barrier.transaction() as db:
        return db.execute(query).fetchall()


def count(table):
    return found(f"SELECT count(*) FROM {table}")[0][0]


def expect(seen, wanted):
    assert seen == wanted, f"{seen!r} instead of {wanted!r}"


def fails(error, work):
    try:
        seen = work()
    except error as raised:
        return str(raised)
    raise AssertionError(f"{seen!r}, and no {error.__name__}")


REFUSED = ("refused", "CONSTRAINT_VIOLATED")


def what_a_constraint_refuses_is_a_no_and_is_stored():
    for statement, text in (
        ("INSERT INTO account VALUES ('ann', 1)", "UNIQUE constraint failed"),
        ("UPDATE account SET cents = cents - 6", "CHECK constraint failed"),
        ("INSERT INTO customer (name) VALUES (NULL)", "NOT NULL constraint failed"),
        ("UPDATE account SET cents = 999", "the account is frozen"),
    ):
        of, runs, back = branch(), [], []

        def work(db):
            runs.append(1)
            db.execute("INSERT INTO account VALUES (?, 1)", (str(uuid.uuid4()),))
            db.execute(statement)

        for _ in range(2):
            state, row = barrier.prepare(of, "tcc", None, False, work, lambda db: back.append(1))
            expect((state, row.reason), REFUSED)
            assert text in row.message, row.message
        expect((len(runs), len(back), count("account")), (1, 1, 1))
        expect(barrier.cancel(of, None, None), ("done", ""))
        expect(barrier.commit(branch(), None)[0], "hazard")


def an_error_that_is_raised_from_one_of_these_is_a_no():
    class Mine(Exception):
        pass

    def raising(statement):
        def work(db):
            try:
                db.execute(statement)
            except sqlite3.Error as error:
                try:
                    raise Mine("in the shop") from error
                except Mine as inner:
                    raise Mine("at the till") from inner

        return work

    of, broken = branch(), raising("INSERT INTO account VALUES ('ann', 1)")
    expect(prepare(of, broken), REFUSED)
    expect(prepare(of, lambda db: (b"", "")), REFUSED)
    # Not what the database says of itself, and not what is behind an end of the process.
    fails(Mine, lambda: prepare(branch(), raising("UPDATE nobody SET a = 1")))

    def ends(db):
        try:
            db.execute("INSERT INTO account VALUES ('ann', 1)")
        except sqlite3.Error as error:
            raise SystemExit(1) from error

    fails(SystemExit, lambda: prepare(branch(), ends))


def what_is_not_known_is_no_vote_whatever_it_was_raised_from():
    class Mine(Exception):
        pass

    def raising(*errors):
        def work(db):
            try:
                db.execute("INSERT INTO account VALUES ('ann', 1)")
            except sqlite3.IntegrityError as error:
                for later in errors:
                    later.__cause__, error = error, later
                raise error

        return work

    again = sqlite3.OperationalError("no such table: nobody")
    for errors in ([Busy()], [again], [Busy(), Mine()], [Lost("lost"), Mine()], [Mine(), again, Mine()]):
        of = branch()
        fails(type(errors[-1]), lambda: prepare(of, raising(*errors)))
        expect(prepare(of, lambda db: (b"", "")), ("prepared", ""))
    of = branch()
    fails(Lost, lambda: prepare(of, raising(Lost("lost"))))
    expect(barrier.cancel(of, None, None)[0], "hazard")


def a_value_that_does_not_fit_is_a_no():
    of = branch()
    work = lambda db: db.execute("UPDATE account SET cents = ?", (2**64,))
    expect(prepare(of, work), ("refused", "DATABASE_REFUSED"))
    expect(prepare(of, lambda db: (b"", "")), ("refused", "DATABASE_REFUSED"))


def what_the_database_says_of_its_schema_is_no_vote():
    of = branch()
    fails(sqlite3.OperationalError, lambda: prepare(of, lambda db: db.execute("UPDATE nobody SET a = 1")))
    expect(prepare(of, lambda db: (b"", "")), ("prepared", ""))


def work_that_must_succeed_is_refused_and_not_stored():
    of = branch()
    expect(prepare(of, lambda db: db.execute("INSERT INTO account VALUES ('ann', 1)"), True), REFUSED)
    expect(prepare(of, lambda db: (b"", ""), True), ("prepared", ""))


def a_check_that_is_deferred_is_a_no_and_is_stored():
    connect, taken_back = Barrier._connect, []

    def with_keys(self):
        db = connect(self)
        db.execute("PRAGMA foreign_keys = ON")
        return db

    Barrier._connect = with_keys
    try:
        of = branch()

        def work(db):
            db.execute("INSERT INTO posting VALUES ('nobody')")
            return b"", ""

        for _ in range(2):
            expect(prepare(of, work, False, lambda db: taken_back.append(1)), REFUSED)
        expect((count("posting"), taken_back), (0, [1]))
        of = branch()
        expect(prepare(of, work, True), REFUSED)
        expect(prepare(of, lambda db: (b"", ""), True), ("prepared", ""))
        # In phase two it is no end.
        undo = lambda db, mode, output: work(db)
        fails(sqlite3.IntegrityError, lambda: barrier.cancel(of, None, undo))
        expect(found(f"SELECT state FROM barrier WHERE tx_id = '{of.tx_id}'"), [("prepared",)])
    finally:
        Barrier._connect = connect


def work_that_has_lost_its_transaction_leaves_nothing():
    begin = ("BEGIN", "SAVEPOINT mine", "BEGIN IMMEDIATE")
    write = ("INSERT INTO effect VALUES ('me')", "CREATE TABLE more (n)", "PRAGMA user_version = 7")
    for statement in (*begin, *write):

        def work(db):
            # Compiled once before, when it was allowed.
            db.execute("INSERT INTO effect VALUES ('me')")
            db.execute("ROLLBACK")
            # What reads is allowed, and what says the database's no may be passed over.
            db.execute("SELECT count(*) FROM effect").fetchone()
            try:
                db.execute(statement)
            except sqlite3.DatabaseError:
                pass
            return b"", ""

        of = branch()
        for _ in range(3):
            fails(Lost, lambda: prepare(of, work))
        expect(barrier.cancel(of, None, None)[0], "hazard")
        expect(barrier.commit(of, None)[0], "hazard")
    expect((count("effect"), found("PRAGMA user_version")), (0, [(0,)]))


def a_loss_is_recorded_however_long_others_keep_the_file():
    module.LOCK_TIMEOUT_S = 0.2
    of = branch()
    over, held = threading.Event(), threading.Event()

    def hold():
        db = sqlite3.connect(sys.argv[1], isolation_level=None)
        over.wait()
        db.execute("BEGIN IMMEDIATE")
        held.set()
        time.sleep(0.7)
        db.execute("ROLLBACK")
        db.close()

    holder = threading.Thread(target=hold)
    holder.start()

    def work(db):
        db.execute("ROLLBACK")
        over.set()
        held.wait()
        db.execute("INSERT INTO effect VALUES ('me')")
        return b"", ""

    fails(Lost, lambda: prepare(of, work))
    holder.join()
    # A further attempt finds the row, and does not work.
    fails(Lost, lambda: prepare(of, lambda db: sys.exit("it works again")))
    expect(count("effect"), 0)
    expect(barrier.cancel(of, None, None)[0], "hazard")
    module.LOCK_TIMEOUT_S = 2.0


class Step:
    """A branch of an action of the stock."""

    def __init__(self, action, payload, inputs=()):
        self.context, self.action = branch(), action
        self.payload, self.inputs = json.dumps(payload).encode(), dict(inputs)
        first = getattr(action, "run", None) or action.try_
        state, row = barrier.prepare(
            self.context, "saga", None, False, lambda db: first(db, self.payload, self.inputs)
        )
        assert state == "prepared", row
        self.output = json.loads(row.output)

    def undo(self):
        undo = getattr(self.action, "compensate", None) or self.action.cancel
        work = lambda db, mode, output: undo(db, self.payload, self.inputs, output)
        return barrier.cancel(self.context, None, work)

    def confirm(self):
        work = lambda db, mode, output: self.action.confirm(db, self.payload, self.inputs, output)
        return barrier.commit(self.context, work)

    def state(self):
        return found(f"SELECT state FROM barrier WHERE tx_id = '{self.context.tx_id}'")


def what_a_killed_process_has_committed_by_itself_is_a_hazard():
    killed = (
        "import os, signal, sys, types\n"
        "from barrier import Barrier\n"
        "barrier, of = Barrier(sys.argv[1]), types.SimpleNamespace(tx_id=sys.argv[2], branch_id='b', cluster_id='c')\n"
        "def work(db, *_):\n"
        "    db.execute('INSERT INTO effect VALUES (?)', (of.tx_id,))\n"
        "    db.execute('COMMIT')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "if sys.argv[3] == 'prepare':\n"
        "    barrier.prepare(of, 'tcc', None, False, work)\n"
        "getattr(barrier, sys.argv[3])(of, *([None] if sys.argv[3] == 'cancel' else []), work)\n"
    )
    for operation in ("prepare", "commit", "cancel"):
        of = branch()
        if operation != "prepare":
            expect(prepare(of, lambda _: (b"", "")), ("prepared", ""))
        ran = subprocess.run([sys.executable, "-c", killed, sys.argv[1], of.tx_id, operation])
        expect(ran.returncode, -signal.SIGKILL)
        again = lambda *_: sys.exit("it works again")
        for _ in range(2):
            fails(Lost, lambda: prepare(of, again))
            expect(barrier.commit(of, again)[0], "hazard")
            expect(barrier.cancel(of, None, again)[0], "hazard")
        expect(found(f"SELECT count(*) FROM effect WHERE who = '{of.tx_id}'"), [(1,)])


def a_customer_is_taken_back_and_nobody_elses():
    first, second = (Step(stock.Register, {"name": "bob"}) for _ in range(2))
    assert first.output["customer"] != second.output["customer"]
    expect((first.output["name"], second.output["name"]), ("bob", "bob"))
    expect(first.undo(), ("done", ""))
    expect(found("SELECT id FROM customer"), [(second.output["customer"],)])
    # Somebody has deleted the other one, and the number is not given again.
    run("DELETE FROM customer")
    third = Step(stock.Register, {"name": "bob"})
    for _ in range(2):
        assert "is gone: must be 1 row, found 0" in fails(LookupError, second.undo)
        expect(second.state(), [("prepared",)])
    expect(found("SELECT id FROM customer"), [(third.output["customer"],)])
    # One with another name is the same customer.
    run("UPDATE customer SET name = 'robert'")
    expect((third.undo(), third.undo()), (("done", ""), ("done", "")))
    expect(count("customer"), 0)


def nothing_of_the_stock_is_done_where_its_row_is_gone():
    order, customer = {"item": "lamp", "pieces": 2}, {"customer": b'{"customer": 7, "name": "ann"}'}
    away, back = "UPDATE stock SET item = 'moved'", "UPDATE stock SET item = 'lamp'"
    anew = "DELETE FROM stock; INSERT INTO stock (item, free) VALUES ('lamp', 100)"
    for end, made in (
        (Step.confirm, Step(stock.Reserve, order)),
        (Step.undo, Step(stock.Reserve, order)),
        (Step.undo, Step(stock.Sell, order, customer)),
    ):
        run(away)
        for _ in range(2):
            assert "is gone: must be 1 row, found 0" in fails(LookupError, lambda: end(made))
            expect(made.state(), [("prepared",)])
        run(back)
        expect((end(made), end(made)), (("done", ""), ("done", "")))
    expect(found("SELECT free, reserved FROM stock"), [(98, 0)])
    expect(count("sale"), 0)
    # An item of the same name that holds nothing is another one.
    for end in (Step.confirm, Step.undo):
        made = Step(stock.Reserve, order)
        run(anew)
        fails(LookupError, lambda: end(made))
        expect(found("SELECT free, reserved FROM stock"), [(100, 0)])
    # A sale that somebody has deleted, or changed.
    for change in ("DELETE FROM sale", "UPDATE sale SET pieces = 1"):
        made = Step(stock.Sell, order, customer)
        run(change)
        fails(LookupError, made.undo)
        expect(made.state(), [("prepared",)])
    run("DELETE FROM sale; UPDATE stock SET free = 100")


def payloads_and_inputs_of_wrong_types_are_refused():
    def reason(work):
        try:
            with barrier.transaction() as db:
                work(db)
        except Refused as refused:
            return refused.reason
        raise AssertionError("it was not refused")

    deep = b"[" * 100_000
    for payload in (
        b"", b"[]", b"7", b'"lamp"', b"null", b"{}", b'{"item": "lamp"}', b"\xff\xfe\xfd", deep,
        b'{"item": "\\ud800", "pieces": 1}',
    ):
        expect(reason(lambda db: stock.Reserve.try_(db, payload, {})), "PAYLOAD_UNREADABLE")
        expect(reason(lambda db: stock.Register.run(db, payload, {})), "PAYLOAD_UNREADABLE")
    for pieces in ("0", "-1", "true", "1.0", "1e3", '"1"', "null", "[1]", str(2**31), str(10**30)):
        payload = f'{{"item": "lamp", "pieces": {pieces}}}'.encode()
        expect(reason(lambda db: stock.Reserve.try_(db, payload, {})), "BAD_ORDER")
    for item in ("7", "null", "[]", "{}"):
        payload = f'{{"item": {item}, "pieces": 1}}'.encode()
        expect(reason(lambda db: stock.Reserve.try_(db, payload, {})), "BAD_ORDER")
    for name in ("7", "null", "[]", '""', "true"):
        payload = f'{{"name": {name}}}'.encode()
        expect(reason(lambda db: stock.Register.run(db, payload, {})), "BAD_CUSTOMER")
    order = b'{"item": "lamp", "pieces": 1}'
    expect(reason(lambda db: stock.Sell.run(db, order, {})), "INPUT_MISSING")
    for customer in (b"", b"7", b"null", b"[]", b"{}", b'{"name": 7}', b'"\\ud800"', deep):
        sell = lambda db: stock.Sell.run(db, order, {"customer": customer})
        expect(reason(sell), "INPUT_UNREADABLE")


def work_that_is_async_is_no_vote_and_no_end():
    async def work(*_):
        return b"", ""

    def asynchronously(call):
        try:
            call()
        except TypeError as error:
            expect("must not be async" in str(error), True)
        else:
            raise AssertionError("it was taken for done")

    of = branch()
    asynchronously(lambda: prepare(of, work))
    expect(prepare(of, lambda db: (b"", ""))[0], "prepared")
    asynchronously(lambda: barrier.commit(of, work))
    asynchronously(lambda: barrier.cancel(of, None, work))
    expect(barrier.commit(of, lambda *_: None)[0], "done")
    asynchronously(lambda: barrier.cancel(branch(), None, work, work))


for case in (
    what_a_constraint_refuses_is_a_no_and_is_stored,
    an_error_that_is_raised_from_one_of_these_is_a_no,
    what_is_not_known_is_no_vote_whatever_it_was_raised_from,
    a_value_that_does_not_fit_is_a_no,
    what_the_database_says_of_its_schema_is_no_vote,
    work_that_must_succeed_is_refused_and_not_stored,
    a_check_that_is_deferred_is_a_no_and_is_stored,
    work_that_has_lost_its_transaction_leaves_nothing,
    a_loss_is_recorded_however_long_others_keep_the_file,
    what_a_killed_process_has_committed_by_itself_is_a_hazard,
    a_customer_is_taken_back_and_nobody_elses,
    nothing_of_the_stock_is_done_where_its_row_is_gone,
    payloads_and_inputs_of_wrong_types_are_refused,
    work_that_is_async_is_no_vote_and_no_end,
):
    case()
    print(case.__name__)
