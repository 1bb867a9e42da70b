"""What happens to a COMMIT that has been sent: the consumer dies, the backend dies, or the wire is cut on the way back.

A deferred constraint trigger makes the commit of a flush take long enough to meet it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import pytest

from stack.process import wait_for
from support.proxy import Proxy
from support.tidemark import Running, Tidemark
from support.trial import MakeTrial

# Long against the time it takes to notice; short against the flush's own statement time-out of 2 s.
_commit_takes = 1.2


@pytest.fixture(scope="module")
def proxy(tidemark: Tidemark) -> Iterator[Proxy]:
    with Proxy(tidemark.postgres.port) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def consumer(tidemark: Tidemark, proxy: Proxy) -> Running:
    """Its connections to the database go through the proxy."""
    dsn = tidemark.postgres.dsn("tidemark_consumer", tidemark.database)
    return tidemark.start_consumer(0, consumer_dsn=dsn.replace(f":{tidemark.postgres.port}/", f":{proxy.port}/"))


@contextlib.contextmanager
def _slow_commits(tidemark: Tidemark) -> Iterator[None]:
    """While inside, a flush of counters takes long in its COMMIT, after all its statements have been answered."""
    tidemark.query(
        "create function counters.linger() returns trigger language plpgsql as"
        f" $$ begin perform pg_sleep({_commit_takes}); return null; end $$"
    )
    tidemark.query(
        "create constraint trigger linger after update on counters.offsets deferrable initially deferred"
        # Once a flush, not once a row; and not for the flushes that only move the as-of instant.
        " for each row when (old.applied <> new.applied and new.partition = 0) execute function counters.linger()"
    )
    try:
        yield
    finally:
        tidemark.query("drop function counters.linger() cascade")


def _committing(tidemark: Tidemark) -> int | None:
    """The backend that is in the COMMIT of a flush."""
    rows = tidemark.query(
        "select pid from pg_stat_activity"
        " where datname = %s and wait_event = 'PgSleep' and upper(query) like '%%COMMIT%%'",
        tidemark.database,
    )
    return rows[0][0] if rows else None


def _wait_committing(tidemark: Tidemark) -> int:
    found: list[int] = []

    def look() -> bool:
        backend = _committing(tidemark)
        found.extend([backend] if backend is not None else [])
        return bool(found)

    wait_for(look, "a flush to be in its COMMIT", 20)
    return found[0]


def _in_doubt(consumer: Running) -> float:
    return consumer.metric("tidemark_flushes_total", stream="counters", outcome="in_doubt")


def test_a_consumer_killed_while_its_commit_is_under_way(
    tidemark: Tidemark, apis: list[Running], consumer: Running, trial: MakeTrial, seed: int
) -> None:
    """The backend finishes the commit alone, after its client is gone."""
    with trial(tidemark, apis, "consumer kill in COMMIT", seed=seed) as run:
        with _slow_commits(tidemark):
            _wait_committing(tidemark)
            before = sum(tidemark.vector("counters").values())
            consumer.kill()
            killed = time.monotonic()
            wait_for(lambda: sum(tidemark.vector("counters").values()) > before, "the backend to commit alone", 10)
            run.saw("committed without its client")
        consumer.start(ready=False)
        run.hold(killed)


def test_a_backend_ended_while_committing_has_not_committed(
    tidemark: Tidemark, apis: list[Running], consumer: Running, trial: MakeTrial, seed: int
) -> None:
    before = _in_doubt(consumer)
    with trial(tidemark, apis, "backend ended in COMMIT", seed=seed) as run:
        with _slow_commits(tidemark):
            backend = _wait_committing(tidemark)
            vector = tidemark.vector("counters")
            assert tidemark.query("select pg_terminate_backend(%s)", backend) == [(True,)]
            ended = time.monotonic()
            wait_for(lambda: _in_doubt(consumer) > before, "the consumer to be in doubt", 10)
            assert tidemark.vector("counters") == vector, "something was committed"
        run.saw(f"in doubt {_in_doubt(consumer) - before:.0f}")
        run.hold(ended)
    outcomes = [line["as"] for line in consumer.events("commit_resolved")]
    assert "not_committed" in outcomes, outcomes


def test_a_commit_whose_answer_is_lost_has_committed(
    tidemark: Tidemark, apis: list[Running], consumer: Running, proxy: Proxy, trial: MakeTrial, seed: int
) -> None:
    before = _in_doubt(consumer)
    with trial(tidemark, apis, "COMMIT's answer lost", seed=seed) as run:
        with _slow_commits(tidemark):
            _wait_committing(tidemark)
            vector = tidemark.vector("counters")
            proxy.mute()
            wait_for(lambda: tidemark.vector("counters") != vector, "the commit to be done", 10)
            assert _in_doubt(consumer) == before, "the consumer knows already"
            cut = time.monotonic()
            proxy.cut()
            wait_for(lambda: _in_doubt(consumer) > before, "the consumer to be in doubt", 10)
        run.saw(f"in doubt {_in_doubt(consumer) - before:.0f}")
        run.hold(cut)
    outcomes = [line["as"] for line in consumer.events("commit_resolved")]
    assert "committed" in outcomes, outcomes


def test_a_wire_cut_while_the_commit_is_under_way_is_resolved_by_reading(
    tidemark: Tidemark, apis: list[Running], consumer: Running, proxy: Proxy, trial: MakeTrial, seed: int
) -> None:
    """The consumer reads the offsets back before the old backend is done: that answer must not count as "not committed"
    for good."""
    before = _in_doubt(consumer)
    with trial(tidemark, apis, "wire cut in COMMIT", seed=seed) as run:
        with _slow_commits(tidemark):
            _wait_committing(tidemark)
            proxy.cut()
            cut = time.monotonic()
            wait_for(lambda: _in_doubt(consumer) > before, "the consumer to be in doubt", 10)
        run.saw(f"in doubt {_in_doubt(consumer) - before:.0f}")
        run.hold(cut)
