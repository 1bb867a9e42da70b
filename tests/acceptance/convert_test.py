"""The data of the earlier services become events, the same from files and from their database."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from support.tidemark import Tidemark

_vehicles = [(1, "BMW", "X1", "quoted"), (2, "AUDI", "A4", "selling"), (3, "VW", "GOLF", "sold"), (4, "FIAT", "say \"500\",\nold", "quoted")]
_state_logs = [
    (1, "quoted", "2022-09-10 10:23:54+00"),
    (2, "quoted", "2022-09-10 14:59:01+00"),
    (2, "selling", "2022-09-11 17:03:17+00"),
    (3, "quoted", "2022-09-11 09:11:45+00"),
    (3, "selling", "2022-09-11 23:21:38+00"),
    (3, "sold", "2022-09-12 12:41:41+00"),
]
_counters = [("abc", 5), ("ключ 🚲", -7), ("line\n\"break\", and more", 2**53 - 1)]


@pytest.fixture(scope="module")
def own(make_tidemark: Callable[..., Tidemark]) -> Iterator[Tidemark]:
    tidemark = make_tidemark()
    tidemark.start_consumer()
    tidemark.query("create schema old")
    tidemark.query("create table old.vehicles (id int primary key, make text, model text, state text)")
    tidemark.query('create table old."stateLogs" ("vehicleId" int, state text, timestamp timestamptz)')
    tidemark.query('create table old."counter Values" ("the key" text primary key, total numeric)')
    # In no order: they come sorted.
    for row in reversed(_vehicles):
        tidemark.query("insert into old.vehicles values (%s, %s, %s, %s)", *row)
    for log in reversed(_state_logs):
        tidemark.query('insert into old."stateLogs" values (%s, %s, %s)', *log)
    for counter in reversed(_counters):
        tidemark.query('insert into old."counter Values" values (%s, %s)', *counter)
    yield tidemark
    tidemark.end()


def _csv(path: Path, header: str, rows: list[tuple[object, ...]]) -> Path:
    def cell(value: object) -> str:
        text = str(value).replace('"', '""')
        return f'"{text}"' if any(c in text for c in ',"\n') else text

    path.write_bytes("".join(",".join(map(cell, row)) + "\r\n" for row in [tuple(header.split(",")), *rows]).encode())
    return path


def _convert(tidemark: Tidemark, *arguments: str | Path, code: int = 0, **settings: str) -> subprocess.CompletedProcess[str]:
    done = tidemark.run("producer", "convert", *arguments, **settings)
    assert done.returncode == code, (done.stdout, done.stderr)
    return done


def _source(tidemark: Tidemark) -> str:
    options = "-csearch_path=old -ctimezone=Asia/Tokyo -cdatestyle=German"
    return f"{tidemark.dsn}{'&' if '?' in tidemark.dsn else '?'}options={quote(options)}"


_time = ("--time", "2022-09-01T00:00:00Z")


def test_vehicles_from_files_and_from_a_database_are_the_same_events(own: Tidemark, tmp_path: Path) -> None:
    vehicles = _csv(tmp_path / "v.csv", "id,make,model,state", list(_vehicles))
    logs = _csv(tmp_path / "s.csv", "vehicleId,state,timestamp", list(_state_logs))
    file = tmp_path / "events.ndjson"
    done = _convert(own, "vehicles", "--vehicles", vehicles, "--state-logs", logs, *_time, "--output", file)
    told, summary = done.stderr.splitlines()
    assert told.startswith("convert vehicles  10 rows  ") and summary == "10 rows, 11 events written"
    from_database = _convert(own, "vehicles", *_time, source_dsn=_source(own))
    assert from_database.stdout.encode() == file.read_bytes()

    for _ in range(2):
        assert own.run("producer", "import", file).returncode == 0
    own.assert_equals_log("vehicles")
    rows = own.query("select id, make, model, state from vehicles.vehicles order by id")
    assert rows == list(_vehicles)
    states = own.query(
        "select vehicle_id, state, to_char(occurred_at at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS') || '+00'"
        " from vehicles.history where kind = 'state_changed' and vehicle_id < 4 order by occurred_at"
    )
    assert states == sorted(_state_logs, key=lambda log: log[2])
    assert own.run("consumer", "verify", "vehicles").returncode == 0


def test_counters_from_files_and_from_a_database_are_the_same_events(own: Tidemark, tmp_path: Path) -> None:
    # As the database sorts them: by bytes.
    rows = sorted(_counters, key=lambda row: row[0].encode())
    counters = _csv(tmp_path / "c.csv", "the key,total", list(rows))
    columns = ("--key-column", "the key", "--value-column", "total")
    from_file = _convert(own, "counters", "--counters", counters, *columns, *_time)
    table = ("--table", 'old."counter Values"')
    from_database = _convert(own, "counters", *table, *columns, *_time, source_dsn=_source(own))
    assert from_database.stdout == from_file.stdout
    # What it came to as JSON, beside the events.
    report = {"rows": len(rows), "events": len(rows), "refused": 0, "complete": True}
    arguments = ("counters", "--counters", counters, *columns, *_time, "--json")
    told, said = map(json.loads, _convert(own, *arguments).stderr.splitlines())
    assert (told["progress"], told["done"], told["refused"], said) == ("convert counters", len(rows), 0, report)
    assert json.loads(_convert(own, *arguments, "--output", tmp_path / "again.ndjson").stdout) == report
    assert (tmp_path / "again.ndjson").read_text() == from_file.stdout

    (tmp_path / "events.ndjson").write_text(from_file.stdout)
    for _ in range(2):
        assert own.run("producer", "import", tmp_path / "events.ndjson").returncode == 0
    own.assert_equals_log("counters")
    assert own.query('select key, value::bigint, count from counters.totals order by key collate "C"') == [
        (*row, 1) for row in rows
    ]
    replayed = own.run("consumer", "replay", "counters")
    assert replayed.returncode == 0, replayed.stderr
    assert own.run("consumer", "diff", "counters").returncode == 0
    assert own.run("consumer", "verify", "counters", "2").returncode == 0


def test_rows_that_cannot_be_events_are_named_and_the_others_are_written(own: Tidemark, tmp_path: Path) -> None:
    own.query("create table old.broken (key text, value text)")
    own.query("insert into old.broken values (null, '1'), ('a', '1.5'), ('', 'x'), ('b', '2')")
    done = _convert(own, "counters", "--table", "old.broken", *_time, source_dsn=own.dsn, code=1)
    assert len(done.stdout.splitlines()) == 1 and '"data":{"key":"b","value":2}' in done.stdout
    assert 'old.broken row [null,"1"]: /key: is required\n' in done.stderr
    assert 'old.broken row ["","x"]: /key: ' in done.stderr and "; /value: " in done.stderr
    assert "4 rows, 1 events written, 3 rows refused\n" in done.stderr


def test_what_is_no_such_data_is_refused(own: Tidemark, tmp_path: Path) -> None:
    for arguments, code, words in (
        (["vehicles"], 2, "--vehicles FILE and --state-logs FILE"),
        (["counters", "--counters", "c.csv"], 2, "time: is needed"),
        (["counters", "--counters", "missing.csv", *_time], 1, "cannot read missing.csv: No such file"),
        (["counters", "--counters", "c.csv", "--time", "today"], 2, "time: is no instant"),
        (["houses"], 2, "neither vehicles nor counters"),
    ):
        done = own.run("producer", "convert", *arguments)
        assert done.returncode == code and words in done.stderr, (arguments, done.stderr)
    done = _convert(own, "counters", "--table", "no_such", *_time, source_dsn=own.dsn, code=1)
    assert done.stderr.startswith("error: there is no table no_such; give --table as SQL would")
    (tmp_path / "c.csv").write_text("key,value\na,1\n")
    words = ["counters", "--counters", str(tmp_path / "c.csv"), *_time, "--output", str(tmp_path / "out"), "--json"]
    with open("/dev/full", "w") as full:
        unsaid = subprocess.run(
            [own.build / "producer" / "tidemark-producer", "convert", *words],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert unsaid.returncode == 1 and "standard output cannot be written to" in unsaid.stderr
    done = _convert(own, "vehicles", source_dsn=own.dsn, code=1)
    assert 'relation "stateLogs" does not exist' in done.stderr and done.stdout == ""
