"""A stream's tables are rebuilt from its log beside the live ones, compared, swapped without a reader noticing, and back."""

from __future__ import annotations

import concurrent.futures
import csv
import io
import json
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg2
import pytest

from stack.process import wait_for
from support.answers import token
from support.fold import INCREMENTED, STATE_CHANGED
from support.load import Load
from support.operating import command, delete_records, fill, generations, increment, is_stopped, orphans, roles, totals
from support.tidemark import Running, Tidemark


@pytest.fixture
def own(make_tidemark: Callable[..., Tidemark]) -> Iterator[Tidemark]:
    """Migrated; nothing runs in it yet."""
    tidemark = make_tidemark()
    yield tidemark
    tidemark.end()


def test_a_generation_is_rebuilt_compared_promoted_rolled_back_and_dropped(own: Tidemark) -> None:
    own.start_consumer()
    api = own.start_api()
    fill(own)
    own.settle("counters")
    before = api.get("/counters/k1").json()

    said = command(own, "replay", "counters")
    assert "generation 2 of counters has caught up" in said
    assert roles(own) == {1: "live", 2: "candidate"}

    found = json.loads(command(own, "diff", "counters", "--json"))
    assert found["differing"] == 0
    promoted = own.run("consumer", "promote", "counters")
    assert promoted.stdout.startswith("generation 2 of counters is live now"), promoted.stderr
    assert "diff counters  100.0 %" in promoted.stderr
    assert roles(own) == {1: "retired", 2: "live"}
    after = api.get("/counters/k1")
    assert after.json() == before
    own.assert_equals_log("counters")

    stored = token(api.post("/increment", {"key": "k1", "value": 1_000}))
    assert api.get(f"/counters/k1?at_least={stored}").json()["value"] == before["value"] + 1_000

    command(own, "rollback", "counters")
    assert roles(own) == {1: "live", 2: "candidate"}
    assert api.get(f"/counters/k1?at_least={stored}").json()["value"] == before["value"] + 1_000
    own.assert_equals_log("counters")
    assert json.loads(command(own, "drop", "counters", "2", "--json")) == {"stream": "counters", "dropped": 2}
    assert roles(own) == {1: "live"}
    assert own.query("select nspname from pg_namespace where nspname like 'counters%'") == [("counters",)]
    own.assert_equals_log("counters")
    # A number is never used again.
    assert "generation 3 of counters" in command(own, "replay", "counters")


