"""kill -9 of the broker, of the database, and of everything at once, under load."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections.abc import Callable, Iterator

import pytest

from stack.process import wait_for
from support.answers import problem
from support.tidemark import Running, Tidemark
from support.trial import MakeTrial


@pytest.fixture(scope="module")
def tidemark(make_tidemark: Callable[..., Tidemark]) -> Tidemark:
    """With a database server that may be killed."""
    return make_tidemark(own_postgres=True)


@pytest.fixture(autouse=True)
def _servers_back(tidemark: Tidemark, _revive: None) -> Iterator[None]:
    yield
    for process in tidemark.kafka.nodes:
        process.send(signal.SIGCONT)
    tidemark.kafka.start()
    tidemark.postgres.start()


def _flushes(consumer: Running, outcome: str) -> float:
    return consumer.metric("tidemark_flushes_total", outcome=outcome)


@pytest.mark.parametrize("down", [0, 5, pytest.param(30, marks=pytest.mark.long)])
def test_the_broker_killed_and_started_again(
    tidemark: Tidemark, apis: list[Running], consumer: Running, trial: MakeTrial, down: int, seed: int
) -> None:
    with trial(tidemark, apis, f"broker killed, {down} s down", seed=seed) as run:
        tidemark.kafka.kill()
        killed = time.monotonic()
        run.saw("broker dead")
        wait_for(lambda: run.plain.progress["refused"] > 0, "writes to be refused", 20)
        wait_for(lambda: time.monotonic() - killed >= down, "the broker to have been down long enough", down + 1)
        tidemark.kafka.start()
        started = time.monotonic()
        run.wait_served()
        run.saw(f"first acks {time.monotonic() - started:.1f} s after it was back")
        run.hold(killed)
    assert all(each.alive for each in (*apis, consumer))


def test_the_database_killed_and_started_again(
    tidemark: Tidemark, apis: list[Running], consumer: Running, trial: MakeTrial, seed: int
) -> None:
    failed = _flushes(consumer, "failed") + _flushes(consumer, "in_doubt")
    with trial(tidemark, apis, "Postgres killed", seed=seed) as run:
        tidemark.postgres.kill()
        killed = time.monotonic()
        wait_for(lambda: _flushes(consumer, "failed") + _flushes(consumer, "in_doubt") > failed, "a flush to fail", 20)
        run.saw("flushes failed")
        # Writes need no database; readiness and reads say what is missing.
        run.plain.wait_acked(100)
        wait_for(lambda: apis[1].get("/readyz").status_code == 503, "the API to be not ready", 10)
        assert "postgres" in problem(apis[1].get("/readyz"), 503, "not_ready")["detail"]
        assert "database" in consumer.get("/readyz").json()["detail"]
        answer = apis[1].get("/counters/any")
        assert (answer.status_code, "Retry-After" in answer.headers) == (503, True)
        assert apis[1].get("/health").status_code == apis[1].get("/livez").status_code == 200
        tidemark.postgres.start()
        run.hold(killed)
        for program in (*apis, consumer):
            program.wait_ready()


def test_every_backend_killed_and_the_server_recovering_by_itself(
    tidemark: Tidemark, apis: list[Running], consumer: Running, trial: MakeTrial, seed: int
) -> None:
    with trial(tidemark, apis, "Postgres backend killed", seed=seed) as run:
        [(backend,)] = tidemark.query(
            "select pid from pg_stat_activity where application_name = 'tidemark-consumer counters' limit 1"
        )
        killed = time.monotonic()
        # One such death makes the postmaster end all sessions and recover from its log.
        os.kill(backend, signal.SIGKILL)
        wait_for(lambda: backend not in tidemark.postgres.backends(), "the backend to be gone")
        run.saw("backend dead")

        def recovered() -> bool:
            with contextlib.suppress(Exception):
                return bool(tidemark.query("select 1"))
            return False

        wait_for(recovered, "the server to recover", 30)
        run.hold(killed)


def test_sessions_terminated_one_after_the_other(
    tidemark: Tidemark, apis: list[Running], consumer: Running, trial: MakeTrial, seed: int
) -> None:
    random_ = random.Random(seed)
    with trial(tidemark, apis, "sessions terminated", seed=seed) as run:
        ended = 0
        began = time.monotonic()
        while ended < 12:
            rows = tidemark.query("select pid from pg_stat_activity where application_name like 'tidemark-%%'")
            if rows and tidemark.query("select pg_terminate_backend(%s)", random_.choice(rows)[0]) == [(True,)]:
                ended += 1
            acked = run.plain.progress["acked"]
            wait_for(lambda acked=acked: run.plain.progress["acked"] > acked + 20, "the load to go on")
        run.saw(f"{ended} sessions ended")
        run.hold(began)


def test_everything_killed_at_once(
    tidemark: Tidemark, apis: list[Running], consumer: Running, trial: MakeTrial, seed: int
) -> None:
    with trial(tidemark, apis, "everything killed", seed=seed) as run:
        for process in (*apis, consumer, tidemark.kafka, tidemark.postgres):
            process.kill()
        killed = time.monotonic()
        run.saw("all dead")
        tidemark.postgres.start()
        tidemark.kafka.start()
        for program in (consumer, *apis):
            program.start(ready=False)
        run.wait_served()
        run.hold(killed)
        for program in (consumer, *apis):
            program.wait_ready()


@pytest.mark.parametrize("seconds", [8, pytest.param(30, marks=pytest.mark.long)])
def test_an_api_stopped_for_longer_than_its_deadlines(
    tidemark: Tidemark, apis: list[Running], consumer: Running, trial: MakeTrial, seconds: int, seed: int
) -> None:
    """What it was doing when it was stopped is answered as unknown, or truly acknowledged, when it goes on."""
    with trial(tidemark, apis, f"API stopped {seconds} s", seed=seed, timeout=60_000) as run:
        apis[0].freeze()
        stopped = time.monotonic()
        run.saw("stopped")
        wait_for(lambda: time.monotonic() - stopped > seconds, "the stop to be over", seconds + 1)
        apis[0].thaw()
        run.wait_served()
        run.hold(stopped)
