"""A replay beside what others would build it with: Kafka Streams and Flink, doing the same to the same tables."""

from __future__ import annotations

import hashlib
import itertools
import shutil
import statistics
import subprocess
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bench.replays import EVENTS_PER_ROW, KEYS, Replay, build_and_drop, check_tables
from bench.report import Goal, Section, in_turns, number
from bench.world import TOPIC, Ran, World, Worlds, Wrong
from stack.postgres import CONSUMER
from stack.private import STATE
from stack.process import Failure
from stack.programs import CLONE

_source = Path(__file__).parent / "peers" / "streaming"
_sql = CLONE / "schemas" / "sql"

# A heap in which neither collects for long; Flink's serializers look into the JDK's classes.
_java = ["java", "-Xms1g", "-Xmx1g", *(f"--add-opens=java.base/java.{name}=ALL-UNNAMED" for name in ("lang", "util", "time"))]

_START = "bench.start"


@dataclass(frozen=True)
class _Peer:
    name: str
    # Of which the cheapest is what a goal is about.
    system: str
    main: str
    words: tuple[str, ...]


_peers = (
    _Peer("Kafka Streams, exactly_once_v2", "Kafka Streams", "Streams", ("exactly_once_v2", "true")),
    _Peer("Kafka Streams, at_least_once", "Kafka Streams", "Streams", ("at_least_once", "true")),
    _Peer("Kafka Streams, at_least_once, no changelogs", "Kafka Streams", "Streams", ("at_least_once", "false")),
    _Peer("Flink, no checkpoints", "Flink", "Flink", ("2",)),
)


@dataclass(frozen=True)
class _Pair:
    """A peer's run over the start of the log, and over all of it."""

    start: Ran
    whole: Ran
    events: int

    def per_event(self, process: str) -> float:
        """CPU microseconds of an event after the start."""
        return 1e6 * (getattr(self.whole, process) - getattr(self.start, process)) / self.events


def replay_peers(worlds: Worlds, quick: bool) -> Section:
    """A replay beside Kafka Streams and Flink."""
    rounds, start, whole = (1, 300_000, 600_000) if quick else (2, 500_000, 2_000_000)
    section = Section(
        "A replay beside Kafka Streams and Flink",
        "The same log to the same tables: totals, and windows of 10 seconds of event time with their least and greatest offset. *Streams*: Kafka Streams"
        " 3.9, in-memory stores under a cache that holds every row, so a row is written once per commit, each 30 s; a thread for each of 4 partitions."
        " *Flink*: 1.20 within one process, parallelism 2, objects reused, state on the heap; a window is written once, when it closes. Both"
        " read JSON by Jackson's streaming parser and write 5,000 rows in one UNNEST upsert. Without changelogs or"
        " checkpoints a peer cannot resume; a replay of Tidemark's can, in every row. Each alone on one core, broker and PostgreSQL on the other."
        f" Tidemark's figure is of a whole replay of {number(whole)} events ({number(KEYS)} keys, {EVENTS_PER_ROW} events per row); the"
        f" peers' is the difference to a run over the first {number(start)}, which leaves out the start of the JVM and of its compiler. The"
        f" tables of every run were found to be the log's, to the row. CPU in microseconds per event; medians of {rounds} rounds, in turns.",
        [
            "program", "its process", "PostgreSQL", "broker", "events per CPU-second", "Tidemark / it",
            "whole run included: Tidemark / it", "whole run, s", "peak RSS, MB",
        ],
    )  # fmt: skip
    lib = _built()
    # Each costs two starts of a JVM.
    peers = [peer for peer in _peers if peer.words != ("at_least_once", "true")] if quick else _peers
    with worlds.empty() as world:
        world.fill(whole, keys=KEYS)
        world.fill_other(_START, start, keys=KEYS)
        world.fold()
        world.read_raw()
        numbers = itertools.count(1)
        results = in_turns(
            rounds,
            [partial(build_and_drop, world), *(partial(_pair, world, lib, peer, start, whole, numbers) for peer in peers)],
        )
        world.verify()
    ours = [one for one in results[0] if isinstance(one, Replay)]
    per_second = statistics.median(one.per_cpu_second for one in ours)
    section.add(
        "Tidemark",
        statistics.median(1e6 * one.ran.own / one.events for one in ours),
        statistics.median(1e6 * one.ran.postgres / one.events for one in ours),
        statistics.median(1e6 * one.ran.broker / one.events for one in ours),
        per_second,
        "",
        "",
        statistics.median(one.ran.seconds for one in ours),
        max(one.ran.peak for one in ours) / 1e6,
    )
    section.raw = {"Tidemark": [one.ran.used() for one in ours]}
    ratios: dict[str, list[float]] = {}
    for peer, found in zip(peers, results[1:], strict=True):
        runs = [one for one in found if isinstance(one, _Pair)]
        cost = statistics.median(one.per_event("cpu") for one in runs)
        ratio = per_second * cost / 1e6
        ratios.setdefault(peer.system, []).append(ratio)
        section.add(
            peer.name,
            *(statistics.median(one.per_event(process) for one in runs) for process in ("own", "postgres", "broker")),
            1e6 / cost,
            ratio,
            per_second * statistics.median(one.whole.cpu for one in runs) / whole,
            statistics.median(one.whole.seconds for one in runs),
            max(one.whole.peak for one in runs) / 1e6,
        )
        section.raw[peer.name] = [{"start": one.start.used(), "whole": one.whole.used()} for one in runs]
    for system, found in ratios.items():
        section.goals.append(
            Goal("replay_peers", f"events per CPU-second of a replay / of {system} at its best", min(found), 5, at_most=False)
        )
    return section


