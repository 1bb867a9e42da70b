"""The three programs as processes: settings, exit codes, migrations, guards, draining, logs and metrics."""

from __future__ import annotations

import concurrent.futures
import contextlib
import json
import os
import pty
import re
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import pytest
import requests
from confluent_kafka import Consumer
from confluent_kafka.admin import AdminClient, ConfigResource

from stack.process import choose_ports, wait_for
from stack.programs import FOLDERS
from support.answers import exchange, token
from support.operating import increment, is_stopped, roles
from support.tidemark import Running, Tidemark, sum_of_samples

_golden = Path(__file__).resolve().parents[1] / "golden" / "metrics"
# The programs, and what each needs to be told at the least.
_default = {"api": ["serve"], "consumer": ["run"], "producer": ["import", "-"]}
_programs = tuple(_default)


@pytest.fixture(scope="module")
def own(make_tidemark: Callable[..., Tidemark]) -> Tidemark:
    """For what the shared one must not suffer."""
    return make_tidemark()


def _event(key: str) -> str:
    data = f'{{"key":"{key}","value":1}}'
    return f'{{"specversion":"1.0","id":"1","source":"s","type":"tidemark.counter.incremented.v1","data":{data}}}'


def _bare(build: Path, program: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs a program with no setting but these."""
    name = f"tidemark-{program}"
    clean = {key: value for key, value in os.environ.items() if not key.startswith("TIDEMARK_")}
    return subprocess.run(
        [str(build / FOLDERS[name] / name), *arguments],
        env={**clean, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


# --- settings -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("program", _programs)
def test_every_program_says_its_version_and_its_settings(build: Path, program: str) -> None:
    version = _bare(build, program, "--version")
    assert version.returncode == 0
    assert re.search(r"\d+\.\d+\.\d+", version.stdout)
    assert _bare(build, program, "--help").returncode == 0


@pytest.mark.parametrize("program", _programs)
def test_a_checked_configuration_is_printed_without_its_secrets(tidemark: Tidemark, program: str) -> None:
    done = tidemark.run(program, *_default[program], "--check-config")

    assert done.returncode == 0, done.stderr
    assert tidemark.kafka.brokers in done.stdout
    assert tidemark.postgres.password not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("program", "arguments", "environment", "named"),
    [
        (
            "consumer",
            ["run", "--flush-interval", "5h", "--slot", "-1", "--no-such-flag", "1"],
            {"TIDEMARK_FLUSH_BYTES": "many", "TIDEMARK_NO_SUCH_SETTING": "1"},
            ["flush-interval", "slot", "no-such-flag", "FLUSH_BYTES", "TIDEMARK_NO_SUCH_SETTING"],
        ),
        (
            "api",
            ["serve", "--listen", "nowhere", "--no-such-flag", "1"],
            {"TIDEMARK_NO_SUCH_SETTING": "1"},
            ["listen", "no-such-flag", "TIDEMARK_NO_SUCH_SETTING"],
        ),
        ("api", ["serve", "--listen", "localhost:3333", "--allow-open"], {}, ["listen: localhost is a name"]),
        ("consumer", ["run", "--admin-listen", "localhost:3334"], {}, ["admin-listen: localhost is a name"]),
        ("producer", ["import", "-", "--admin-listen", "nowhere"], {}, ['admin-listen: "nowhere" is not ADDRESS:PORT']),
    ],
)
def test_impossible_settings_stop_the_start_and_are_all_listed(
    build: Path, program: str, arguments: list[str], environment: dict[str, str], named: list[str]
) -> None:
    done = _bare(build, program, *arguments, **environment)

    assert done.returncode == 2
    assert [name for name in named if name not in done.stderr] == []


@pytest.mark.parametrize("program", _programs)
def test_an_unknown_command_is_wrong_use(build: Path, program: str) -> None:
    assert _bare(build, program, "no-such-command").returncode == 2


def test_a_setting_comes_from_flag_before_environment_before_file(build: Path, tmp_path: Path) -> None:
    file = tmp_path / "consumer.toml"
    file.write_text('brokers = "file:1"\nflush-interval = "111ms"\n')

    def checked(*arguments: str, **environment: str) -> str:
        done = _bare(build, "consumer", "run", "--config", str(file), "--check-config", *arguments, **environment)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "file:1" in checked()
    assert "environment:1" in checked(TIDEMARK_BROKERS="environment:1")
    assert "flag:1" in checked("--brokers", "flag:1", TIDEMARK_BROKERS="environment:1")


def test_an_api_that_others_can_reach_must_be_told_that_everybody_may_write(tidemark: Tidemark) -> None:
    refused = tidemark.run("api", "serve", "--check-config", listen="0.0.0.0:3333")
    allowed = tidemark.run("api", "serve", "--check-config", "--allow-open", listen="0.0.0.0:3333")

    assert refused.returncode == 2
    assert "allow-open" in refused.stderr
    assert allowed.returncode == 0, allowed.stderr


def test_a_secret_file_that_the_world_can_read_is_refused(build: Path, tmp_path: Path) -> None:
    secret = tmp_path / "dsn"
    secret.write_text("postgresql://somebody:canary@127.0.0.1/x")
    secret.chmod(0o644)

    refused = _bare(build, "consumer", "run", "--check-config", TIDEMARK_CONSUMER_DSN_FILE=str(secret))
    secret.chmod(0o600)
    accepted = _bare(build, "consumer", "run", "--check-config", TIDEMARK_CONSUMER_DSN_FILE=str(secret))

    assert refused.returncode != 0 and str(secret) in refused.stderr
    assert accepted.returncode == 0, accepted.stderr
    assert "canary" not in "".join((refused.stdout, refused.stderr, accepted.stdout, accepted.stderr))


# --- migrating, and the guards around a log's identity ------------------------------------------------------


def test_a_consumer_refuses_to_run_before_the_migration(tidemark: Tidemark) -> None:
    tidemark.postgres.create_database("never_migrated")
    dsn = tidemark.postgres.dsn("tidemark_consumer", "never_migrated")

    done = tidemark.run("consumer", "run", consumer_dsn=dsn, admin_listen=f"127.0.0.1:{choose_ports(1)[0]}")

    assert done.returncode == 3
    assert "migrate" in done.stderr


def _schema(tidemark: Tidemark) -> list[tuple[object, ...]]:
    return tidemark.query(
        "select table_schema, table_name, column_name, data_type from information_schema.columns"
        " where table_schema in ('tidemark', 'counters', 'vehicles') order by 1, 2, 3"
    )


def test_migrating_again_changes_nothing(tidemark: Tidemark) -> None:
    schema, ends = _schema(tidemark), tidemark.log.ends("tidemark.vehicles")
    registry = tidemark.query("select * from tidemark.streams order by name")

    done = tidemark.run("consumer", "migrate", "--json")

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "streams": [
            {"stream": name, "topic": f"tidemark.{name}", "partitions": 4, "madeTopic": False, "madeTables": False}
            for name in ("counters", "vehicles")
        ]
    }
    assert _schema(tidemark) == schema
    assert tidemark.query("select * from tidemark.streams order by name") == registry
    assert tidemark.log.ends("tidemark.vehicles") == ends


def test_two_migrations_at_once_make_one_database(own: Tidemark) -> None:
    own.postgres.create_database(own.database + "_twice")
    dsn = own.postgres.dsn("tidemark_owner", own.database + "_twice")
    before = own.log.ends("tidemark.counters")

    with concurrent.futures.ThreadPoolExecutor(2) as threads:
        done = list(threads.map(lambda _: own.run("consumer", "migrate", owner_dsn=dsn), range(2)))

    assert [each.returncode for each in done] == [0, 0], [each.stderr for each in done]
    # The topics were there: their identity was taken over, not written again.
    assert own.log.ends("tidemark.counters") == before


def test_run_can_migrate_first(own: Tidemark) -> None:
    own.postgres.create_database(own.database + "_run")
    owner, role = (own.postgres.dsn(f"tidemark_{name}", own.database + "_run") for name in ("owner", "consumer"))

    consumer = own.start_consumer(7, owner_dsn=owner, consumer_dsn=role, migrate="true")

    assert consumer.terminate() == 0


def test_topics_keep_everything_and_stamp_the_time_of_appending(tidemark: Tidemark) -> None:
    admin = AdminClient({"bootstrap.servers": tidemark.kafka.brokers})
    for stream in ("counters", "vehicles"):
        resource = ConfigResource(ConfigResource.Type.TOPIC, f"tidemark.{stream}")
        [described] = admin.describe_configs([resource]).values()
        found = {name: entry.value for name, entry in described.result(15).items()}
        assert found["message.timestamp.type"] == "LogAppendTime"
        assert (found["retention.ms"], found["retention.bytes"], found["cleanup.policy"]) == ("-1", "-1", "delete")
        assert (found["compression.type"], found["unclean.leader.election.enable"]) == ("lz4", "false")


def test_two_first_migrations_at_once_agree_on_one_identity(make_tidemark: Callable[..., Tidemark]) -> None:
    tidemark = make_tidemark(migrated=False)

    with concurrent.futures.ThreadPoolExecutor(2) as threads:
        done = list(threads.map(lambda _: tidemark.run("consumer", "migrate", "--json"), range(2)))

    assert [each.returncode for each in done] == [0, 0], [each.stderr for each in done]
    said = [one for each in done for one in json.loads(each.stdout)["streams"]]
    for made in ("madeTopic", "madeTables"):
        assert sorted(one["stream"] for one in said if one[made]) == ["counters", "vehicles"], "each was made once"
    for stream, uuid in tidemark.query("select name, log_uuid from tidemark.streams"):
        records = tidemark.log.read(f"tidemark.{stream}")
        assert [json.loads(record.value or b"")["data"]["uuid"] for record in records] == [uuid] * 4
        assert [record.offset for record in records] == [0] * 4
    tidemark.end()


def _ends_loudly(running: Running, *words: str) -> None:
    """It ends by itself, not with success, and says why."""
    code = running.wait_end(40)
    assert code not in (0, None) and code > 0
    said = running.tail(200)
    assert all(word in said for word in words), said


def test_a_recreated_topic_is_refused(make_tidemark: Callable[..., Tidemark]) -> None:
    tidemark = make_tidemark()
    consumer = tidemark.start_consumer()
    api = tidemark.start_api()
    token(api.post("/increment", {"key": "before", "value": 1}))
    tidemark.settle("counters")
    consumer.terminate()
    before = tidemark.vector("counters")

    tidemark.log.delete_topic("tidemark.counters")
    tidemark.log.create_topic("tidemark.counters")

    migrated = tidemark.run("consumer", "migrate")
    assert migrated.returncode == 3
    assert "recreated" in migrated.stderr
    consumer.start(ready=False)
    _ends_loudly(consumer, "tidemark.counters")
    assert tidemark.vector("counters") == before
    tidemark.end()


def test_added_partitions_are_refused(make_tidemark: Callable[..., Tidemark]) -> None:
    tidemark = make_tidemark()
    tidemark.log.add_partitions("tidemark.counters", 6)

    migrated = tidemark.run("consumer", "migrate")
    assert migrated.returncode == 3
    assert "partitions" in migrated.stderr
    consumer = tidemark.start_consumer(ready=False)
    _ends_loudly(consumer, "partitions")
    tidemark.end()


@pytest.mark.parametrize("behind_its_back", [False, True])
def test_a_topic_that_is_recreated_under_a_running_consumer_ends_it(
    make_tidemark: Callable[..., Tidemark], behind_its_back: bool
) -> None:
    """Also when it heard nothing of it and the new topic is soon as long as the old one was; then a flush may come first."""
    tidemark = make_tidemark()
    consumer = tidemark.start_consumer()
    tidemark.log.put_all("tidemark.counters", [increment(f"before {n}", 1) for n in range(400)])
    tidemark.settle("counters")
    before = tidemark.tables("counters")
    if behind_its_back:
        consumer.freeze()
    tidemark.log.delete_topic("tidemark.counters")
    tidemark.log.create_topic("tidemark.counters")
    if behind_its_back:
        tidemark.log.put_all("tidemark.counters", [increment(f"after {n}", 1) for n in range(2_000)])
        consumer.thaw()
        _ends_loudly(consumer, "processor_failed", "topic tidemark.counters", "recreated")
    else:
        _ends_loudly(consumer, "processor_failed", "topic tidemark.counters, partition")
        assert tidemark.tables("counters") == before
        tidemark.log.put_all("tidemark.counters", [increment(f"after {n}", 1) for n in range(2_000)])
    # Whoever starts it again is told the same.
    left = tidemark.tables("counters")
    consumer.start(ready=False)
    _ends_loudly(consumer, "topic tidemark.counters, partition", "recreated")
    assert tidemark.tables("counters") == left
    tidemark.end()


def test_a_replay_under_which_the_topic_is_recreated_makes_no_candidate(
    make_tidemark: Callable[..., Tidemark]
) -> None:
    """Its readers stood still meanwhile, and the new topic is longer than the old one was."""
    tidemark = make_tidemark()
    consumer = tidemark.start_consumer()
    tidemark.log.put_all("tidemark.counters", [increment(f"before {n}", 1) for n in range(400)])
    tidemark.settle("counters")
    replay = tidemark.start_command("replay", "counters", fault="r2_folding=stop")
    try:
        wait_for(lambda: is_stopped(replay), "the replay to be stopped", 20)
        consumer.kill()
        tidemark.log.delete_topic("tidemark.counters")
        tidemark.log.create_topic("tidemark.counters")
        tidemark.log.put_all("tidemark.counters", [increment(f"after {n}", 1) for n in range(2_000)])
        replay.send_signal(signal.SIGCONT)
        _, errors = replay.communicate(timeout=60)
    finally:
        replay.kill()
    assert replay.returncode in (1, 3), errors
    assert "the topic was recreated" in errors
    assert roles(tidemark) == {1: "live", 2: "building"}
    tidemark.end()


def test_partitions_that_are_added_under_a_running_consumer_end_it(make_tidemark: Callable[..., Tidemark]) -> None:
    tidemark = make_tidemark()
    consumer = tidemark.start_consumer()
    tidemark.log.put_all("tidemark.counters", [increment(f"k{n}", 1) for n in range(400)])
    tidemark.settle("counters")
    before = tidemark.tables("counters")
    tidemark.log.add_partitions("tidemark.counters", 6)
    _ends_loudly(consumer, "processor_failed", "tidemark.counters", "6 partitions")
    assert tidemark.tables("counters") == before
    tidemark.end()


def test_a_second_consumer_of_the_same_slot_is_refused_loudly(own: Tidemark) -> None:
    first = own.start_consumer(0)
    second = own.start_consumer(0, ready=False)

    wait_for(lambda: not (first.alive and second.alive), "one of the two to end", 40)
    # The one that stays folds on, also past the time in which the other could still be part of the group.
    left, gone = (first, second) if first.alive else (second, first)
    assert gone.wait_end() > 0
    assert "slot" in gone.tail() or "instance" in gone.tail(), gone.tail()
    left.wait_ready()
    own.log.put("tidemark.counters", b"poison", b"poison")
    own.settle("counters")
    assert left.alive
    assert left.terminate() == 0


def test_a_consumer_whose_place_in_the_group_was_taken_once_takes_it_back(own: Tidemark) -> None:
    """While the broker is away its client joins anew, and a request of before that may come after it: the broker then
    tells the client that another member has its place, which ended the consumer."""
    consumer = own.start_consumer(0)
    [(group,)] = own.query("select 'counters.' || generation from tidemark.generations where status = 'live'"
                           " and stream = 'counters'")
    other = Consumer(
        {
            "bootstrap.servers": own.kafka.brokers,
            "group.id": group,
            "group.instance.id": f"{socket.gethostname()}-0",
            "enable.auto.commit": False,
        }
    )
    assigned: list[Any] = []
    other.subscribe(["tidemark.counters"], on_assign=lambda _, partitions: assigned.extend(partitions))
    wait_for(lambda: other.poll(0.1) is not None or bool(assigned), "the place to be taken", 30)
    other.close()  # a static member leaves its group to its session's end

    wait_for(lambda: "processor_failed" in consumer.tail(), "the consumer to hear of it", 30)
    own.log.put("tidemark.counters", b"poison", b"poison")
    own.settle("counters")
    consumer.wait_ready()
    assert consumer.terminate() == 0


# --- draining -----------------------------------------------------------------------------------------------


def test_a_consumer_that_is_told_to_stop_writes_what_it_has_in_memory(own: Tidemark) -> None:
    consumer = own.start_consumer(1, flush_interval="3s")
    event = _event("d").encode()
    own.settle("counters")

    def flushes() -> float:
        return consumer.metric("tidemark_flushes_total", stream="counters", outcome="committed")

    before = flushes()
    wait_for(lambda: flushes() > before, "a flush, after which the next is three seconds away")
    own.log.put_all("tidemark.counters", [(b"d", event)] * 500)
    wait_for(lambda: consumer.metric("tidemark_buffered_records", stream="counters") > 0, "records to be in memory")

    began = time.monotonic()
    assert consumer.terminate() == 0

    print(f"drained in {time.monotonic() - began:.2f} s")
    assert own.query("select value::bigint from counters.totals where key = 'd'") == [(500,)]
    own.assert_equals_log("counters")
    assert consumer.events("stopping") and consumer.events("stopped")
    assert own.query("select * from tidemark.consumers") == [], "its heartbeat is still there"


def test_an_api_that_is_told_to_stop_answers_what_is_in_flight(own: Tidemark) -> None:
    api = own.start_api()
    token(api.post("/increment", {"key": "drain", "value": 1}))
    body = b'{"key":"drain","value":1}'
    sent = b"POST /increment HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (
        len(body),
        body,
    )
    [broker] = own.kafka.nodes
    with concurrent.futures.ThreadPoolExecutor(1) as threads:
        broker.send(signal.SIGSTOP)
        try:
            answer = threads.submit(exchange, api, sent)
            wait_for(lambda: api.metric("tidemark_publish_in_flight_records") == 1, "the event to be on its way")
            api.ask_to_stop()
            wait_for(lambda: api.events("stopping"), "the API to be stopping")
        finally:
            broker.send(signal.SIGCONT)
        [found] = answer.result(15)
    assert found.status == 202, found
    assert api.wait_end() == 0


def test_an_idle_api_stops_at_once(own: Tidemark) -> None:
    api = own.start_api()
    # A connection that is kept and idle does not hold it up.
    api.get("/version")
    began = time.monotonic()

    assert api.terminate() == 0

    assert time.monotonic() - began < 5


# --- what the programs say ----------------------------------------------------------------------------------


_columns = [
    "STREAM", "GEN", "PARTITION", "NEXT OFFSET", "LOG END", "BEHIND", "LAG S", "RECORDS/S", "DEAD LETTERS", "OWNER"
]  # fmt: skip


def _read_table(lines: IO[str]) -> list[dict[str, str]]:
    """The rows of one look at the status of two streams of four partitions."""
    header = re.split(r"\s{2,}", lines.readline().strip())
    rows = [lines.readline() for _ in range(8)]
    assert "\x1b" not in "".join(rows), "no terminal, nothing to draw on"
    return [dict(zip(header, row.split(), strict=True)) for row in rows]


def test_the_status_command_watches(own: Tidemark) -> None:
    consumer = own.start_consumer()
    watch = own.start_command("status", "--watch", "--json", "--interval", "200ms")
    assert watch.stdout is not None
    try:
        looks = [json.loads(watch.stdout.readline())]
        assert all("recordsPerSecond" not in one for one in looks[0]["partitions"])
        own.log.put_all("tidemark.counters", [(b"poison", b"poison")] * 1_000)
        ends = own.log.ends("tidemark.counters")

        def holds_all(look: dict[str, Any]) -> bool:
            return all(
                one["nextOffset"] == ends[one["partition"]] for one in look["partitions"] if one["stream"] == "counters"
            )

        while not holds_all(looks[-1]):
            looks.append(json.loads(watch.stdout.readline()))
        rates = [one["recordsPerSecond"] for look in looks[1:] for one in look["partitions"]]
        assert max(rates) > 0 and min(rates) >= 0
    finally:
        watch.send_signal(signal.SIGINT)
        rest, errors = watch.communicate(timeout=10)
    assert (watch.returncode, errors) == (0, "")
    assert all(json.loads(line)["partitions"] for line in rest.splitlines())

    table = own.start_command("status", "--watch", "--interval", "100ms")
    assert table.stdout is not None
    looked = [_read_table(table.stdout) for _ in range(2)]
    # The owners are known by their heartbeats, a moment after they begin.
    while any(row["OWNER"] == "(nobody)" for row in looked[-1]):
        looked.append(_read_table(table.stdout))
    assert list(looked[0][0]) == [*_columns[:7], *_columns[8:]], "no rate before there are two looks"
    assert {(row["STREAM"], row["PARTITION"]) for row in looked[-1]} == {
        (stream, str(number)) for stream in ("counters", "vehicles") for number in range(4)
    }
    for row in looked[-1]:
        assert list(row) == _columns
        assert (row["GEN"], row["BEHIND"], row["OWNER"]) == ("1", "0", f"{socket.gethostname()}-0")
        assert 0 <= float(row["LAG S"]) < 10 and float(row["RECORDS/S"]) >= 0
    letters = sum(int(row["DEAD LETTERS"]) for row in looked[-1] if row["STREAM"] == "counters")
    assert letters == own.query("select count(*) from counters.dead_letters where status = 'open'")[0][0] >= 1_000
    table.terminate()
    assert table.wait(10) == 0
    assert consumer.terminate() == 0


def test_a_watch_is_drawn_over_itself_on_a_terminal(own: Tidemark) -> None:
    settings = {
        "TIDEMARK_BROKERS": own.kafka.brokers,
        "TIDEMARK_CONSUMER_DSN": own.postgres.dsn("tidemark_consumer", own.database),
    }
    ours, its = pty.openpty()
    watch = subprocess.Popen(
        [own.build / "consumers" / "tidemark-consumer", "status", "--watch", "--interval", "100ms"],
        env={**os.environ, **settings}, stdin=subprocess.DEVNULL, stdout=its, stderr=subprocess.PIPE,
    )  # fmt: skip
    os.close(its)
    try:
        shown = b""
        while shown.count(b"\x1b[J") < 3:
            shown += os.read(ours, 65_536)
    finally:
        watch.terminate()
        _, errors = watch.communicate(timeout=10)
        os.close(ours)
    assert (watch.returncode, errors) == (0, b"")
    # The screen is wiped once; then each look begins at its home, and leaves nothing of the one before on any line or below.
    cleared, *looks = shown.split(b"\x1b[H")
    assert cleared == b"\x1b[2J"
    for look in looks[:3]:
        *lines, below = look.split(b"\r\n")
        assert below == b"\x1b[J"
        assert len(lines) == 9 and all(line.endswith(b"\x1b[K") for line in lines)
        assert lines[0].startswith(b"STREAM ") and lines[1].startswith(b"counters ")


def test_what_a_watch_cannot_see_is_json_too(own: Tidemark) -> None:
    arguments = ["status", "--watch", "--json", "--interval", "100ms"]
    closed = f"127.0.0.1:{choose_ports(1)[0]}"
    for away, named in (
        (["--brokers", closed], "check that the broker runs"),
        (["--consumer-dsn", f"postgresql://nobody@{closed}/none"], closed.rpartition(":")[2]),
    ):
        watch = own.start_command(*arguments, *away)
        assert watch.stdout is not None
        try:
            looks = [json.loads(watch.stdout.readline()) for _ in range(2)]
        finally:
            watch.terminate()
            watch.communicate(timeout=30)
        assert all(list(look) == ["error"] and named in look["error"] for look in looks), looks


def test_the_status_command_tells_caught_up_from_behind(own: Tidemark) -> None:
    consumer = own.start_consumer(2)
    own.settle("counters")
    own.settle("vehicles")

    def partitions() -> list[dict[str, Any]]:
        done = own.run("consumer", "status", "--json")
        assert done.returncode == 0, done.stdout + done.stderr
        found: list[dict[str, Any]] = json.loads(done.stdout)["partitions"]
        return found

    # The owners are known by their heartbeats, a moment after they begin.
    wait_for(lambda: all(each["owner"] for each in partitions()), "the owner of each partition to show")
    caught_up = partitions()
    consumer.freeze()
    own.log.put("tidemark.counters", b"d", b"poison")
    behind = own.run("consumer", "status")
    consumer.thaw()

    assert {(each["stream"], each["partition"]) for each in caught_up} == {
        (stream, number) for stream in ("counters", "vehicles") for number in range(4)
    }
    assert all(each["nextOffset"] == each["logEnd"] for each in caught_up)
    assert behind.returncode == 1
    assert consumer.terminate() == 0


def test_events_can_be_sent_and_imported(own: Tidemark, tmp_path: Path) -> None:
    sent = own.run("producer", "send", "tidemark.counter.incremented.v1", '{"key":"sent","value":7}')
    assert sent.returncode == 0, sent.stderr
    file = tmp_path / "events.ndjson"
    line = _event("sent")
    file.write_text(f"{line}\nnot an event\n{line}\n")
    imported = own.run("producer", "import", file)

    # The good lines are stored, the bad one is named.
    assert imported.returncode == 1
    assert "2" in imported.stderr
    assert own.run("producer", "import", tmp_path / "missing").returncode in (1, 2)
    assert own.run("producer", "send", "tidemark.counter.incremented.v1", '{"key":"sent"').returncode == 2
    keyed = [record for record in own.log.read("tidemark.counters") if record.key == b"sent"]
    assert len(keyed) == 3


# --- what to try next ---------------------------------------------------------------------------------------


def test_a_command_that_the_database_fails_says_what_to_try(own: Tidemark, build: Path) -> None:
    nowhere = f"postgresql://nobody@127.0.0.1:{choose_ports(1)[0]}/none"
    own.postgres.create_database(own.database + "_empty")
    empty = own.postgres.dsn("tidemark_consumer", own.database + "_empty")
    other = own.postgres.dsn("tidemark_consumer", own.database)
    for program, arguments, settings, words in (
        ("consumer", ["status"], {"consumer_dsn": nowhere}, "see that PostgreSQL runs, and check host"),
        ("consumer", ["generations", "counters"], {"consumer_dsn": nowhere}, "password in --consumer-dsn"),
        ("consumer", ["promote", "counters"], {"owner_dsn": nowhere}, "password in --owner-dsn"),
        ("consumer", ["migrate"], {"owner_dsn": nowhere}, "password in --owner-dsn"),
        ("consumer", ["replay", "counters"], {"owner_dsn": nowhere}, "password in --consumer-dsn and --owner-dsn"),
        ("consumer", ["generations", "counters"], {"consumer_dsn": empty}, "`tidemark-consumer migrate` makes what is"),
        ("consumer", ["migrate"], {"owner_dsn": other}, "`tidemark-consumer doctor` says which rights"),
        ("producer", ["convert", "vehicles"], {"source_dsn": nowhere}, "password in --source-dsn"),
        ("producer", ["convert", "vehicles"], {"source_dsn": empty}, "that --source-dsn names the earlier service's"),
    ):
        done = own.run(program, *arguments, **settings)
        assert done.returncode == 1, (arguments, done.stderr)
        [error, hint] = done.stderr.splitlines()[-2:]
        assert hint.startswith("try: ") and words in hint, (arguments, done.stderr)
    done = _bare(build, "consumer", "diff", "counters", PGHOST="127.0.0.1", PGPORT="1")
    assert "password in --owner-dsn (not given)" in done.stderr, done.stderr


def test_a_file_that_cannot_be_read_is_named_with_what_to_check(own: Tidemark, tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    for program, arguments, code in (
        ("producer", ["import", missing], 2),
        ("producer", ["convert", "counters", "--counters", missing, "--time", "2026-11-20T10:00:00Z"], 1),
        ("producer", ["export", "counters", "--output", missing / "file"], 2),
        ("consumer", ["replay", "counters", "--from-file", missing], 3),
        ("consumer", ["redrive", "counters", "0:1", "--edit", missing], 3),
        ("consumer", ["status", "--kafka-config", missing], 1),
    ):
        done = own.run(program, *arguments)
        assert done.returncode == code, (arguments, done.stderr)
        assert str(missing) in done.stderr and "; check " in done.stderr, (arguments, done.stderr)


# --- watching an import -------------------------------------------------------------------------------------


class _Import:
    """An import that is fed line by line, and its admin listener."""

    def __init__(self, process: subprocess.Popen[str], url: str) -> None:
        self._process = process
        self._url = url

    def feed(self, *lines: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write("".join(line + "\n" for line in lines))
        self._process.stdin.flush()

    def end(self) -> tuple[int, str, str]:
        """Ends its input: its exit code, and what it said on standard output and standard error."""
        said = self._process.communicate(timeout=30)
        return self._process.returncode, *said

    def stop(self) -> tuple[int, str, str]:
        """Tells it to stop, and waits with its input still open: what `end` returns."""
        self._process.send_signal(signal.SIGTERM)
        code = self._process.wait(15)
        assert self._process.stdout is not None and self._process.stderr is not None
        return code, self._process.stdout.read(), self._process.stderr.read()

    def get(self, path: str) -> requests.Response:
        return requests.get(self._url + path, timeout=5)

    def status(self, path: str) -> int:
        """0 while nobody answers."""
        try:
            return self.get(path).status_code
        except requests.ConnectionError:
            assert self._process.poll() is None, self._process.communicate()
            return 0

    def metric(self, name: str, **labels: str) -> float:
        return sum_of_samples(self.get("/metrics").text, name, **labels)


@contextlib.contextmanager
def _importing(tidemark: Tidemark, **settings: str) -> Iterator[_Import]:
    [port] = choose_ports(1)
    listen = f"127.0.0.1:{port}"
    with tidemark.start_import(admin_listen=listen, **settings) as process:
        yield _Import(process, f"http://{listen}")


def test_an_import_that_is_told_to_stop_ends_though_its_input_does_not(own: Tidemark) -> None:
    with _importing(own) as running:
        wait_for(lambda: running.status("/readyz") == 200, "the import to reach the broker")
        running.feed(_event("stopped"))
        wait_for(lambda: running.metric("tidemark_import_outcomes_total", outcome="accepted") == 1, "it to be stored")
        code, out, errors = running.stop()
        assert code == 1
        assert out == "1 of 1 events stored\n"
        assert "the file was not read beyond line 1" in errors


def test_an_import_can_be_watched_while_it_runs(own: Tidemark) -> None:
    with _importing(own) as running:
        wait_for(lambda: running.status("/readyz") == 200, "the import to reach the broker")
        running.feed(*[_event("watched")] * 3, "", "not an event")
        wait_for(lambda: running.metric("tidemark_import_lines_total") == 4, "the lines to be read")
        wait_for(lambda: running.metric("tidemark_import_outcomes_total", outcome="accepted") == 3, "their outcomes")

        assert [running.status(path) for path in ("/livez", "/readyz", "/startupz")] == [200, 200, 200]
        assert running.metric("tidemark_import_outcomes_total", outcome="refused") == 1
        assert running.metric("tidemark_import_outcomes_total") == 4
        assert running.metric("tidemark_publish_outcomes_total", outcome="accepted") == 3
        assert running.metric("tidemark_publish_in_flight_records") == 0
        assert running.metric("tidemark_dependency_up", dependency="kafka") == 1
        assert running.metric("process_resident_memory_bytes") > 0

        code, said, errors = running.end()
    assert (code, said) == (1, "3 of 4 events stored, 1 refused\n")
    assert "line 5: " in errors


def test_what_an_import_has_in_flight_shows_in_its_metrics(own: Tidemark) -> None:
    [broker] = own.kafka.nodes
    with _importing(own) as running:
        wait_for(lambda: running.status("/readyz") == 200, "the import to reach the broker")
        broker.send(signal.SIGSTOP)
        try:
            running.feed(_event("held"), _event("held"))
            wait_for(lambda: running.metric("tidemark_publish_in_flight_records") == 2, "both to be on their way")
            assert running.metric("tidemark_publish_in_flight_bytes") == 2 * len("held" + _event("held"))
            assert running.metric("tidemark_import_outcomes_total") == 0
        finally:
            broker.send(signal.SIGCONT)
        assert running.end()[:2] == (0, "2 of 2 events stored\n")


def test_an_import_without_a_broker_lives_and_is_not_ready(tidemark: Tidemark) -> None:
    with _importing(tidemark, brokers=f"127.0.0.1:{choose_ports(1)[0]}") as running:
        wait_for(lambda: running.status("/livez") == 200, "the import to live")
        answer = running.get("/readyz")
        assert (answer.status_code, running.status("/startupz")) == (503, 503)
        assert "broker" in answer.json()["detail"]
        assert running.metric("tidemark_dependency_up", dependency="kafka") == 0


@contextlib.contextmanager
def _held(port: int) -> Iterator[None]:
    """Holds a loopback port; whoever has it now is an import that will end."""
    with contextlib.ExitStack() as held:

        def hold() -> bool:
            probe = socket.socket()
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                probe.close()
                return False
            held.enter_context(probe).listen()
            return True

        wait_for(hold, f"port {port}", 60)
        yield


def test_two_imports_at_once_do_not_fight_over_the_default_port(own: Tidemark, tmp_path: Path) -> None:
    file = tmp_path / "events.ndjson"
    file.write_text(_event("unwatched") + "\n")

    with _held(3335):
        imported = own.run("producer", "import", file)

    assert (imported.returncode, imported.stdout) == (0, "1 of 1 events stored\n")
    lines = [json.loads(line) for line in imported.stderr.splitlines() if line.startswith("{")]
    [warning] = [line for line in lines if line["event"] == "not_watchable"]
    assert warning["level"] == "warn"
    assert "127.0.0.1:3335" in warning["error"] and "--admin-listen" in warning["hint"]


@pytest.mark.parametrize("is_default", [True, False])
def test_a_given_port_that_is_taken_ends_an_import(own: Tidemark, tmp_path: Path, is_default: bool) -> None:
    file = tmp_path / "events.ndjson"
    file.write_text(_event("never_sent") + "\n")
    port = 3335 if is_default else choose_ports(1)[0]

    with _held(port):
        imported = own.run("producer", "import", file, "--admin-listen", f"127.0.0.1:{port}")

    assert (imported.returncode, imported.stdout) == (1, "")
    assert f"127.0.0.1:{port}" in imported.stderr and "--admin-listen" in imported.stderr
    assert not [record for record in own.log.read("tidemark.counters") if record.key == b"never_sent"]


# --- logs and metrics ---------------------------------------------------------------------------------------


def test_every_log_line_is_a_json_object_with_the_same_first_members(tidemark: Tidemark, api: Running) -> None:
    for program in tidemark.running:
        lines = [line.strip() for line in program.tail(100_000).splitlines()]
        assert lines, program.name
        for line in lines:
            found = json.loads(line)
            assert list(found)[:4] == ["ts", "level", "program", "event"], line
            assert tidemark.postgres.password not in line


def test_a_flush_that_wrote_is_one_line(tidemark: Tidemark, api: Running, consumer: Running) -> None:
    token(api.post("/increment", {"key": "logged", "value": 1}))
    tidemark.settle("counters")

    wait_for(lambda: consumer.events("flushed"), "a flush to be logged")
    line = consumer.events("flushed")[-1]
    assert {"stream", "partitions", "records", "keys", "rows", "ms"} <= set(line)


def _series(text: str) -> set[str]:
    """What of the metrics is API: each one's type, and every series without its value."""
    found = set()
    for line in text.splitlines():
        if line.startswith("# TYPE "):
            found.add(line.removeprefix("# "))
        elif not line.startswith("#") and "_bucket{" not in line and not line.startswith("tidemark_build_info"):
            found.add(line.rpartition(" ")[0])
    return found


def _assert_golden(text: str, program: str) -> None:
    golden = set((_golden / f"{program}.txt").read_text().splitlines())
    found = _series(text)
    # Every request that the other tests made has a series of its own.
    found -= {line for line in found - golden if line.startswith("http_request_duration_seconds_")}

    # Names are API: one that is gone or changed breaks somebody's dashboard. New ones are added to the file.
    assert found == golden
    helped = set(re.findall(r"^# HELP (\S+) \S", text, re.MULTILINE))
    assert {line.split()[1] for line in golden if line.startswith("TYPE ")} <= helped, "a metric has no help text"


@pytest.mark.parametrize("program", ["api", "consumer"])
def test_the_names_of_the_metrics_are_the_golden_ones(
    tidemark: Tidemark, api: Running, consumer: Running, program: str
) -> None:
    token(api.post("/increment", {"key": "golden", "value": 1}))
    tidemark.settle("counters")

    _assert_golden({"api": api, "consumer": consumer}[program].get("/metrics").text, program)


def test_the_names_of_an_imports_metrics_are_the_golden_ones(tidemark: Tidemark) -> None:
    with _importing(tidemark) as running:
        wait_for(lambda: running.status("/livez") == 200, "the import to live")

        _assert_golden(running.get("/metrics").text, "producer")
