"""The business: pieces of items, which are reserved, sold, or put back: as an action of TCC, and as a step
of sagas."""

import json

from barrier import Refused

SCHEMA = (
    """
CREATE TABLE IF NOT EXISTS stock (
    item     text    PRIMARY KEY,
    free     integer NOT NULL CHECK (free >= 0),
    reserved integer NOT NULL DEFAULT 0 CHECK (reserved >= 0)
)""",
    """
CREATE TABLE IF NOT EXISTS sale (
    id       integer PRIMARY KEY AUTOINCREMENT,
    item     text    NOT NULL,
    pieces   integer NOT NULL,
    customer text    NOT NULL
)""",
    """
CREATE TABLE IF NOT EXISTS customer (
    id   integer PRIMARY KEY AUTOINCREMENT,
    name text    NOT NULL
)""",
)


def parse(payload):
    """An order: `{"item": "lamp", "pieces": 2}`."""
    try:
        order = json.loads(payload)
        item, pieces = order["item"], order["pieces"]
    except (ValueError, TypeError, LookupError) as error:
        raise Refused("PAYLOAD_UNREADABLE", f"write an item and pieces: {error!r}") from error
    if not isinstance(item, str) or type(pieces) is not int or not 0 < pieces < 2**31:
        raise Refused("BAD_ORDER", "item must be a text, and pieces a number above zero")
    return item, pieces


def read_input(inputs, name):
    """The output of an earlier step, by the name that the saga's definition gives it: a JSON text."""
    if name not in inputs:
        raise Refused("INPUT_MISSING", f"input {name} must be given")
    try:
        value = json.loads(inputs[name])
    except ValueError as error:
        raise Refused("INPUT_UNREADABLE", f"input {name} must be JSON: {error}") from error
    if not isinstance(value, str):
        raise Refused("INPUT_UNREADABLE", f"input {name} must be a text")
    return value


def is_done(item, done):
    """What phase two changes must be there: else the call fails, comes again, and somebody looks at it."""
    if done.rowcount != 1:
        raise LookupError(f"there is no stock of {item}")


class Reserve:
    """An action of TCC. Each method works in the local transaction that it is given, and neither
    commits nor asks whether it ran before: the barrier has done that."""

    @staticmethod
    def try_(db, payload, _inputs):
        item, pieces = parse(payload)
        taken = db.execute(
            "UPDATE stock SET free = free - ?2, reserved = reserved + ?2 "
            "WHERE item = ?1 AND free >= ?2",
            (item, pieces),
        )
        if taken.rowcount == 0:
            raise Refused("SOLD_OUT", f"fewer than {pieces} pieces of {item} are left")
        # The output and its media type: the initiator gets it, and so do confirm and cancel.
        return json.dumps({"reserved": pieces}).encode(), "application/json"

    @staticmethod
    def confirm(db, payload, _inputs, _output):
        item, pieces = parse(payload)
        sold = "UPDATE stock SET reserved = reserved - ?2 WHERE item = ?1"
        is_done(item, db.execute(sold, (item, pieces)))

    @staticmethod
    def cancel(db, payload, _inputs, _output):
        item, pieces = parse(payload)
        back = "UPDATE stock SET reserved = reserved - ?2, free = free + ?2 WHERE item = ?1"
        is_done(item, db.execute(back, (item, pieces)))


class Sell:
    """A step of sagas, and what makes up for it. `run` is done for good; if the saga commits, nothing more
    is called. `compensate` gets the payload and the inputs again, and the output of `run`."""

    @staticmethod
    def run(db, payload, inputs):
        item, pieces = parse(payload)
        customer = read_input(inputs, "customer")
        taken = db.execute(
            "UPDATE stock SET free = free - ?2 WHERE item = ?1 AND free >= ?2", (item, pieces)
        )
        if taken.rowcount == 0:
            raise Refused("SOLD_OUT", f"fewer than {pieces} pieces of {item} are left")
        sale = db.execute(
            "INSERT INTO sale (item, pieces, customer) VALUES (?, ?, ?)", (item, pieces, customer)
        )
        # Later steps read it as an input.
        return json.dumps({"sale": sale.lastrowid}).encode(), "application/json"

    @staticmethod
    def compensate(db, payload, _inputs, output):
        item, pieces = parse(payload)
        db.execute("DELETE FROM sale WHERE id = ?", (json.loads(output)["sale"],))
        back = db.execute("UPDATE stock SET free = free + ?2 WHERE item = ?1", (item, pieces))
        is_done(item, back)


class Register:
    """A step of sagas: writes a customer down, and returns the name for later steps, as a JSON text."""

    @staticmethod
    def run(db, payload, _inputs):
        try:
            name = json.loads(payload)["name"]
        except (ValueError, TypeError, LookupError) as error:
            raise Refused("PAYLOAD_UNREADABLE", f"write a name: {error!r}") from error
        if not isinstance(name, str) or not name:
            raise Refused("BAD_CUSTOMER", "name must be a text")
        db.execute("INSERT INTO customer (name) VALUES (?)", (name,))
        return json.dumps(name).encode(), "application/json"

    @staticmethod
    def compensate(db, _payload, _inputs, output):
        newest = "SELECT max(id) FROM customer WHERE name = ?"
        db.execute(f"DELETE FROM customer WHERE id = ({newest})", (json.loads(output),))


# By mode and name: an action is offered in one mode.
ACTIONS = {"tcc": {"reserve": Reserve}, "saga": {"register": Register, "sell": Sell}}
