"""What a flush costs beside the statements that it cannot do without."""

from __future__ import annotations

import json
import statistics
import subprocess
from dataclasses import dataclass
from typing import Any

from bench.machine import SERVER_CORE, on_core
from bench.report import Goal, Section, Spread, number
from bench.world import World, Worlds, Wrong
from stack.postgres import CONSUMER
from stack.process import wait_for
from stack.programs import CLONE

_sql = CLONE / "schemas" / "sql"


@dataclass(frozen=True)
class _Size:
    table_keys: int
    keys: int
    events: int = 1


def flush(worlds: Worlds, quick: bool) -> Section:
    """A flush beside its upserts, and the price of exactly-once."""
    world = worlds.shared()
    rounds = 3 if quick else 10
    sizes = [_Size(100_000, 10_000), _Size(100_000, 10_000, events=10)]
    sizes += [] if quick else [_Size(1_000_000, 10_000), _Size(1_000_000, 50_000)]
    section = Section(
        "A flush beside the upserts alone",
        "`consumers::flush` with prepared records: fence, decode, decide, fold, two sorted UNNEST upserts (totals,"
        " windows), tally, notify, commit. Beside it *upserts*: the same two statements with ready-made parameters, and a"
        " commit; *simple*: one UNNEST upsert into (text primary key, bigint); *plain*: the flush without offsets, without"
        " deduplication and notification; *keyed*: with an idempotency key on each record. Tables of the same size, synchronous"
        f" commits, client and backend on a core of their own; medians of {2 * rounds} batches each, in turns; rows per second.",
        [
            "rows in the table", "keys in the batch", "events per key", "flush", "upserts", "simple",
            "flush / upserts", "flush / simple", "flush / plain, CPU", "keyed / flush, CPU",
            "backend us/row", "client us/event", "rows written / (2 x keys)",
        ],
    )  # fmt: skip
    section.raw = []
    prices: list[float] = []
    for number_of, size in enumerate(sizes):
        database = f"{world.database}_flush_{number_of}"
        _prepare(world, database, size)
        found = _run(world, database, size, rounds)
        _check(world, database, size, found)
        ways: dict[str, list[dict[str, Any]]] = {}
        for run in found["runs"]:
            ways.setdefault(run["way"], []).append(run)
        section.raw.append({**vars(size), "runs": found["runs"]})

        def rate(way: str) -> list[float]:
            return [run["rows"] / run["seconds"] for run in ways[way]]

        def cpu(way: str) -> list[float]:
            return [run["client"] + run["backend"] for run in ways[way]]

        to_upserts = Spread.of(rate("flush"), rate("upserts"))
        to_simple = Spread.of(rate("flush"), rate("simple"))
        to_plain = Spread.of(cpu("flush"), cpu("plain"))
        written = statistics.median(run["rows"] / (2 * size.keys) for run in ways["flush"])
        prices.append(to_plain.median)
        section.add(
            number(size.table_keys),
            number(size.keys),
            str(size.events),
            statistics.median(rate("flush")),
            statistics.median(rate("upserts")),
            statistics.median(rate("simple")),
            to_upserts.median,
            to_simple.median,
            to_plain.median,
            Spread.of(cpu("keyed"), cpu("flush")).median,
            statistics.median(1e6 * run["backend"] / run["rows"] for run in ways["flush"]),
            statistics.median(1e6 * run["client"] / (size.keys * size.events) for run in ways["flush"]),
            written,
        )
        where = f"{number(size.keys)} of {number(size.table_keys)} keys, {size.events} event(s) each"
        section.goals.append(Goal("flush", f"rows/s of a flush / of the upserts, {where}", to_upserts.median, 0.85, at_most=False))
        section.goals.append(Goal("flush", f"rows written / distinct keys per table, {where}", written, 1.0))
        worlds.postgres.execute(f"DROP DATABASE {database}")
    section.goals.append(Goal("exactly-once", "CPU of a flush / of one without offsets", statistics.median(prices), 1.03))
    return section


def _prepare(world: World, database: str, size: _Size) -> None:
    """A database with the streams' own tables and the floors' beside them, all holding the same keys."""
    postgres = world.postgres
    postgres.create_database(database)
    world.migrate(database)
    scripts = "".join((_sql / f"{name}.sql").read_text() for name in ("generation", "counters"))
    fill = (
        "insert into totals select 'key-' || n, 0, 0, 'epoch' from generate_series(0, {last}) n;"
        "insert into windows select 'key-' || n, 'epoch', 0, 0, 0, 0, 0 from generate_series(0, {last}) n;"
    ).format(last=size.table_keys - 1)
    for schema in ("plain_floor", "upserts_floor"):
        postgres.execute(f"create schema {schema}; set search_path = {schema}; {scripts} {fill}", database)
    postgres.execute(f"set search_path = counters; {fill}", database)
    postgres.execute(
        "create schema simple_floor; set search_path = simple_floor;"
        "create table simple (key text collate \"C\" primary key, value bigint not null) with (fillfactor = 70);"
        f"insert into simple select 'key-' || n, 0 from generate_series(0, {size.table_keys - 1}) n",
        database,
    )
    postgres.execute("vacuum analyze", database)
    postgres.execute("checkpoint", database)


def _run(world: World, database: str, size: _Size, rounds: int) -> dict[str, Any]:
    command = [str(world.bench_binary("bench-flush"))]
    command += ["--consumer-dsn", world.postgres.dsn(CONSUMER, database), "--floor-dsn", world.postgres.dsn(database=database)]
    command += ["--table-keys", str(size.table_keys), "--keys", str(size.keys), "--events", str(size.events)]
    command += ["--rounds", str(rounds)]
    with on_core(SERVER_CORE):
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise Wrong(f"bench-flush failed: {done.stderr.strip()}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _check(world: World, database: str, size: _Size, found: dict[str, Any]) -> None:
    """Wrong unless every event of every way is in its tables once."""

    def one(sql: str) -> int:
        return int(world.postgres.execute(sql, database))

    for schema, events in (
        ("counters", found["flushed"]),
        ("plain_floor", found["plain"]),
        ("upserts_floor", found["upserts"]),
    ):
        for table in ("totals", "windows"):
            if one(f"select sum(value) from {schema}.{table}") != events:
                raise Wrong(f"{events} events were written to {schema}.{table}, its sum is another")
    if one("select sum(value) from simple_floor.simple") != found["simple"]:
        raise Wrong(f"{found['simple']} events were written to simple_floor.simple, its sum is another")
    if one("select sum(applied) from counters.offsets") != found["flushed"]:
        raise Wrong("the offset rows do not say what was flushed")
    # The server's own count of rows: of all flushes, and of filling the tables. A session reports it when it ends.
    def rows_written(table: str) -> int:
        return one(
            "select pg_stat_get_tuples_inserted(c) + pg_stat_get_tuples_updated(c)"
            f" from (select 'counters.{table}'::regclass::oid as c) t"
        )

    expected = size.table_keys + found["flushes"] * size.keys
    for table in ("totals", "windows"):
        wait_for(
            lambda table=table: rows_written(table) == expected,  # type: ignore[misc]
            f"{found['flushes']} flushes of {size.keys} keys to have written as many rows of {table}",
        )
