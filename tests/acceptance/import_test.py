"""A file that is imported counts once, however often and in which pieces that is done."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import pty
import re
import shlex
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from stack.process import wait_for
from support.fold import INCREMENTED
from support.tidemark import Tidemark


def _event(key: str, value: int = 1, **more: str) -> str:
    event = {"specversion": "1.0", "id": f"{key}-{value}", "source": "/t", "type": INCREMENTED}
    return json.dumps(event | {"time": "2026-11-20T10:00:00Z", "data": {"key": key, "value": value}} | more)


def _hash(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()[:16]).decode().rstrip("=")


@pytest.fixture(scope="module")
def own(make_tidemark: Callable[..., Tidemark]) -> Iterator[Tidemark]:
    tidemark = make_tidemark()
    tidemark.start_consumer()
    yield tidemark
    tidemark.assert_equals_log("counters", 60)
    tidemark.end()


def _write(path: Path, *lines: str) -> Path:
    path.write_text("".join(line + "\n" for line in lines))
    return path


def _import(tidemark: Tidemark, *arguments: str | Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = tidemark.run("producer", "import", *arguments)
    assert done.returncode == code, (done.stdout, done.stderr)
    return done


def _pipe(tidemark: Tidemark, text: str, *arguments: str) -> tuple[int, str, str]:
    with tidemark.start_import("-", *arguments) as process:
        out, errors = process.communicate(text, timeout=60)
        return process.returncode, out, errors


def _total(tidemark: Tidemark, key: str) -> tuple[int, int] | None:
    """Value and count of a key, once the tables hold the whole log."""
    tidemark.settle("counters", 60)
    rows = tidemark.query("select value::bigint, count from counters.totals where key = %s", key)
    return rows[0] if rows else None


def _stored(tidemark: Tidemark) -> int:
    return sum(tidemark.log.ends("tidemark.counters").values())


def _duplicates(tidemark: Tidemark) -> int:
    tidemark.settle("counters", 60)
    return int(tidemark.query("select sum(duplicates) from counters.offsets")[0][0])


def test_a_file_imported_twice_counts_once(own: Tidemark, tmp_path: Path) -> None:
    lines = [_event(f"twice-{n % 9}", n) for n in range(500)]
    file = _write(tmp_path / "events.ndjson", *lines)
    before = _duplicates(own)
    assert _import(own, file).stdout == "500 of 500 events stored\n"
    first = {key: _total(own, key) for key in (f"twice-{n}" for n in range(9))}
    assert first["twice-0"] == (sum(range(0, 500, 9)), 56)
    copy = tmp_path / "copy.ndjson"
    copy.write_bytes(file.read_bytes())
    _import(own, copy)  # what it is called does not matter
    assert {key: _total(own, key) for key in first} == first
    assert _duplicates(own) == before + 500

    headers = {
        header for record in own.log.read("tidemark.counters") for name, header in record.headers
        if name == "import" and (record.key or b"").startswith(b"twice-")
    }
    assert headers == {f"{_hash(file.read_bytes())}:{n}".encode() for n in range(1, 501)}


def test_two_files_count_both_also_what_they_have_in_common(own: Tidemark, tmp_path: Path) -> None:
    one = _write(tmp_path / "one.ndjson", _event("common"), _event("common"))
    two = _write(tmp_path / "two.ndjson", _event("common"), _event("common"), _event("common"))
    for file in (one, two, one, two):
        _import(own, file)
    assert _total(own, "common") == (5, 5)


def test_an_import_killed_in_the_middle_and_repeated_counts_once(own: Tidemark, tmp_path: Path) -> None:
    count = 120_000
    file = _write(tmp_path / "events.ndjson", *[_event(f"killed-{n % 50}") for n in range(count)])

    before = _stored(own)
    with own.start_import(file) as process:
        wait_for(lambda: _stored(own) > before + 1_000, "some to be stored", 30)
        process.kill()
    assert 1_000 < _stored(own) - before < count, "it was killed too late"
    done = _import(own, file, "--json")
    assert json.loads(done.stdout) == {
        "lines": count, "stored": count, "refused": 0, "skipped": 0, "notStored": 0, "unknown": 0, "complete": True,
        "file": _hash(file.read_bytes()), "fromLine": None,
    }
    assert [_total(own, f"killed-{n}") for n in (0, 49)] == [(count // 50, count // 50)] * 2
    [(total,)] = own.query("select sum(count) from counters.totals where key like 'killed-%'")
    assert total == count


def test_an_import_that_is_told_to_stop_says_how_to_go_on(own: Tidemark, tmp_path: Path) -> None:
    lines = [_event("resumed") for _ in range(300)]
    name = "an import's id"
    with own.start_import("-", "--id", name) as process:
        assert process.stdin is not None
        process.stdin.write("".join(line + "\n" for line in lines[:100]))
        process.stdin.flush()
        wait_for(lambda: _total(own, "resumed") == (100, 100), "the first lines", 30)
        process.terminate()
        assert process.wait(20) == 1
        assert process.stderr is not None
        errors = process.stderr.read()
    found = re.search(r"^try: tidemark-producer (.*)$", errors, re.MULTILINE)
    assert found is not None, errors
    command = shlex.split(found[1])
    assert command[:4] == ["import", "-", "--id", name]
    assert command[-2:] == ["--from-line", "101"]
    code, out, _ = _pipe(own, "\n".join(lines), "--id", name, "--from-line", "101")
    assert (code, out) == (0, "200 of 200 events stored\n")
    assert _total(own, "resumed") == (300, 300)
    # From too far in front it counts once, too.
    assert _pipe(own, "\n".join(lines), "--id", name)[0] == 0
    assert _total(own, "resumed") == (300, 300)


def test_an_import_without_a_broker_goes_on_from_its_first_line(own: Tidemark, tmp_path: Path) -> None:
    file = _write(tmp_path / "events of today.ndjson", _event("later"), "not an event", _event("later"))
    done = own.run("producer", "import", file, "--brokers", "127.0.0.1:1", "--give-up", "1s")
    assert done.returncode == 1
    assert f"try: tidemark-producer import '{file}' --brokers 127.0.0.1:1 --from-line 1\n" in done.stderr
    done = _import(own, file, "--from-line", "3")
    assert done.stdout == "1 of 1 events stored\n"
    assert _total(own, "later") == (1, 1)
    # Its refused line is mended elsewhere: with other bytes it would be another file.
    done = _import(own, file, code=1)
    assert "in a file of their own" in done.stderr
    assert _total(own, "later") == (2, 2)


def test_standard_input_has_no_name_unless_it_is_given_one(own: Tidemark) -> None:
    text = f"{_event('piped')}\n{_event('piped')}\n"
    for expected in (2, 4):
        assert _pipe(own, text)[:2] == (0, "2 of 2 events stored\n")
        assert _total(own, "piped") == (expected, expected)
    for _ in range(2):
        assert _pipe(own, text, "--id", "today")[0] == 0
    assert _total(own, "piped") == (6, 6)
    headers = {dict(record.headers).get("import") for record in own.log.read("tidemark.counters") if record.key == b"piped"}
    assert headers == {None, f"{_hash(b'today')}:1".encode(), f"{_hash(b'today')}:2".encode()}


def test_a_file_that_grows_is_imported_under_a_name(own: Tidemark, tmp_path: Path) -> None:
    file = _write(tmp_path / "events.ndjson", _event("grows"))
    _import(own, file, "--id", "grows")
    with file.open("a") as more:
        more.write(_event("grows") + "\n{mended later\n")
    done = _import(own, file, "--id", "grows", code=1)
    assert "the same --id" in done.stderr
    _write(file, _event("grows"), _event("grows"), _event("grows"))
    _import(own, file, "--id", "grows")
    assert _total(own, "grows") == (3, 3)


def test_a_file_that_is_written_to_meanwhile_is_named(own: Tidemark, tmp_path: Path) -> None:
    file = _write(tmp_path / "events.ndjson", *[_event("written") for _ in range(50_000)])
    before = _stored(own)
    with own.start_import(file) as process:
        wait_for(lambda: _stored(own) > before, "the first of it", 30)
        with file.open("a") as more:
            more.write(_event("written") + "\n")
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 1
    assert "was written to while it was imported" in errors


def test_what_is_parked_is_a_dead_letter_once(own: Tidemark, tmp_path: Path) -> None:
    envelope = {"record": "counters", "key": "azE=", "value": base64.b64encode(b"{parked").decode(), "headers": []}
    file = _write(tmp_path / "events.ndjson", json.dumps(envelope))
    for _ in range(2):
        _import(own, file)
    own.settle("counters")
    letters = own.query("select reason, status from counters.dead_letters where value = '{parked'")
    assert letters == [("malformed", "open")]


def test_an_import_counts_the_same_in_other_partitions(
    own: Tidemark, make_tidemark: Callable[..., Tidemark], tmp_path: Path
) -> None:
    file = _write(tmp_path / "events.ndjson", *[_event(f"moved-{n % 20}") for n in range(1_000)])
    other = make_tidemark(partitions="7")
    other.start_consumer()
    for tidemark in (own, other, other, own):
        _import(tidemark, file)
    for tidemark in (own, other):
        tidemark.assert_equals_log("counters", 60)
        totals = tidemark.query("select value::bigint, count from counters.totals where key like 'moved-%%'")
        assert totals == [(50, 50)] * 20
    other.end()


def test_a_replay_agrees_and_verify_says_equal(own: Tidemark, tmp_path: Path) -> None:
    file = _write(tmp_path / "events.ndjson", *[_event(f"again-{n % 3}") for n in range(100)])
    _import(own, file)
    _import(own, file)
    own.settle("counters", 60)
    done = own.run("consumer", "verify", "counters", "--deep")
    assert done.returncode == 0, done.stdout + done.stderr
    done = own.run("consumer", "replay", "counters")
    assert done.returncode == 0, done.stdout + done.stderr
    done = own.run("consumer", "diff", "counters")
    assert done.returncode == 0, done.stdout + done.stderr
    done = own.run("consumer", "verify", "counters", "2")
    assert done.returncode == 0, done.stdout + done.stderr
    # A line that is not there, and one that is too many, are found.
    own.query("update counters.imports set lines = lines || '\\x01' where partition = 0 and block = 0")
    done = own.run("consumer", "verify", "counters", "--deep")
    own.query("update counters.imports set lines = substr(lines, 1, length(lines) - 1) where partition = 0 and block = 0")
    assert done.returncode == 1 and "imports" in done.stdout, done.stdout + done.stderr


def test_headers_come_back_as_they_were(make_tidemark: Callable[..., Tidemark], tmp_path: Path) -> None:
    first, second = make_tidemark(), make_tidemark()
    headers: list[tuple[str, bytes | None]] = [
        ("traceparent", b"00-ab"), ("empty", b""), ("none", None), ("twice", b"1"), ("twice", b"\x00\xff"), ("", b"x"),
    ]
    poison: list[tuple[bytes, bytes]] = [(b"k", b"{"), (b"\x00\xff", b"\xff\n"), (b"else", _event("k").encode())]
    first.log.put_all("tidemark.counters", poison, headers=headers)  # type: ignore[arg-type]
    first.log.put_all("tidemark.counters", [(b"k", b"[")])
    first.log.put("tidemark.counters", b"k", _event("k").encode(), headers=[("traceparent", b"00-cd")])

    def export(tidemark: Tidemark, name: str) -> Path:
        done = tidemark.run("producer", "export", "counters", "--output", tmp_path / name)
        assert done.returncode == 0, done.stderr
        return tmp_path / name

    exported = export(first, "first.ndjson")
    _import(second, exported)

    hashed = _hash(exported.read_bytes()).encode()
    records = {(record.key, record.value): record.headers for record in second.log.read("tidemark.counters")}
    for one in poison:
        *kept, lineage = records[one]
        assert kept == headers
        assert lineage[0] == "import" and lineage[1].startswith(hashed + b":")
    assert [name for name, _ in records[b"k", b"["]] == ["import"]
    assert [name for name, _ in records[b"k", _event("k").encode()]] == ["content-type", "import"]

    # What was imported says so wherever it goes.
    third = make_tidemark()
    _import(third, export(second, "second.ndjson"))
    assert {(one.key, one.value): one.headers for one in third.log.read("tidemark.counters") if one.offset > 0} == {
        place: headers for place, headers in records.items() if b"log.created" not in (place[1] or b"")
    }
    for tidemark in (first, second, third):
        tidemark.end()


def test_what_an_import_wrote_twice_counts_once_in_every_log_that_it_comes_to(
    make_tidemark: Callable[..., Tidemark], tmp_path: Path
) -> None:
    first, second = make_tidemark(), make_tidemark()
    for one in (first, second):
        one.start_consumer()
    file = _write(tmp_path / "once.ndjson", *[_event(f"once-{n % 7}", n) for n in range(100)])
    _import(first, file)
    _import(first, file)
    for name in ("all", "again"):  # and an export of it does not count again either
        done = first.run("producer", "export", "counters", "--output", tmp_path / name)
        assert done.returncode == 0, done.stderr
        assert len((tmp_path / name).read_text().splitlines()) == 200
        _import(second, tmp_path / name)
    totals = "select key, value, count from counters.totals order by key"
    for one in (first, second):
        one.assert_equals_log("counters", 60)
    assert first.query(totals) == second.query(totals)
    assert second.query("select sum(count) from counters.totals") == [(100,)]
    for one in (first, second):
        one.end()


def test_progress_is_told_in_lines_in_json_or_as_a_bar(own: Tidemark, tmp_path: Path) -> None:
    file = _write(tmp_path / "events.ndjson", *[_event("shown") for _ in range(2_000)], "{broken")
    size = f"{file.stat().st_size:,} of {file.stat().st_size:,} bytes"
    told = _import(own, file, code=1)
    assert f"import {file}  100.0 %  {size}" in told.stderr
    assert "2,000 stored, 1 refused" in told.stderr
    told = _import(own, file, "--json", code=1)
    progress = [json.loads(line) for line in told.stderr.splitlines() if line.startswith('{"progress"')]
    assert progress[-1]["done"] == progress[-1]["total"] == file.stat().st_size
    assert (progress[-1]["stored"], progress[-1]["refused"]) == (2_000, 1)
    assert json.loads(told.stdout)["refused"] == 1

    ours, its = pty.openpty()
    try:
        environment = {**os.environ, "TIDEMARK_BROKERS": own.kafka.brokers}
        program = own.build / "producer" / "tidemark-producer"
        done = subprocess.run(
            [program, "import", file], env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=its,
            timeout=60, check=False,
        )
        os.close(its)
        its = -1
        shown = b""
        while True:
            try:
                more = os.read(ours, 65_536)
            except OSError:  # the last writer is gone
                break
            if not more:
                break
            shown += more
    finally:
        os.close(ours)
        if its >= 0:
            os.close(its)
    assert done.returncode == 1
    assert b"[##" in shown and b"\x1b[K" in shown
    # What is named stands on a line of its own, not behind the bar.
    assert b"\x1b[Kline 2001: " in shown
