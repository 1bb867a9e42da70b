"""How far the tables are behind the log: at half load, and after a consumer was away; and what each process costs."""

from __future__ import annotations

import bisect
import select
import threading
import time
from collections import defaultdict
from dataclasses import dataclass, field

import psycopg2
from confluent_kafka import Consumer, KafkaError, TopicPartition

from bench.machine import SERVER_CORE
from bench.report import Goal, Section, number
from bench.world import TOPIC, Sent, World, Worlds, Wrong
from support.answers import instant

# The consumer's default --flush-interval.
_interval = 1.0

_processes = ("api", "broker", "consumer", "postgres")


@dataclass
class _Seen:
    """What a reader of the tables saw of one partition: from which moment on they held the log up to which offset."""

    times: list[float] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)


class _Reader:
    """Looks at the tables whenever a flush says that it has committed."""

    def __init__(self, dsn: str) -> None:
        self._stop = threading.Event()
        self._connection = psycopg2.connect(dsn)
        self._connection.autocommit = True
        self.seen: dict[int, _Seen] = defaultdict(_Seen)
        with self._connection.cursor() as cursor:
            cursor.execute("listen tidemark_progress")
        self._look()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def end(self) -> dict[int, _Seen]:
        """What it saw until now."""
        self._stop.set()
        self._thread.join()
        self._look()
        self._connection.close()
        return self.seen

    def _run(self) -> None:
        while not self._stop.is_set():
            if select.select([self._connection], [], [], 0.1)[0]:
                self._connection.poll()
                if self._connection.notifies:
                    self._connection.notifies.clear()
                    self._look()

    def _look(self) -> None:
        with self._connection.cursor() as cursor:
            cursor.execute("select partition, next_offset from counters.offsets")
            now = time.time()
            for partition, next_offset in cursor.fetchall():
                seen = self.seen[partition]
                if not seen.offsets or seen.offsets[-1] != next_offset:
                    seen.times.append(now)
                    seen.offsets.append(next_offset)


def lag(worlds: Worlds, quick: bool) -> list[Section]:
    """How far the tables are behind, and the sizing table from the same loads."""
    world = worlds.shared()
    steady, away = (10, 10) if quick else (40, 60)
    api = world.start_api()
    world.start_consumer(core=SERVER_CORE)
    keys = 10_000
    full = world.post(api.url, connections=256, requests=60_000 if quick else 500_000, keys=keys, folded=True)
    rate = full.rate / 2
    starts = world.tidemark.log.ends(TOPIC)

    reader = _Reader(world.tidemark.dsn)
    half = world.post(api.url, connections=256, requests=int(rate * steady), rate=rate, keys=keys, warm=256, folded=True)
    seen = reader.end()
    lags = sorted(_lags(world, starts, seen))
    if len(lags) < half.requests:
        raise Wrong(f"{half.requests} events were acknowledged, {len(lags)} were seen in the tables")

    section = Section(
        "How far the tables are behind",
        f"API and consumer on one core, broker, PostgreSQL and load on the other; {number(keys)} keys, 4 partitions."
        f" *Lag* of an event: from its append to the moment a reader of the tables sees it. Half load is {number(rate)}/s,"
        f" open loop, {steady} s, half of the {number(full.rate)}/s that 256 connections got with the consumer running.",
        ["what", "value"],
    )
    p50, p99, worst = (lags[int(share * (len(lags) - 1))] for share in (0.5, 0.99, 1.0))
    section.add("lag at half load, median", f"{p50:.2f} s")
    section.add("lag at half load, p99", f"{p99:.2f} s")
    section.add("lag at half load, worst", f"{worst:.2f} s")
    section.goals.append(Goal("lag", "lag p99 at half load / flush interval", p99 / _interval, 1.2))
    section.raw = {"rate": rate, "lag": {"p50": p50, "p99": p99, "max": worst}}
    world.stop("consumer")

    _catch_up(world, section, api.url, rate, keys, away)
    world.stop("api", "consumer")
    return [section, _sizing(full, half, rate)]


