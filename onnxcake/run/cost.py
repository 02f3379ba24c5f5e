"""Count what a run has cost so far, over all its starts."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..core import json_files
from ..core.files import write_json
from ..report.report import Cost

FILE = "spent.json"
_FLUSH_S = 10.0


class RunCost:
    """Count seconds for each stage, teacher passes with gradient and queries without.

    Kept in ``spent.json``, so that a later start adds to them.

    Raises:
        StoreError: if that file does not hold them.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE
        self.seconds: dict[str, float] = {}
        self.teacher_passes = self.teacher_queries = 0
        self._stage, self._since, self._flushed = "", 0.0, 0.0
        self._one_at_a_time = threading.Lock()
        if self._path.exists():
            kept = json_files.read(self._path, Cost, "Remove it: the cost is then counted from here.")
            self.seconds = dict(kept.seconds)
            self.teacher_passes, self.teacher_queries = kept.teacher_passes, kept.teacher_queries

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the block's seconds to a stage, whatever way the block ends."""
        self._stage, self._since = name, time.monotonic()
        self._flushed = self._since
        try:
            yield
        finally:
            self._write()
            self._stage = ""

    def tick(self, teacher_passes: int = 0, teacher_queries: int = 0) -> None:
        """Count passes, from any thread; write the file now and then, so that a kill loses little."""
        with self._one_at_a_time:
            self.teacher_passes += teacher_passes
            self.teacher_queries += teacher_queries
            if time.monotonic() - self._flushed > _FLUSH_S:
                self._write()

    def so_far(self) -> Cost:
        """Return what was spent so far, seconds to the hundredth."""
        seconds = {stage: round(passed, 2) for stage, passed in self.seconds.items()}
        return Cost(seconds, self.teacher_passes, self.teacher_queries)

    def point(self) -> dict[str, float]:
        """Return what was spent so far, for a point of a curve."""
        running = time.monotonic() - self._since if self._stage else 0.0
        return {
            "teacher_passes": self.teacher_passes,
            "teacher_queries": self.teacher_queries,
            "seconds": round(sum(self.seconds.values()) + running, 2),
        }

    def _write(self) -> None:
        now = time.monotonic()
        self.seconds[self._stage] = self.seconds.get(self._stage, 0.0) + now - self._since
        self._since = self._flushed = now
        write_json(self._path, json_files.plain(self.so_far()))
