"""Many increments at once on the same keys; by default a fraction of the contract's million, with --long all of it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from stack.process import wait_for
from support.load import Answers, Load
from support.tidemark import Running, Tidemark


@pytest.fixture(scope="module")
def share(pytestconfig: pytest.Config) -> float:
    """Of the contract's numbers."""
    return 1 if pytestconfig.getoption("--long") else 0.05


def _run(loads: list[Load]) -> list[Answers]:
    try:
        return [load.wait() for load in loads]
    finally:
        for load in loads:
            load.kill()


def _acked_all(answers: list[Answers], requests: int) -> None:
    for answer in answers:
        assert (answer.acked, answer.odd) == (requests, 0), answer.first_odd
    took = max(answer.seconds for answer in answers)
    print(f"{sum(answer.acked for answer in answers)} acked in {took:.1f} s")


@pytest.mark.timeout(1800)
def test_as_many_up_as_down_at_once_are_zero(tidemark: Tidemark, api: Running, share: float) -> None:
    count = round(1_000_000 * share)
    plans = {"connections": 32, "requests": count, "prefix": "up-and-down"}

    _acked_all(
        _run([Load(tidemark, [api], lowest=step, highest=step, **plans) for step in (1, -1)]),
        count,
    )

    tidemark.settle("counters", 300)
    assert tidemark.query("select value::bigint, count from counters.totals where key = 'up-and-down'") == [
        (0, 2 * count)
    ]


@pytest.mark.timeout(1800)
def test_four_clients_over_two_instances_count_exactly(
    tidemark: Tidemark, api: Running, other_api: Running, share: float
) -> None:
    count = round(250_000 * share)
    plans = {"connections": 16, "requests": count, "prefix": "four-clients"}

    _acked_all(_run([Load(tidemark, [instance], **plans) for instance in (api, other_api) * 2]), count)

    tidemark.settle("counters", 300)
    rows = tidemark.query("select value::bigint, count from counters.totals where key = 'four-clients'")
    assert rows == [(4 * count, 4 * count)]


def test_a_retried_key_counts_once_whatever_instance_it_is_retried_on(
    tidemark: Tidemark, api: Running, other_api: Running
) -> None:
    """Two clients send the same 2,000 requests with the same keys, each to both instances in another order."""
    plans = {"connections": 8, "requests": 2_000, "keys": 5, "prefix": "same-", "highest": 9, "seed": 4, "retry": True}
    first = Load(tidemark, [api, other_api], **plans)
    second = Load(tidemark, [other_api, api], **plans, run=first.run)

    answers = _run([first, second])

    _acked_all(answers, 2_000)
    tidemark.settle("counters")
    rows = tidemark.query("select key, value::bigint, count from counters.totals where key like 'same-%%'")
    expected = {key: sums["acked"] for key, sums in answers[0].entities.items()}
    assert {f"counters/{key}": (count, value) for key, value, count in rows} == expected


def test_a_flush_writes_a_row_for_each_key_and_window_however_many_events(
    make_tidemark: Callable[..., Tidemark],
) -> None:
    tidemark = make_tidemark()
    consumer = tidemark.start_consumer(flush_interval="3s", flush_records="1000000")
    keys, each = [f"row-{number}".encode() for number in range(10)], 5_000
    # One event time, so that there is one window.
    event = (
        b'{"specversion":"1.0","id":"1","source":"s","type":"tidemark.counter.incremented.v1",'
        b'"time":"2022-01-01T00:00:00Z","data":{"key":"%s","value":1}}'
    )
    consumer.freeze()
    tidemark.log.put_all("tidemark.counters", [(key, event % key) for key in keys] * each)
    consumer.thaw()
    tidemark.settle("counters")

    rows = tidemark.query("select key, value::bigint, count from counters.totals order by key")
    assert rows == [(key.decode(), each, each) for key in keys]
    wait_for(
        lambda: sum(line["records"] for line in consumer.events("flushed") if line["stream"] == "counters") >= 50_000,
        "the flushes to be logged",
    )
    flushes = [line for line in consumer.events("flushed") if line["stream"] == "counters" and line["records"] > 4]
    print([(line["records"], line["keys"], line["rows"], line["ms"]) for line in flushes])
    assert max(line["records"] for line in flushes) > 10 * len(keys), "no flush held many events of one key"
    for line in flushes:
        # A total and a window of each key.
        assert line["rows"] == 2 * line["keys"] <= 2 * len(keys)
    tidemark.end()
