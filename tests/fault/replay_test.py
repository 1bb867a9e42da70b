"""A replay of partitions that take several flushes each: nothing that one has committed is done again."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator

import psycopg2
import pytest

from stack.process import wait_for
from support.operating import command, increment, is_stopped, orphans, roles
from support.tables import differences
from support.tidemark import Tidemark


@pytest.fixture(scope="module")
def deep(make_tidemark: Callable[..., Tidemark]) -> Iterator[Tidemark]:
    """Two partitions, each with more than the 32 MiB that make a flush; the live tables hold all of it."""
    tidemark = make_tidemark(partitions="2")
    for partition in range(2):
        records = [increment(f"k{n % 7}", n, padding="." * (256 << 10)) for n in range(160)]
        tidemark.log.put_all("tidemark.counters", records, partition=partition)
    tidemark.start_consumer()
    tidemark.settle("counters", 60)
    yield tidemark
    tidemark.end()


@pytest.fixture(autouse=True)
def _drop(deep: Tidemark) -> Iterator[None]:
    """What a test has made, whatever became of it."""
    yield
    for number, role in roles(deep).items():
        if role != "live":
            command(deep, "drop", "counters", str(number))
    assert not orphans(deep)


def _agree(tidemark: Tidemark, number: int) -> None:
    """The candidate with the live one, and with the independent fold of the log."""
    assert roles(tidemark)[number] == "candidate"
    assert json.loads(command(tidemark, "diff", "counters", "--json"))["differing"] == 0
    found = differences("counters", tidemark.log, tidemark.dsn, f"counters_{number}")
    assert not found, "\n".join(found)
    assert not orphans(tidemark)


@pytest.mark.parametrize("point", ["c2_folded", "c4_fenced", "c5_aggregates", "c6_commit", "c7_committed"])
def test_a_replay_that_is_killed_in_a_flush_goes_on_behind_the_ones_before(deep: Tidemark, point: str) -> None:
    # When two lanes get to a place before the commit for the third time, one of them has committed.
    passes = 2 if point == "c7_committed" else 3
    killed = deep.start_command("replay", "counters", fault=f"{point}=kill@{passes}")
    _, errors = killed.communicate(timeout=60)
    assert killed.returncode == -signal.SIGKILL, errors
    number = max(roles(deep))
    assert roles(deep)[number] == "building"
    kept = sum(at for (at,) in deep.query(f"select next_offset from counters_{number}.offsets"))
    everything = sum(deep.vector("counters").values())
    assert 0 < kept < everything

    said = json.loads(command(deep, "replay", "counters", "--json").splitlines()[-1])
    assert (said["generation"], said["records"]) == (number, everything)
    # What was being committed when it died may be in too.
    assert 0 < said["read"] <= everything - kept
    _agree(deep, number)


def test_partitions_are_replayed_side_by_side(deep: Tidemark) -> None:
    replay = deep.start_command("replay", "counters", fault="r1_created=stop")
    gate = psycopg2.connect(deep.dsn)
    try:
        wait_for(lambda: is_stopped(replay), "the generation to be made", 40)
        number = max(roles(deep))
        # No partition gets to its end before the others have moved.
        with gate.cursor() as cursor:
            cursor.execute("select pg_advisory_lock(1)")
        deep.query(
            f"create function counters_{number}.wait_at_the_end() returns trigger language plpgsql as $$ begin"
            " if new.next_offset >= (select next_offset from counters.offsets where partition = new.partition)"
            " then perform pg_advisory_xact_lock_shared(1); end if; return new; end $$;"
            f"create trigger wait_at_the_end before update on counters_{number}.offsets"
            f" for each row execute function counters_{number}.wait_at_the_end()"
        )
        replay.send_signal(signal.SIGCONT)
        ends = deep.vector("counters")

        def are_on_their_way() -> bool:
            rows = deep.query(f"select partition, next_offset from counters_{number}.offsets")
            return all(0 < at < ends[partition] for partition, at in rows)

        wait_for(are_on_their_way, "every partition to have moved, and none to be at its end", 60)
        gate.close()
        said, errors = replay.communicate(timeout=60)
    finally:
        gate.close()
        replay.kill()
    assert replay.returncode == 0, said + errors
    _agree(deep, number)