def _catch_up(world: World, section: Section, url: str, rate: float, keys: int, away: int) -> None:
    """The consumer stops, the load goes on; it comes back and has to fold what was left and what still comes."""
    starts = world.tidemark.log.ends(TOPIC)
    # The load goes on for a while after the return, so that catching up has something to race against.
    load = world.load(url, requests=int(rate * (away + 15)), warm=256, connections=256, rate=rate, keys=keys)
    load.go()
    time.sleep(away)
    reader = _Reader(world.tidemark.dsn)
    returned = time.time()
    consumer = world.start_consumer(core=SERVER_CORE)
    load.wait()
    load.close()
    world.verify()
    seen = reader.end()
    claimed = [event for event in consumer.events("claimed") if event["stream"] == "counters"]
    if not claimed:
        raise Wrong("the consumer has claimed nothing")
    # From the first commit that the reader saw to the one after which the oldest missing event was younger than an interval.
    appended = _append_times(world, starts)
    commits = sorted({at for one in seen.values() for at in one.times if at > returned})
    caught_up = next((at for at in commits if _oldest_missing(seen, appended, at, starts) > at - 1.2 * _interval), None)
    if caught_up is None or len(commits) < 2:
        raise Wrong("the consumer has not caught up")
    backlog = _folded(seen, caught_up) - _folded(seen, returned)
    began = _moment(claimed[0]["ts"])
    speed = backlog / (caught_up - began)
    section.add(f"consumer away for {away} s: events to catch up with", number(backlog))
    section.add("from its start to its partitions", f"{began - returned:.1f} s")
    section.add("from there to being caught up", f"{caught_up - began:.1f} s")
    section.add("folded meanwhile", f"{number(speed)}/s")
    section.goals.append(
        Goal("lag", f"catch-up rate after {away} s away / live rate at half load", speed / rate, 5, at_most=False)
    )
    section.raw |= {"catch_up": {"events": backlog, "seconds": caught_up - began, "until_claim": began - returned}}


def _sizing(full: Sent, half: Sent, rate: float) -> Section:
    section = Section(
        "Sizing: what an event costs each process",
        "CPU microseconds per event from POST to table, and how many events per second one core of each could take; from"
        " the two loads of the section above. 10,000 keys: at more keys per flush PostgreSQL's share grows with the rows.",
        ["process", "half load", "events/s per core", "full load", "events/s per core"],
    )
    for name in _processes:
        section.add(name, half.per_event(name), 1e6 / half.per_event(name), full.per_event(name), 1e6 / full.per_event(name))
    section.add(
        "together",
        half.per_event(*_processes),
        1e6 / half.per_event(*_processes),
        full.per_event(*_processes),
        1e6 / full.per_event(*_processes),
    )
    section.raw = {"half": {"rate": rate, "cpu": half.cpu}, "full": {"rate": full.rate, "cpu": full.cpu}}
    return section


def _lags(world: World, starts: dict[int, int], seen: dict[int, _Seen]) -> list[float]:
    """By event from `starts` on, seconds from its append to the first moment at which the tables were seen to have it."""
    found = []
    for partition, times in _append_times(world, starts).items():
        one = seen[partition]
        for offset, appended in enumerate(times, start=starts[partition]):
            place = bisect.bisect_right(one.offsets, offset)
            if place == len(one.offsets):
                raise Wrong(f"{TOPIC}-{partition}: offset {offset} is acknowledged and not in the tables")
            found.append(one.times[place] - appended)
    return found


def _append_times(world: World, starts: dict[int, int]) -> dict[int, list[float]]:
    """By partition, when each record from `starts` on was appended; there are no gaps in this log."""
    ends = world.tidemark.log.ends(TOPIC)
    found: dict[int, list[float]] = {partition: [] for partition in starts}
    unread = {partition for partition, start in starts.items() if start < ends[partition]}
    reader = Consumer(
        {
            "bootstrap.servers": world.kafka.brokers,
            "group.id": "bench",
            "enable.auto.commit": False,
            "isolation.level": "read_uncommitted",
            "queued.min.messages": 1_000_000,
        }
    )
    try:
        reader.assign([TopicPartition(TOPIC, partition, starts[partition]) for partition in unread])
        deadline = time.monotonic() + 300
        while unread:
            if time.monotonic() > deadline:
                raise Wrong(f"{TOPIC} cannot be read back")
            for message in reader.consume(20_000, timeout=0.2):
                if message.error() is not None:
                    if message.error().code() != KafkaError._PARTITION_EOF:
                        raise Wrong(str(message.error()))
                    continue
                partition = message.partition()
                if message.offset() < ends[partition]:
                    found[partition].append(message.timestamp()[1] / 1000)
                if message.offset() + 1 >= ends[partition]:
                    unread.discard(partition)
    finally:
        reader.close()
    for partition, times in found.items():
        if len(times) != ends[partition] - starts[partition]:
            raise Wrong(f"{TOPIC}-{partition}: there are gaps in the log")
    return found


def _offset_at(seen: _Seen, at: float) -> int:
    place = bisect.bisect_right(seen.times, at)
    return seen.offsets[max(place - 1, 0)]


def _folded(seen: dict[int, _Seen], at: float) -> int:
    return sum(_offset_at(one, at) for one in seen.values())


def _oldest_missing(seen: dict[int, _Seen], appended: dict[int, list[float]], at: float, starts: dict[int, int]) -> float:
    """When the oldest record was appended that the tables did not have at that moment; that moment itself if none."""
    oldest = at
    for partition, times in appended.items():
        place = _offset_at(seen[partition], at) - starts[partition]
        if place < len(times):
            oldest = min(oldest, times[place])
    return oldest


def _moment(text: str) -> float:
    """Of a log line, as seconds since the epoch."""
    return instant(text) / 1e6
