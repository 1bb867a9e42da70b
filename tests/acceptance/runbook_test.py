"""Every command of docs/runbook.md is run here as it stands there, by the recipe that it is of."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from stack.postgres import binaries
from stack.private import CLONE
from stack.process import wait_for
from support.operating import fill, generations, increment
from support.tidemark import Running, Tidemark


@dataclass
class Step:
    """One line of a recipe: a program's arguments, and what its comment says of it."""

    program: str
    arguments: list[str]
    comment: str

    def run(self, tidemark: Tidemark, slot: int = 0, **variables: str) -> str:
        """Runs it to its end, which has to be the one that the runbook says; a `run` is started and goes on."""
        arguments = [re.sub(r"\$([A-Z]+)", lambda name: variables[name[1]], one) for one in self.arguments]
        version = "next" if "new version" in self.comment else ""
        if arguments[0] == "run":
            assert self.program == "consumer" and arguments[1:] == []
            tidemark.start_consumer(slot, version=version)
            return ""
        done = tidemark.run(f"{self.program}-{version}" if version else self.program, *arguments)
        expected = 1 if "exits with 1" in self.comment else 0
        assert done.returncode == expected, f"{self} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
        return done.stdout


@dataclass
class Recipe:
    """A section of the runbook."""

    title: str
    steps: list[Step] = field(default_factory=list)

    def follow(self, tidemark: Tidemark, **variables: str) -> None:
        for step in self.steps:
            step.run(tidemark, **variables)


def _read() -> dict[str, Recipe]:
    recipes: dict[str, Recipe] = {}
    title = "Begin"
    for line in (CLONE / "docs" / "runbook.md").read_text().splitlines():
        if line.startswith("## "):
            title = line.removeprefix("## ")
        elif line.startswith("    "):
            command, _, comment = line.strip().partition("#")
            program, *arguments = shlex.split(command)
            assert program in ("tidemark-consumer", "tidemark-producer"), line
            step = Step(program.removeprefix("tidemark-"), arguments, comment.strip())
            recipes.setdefault(title, Recipe(title)).steps.append(step)
    return recipes


_recipes = _read()


def _recipe(title: str) -> Recipe:
    return _recipes[title]


@pytest.fixture
def own(make_tidemark: Callable[..., Tidemark]) -> Iterator[Tidemark]:
    """Migrated; nothing runs in it yet."""
    tidemark = make_tidemark()
    yield tidemark
    tidemark.end()


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Path]:
    """Where the commands' files are."""
    before = Path.cwd()
    os.chdir(tmp_path)
    yield tmp_path
    os.chdir(before)


def _total(tidemark: Tidemark) -> Any:
    return tidemark.query("select sum(value), sum(count) from counters.totals")[0]


def test_begin_with_what_is_wrong(own: Tidemark) -> None:
    own.start_consumer()
    fill(own, 100)
    own.settle("counters")
    own.query("delete from counters.dead_letters")
    status, doctor = _recipe("Begin").steps
    assert "counters" in status.run(own)
    # Of servers that a test may throw away doctor has something to say.
    said = own.run(doctor.program, *doctor.arguments)
    assert said.returncode == 1 and "fsync" in said.stdout


def test_a_table_is_wrong(own: Tidemark) -> None:
    own.start_consumer()
    fill(own)
    own.settle("counters")
    right = _total(own)
    own.query("update counters.totals set value = value + 1 where key = 'k1'")
    _recipe("A table is wrong").follow(own)
    assert _total(own) == right
    assert list(generations(own)) == [2]


def test_a_promotion_was_a_mistake(own: Tidemark) -> None:
    own.start_consumer()
    fill(own, 500)
    own.settle("counters")
    for command in ("replay", "promote"):
        assert own.run("consumer", command, "counters").returncode == 0
    _recipe("A promotion was a mistake").follow(own)
    assert {number: one["role"] for number, one in generations(own).items()} == {1: "live", 2: "candidate"}


def test_a_new_version_that_folds_differently(own: Tidemark) -> None:
    own.start_consumer(0)
    own.log.put_all("tidemark.counters", [increment("zero", 0), increment("some", 5)])
    own.settle("counters")
    for step in _recipe("A new version that folds differently").steps:
        step.run(own, slot=1)
    assert own.query("select key from counters.totals") == [("some",)]
    assert generations(own, "consumer-next")[2]["fingerprint"] == "next"


def test_a_poison_event(own: Tidemark, here: Path) -> None:
    own.start_consumer()
    own.log.put_all("tidemark.counters", [increment("k", 1), (b"k", b"{"), (b"other", b"{")])
    own.settle("counters")
    [(letter,)] = own.query("select partition || ':' || \"offset\" from counters.dead_letters where key = 'k'::bytea")
    (here / "mended.json").write_bytes(increment("k", 41)[1])
    _recipe("A poison event").follow(own, LETTER=letter)
    assert own.query("select value from counters.totals where key = 'k'") == [(42,)]
    assert own.query("select status from counters.dead_letters order by key") == [("redriven",), ("discarded",)]


