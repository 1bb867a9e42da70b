"""What is exported is what the log holds, and imported it makes the same tables again."""

from __future__ import annotations

import base64
import datetime
import fcntl
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from stack.process import wait_for
from support.fold import INCREMENTED, LOG_CREATED, Record
from support.tidemark import Tidemark


def _event(key: str, value: int, **more: str) -> bytes:
    event = {"specversion": "1.0", "id": f"{key}-{value}", "source": "/t", "type": INCREMENTED}
    return json.dumps(event | {"data": {"key": key, "value": value}} | more, ensure_ascii=False).encode()


@pytest.fixture(scope="module")
def source(make_tidemark: Callable[..., Tidemark]) -> Iterator[Tidemark]:
    """A log with events of every look, and records that are none."""
    tidemark = make_tidemark()
    records: list[tuple[bytes | None, bytes | None]] = [
        (f"k{n % 7}".encode(), _event(f"k{n % 7}", n)) for n in range(500)
    ]
    records += [("ключ 🚲".encode(), _event("ключ 🚲", 5)), (b"once", _event("once", 1, idempotencykey="i"))]
    records += [(b"once", _event("once", 1, idempotencykey="i")), (b"other", _event("k1", 7)), (b"poison", b"\xff\n\x00")]
    tidemark.log.put_all("tidemark.counters", records)
    tidemark.log.put("tidemark.counters", None, _event("k1", 8))
    tidemark.log.put("tidemark.counters", b"tombstone", None)
    tidemark.log.put("tidemark.counters", b"k2", _event("k2", 9), headers=[("traceparent", b"00")])
    yield tidemark
    tidemark.end()


def _export(tidemark: Tidemark, path: Path, *arguments: str) -> list[bytes]:
    done = tidemark.run("producer", "export", "counters", "--output", path, *arguments)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    return path.read_bytes().splitlines()


def _record(line: bytes) -> tuple[bytes | None, bytes | None]:
    """Key and value of what a line stands for."""
    found = json.loads(line)
    if "record" in found:
        return tuple(None if found[name] is None else base64.b64decode(found[name]) for name in ("key", "value"))
    return found["data"]["key"].encode(), line


def _ours(record: Record) -> bool:
    return record.offset != 0 or LOG_CREATED.encode() not in (record.value or b"")


def test_an_export_is_the_log_byte_for_byte(source: Tidemark, tmp_path: Path) -> None:
    lines = _export(source, tmp_path / "all.ndjson")
    expected = sorted(filter(_ours, source.log.read("tidemark.counters")), key=lambda r: (r.partition, r.offset))
    assert [_record(line) for line in lines] == [(record.key, record.value) for record in expected]
    assert sum(b'"record"' in line for line in lines) == 4
    to_pipe = source.run("producer", "export", "counters")
    assert to_pipe.stdout.encode() == (tmp_path / "all.ndjson").read_bytes()
    assert "508 records of counters written, 4 of them as envelopes" in to_pipe.stderr


def test_an_export_reports_in_json_beside_the_records(source: Tidemark, tmp_path: Path) -> None:
    to_file = source.run("producer", "export", "counters", "--json", "--output", tmp_path / "all.ndjson")
    written = len((tmp_path / "all.ndjson").read_bytes().splitlines())
    report = {"stream": "counters", "records": written, "envelopes": 4, "leftOut": 4, "complete": True}
    assert (to_file.returncode, json.loads(to_file.stdout)) == (0, report)
    progress = [json.loads(line) for line in to_file.stderr.splitlines()]
    assert progress[-1]["progress"] == "export counters" and progress[-1]["done"] == progress[-1]["total"]
    to_pipe = source.run("producer", "export", "counters", "--json")
    assert to_pipe.stdout.encode() == (tmp_path / "all.ndjson").read_bytes()
    assert json.loads(to_pipe.stderr.splitlines()[-1]) == report


def test_a_range_is_cut_by_offset_or_by_time(source: Tidemark, tmp_path: Path) -> None:
    log = source.log.read("tidemark.counters")
    wanted = [record for record in log if record.partition == 2 and 5 <= record.offset < 9]
    lines = _export(source, tmp_path / "part.ndjson", "--partition", "2", "--from", "5", "--to", "9")
    assert [_record(line) for line in lines] == [(record.key, record.value) for record in wanted]

    last = max(record.append_time for record in log)
    wait_for(lambda: time.time() * 1_000_000 > last + 5_000, "the clock to go on", 5)
    late = source.log.put_all("tidemark.counters", [(b"late", _event("late", n)) for n in range(3)])
    [since] = {r.append_time for r in source.log.read("tidemark.counters") if r.key == b"late" and r.offset == late[0].offset}
    instant = datetime.datetime.fromtimestamp(since / 1e6, datetime.UTC).isoformat()
    assert len(_export(source, tmp_path / "late.ndjson", "--from", instant)) == 3
    assert not set(_export(source, tmp_path / "early.ndjson", "--to", instant)) & {_event("late", n) for n in range(3)}


