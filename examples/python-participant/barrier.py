"""What makes operations idempotent and ordered: a row for each branch, in the participant's own
database and in the same local transaction as its work.

Nothing here knows what the participant does: `work(db)` is its business. The same rules in words:
docs/participant-guide.md.
"""

import contextlib
import inspect
import logging
import os
import secrets
import sqlite3
import threading
import time
import uuid
from dataclasses import dataclass

log = logging.getLogger("barrier")

SCHEMA = """
CREATE TABLE IF NOT EXISTS barrier (
    tx_id      text NOT NULL,
    branch_id  text NOT NULL,
    cluster_id text NOT NULL,              -- the coordinator group that the transaction belongs to
    mode       text NOT NULL DEFAULT 'tcc',
    -- running (seen by its own transaction only), prepared, refused, committed, cancelled, lost
    state      text NOT NULL,
    output     blob NOT NULL DEFAULT x'',  -- what Prepare answered
    output_type text NOT NULL DEFAULT '',  -- its media type
    reason     text NOT NULL DEFAULT '',   -- of a refusal
    message    text NOT NULL DEFAULT '',
    -- The bound after which a Prepare without a trace is refused anyway, in seconds since 1970. NULL:
    -- there is none, and the row is kept.
    until      real,
    changed_at real NOT NULL,
    -- When the sweeper asks about it again. NULL: in each sweep.
    ask_at     real,
    PRIMARY KEY (tx_id, branch_id)
) WITHOUT ROWID;
-- Tells this database from another one under the same participant's name.
CREATE TABLE IF NOT EXISTS barrier_id (only_one integer PRIMARY KEY CHECK (only_one = 1), id text NOT NULL);
"""

# How long a call waits for another one's local transaction before it answers "working".
LOCK_TIMEOUT_S = 2.0

# Pause before a part of the set-up is tried again that found another one's local transaction in its way.
SET_UP_PAUSE_S = 0.5

# How long rows are kept past the time at which they could still matter.
KEPT_S = 24 * 3600

# How far ahead a time may be before it is certain that the clock was set back.
AHEAD_S = 60

# Longest pause between two questions about a branch.
PAUSE_MAX_S = 3600

# Note of a branch whose work has ended its local transaction.
LOST = "the branch's work ended its local transaction by itself"


class Busy(Exception):
    """Another local transaction is in the way: send the call again."""


def once_free(work):
    """Runs a part of the set-up, again and again for as long as another local transaction is in its way. Each wait
    has an end, so that nobody queues behind this one."""
    while True:
        try:
            return work()
        except Busy:
            pass
        except sqlite3.OperationalError as error:
            if "locked" not in str(error):
                raise
        log.warning("the set-up waits: others have the database for longer than %s s", LOCK_TIMEOUT_S)
        time.sleep(SET_UP_PAUSE_S)


class Lost(Exception):
    """`work` has ended the local transaction that it was given: what it has left behind is not known."""


class Refused(Exception):
    """The vote no. Raised by `work`, whose effects are then undone."""

    def __init__(self, reason, message):
        super().__init__(message)
        self.reason, self.message = reason, message


@dataclass
class Row:
    state: str
    output: bytes = b""
    output_type: str = ""
    reason: str = ""
    message: str = ""
    mode: str = ""


# Errors at which SQLite may roll the whole transaction back by itself.
OWN_ROLLBACKS = {
    5,  # SQLITE_BUSY
    7,  # SQLITE_NOMEM
    9,  # SQLITE_INTERRUPT
    10,  # SQLITE_IOERR
    13,  # SQLITE_FULL
}


# Their texts: Python 3.10 does not know the codes.
OWN_ROLLBACK_TEXTS = ("database is locked", "out of memory", "interrupted", "disk I/O error", "database or disk is full")


def rolls_back(error):
    """Tells whether an error is one of these, by the lowest byte of its code, or by its text."""
    if isinstance(error, MemoryError):
        return True
    code = getattr(error, "sqlite_errorcode", None)
    if code is not None:
        return code & 0xFF in OWN_ROLLBACKS
    return isinstance(error, sqlite3.Error) and str(error).startswith(OWN_ROLLBACK_TEXTS)