def test_turn_an_incident_into_a_test(own: Tidemark, here: Path) -> None:
    own.start_consumer()
    fill(own, 500)
    own.settle("counters")
    right = _total(own)
    export, fold, keep, drop, expect, changed = _recipe("Turn an incident into a test").steps
    export.run(own, SINCE="2020-01-01T00:00:00Z", UNTIL="2100-01-01T00:00:00Z")
    digest = fold.run(own).splitlines()[-1].removeprefix("digest ")
    [number] = re.findall(r"generation (\d+) keeps the tables, in schema counters_\1", keep.run(own))
    assert own.query(f"select sum(value), sum(count) from counters_{number}.totals")[0] == right
    drop.run(own, GENERATION=number)
    for step in (expect, changed):
        assert f"expected {digest}" in step.run(own, DIGEST=digest)
    assert list(generations(own)) == [1] and _total(own) == right


def test_a_broker_is_lost(make_tidemark: Callable[..., Tidemark]) -> None:
    own = make_tidemark(nodes=3, replication="3", min_isr="2")
    try:
        own.start_consumer()
        api = own.start_api()
        own.kafka.nodes[2].kill()
        wait_for(lambda: api.post("/increment", {"key": "k", "value": 1}).status_code == 202, "writes to go on", 30)
        own.settle("counters")
        [doctor] = _recipe("A broker is lost").steps

        def out_of_sync() -> bool:
            findings = json.loads(own.run(doctor.program, *doctor.arguments, "--json").stdout)["findings"]
            return any(one["check"] == "in_sync_replicas" for one in findings)

        wait_for(out_of_sync, "doctor to miss the broker", 60)
        own.kafka.start()
        wait_for(lambda: not out_of_sync(), "the replicas to be in sync again", 60)
    finally:
        own.end()


def test_the_database_is_lost(own: Tidemark) -> None:
    consumer = own.start_consumer()
    fill(own)
    own.settle("counters")
    right = _total(own)
    consumer.terminate()
    own.postgres.execute(f"drop database {own.database} with (force)")
    own.postgres.create_database(own.database)
    migrate, run, verify = _recipe("The database is lost").steps
    for step in (migrate, run):
        step.run(own)
    own.settle("counters")
    verify.run(own)
    assert _total(own) == right


def test_back_from_a_backup_of_the_database(own: Tidemark, here: Path) -> None:
    consumer = own.start_consumer()
    fill(own, 1_000)
    own.settle("counters")
    dump = [str(binaries() / "pg_dump"), "--format=custom", "--file=backup", own.dsn]
    subprocess.run(dump, check=True, cwd=here, timeout=60)
    fill(own, 1_000)
    own.settle("counters")
    right = _total(own)
    consumer.terminate()
    own.postgres.execute(f"drop database {own.database} with (force)")
    own.postgres.create_database(own.database)
    restore = [str(binaries() / "pg_restore"), "--exit-on-error", f"--dbname={own.dsn}", "backup"]
    subprocess.run(restore, check=True, cwd=here, timeout=60)
    assert _total(own) != right, "the backup is of before"
    migrate, run, verify = _recipe("Back from a backup of the database").steps
    for step in (migrate, run):
        step.run(own)
    own.settle("counters")
    verify.run(own)
    assert _total(own) == right
    own.await_audit("counters")


def test_more_partitions(own: Tidemark, make_tidemark: Callable[..., Tidemark], here: Path) -> None:
    own.start_consumer()
    api: Running = own.start_api()
    fill(own)
    assert api.put("/vehicles/1", {"make": "BMW", "model": "X1"}).status_code == 202
    own.settle("counters")
    new = make_tidemark(migrated=False)
    try:
        for step in _recipe("More partitions").steps:
            is_new = "new place" in step.comment
            if is_new and step.arguments[0] == "verify":
                new.settle(step.arguments[1])
            step.run(new if is_new else own)
        assert len(new.log.ends("tidemark.counters")) == 8
        assert _total(new) == _total(own)
        assert new.query("select id, make from vehicles.vehicles") == [(1, "BMW")]
    finally:
        new.end()


def test_the_whole_log_is_lost(own: Tidemark, make_tidemark: Callable[..., Tidemark], here: Path) -> None:
    own.start_consumer()
    api: Running = own.start_api()
    since = "2020-01-01T00:00:00Z"
    for make in ("BMW", "VW"):
        fill(own, 200)
        assert api.put("/vehicles/1", {"make": make, "model": "X1"}).status_code == 202
        until = datetime.now(UTC).isoformat()
        _recipe("The whole log is lost").follow(own, SINCE=since, UNTIL=until)
        since = until
    own.settle("counters")
    own.settle("vehicles")
    new = make_tidemark()
    try:
        new.start_consumer()
        for stream in ("counters", "vehicles"):
            files = sorted(here.glob(f"{stream}-*.ndjson"))
            assert len(files) == 2
            for file in files:
                done = new.run("producer", "import", str(file))
                assert done.returncode == 0, done.stdout + done.stderr
            new.settle(stream)
            # The log's identity is a record of each partition.
            assert sum(new.log.ends(f"tidemark.{stream}").values()) == sum(own.log.ends(f"tidemark.{stream}").values())
        assert _total(new) == _total(own)
        assert new.query("select id, make from vehicles.vehicles") == own.query("select id, make from vehicles.vehicles")
    finally:
        new.end()


def test_every_recipe_has_a_test() -> None:
    source = Path(__file__).read_text()
    assert [title for title in _recipes if f'_recipe("{title}")' not in source] == []
