"""The doctor finds what is broken on purpose, says why it matters, and its mending commands mend it."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka.admin import AdminClient, NewPartitions, NewTopic

from stack.private import jars
from stack.process import wait_for
from support.operating import command, increment
from support.tidemark import Tidemark

Finding = dict[str, Any]

# The tests' database server does without what only a power cut needs, and there is one broker.
_always = {"fsync", "full_page_writes", "data_checksums", "replication"}


@pytest.fixture(scope="module")
def patient(make_tidemark: Callable[..., Tidemark]) -> Iterator[Tidemark]:
    """With a consumer; each test mends what it breaks."""
    tidemark = make_tidemark(own_postgres=True)
    tidemark.start_consumer()
    wait_for(lambda: not _found(tidemark), "the doctor to find nothing", 20)
    yield tidemark
    tidemark.end()


def _all(tidemark: Tidemark) -> list[Finding]:
    done = tidemark.run("consumer", "doctor", "--json")
    assert done.returncode in (0, 1), done.stderr
    findings: list[Finding] = json.loads(done.stdout)["findings"]
    assert done.returncode == (1 if any(one["severity"] != "info" for one in findings) else 0)
    for one in findings:
        assert one["reason"] and one["mend"] and one["severity"] in ("info", "warning", "error"), one
    return findings


def _found(tidemark: Tidemark) -> list[Finding]:
    """What there is beside what the tests' own servers are."""
    return [one for one in _all(tidemark) if one["check"] not in _always]


def _only(tidemark: Tidemark, check: str, *, severity: str = "error") -> Finding:
    """The one finding that there is now."""
    findings = _found(tidemark)
    assert [one["check"] for one in findings] == [check], findings
    assert findings[0]["severity"] == severity
    return findings[0]


def _mend(tidemark: Tidemark, command: str) -> None:
    """Does what the doctor says."""
    if command.startswith("kafka-"):
        name, *arguments = shlex.split(command)
        tool = jars().tool(name, arguments, tidemark.kafka.brokers)
        subprocess.run(tool, check=True, capture_output=True, timeout=60)
    elif command.startswith("tidemark-consumer "):
        done = tidemark.run("consumer", *shlex.split(command)[1:])
        assert done.returncode == 0, done.stderr
    else:
        for statement in command.split(";"):
            tidemark.query(statement)


def _finding(tidemark: Tidemark, check: str, subject: str) -> Finding:
    """That one of what there is."""
    [finding] = [one for one in _found(tidemark) if (one["check"], one["subject"]) == (check, subject)]
    return finding


def _do(tidemark: Tidemark, mend: str, folder: Path) -> None:
    """Runs the programs' commands of a longer advice, with their files in a folder; a `run` is started and goes on."""
    commands = re.findall(r"tidemark-(consumer|producer) ([^;]+)", mend)
    assert commands, mend
    for program, arguments in commands:
        words = [str(folder / word) if word.endswith(".ndjson") else word for word in shlex.split(arguments)]
        if words == ["run"]:
            tidemark.start_consumer()
        else:
            done = tidemark.run(program, *words)
            assert done.returncode == 0, f"{program} {words}:\n{done.stdout}{done.stderr}"


def _drop_topic(tidemark: Tidemark, topic: str) -> None:
    admin = AdminClient({"bootstrap.servers": tidemark.kafka.brokers})
    admin.delete_topics([topic])[topic].result(30)
    wait_for(lambda: topic not in tidemark.log.topics(), "the topic to be gone", 30)


def _make_topic(tidemark: Tidemark, topic: str) -> None:
    """As an operator would who knows what settings it had."""
    config = {
        "retention.ms": "-1",
        "retention.bytes": "-1",
        "cleanup.policy": "delete",
        "message.timestamp.type": "LogAppendTime",
        "compression.type": "lz4",
        "unclean.leader.election.enable": "false",
    }
    admin = AdminClient({"bootstrap.servers": tidemark.kafka.brokers})
    admin.create_topics([NewTopic(topic, 4, 1, config=config)])[topic].result(30)
    wait_for(lambda: tidemark.log.topics().get(topic) == 4, "the topic to be there", 30)


