"""Comparing a stream's tables with the reference fold of its log."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import psycopg2
import psycopg2.extensions

from support.fold import DAY, STREAMS, Counters, Expected, Vehicles
from support.log import Log

_shown = 12


def micros(column: str) -> str:
    """SQL for a timestamptz as microseconds since the epoch."""
    return f"(extract(epoch from {column}) * 1000000)::bigint"


@dataclass
class Snapshot:
    """A stream's live tables at one moment, keyed like the fold's own."""

    rows: dict[str, dict[Any, tuple[Any, ...]]]
    windows_from: int | None = None
    """Microseconds since the epoch: windows that start earlier are dropped, or about to be."""

    @property
    def vector(self) -> dict[int, int]:
        """By partition, the offset up to which the tables hold the log."""
        return {number: row[0] for number, row in self.rows["offsets"].items()}


_queries: dict[str, dict[str, tuple[int, str]]] = {
    # For each table: how many leading columns are its key, and the query.
    "": {
        "offsets": (
            1,
            f"select partition, next_offset, {micros('log_time')}, applied, duplicates, parked, gaps, first_offset"
            " from {schema}.offsets",
        ),
        "dead_letters": (
            2,
            'select partition, "offset", reason, attempts, status, decided_at, note, holds'
            " from {schema}.dead_letters",
        ),
        "dedupe": (2, f'select partition, identity, "offset", {micros("log_time")} from {{schema}}.dedupe'),
        "imports": (3, "select partition, file, block, lines from {schema}.imports"),
    },
    "counters": {
        "totals": (1, f"select key, value, count, {micros('updated_at')} from {{schema}}.totals"),
        "windows": (
            3,
            f"select key, {micros('window_start')}, partition, value, count, min_offset, max_offset"
            " from {schema}.windows",
        ),
    },
    "vehicles": {
        "history": (
            4,
            f'select vehicle_id, kind, {micros("occurred_at")}, "offset", partition, make, model, state,'
            f" {micros('recorded_at')} from {{schema}}.history",
        ),
        "vehicles": (
            1,
            f"select id, make, model, {micros('registered_at')}, registered_offset, state, {micros('occurred_at')},"
            f" state_offset, {micros('applied_at')} from {{schema}}.vehicles",
        ),
        "transitions": (
            3,
            f"select {micros('window_start')}, state, partition, count, min_offset, max_offset"
            " from {schema}.transitions",
        ),
    },
}


def read_tables(dsn: str, stream: str, schema: str = "") -> Snapshot:
    """All of a stream's tables in one snapshot."""
    connection = psycopg2.connect(dsn)
    try:
        connection.set_session(isolation_level="REPEATABLE READ", readonly=True)
        rows: dict[str, dict[Any, tuple[Any, ...]]] = {}
        with connection.cursor() as cursor:
            for table, (keys, query) in {**_queries[""], **_queries[stream]}.items():
                cursor.execute(query.format(schema=schema or stream))
                rows[table] = {row[0] if keys == 1 else row[:keys]: tuple(map(_plain, row[keys:])) for row in cursor}
            cursor.execute(f"select {micros('max(windows_from)')} from {schema or stream}.offsets")
            [(windows_from,)] = cursor.fetchall()
        return Snapshot(rows, windows_from)
    finally:
        connection.close()


def expected_tables(stream: str, log: Log, ends: dict[int, int], holding: frozenset[str] = frozenset()) -> Expected:
    """The reference fold of the log up to `ends`; letters of the reasons `holding` hold their key."""
    fold = STREAMS[stream](holding=holding)
    fold.fold(log.read(f"tidemark.{stream}", ends), ends)
    return fold


def differences(
    stream: str, log: Log, dsn: str, schema: str = "", holding: frozenset[str] = frozenset()
) -> list[str]:
    """How the tables differ from the fold of the log up to the offsets that the tables themselves name; [] is equal.

    It may be asked at any moment, also under load: what is not applied yet is no difference.
    """
    tables = read_tables(dsn, stream, schema)
    fold = expected_tables(stream, log, tables.vector, holding)
    found = _compare_common(tables, fold)
    if isinstance(fold, Counters):
        found += _compare("totals", tables.rows["totals"], {key: tuple(row) for key, row in fold.totals.items()})
        found += _compare_kept(tables, "windows", 1, fold.windows)
    if isinstance(fold, Vehicles):
        found += _compare("history", tables.rows["history"], fold.history)
        found += _compare("vehicles", tables.rows["vehicles"], fold.current())
        found += _compare_kept(tables, "transitions", 0, fold.transitions)
    return found


def _compare_kept(tables: Snapshot, table: str, start: int, expected: Mapping[Any, Any]) -> list[str]:
    """Of windows, whose key has its start at that place, those that are not dropped."""

    def kept(rows: Mapping[Any, Any]) -> dict[Any, tuple[Any, ...]]:
        since = tables.windows_from
        return {key: tuple(row) for key, row in rows.items() if since is None or key[start] >= since}

    return _compare(table, kept(tables.rows[table]), kept(expected))


def _compare_common(tables: Snapshot, fold: Expected) -> list[str]:
    partitions = {
        number: (each.next_offset, each.log_time, each.applied, each.duplicates, each.parked, each.gaps, 0)
        for number, each in fold.partitions.items()
    }
    found = _compare("offsets", tables.rows["offsets"], partitions)
    letters = {
        place: (each.reason, each.attempts, each.status, each.decided_at, each.note, each.holds)
        for place, each in fold.letters.items()
    }
    found += _compare("dead_letters", tables.rows["dead_letters"], letters)
    imports = {place: (lines,) for place, lines in fold.imports.items()}
    found += _compare("imports", tables.rows["imports"], imports)
    # Rows that can no longer decide anything may have been deleted, and may not.
    known = {place: row[:2] for place, row in fold.identities.items()}
    decisive = {place: row for place, row in known.items() if fold.partitions[place[0]].log_time - row[1] <= DAY}
    stored = tables.rows["dedupe"]
    found += _compare("dedupe", stored, decisive | {place: known[place] for place in stored if place in known})
    return found


def _compare(table: str, actual: Mapping[Any, Any], expected: Mapping[Any, Any]) -> list[str]:
    def say(what: str, key: Any, rest: str) -> str:
        return f"{table}: {what} {key!r}{rest}"

    found = [say("lacks", key, f" = {expected[key]}") for key in expected if key not in actual]
    found += [say("has also", key, f" = {actual[key]}") for key in actual if key not in expected]
    found += [
        say("at", key, f" is {actual[key]}, the log says {expected[key]}")
        for key in expected
        if key in actual and tuple(actual[key]) != tuple(expected[key])
    ]
    if len(found) > _shown:
        found = [*found[:_shown], f"{table}: and {len(found) - _shown} more differences"]
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, memoryview):
        return bytes(value)
    return int(value) if type(value).__name__ == "Decimal" else value
