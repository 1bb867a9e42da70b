"""The tables are never more than ten seconds behind, also while a consumer dies."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from stack.process import wait_for
from support.answers import token
from support.load import Load
from support.staleness import Staleness
from support.tidemark import Running, Tidemark


@pytest.fixture(scope="module")
def pair(make_tidemark: Callable[..., Tidemark]) -> tuple[Tidemark, Running, Running, Running]:
    """A Tidemark with two consumers and an API; the broker's group settings are its defaults."""
    tidemark = make_tidemark()
    consumers = tidemark.start_consumer(0), tidemark.start_consumer(1)
    api = tidemark.start_api()
    for consumer in consumers:
        consumer.wait_ready()
    return tidemark, *consumers, api


def test_a_survivor_takes_over_from_a_killed_consumer_within_ten_seconds(
    pair: tuple[Tidemark, Running, Running, Running],
) -> None:
    tidemark, survivor, victim, api = pair
    load = Load(tidemark, [api], keys=40, prefix="takeover-", rate=400, connections=4)
    watch = Staleness(tidemark, "counters")
    try:
        load.wait_acked(400)
        watch.watch(lambda: victim.metric("tidemark_partitions_owned", stream="counters") > 0, 30)
        before = watch.worst
        victim.kill()
        killed = time.monotonic()
        watch.watch(lambda: time.monotonic() - killed > 9, 60)
    finally:
        answers = load.stop()

    print(f"at most {before:.1f} s behind before, {watch.worst:.1f} s after the kill")
    assert answers.acked == answers.total
    assert watch.worst < 10
    assert survivor.metric("tidemark_partitions_owned", stream="counters") == 4
    tidemark.assert_equals_log("counters")


def test_a_consumer_that_is_back_within_five_seconds_keeps_the_promise_alone(
    pair: tuple[Tidemark, Running, Running, Running],
) -> None:
    tidemark, alone, _, api = pair
    load = Load(tidemark, [api], keys=40, prefix="restart-", rate=400, connections=4)
    watch = Staleness(tidemark, "counters")
    try:
        load.wait_acked(400)
        alone.kill()
        killed = time.monotonic()
        while time.monotonic() - killed < 4.5:
            watch.sample()
            time.sleep(0.1)
        alone.start(ready=False)
        watch.watch(lambda: time.monotonic() - killed > 10, 60)
    finally:
        answers = load.stop()

    print(f"at most {watch.worst:.1f} s behind with a kill and a restart 4.5 s later")
    assert answers.acked == answers.total
    assert watch.worst < 10
    tidemark.assert_equals_log("counters")


def test_while_nobody_folds_the_answers_say_how_old_they_are_and_the_cache_is_left_out(
    pair: tuple[Tidemark, Running, Running, Running],
) -> None:
    _, alone, _, api = pair
    token(api.put("/vehicles/1", {"make": "BMW", "model": "X1"}))
    known = token(api.post("/vehicles/1/states", {"state": "sold", "occurredAt": "2022-09-10T00:00:00Z"}))
    target = "/vehicles/1/timestamp/2022-09-11T00:00:00Z"
    assert api.get(f"{target}?at_least={known}").status_code == 200
    assert api.get(target).json()["fromCache"]
    alone.wait_ready()
    alone.terminate()

    def lag() -> float:
        return {each["name"]: each["lagSeconds"] for each in api.get("/status").json()["streams"]}["vehicles"]

    wait_for(lambda: lag() > 11, "the tables to lag", 30, pause=0.2)
    assert api.metric("tidemark_stream_lag_seconds", stream="vehicles") > 11
    assert any("vehicles" in reason for reason in api.get("/status").json()["degraded"])
    answers = [api.get(target) for _ in range(2)]
    assert [answer.json()["fromCache"] for answer in answers] == [False, False]
    assert all(int(answer.headers["Age"]) > 10 for answer in answers)

    alone.start()
    wait_for(lambda: lag() < 5, "the tables to catch up", 30)
    api.get(target)
    assert api.get(target).json()["fromCache"]
