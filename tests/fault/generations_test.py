"""Generations are rebuilt and swapped while the programs that fold them, and the database under them, die."""

from __future__ import annotations

import concurrent.futures
import json
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from stack.process import wait_for
from support.answers import token
from support.fold import INCREMENTED
from support.load import Load
from support.operating import command, is_stopped
from support.staleness import Staleness
from support.tidemark import Running, Tidemark
from support.trial import MakeTrial


@pytest.fixture
def own(make_tidemark: Callable[..., Tidemark]) -> Iterator[Tidemark]:
    """Migrated, with a database server of its own, and a counter that a thousand records have made."""
    tidemark = make_tidemark(own_postgres=True)
    event = {"specversion": "1.0", "id": "1", "source": "/t", "type": INCREMENTED, "data": {"key": "k", "value": 1}}
    tidemark.log.put_all("tidemark.counters", [(b"k", json.dumps(event).encode())] * 1000)
    yield tidemark
    tidemark.end()


def _roles(tidemark: Tidemark) -> dict[int, str]:
    return dict(tidemark.query("select generation, status from tidemark.generations where stream = 'counters'"))


def test_a_replay_outlives_a_restart_of_the_database_server(own: Tidemark) -> None:
    own.start_consumer()
    own.settle("counters")
    replay = own.start_command("replay", "counters", fault="r2_folding=stop")
    try:
        wait_for(lambda: is_stopped(replay), "the replay to be stopped", 20)
        own.postgres.kill()
        replay.send_signal(signal.SIGCONT)
        # Several looks at a server that is not there.
        own.log.put("tidemark.counters", b"poison", b"poison")
        with pytest.raises(Exception, match="timed out"):
            replay.communicate(timeout=2)
        own.postgres.start()
        said, errors = replay.communicate(timeout=60)
    finally:
        replay.kill()
    assert replay.returncode == 0, said + errors
    command(own, "diff", "counters")


def test_a_replay_ends_although_readers_have_the_live_tables_flushed_all_the_time(own: Tidemark) -> None:
    own.start_consumer()
    apis = [own.start_api()]
    own.settle("counters")
    load = Load(own, apis, keys=20, prefix="ends-", rate=300, connections=4)
    ended = threading.Event()

    def read_own() -> int:
        reads = 0
        while not ended.is_set():
            stored = token(apis[0].post("/increment", {"key": "own", "value": 1}))
            reads += apis[0].get(f"/counters/own?at_least={stored}").ok
        return reads

    with concurrent.futures.ThreadPoolExecutor(1) as threads:
        try:
            load.wait_acked(100)
            reader = threads.submit(read_own)
            # One partition's flushes fall between the others'.
            replay = own.start_command("replay", "counters", fault="c4_fenced=sleep:500")
            try:
                said, errors = replay.communicate(timeout=30)
            finally:
                replay.kill()
        finally:
            ended.set()
            load.stop()
        assert reader.result(60) > 0
    assert replay.returncode == 0, said + errors
    command(own, "diff", "counters")


def test_a_promoter_that_is_stopped_in_the_swap_holds_up_writers_for_a_moment_only(own: Tidemark) -> None:
    own.start_consumer()
    api = own.start_api()
    own.settle("counters")
    command(own, "replay", "counters")
    promote = own.start_command("promote", "counters", fault="r3_swap=stop")
    try:
        wait_for(lambda: is_stopped(promote), "the promoter to be stopped", 30)
        stored = token(api.post("/increment", {"key": "k", "value": 1}))
        wait_for(lambda: api.get(f"/counters/k?at_least={stored}").status_code == 200, "the write to be read", 10)
        promote.send_signal(signal.SIGCONT)
        _, errors = promote.communicate(timeout=30)
    finally:
        promote.kill()
    assert promote.returncode == 1
    assert "before anything was changed" in errors
    assert _roles(own) == {1: "live", 2: "candidate"}
    command(own, "promote", "counters")
    own.assert_equals_log("counters")


