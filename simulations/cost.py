"""What a run costs this machine: wall time, processor time of the rounds, memory."""

import sys
import time

__all__ = ["Meter", "peak_rss_mb"]


class Meter:
    """A stopwatch of processor time that runs only while devices and server work.

    Evaluation and display between rounds are left out by `pause` and `go`.
    """

    def __init__(self) -> None:
        self._began = time.perf_counter()
        self._mark = 0.0
        self.core_seconds = 0.0
        self.updates = 0

    def go(self) -> None:
        """Start counting processor time of this process, all threads."""
        self._mark = time.process_time()

    def pause(self, *, updates: int) -> None:
        """Stop counting; `updates` devices contributed since `go`."""
        self.core_seconds += time.process_time() - self._mark
        self.updates += updates

    @property
    def seconds(self) -> float:
        """Wall seconds since the meter was made."""
        return time.perf_counter() - self._began

    @property
    def updates_per_core_second(self) -> float:
        """Devices' contributions a second of one core; 0 before any."""
        return self.updates / self.core_seconds if self.core_seconds > 0 else 0.0


def peak_rss_mb() -> float:
    """Return the most memory this process ever held, in MB; 0 where the system does not say."""
    try:
        from resource import RUSAGE_SELF, getrusage
    except ImportError:
        return 0.0
    peak = getrusage(RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)
