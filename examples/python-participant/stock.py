"""The business: pieces of items, which are reserved, sold, or put back."""

import json

from barrier import Refused

SCHEMA = """
CREATE TABLE IF NOT EXISTS stock (
    item     text    PRIMARY KEY,
    free     integer NOT NULL CHECK (free >= 0),
    reserved integer NOT NULL DEFAULT 0 CHECK (reserved >= 0)
);
"""


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


class Reserve:
    """An action of TCC. Each method works in the local transaction that it is given, and neither
    commits nor asks whether it ran before: the barrier has done that."""

    @staticmethod
    def try_(db, payload):
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
    def confirm(db, payload, _output):
        item, pieces = parse(payload)
        db.execute("UPDATE stock SET reserved = reserved - ?2 WHERE item = ?1", (item, pieces))

    @staticmethod
    def cancel(db, payload, _output):
        item, pieces = parse(payload)
        db.execute(
            "UPDATE stock SET reserved = reserved - ?2, free = free + ?2 WHERE item = ?1",
            (item, pieces),
        )


ACTIONS = {"reserve": Reserve}
