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


# What bytes that are no such JSON raise. One that is nested too deeply is a RecursionError, and half of a pair of
# surrogates, which is no text, a UnicodeEncodeError.
UNREADABLE = (ValueError, TypeError, LookupError, RecursionError)


def text(value):
    """The value if it is a text that a database can store, else None."""
    if not isinstance(value, str):
        return None
    value.encode()
    return value


def parse(payload):
    """An order: `{"item": "lamp", "pieces": 2}`."""
    try:
        order = json.loads(payload)
        item, pieces = text(order["item"]), order["pieces"]
    except UNREADABLE as error:
        raise Refused("PAYLOAD_UNREADABLE", f"write an item and pieces: {error!r}") from error
    if item is None or type(pieces) is not int or not 0 < pieces < 2**31:
        raise Refused("BAD_ORDER", "item must be a text, and pieces a number above zero")
    return item, pieces


def read_customer(inputs):
    """The input `customer`, which is the output of an earlier step: a JSON text, or an object with a text `name`,
    such as `register` returns."""
    if "customer" not in inputs:
        raise Refused("INPUT_MISSING", "input customer must be given")
    try:
        customer = json.loads(inputs["customer"])
        name = text(customer["name"] if isinstance(customer, dict) else customer)
    except UNREADABLE as error:
        raise Refused("INPUT_UNREADABLE", f"input customer must be a customer: {error!r}") from error
    if name is None:
        raise Refused("INPUT_UNREADABLE", "input customer must be a text, or have a text as its name")
    return name


def is_done(changed, row):
    """What phase two changes must be there, and it alone: else the call fails, comes again, and somebody looks at
    it. A row may have vanished since, or have another name."""
    if changed.rowcount != 1:
        raise LookupError(f"{row} is gone: must be 1 row, found {changed.rowcount}")


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
        sold = "UPDATE stock SET reserved = reserved - ?2 WHERE item = ?1 AND reserved >= ?2"
        is_done(db.execute(sold, (item, pieces)), f"reservation of {pieces} x {item}")

    @staticmethod
    def cancel(db, payload, _inputs, _output):
        item, pieces = parse(payload)
        back = (
            "UPDATE stock SET reserved = reserved - ?2, free = free + ?2 "
            "WHERE item = ?1 AND reserved >= ?2"
        )
        is_done(db.execute(back, (item, pieces)), f"reservation of {pieces} x {item}")


class Sell:
    """A step of sagas, and what makes up for it. `run` is done for good; if the saga commits, nothing more
    is called. `compensate` gets the payload and the inputs again, and the output of `run`."""

    @staticmethod
    def run(db, payload, inputs):
        item, pieces = parse(payload)
        customer = read_customer(inputs)
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
        sale = json.loads(output)["sale"]
        dropped = "DELETE FROM sale WHERE id = ? AND item = ? AND pieces = ?"
        is_done(db.execute(dropped, (sale, item, pieces)), f"sale {sale} of {pieces} x {item}")
        back = db.execute("UPDATE stock SET free = free + ?2 WHERE item = ?1", (item, pieces))
        is_done(back, f"stock of {item}")


class Register:
    """A step of sagas: writes a customer down, and returns the number and the name for later steps. The
    compensation finds the customer by the number: two customers may have one name."""

    @staticmethod
    def run(db, payload, _inputs):
        try:
            name = text(json.loads(payload)["name"])
        except UNREADABLE as error:
            raise Refused("PAYLOAD_UNREADABLE", f"write a name: {error!r}") from error
        if not name:
            raise Refused("BAD_CUSTOMER", "name must be a text that is not empty")
        made = db.execute("INSERT INTO customer (name) VALUES (?)", (name,))
        return json.dumps({"customer": made.lastrowid, "name": name}).encode(), "application/json"

    @staticmethod
    def compensate(db, _payload, _inputs, output):
        customer = json.loads(output)["customer"]
        dropped = db.execute("DELETE FROM customer WHERE id = ?", (customer,))
        is_done(dropped, f"customer {customer}")


# By mode and name: an action is offered in one mode.
ACTIONS = {"tcc": {"reserve": Reserve}, "saga": {"register": Register, "sell": Sell}}