def no(reason, message):
    """Work that votes no."""

    def work(_db):
        raise Refused(reason, message)

    return work


def done(result):
    """What work returned. An async function has done nothing yet: that is no vote and no end."""
    if not inspect.isawaitable(result):
        return result
    if inspect.iscoroutine(result):
        result.close()
    raise TypeError("the work of a branch must not be async: its transaction ends when it returns")


# What the database says of the work itself, and would say again: a broken constraint, what a trigger raises, a value
# that does not fit. It is a vote no. What it says of itself or of its schema is no vote.
OF_THE_WORK = (sqlite3.IntegrityError, sqlite3.DataError, OverflowError)


# Most errors that are looked through, each raised from the next.
CAUSES_MAX = 10


def as_refused(error):
    """The vote no for one of these errors, also where work has raised its own from it; None for any other. What says
    that the call is to come again, or that nothing is known, is none, and neither is what the database said last if it
    is of another kind, whatever they were raised from."""
    if isinstance(error, Refused):
        return error
    for _ in range(CAUSES_MAX):
        if isinstance(error, OF_THE_WORK):
            is_constraint = isinstance(error, sqlite3.IntegrityError)
            return Refused("CONSTRAINT_VIOLATED" if is_constraint else "DATABASE_REFUSED", str(error))
        if isinstance(error, (Busy, Lost, sqlite3.Error)):
            return None
        # Not of what ends the thread or the process.
        error = error.__cause__ if isinstance(error, Exception) else None
    return None


# What statements may do outside of a transaction.
HARMLESS = {sqlite3.SQLITE_READ, sqlite3.SQLITE_SELECT, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE}

# Statements that begin a transaction, if BEGIN is what they do.
BEGINNINGS = {sqlite3.SQLITE_TRANSACTION, sqlite3.SQLITE_SAVEPOINT}

# Refusals of a process that does not know the branch's work: no handler was asked. Another process, of a newer
# version, may have been.
NEVER_ASKED = {"ACTION_NOT_OFFERED", "FEATURE_UNSUPPORTED", "MODE_NOT_OFFERED", "PAYLOAD_UNREADABLE"}

# Attempts to record a loss while others have the write lock.
RECORD_ATTEMPTS = 5


