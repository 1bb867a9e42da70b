"""What it takes to build the tables again from the log: beside reading it alone, and how that grows with the log."""

from __future__ import annotations

import json
import statistics
from dataclasses import dataclass
from functools import partial
from typing import Any

from bench.report import Goal, Section, Spread, in_turns, number
from bench.world import Ran, World, Worlds, Wrong

# Of the series that bench-log writes.
EVENTS_PER_ROW = 100
KEYS = 1_000


@dataclass(frozen=True)
class Replay:
    """A replay that has caught up, whose tables were found to be the log's."""

    events: int
    # Of the folding alone, from the new schema to being caught up.
    seconds: float
    ran: Ran

    @property
    def rate(self) -> float:
        return self.events / self.seconds

    @property
    def per_cpu_second(self) -> float:
        """Events per CPU-second of the command and of PostgreSQL together."""
        return self.events / self.ran.cpu


def build(world: World) -> tuple[Replay, int]:
    """Replays the counters; the generation that was made stays."""
    ran = world.consumer("replay", "counters", "--json")
    said = json.loads(ran.said.splitlines()[-1])
    events = world.logged()
    if not said["caughtUp"] or said["parked"] != 0 or said["records"] != events + world.partitions:
        raise Wrong(f"{events} events are in the log; the replay says {said}")
    generation = int(said["generation"])
    check_tables(world, f"counters_{generation}", events)
    return Replay(events, said["seconds"], ran), generation


def build_and_drop(world: World) -> Replay:
    """Replays the counters, and removes what was made."""
    replay, generation = build(world)
    world.consumer("drop", "counters", str(generation))
    return replay


