"""What a run found: sections of tables and goals, as JSON and as Markdown."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

Result = TypeVar("Result")


@dataclass
class Goal:
    """A ratio and what it should be."""

    name: str
    what: str
    value: float
    bound: float
    at_most: bool = True
    unit: str = ""

    @property
    def met(self) -> bool:
        return self.value <= self.bound if self.at_most else self.value >= self.bound

    @property
    def verdict(self) -> str:
        """ "met", or by how much it is missed."""
        if self.met:
            return "met"
        missed = self.value / self.bound - 1 if self.at_most else 1 - self.value / self.bound
        return f"missed by {100 * missed:.0f} %"

    @property
    def shown_bound(self) -> str:
        return f"{'<=' if self.at_most else '>='} {number(self.bound)}{self.unit}"


@dataclass
class Section:
    """One measure's part of the report."""

    title: str
    # How it was measured: what one needs to read the table right.
    text: str
    columns: list[str]
    rows: list[list[str]] = field(default_factory=list)
    goals: list[Goal] = field(default_factory=list)
    # What follows from it, in a sentence each.
    notes: list[str] = field(default_factory=list)
    # Every single run, for those who want to judge the spread.
    raw: Any = None
    # Filled in by whoever ran the measure.
    quiet: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0

    def add(self, *cells: str | float) -> None:
        self.rows.append([cell if isinstance(cell, str) else number(cell) for cell in cells])

    def markdown(self) -> str:
        lines = [f"## {self.title}", "", self.text, ""]
        lines += ["| " + " | ".join(self.columns) + " |", "|" + "---|" * len(self.columns)]
        lines += ["| " + " | ".join(row) + " |" for row in self.rows]
        if self.notes:
            lines += ["", *(f"- {note}" for note in self.notes)]
        machine = "; ".join(f"{name.replace('_', ' ')} {number(value)}" for name, value in self.quiet.items())
        lines += ["", f"Machine meanwhile: {machine}; took {self.seconds:.0f} s.", ""]
        return "\n".join(lines)

    def as_json(self) -> dict[str, Any]:
        return {
            "title": self.title,
            "columns": self.columns,
            "rows": self.rows,
            "goals": [{**vars(goal), "met": goal.met} for goal in self.goals],
            "notes": self.notes,
            "machine_meanwhile": self.quiet,
            "seconds": round(self.seconds, 1),
            "raw": self.raw,
        }


def number(value: float) -> str:
    """As many digits as a measurement is worth."""
    if value == 0 or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def goals_table(goals: Iterable[Goal]) -> str:
    lines = ["| goal | ratio | measured | wanted | |", "|---|---|---|---|---|"]
    lines += [
        f"| {goal.name} | {goal.what} | {number(goal.value)}{goal.unit} | {goal.shown_bound} | {goal.verdict} |"
        for goal in goals
    ]
    return "\n".join(lines)


@dataclass
class Spread:
    """The ratios of what was measured in pairs."""

    ratios: list[float]

    @staticmethod
    def of(measured: Sequence[float], floor: Sequence[float]) -> Spread:
        return Spread([one / other for one, other in zip(measured, floor, strict=True)])

    @property
    def median(self) -> float:
        return statistics.median(self.ratios)

    @property
    def highest(self) -> float:
        return max(self.ratios)

    @property
    def lowest(self) -> float:
        return min(self.ratios)


def in_turns(rounds: int, ways: Sequence[Callable[[], Result]]) -> list[list[Result]]:
    """Runs the ways one after the other, backwards in every second round, so that a machine that becomes slower or
    faster meanwhile does so for all of them; by way, the results of the rounds."""
    results: list[list[Result]] = [[] for _ in ways]
    for turn in range(rounds):
        order = range(len(ways)) if turn % 2 == 0 else range(len(ways) - 1, -1, -1)
        for place in order:
            results[place].append(ways[place]())
    return results