class Barrier:
    def __init__(self, path):
        self.path = path
        # Connections with a local transaction, by thread.
        self.open = {}
        self.database_id = once_free(self._make)
        file = os.stat(path)
        # A copy of the file has the same id, and is elsewhere.
        self.database_place = f"file.{file.st_dev}.{file.st_ino}"

    def _make(self):
        """Makes the tables, and answers with the database's id. What is there already takes no lock: Commits and
        Cancels are then served at once, whoever has the database."""
        with contextlib.closing(self._connect()) as db:
            # What was answered must survive the machine, not only the process: hence FULL.
            db.execute("PRAGMA journal_mode = WAL")
            db.executescript(SCHEMA)
            # A file of an older version.
            if "ask_at" not in {column[1] for column in db.execute("PRAGMA table_info(barrier)")}:
                db.execute("ALTER TABLE barrier ADD COLUMN ask_at real")
            read_id = "SELECT id FROM barrier_id"
            if db.execute(read_id).fetchone() is None:
                db.execute("INSERT INTO barrier_id VALUES (1, ?) ON CONFLICT DO NOTHING", (str(uuid.uuid4()),))
            return db.execute(read_id).fetchone()[0]

    def _connect(self):
        # No transactions by themselves: they are begun and ended below, and nowhere else.
        # Each statement is compiled when it runs, since that is when `authorize` is asked.
        db = sqlite3.connect(
            self.path, timeout=LOCK_TIMEOUT_S, isolation_level=None, cached_statements=0
        )
        db.execute("PRAGMA synchronous = FULL")
        return db

    @contextlib.contextmanager
    def transaction(self):
        """A local transaction: committed at the end, or rolled back as a whole."""
        with contextlib.closing(self._connect()) as db:
            try:
                # Takes the write lock at once. Of two calls for one branch the second waits here; in
                # a database with row locks it would wait for the first one's row, below.
                db.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError as error:
                if "locked" in str(error):
                    raise Busy() from error
                raise

            def authorize(does, what, *_):
                # Behind a ROLLBACK of the work, or of SQLite itself, each statement would commit by itself, without
                # the barrier's row, and so again with each call.
                if db.in_transaction or does in HARMLESS:
                    return sqlite3.SQLITE_OK
                return sqlite3.SQLITE_OK if does in BEGINNINGS and what != "BEGIN" else sqlite3.SQLITE_DENY

            db.set_authorizer(authorize)
            self.open[threading.get_ident()] = db
            try:
                # Closing the connection without COMMIT rolls back.
                yield db
                db.execute("COMMIT")
            finally:
                del self.open[threading.get_ident()]

    def interrupt(self, thread_id):
        """Makes the statement that a thread is at fail."""
        db = self.open.get(thread_id)
        # It may have been closed meanwhile.
        with contextlib.suppress(sqlite3.ProgrammingError):
            if db is not None:
                db.interrupt()

    def prepare(self, context, mode, until, must_succeed, work, take_back=None):
        """Votes: `("prepared", Row)` or `("refused", Row)`. `work(db)` returns the output and its media
        type. `take_back(db)` is for work that is done outside of the database, too: it takes back what any
        attempt may have left there. Nobody sends a Cancel to a branch that voted no."""
        try:
            try:
                return self._prepare(context, mode, until, must_succeed, work, take_back)
            except OF_THE_WORK as error:
                # At COMMIT: a constraint that was deferred. Everything is rolled back, and so the no gets a row of
                # its own.
                refused = as_refused(error)
                refuse = no(refused.reason, refused.message)
                return self._prepare(context, mode, until, must_succeed, refuse, take_back)
        except Refused as refused:
            # Work that must succeed, and cannot yet: everything is rolled back, and nothing is stored.
            return "refused", Row("refused", reason=refused.reason, message=refused.message)
        except Lost:
            self._record_loss(context, mode)
            raise

    def _record_loss(self, context, mode):
        """Stores a row in state `running`, which has no vote and is a hazard. Without it a further Prepare would do
        the work again, if the work has committed anything by itself."""
        for attempt in range(1, RECORD_ATTEMPTS + 1):
            try:
                with self.transaction() as db:
                    self._insert(db, context, "running", None, mode)
                return
            except Busy:
                if attempt == RECORD_ATTEMPTS:
                    log.error("alarm=handler_lost_transaction not recorded, others have the lock: %s", LOST)

    def _prepare(self, context, mode, until, must_succeed, work, take_back):
        with self.transaction() as db:
            # The row first, then the work.
            if not self._insert(db, context, "running", until, mode):
                row = self._find(db, context)
                if row.state == "running":
                    raise Lost("an earlier attempt has ended its local transaction by itself")
                if row.state in ("prepared", "committed"):
                    return "prepared", row
                if row.state == "refused":
                    return "refused", row
                # Cancel came first (or Commit did, and found nothing): never yes.
                ended = "phase two came first"
                return "refused", Row("refused", reason="ALREADY_ENDED", message=ended)
            savepoint, went_on = self._savepoint(db), []
            try:
                # After the wait for the lock, not before it. (In a database server: its clock.)
                if until is not None and time.time() > until:
                    raise Refused("TOO_LATE", "Prepare came after the transaction's deadline")
                db.set_trace_callback(lambda _: db.in_transaction or went_on.append(True))
                try:
                    row = Row("prepared", *done(work(db)))
                finally:
                    db.set_trace_callback(None)
            # Of whatever kind: work may also end its thread.
            except BaseException as error:
                refused = as_refused(error)
                # SQLite itself has rolled everything back, as when the disk is full, and the work has
                # passed that on at once: nothing is left behind, and it may be done later. A statement behind
                # the rollback may have left something.
                if refused is None and not db.in_transaction and rolls_back(error) and not went_on:
                    raise
                if refused is not None and must_succeed:
                    raise refused from error
                # Undoes the work and keeps the row: there is no gap for a duplicate. Of a lost transaction that is
                # told, whatever else is wrong.
                self._if_not_lost(db, f"ROLLBACK TO {savepoint}")
                if refused is None:
                    raise
                if take_back is not None:
                    done(take_back(db))
                row = Row("refused", reason=refused.reason, message=refused.message)
            self._if_not_lost(db, f"RELEASE {savepoint}")
            self._mark(db, context, row)
        # Only now, after COMMIT, may it be answered.
        return row.state, row

    def commit(self, context, work):
        """Ends: `("done", "")`, or a heuristic outcome and why."""
        with self.transaction() as db:
            if self._insert(db, context, "lost", None):
                return "hazard", "Commit found no trace of a branch that voted yes"
            row = self._find(db, context)
            if row.state == "prepared":
                self._phase_two(db, context, row, work)
                self._mark(db, context, Row("committed", row.output, row.output_type))
                return "done", ""
            if row.state == "running":
                return "hazard", LOST
            if row.state == "committed":
                return "done", ""
            if row.state == "lost":
                return "hazard", "Commit found no trace of a branch that voted yes"
            return "rollback", f"Commit found the branch {row.state}"

    def cancel(self, context, until, work, take_back=None):
        """Ends: `("done", "")`, or a heuristic outcome and why. `take_back` is that of `prepare`: the process
        may have died between the work outside and the row."""
        with self.transaction() as db:
            # The tombstone of a Cancel that comes first: the late Prepare will find it. It is kept past
            # the bound that this Prepare has.
            if self._insert(db, context, "running", until):
                self._taken_back(db, context, take_back)
                return "done", ""
            row = self._find(db, context)
            if row.state == "prepared":
                self._phase_two(db, context, row, work)
                self._mark(db, context, Row("cancelled"))
                return "done", ""
            if row.state == "running":
                return "hazard", LOST
            if row.state == "refused" and row.reason in NEVER_ASKED and take_back is not None:
                # An attempt at a process that knows the work may have worked outside of the database, and died: the
                # coordinator sends this Cancel for an attempt that has not answered.
                self._taken_back(db, context, take_back)
                return "done", ""
            if row.state in ("cancelled", "refused"):
                return "done", ""
            if row.state == "committed":
                return "commit", "Cancel found the branch committed"
            return "hazard", "an earlier Commit found no trace of the branch"

    def _taken_back(self, db, context, take_back):
        """Cancels a branch of whose work nothing is known but what may be outside of the database."""
        if take_back is not None:
            savepoint = self._savepoint(db)
            done(take_back(db))
            self._if_not_lost(db, f"RELEASE {savepoint}")
        self._mark(db, context, Row("cancelled"))

    def _phase_two(self, db, context, row, work):
        # Should the work commit by itself, everybody sees it, and nobody does it again.
        db.execute(
            "UPDATE barrier SET state = 'running' WHERE tx_id = ? AND branch_id = ?",
            (context.tx_id, context.branch_id),
        )
        savepoint = self._savepoint(db)
        done(work(db, row.mode, row.output))
        self._if_not_lost(db, f"RELEASE {savepoint}")

    @staticmethod
    def _savepoint(db):
        """A savepoint whose name no work can know. It is there as long as the transaction is."""
        name = f"barrier_{secrets.token_hex(16)}"
        db.execute(f"SAVEPOINT {name}")
        return name

    @staticmethod
    def _if_not_lost(db, statement):
        try:
            db.execute(statement)
        except sqlite3.OperationalError as error:
            log.error("alarm=handler_lost_transaction %s", LOST)
            raise Lost(LOST) from error

    def purge(self, now):
        """Removes rows that no call can need any more: a Prepare that comes still later is refused by
        its bound. `now` is a time of day that can be trusted. Rows without a bound stay. So do those that are evidence: `prepared` (somebody is owed
        their Commit or Cancel), `lost` and `running` (a person has to look at them), and `committed`,
        of which only the coordinator knows whether it will ask again."""
        with self.transaction() as db:
            db.execute(
                "DELETE FROM barrier WHERE state IN ('refused', 'cancelled') AND until < ?",
                (now - KEPT_S,),
            )

    def in_doubt(self, grace_s, after, limit):
        """Branches that have been prepared for a while, and that it is time to ask about, by coordinator group and
        key, behind `after`."""
        # Of a time to come: the clock was set back since, and nobody knows how old it is.
        condition = (
            "state = 'prepared' AND "
            "(changed_at < ? OR changed_at > ?) AND (coalesce(ask_at, 0) <= ? OR ask_at > ?)"
        )
        now = time.time()
        bounds = (now - grace_s, now + AHEAD_S, now, now + PAUSE_MAX_S)
        return self._list(condition, bounds, after, limit)

    def committed(self, after, limit):
        """Committed branches whose rows may go once the coordinator says that they ended."""
        return self._list("state = 'committed' AND until < ?", (time.time() - KEPT_S,), after, limit)

    def unbounded(self, after, limit):
        """Committed branches without a bound, as a saga has them after its pivot."""
        condition = "state = 'committed' AND until IS NULL AND changed_at < ?"
        return self._list(condition, (time.time() - KEPT_S,), after, limit)

    def bound(self, keys):
        """Their saga has ended: nothing is sent for them any more, and their rows may go in a day."""
        self._change("UPDATE barrier SET until = ? WHERE state = 'committed' AND until IS NULL", keys, 0)

    def commit_steps(self, keys):
        """Steps whose saga is committed: nobody sends them a Commit."""
        statement = "UPDATE barrier SET state = 'committed', changed_at = ? WHERE state = 'prepared'"
        self._change(statement + " AND mode = 'saga'", keys, 0)

    def ask_later(self, keys, pause_s):
        """Branches whose transaction still runs: a saga may take days."""
        self._change("UPDATE barrier SET ask_at = ? WHERE state = 'prepared'", keys, pause_s)

    def _change(self, statement, keys, later_s):
        with self.transaction() as db:
            db.executemany(
                f"{statement} AND cluster_id = ? AND tx_id = ? AND branch_id = ?",
                [(time.time() + later_s, *key) for key in keys],
            )

    def _list(self, condition, bounds, after, limit):
        with self.transaction() as db:
            return db.execute(
                f"SELECT cluster_id, tx_id, branch_id, mode, changed_at FROM barrier WHERE {condition} "
                "AND (cluster_id, tx_id, branch_id) > (?, ?, ?) "
                "ORDER BY cluster_id, tx_id, branch_id LIMIT ?",
                (*bounds, *after, limit),
            ).fetchall()

    def forget(self, keys):
        """Removes rows that the coordinator says it will never ask for again: committed ones only."""
        with self.transaction() as db:
            db.executemany(
                "DELETE FROM barrier WHERE state = 'committed' "
                "AND cluster_id = ? AND tx_id = ? AND branch_id = ?",
                keys,
            )

    @staticmethod
    def _insert(db, context, state, until, mode=""):
        inserted = db.execute(
            "INSERT INTO barrier (tx_id, branch_id, cluster_id, state, until, mode, changed_at) "
            "VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
            (context.tx_id, context.branch_id, context.cluster_id, state, until, mode, time.time()),
        )
        return inserted.rowcount == 1

    @staticmethod
    def _find(db, context):
        found = db.execute(
            "SELECT state, output, output_type, reason, message, mode FROM barrier "
            "WHERE tx_id = ? AND branch_id = ?",
            (context.tx_id, context.branch_id),
        )
        return Row(*found.fetchone())

    @staticmethod
    def _mark(db, context, row):
        db.execute(
            "UPDATE barrier SET state = ?, output = ?, output_type = ?, reason = ?, message = ?, "
            "changed_at = ? WHERE tx_id = ? AND branch_id = ?",
            (
                row.state,
                row.output,
                row.output_type,
                row.reason,
                row.message,
                time.time(),
                context.tx_id,
                context.branch_id,
            ),
        )