def _pair(world: World, lib: Path, peer: _Peer, start: int, whole: int, numbers: itertools.count[int]) -> _Pair:
    return _Pair(
        _run(world, lib, peer, _START, start, next(numbers)), _run(world, lib, peer, TOPIC, whole, next(numbers)), whole - start
    )


def _run(world: World, lib: Path, peer: _Peer, topic: str, events: int, number_of: int) -> Ran:
    """One run into empty tables of its own; Wrong unless they say the same as ours."""
    schema = f"peer_{number_of}"
    postgres = world.postgres
    scripts = "".join((_sql / f"{name}.sql").read_text() for name in ("generation", "counters"))
    postgres.execute(
        f"create schema {schema} authorization {CONSUMER}; set role {CONSUMER}; set search_path = {schema}; {scripts}",
        world.database,
    )
    url = f"jdbc:postgresql://127.0.0.1:{postgres.port}/{world.database}?user={CONSUMER}&currentSchema={schema}"
    own = [f"peer-{number_of}", str(world.scratch("state"))] if peer.main == "Streams" else []
    command = [*_java, "-cp", f"{lib}/*", f"peers.{peer.main}", world.kafka.brokers, topic, url, *peer.words, *own]
    ran = world.run(command, deadline=300)
    check_tables(world, schema, events)
    if topic == TOPIC:
        _compare(world, schema)
    postgres.execute(f"drop schema {schema} cascade", world.database)
    return ran


def _compare(world: World, schema: str) -> None:
    """Wrong unless the tables hold the same rows as the live ones."""
    for table, columns in (
        ("totals", "key, value, count"),
        ("windows", "key, window_start, partition, value, count, min_offset, max_offset"),
    ):
        mine, theirs = (f"select {columns} from {name}.{table}" for name in ("counters", schema))
        differing = world.tidemark.query(
            f"select count(*) from (({mine} except {theirs}) union all ({theirs} except {mine})) rows"
        )[0][0]
        if differing != 0:
            raise Wrong(f"{differing} rows of {schema}.{table} differ from ours")


def _built() -> Path:
    """The folder of jars that the peers' sources come to, kept in the clone's own state."""
    sources = sorted(path for path in _source.rglob("*") if path.is_file())
    recipe = hashlib.sha256(b"".join(str(path.relative_to(_source)).encode() + path.read_bytes() for path in sources))
    target = STATE / "peers" / f"{_source.name}-{recipe.hexdigest()[:12]}"
    if not target.exists():
        for old in target.parent.glob(f"{_source.name}-*"):
            shutil.rmtree(old)
        unfinished = target.with_name(target.name + ".new")
        shutil.copytree(_source, unfinished)
        print("fetching Kafka Streams and Flink through Maven (once)", flush=True)
        done = subprocess.run(
            ["mvn", "-q", "-B", "-f", str(unfinished / "pom.xml"), "package"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise Failure(f"Maven could not build {_source}:\n{done.stdout[-2000:]}")
        unfinished.rename(target)
    return target / "target" / "lib"
