"""One fault under load, from the first request to the proof that nothing was lost and nothing counted twice."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from support.load import Answers, Load, audit, out_of_bounds
from support.tidemark import Running, Tidemark

# Enough for flushes of some hundred records; little enough that two cores are not the bottleneck.
_rate = 500


@dataclass
class Finding:
    """A line of the table that stands at the end of a run of the fault tests."""

    fault: str
    seen: list[str] = field(default_factory=list)
    acked: int = 0
    refused: int = 0
    unknown: int = 0
    unknown_stored: int = 0
    lost: int = 0
    doubled: int = 0
    # Seconds from the fault until the tables held everything that the log had then.
    held: float | None = None
    # The longest time without an acknowledged write.
    gap: float = 0.0

    @staticmethod
    def table(findings: Sequence[Finding]) -> list[str]:
        head = ["fault", "acked", "refused", "unknown", "stored", "lost", "doubled", "held s", "gap s", "seen"]
        rows = [
            [
                *(one.fault, str(one.acked), str(one.refused), str(one.unknown), str(one.unknown_stored)),
                *(str(one.lost), str(one.doubled), "-" if one.held is None else f"{one.held:.1f}", f"{one.gap:.1f}"),
                "; ".join(one.seen),
            ]
            for one in findings
        ]
        widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head) - 1)]
        return ["  ".join([*(c.ljust(w) for c, w in zip(row, widths, strict=False)), row[-1]]) for row in [head, *rows]]


class Trial:
    """A context: load runs while the test does its harm inside; leaving it holds every answer and every table against
    the log.

    Two clients write: one plainly, whose every request is looked up in the log; one with an idempotency key on each,
    which repeats what was not acknowledged, so that all of its requests count exactly once.
    """

    def __init__(
        self,
        tidemark: Tidemark,
        apis: Sequence[Running],
        finding: Finding,
        *,
        seed: int = 1,
        rate: float = _rate,
        **options: Any,
    ) -> None:
        self._tidemark = tidemark
        self._apis = apis
        self._seed = seed
        self._rate = rate
        self._options = options
        self._loads: list[Load] = []
        self._finding = finding
        self.answers: list[Answers] = []

    def __enter__(self) -> Trial:
        prefix = f"{self._tidemark.database}-{time.monotonic_ns()}-"
        common = {"journal": True, "connections": 8, "vehicles": 20, "vehicle_percent": 10, "seed": self._seed}
        common |= {"keys": 30, "highest": 1000, "rate": self._rate / 2, **self._options}
        self._loads.append(Load(self._tidemark, self._apis[:1], prefix=prefix, **common))
        self._loads.append(Load(self._tidemark, self._apis, prefix=f"{prefix}r", retry=True, **common))
        try:
            for load in self._loads:
                load.wait_acked(100)
        except BaseException:
            self._kill()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self._kill()
            return
        try:
            self.answers = [load.stop() for load in self._loads]
        finally:
            self._kill()
        self._prove()

    @property
    def plain(self) -> Load:
        return self._loads[0]

    @property
    def retrying(self) -> Load:
        return self._loads[1]

    def saw(self, what: str) -> None:
        """The fault has happened; a trial that saw none fails."""
        self._finding.seen.append(what)

    def hold(self, since: float, deadline: float = 60) -> None:
        """Waits until the tables hold all that the log has now; counts the time from `since`."""
        for stream in ("counters", "vehicles"):
            self._tidemark.settle(stream, deadline)
        self._finding.held = time.monotonic() - since

    def wait_served(self, deadline: float = 60) -> None:
        """Waits until both clients' writes are acknowledged again."""
        for load in self._loads:
            load.wait_acked(50, deadline)

    def check(self, answers: Answers) -> None:
        """Holds the answers of one more load, which ran inside the trial, against the log; its lines count too."""
        finding, found = self._finding, audit(answers, self._tidemark.log.read("tidemark.counters"))
        finding.acked += answers.acked
        finding.refused += answers.refused
        finding.unknown += answers.unknown
        finding.unknown_stored += found.unknown_stored
        finding.lost += len(found.lost)
        finding.doubled += len(found.doubled)
        assert found.clean, found

    def _kill(self) -> None:
        for load in self._loads:
            load.kill()

    def _prove(self) -> None:
        finding = self._finding
        for stream in ("counters", "vehicles"):
            self._tidemark.assert_equals_log(stream, 60)
            self._assert_conserved(stream)
        for stream in ("counters", "vehicles"):
            self._tidemark.await_audit(stream)
        records = [r for stream in ("counters", "vehicles") for r in self._tidemark.log.read(f"tidemark.{stream}")]
        audits = [audit(answers, records) for answers in self.answers]
        plain, retrying = self.answers
        finding.acked = plain.acked + retrying.acked
        finding.refused = plain.refused
        finding.unknown = plain.unknown + retrying.unknown
        finding.unknown_stored = sum(one.unknown_stored for one in audits)
        finding.lost = sum(len(one.lost) for one in audits)
        finding.doubled = sum(len(one.doubled) for one in audits)
        finding.gap = plain.longest_gap
        for answers, one in zip(self.answers, audits, strict=True):
            assert one.clean, one
            assert (answers.other, answers.odd, answers.hung) == (0, 0, 0), answers
        persisted = dict(
            self._tidemark.query(
                "select key, value::bigint from counters.totals where key = any(%s)",
                [name.removeprefix("counters/") for answers in self.answers for name in answers.entities],
            )
        )
        assert not out_of_bounds(self.answers, persisted)
        # What was repeated until it was acknowledged counts once: nothing is left to bounds.
        exact = {name: sums["acked"][1] for name, sums in retrying.entities.items() if name.startswith("counters/")}
        assert retrying.refused == retrying.unknown == 0, retrying
        assert {name: persisted.get(name.removeprefix("counters/")) for name in exact} == exact
        assert finding.seen, "the fault was not seen to happen"

    def _assert_conserved(self, stream: str) -> None:
        rows = self._tidemark.query(
            f"select partition, applied + duplicates + parked + gaps, next_offset - first_offset from {stream}.offsets"
        )
        assert all(became == taken for _, became, taken in rows), rows


MakeTrial = Callable[..., Trial]