def test_what_a_power_cut_would_harm_is_named(patient: Tidemark) -> None:
    findings = {one["check"]: one for one in _all(patient)}
    assert set(findings) == _always
    assert findings["fsync"]["severity"] == "error"
    assert findings["replication"]["severity"] == "info"


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("retention.ms", "604800000"),
        ("retention.bytes", "1000000"),
        ("cleanup.policy", "compact"),
        ("message.timestamp.type", "CreateTime"),
        ("unclean.leader.election.enable", "true"),
    ],
)
def test_a_topic_setting_that_breaks_a_promise(patient: Tidemark, setting: str, value: str) -> None:
    _mend(
        patient,
        f"kafka-configs --alter --entity-type topics --entity-name tidemark.vehicles --add-config {setting}={value}",
    )
    finding = _only(patient, "topic_setting")
    assert setting in finding["reason"] and finding["subject"] == "topic tidemark.vehicles"
    _mend(patient, finding["mend"])
    assert not _found(patient)


@pytest.mark.parametrize(
    ("statement", "check"),
    [
        ("alter role tidemark_api createdb", "role_too_mighty"),
        ("grant insert on counters.totals to tidemark_api", "rights"),
        ("revoke select on counters.api_counters from tidemark_api", "rights"),
        ("revoke update on vehicles.history from tidemark_consumer", "rights"),
    ],
)
def test_rights_that_are_too_many_or_too_few(patient: Tidemark, statement: str, check: str) -> None:
    patient.query(statement)
    finding = _only(patient, check)
    _mend(patient, finding["mend"])
    assert not _found(patient)


def test_a_role_that_is_gone(patient: Tidemark) -> None:
    patient.query("drop owned by tidemark_api")
    patient.query("drop role tidemark_api")
    finding = _only(patient, "role_missing")
    assert finding["subject"] == "role tidemark_api"
    _mend(patient, finding["mend"])
    assert not _found(patient)


@pytest.mark.parametrize(
    ("statement", "undo", "part"),
    [
        ("alter table counters.totals add column extra integer", "alter table counters.totals drop column extra", "extra"),
        ("alter table counters.windows alter column min_offset drop not null", "", "windows.min_offset (other)"),
        ("drop index vehicles.vehicles_by_state", "", "vehicles_by_state (missing)"),
    ],
)
def test_tables_that_were_altered_by_hand(
    make_tidemark: Callable[..., Tidemark], patient: Tidemark, statement: str, undo: str, part: str
) -> None:
    tidemark = patient if undo else make_tidemark()
    tidemark.query(statement)
    findings = [one for one in _found(tidemark) if one["check"] == "schema_drift"]
    assert len(findings) == 1 and part in findings[0]["reason"], findings
    if undo:
        tidemark.query(undo)
        assert not _found(tidemark)
    else:
        tidemark.end()


def test_offsets_that_were_written_by_hand(patient: Tidemark) -> None:
    patient.query("update counters.offsets set gaps = gaps + 5, first_offset = first_offset where partition = 1")
    # The auditor may be the first to see it.
    findings = {one["check"]: one for one in _found(patient)}
    assert set(findings) - {"audit"} == {"conservation"}
    assert findings["conservation"]["severity"] == "error"
    assert findings["conservation"]["subject"] == "generation 1 of counters"
    patient.query("update counters.offsets set gaps = gaps - 5 where partition = 1")
    wait_for(lambda: not _found(patient), "nothing to be found", 60)


def test_dead_letters_are_a_warning_with_their_reasons(patient: Tidemark) -> None:
    patient.log.put("tidemark.counters", b"poison", b"poison")
    patient.settle("counters")
    finding = _only(patient, "dead_letters", severity="warning")
    assert "1 malformed" in finding["reason"]
    patient.query("update counters.dead_letters set status = 'discarded'")
    assert not _found(patient)


