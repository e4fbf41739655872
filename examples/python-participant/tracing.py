"""The trace of the transaction that a call belongs to (W3C Trace Context). Take this file along: it knows nothing of
shops."""

import re
import threading

TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-.*)?\Z")

_of_thread = threading.local()


def of_call(call):
    """The `traceparent` of a call, or None. What is none is not passed on."""
    found = dict(call.invocation_metadata()).get("traceparent")
    return found if isinstance(found, str) and TRACEPARENT.match(found) else None


def id_of(traceparent):
    """The id of the trace, for a line of the log; a dash if there is none."""
    match = TRACEPARENT.match(traceparent or "")
    return match.group(1) if match else "-"


def current():
    """The `traceparent` of the operation that runs in this thread, or None: the parent of a handler's spans, and the
    header of the calls that it makes."""
    return getattr(_of_thread, "traceparent", None)


def within(traceparent, operation):
    """Runs `operation()` with this `traceparent` as the current one."""
    _of_thread.traceparent = traceparent
    try:
        return operation()
    finally:
        _of_thread.traceparent = None
