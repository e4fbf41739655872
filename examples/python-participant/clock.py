"""The time that the purge goes by. A clock that is ahead for a moment must not remove the row that a late Prepare has to
find: once the clock is right again, its bound is not past either, and the work would be done. Take this file along: it
knows nothing of shops.

SQLite has the process's clock. With a database server compare the two, too: rows are purged by a time on which both
agree."""

import logging
import time

log = logging.getLogger("sweeper")

# Most by which the clock may differ from the time that has passed, and the part of it by which clocks run fast or slow.
SKEW_MAX_S = 60
DRIFT = 0.001

# A clock that was set is trusted again once it has run evenly for so long.
TRUSTED_AFTER_S = 3600


class PurgeClock:
    def __init__(self):
        # The time of day and the monotonic time of a moment that is trusted, and of the one since which the clock has
        # run evenly.
        self.trusted, self.even, self.is_told = self._reading(), None, False

    def now(self):
        """The time to purge by, or None while the clock cannot be trusted."""
        reading = self._reading()
        if self.even is not None and not self._leads_to(self.even, reading):
            self.even = None
        if self.even is not None and reading[1] - self.even[1] >= TRUSTED_AFTER_S:
            self.trusted = reading
        if self._leads_to(self.trusted, reading):
            self.even, self.is_told = None, False
            return reading[0]
        self.even = self.even or reading
        if not self.is_told:
            self.is_told = True
            text = "the clock was set; no row is purged until it is back, or has run evenly for an hour"
            log.error("alarm=clock_skew %s", text)
        return None

    @staticmethod
    def _reading():
        return time.time(), time.monotonic()

    @staticmethod
    def _leads_to(earlier, later):
        passed_s = later[1] - earlier[1]
        return abs(later[0] - earlier[0] - passed_s) <= SKEW_MAX_S + DRIFT * passed_s