def test_a_replay_that_nobody_goes_on_with(patient: Tidemark) -> None:
    killed = patient.start_command("replay", "counters", fault="r1_created=kill")
    killed.communicate(timeout=30)
    assert killed.returncode == -signal.SIGKILL
    finding = _only(patient, "replay_unfinished", severity="warning")
    again, cancel = finding["mend"].split(", or ")
    _mend(patient, again)
    wait_for(lambda: not _found(patient), "its candidate to be folded", 20)
    _mend(patient, cancel)
    wait_for(lambda: not _found(patient), "nothing to be found", 20)


def test_a_clock_that_is_wrong(patient: Tidemark) -> None:
    [preload] = Path("/usr/lib").glob("*/faketime/libfaketime.so.1")
    command = patient.start_command("doctor", "--json", variables={"LD_PRELOAD": str(preload), "FAKETIME": "-30s"})
    said, errors = command.communicate(timeout=60)
    checks = {one["check"]: one for one in json.loads(said)["findings"]}
    assert command.returncode == 1, errors
    assert "clock_skew" in checks and "ms" in checks["clock_skew"]["reason"]


def test_logs_that_cannot_be_folded_are_moved_to_where_they_can(
    make_tidemark: Callable[..., Tidemark], tmp_path: Path
) -> None:
    old = make_tidemark()
    consumer = old.start_consumer()
    old.log.put_all("tidemark.counters", [increment(f"k{n % 7}", 1) for n in range(100)])
    assert old.start_api().put("/vehicles/1", {"make": "BMW", "model": "X1"}).status_code == 202
    old.settle("counters")
    old.settle("vehicles")
    assert consumer.terminate() == 0

    ends = old.log.ends("tidemark.counters")
    partition = max(ends, key=lambda number: ends[number])
    start = ends[partition] // 2
    gone = {"version": 1, "partitions": [{"topic": "tidemark.counters", "partition": partition, "offset": start}]}
    (tmp_path / "gone.json").write_text(json.dumps(gone))
    _mend(old, f"kafka-delete-records --offset-json-file {tmp_path}/gone.json")
    admin = AdminClient({"bootstrap.servers": old.kafka.brokers})
    admin.create_partitions([NewPartitions("tidemark.vehicles", 6)])["tidemark.vehicles"].result(30)
    wait_for(lambda: old.log.topics()["tidemark.vehicles"] == 6, "the topic to have six partitions", 30)

    counters = _finding(old, "log", "topic tidemark.counters")
    assert f"partition {partition}: its first record is gone (the log starts at {start})" in counters["reason"]
    assert counters["mend"] in command(old, "replay", "counters", code=3)
    vehicles = _finding(old, "log", "topic tidemark.vehicles")
    assert "6 partitions" in vehicles["reason"] and counters["mend"].endswith(vehicles["mend"])

    new = make_tidemark(migrated=False)
    here, there = counters["mend"].split("then with another cluster and an empty database in the settings: ")
    _do(old, here, tmp_path)
    _do(new, there, tmp_path)
    new.assert_equals_log("counters")
    new.assert_equals_log("vehicles")
    assert new.query("select sum(count) from counters.totals") == [(100 - (start - 1),)]
    assert new.query("select id, make from vehicles.vehicles") == [(1, "BMW")]
    wait_for(lambda: not _found(new), "nothing to be found", 20)
    new.end()

    # Somebody has made the topic again, and others write to it.
    _drop_topic(old, "tidemark.counters")
    _make_topic(old, "tidemark.counters")
    old.log.put_all("tidemark.counters", [increment("k", 1) for _ in range(3)])
    foreign = _finding(old, "log", "topic tidemark.counters")
    assert "is not a log's identity" in foreign["reason"] and foreign["mend"].endswith(vehicles["mend"])
    (tmp_path / "counters.ndjson").unlink()
    export = re.search("tidemark-producer export counters [^;]*", foreign["mend"])
    assert export is not None
    _do(old, export[0], tmp_path)
    assert len((tmp_path / "counters.ndjson").read_text().splitlines()) == 3
    old.end()