def test_an_import_of_an_export_makes_the_same_tables(
    source: Tidemark, make_tidemark: Callable[..., Tidemark], tmp_path: Path
) -> None:
    source.start_consumer()
    source.settle("counters")
    _export(source, tmp_path / "all.ndjson")
    copy = make_tidemark()
    done = copy.run("producer", "import", tmp_path / "all.ndjson")
    # A record without key, and one without value, are named: this program cannot write such.
    assert done.returncode == 1
    assert "2 refused" in done.stdout
    assert len([line for line in done.stderr.splitlines() if line.startswith("line ")]) == 2
    copy.start_consumer()
    copy.assert_equals_log("counters")
    query = "select key, value, count from counters.totals order by key"
    assert copy.query(query) == source.query(query)
    reasons = "select reason, count(*) from counters.dead_letters where key is not null and value is not null group by 1 order by 1"
    assert copy.query(reasons) == source.query(reasons)
    copy.end()


def test_decisions_about_dead_letters_stay_with_their_log(
    make_tidemark: Callable[..., Tidemark], tmp_path: Path
) -> None:
    """They name offsets, which are others in another log: they decided about letters that nobody had looked at."""
    own = make_tidemark()
    own.start_consumer()
    own.log.put("tidemark.counters", b"k", b"{")
    own.settle("counters")
    assert own.run("consumer", "discard", "counters", "--all").returncode == 0
    done = own.run("producer", "export", "counters", "--output", tmp_path / "all.ndjson")
    assert done.returncode == 0, done.stderr
    assert "5 of the log's own left out" in done.stderr
    lines = (tmp_path / "all.ndjson").read_text().splitlines()
    assert len(lines) == 1 and "dead_letter" not in lines[0]
    decision = json.dumps(
        {"specversion": "1.0", "id": "1", "source": "s", "type": "tidemark.dead_letter.discarded.v1", "data": {"offset": 1}}
    ).encode()
    envelope = {"record": "counters", "key": base64.b64encode(b"d").decode(), "value": base64.b64encode(decision).decode()}
    (tmp_path / "old.ndjson").write_text(json.dumps(envelope) + "\n")
    (tmp_path / "bare.ndjson").write_bytes(decision + b"\n" + _event("k", 1) + b"\n")
    ends = own.log.ends("tidemark.counters")
    done = own.run("producer", "import", tmp_path / "old.ndjson")
    assert (done.returncode, done.stdout) == (0, "0 of 1 events stored, 1 of another log's own skipped\n"), done.stderr
    assert own.log.ends("tidemark.counters") == ends
    done = own.run("producer", "import", tmp_path / "bare.ndjson", "--json")
    report = json.loads(done.stdout)
    assert (done.returncode, report["stored"], report["skipped"], report["refused"]) == (0, 1, 1, 0), done.stderr
    # Sending one is no way to decide either.
    done = own.run("producer", "send", "tidemark.dead_letter.discarded.v1", '{"offset":1}')
    assert done.returncode == 2 and "`tidemark-consumer redrive` and `discard`" in done.stderr
    own.end()


def test_what_cannot_be_exported_is_refused(source: Tidemark, tmp_path: Path) -> None:
    for arguments, words in (
        (["nonsense"], "no stream nonsense"),
        (["counters", "--from", "5"], "an offset needs --partition"),
        (["counters", "--to", "yesterday"], "neither an offset nor an instant"),
        (["counters", "--output", str(tmp_path / "no" / "such")], "cannot write"),
    ):
        done = source.run("producer", "export", *arguments)
        assert done.returncode == 2 and words in done.stderr, (arguments, done.stderr)
    done = source.run("producer", "export", "counters", "--partition", "9")
    assert done.returncode == 1 and "no partition 9" in done.stderr


def test_an_export_whose_reader_is_gone_says_so(source: Tidemark, tmp_path: Path) -> None:
    done = source.run("producer", "export", "counters", "--output", "/dev/full")
    assert done.returncode == 1
    assert "cannot be written" in done.stderr


def test_an_export_that_fails_leaves_the_file_of_the_last_one(source: Tidemark, tmp_path: Path) -> None:
    file = tmp_path / "nightly.ndjson"
    before = _export(source, file)
    done = source.run("producer", "export", "counters", "--output", file, "--log-level", "error", brokers="127.0.0.1:1")
    assert done.returncode == 1 and done.stderr.startswith("error: "), done.stderr
    assert file.read_bytes().splitlines() == before
    assert [one.name for one in tmp_path.iterdir()] == [file.name]

    # Nor does one that begins before another has ended; the next one keeps the mode.
    file.chmod(0o640)
    with (tmp_path / "nightly.ndjson.part").open("wb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        done = source.run("producer", "export", "counters", "--output", file)
        assert done.returncode == 2 and "is being written to by another" in done.stderr
    assert _export(source, file) == before
    assert file.stat().st_mode & 0o777 == 0o640