def check_tables(world: World, schema: str, events: int) -> None:
    """Wrong unless every event of the series is in a schema's totals and windows once, a hundred in each window."""
    found = world.tidemark.query(
        f"select (select sum(value) from {schema}.totals), (select sum(count) from {schema}.totals),"
        f" (select sum(value) from {schema}.windows), (select sum(count) from {schema}.windows),"
        f" (select count(*) from {schema}.windows)"
    )[0]
    wanted = (events, events, events, events, events // EVENTS_PER_ROW)
    if found != wanted:
        raise Wrong(f"sums of value and count in {schema}.totals and .windows, and windows, are {found}, not {wanted}")


def replay(worlds: Worlds, quick: bool) -> Section:
    """A replay beside reading the log alone."""
    rounds, events = (2, 300_000) if quick else (4, 1_500_000)
    section = Section(
        "A replay beside reading the log alone",
        "`tidemark-consumer replay counters`: from the log to a generation's final tables, a thread for each of 4 partitions,"
        f" beside librdkafka's batch call on the same topic, likewise a client and a thread for each partition, which throws every"
        f" record away. {number(events)} events, {number(KEYS)} keys, {EVENTS_PER_ROW} events per (key, window) row. *Fold*: from the empty schema to being"
        " caught up, connecting included; *command*: all of it. Replay or reader on one core, broker and PostgreSQL on the other; synchronous"
        f" commits; medians of {rounds} rounds, in turns. CPU-seconds are of the command and of PostgreSQL. *Keyed*: an idempotency key in each"
        " event, a row of its own in the table that remembers them.",
        [
            "events", "raw/s", "raw us/event", "replay/s", "replay / raw", "worst pair", "fold, s", "command, s",
            "us/event", "PostgreSQL us/event", "events per CPU-second", "peak RSS, MB",
        ],
    )  # fmt: skip
    section.raw = {}
    for name, keyed in (("plain", False), ("keyed", True)):
        with worlds.empty() as world:
            world.fill(events, keys=KEYS, keyed=keyed)
            world.fold()
            # Once for the broker's compiler.
            world.read_raw()
            raw, replays = in_turns(rounds, [partial(_read, world), partial(build_and_drop, world)])
            world.verify()
        ratios = Spread.of([one.rate for one in replays], [one["records"] / one["seconds"] for one in raw])
        section.add(
            name,
            statistics.median(one["records"] / one["seconds"] for one in raw),
            statistics.median(1e6 * one["cpu"] / one["records"] for one in raw),
            statistics.median(one.rate for one in replays),
            ratios.median,
            ratios.lowest,
            *_costs(replays),
        )
        section.raw[name] = {"raw": raw, "replays": _as_json(replays)}
        if not keyed:
            section.goals.append(
                Goal("replay", "events/s of a replay / of reading the log alone", ratios.median, 0.40, at_most=False)
            )
    return section


def growth(worlds: Worlds, quick: bool) -> Section:
    """Ten times the log."""
    rounds, events = (1, 100_000) if quick else (3, 1_000_000)
    section = Section(
        "Ten times the log",
        f"`replay`, `diff` and `verify` of {number(events)} events and of ten times as many, of the same {number(KEYS)} keys,"
        f" {EVENTS_PER_ROW} events per (key, window) row: ten times the windows too, as many totals. No consumer runs meanwhile. Of a replay the"
        f" time of the fold, of the others that of the command; medians of {rounds} runs, at ten times the log one. Placed as above.",
        ["command", "seconds", "at 10x", "ratio", "CPU seconds", "at 10x", "peak RSS, MB", "at 10x", "ratio"],
    )
    found: dict[str, list[list[tuple[float, Ran]]]] = {"replay": [], "diff": [], "verify": []}
    with worlds.empty() as world:
        for count, repeats in ((events, rounds), (9 * events, 1)):
            world.fill(count, keys=KEYS)
            world.fold()
            for runs in found.values():
                runs.append([])
            for _ in range(repeats - 1):
                one = build_and_drop(world)
                found["replay"][-1].append((one.seconds, one.ran))
            one, generation = build(world)
            found["replay"][-1].append((one.seconds, one.ran))
            for name in ("diff", "verify"):
                for _ in range(repeats):
                    ran = world.consumer(name, "counters", "--json")
                    if json.loads(ran.said)["differing"] != 0:
                        raise Wrong(f"{name} says {ran.said}")
                    found[name][-1].append((ran.seconds, ran))
            world.consumer("drop", "counters", str(generation))
        world.verify()

    def middle(name: str, size: int, of: Any) -> float:
        return statistics.median(of(seconds, ran) for seconds, ran in found[name][size])

    for name in found:
        seconds = [middle(name, size, lambda seconds, ran: seconds) for size in (0, 1)]
        cpu = [middle(name, size, lambda seconds, ran: ran.cpu) for size in (0, 1)]
        peak = [middle(name, size, lambda seconds, ran: ran.peak / 1e6) for size in (0, 1)]
        section.add(name, *seconds, seconds[1] / seconds[0], *cpu, *peak, peak[1] / peak[0])
        section.goals.append(Goal("growth", f"time of a {name} at ten times the log / at once", seconds[1] / seconds[0], 10.5))
        section.goals.append(Goal("growth", f"peak RSS of a {name} at ten times the log / at once", peak[1] / peak[0], 1.2))
    section.raw = {
        name: [[{"seconds": seconds, **ran.used()} for seconds, ran in runs] for runs in sizes] for name, sizes in found.items()
    }
    return section


def _read(world: World) -> Any:
    return world.read_raw()


def _costs(replays: list[Replay]) -> list[float]:
    return [
        statistics.median(one.seconds for one in replays),
        statistics.median(one.ran.seconds for one in replays),
        statistics.median(1e6 * one.ran.own / one.events for one in replays),
        statistics.median(1e6 * one.ran.postgres / one.events for one in replays),
        statistics.median(one.per_cpu_second for one in replays),
        max(one.ran.peak for one in replays) / 1e6,
    ]


def _as_json(replays: list[Replay]) -> list[dict[str, float]]:
    return [{"events": one.events, "fold": one.seconds, **one.ran.used()} for one in replays]
