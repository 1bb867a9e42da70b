"""kill -9 at each place between a request and its row, under load; with --long also a stop of 15 s, and SIGTERM."""

from __future__ import annotations

import itertools
import random
import signal
import time

import pytest

from stack.process import wait_for
from support.operating import command, is_stopped, orphans, roles
from support.tidemark import Running, Tidemark
from support.trial import MakeTrial

_api_points = ("p1_request_parsed", "p2_before_produce", "p3_queued", "p4_acked")
_consumer_points = (
    *("c1_polled", "c2_folded", "c3_begin", "c4_fenced"),
    *("c5_aggregates", "c6_commit", "c7_committed", "c8_rebalance"),
)
_command_points = {"r1_created": "replay", "r2_folding": "replay", "r3_swap": "promote"}
_actions = [
    "kill",
    pytest.param("stop", marks=pytest.mark.long),
    pytest.param("term", marks=pytest.mark.long),
]

_slots = itertools.count(1)

# Longer than a session of the consumer group, as a machine's pause or a debugger would be.
_stopped = 15.0


def _meet(running: Running, point: str, action: str, passes: int) -> None:
    """Lets the program meet its fault, and returns when that is over and it may go on or be started again."""
    met = running.faults_fired().count(point)
    running.plan_fault(f"{point}={action}@{passes}")
    wait_for(lambda: running.faults_fired().count(point) > met, f"{running.name} to pass {point}", 40)
    if action == "kill":
        assert running.wait_end() == -signal.SIGKILL
    elif action == "term":
        assert running.wait_end() == 0
    else:
        time.sleep(_stopped)
        running.thaw()
    running.plan_fault("")


@pytest.mark.parametrize("action", _actions)
@pytest.mark.parametrize("point", _api_points)
def test_an_api_that_meets_its_end(
    tidemark: Tidemark, apis: list[Running], trial: MakeTrial, point: str, action: str, seed: int
) -> None:
    # A client that gave up on a stopped server would call it hung.
    patience = {"timeout": 45_000} if action == "stop" else {}
    with trial(tidemark, apis, f"API {action} at {point}", seed=seed, **patience) as run:
        _meet(apis[0], point, action, random.Random(seed).randrange(1, 200))
        ended = time.monotonic()
        run.saw(f"{action} at {point}")
        if action != "stop":
            apis[0].start()
        run.wait_served()
        run.hold(ended)


@pytest.mark.parametrize("action", _actions)
@pytest.mark.parametrize("point", _consumer_points)
def test_a_consumer_that_meets_its_end(
    tidemark: Tidemark, apis: list[Running], consumer: Running, trial: MakeTrial, point: str, action: str, seed: int
) -> None:
    random_ = random.Random(seed)
    # Each record passes C1; the others are passed once a flush, C8 once a rebalance.
    passes = {"c1_polled": random_.randrange(1, 400), "c8_rebalance": 1}.get(point, random_.randrange(1, 4))
    other: Running | None = None
    with trial(tidemark, apis, f"consumer {action} at {point}", seed=seed) as run:
        if point == "c8_rebalance":
            consumer.plan_fault(f"{point}={action}")
            # One that was there a moment ago would be the same member, back without a rebalance.
            other = tidemark.start_consumer(next(_slots), ready=False)
        _meet(consumer, point, action, passes)
        ended = time.monotonic()
        run.saw(f"{action} at {point}")
        if action != "stop":
            consumer.start(ready=False)
        run.hold(ended)
    if other is not None:
        assert other.terminate() == 0
    consumer.wait_ready()


@pytest.mark.parametrize("action", _actions)
@pytest.mark.parametrize("point", _command_points)
def test_a_command_that_meets_its_end(
    tidemark: Tidemark, apis: list[Running], consumer: Running, trial: MakeTrial, point: str, action: str, seed: int
) -> None:
    verb = _command_points[point]
    with trial(tidemark, apis, f"{verb} {action} at {point}", seed=seed) as run:
        if verb == "promote":
            command(tidemark, "replay", "counters")
        before = roles(tidemark)
        started = tidemark.start_command(verb, "counters", fault=f"{point}={action}")
        try:
            if action == "stop":
                wait_for(lambda: is_stopped(started), f"{verb} to be stopped", 40)
                time.sleep(_stopped)
                run.wait_served()
                started.send_signal(signal.SIGCONT)
            said, errors = started.communicate(timeout=60)
        finally:
            started.kill()
        ended = time.monotonic()
        run.saw(f"{action} at {point}")
        assert (started.returncode == -signal.SIGKILL) == (action == "kill"), said + errors
        # All of it or nothing, and it has said which.
        done, after = started.returncode == 0, roles(tidemark)
        number = max(after)
        if verb == "promote":
            assert after == ({**dict.fromkeys(before, "retired"), number: "live"} if done else before), said + errors
        else:
            assert after == before | {number: "candidate" if done else "building"}, said + errors
        assert not orphans(tidemark)
        if not done:
            command(tidemark, verb, "counters")
        run.hold(ended)
    assert roles(tidemark)[number] == ("live" if verb == "promote" else "candidate")
    command(tidemark, "diff", "counters")
    for other, role in roles(tidemark).items():
        if role != "live":
            command(tidemark, "drop", "counters", str(other))
    assert not orphans(tidemark)
