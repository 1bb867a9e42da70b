"""Each stream's tables are held against its log all the time, by one of the consumers."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from stack.process import wait_for
from support.load import Load
from support.operating import command, delete_records, fill, increment
from support.tidemark import Running, Tidemark

# Adding up the tables every minute would make a test wait.
_soon = {"audit_interval": "100ms"}


@pytest.fixture
def own(make_tidemark: Callable[..., Tidemark]) -> Iterator[Tidemark]:
    """Migrated; nothing runs in it yet."""
    tidemark = make_tidemark()
    yield tidemark
    tidemark.end()


def _audit(api: Running, stream: str = "counters") -> dict[str, Any]:
    answer = api.get("/audit")
    assert answer.status_code == 200, answer.text
    assert answer.headers["Cache-Control"] == "no-store"
    [found] = [one for one in answer.json()["streams"] if one["stream"] == stream]
    return dict(found)


def _await(api: Running, outcome: str, stream: str = "counters", **more: Any) -> dict[str, Any]:
    """Waits for an outcome with these members, "findings" for any."""

    def is_so() -> bool:
        found = _audit(api, stream)
        return found["outcome"] == outcome and all(found.get(name) == value for name, value in more.items())

    try:
        wait_for(is_so, f"the audit to be {outcome} {more}", 30)
    except BaseException:
        print(_audit(api, stream))
        raise
    return _audit(api, stream)


def _ends(tidemark: Tidemark, stream: str = "counters") -> list[int]:
    return [end for _, end in sorted(tidemark.log.ends(f"tidemark.{stream}").items())]


def _drive(tidemark: Tidemark, api: Running) -> None:
    """Vehicles whose names could be mistaken for something else."""
    for number, (make, model) in enumerate([("BMW", "X1"), ("a b", "7 c"), ("Škoda", "Octavia \u2603"), ("1 x", " ")], 1):
        assert api.put(f"/vehicles/{number}", {"make": make, "model": model}).status_code == 202
        for state in ("quoted", "selling"):
            assert api.post(f"/vehicles/{number}/states", {"state": state, "occurredAt": "1969-12-31T23:59:59.999999Z"})
    tidemark.settle("vehicles")


def test_an_audit_reaches_the_end_of_the_log_and_finds_it_equal(own: Tidemark) -> None:
    consumer = own.start_consumer(**_soon)
    api = own.start_api()
    fill(own)
    with own.log.open_transaction("tidemark.counters", *increment("in a transaction", 1)):
        pass
    fill(own, 100)
    _drive(own, api)
    own.settle("counters")
    for stream in ("counters", "vehicles"):
        found = _await(api, "equal", stream, nextOffsets=_ends(own, stream))
        assert (found["detail"], found["behind"], found["generation"]) == ("", 0, 1)
        assert found["auditor"].endswith("-0")
        [(folded, stored)] = own.query(f"select folded::text, stored::text from {stream}.audit")
        assert found["digest"] == folded == stored != "0"
        assert found["tablesComparedAt"] and found["logComparedAt"] and "findings" not in found
        assert consumer.metric("tidemark_audit_differs", stream=stream) == 0
        assert consumer.metric("tidemark_audit_behind_records", stream=stream) == 0


@pytest.mark.parametrize(
    ("stream", "harm", "said", "key"),
    [
        ("counters", "update counters.totals set value = value + 1 where key = 'k5'", "add up", {"key": "k5"}),
        ("counters", "delete from counters.totals where key = 'k5'", "add up", {"key": "k5"}),
        ("counters", "update counters.offsets set applied = applied - 1, gaps = gaps + 1 where partition = 2", "applied", {"partition": "2"}),
        ("counters", "update counters.offsets set digest = digest + 1 where partition = 1", "digest", {"partition": "1"}),
        ("vehicles", "update vehicles.history set state = 'sold' where vehicle_id = 2 and state = 'quoted'", "add up", {"vehicle_id": "2"}),
        ("vehicles", "update vehicles.history set occurred_at = 'infinity' where vehicle_id = 3 and kind = 'registered'", "add up", {"vehicle_id": "3"}),
        ("counters", "update counters.offsets set digest = 'NaN' where partition = 3", "digest NaN", {"partition": "3"}),
    ],
)  # fmt: skip
def test_what_was_changed_by_hand_is_found_named_and_mended(
    own: Tidemark, stream: str, harm: str, said: str, key: dict[str, str]
) -> None:
    consumer = own.start_consumer(**_soon)
    api = own.start_api()
    fill(own)
    _drive(own, api)
    own.settle(stream)
    _await(api, "equal", stream)
    own.postgres.execute(harm, database=own.database)
    _await(api, "differs", stream)
    wait_for(lambda: "findings" in _audit(api, stream), "the rows to be named", 30)
    found = _audit(api, stream)
    assert said in found["detail"]
    samples = [sample for table in found["findings"]["tables"] for sample in table["samples"]]
    assert any(sample["key"].items() >= key.items() and sample["evidence"] for sample in samples), samples
    assert consumer.metric("tidemark_audit_differs", stream=stream) == 1
    [event] = consumer.events("audit_differs")
    assert event["stream"] == stream and f"verify {stream} --deep" in event["hint"]
    findings = json.loads(own.run("consumer", "doctor", "--json").stdout)["findings"]
    assert [one["severity"] for one in findings if one["check"] == "audit"] == ["error"]

    command(own, "replay", stream)
    command(own, "promote", stream, "--accept-diff")
    found = _await(api, "equal", stream, generation=2)
    assert "findings" not in found
    wait_for(lambda: consumer.metric("tidemark_audit_differs", stream=stream) == 0, "the metric to say so", 10)


def test_another_consumer_goes_on_when_the_auditor_dies(own: Tidemark) -> None:
    first = own.start_consumer(0, **_soon)
    api = own.start_api()
    fill(own)
    before = _await(api, "equal")
    second = own.start_consumer(1, **_soon)
    first.kill()
    fill(own, 50)
    own.settle("counters")
    found = _await(api, "equal", nextOffsets=_ends(own))
    assert before["auditor"].endswith("-0") and found["auditor"].endswith("-1")
    assert second.alive


def test_no_audit_finds_a_difference_in_live_tables_under_load_and_swaps(own: Tidemark) -> None:
    consumer = own.start_consumer(**_soon)
    api = own.start_api()
    for stream in ("counters", "vehicles"):
        _await(api, "equal", stream)
    ended = threading.Event()
    outcomes: list[dict[str, Any]] = []

    def look() -> None:
        while not ended.wait(0.05):
            outcomes.extend(api.get("/audit").json()["streams"])

    thread = threading.Thread(target=look)
    thread.start()
    load = Load(own, [api], prefix="audited", keys=200, highest=100, rate=500, connections=4, seed=1, vehicles=20, vehicle_percent=20)
    try:
        load.wait_acked(100)
        command(own, "replay", "counters")
        for _ in range(3):
            command(own, "promote", "counters")
            command(own, "rollback", "counters")
        load.wait_acked(1_000)
        load.stop()
    finally:
        load.kill()
        ended.set()
        thread.join()
    own.settle("counters")
    _await(api, "equal", nextOffsets=_ends(own))
    # Right after a swap nobody has audited what is live now.
    assert {one["outcome"] for one in outcomes} <= {"equal", "reading", "unaudited"}
    assert not consumer.events("audit_interrupted")
    assert len({str(one.get("nextOffsets")) for one in outcomes}) > 5, "it did not follow"
    assert consumer.metric("tidemark_audit_records_total", stream="counters") == sum(_ends(own)), "it read some twice"


def test_an_audit_reads_each_byte_of_the_log_once(own: Tidemark) -> None:
    consumer = own.start_consumer(**_soon)
    api = own.start_api()

    def assert_read_once() -> None:
        own.settle("counters")
        _await(api, "equal", nextOffsets=_ends(own))
        records = own.log.read("tidemark.counters")
        assert consumer.metric("tidemark_audit_records_total", stream="counters") == len(records) == sum(_ends(own))
        size = sum(len(record.key or b"") + len(record.value or b"") for record in records)
        assert consumer.metric("tidemark_audit_bytes_total", stream="counters") == size

    for count in (3_000, 500, 1):
        fill(own, count)
        assert_read_once()
    command(own, "replay", "counters")
    for swap in ("promote", "rollback", "promote"):
        command(own, swap, "counters")
        fill(own, 200)
        assert_read_once()


def test_nobody_audits_when_told_not_to(own: Tidemark) -> None:
    own.start_consumer(audit_interval="0s")
    api = own.start_api()
    fill(own, 10)
    own.settle("counters")
    assert _audit(api) == {
        "stream": "counters",
        "generation": 1,
        "outcome": "unaudited",
        "detail": "no consumer audits these tables now",
    }


def test_a_log_whose_start_is_gone_cannot_be_audited(own: Tidemark) -> None:
    consumer = own.start_consumer(**_soon)
    api = own.start_api()
    fill(own, 500)
    own.settle("counters")
    _await(api, "equal", nextOffsets=_ends(own))
    delete_records(own, "tidemark.counters", 0, before=5)
    consumer.terminate()
    consumer.start()
    found = _await(api, "refused")
    assert "starts at 5" in found["detail"]
    _await(api, "equal", "vehicles")


def test_an_auditor_that_stands_still_is_relieved(own: Tidemark) -> None:
    first = own.start_consumer(0, **_soon)
    api = own.start_api()
    fill(own)
    _await(api, "equal")
    own.start_consumer(1, **_soon)
    first.freeze()
    try:
        fill(own, 50)
        own.settle("counters", 60)
        wait_for(lambda: _audit(api).get("auditor", "").endswith("-1"), "the other one to audit", 60)
        _await(api, "equal", nextOffsets=_ends(own))
    finally:
        first.thaw()
    wait_for(lambda: bool(first.events("audit_turn_lost")), "the first one to notice", 30)
    fill(own, 50)
    own.settle("counters")
    assert _await(api, "equal", nextOffsets=_ends(own))["auditor"].endswith("-1")


def test_a_difference_is_told_of_until_somebody_has_looked_again(own: Tidemark) -> None:
    consumer = own.start_consumer(**_soon)
    api = own.start_api()
    fill(own)
    own.settle("counters")
    _await(api, "equal", nextOffsets=_ends(own))
    own.query("update counters.offsets set parked = parked + 1, applied = applied - 1 where partition = 0")
    _await(api, "differs")
    wait_for(lambda: "findings" in _audit(api), "the rows to be named", 30)
    consumer.kill()
    consumer.start()
    outcomes = set()
    wait_for(
        lambda: outcomes.add(_audit(api)["outcome"]) or consumer.metric("tidemark_audit_differs", stream="counters") == 1,
        "the next one to find it",
        30,
    )
    assert outcomes <= {"unaudited", "differs"}
    own.query("update counters.offsets set parked = parked - 1, applied = applied + 1 where partition = 0")
    assert "findings" not in _await(api, "equal")


def test_records_that_the_database_takes_after_a_replay_are_no_difference(own: Tidemark) -> None:
    own.postgres.execute("alter table counters.totals add check (value < 1000)", database=own.database)
    own.start_consumer(**_soon)
    api = own.start_api()
    own.log.put_all("tidemark.counters", [increment("k", 400), increment("k", 5_000), increment("k", 500)])
    own.settle("counters")
    _await(api, "equal", nextOffsets=_ends(own))
    command(own, "replay", "counters")
    command(own, "promote", "counters", "--accept-diff")
    assert own.query("select value from counters.totals") == [(5_900,)]
    assert _await(api, "equal", generation=2, nextOffsets=_ends(own))["detail"] == ""


def test_what_an_audit_may_remember_is_bounded(own: Tidemark) -> None:
    own.start_consumer(audit_memory="1MiB", **_soon)
    api = own.start_api()
    own.log.put_all("tidemark.counters", [increment(f"k{n}", 1, idempotencykey=f"key-{n}") for n in range(5_000)])
    own.settle("counters")
    found = _await(api, "refused")
    assert "--audit-memory" in found["detail"]
    _await(api, "equal", "vehicles")
    findings = json.loads(own.run("consumer", "doctor", "--json").stdout)["findings"]
    [finding] = [one for one in findings if one["check"] == "audit"]
    assert finding["severity"] == "warning" and "--audit-memory" in finding["mend"]
