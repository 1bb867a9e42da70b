"""What operators run while readers and writers go on: a replay and its swaps, and the audit that never ends."""

from __future__ import annotations

import json
import math
import statistics
import time
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import psycopg2

from bench.machine import OTHER_CORE, SERVER_CORE
from bench.replays import KEYS
from bench.report import Section, Spread, in_turns, number
from bench.world import TOPIC, Ran, World, Worlds, Wrong
from stack.process import wait_for
from support.tidemark import Running

_reads_per_second = 500


@dataclass(frozen=True)
class _Answer:
    at: float
    # Microseconds.
    latency: float
    # Seconds; NaN of an answer that says nothing of it.
    age: float


@dataclass(frozen=True)
class _Phase:
    name: str
    begin: float
    end: float

    def of(self, answers: Sequence[_Answer]) -> list[_Answer]:
        return [one for one in answers if self.begin <= one.at < self.end]


def during_replay(worlds: Worlds, quick: bool) -> Section:
    """What readers and writers notice of a replay and of the swaps after it."""
    events, before = (300_000, 5) if quick else (2_000_000, 20)
    with worlds.empty() as world:
        world.fill(events, keys=KEYS)
        consumer = world.start_consumer(core=SERVER_CORE)
        world.settle(600)
        api = world.start_api()
        requests = 60_000 if quick else 400_000
        # The warm-up is for the broker's compiler too.
        full = world.post(api.url, connections=256, requests=requests, warm=2 * requests, keys=KEYS, folded=True)
        rate = full.rate / 2
        traces = [world.scratch(name) / "trace" for name in ("posts", "reads")]
        posts = world.load(api.url, requests=0, warm=256, connections=256, keys=KEYS, rate=rate, trace=traces[0])
        reads = world.load(
            api.url,
            requests=0,
            warm=16,
            logged=False,
            connections=16,
            keys=KEYS,
            rate=_reads_per_second,
            trace=traces[1],
            method="GET",
        )
        posts.go()
        reads.go()
        began = time.time()
        time.sleep(before)
        replayed = time.time()
        replay = world.consumer("replay", "counters", "--json", cores=(SERVER_CORE, OTHER_CORE))
        caught_up = time.time()
        _wait_until_followed(world)
        promoted = time.time()
        swaps = [
            world.consumer(command, "counters", "--json", cores=(SERVER_CORE, OTHER_CORE))
            for command in ("promote", "rollback", "promote")
        ]
        # What a swap holds up shows in the answers right after it.
        time.sleep(2)
        ended = time.time()
        for load in (posts, reads):
            load.stop()
            load.wait()
            load.close()
        world.posted(posts.requests)
        world.verify()
        failures = [line for line in consumer.events() if line.get("level") == "error"]
        if failures:
            raise Wrong(f"the consumer says {failures[0]}")
        world.stop("api", "consumer")
        phases = [
            _Phase("before", began + 1, replayed),
            _Phase("during the replay", replayed, caught_up),
            _Phase("promote, rollback, promote", promoted, ended),
        ]
        return _table(phases, [_read_trace(path) for path in traces], rate, full.rate, replay, swaps)


def _wait_until_followed(world: World) -> None:
    """A swap needs somebody who folds the candidate."""

    def is_followed() -> bool:
        found = json.loads(world.consumer("generations", "counters", "--json").said)
        return all(one["foldedBy"] for one in found["generations"])

    wait_for(is_followed, "a consumer to follow the candidate", 60, pause=0.5)


def _table(
    phases: list[_Phase], traces: list[list[_Answer]], rate: float, full: float, replay: Ran, swaps: list[Ran]
) -> Section:
    posts, reads = traces
    said = json.loads(replay.said.splitlines()[-1])
    section = Section(
        "Live reads and writes during a replay",
        "Two cores, which everything shares: API and consumer on one, broker, PostgreSQL and the load on the other, the replay wherever there"
        f" is room, so what a replay takes from the live path on a machine of its own is less. Half load: {number(rate)} POSTs/s, open loop, half of"
        f" the {number(full)}/s that 256 connections got with the consumer running, and {_reads_per_second} GETs/s of single"
        f" counters; {number(KEYS)} keys. Latencies in ms. *Age* is what Data-As-Of in an answer to a GET says, in seconds. Every request was answered with"
        " 202 or 200, or there were no figures.",
        [
            "phase", "seconds", "POSTs/s", "POST p50", "p99", "worst", "GETs/s", "GET p50", "p99", "worst",
            "age p50", "p99", "worst", "errors",
        ],
    )  # fmt: skip
    section.raw = {"phases": []}
    for phase in phases:
        seconds = phase.end - phase.begin
        cells: list[float] = [seconds]
        for answers in (phase.of(posts), phase.of(reads)):
            cells += [len(answers) / seconds, *_spread([one.latency / 1000 for one in answers])]
        ages = [one.age for one in phase.of(reads)]
        if any(math.isnan(age) for age in ages):
            raise Wrong("a counter was read without Data-As-Of")
        cells += _spread(ages)
        section.add(phase.name, *cells, "0")
        section.raw["phases"].append({"phase": phase.name, "cells": cells})
    section.notes.append(
        f"The replay had {number(said['records'])} records to fold, of which some came meanwhile: {number(said['records'] / said['seconds'])}/s."
    )
    section.notes.append(
        "A promote, which compares the generations and swaps them, took "
        f"{swaps[0].seconds:.2f} s, the way back {swaps[1].seconds:.2f} s, and the promote after it {swaps[2].seconds:.2f} s."
    )
    section.raw |= {"replay": said, "swaps": [one.seconds for one in swaps], "rate": rate}
    return section


