"""The doctor finds what is broken on purpose, says why it matters, and its mending commands mend it."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer

from stack.postgres import binaries
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


def _mend(tidemark: Tidemark, command: str) -> str:
    """Does what the doctor says; what a tool printed."""
    if command.startswith("kafka-"):
        name, *arguments = shlex.split(command)
        tool = jars().tool(name, arguments, tidemark.kafka.brokers)
        return subprocess.run(tool, check=True, capture_output=True, text=True, timeout=60).stdout
    elif command.startswith("tidemark-consumer "):
        done = tidemark.run("consumer", *shlex.split(command)[1:])
        assert done.returncode == 0, done.stderr
    else:
        for statement in command.split(";"):
            tidemark.query(statement)
    return ""


def _finding(tidemark: Tidemark, check: str, subject: str) -> Finding:
    """That one of what there is."""
    [finding] = [one for one in _found(tidemark) if (one["check"], one["subject"]) == (check, subject)]
    return finding


def _do(tidemark: Tidemark, mend: str, folder: Path, *, version: str = "") -> None:
    """Runs the programs' commands of a longer advice, with their files in a folder; a `run` is started and goes on."""
    commands = re.findall(r"tidemark-(consumer|producer) ([^;]+)", mend)
    assert commands, mend
    for program, arguments in commands:
        words = [str(folder / word) if word.endswith(".ndjson") else word for word in shlex.split(arguments)]
        if words[0] == "run":
            tidemark.start_consumer(slot=1 if version else 0, version=version)
        else:
            done = tidemark.run(f"{program}-{version}" if version else program, *words)
            assert done.returncode == 0, f"{program} {words}:\n{done.stdout}{done.stderr}"


def _make_topic(tidemark: Tidemark, topic: str) -> None:
    """As an operator would who knows what settings it had."""
    tidemark.log.create_topic(
        topic,
        retention_ms="-1",
        retention_bytes="-1",
        cleanup_policy="delete",
        message_timestamp_type="LogAppendTime",
        compression_type="lz4",
        unclean_leader_election_enable="false",
    )


def test_what_a_power_cut_would_harm_is_named(patient: Tidemark) -> None:
    findings = {one["check"]: one for one in _all(patient)}
    assert set(findings) == _always
    assert findings["fsync"]["severity"] == "error"
    assert findings["replication"]["severity"] == "info"


@pytest.mark.parametrize("setting", ["fsync", "full_page_writes"])
def test_what_a_power_cut_would_harm_is_mended(patient: Tidemark, setting: str) -> None:
    [finding] = [one for one in _all(patient) if one["check"] == setting]
    try:
        _mend(patient, finding["mend"])
        wait_for(lambda: setting not in {one["check"] for one in _all(patient)}, "the server to read its settings", 20)
    finally:
        _mend(patient, f"alter system reset {setting}; select pg_reload_conf()")
    wait_for(lambda: setting in {one["check"] for one in _all(patient)}, "the server to read its settings", 20)


def test_pages_without_checksums(patient: Tidemark) -> None:
    [finding] = [one for one in _all(patient) if one["check"] == "data_checksums"]
    tool, option = finding["mend"].removesuffix(" (with the server stopped)").split()

    def rewrite(how: str) -> None:
        patient.postgres.stop()
        run = [str(binaries() / tool), how, "-D", str(patient.postgres.data)]
        user = "postgres" if os.geteuid() == 0 else None
        subprocess.run(run, check=True, capture_output=True, cwd="/", user=user, timeout=60)
        patient.postgres.start()

    rewrite(option)
    assert "data_checksums" not in {one["check"] for one in _all(patient)}
    rewrite("--disable")
    wait_for(lambda: not _found(patient), "the consumer to be back", 30)


def test_a_server_that_is_older_than_any_tried(patient: Tidemark) -> None:
    # No older one is at hand, so this one says that it is.
    patient.query("create schema older")
    patient.query(
        "create view older.pg_settings as select name, case name when 'server_version_num' then '140009' else setting end"
        " as setting from pg_catalog.pg_settings"
    )
    patient.query("grant usage on schema older to public")
    patient.query("grant select on older.pg_settings to public")
    patient.query(f"alter database {patient.database} set search_path = older, pg_catalog")
    assert "140009" in _only(patient, "server_version", severity="warning")["reason"]
    patient.query(f"alter database {patient.database} reset search_path")
    patient.query("drop schema older cascade")
    assert not _found(patient)


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
        ("grant tidemark_owner to tidemark_api", "role_too_mighty"),
        ("grant pg_write_all_data to tidemark_consumer", "role_too_mighty"),
        ("alter table counters.totals owner to tidemark_api", "role_too_mighty"),
        ("grant insert on counters.totals to tidemark_api", "rights"),
        ("grant update (value) on counters.totals to tidemark_api", "rights"),
        ("grant create on schema vehicles to tidemark_consumer", "rights"),
        ("grant create on database {database} to tidemark_api", "rights"),
        ("revoke usage on schema counters from tidemark_api", "rights"),
        ("revoke select on counters.api_counters from tidemark_api", "rights"),
        ("revoke update on vehicles.history from tidemark_consumer", "rights"),
        ("revoke delete on tidemark.audits from tidemark_consumer", "rights"),
    ],
)
def test_rights_that_are_too_many_or_too_few(patient: Tidemark, statement: str, check: str) -> None:
    patient.query(statement.format(database=patient.database))
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


