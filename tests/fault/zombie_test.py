"""An owner that is stopped past its session, while another consumer takes its partitions over, and then goes on."""

from __future__ import annotations

import time

import psycopg2
import pytest

from stack.process import wait_for
from support.tidemark import Running, Tidemark
from support.trial import MakeTrial


@pytest.fixture(scope="module")
def heir(tidemark: Tidemark, consumer: Running) -> Running:
    """The one that takes over."""
    heir = tidemark.start_consumer(1)
    return heir


def _owned(running: Running) -> float:
    return running.metric("tidemark_partitions_owned", stream="counters")


def _refused(zombie: Running) -> float:
    """How often it was kept from writing: fenced, or told in time that it owns nothing."""
    return zombie.metric("tidemark_flushes_total", stream="counters", outcome="fenced") + zombie.metric(
        "tidemark_rebalances_total", stream="counters", kind="lost"
    )


# At both points the zombie is inside its transaction: it has moved the fence and holds the rows' locks.
@pytest.mark.parametrize("point", ["c1_polled", "c2_folded", "c5_aggregates", "c6_commit"])
def test_a_stopped_owner_does_not_write_after_it_was_replaced(
    tidemark: Tidemark, apis: list[Running], consumer: Running, heir: Running, trial: MakeTrial, point: str, seed: int
) -> None:
    zombie = consumer
    with trial(tidemark, apis, f"zombie stopped at {point}", seed=seed, rate=300) as run:
        wait_for(lambda: _owned(zombie) > 0 and _owned(heir) > 0, "both to own something", 30)
        refused, terminated = _refused(zombie), len(heir.events("previous_owner_terminated"))
        met = zombie.faults_fired().count(point)
        zombie.plan_fault(f"{point}=stop@{100 if point == 'c1_polled' else 2}")
        wait_for(lambda: zombie.faults_fired().count(point) > met, "the zombie to stop", 30)
        stopped = time.monotonic()
        zombie.plan_fault("")

        wait_for(lambda: _owned(heir) == 4, "the heir to own everything", 40)
        run.hold(stopped)
        run.saw(f"taken over after {time.monotonic() - stopped:.1f} s")
        if point in ("c2_folded", "c5_aggregates", "c6_commit"):
            # Whichever of its streams it was stopped in, its session holds locks there; the heir ends it.
            run.saw(f"old sessions ended: {len(heir.events('previous_owner_terminated')) - terminated}")
        zombie.thaw()
        wait_for(lambda: _refused(zombie) > refused, "the zombie to be refused", 30)
        run.saw(f"refused {_refused(zombie) - refused:.0f}")
        run.wait_served()
        wait_for(lambda: _owned(zombie) > 0, "the zombie to be a member again", 40)
    assert zombie.alive and heir.alive


def test_a_session_that_still_holds_a_dead_owners_rows_is_ended_by_the_next(
    tidemark: Tidemark, apis: list[Running], consumer: Running, heir: Running, trial: MakeTrial, seed: int
) -> None:
    """A stopped process's session mostly ends by its own time-out before anyone takes over. This one would not: it is
    kept in its transaction by the test, in the name of an owner that is gone."""
    with trial(tidemark, apis, "locks left by a dead owner", seed=seed, rate=300) as run:
        heir.terminate()
        wait_for(lambda: _owned(consumer) == 4, "one consumer to own everything", 40)
        consumer.kill()
        killed = time.monotonic()
        session = psycopg2.connect(tidemark.postgres.dsn("tidemark_consumer", tidemark.database))
        try:
            with session.cursor() as cursor:
                for stream in ("counters", "vehicles"):
                    cursor.execute(
                        f"update {stream}.offsets set backend_pid = pg_backend_pid(), backend_start ="
                        " (select backend_start from pg_stat_activity where pid = pg_backend_pid())"
                    )
                session.commit()
                for stream in ("counters", "vehicles"):
                    cursor.execute(f"update {stream}.offsets set owner = owner")
            consumer.start(ready=False)
            run.hold(killed)
            ended = consumer.events("previous_owner_terminated")
            assert ended, "the locks went away by themselves"
            run.saw(f"old sessions ended: {sum(line['sessions'] for line in ended)}")
            with pytest.raises(psycopg2.OperationalError), session.cursor() as cursor:
                cursor.execute("select 1")
        finally:
            session.close()
        heir.start(ready=False)
