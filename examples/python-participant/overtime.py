"""An end for operations that do not come to one. Take this file along: it knows nothing of shops."""

import logging
import os
import threading
import time
from concurrent import futures

log = logging.getLogger("participant")

# How long an operation that was told to end has for it.
END_S = 5
INTERRUPT_PAUSE_S = 0.05

# Exit code of a process that ends itself.
EXIT_STUCK = 70


class Overtime(Exception):
    """The operation has not come to an end in its time."""


class Bounded:
    """Runs operations in threads of their own, and ends those that take too long.

    A statement that runs is interrupted. Work that hangs elsewhere cannot be ended in Python, and holds the database's
    write lock, for which everybody waits: then the process ends. That rolls back what was not committed, and whatever
    was under way is called again. Something has to start it again, such as systemd or Kubernetes.
    """

    def __init__(self, barrier, give_up=lambda: os._exit(EXIT_STUCK)):
        self.barrier, self.give_up, self.end_s = barrier, give_up, END_S

    def run(self, time_s, operation):
        """The result of `operation()`, or what it raises."""
        result = futures.Future()

        def work():
            try:
                result.set_result(operation())
            except BaseException as error:
                result.set_exception(error)

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        thread.join(time_s)
        if not thread.is_alive():
            return result.result()
        end_at = time.monotonic() + self.end_s
        while thread.is_alive() and time.monotonic() < end_at:
            # Again and again: the work may go on with another statement.
            self.barrier.interrupt(thread.ident)
            thread.join(INTERRUPT_PAUSE_S)
        if thread.is_alive():
            log.critical("alarm=operation_overtime an operation hangs, and cannot be ended: this process ends")
            self.give_up()
        raise Overtime(f"the operation has not come to an end in {time_s:.0f} s, and was ended")
