"""Consumers that come and go, programs told to stop, and a foreign transaction on the topic, under load."""

from __future__ import annotations

import random
import time

from stack.process import wait_for
from support.answers import token
from support.fold import murmur2_partition
from support.staleness import Staleness
from support.tidemark import Running, Tidemark
from support.trial import MakeTrial


def _owned(running: Running) -> float:
    return running.metric("tidemark_partitions_owned", stream="counters")


def test_consumers_joining_and_leaving(
    tidemark: Tidemark, apis: list[Running], consumer: Running, trial: MakeTrial, seed: int
) -> None:
    random_ = random.Random(seed)
    with trial(tidemark, apis, "consumers joining and leaving", seed=seed) as run:
        began = time.monotonic()
        first = tidemark.start_consumer(1)
        wait_for(lambda: _owned(consumer) == _owned(first) == 2, "two to share the partitions", 40)
        second = tidemark.start_consumer(2)
        wait_for(lambda: all(_owned(each) >= 1 for each in (consumer, first, second)), "three to share them", 40)
        run.saw(f"{sum(_owned(each) for each in (consumer, first, second)):.0f} partitions over three")
        leaver, other = random_.sample([first, second], 2)
        assert leaver.terminate() == 0
        other.kill()
        wait_for(lambda: _owned(consumer) == 4, "the one left to own all", 60)
        run.saw(f"rebalances {consumer.metric('tidemark_rebalances_total', stream='counters'):.0f}")
        run.hold(began)


def test_programs_told_to_stop_under_load(
    tidemark: Tidemark, apis: list[Running], consumer: Running, trial: MakeTrial, seed: int
) -> None:
    with trial(tidemark, apis, "SIGTERM to each program", seed=seed) as run:
        began = time.monotonic()
        assert consumer.terminate() == 0
        run.saw(f"consumer drained in {time.monotonic() - began:.1f} s")
        consumer.start(ready=False)
        for api in apis:
            since = time.monotonic()
            assert api.terminate() == 0
            run.saw(f"{api.name} in {time.monotonic() - since:.1f} s")
            api.start()
            run.wait_served()
        run.hold(began)
    # A drain answers what it has taken: nothing is left in the dark.
    assert run.answers[0].unknown == run.answers[0].closed, run.answers[0]


def test_a_foreign_transaction_left_open_hides_nothing(
    tidemark: Tidemark, apis: list[Running], consumer: Running, trial: MakeTrial, seed: int
) -> None:
    key = b"in a transaction"
    event = (
        b'{"specversion":"1.0","id":"1","source":"s","type":"tidemark.counter.incremented.v1",'
        b'"data":{"key":"in a transaction","value":1}}'
    )
    with trial(tidemark, apis, "foreign transaction open", seed=seed) as run:
        with tidemark.log.open_transaction("tidemark.counters", key, event) as position:
            began = time.monotonic()
            neighbour = next(
                name
                for n in range(1000)
                if murmur2_partition((name := f"behind-{seed}-{n}").encode(), 4) == position.partition
            )
            written = token(apis[0].post("/increment", {"key": neighbour, "value": 1}))
            for api in apis:
                answer = api.get(f"/counters/{neighbour}?at_least={written}")
                assert (answer.status_code, answer.json()["value"]) == (200, 1)
                assert api.get(f"/counters/{neighbour}", headers={"Cache-Control": "no-cache"}).status_code == 200
            watch = Staleness(tidemark, "counters")
            watch.watch(lambda: time.monotonic() - began > 3, 30)
            run.saw(f"transaction open for {time.monotonic() - began:.1f} s, at most {watch.worst:.1f} s behind")
            run.hold(began)
        # Its end is a marker: an offset without a record.
    gaps = tidemark.query("select sum(gaps) from counters.offsets")[0][0]
    assert gaps >= 1