@pytest.mark.parametrize("name", ["replay", "diff", "verify"])
def test_how_far_long_work_is_stands_in_json_beside_what_it_says(own: Tidemark, name: str) -> None:
    own.start_consumer()
    fill(own)
    own.settle("counters")
    if name != "replay":
        command(own, "replay", "counters")
    done = own.run("consumer", name, "counters", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["stream"] == "counters"
    progress = [json.loads(line) for line in done.stderr.splitlines()]
    assert progress and {one["progress"] for one in progress} == {f"{name} counters"}
    assert progress[-1]["done"] == progress[-1]["total"] > 0
    assert name != "replay" or progress[-1]["parked"] == json.loads(done.stdout)["parked"] == 3


@pytest.mark.timeout(900)
def test_a_hundred_times_promoted_and_rolled_back_no_reader_notices(own: Tidemark, pytestconfig: pytest.Config) -> None:
    consumer = own.start_consumer()
    apis = [own.start_api(), own.start_api()]
    fill(own)
    command(own, "replay", "counters")
    swaps = 0
    ended = threading.Event()

    def read(api: Running, key: str) -> tuple[int, list[str]]:
        """Polls as one client; what a client must never see."""
        reads, wrong = 0, []
        last, position = -1, ""
        while not ended.is_set():
            answer = api.get(f"/counters/{key}")
            reads += 1
            if answer.status_code != 200:
                wrong.append(f"{answer.status_code} {answer.text}")
            elif (value := answer.json()["value"]) < last:
                wrong.append(f"{value} after {last}, at {answer.headers['Applied-Position']} after {position}")
            else:
                last, position = value, answer.headers["Applied-Position"]
        return reads, wrong

    def write(api: Running, key: str) -> tuple[int, list[str]]:
        """Adds one and reads what was written, as the same client."""
        written, wrong = 0, []
        while not ended.is_set():
            answer = api.post("/increment", {"key": key, "value": 1})
            if answer.status_code != 202:
                wrong.append(f"POST {answer.status_code} {answer.text}")
                continue
            written += 1
            read = api.get(f"/counters/{key}?at_least={token(answer)}")
            if read.status_code != 200 or read.json()["value"] != written:
                wrong.append(f"GET {read.status_code} {read.text} after {written} writes")
        return written, wrong

    def page(api: Running) -> tuple[int, list[str]]:
        """Lists; a mixture of generations would show as a sum that falls."""
        reads, wrong, last = 0, [], -1
        while not ended.is_set():
            answer = api.get("/counters?prefix=swap-")
            reads += 1
            if answer.status_code != 200:
                wrong.append(f"{answer.status_code} {answer.text}")
            elif (sum_ := sum(item["value"] for item in answer.json()["items"])) < last:
                wrong.append(f"{sum_} after {last}")
            else:
                last = sum_
        return reads, wrong

    load = Load(own, apis, keys=4, prefix="swap-", rate=300, connections=4)
    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        try:
            load.wait_acked(100)
            wait_for(lambda: all(apis[0].get(f"/counters/swap-{n}").ok for n in range(4)), "the keys", 30)
            clients = [threads.submit(read, api, f"swap-{n}") for n, api in enumerate(apis)]
            clients += [threads.submit(write, api, f"own-{n}") for n, api in enumerate(apis)]
            clients += [threads.submit(page, apis[0])]
            began = time.monotonic()
            for number in range(200):
                verb = "rollback" if number % 2 else "promote"
                command(own, verb, "counters", *(["--accept-diff"] if verb == "promote" else []))
                swaps += 1
                assert not orphans(own)
                # The log grows all the while, so each costs more than the one before.
                if number % 10 == 9 or pytestconfig.getoption("--long"):
                    command(own, "verify", "counters")
            took = time.monotonic() - began
        finally:
            ended.set()
            answers = load.stop()
        outcomes = [client.result(60) for client in clients]

    print(f"{swaps} swaps in {took:.0f} s; requests of each client: {[count for count, _ in outcomes]}")
    assert swaps == 200
    wrong = [what for _, all_wrong in outcomes for what in all_wrong[:3]]
    assert not wrong, "\n".join(wrong)
    assert all(count > 100 for count, _ in outcomes)
    assert answers.acked == answers.total
    own.assert_equals_log("counters")
    assert json.loads(command(own, "diff", "counters", "--json"))["differing"] == 0
    assert consumer.alive


def test_what_was_changed_by_hand_is_found_named_and_mended(own: Tidemark) -> None:
    own.start_consumer()
    api = own.start_api()
    fill(own)
    own.settle("counters")
    true_value = api.get("/counters/k5").json()["value"]
    own.query("update counters.totals set value = value + 1000000 where key = 'k5'")
    own.query("delete from counters.windows where key = 'k6'")

    command(own, "replay", "counters")
    found = json.loads(command(own, "diff", "counters", "--json", code=1).splitlines()[0])
    tables = {table["name"]: table for table in found["tables"]}
    assert (tables["totals"]["changed"], tables["totals"]["added"], tables["totals"]["removed"]) == (1, 0, 0)
    assert tables["windows"]["added"] >= 1 and tables["windows"]["removed"] == 0
    [sample] = tables["totals"]["samples"]
    assert sample["key"] == {"key": "k5"} and sample["evidence"], sample
    rows = list(csv.DictReader(io.StringIO(command(own, "diff", "counters", "--csv", code=1))))
    assert any(row["table"] == "totals" and "k5" in row["key"] for row in rows)
    assert "k5" in command(own, "diff", "counters", code=1)

    refused = command(own, "promote", "counters", code=3)
    assert "--accept-diff" in refused
    command(own, "diff", "counters", "--max-diff", str(found["differing"] - 1), code=1)
    command(own, "diff", "counters", "--max-diff", str(found["differing"]))
    refused = command(own, "promote", "counters", "--max-diff", str(found["differing"] - 1), code=3)
    assert f"differs in {found['differing']} rows, {found['differing'] - 1} are allowed" in refused
    assert roles(own) == {1: "live", 2: "candidate"}
    command(own, "promote", "counters", "--max-diff", str(found["differing"]))
    assert api.get("/counters/k5").json()["value"] == true_value
    own.assert_equals_log("counters")


def _columns(tidemark: Tidemark) -> list[str]:
    """Those of the totals that are read."""
    rows = tidemark.query(
        "select column_name::text from information_schema.columns"
        " where table_schema = 'counters' and table_name = 'totals' order by ordinal_position"
    )
    return [name for (name,) in rows]


def test_other_tables_and_another_fold_are_replayed_compared_promoted_rolled_back_and_promoted(own: Tidemark) -> None:
    old = own.start_consumer(0)
    api = own.start_api()
    own.log.put_all("tidemark.counters", [increment("zero", 0), increment("zero", 0), increment("some", 5)])
    own.settle("counters")
    columns = _columns(own)
    assert "largest" not in columns

    command(own, "replay", "counters", program="consumer-next")
    refused = command(own, "promote", "counters", "--accept-diff", "--timeout", "2s", program="consumer-next", code=3)
    assert "no consumer of fingerprint next" in refused
    # It leaves the live tables alone, and works: it keeps the candidate up to date.
    new = own.start_consumer(1, version="next")
    assert new.events("generation_of_another_fingerprint")
    for program in ("consumer", "consumer-next"):
        found = json.loads(command(own, "diff", "counters", "--json", program=program, code=1).splitlines()[0])
        [totals_] = [table for table in found["tables"] if table["name"] == "totals"]
        assert (totals_["added"], totals_["removed"], totals_["changed"]) == (0, 1, 0)
        assert (totals_["columnsOnlyInLive"], totals_["columnsOnlyInOther"]) == ([], ["largest"])
    assert "refused" in command(own, "promote", "counters", program="consumer-next", code=3)
    # Until then the old version goes on, in its own tables.
    stored = token(api.post("/increment", {"key": "some", "value": 2}))
    assert api.get(f"/counters/some?at_least={stored}").json()["value"] == 7
    assert _columns(own) == columns

    value = 7
    for verb in ("promote", "rollback", "promote"):
        arguments = [verb, "counters", *(["--accept-diff"] if verb == "promote" else [])]
        # Either version's program can swap: what folds is the consumers.
        command(own, *arguments, program="consumer" if verb == "rollback" else "consumer-next")
        value += 10
        stored = token(api.post("/increment", {"key": "some", "value": 10}))
        answer = api.get(f"/counters/some?at_least={stored}")
        assert (answer.status_code, answer.json()["value"]) == (200, value), verb
        if verb == "promote":
            assert _columns(own) == [*columns, "largest"]
            # What was written while the other version was live is in it too.
            assert own.query("select key, largest from counters.api_counter_extremes") == [("some", 10)]
            assert api.get("/counters/zero").status_code == 404
            command(own, "verify", "counters", program="consumer-next")
        else:
            assert _columns(own) == columns
            assert api.get("/counters/zero").json()["value"] == 0
            own.assert_equals_log("counters")
        # No version takes the other's tables for its own that somebody altered.
        for program in ("consumer", "consumer-next"):
            assert "schema_drift" not in own.run(program, "doctor").stdout

    # The old version is retired: its generation goes, its consumers idle.
    command(own, "drop", "counters", "1", program="consumer-next")
    # Its lane learns of it by itself, or is ended first by who follows the registry.
    wait_for(lambda: bool(old.events("lane_ended")), "the old consumer to notice", 20)
    assert old.alive
    stored = token(api.post("/increment", {"key": "some", "value": 1}))
    assert api.get(f"/counters/some?at_least={stored}").json()["value"] == value + 1
    assert not orphans(own)


def test_an_old_version_writes_nothing_of_a_new_generation(own: Tidemark) -> None:
    old = own.start_consumer(0)
    own.log.put_all("tidemark.counters", [increment("zero", 0), increment("some", 5)])
    own.settle("counters")
    command(own, "replay", "counters", program="consumer-next")
    new = own.start_consumer(1, version="next")
    wait_for(lambda: generations(own)[2]["foldedBy"] != [], "the candidate to be folded", 20)
    # The old version misses the swap: when it wakes up it takes itself for who writes what is read.
    old.freeze()
    command(own, "promote", "counters", "--accept-diff", program="consumer-next")
    assert new.terminate() == 0
    stood = own.tables("counters")
    # In every partition what the two make different things of.
    for partition in range(4):
        records = [increment("zero", 0), increment("some", 0), increment("some", 2_000_000), increment("some", 7)]
        own.log.put_all("tidemark.counters", records, partition=partition)
    old.thaw()
    wait_for(lambda: any(one["role"] == "retired" for one in old.events("claimed")), "the swap to be noticed", 30)
    wait_for(lambda: bool(old.events("generation_of_another_fingerprint")), "it to say so", 20)
    wait_for(lambda: old.metric("tidemark_buffered_records", stream="counters") == 16, "it to have read them", 30)
    # Beside them it goes on flushing what is its own.
    vehicle = {"specversion": "1.0", "id": "1", "source": "/test", "type": STATE_CHANGED, "data": {"id": 1, "state": "sold"}}
    for _ in range(2):
        own.log.put("tidemark.vehicles", b"1", json.dumps(vehicle).encode())
        own.settle("vehicles")
    assert own.tables("counters") == stood
    # It keeps the retired generation up to date, which is work enough; when that is gone it has none.
    assert old.get("/readyz").status_code == 200
    command(own, "drop", "counters", "1", program="consumer-next")
    wait_for(lambda: old.get("/readyz").status_code == 503, "the old version to be not ready", 20)
    assert old.get("/readyz").json()["detail"] == "stream counters: its tables are of another fingerprint"
    own.log.put("tidemark.vehicles", b"1", json.dumps(vehicle).encode())
    own.settle("vehicles")
    assert own.tables("counters") == stood

    new.start()
    own.settle("counters")
    assert totals(own) == {"some": 5 + 4 * 7}
    assert own.query("select count(*), min(detail), sum(attempts) from counters.dead_letters") == [
        (4, "/data/value: is over a million", 4)
    ]
    assert own.query("select largest from counters.totals") == [(7,)]
    command(own, "verify", "counters", program="consumer-next")
    assert old.alive


def test_guards_refuse(own: Tidemark) -> None:
    own.start_consumer()
    fill(own, 100)
    own.settle("counters")
    assert "no stream nonsense" in command(own, "replay", "nonsense", code=3)
    assert "replay" in command(own, "promote", "counters", code=3)
    assert "go back to" in command(own, "rollback", "counters", code=3)
    assert "is the live one" in command(own, "drop", "counters", "1", code=3)
    assert "no generation 7" in command(own, "drop", "counters", "7", code=3)
    assert "beside the live one" in command(own, "diff", "counters", code=3)
    assert "not a number" in command(own, "drop", "counters", "two", code=2)

    stopped = own.start_command("replay", "counters", fault="r2_folding=stop")
    try:
        wait_for(lambda: roles(own) == {1: "live", 2: "building"}, "the generation to be there", 20)
        wait_for(lambda: is_stopped(stopped), "the replay to be stopped", 20)
        assert "another replay of counters is running" in command(own, "replay", "counters", code=3)
        assert "has not caught up yet" in command(own, "promote", "counters", code=3)
        assert "has not caught up yet" in command(own, "diff", "counters", code=3)
        stopped.send_signal(signal.SIGCONT)
        assert stopped.wait(30) == 0
    finally:
        stopped.kill()
        stopped.communicate()
    assert "waits to be decided upon" in command(own, "replay", "counters", code=3)


def test_a_replay_that_is_told_to_stop_goes_on_when_run_again(own: Tidemark) -> None:
    own.start_consumer()
    fill(own)
    own.settle("counters")
    replay = own.start_command("replay", "counters", fault="r2_folding=term")
    said, errors = replay.communicate(timeout=30)
    assert replay.returncode in (0, 1), errors
    if replay.returncode == 1:
        assert "again to go on with generation 2" in said
        assert roles(own) == {1: "live", 2: "building"}
        command(own, "replay", "counters")
    assert roles(own) == {1: "live", 2: "candidate"}
    assert json.loads(command(own, "diff", "counters", "--json"))["differing"] == 0


def test_dropping_what_a_replay_builds_ends_the_replay_and_leaves_nothing(own: Tidemark) -> None:
    own.start_consumer()
    fill(own)
    own.settle("counters")
    replay = own.start_command("replay", "counters", fault="r2_folding=stop")
    try:
        wait_for(lambda: is_stopped(replay), "the replay to be stopped", 20)
        command(own, "drop", "counters", "2")
        replay.send_signal(signal.SIGCONT)
        _, errors = replay.communicate(timeout=30)
    finally:
        replay.kill()
    assert replay.returncode == 3, errors
    assert "was dropped meanwhile" in errors
    assert roles(own) == {1: "live"}
    assert own.query("select nspname from pg_namespace where nspname like 'counters%'") == [("counters",)]
    own.assert_equals_log("counters")


def test_a_log_whose_start_is_gone_is_not_replayed(own: Tidemark) -> None:
    own.start_consumer()
    fill(own, 500)
    own.settle("counters")
    delete_records(own, "tidemark.counters", 0, before=5)
    said = command(own, "replay", "counters", code=3)
    assert "partition 0" in said and "starts at 5" in said
    assert roles(own) == {1: "live"}
    # What has been folded so far is folded on, by an upgrade that migrates too.
    own.migrate()
    own.log.put_all("tidemark.counters", [increment(f"later {n}", 1) for n in range(100)])
    own.settle("counters")


def test_a_topic_that_was_given_partitions_is_not_replayed(own: Tidemark) -> None:
    own.log.add_partitions("tidemark.counters", 6)
    assert "6 partitions, the registered log has 4" in command(own, "replay", "counters", code=3)
    assert roles(own) == {1: "live"}


@pytest.mark.parametrize("is_written_to", [False, True])
def test_a_topic_that_was_recreated_is_not_replayed(own: Tidemark, tmp_path: Path, is_written_to: bool) -> None:
    own.log.delete_topic("tidemark.counters")
    own.log.create_topic("tidemark.counters")
    if is_written_to:
        own.log.put_all("tidemark.counters", [increment(f"k{n}", 1) for n in range(100)])
    said = command(own, "replay", "counters", code=3)
    assert "topic tidemark.counters, partition 0: the topic was recreated" in said
    assert ("it begins with a record of something else" if is_written_to else "it is empty") in said
    assert ("tidemark-producer export counters" if is_written_to else "with an empty database in the settings") in said
    assert roles(own) == {1: "live"}

    held = tmp_path / "held.ndjson"
    command(own, "export", "counters", "--output", str(held), program="producer")
    own.log.delete_topic("tidemark.counters")
    own.postgres.execute(f"drop database {own.database} with (force)")
    own.postgres.create_database(own.database)
    own.migrate()
    command(own, "import", str(held), program="producer")
    own.start_consumer()
    own.assert_equals_log("counters")
    command(own, "verify", "counters")
    assert len(totals(own)) == (100 if is_written_to else 0)


def test_a_log_that_was_cut_at_its_end_is_not_replayed(own: Tidemark) -> None:
    """The tables stand beyond it, so a replay would wait for ever for what it is to catch up with."""
    consumer = own.start_consumer()
    fill(own, 500)
    own.settle("counters")
    consumer.terminate()
    own.query("update counters.offsets set next_offset = next_offset + 7 where partition = 2")
    end = own.log.ends("tidemark.counters")[2]
    said = command(own, "replay", "counters", code=3)
    assert f"topic tidemark.counters, partition 2: the log ends at offset {end}, the tables of counters stand at {end + 7}" in said
    assert roles(own) == {1: "live"}


def test_after_the_loss_of_the_database_server_the_log_brings_everything_back(
    make_tidemark: Callable[..., Tidemark], tmp_path: Path
) -> None:
    own = make_tidemark(own_postgres=True)
    consumer, api = own.start_consumer(), own.start_api()
    fill(own)
    put = own.log.put("tidemark.counters", *increment("mended", 5, time="yesterday"))
    own.log.put("tidemark.counters", *increment("given-up", 6, time="yesterday"))
    for number in (7, 8):
        assert api.put(f"/vehicles/{number}", {"make": "Audi", "model": "A4"}).status_code == 202
    state = token(api.post("/vehicles/7/states", {"state": "sold"}))
    own.settle("counters")
    edit = tmp_path / "edit.json"
    edit.write_bytes(increment("mended", 5)[1])
    command(own, "redrive", "counters", f"{put.partition}:{put.offset}", "--edit", str(edit))
    command(own, "discard", "counters", "--all", "--note", "lost anyway")
    counted = token(api.post("/increment", {"key": "mended", "value": 1}))
    for stream in ("counters", "vehicles"):
        own.settle(stream)
    before = {stream: own.tables(stream) for stream in ("counters", "vehicles")}
    assert consumer.terminate() == api.terminate() == 0

    # Neither data nor roles are left.
    own.postgres.kill()
    shutil.rmtree(own.postgres.data)
    own.postgres.start_anew()
    own.postgres.create_database(own.database)
    own.migrate()
    own.start_consumer()
    api.start()

    # What clients were told before holds on.
    assert api.get(f"/counters/mended?at_least={counted}").json()["value"] == 6
    assert api.get(f"/vehicles/7?at_least={state}").json()["state"] == "sold"
    for stream, tables in before.items():
        own.assert_equals_log(stream)
        after = own.tables(stream)
        for name in tables.keys() - {"offsets"}:
            assert after[name] == tables[name], f"{stream}.{name}"
    letters = own.query("select status, count(*) from counters.dead_letters group by status")
    assert dict(letters) == {"redriven": 1, "discarded": 4}
    own.end()
    own.postgres.kill()


def test_with_two_candidates_the_number_has_to_be_given(own: Tidemark) -> None:
    own.start_consumer()
    fill(own, 300)
    own.settle("counters")
    for verb in ("replay", "promote", "replay", "rollback"):
        command(own, verb, "counters")
    assert roles(own) == {1: "live", 2: "candidate", 3: "candidate"}
    for verb in ("diff", "promote"):
        assert "generations 2, 3 that may be meant" in command(own, verb, "counters", code=3)
    assert json.loads(command(own, "diff", "counters", "3", "--json"))["other"] == 3
    assert json.loads(command(own, "promote", "counters", "3", "--json"))["live"] == 3
    assert roles(own) == {1: "retired", 2: "candidate", 3: "live"}


def test_generations_can_be_listed_while_they_are_swapped(own: Tidemark) -> None:
    own.start_consumer()
    api = own.start_api()
    fill(own, 300)
    own.settle("counters")
    command(own, "replay", "counters")
    ended = threading.Event()
    looks: dict[str, int] = {}
    wrong: list[str] = []

    def look(name: str, ask: Callable[[], str]) -> None:
        while not ended.is_set():
            looks[name] = looks.get(name, 0) + 1
            if complaint := ask():
                wrong.append(f"{name}: {complaint}")

    def run(*arguments: str) -> str:
        done = own.run("consumer", *arguments)
        return done.stderr or ("" if done.stdout else "nothing")

    def get() -> str:
        answer = api.get("/generations/counters")
        return "" if answer.status_code == 200 else answer.text

    with concurrent.futures.ThreadPoolExecutor(3) as threads:
        waiting = [
            threads.submit(look, "generations", lambda: run("generations", "counters", "--json")),
            threads.submit(look, "status", lambda: run("status", "--json")),
            threads.submit(look, "GET", get),
        ]
        try:
            for number in range(10):
                verb = "rollback" if number % 2 else "promote"
                command(own, verb, "counters", *(["--accept-diff"] if verb == "promote" else []))
        finally:
            ended.set()
        for one in waiting:
            one.result(60)
    print(looks)
    assert not wrong, wrong[:3]
    assert len(looks) == 3


def test_a_lane_that_failed_is_not_told_to_fold(own: Tidemark) -> None:
    consumer = own.start_consumer()
    fill(own, 300)
    own.settle("counters")
    command(own, "replay", "counters")
    wait_for(lambda: generations(own)[2]["foldedBy"] != [], "the candidate to be folded", 20)
    own.query("revoke all on counters_2.totals from tidemark_consumer")
    own.log.put_all("tidemark.counters", [increment("k1", 1)])
    wait_for(lambda: bool(consumer.events("processor_failed")), "the lane to fail", 20)
    wait_for(lambda: generations(own)[2]["foldedBy"] == [], "nobody to be told as folding it", 10)
    refused = command(own, "promote", "counters", "--accept-diff", "--timeout", "1s", code=3)
    assert "nobody would go on folding" in refused
    # The live tables are folded on, and the lane is taken up again.
    own.settle("counters")
    own.query("grant select, insert, update, delete on counters_2.totals to tidemark_consumer")
    wait_for(lambda: generations(own)[2]["foldedBy"] != [], "the lane to be back", 30)
    command(own, "promote", "counters")
    own.assert_equals_log("counters")


def test_a_dropped_generation_is_in_no_list_any_more(own: Tidemark) -> None:
    consumer = own.start_consumer()
    fill(own, 300)
    own.settle("counters")
    command(own, "replay", "counters")
    wait_for(lambda: generations(own)[2]["foldedBy"] != [], "the candidate to be folded", 20)
    command(own, "drop", "counters", "2")
    wait_for(lambda: bool(consumer.events("lane_ended")), "the lane to end", 20)
    wait_for(
        lambda: not own.query("select 1 from tidemark.consumers where generation = 2"), "its heartbeat to be gone", 10
    )


def test_migrate_waits_for_nobody_who_reads_the_registry(own: Tidemark) -> None:
    own.start_consumer()
    api = own.start_api()
    backup = psycopg2.connect(own.dsn)
    try:
        with backup.cursor() as cursor:
            cursor.execute("select count(*) from tidemark.api_generations, tidemark.api_consumers, tidemark.api_streams")
            command(own, "migrate")
            assert api.get("/generations/counters").status_code == 200
    finally:
        backup.close()


def test_a_registry_of_an_older_version_gets_what_it_lacks(own: Tidemark) -> None:
    own.query(
        "drop view tidemark.api_audits, tidemark.api_generations, tidemark.api_consumers, tidemark.api_streams;"
        "drop table tidemark.audits;"
        "alter table tidemark.streams drop column swaps, drop column last_generation;"
        "alter table tidemark.generations drop column retired_at, drop constraint generations_status_check;"
        "alter table tidemark.generations add constraint generations_status_check"
        " check (status in ('live', 'candidate', 'retired'));"
        "alter table tidemark.consumers drop constraint consumers_pkey, drop column generation;"
        "alter table tidemark.consumers add primary key (instance, stream)"
    )
    command(own, "migrate")
    command(own, "migrate")
    own.start_consumer()
    fill(own, 300)
    own.settle("counters")
    for verb in ("replay", "diff", "promote"):
        command(own, verb, "counters")
    assert roles(own) == {1: "retired", 2: "live"}