def _read_trace(path: Path) -> list[_Answer]:
    numbers = array("d")
    numbers.frombytes(path.read_bytes())
    return [_Answer(*numbers[place : place + 3]) for place in range(0, len(numbers), 3)]


def _spread(values: list[float]) -> list[float]:
    """Median, p99 and the most."""
    if not values:
        raise Wrong("a phase was too short for a single answer")
    ordered = sorted(values)
    return [ordered[int(share * (len(ordered) - 1))] for share in (0.5, 0.99, 1.0)]


@dataclass(frozen=True)
class _Costs:
    """CPU microseconds per event."""

    consumer: float
    postgres: float


def audit(worlds: Worlds, quick: bool) -> Section:
    """The price of counting everything a second time."""
    rounds, backlog, seconds = (2, 100_000, 4) if quick else (3, 300_000, 10)
    rate = 10_000
    section = Section(
        "What the audit costs",
        "CPU microseconds per event of the consumer and of PostgreSQL with --audit-interval as it is by default and with 0, no audit:"
        f" while the consumer folds {number(backlog)} events as fast as it can, and at {number(rate)} POSTs/s for {seconds} s. The audit"
        " had read the log up to there before, and reads the new records within each measurement. The"
        f" default adds up the tables once a minute, which is told beside. {number(KEYS)} keys; medians of {rounds} rounds, in turns.",
        ["load", "consumer", "without", "ratio", "worst pair", "PostgreSQL", "without", "ratio"],
    )
    section.raw = {}
    with worlds.empty() as world:
        world.fill(backlog, keys=KEYS)
        api = world.start_api()
        for name, measure in (
            ("catching up", partial(_catching_up, world, backlog)),
            ("live", partial(_live, world, api.url, rate, seconds)),
        ):
            having, without = in_turns(rounds, [partial(measure, True), partial(measure, False)])
            consumers = Spread.of([one.consumer for one in having], [one.consumer for one in without])
            databases = Spread.of([one.postgres for one in having], [one.postgres for one in without])
            section.add(
                name,
                statistics.median(one.consumer for one in having),
                statistics.median(one.consumer for one in without),
                consumers.median,
                consumers.highest,
                statistics.median(one.postgres for one in having),
                statistics.median(one.postgres for one in without),
                databases.median,
            )
            section.raw[name] = {"with": [vars(one) for one in having], "without": [vars(one) for one in without]}
        rows = world.tidemark.query("select count(*) from counters.totals")[0][0]
        begin = time.monotonic()
        if world.tidemark.query("select folded = stored from counters.audit") != [(True,)]:
            raise Wrong("the tables do not add up to what the flushes say")
        took = time.monotonic() - begin
        section.notes.append(f"Adding up the tables of {number(rows)} counters took {1000 * took:.0f} ms.")
        world.stop("api")
        world.verify()
    return section


def _catching_up(world: World, backlog: int, audited: bool) -> _Costs:
    consumer = _start(world, audited)
    # All at once: what the load costs is no part of it, and the consumer has a backlog from the first moment on.
    consumer.freeze()
    world.fill(backlog, keys=KEYS)
    before = world.cpu()
    consumer.thaw()
    return _costs(world, before, backlog, audited)


def _live(world: World, url: str, rate: int, seconds: int, audited: bool) -> _Costs:
    _start(world, audited)
    load = world.load(url, requests=rate * seconds, warm=64, connections=64, keys=KEYS, rate=rate)
    world.settle()
    before = world.cpu()
    load.go()
    load.wait()
    costs = _costs(world, before, rate * seconds, audited)
    load.close()
    return costs


def _start(world: World, audited: bool) -> Running:
    """A consumer that has done all that there is."""
    consumer = world.start_consumer(core=SERVER_CORE, **({} if audited else {"audit_interval": "0s"}))
    world.settle(600)
    if audited:
        _wait_until_audited(world)
    return consumer


def _costs(world: World, before: dict[str, float], events: int, audited: bool) -> _Costs:
    """Since then, when all of them are folded and audited; ends the consumer."""
    world.settle(600)
    if audited:
        _wait_until_audited(world)
    after = world.cpu()
    world.stop("consumer")
    return _Costs(*(1e6 * (after[name] - before[name]) / events for name in ("consumer", "postgres")))


def _wait_until_audited(world: World) -> None:
    """Asks on one connection and not often, for this is part of what is measured."""
    ends = [end for _, end in sorted(world.tidemark.log.ends(TOPIC).items())]
    connection = psycopg2.connect(world.tidemark.dsn)
    connection.autocommit = True
    try:
        with connection.cursor() as cursor:

            def is_audited() -> bool:
                cursor.execute("select state, next_offsets, detail from tidemark.audits where stream = 'counters'")
                found = cursor.fetchone()
                if found is not None and found[0] not in ("equal", "reading"):
                    raise Wrong(f"the audit says {found}")
                return found is not None and found[:2] == ("equal", ends)

            wait_for(is_audited, f"the audit to be equal at {ends}", 300, pause=0.1)
    finally:
        connection.close()
