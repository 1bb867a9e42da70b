"""A consumer whose loop hangs ends itself, so that another takes over."""

from __future__ import annotations

from collections.abc import Callable

from support.tidemark import Tidemark


def test_a_stream_that_makes_no_step_ends_the_process(make_tidemark: Callable[..., Tidemark]) -> None:
    tidemark = make_tidemark()
    consumer = tidemark.start_consumer(0, stuck_after="2s")
    api = tidemark.start_api()
    consumer.plan_fault("c3_begin=sleep:60000")
    answer = api.post("/increment", {"key": "stuck", "value": 1})
    assert answer.status_code == 202
    assert consumer.wait_end(20) == 1
    # Whichever flushes first meets the kill point: a flush without records, which only moves freshness on, does too.
    [stuck] = consumer.events("processor_stuck")
    assert stuck["stream"] in ("counters", "vehicles")
    consumer.plan_fault("")
    consumer.start()
    tidemark.assert_equals_log("counters")
    assert tidemark.query("select value from counters.totals where key = 'stuck'") == [(1,)]