_other_view = "select key, '0' as value, count, 0::bigint as updated_us, 0 as generation, '' as applied, '' as as_of"


@pytest.mark.parametrize(
    ("statement", "part"),
    [
        ("alter table counters.totals add column extra integer", "column totals.extra (additional)"),
        ("alter table counters.windows alter column min_offset drop not null", "column windows.min_offset (other)"),
        ("alter table counters.totals set unlogged", "table totals (other)"),
        ("drop index counters.windows_by_start", "index windows_by_start (missing)"),
        ("alter table counters.totals add check (value < 1e9)", "constraint totals.totals_value_check (additional)"),
        (
            "alter table counters.dead_letters drop constraint dead_letters_status_check",
            "constraint dead_letters.dead_letters_status_check (missing)",
        ),
        (f"create or replace view counters.api_counters as {_other_view} from counters.totals", "view api_counters (other)"),
        (
            "create trigger idle before update on counters.totals for each row"
            " execute function suppress_redundant_updates_trigger()",
            "trigger totals.idle (additional)",
        ),
        ("create rule kept as on delete to counters.dedupe do instead nothing", "rule dedupe.kept (additional)"),
    ],
)
def test_tables_that_were_altered_by_hand(patient: Tidemark, tmp_path: Path, statement: str, part: str) -> None:
    patient.query(statement)
    finding = _only(patient, "schema_drift")
    assert finding["reason"].endswith(f": {part}")
    _do(patient, finding["mend"], tmp_path)
    assert not _found(patient)


def test_a_generation_that_nobody_reads_and_somebody_altered(patient: Tidemark, tmp_path: Path) -> None:
    command(patient, "replay", "counters")
    [(schema,)] = patient.query("select schema_name from tidemark.generations where stream = 'counters' and status = 'candidate'")
    wait_for(lambda: not _found(patient), "the candidate to be folded", 20)
    patient.query(f"alter table {schema}.totals alter column count set default 0")
    finding = _only(patient, "schema_drift")
    assert finding["reason"].endswith(": column totals.count (other)")
    _do(patient, finding["mend"], tmp_path)
    assert not _found(patient)


def test_offsets_that_were_written_by_hand(patient: Tidemark, tmp_path: Path) -> None:
    patient.query("update counters.offsets set gaps = gaps + 5, first_offset = first_offset where partition = 1")
    # The auditor may be the first to see it.
    findings = {one["check"]: one for one in _found(patient)}
    assert set(findings) - {"audit"} == {"conservation"}
    assert findings["conservation"]["severity"] == "error"
    _do(patient, findings["conservation"]["mend"], tmp_path)
    wait_for(lambda: not _found(patient), "nothing to be found", 60)


def test_dead_letters_are_a_warning_with_their_reasons(patient: Tidemark, tmp_path: Path) -> None:
    patient.log.put("tidemark.counters", b"poison", b"poison")
    patient.settle("counters")
    finding = _only(patient, "dead_letters", severity="warning")
    assert "1 malformed" in finding["reason"]
    _do(patient, finding["mend"], tmp_path)
    command(patient, "discard", "counters", "--reason", "malformed", "--all")
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


def test_tables_of_another_version(patient: Tidemark, tmp_path: Path) -> None:
    def found() -> list[Finding]:
        done = patient.run("consumer-next", "doctor", "--json")
        return [one for one in json.loads(done.stdout)["findings"] if one["check"] not in _always]

    findings = found()
    assert [(one["check"], one["severity"]) for one in findings] == [("fingerprint", "warning")], findings
    [finding] = findings
    commands, other = finding["mend"].split("; or ")
    assert other == "use the other version"
    live = finding["subject"].split()[1]
    _do(patient, commands, tmp_path, version="next")
    assert not found()
    assert [one["check"] for one in _found(patient)] == ["fingerprint"]
    command(patient, "rollback", "counters", program="consumer-next")
    [(number,)] = patient.query("select generation from tidemark.generations where stream = 'counters' and status <> 'live'")
    assert number > int(live)
    command(patient, "drop", "counters", str(number), program="consumer-next")
    patient.running.pop().kill()
    assert not _found(patient)