def test_replayed_and_swapped_at_half_load_nothing_is_lost_late_or_refused(
    own: Tidemark, trial: MakeTrial, seed: int
) -> None:
    own.start_consumer(0)
    own.start_consumer(1)
    apis = [own.start_api(), own.start_api()]
    full = Load(own, apis, keys=5_000, prefix="full-", connections=16, requests=30_000).wait()
    assert full.acked == full.total == 30_000
    rate = full.acked / full.seconds / 2
    own.settle("counters", 60)

    with trial(own, apis, "replay and swaps at half load", seed=seed, rate=rate, keys=1_000) as run:
        began = time.monotonic()
        watch = Staleness(own, "counters")

        def rebuild_and_swap() -> list[str]:
            verbs = [("replay",), ("promote", "--accept-diff"), ("rollback",), ("promote", "--accept-diff")]
            return [command(own, verb, "counters", *more) for verb, *more in verbs]

        with concurrent.futures.ThreadPoolExecutor(1) as thread:
            operator = thread.submit(rebuild_and_swap)
            watch.watch(operator.done, 120)
            operator.result()
        assert _roles(own) == {1: "retired", 2: "live"}
        run.saw(f"{rate:.0f} events/s of {2 * rate:.0f}/s, at most {watch.worst:.1f} s behind")
        run.hold(began)
    # What a client may rely on, whatever an operator does.
    assert watch.worst < 10
    assert all(answers.acked == answers.total for answers in run.answers)
    command(own, "verify", "counters")


def _harm(own: Tidemark, one: Running, chance: random.Random, how: str) -> None:
    """Something that a consumer, or its sessions, has to get over."""
    if how == "freeze":
        one.freeze()
    elif how == "kill":
        one.kill()
    elif how == "sessions":
        own.query(
            "select pg_terminate_backend(pid) from pg_stat_activity"
            " where application_name like 'tidemark-consumer counters%%'"
        )
    else:
        point = chance.choice(["c1_polled", "c3_begin", "c4_fenced", "c6_commit", "c7_committed"])
        met = one.faults_fired().count(point)
        one.plan_fault(f"{point}=stop")
        wait_for(lambda: one.faults_fired().count(point) > met or not one.alive, f"a stop at {point}", 20)


def _mend(one: Running) -> None:
    one.plan_fault("")
    if one.alive:
        one.thaw()
    else:
        one.start(ready=False)


def test_whatever_happens_to_consumers_between_swaps_every_generation_equals_the_log(
    own: Tidemark, seed: int, pytestconfig: pytest.Config
) -> None:
    chance = random.Random(seed)
    consumers = [own.start_consumer(slot) for slot in range(2)]
    apis = [own.start_api()]
    own.settle("counters")
    for verb in ("replay", "promote", "replay"):
        command(own, verb, "counters")
    load = Load(own, apis, keys=20, prefix="chaos-", rate=300, connections=4)
    swaps, late, met = 0, 0, []
    until = time.monotonic() + (90 if pytestconfig.getoption("--long") else 20)
    try:
        load.wait_acked(100)
        while time.monotonic() < until:
            one = chance.choice(consumers)
            how = chance.choice(["freeze", "kill", "sessions", "point"])
            _harm(own, one, chance, how)
            met.append(how)
            verb = ["rollback"] if _roles(own)[2] == "live" else ["promote", "2", "--accept-diff"]
            done = own.run("consumer", verb[0], "counters", *verb[1:], "--timeout", "12s")
            # Nobody may have been there to bring the other one up to the live one.
            assert done.returncode in (0, 1), done.stderr
            swaps, late = swaps + (done.returncode == 0), late + (done.returncode == 1)
            _mend(one)
    finally:
        answers = load.stop()

    print(f"{swaps} swaps, {late} given up, between {', '.join(met)}; {answers.acked} events")
    assert swaps > 0
    assert answers.acked == answers.total
    own.assert_equals_log("counters", 60)
    for number, role in _roles(own).items():
        if role != "live":
            command(own, "diff", "counters", str(number), "--timeout", "60s")
