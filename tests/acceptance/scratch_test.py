"""A file of records, as `export --positions` writes it, is folded again just as it was, and says what it comes to."""

from __future__ import annotations

import base64
import json
import os
import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from stack.process import wait_for
from support.operating import command, fill, generations, increment, roles
from support.tables import differences, read_tables
from support.tidemark import Running, Tidemark

REFUSED = 3
DIGEST = r"[0-9]+-[0-9]+-[0-9]+-[0-9a-f]{16}"


@pytest.fixture(scope="module")
def consumer(own: Tidemark) -> Running:
    return own.start_consumer()


@pytest.fixture(scope="module")
def own(make_tidemark: Callable[..., Tidemark]) -> Iterator[Tidemark]:
    tidemark = make_tidemark()
    yield tidemark
    tidemark.end()


@pytest.fixture(scope="module")
def api(own: Tidemark) -> Running:
    return own.start_api()


@pytest.fixture(scope="module")
def case(own: Tidemark, consumer: Running, api: Running, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All of a log with poison, repeats, zeros, decisions of every kind and vehicles' events among the counters'."""
    directory = tmp_path_factory.mktemp("case")
    fill(own, 500)
    own.log.put_all("tidemark.counters", [(b"k", b"{"), (b"k", None), (None, b"\xff\x00")], partition=1)
    [mended, left, stays] = own.log.put_all("tidemark.counters", [(b"k", b"{")] * 3, partition=2)
    assert api.put("/vehicles/7", {"make": "BMW", "model": "X1"}).status_code == 202
    assert api.post("/vehicles/7/states", {"state": "sold"}).status_code == 202
    for stream in ("counters", "vehicles"):
        own.settle(stream)
    (directory / "mended.json").write_bytes(increment("k", 41)[1])
    command(own, "redrive", "counters", f"2:{mended.offset}", "--edit", str(directory / "mended.json"))
    command(own, "redrive", "counters", f"2:{stays.offset}", code=1)
    command(own, "discard", "counters", f"2:{left.offset}", "--note", "nobody's")
    fill(own, 500)
    own.settle("counters")
    return _export(own, directory / "case.ndjson")


def _export(tidemark: Tidemark, path: Path, *arguments: str, stream: str = "counters") -> Path:
    done = tidemark.run("producer", "export", stream, "--positions", "--output", path, *arguments)
    assert done.returncode == 0, done.stderr
    assert "left out" not in done.stderr
    return path


def _fold(tidemark: Tidemark, path: Path, *arguments: str, program: str = "consumer", stream: str = "counters") -> dict[str, Any]:
    said = command(tidemark, "replay", stream, "--from-file", str(path), "--json", *arguments, program=program)
    return json.loads(said)


def _schemas(tidemark: Tidemark) -> list[str]:
    return [name for (name,) in tidemark.query("select nspname from pg_namespace where nspname ~ '^(counters|vehicles)' order by 1")]


def _folded(tidemark: Tidemark) -> int:
    """Records in the only scratch that there is, if there is one."""
    return sum(one["records"] for one in generations(tidemark).values() if one["role"] == "scratch")


def test_the_case_of_a_whole_log_makes_the_live_tables(own: Tidemark, case: Path, api: Running, consumer: Running) -> None:
    assert len(case.read_text().splitlines()) == sum(own.log.ends("tidemark.counters").values())
    for stream, path in (("counters", case), ("vehicles", _export(own, case.parent / "vehicles.ndjson", stream="vehicles"))):
        before = read_tables(own.dsn, stream).rows
        found = _fold(own, path, "--keep", stream=stream)
        assert found["complete"] and found["skipped"] == 0
        schema = f"{stream}_{found['generation']}"
        assert found["schema"] == schema
        assert differences(stream, own.log, own.dsn, schema) == []
        assert read_tables(own.dsn, schema.rpartition("_")[0], schema).rows == before
        assert read_tables(own.dsn, stream).rows == before, "the live tables were touched"
        letters = own.query(f"select reason, count(*) from {schema}.dead_letters group by 1 order by 1")
        assert list(found["parked"].items()) == letters
        parked = sum(found["parked"].values())
        assert found["digest"].startswith(f"{found['applied']}-{found['duplicates']}-{parked}-")
        assert found["records"] == found["applied"] + found["duplicates"] + parked

        number = found["generation"]
        [listed] = [one for one in api.get(f"/generations/{stream}").json()["generations"] if one["generation"] == number]
        assert (listed["role"], listed["foldedBy"]) == ("scratch", [])
        assert f"generation {number} of {stream} is gone" in command(own, "drop", stream, str(number))
    assert _schemas(own) == ["counters", "vehicles"]
    assert {line["generation"] for line in consumer.events("lane_started")} == {1}


def test_a_case_says_the_same_however_often_and_wherever_and_another_fold_something_else(
    own: Tidemark, case: Path, make_tidemark: Callable[..., Tidemark]
) -> None:
    said = command(own, "replay", "counters", "--from-file", str(case))
    digest = said.splitlines()[-1].removeprefix("digest ")
    assert re.fullmatch(DIGEST, digest)
    assert "parked (" in said and "malformed" in said
    assert f"expected {digest}: equal" in command(own, "replay", "counters", "--from-file", str(case), "--expect", digest)
    found = _fold(own, case, "--expect", digest)
    assert (found["digest"], found["expected"], found["equal"]) == (digest, digest, True)
    assert "generation" not in found

    other = make_tidemark(partitions="2")
    other.kafka.kill()
    with case.open() as lines:
        piped = other.pipe("consumer", lines, "replay", "counters", "--from-file", "-", "--expect", digest)
    assert piped.returncode == 0, piped.stdout + piped.stderr
    assert _schemas(other) == ["counters", "vehicles"]
    other.end()

    differs = command(own, "replay", "counters", "--from-file", str(case), "--expect", digest, program="consumer-next", code=1)
    assert f"expected {digest}: it differs" in differs
    assert re.search(rf"^digest (?!{digest}){DIGEST}$", differs, re.MULTILINE)
    assert _schemas(own) == ["counters", "vehicles"]


def test_how_far_the_fold_of_a_file_is_stands_in_json_beside_what_it_came_to(own: Tidemark, case: Path) -> None:
    done = own.run("consumer", "replay", "counters", "--from-file", case, "--json")
    found = json.loads(done.stdout)
    last = [json.loads(line) for line in done.stderr.splitlines()][-1]
    assert (last["progress"], last["done"], last["total"]) == (f"replay {case}", case.stat().st_size, case.stat().st_size)
    assert (last["records"], last["parked"]) == (found["records"], sum(found["parked"].values()))


def test_a_part_of_the_log_is_a_case_of_its_own(own: Tidemark, case: Path, tmp_path: Path) -> None:
    end = own.log.ends("tidemark.counters")[2]
    part = _export(own, tmp_path / "part.ndjson", "--partition", "2", "--from", str(end - 30), "--to", str(end - 5))
    found = _fold(own, part, "--keep")
    schema = found["schema"]
    assert found["records"] == 25
    query = f"select first_offset, next_offset, gaps from {schema}.offsets where partition = 2"
    assert own.query(query) == [(end - 30, end - 5, 0)]
    assert generations(own)[found["generation"]]["records"] == 25
    assert _fold(own, part)["digest"] == found["digest"]
    # One number that is another.
    lines = part.read_text().splitlines()
    envelope = json.loads(lines[-1])
    value = json.loads(base64.b64decode(envelope["value"]))
    value["data"]["value"] += 1
    envelope["value"] = base64.b64encode(json.dumps(value).encode()).decode()
    (tmp_path / "other.ndjson").write_text("\n".join([*lines[:-1], json.dumps(envelope, separators=(",", ":"))]))
    changed = _fold(own, tmp_path / "other.ndjson")
    assert changed["digest"][:-16] == found["digest"][:-16]
    assert changed["digest"] != found["digest"]
    command(own, "drop", "counters", str(found["generation"]))


def test_a_scratch_is_nothing_but_looked_at_and_dropped(own: Tidemark, case: Path) -> None:
    number = str(_fold(own, case, "--keep")["generation"])
    for arguments in (["promote"], ["diff"], ["verify"], ["promote", "--accept-diff"]):
        said = command(own, arguments[0], "counters", number, *arguments[1:], code=REFUSED)
        assert f"generation {number} of counters is a scratch, folded from a file" in said
        assert f"tidemark-consumer drop counters {number}" in said
    # Nor is it meant where no number is given.
    for verb in ("promote", "diff", "rollback"):
        assert "scratch" not in command(own, verb, "counters", code=REFUSED)
    [line] = [line for line in command(own, "generations", "counters").splitlines() if " scratch " in line]
    assert re.match(rf" *{number} +scratch +\S+ +[0-9,]+ +- +[0-9]+ +\S+ +\(nobody\)$", line)
    assert "behind" not in generations(own)[int(number)]
    findings = json.loads(own.run("consumer", "doctor", "--json").stdout)["findings"]
    [finding] = [one for one in findings if f"generation {number} " in one["subject"]]
    assert (finding["check"], finding["severity"]) == ("scratch", "info")

    # An ordinary replay beside it, and its promotion, have nothing to do with it.
    command(own, "replay", "counters")
    command(own, "promote", "counters")
    command(own, "rollback", "counters")
    candidate = next(number for number, role in roles(own).items() if role == "candidate")
    command(own, "drop", "counters", str(candidate))
    command(own, "drop", "counters", number)
    assert roles(own) == {1: "live"}


def test_scratches_stand_beside_each_other_and_beside_a_replay(own: Tidemark, case: Path) -> None:
    folding = [
        own.start_command("replay", "counters", "--from-file", case, "--json", fault="c7_committed=sleep:6000")
        for _ in range(2)
    ]
    wait_for(lambda: list(roles(own).values()).count("scratch") == 2, "both to be there", 20)
    said = command(own, "replay", "counters")
    assert "has caught up" in said
    digests = set()
    for one in folding:
        out, error = one.communicate(timeout=30)
        assert one.returncode == 0, error
        digests.add(json.loads(out)["digest"])
    assert len(digests) == 1
    candidate = next(number for number, role in roles(own).items() if role == "candidate")
    command(own, "drop", "counters", str(candidate))
    assert roles(own) == {1: "live"}


def test_stopped_it_leaves_nothing_and_killed_what_drop_removes(own: Tidemark, case: Path, tmp_path: Path) -> None:
    stopped = own.start_command("replay", "counters", "--from-file", case, "--keep", fault="c7_committed=sleep:3000")
    wait_for(lambda: _folded(own) > 0, "the file to be folded", 20)
    stopped.terminate()
    out, _ = stopped.communicate(timeout=30)
    assert stopped.returncode == 1
    assert "nothing of it is left" in out
    assert roles(own) == {1: "live"} and _schemas(own) == ["counters", "vehicles"]

    # Also while nothing comes to be read.
    os.mkfifo(tmp_path / "silent")
    waiting = own.start_command("replay", "counters", "--from-file", tmp_path / "silent")
    with (tmp_path / "silent").open("w") as lines:
        lines.write(case.read_text().splitlines(keepends=True)[0])
        lines.flush()
        wait_for(lambda: "scratch" in roles(own).values(), "the scratch to be there", 20)
        waiting.send_signal(signal.SIGINT)
        out, _ = waiting.communicate(timeout=30)
    assert waiting.returncode == 1 and "nothing of it is left" in out
    assert roles(own) == {1: "live"}

    killed = own.start_command("replay", "counters", "--from-file", case, fault="c7_committed=kill")
    killed.communicate(timeout=30)
    assert killed.returncode == -signal.SIGKILL
    [number] = [number for number, role in roles(own).items() if role == "scratch"]
    command(own, "drop", "counters", str(number))
    assert roles(own) == {1: "live"} and _schemas(own) == ["counters", "vehicles"]


def test_a_file_that_does_not_say_where_its_records_stood_is_one_partition_in_its_own_time(
    own: Tidemark, case: Path, tmp_path: Path
) -> None:
    plain = tmp_path / "plain.ndjson"
    done = own.run("producer", "export", "counters", "--output", plain)
    assert done.returncode == 0, done.stderr
    decision = json.dumps(
        {"specversion": "1.0", "id": "1", "source": "/t", "type": "tidemark.dead_letter.discarded.v1", "data": {"offset": 3}}
    )
    vehicle = json.dumps(
        {"specversion": "1.0", "id": "1", "source": "/t", "type": "tidemark.vehicle.registered.v1", "data": {"id": 1, "make": "a", "model": "b"}}
    )
    with plain.open("a") as lines:
        lines.write(f"{decision}\n{vehicle}\n")
    found = _fold(own, plain, "--keep")
    assert found["skipped"] == 2
    schema = found["schema"]
    [(partitions, records, parked)] = own.query(
        f"select count(*)::int, sum(next_offset)::int, sum(parked)::int from {schema}.offsets"
    )
    assert (partitions, records, parked) == (1, found["records"], sum(found["parked"].values()))
    # Every increment counts as it did live, but for what decisions brought: one letter stood mended there.
    query = "select key, value, count from {}.totals where key <> 'k' order by key"
    assert own.query(query.format(schema)) == own.query(query.format("counters"))
    assert own.query(f"select 1 from {schema}.dead_letters where reason = 'from_the_future'") == []
    said = command(own, "replay", "counters", "--from-file", str(plain), "--expect", found["digest"])
    assert "1 lines of other streams skipped" in said
    assert "1 decisions about dead letters skipped" in said
    command(own, "drop", "counters", str(found["generation"]))


def test_what_cannot_be_folded_is_refused_and_named(own: Tidemark, case: Path, tmp_path: Path) -> None:
    lines = case.read_text().splitlines()
    # One of a partition's first two records, again.
    wrong = {
        "line 3: ": [*lines[:2], "{"],
        "line 4: /position: the lines before it are already at offset 2": [*lines[:3], lines[1]],
        "line 2: /position: is missing": [lines[0], increment("k", 1)[1].decode()],
        "line 1: /position: is in none of the log's 4 partitions": [lines[0].replace('"0:0"', '"4:0"')],
        "line 1: /partitions: ": [lines[0].replace('"partitions":4', '"partitions":10001')],
    }
    for what, text in wrong.items():
        (tmp_path / "wrong.ndjson").write_text("\n".join(text))
        assert what in command(own, "replay", "counters", "--from-file", str(tmp_path / "wrong.ndjson"), code=REFUSED)
    assert "cannot be read" in command(own, "replay", "counters", "--from-file", str(tmp_path / "none"), code=REFUSED)
    assert "is a directory" in command(own, "replay", "counters", "--from-file", str(tmp_path), code=REFUSED)
    assert "is a directory" in command(own, "import", str(tmp_path), program="producer", code=2)
    assert roles(own) == {1: "live"}
    # It can be opened, and not be read.
    assert "to its end" in command(own, "replay", "counters", "--from-file", "/proc/self/mem", code=1)
    assert roles(own) == {1: "live"}
    for arguments in (
        ["--keep"],
        ["--expect", "1-0-0-0123456789abcdef"],
        ["--from-file", str(case), "--expect", "7"],
        # What a script did not find is neither equal nor a whole log.
        ["--from-file", str(case), "--expect", ""],
        ["--from-file", ""],
        ["--expect", ""],
    ):
        command(own, "replay", "counters", *arguments, code=2)


def test_a_scratch_that_is_dropped_before_it_is_summed_up_has_no_digest(own: Tidemark, case: Path) -> None:
    folding = own.start_command("replay", "counters", "--from-file", case, "--keep", fault="c7_committed=sleep:5000")
    wait_for(lambda: _folded(own) > 0, "the file to be folded", 20)
    [number] = [number for number, role in roles(own).items() if role == "scratch"]
    command(own, "drop", "counters", str(number))
    out, error = folding.communicate(timeout=30)
    assert folding.returncode == REFUSED, out + error
    assert "was dropped meanwhile" in error
    assert "keeps the tables" not in out


def test_records_anywhere_in_a_log_are_counted_as_what_they_are(own: Tidemark, case: Path, tmp_path: Path) -> None:
    line = next(line for line in case.read_text().splitlines() if '"position":"1:' in line)
    far = [re.sub('"position":"1:[0-9]+"', f'"position":"{place}"', line) for place in ("1:5", f"1:{2**63 - 2}", f"2:{2**63 - 2}")]
    (tmp_path / "far.ndjson").write_text("\n".join(far))
    number = _fold(own, tmp_path / "far.ndjson", "--keep")["generation"]
    assert generations(own)[number]["records"] == 3
    command(own, "drop", "counters", str(number))


def test_a_case_is_imported_as_a_new_history(
    own: Tidemark, case: Path, make_tidemark: Callable[..., Tidemark]
) -> None:
    """Where its records stood is of no matter there, and what was the other log's own is skipped and counted."""
    other = make_tidemark()
    done = other.run("producer", "import", case)
    # A record without key and one without value are refused; four identities and three decisions are no loss.
    assert done.returncode == 1
    assert done.stdout.endswith(" events stored, 2 refused, 7 of another log's own skipped\n"), done.stderr
    other.start_consumer()
    other.assert_equals_log("counters")
    query = "select key, value, count from counters.totals where key <> 'k' order by key"
    assert other.query(query) == own.query(query)
    other.end()