def test_a_clock_that_is_wrong(patient: Tidemark) -> None:
    [preload] = Path("/usr/lib").glob("*/faketime/libfaketime.so.1")
    doctor = patient.start_command("doctor", "--json", variables={"LD_PRELOAD": str(preload), "FAKETIME": "-30s"})
    said, errors = doctor.communicate(timeout=60)
    found = {one["subject"] for one in json.loads(said)["findings"] if one["check"] == "clock_skew"}
    assert doctor.returncode == 1 and "PostgreSQL" in found, errors


def test_a_broker_whose_clock_is_wrong(patient: Tidemark) -> None:
    alter = "kafka-configs --alter --entity-type topics --entity-name tidemark.counters --add-config message.timestamp.type="
    # A JVM does not start on a clock that is moved, so the record brings along what such a broker would write.
    _mend(patient, alter + "CreateTime")
    producer = Producer({"bootstrap.servers": patient.kafka.brokers})
    key, event = increment("late", 1)
    producer.produce("tidemark.counters", event, key, partition=0, timestamp=int((time.time() + 30) * 1000))
    assert producer.flush(10) == 0
    _mend(patient, alter + "LogAppendTime")
    finding = _only(patient, "clock_skew", severity="warning")
    assert finding["subject"] == "the broker of topic tidemark.counters"
    ahead = re.search(r"(\d+) ms ahead", finding["reason"])
    assert ahead is not None and 10_000 < int(ahead[1]) <= 30_000
    # It is right again.
    patient.log.put("tidemark.counters", key, event, partition=0)
    assert not _found(patient)


def test_brokers_that_are_lost_or_not_waited_for(make_tidemark: Callable[..., Tidemark]) -> None:
    tidemark = make_tidemark(nodes=3, replication="3", min_isr="1")
    try:
        tidemark.start_consumer()
        api = tidemark.start_api()
        def found() -> list[Finding]:
            return [one for one in _found(tidemark) if one["check"] != "not_folded"]

        def severities() -> dict[str, str]:
            return {f"{one['check']} {one['subject']}": one["severity"] for one in found()}

        lax = {"min_isr topic tidemark.counters": "warning", "min_isr topic tidemark.vehicles": "warning"}
        wait_for(lambda: severities() == lax, "just what migrate was told to be found", 30)
        counters, vehicles = sorted(one["mend"] for one in found())
        _mend(tidemark, vehicles)
        _mend(tidemark, counters.replace("replicas=2", "replicas=3"))
        wait_for(lambda: not found(), "every broker to know", 30)

        tidemark.kafka.nodes[2].kill()
        missing = {
            "in_sync_replicas topic tidemark.counters": "error",
            "in_sync_replicas topic tidemark.vehicles": "warning",
        }
        wait_for(lambda: severities() == missing, "doctor to miss just the broker", 60)
        assert api.post("/increment", {"key": "k", "value": 1}).status_code == 503
        assert api.put("/vehicles/1", {"make": "BMW", "model": "X1"}).status_code == 202
        [mend] = [one["mend"] for one in found() if one["severity"] == "error"]
        shown = re.search(r"\((kafka-topics .*)\)", mend)
        assert shown is not None
        topics = _mend(tidemark, shown[1])
        assert "tidemark.counters" in topics and "tidemark.vehicles" not in topics
        tidemark.kafka.start()
        wait_for(lambda: not found(), "the replicas to be in sync again", 60)
        assert api.post("/increment", {"key": "k", "value": 1}).status_code == 202
    finally:
        tidemark.end()


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
    old.log.add_partitions("tidemark.vehicles", 6)

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
    old.log.delete_topic("tidemark.counters")
    _make_topic(old, "tidemark.counters")
    old.log.put_all("tidemark.counters", [increment("k", 1) for _ in range(3)])
    foreign = _finding(old, "log", "topic tidemark.counters")
    assert "begins with a record of something else" in foreign["reason"] and vehicles["mend"] in foreign["mend"]
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

    tidemark.log.delete_topic("tidemark.vehicles")
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

    tidemark.log.add_partitions("tidemark.counters", 6)
    assert "6 partitions" in next(one["reason"] for one in _found(tidemark) if one["check"] == "log")

    tidemark.query("update vehicles.offsets set next_offset = 1000, gaps = 1000 where partition = 2")
    beyond = next(one for one in _found(tidemark) if one["check"] == "offset_beyond_log")
    assert "partition 2 stands at 1000" in beyond["reason"]

    tidemark.log.delete_topic("tidemark.vehicles")
    assert "topic_missing" in {one["check"] for one in _found(tidemark)}

    tidemark.kafka.kill()
    assert "broker_unknown" in {one["check"] for one in _found(tidemark)}
    tidemark.postgres.kill()
    assert {"database_unknown", "consumer_login_unknown"} <= {one["check"] for one in _found(tidemark)}
    tidemark.end()
