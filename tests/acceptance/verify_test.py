"""`verify` counts the log again, a second way, and names every row in which the tables say something else."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import psycopg2
import pytest

from stack.process import wait_for
from support.load import Load
from support.operating import command, delete_records, fill, increment
from support.tidemark import Running, Tidemark


@pytest.fixture
def own(make_tidemark: Callable[..., Tidemark]) -> Iterator[Tidemark]:
    """Migrated; nothing runs in it yet."""
    tidemark = make_tidemark()
    yield tidemark
    tidemark.end()


def _verify(tidemark: Tidemark, *arguments: str, stream: str = "counters", differing: int = 0) -> dict[str, Any]:
    """What it found, which has to be as many rows."""
    said = tidemark.run("consumer", "verify", stream, *arguments, "--json")
    assert said.returncode == (1 if differing else 0), said.stdout + said.stderr
    found = json.loads(said.stdout)
    assert found["differing"] == differing, found
    return found


def _counts(found: dict[str, Any]) -> dict[str, tuple[int, int, int]]:
    """Rows missing, extra and changed, of the tables that have any."""
    counts = {one["name"]: (one["missing"], one["extra"], one["changed"]) for one in found["tables"]}
    return {name: numbers for name, numbers in counts.items() if any(numbers)}


def _samples(found: dict[str, Any], table: str) -> list[dict[str, Any]]:
    [samples] = [one["samples"] for one in found["tables"] if one["name"] == table]
    return samples


@pytest.mark.parametrize("stream", ["counters", "vehicles"])
def test_what_the_other_tests_left_is_what_the_log_says(tidemark: Tidemark, consumer: Running, stream: str) -> None:
    """Poison of every kind, identities, clients of every sort: whatever ran on the shared tables before."""
    tidemark.log.put("tidemark.vehicles", b"poison", b"poison")
    fill(tidemark, 500)
    tidemark.settle(stream)
    found = _verify(tidemark, "--deep", stream=stream)
    rows = {one["name"]: one["rowsInTables"] for one in found["tables"]}
    assert rows == {one["name"]: one["rowsOfLog"] for one in found["tables"]}
    assert rows["offsets"] == 4
    assert rows["dead_letters"] > 0
    assert rows == {
        name: tidemark.query(f'select count(*) from "{stream}"."{name}"')[0][0] for name in rows
    }, "rows were left out"
    assert found["vector"] == [end for _, end in sorted(tidemark.log.ends(f"tidemark.{stream}").items())]


def test_gaps_in_the_offsets_are_no_difference(own: Tidemark) -> None:
    own.start_consumer()
    with own.log.open_transaction("tidemark.counters", *increment("in a transaction", 1)):
        pass
    fill(own, 200)
    own.settle("counters")
    assert own.query("select sum(gaps) > 0 from counters.offsets") == [(True,)]
    _verify(own)


def test_what_the_database_refused_is_taken_as_it_says(own: Tidemark) -> None:
    own.postgres.execute("alter table counters.totals add check (value < 1000)", database=own.database)
    own.start_consumer()
    own.log.put_all("tidemark.counters", [increment("k", 400), increment("k", 5_000), increment("k", 500)])
    own.settle("counters")
    assert own.query("select reason from counters.dead_letters") == [("refused_by_database",)]
    _verify(own)


def test_rows_that_were_changed_by_hand_are_found_named_and_mended(own: Tidemark) -> None:
    own.start_consumer()
    api = own.start_api()
    fill(own)
    own.settle("counters")
    [(key, start, offsets)] = own.query(
        "select key, window_start, (partition, min_offset, max_offset)::text from counters.windows where key <> 'k5'"
        " order by key, window_start limit 1"
    )
    own.postgres.execute(
        "update counters.totals set value = value + 1000000 where key = 'k5';"
        "insert into counters.totals values ('nobody', 1, 1, now());"
        "update counters.dead_letters set reason = 'malformed' where reason = 'idempotency_conflict';"
        "update counters.dedupe set data_hash = '\\x00';"
        "update counters.offsets set applied = applied + 1 where partition = 2",
        database=own.database,
    )
    own.postgres.execute(f"delete from counters.windows where key = '{key}' and window_start = '{start}'", database=own.database)

    said = command(own, "verify", "counters", code=1)
    assert "6 rows differ." in said and "--deep" in said and "replay" in said and "k5" not in said
    found = _verify(own, "--deep", differing=6)
    assert _counts(found) == {
        "totals": (0, 1, 1),
        "windows": (1, 0, 0),
        "dead_letters": (0, 0, 1),
        "dedupe": (0, 0, 1),
        "offsets": (0, 0, 1),
    }
    changed, extra = _samples(found, "totals")
    [value] = changed["changes"]
    assert (changed["kind"], changed["key"]) == ("changed", {"key": "k5"})
    assert int(value["tables"]) == int(value["log"]) + 1_000_000
    assert value["delta"] == "-1000000"
    from_log = own.query("select partition, min(min_offset), max(max_offset) from counters.windows where key = 'k5' group by 1")
    assert [(one["partition"], one["minOffset"], one["maxOffset"]) for one in changed["evidence"]] == from_log
    assert (extra["kind"], extra["key"], extra["evidence"]) == ("extra", {"key": "nobody"}, [])
    [missing] = _samples(found, "windows")
    assert (missing["kind"], missing["key"]["key"]) == ("missing", key)
    [one] = missing["evidence"]
    assert f"({one['partition']},{one['minOffset']},{one['maxOffset']})" == offsets
    assert "k5" in command(own, "verify", "counters", "--deep", code=1)
    assert command(own, "verify", "counters", "--deep", "--csv", code=1).startswith(
        "table,kind,key,column,tables,log,delta,evidence\n"
    )

    command(own, "replay", "counters")
    _verify(own, "2")
    command(own, "promote", "counters", "--accept-diff")
    _verify(own)
    _verify(own, "1", differing=6)
    command(own, "drop", "counters", "1")
    assert api.get("/counters/nobody").status_code == 404
    own.assert_equals_log("counters")


def test_damage_of_every_sort_is_named_and_ends_nothing(own: Tidemark) -> None:
    """An instant beyond the calendar ended the program; headers were not looked at."""
    own.start_consumer()
    fill(own, 100)
    own.log.put("tidemark.counters", b"poison", b"poison", headers=[("name", b"value")])
    own.settle("counters")
    own.postgres.execute(
        "update counters.totals set updated_at = '12022-09-12' where key = 'k1';"
        "update counters.totals set updated_at = 'infinity' where key = 'k2';"
        "update counters.totals set updated_at = '0044-03-15 BC' where key = 'k3';"
        "update counters.totals set value = 'NaN' where key = 'k4';"
        "update counters.totals set value = 1.50 where key = 'k5';"
        "update counters.totals set value = 1e60 where key = 'k6';"
        "update counters.dead_letters set header_names = '{}', header_values = '{}' where header_names <> '{}'",
        database=own.database,
    )
    found = _verify(own, "--deep", differing=7)
    assert _counts(found) == {"totals": (0, 0, 6), "dead_letters": (0, 0, 1)}
    changes = {one["key"]["key"]: one["changes"][0]["tables"] for one in _samples(found, "totals")}
    assert changes["k2"] == "infinity" and changes["k4"] == "NaN" and changes["k5"] == "1.50"
    assert _samples(found, "dead_letters")[0]["changes"][0]["column"] == "headers"

    own.postgres.execute("delete from counters.offsets where partition = 2", database=own.database)
    assert "partition 2 has no row" in command(own, "verify", "counters", code=3)
    own.postgres.execute("delete from counters.offsets", database=own.database)
    assert "partition 0 has no row" in command(own, "verify", "counters", code=3)


def test_a_vehicle_that_was_changed_by_hand_is_found(own: Tidemark) -> None:
    own.start_consumer()
    api = own.start_api()
    for vehicle, state in ((7, "quoted"), (7, "selling"), (8, "sold")):
        api.put(f"/vehicles/{vehicle}", {"make": "VW", "model": "GOLF"})
        api.post(f"/vehicles/{vehicle}/states", {"state": state})
    own.settle("vehicles")
    _verify(own, stream="vehicles")
    own.postgres.execute(
        "update vehicles.vehicles set state = 'sold' where id = 7;"
        "delete from vehicles.history where vehicle_id = 8 and kind = 'state_changed';"
        "update vehicles.transitions set count = count + 2 where state = 'selling'",
        database=own.database,
    )
    found = _verify(own, "--deep", stream="vehicles", differing=3)
    assert _counts(found) == {"vehicles": (0, 0, 1), "history": (1, 0, 0), "transitions": (0, 0, 1)}
    [vehicle] = _samples(found, "vehicles")
    assert vehicle["key"] == {"id": "7"}
    assert [(one["column"], one["tables"], one["log"]) for one in vehicle["changes"]] == [("state", "sold", "selling")]


def test_the_tables_are_verified_while_they_move(own: Tidemark) -> None:
    own.start_consumer(flush_interval="50ms")
    other = own.start_consumer(1, flush_interval="50ms")
    api = own.start_api()
    fill(own)
    load = Load(own, [api], connections=4, rate=300)
    try:
        vectors = []
        for _ in range(5):
            load.wait_acked(50)
            vectors.append(sum(_verify(own)["vector"]))
        other.kill()
        vectors.append(sum(_verify(own)["vector"]))
    finally:
        load.stop()
    assert vectors == sorted(vectors) and vectors[0] < vectors[-2], "the tables did not move"
    own.assert_equals_log("counters")
    _verify(own)


def test_what_does_not_fit_into_memory_is_verified_in_passes(own: Tidemark) -> None:
    own.start_consumer()
    own.log.put_all("tidemark.counters", [increment(f"key {n}", n) for n in range(4_000)])
    own.settle("counters")
    own.postgres.execute("delete from counters.totals where key in ('key 1', 'key 2', 'key 3', 'key 4', 'key 5')", database=own.database)
    whole = _verify(own, "--deep", differing=5)
    shares = _verify(own, "--deep", "--memory", "1MiB", differing=5)
    assert shares == whole
    own.postgres.execute("truncate counters.totals, counters.windows", database=own.database)
    lost = _verify(own, "--deep", "--memory", "1MiB", differing=8_000)
    assert _counts(lost) == {"totals": (4_000, 0, 0), "windows": (4_000, 0, 0)}
    assert [one["key"] for one in _samples(whole, "totals")] == [{"key": f"key {n}"} for n in (5, 4, 3, 2, 1)]


def test_a_log_of_more_records_than_are_taken_at_once_is_verified_whole(own: Tidemark) -> None:
    """One record in ten thousand was left out."""
    own.start_consumer()
    own.log.put_all("tidemark.counters", [increment("many", 1)] * 25_000)
    own.settle("counters")
    _verify(own)


def test_no_snapshot_is_held_while_the_log_is_read(own: Tidemark) -> None:
    consumer = own.start_consumer()
    own.log.put_all("tidemark.counters", [increment(f"k{n % 97}", 1) for n in range(100_000)])
    own.settle("counters")
    consumer.terminate()
    session = "from pg_stat_activity where application_name = 'tidemark-consumer verify' and datname = current_database()"
    observer = psycopg2.connect(own.dsn)
    observer.autocommit = True
    verify = own.start_command("verify", "counters")
    try:
        with observer.cursor() as cursor, psycopg2.connect(own.dsn) as blocker, blocker.cursor() as block:

            def sees(sql: str) -> bool:
                cursor.execute(sql + session)
                return cursor.fetchone() not in (None, (False,))

            wait_for(lambda: sees("select true "), "its session", 30)
            own.kafka.nodes[0].send(signal.SIGSTOP)
            try:
                wait_for(lambda: sees("select clock_timestamp() - state_change > '1s' "), "it to wait for the log", 20)
                assert sees("select state = 'idle' and backend_xmin is null and backend_xid is null ")
                assert verify.poll() is None
                block.execute("lock table counters.totals in access exclusive mode")
            finally:
                own.kafka.nodes[0].send(signal.SIGCONT)
            wait_for(lambda: sees("select state = 'active' and backend_xmin is not null "), "it to compare rows", 30)
        said, errors = verify.communicate(timeout=30)
    finally:
        verify.kill()
        observer.close()
    assert verify.returncode == 0, said + errors


def test_verify_needs_the_whole_log_and_its_own_fold(own: Tidemark) -> None:
    own.start_consumer()
    fill(own, 500)
    own.settle("counters")
    assert "fingerprint" in command(own, "verify", "counters", program="consumer-next", code=3)
    assert "no generation 7" in command(own, "verify", "counters", "7", code=3)
    assert "there is no stream nothing" in command(own, "verify", "nothing", code=3)
    delete_records(own, "tidemark.counters", 0, before=5)
    assert "starts at 5" in command(own, "verify", "counters", code=3)


def test_generations_may_be_swapped_while_they_are_verified(own: Tidemark) -> None:
    own.start_consumer()
    fill(own, 20_000)
    own.settle("counters")
    command(own, "replay", "counters")
    ended = threading.Event()
    outcomes: list[tuple[int, str]] = []

    def verify() -> None:
        while not ended.is_set():
            done = own.run("consumer", "verify", "counters", "1")
            outcomes.append((done.returncode, done.stdout + done.stderr))

    thread = threading.Thread(target=verify)
    thread.start()
    try:
        for _ in range(5):
            command(own, "promote", "counters")
            command(own, "rollback", "counters")
    finally:
        ended.set()
        thread.join()
    assert outcomes
    for code, text in outcomes:
        assert code == 0 or (code == 3 and "verify it again" in text), text
    _verify(own, "1")
    _verify(own, "2")
