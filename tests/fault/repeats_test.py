"""What stands in the log already comes once more: written again by its producer, or read again by a consumer whose offset was set back."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from support.operating import command, increment, totals
from support.tidemark import Tidemark

_count = 2_000


@pytest.fixture
def own(make_tidemark: Callable[..., Tidemark]) -> Iterator[Tidemark]:
    """Migrated; nothing runs in it yet."""
    tidemark = make_tidemark()
    yield tidemark
    tidemark.end()


def _state(tidemark: Tidemark) -> dict[str, list[tuple[object, ...]]]:
    return {
        table: tidemark.query(f"select * from counters.{table} order by 1, 2")
        for table in ("totals", "windows", "dedupe", "dead_letters")
    }


def _duplicates(tidemark: Tidemark) -> int:
    return int(tidemark.query("select sum(duplicates) from counters.offsets")[0][0])


def test_what_a_producer_writes_again_and_a_consumer_reads_again_is_dropped_and_counted(own: Tidemark) -> None:
    consumer = own.start_consumer()
    keyed = [increment(f"k{n % 53}", 1 + n % 7, idempotencykey=f"id-{n}") for n in range(_count)]
    own.log.put_all("tidemark.counters", keyed)
    own.settle("counters")
    once = _state(own)
    assert sum(totals(own).values()) == sum(1 + n % 7 for n in range(_count))
    assert _duplicates(own) == 0

    own.log.put_all("tidemark.counters", keyed)
    own.settle("counters")
    assert _state(own) == once
    assert _duplicates(own) == _count
    own.assert_equals_log("counters")

    # The whole log once more, from behind the record that says which log it is; under the running consumer, too.
    for stop in (True, False):
        before = _duplicates(own)
        if stop:
            consumer.terminate()
        own.query("update counters.offsets set next_offset = 1")
        if stop:
            consumer.start()
        own.settle("counters")
        assert _state(own) == once
        assert _duplicates(own) == before + 2 * _count

    # What it counted twice it says: a generation of its own tells, and mends it.
    assert "duplicates" in command(own, "verify", "counters", "--deep", code=1)
    command(own, "replay", "counters")
    command(own, "promote", "counters", "--accept-diff")
    command(own, "verify", "counters")
    assert _state(own)["totals"] == once["totals"]
    assert _duplicates(own) == _count