def test_logs_that_are_not_those_of_the_tables_are_folded_anew(
    make_tidemark: Callable[..., Tidemark], tmp_path: Path
) -> None:
    tidemark = make_tidemark()
    tidemark.start_consumer()
    tidemark.log.put_all("tidemark.counters", [increment("k", 1)] * 10)
    tidemark.settle("counters")
    tidemark.kafka.stop()
    [home] = (tidemark.scratch("copies").parent / "kafka").glob("node-*")
    shutil.copytree(home, tmp_path / "older")
    tidemark.kafka.start()
    tidemark.log.put_all("tidemark.counters", [increment("k", 1)] * 10)
    tidemark.settle("counters")
    tidemark.kafka.kill()
    shutil.rmtree(home)
    shutil.copytree(tmp_path / "older", home)
    tidemark.kafka.start()
    beyond = _finding(tidemark, "offset_beyond_log", "generation 1 of counters")
    assert beyond["severity"] == "error" and "restored from an older copy" in beyond["reason"]

    _drop_topic(tidemark, "tidemark.vehicles")
    missing = _finding(tidemark, "topic_missing", "topic tidemark.vehicles")
    _make_topic(tidemark, "tidemark.vehicles")
    recreated = _finding(tidemark, "log", "topic tidemark.vehicles")
    assert "it is empty" in recreated["reason"]

    commands = beyond["mend"][beyond["mend"].index("stop every program, and with an empty database in the settings") :]
    assert commands in missing["mend"] and commands in recreated["mend"]
    for running in tidemark.running:
        running.kill()
    tidemark.postgres.execute(f"drop database {tidemark.database} with (force)")
    tidemark.postgres.create_database(tidemark.database)
    _do(tidemark, commands, tmp_path)
    tidemark.assert_equals_log("counters")
    assert tidemark.query("select value from counters.totals") == [(10,)]
    wait_for(lambda: not _found(tidemark), "nothing to be found", 20)
    tidemark.end()


def test_a_file_that_was_folded_may_be_of_a_longer_log(patient: Tidemark, tmp_path: Path) -> None:
    patient.log.put_all("tidemark.counters", [increment("k", 1)])
    case = tmp_path / "case.ndjson"
    command(patient, "export", "counters", "--positions", "--output", str(case), program="producer")
    case.write_text(re.sub(r'"position":"(\d+):', r'"position":"\1:1000', case.read_text()))
    command(patient, "replay", "counters", "--from-file", str(case), "--keep")
    finding = _only(patient, "scratch", severity="info")
    _do(patient, finding["mend"], tmp_path)
    assert not _found(patient)


def test_nobody_who_folds_and_nothing_to_be_asked(make_tidemark: Callable[..., Tidemark]) -> None:
    tidemark = make_tidemark(own_postgres=True, migrated=False)
    findings = {one["check"]: one for one in _found(tidemark)}
    assert set(findings) == {"not_migrated", "topic_missing", "consumer_login_unknown"}
    _mend(tidemark, findings["not_migrated"]["mend"])
    findings = _found(tidemark)
    assert {(one["check"], one["subject"]) for one in findings} == {
        ("not_folded", "generation 1 of counters"),
        ("not_folded", "generation 1 of vehicles"),
    }

    admin = AdminClient({"bootstrap.servers": tidemark.kafka.brokers})
    admin.create_partitions([NewPartitions("tidemark.counters", 6)])["tidemark.counters"].result(30)
    wait_for(lambda: tidemark.log.topics()["tidemark.counters"] == 6, "the topic to have six partitions", 30)
    assert "6 partitions" in next(one["reason"] for one in _found(tidemark) if one["check"] == "log")

    tidemark.query("update vehicles.offsets set next_offset = 1000, gaps = 1000 where partition = 2")
    beyond = next(one for one in _found(tidemark) if one["check"] == "offset_beyond_log")
    assert "partition 2 stands at 1000" in beyond["reason"]

    _drop_topic(tidemark, "tidemark.vehicles")
    assert "topic_missing" in {one["check"] for one in _found(tidemark)}

    tidemark.kafka.kill()
    assert "broker_unknown" in {one["check"] for one in _found(tidemark)}
    tidemark.postgres.kill()
    assert {"database_unknown", "consumer_login_unknown"} <= {one["check"] for one in _found(tidemark)}
    tidemark.end()
