"""How far behind the log the tables are, in seconds, sampled while something happens."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

from support.tidemark import Tidemark


class Staleness:
    """Each sample asks the broker where the log ends; how long it takes until the tables are there is the staleness."""

    def __init__(self, tidemark: Tidemark, stream: str) -> None:
        self._tidemark = tidemark
        self._stream = stream
        self._pending: deque[tuple[float, dict[int, int]]] = deque()
        self.worst = 0.0

    def sample(self) -> None:
        asked = time.monotonic()
        self._pending.append((asked, self._tidemark.log.ends(f"tidemark.{self._stream}")))
        self._look()

    def watch(self, done: Callable[[], object], deadline: float) -> None:
        """Samples several times a second until `done()`, and then waits until all that was seen is in the tables."""
        end = time.monotonic() + deadline
        while not done():
            self._assert_in_time(end)
            self.sample()
            time.sleep(0.1)
        while self._pending:
            self._assert_in_time(end)
            self._look()
            time.sleep(0.02)

    def _look(self) -> None:
        vector = self._tidemark.vector(self._stream)
        now = time.monotonic()
        while self._pending and all(vector.get(number, 0) >= end for number, end in self._pending[0][1].items()):
            self.worst = max(self.worst, now - self._pending.popleft()[0])
        if self._pending:
            self.worst = max(self.worst, now - self._pending[0][0])

    def _assert_in_time(self, end: float) -> None:
        assert time.monotonic() < end, f"{self._stream}: the tables are {self.worst:.1f} s behind and do not catch up"
