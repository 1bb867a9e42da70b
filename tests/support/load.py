"""Load on a Tidemark's APIs, and holding every answer it got against the log and the tables."""

from __future__ import annotations

import itertools
import json
import re
import signal
import subprocess
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stack.process import wait_for
from support.fold import Record
from support.tidemark import Running, Tidemark

# Numbers of the runs of this process: they tell one load's requests from another's in the log.
_runs = itertools.count(1)

_trace = re.compile(rb"00-([0-9a-f]{16})([0-9a-f]{16})-")
_entry = re.compile(r"(\w+) (\d+) (counters|vehicles) (\S+) (-?\d+) (\S*)")


@dataclass(frozen=True)
class Entry:
    """One request's line in the journal."""

    outcome: str
    number: int
    stream: str
    entity: str
    value: int
    token: str


@dataclass
class Answers:
    """What became of a load's requests; latencies in milliseconds."""

    run: int
    retried: bool
    acked: int
    refused: int
    unknown: int
    other: int
    # Requests on whose connection no answer came, because it was closed, or because the client's patience ended.
    closed: int
    hung: int
    retries: int
    odd: int
    first_odd: bytes
    seconds: float
    # The longest time in which nothing was acked, between two acks.
    longest_gap: float
    # By outcome: median, 99th percentile, maximum.
    latency: dict[str, tuple[float, float, float]]
    # By "stream/entity" and outcome: count and sum of the values.
    entities: dict[str, dict[str, tuple[int, int]]]
    entries: list[Entry] = field(repr=False)

    @property
    def total(self) -> int:
        return self.acked + self.refused + self.unknown + self.other

    @property
    def slowest(self) -> float:
        """The longest that any answer took, in seconds."""
        return max(latency[2] for latency in self.latency.values()) / 1000


class Load:
    """One run of tidemark-load. Its options are those of load.cpp, with `_` for `-`; True for those without a value."""

    def __init__(self, tidemark: Tidemark, apis: Sequence[Running], **options: Any) -> None:
        self.run = next(_runs)
        self._retried = bool(options.get("retry"))
        self._directory = tidemark.scratch(f"load-{self.run}")
        command = [str(tidemark.build / "tests" / "tidemark-load"), "--run", str(self.run)]
        command += ["--directory", str(self._directory)]
        for api in apis:
            command += ["--to", api.url.removeprefix("http://")]
        for name, value in options.items():
            command += [f"--{name.replace('_', '-')}"] + ([] if value is True else [str(value)])
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

    @property
    def progress(self) -> dict[str, int]:
        """How many requests have been acked, refused, unknown, other so far."""
        try:
            numbers = list(map(int, (self._directory / "progress").read_text().split()))
        except FileNotFoundError:
            numbers = []
        return dict(zip(("acked", "refused", "unknown", "other"), numbers or [0, 0, 0, 0], strict=True))

    def wait_acked(self, more: int = 1, deadline: float = 30) -> None:
        """Waits until this many more requests than now have been acked."""
        begin = self.progress["acked"]
        wait_for(lambda: self.progress["acked"] >= begin + more, f"{more} more acked requests", deadline)

    def stop(self) -> Answers:
        """Sends nothing new, waits for the answers that are due."""
        self._process.send_signal(signal.SIGTERM)
        return self.wait(60)

    def wait(self, deadline: float = 600) -> Answers:
        """Waits until all requests have been answered."""
        _, errors = self._process.communicate(timeout=deadline)
        assert self._process.returncode == 0, f"tidemark-load failed: {errors}"
        found = json.loads((self._directory / "result.json").read_text())
        names = ("acked", "refused", "unknown", "other")
        journal = self._directory / "journal"
        return Answers(
            run=self.run,
            retried=self._retried,
            **{name: found[name] for name in (*names, "closed", "hung", "odd")},
            retries=found["retried"],
            first_odd=bytes.fromhex(found["first_odd"]),
            seconds=found["took_ms"] / 1000,
            longest_gap=found["longest_gap_ms"] / 1000,
            latency={
                name: (times[0] / 1000, times[1] / 1000, times[2] / 1000) for name, times in found["latency_us"].items()
            },
            entities={
                entity: {name: (sum[0], sum[1]) for name, sum in zip(names, sums, strict=True)}
                for entity, sums in found["entities"].items()
            },
            entries=list(_entries(journal)) if journal.exists() else [],
        )

    def kill(self) -> None:
        """For a test that failed before it could stop it."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.communicate()


def _entries(journal: Path) -> Iterator[Entry]:
    for line in journal.read_text().splitlines():
        found = _entry.fullmatch(line)
        assert found, line
        yield Entry(found[1], int(found[2]), found[3], found[4], int(found[5]), found[6])


@dataclass
class Audit:
    """A load's answers held against the log: the requests, by number, that were lost (acked, and not in the log),
    doubled (in it more than once, so that they count more than once), counted though refused, or acked with a token
    that does not cover them; and how many of the unknown ones are in the log after all."""

    lost: list[int]
    doubled: list[int]
    counted_refusals: list[int]
    wrong_tokens: list[int]
    unknown_stored: int

    @property
    def clean(self) -> bool:
        return not (self.lost or self.doubled or self.counted_refusals or self.wrong_tokens)


def audit(answers: Answers, records: Sequence[Record]) -> Audit:
    """Looks up each single request in the log. Retried ones may be in it repeatedly: they carry an identity, and the
    comparison of the tables with the reference fold shows that they count once."""
    assert len(answers.entries) == answers.total, "the load was started without journal=True"
    places: dict[int, list[Record]] = defaultdict(list)
    for record in records:
        for name, value in record.headers:
            found = _trace.match(value) if name == "traceparent" else None
            if found and int(found[1], 16) == answers.run:
                places[int(found[2], 16)].append(record)
    found = Audit([], [], [], [], 0)
    for entry in answers.entries:
        here = places.pop(entry.number, [])
        if len(here) > 1 and not answers.retried:
            found.doubled.append(entry.number)
        if entry.outcome == "acked":
            if not here:
                found.lost.append(entry.number)
            elif not any(_covers(entry.token, record) for record in here):
                found.wrong_tokens.append(entry.number)
        elif entry.outcome == "refused" and here:
            found.counted_refusals.append(entry.number)
        elif entry.outcome == "unknown" and here:
            found.unknown_stored += 1
    assert not places, f"the log has requests that were never sent: {sorted(places)[:5]}"
    return found


def _covers(token: str, record: Record) -> bool:
    """Whether reading up to the token includes the record. Usually they name the same place; a broker that had the
    record already does not say where, and then the token is a later one."""
    partition, offset = map(int, token.split("-")[-2:])
    return partition == record.partition and offset >= record.offset


def out_of_bounds(answers: Sequence[Answers], persisted: dict[str, int]) -> list[str]:
    """By entity: sum(acked) <= persisted <= sum(acked) + sum(unknown). For loads of positive increments on keys that
    nobody else writes; `persisted` has their totals."""
    found = []
    low: dict[str, int] = defaultdict(int)
    high: dict[str, int] = defaultdict(int)
    for one in answers:
        for entity, sums in one.entities.items():
            stream, _, key = entity.partition("/")
            if stream == "counters":
                low[key] += sums["acked"][1]
                high[key] += sums["acked"][1] + sums["unknown"][1]
    for key, least in low.items():
        value = persisted.get(key, 0)
        if not least <= value <= high[key]:
            found.append(f"{key}: {value} is not within [{least}, {high[key]}]")
    return found
