"""The reference fold judges the consumer, so it is held to the documents' own examples first."""

from __future__ import annotations

import json
from typing import Any

import pytest

from support.fold import (
    DAY,
    HOUR,
    INCREMENTED,
    REGISTERED,
    SECOND,
    STATE_CHANGED,
    Counters,
    Record,
    Vehicles,
    murmur2_partition,
    parse_instant,
)

_created = b'{"specversion":"1.0","id":"0","source":"/log","type":"tidemark.log.created.v1","data":{"uuid":"u"}}'
_now = 1_700_000_000 * SECOND


def _increment(key: str = "k", value: Any = 1, **attributes: Any) -> bytes:
    event = {"specversion": "1.0", "id": "1", "source": "s", "type": INCREMENTED}
    return json.dumps({**event, **attributes, "data": {"key": key, "value": value}}).encode()


def _counters(*records: tuple[bytes | None, bytes | None], at: list[int] | None = None) -> Counters:
    """Folds records of one partition, all appended at `_now` or at the given instants."""
    times = at or [_now] * len(records)
    log = [Record(0, 0, times[0], None, _created)]
    log += [Record(0, offset, times[offset - 1], *record) for offset, record in enumerate(records, start=1)]
    fold = Counters()
    fold.fold(log, {0: len(log)})
    return fold


@pytest.mark.parametrize(
    ("key", "hash"),
    [
        (b"21", -973932308),
        (b"foobar", -790332482),
        (b"a-little-bit-long-string", -985981536),
        (b"a-little-bit-longer-string", -1486304829),
        (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
        (b"abc", 479470107),
    ],
)
def test_keys_go_where_kafkas_own_test_vectors_say(key: bytes, hash: int) -> None:
    assert murmur2_partition(key, 12) == (hash & 0x7FFFFFFF) % 12


@pytest.mark.parametrize(
    ("text", "micros"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("1970-01-01 00:00:01.5+00", 1_500_000),
        ("1970-01-01t02:00:00.000001234+02:00", 1),
        ("1969-12-31T23:59:59-0000", -1_000_000),
        ("0001-01-01T00:00:00Z", -62_135_596_800_000_000),
        ("0001-01-01T00:00:00+01:00", None),
        ("2022-02-30T00:00:00Z", None),
        ("2022-01-01T24:00:00Z", None),
        ("2022-01-01T00:00:60Z", None),
        ("2022-01-01T00:00:00", None),
        ("2022-01-01T00:00:00.1234567890Z", None),
        ("last christmas", None),
    ],
)
def test_an_instant_is_read_as_the_contract_says(text: str, micros: int | None) -> None:
    assert parse_instant(text) == micros


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        (b"k", None, "tombstone"),
        (b"k", b"", "malformed"),
        (b"k", b"\xff", "malformed"),
        (b"k", b"[" * 200_000, "malformed"),
        (b"k", b"[]", "malformed"),
        (b"k", _increment() + b"x", "malformed"),
        (b"k", _increment().replace(b'"id"', b'"specversion"'), "malformed"),
        (b"k", _increment(specversion="0.3"), "malformed"),
        (b"k", _increment(time="yesterday"), "malformed"),
        (b"k", _increment(data_base64="AA=="), "malformed"),
        (b"k", _increment(extension={"a": 1}), "malformed"),
        (b"k", _increment(value=10**20), "malformed"),
        (b"k", _increment(type=REGISTERED), "unknown_type"),
        (b"k", _increment(value="1"), "invalid_data"),
        (b"k", _increment(value=1.5), "invalid_data"),
        (b"k", _increment(value=2**53), "invalid_data"),
        (b"k", _increment(key=""), "invalid_data"),
        (b"k", _increment(key="k" * 257), "invalid_data"),
        (None, _increment(), "key_mismatch"),
        (b"other", _increment(), "key_mismatch"),
        (b"k", _created, "unexpected_identity"),
        (b"k", _increment(time="2033-01-01T00:00:00Z"), "from_the_future"),
    ],
)
def test_what_cannot_be_applied_is_parked_with_its_reason(key: bytes | None, value: bytes | None, reason: str) -> None:
    fold = _counters((b"k", _increment(value=3)), (key, value), (b"k", _increment(value=4)))

    assert fold.dead_letters == {(0, 2): reason}
    assert fold.totals == {"k": [7, 2, _now]}
    assert (fold.partitions[0].applied, fold.partitions[0].parked) == (3, 1)


def test_a_repeat_within_a_day_of_log_time_is_dropped_and_counts_again_later() -> None:
    event = _increment(idempotencykey="i")

    fold = _counters(*[(b"k", event)] * 4, at=[_now, _now + DAY, _now + DAY + 1, _now + DAY + 1 + DAY])

    assert fold.totals["k"][:2] == [2, 2]
    assert fold.partitions[0].duplicates == 2


def test_a_repeat_with_other_data_is_a_conflict_and_the_first_wins() -> None:
    fold = _counters((b"k", _increment(value=1, idempotencykey="i")), (b"k", _increment(value=2, idempotencykey="i")))

    assert fold.totals["k"][0] == 1
    assert fold.dead_letters == {(0, 2): "idempotency_conflict"}


def test_an_event_without_an_identity_is_never_a_repeat() -> None:
    assert _counters(*[(b"k", _increment())] * 3).totals["k"][0] == 3


def test_log_time_never_steps_back() -> None:
    fold = _counters(*[(b"k", _increment())] * 2, at=[_now, _now - HOUR])

    assert fold.partitions[0].log_time == _now
    assert fold.totals["k"][2] == _now


def test_a_deduplicated_event_counts_only_in_the_partition_of_its_key() -> None:
    wrong = 1 - murmur2_partition(b"k", 2)
    log = [Record(number, 0, _now, None, _created) for number in (0, 1)]
    log += [Record(wrong, 1, _now, b"k", _increment()), Record(wrong, 2, _now, b"k", _increment(idempotencykey="i"))]
    fold = Counters()

    fold.fold(log, {0: 3 if wrong == 0 else 1, 1: 3 if wrong == 1 else 1})

    assert fold.totals["k"][0] == 1
    assert fold.dead_letters == {(wrong, 2): "wrong_partition"}


def test_an_imported_line_counts_once_in_its_partition_for_ever() -> None:
    line = b"f" * 22 + b":%d"
    headers = [line % 2, line % 1, line % 2, b"g" * 22 + b":2", line % 8193, line % 1, b"f" * 22 + b":02", b"f:1", b""]
    log = [Record(0, 0, _now, None, _created), Record(1, 0, _now, None, _created)]
    log += [
        Record(0, offset, _now + offset * 2 * DAY, b"k", _increment(), (("import", header),))
        for offset, header in enumerate(headers, start=1)
    ]
    log.append(Record(1, 1, _now, b"k", _increment(), (("import", line % 1),)))
    twice = (("import", line % 9), ("import", b"the last one counts"))
    log.append(Record(1, 2, _now, b"k", None, (("import", line % 9),)))
    log.append(Record(1, 3, _now, b"k", b"{", (("import", line % 9),)))
    log.append(Record(1, 4, _now, b"k", b"{", (("import", line % 9),)))
    log.append(Record(1, 5, _now, b"k", b"{", twice))
    fold = Counters()
    fold.fold(log, {0: len(headers) + 1, 1: 6})
    assert fold.partitions[0].duplicates == 2 and fold.partitions[0].applied == 8
    assert fold.partitions[1].duplicates == 1 and fold.partitions[1].applied == 2
    assert fold.dead_letters == {(1, 2): "tombstone", (1, 3): "malformed", (1, 5): "malformed"}
    file = "f" * 22
    assert fold.imports == {
        (0, file, 0): b"\x03",
        (0, file, 1): b"\x01",
        (0, "g" * 22, 0): b"\x02",
        (1, file, 0): b"\x01\x01",
    }


def test_offsets_that_hold_no_record_are_gaps() -> None:
    fold = Counters()

    fold.fold([Record(0, 0, _now, None, _created), Record(0, 5, _now, b"k", _increment())], {0: 9})

    assert (fold.partitions[0].applied, fold.partitions[0].gaps) == (2, 7)


def test_windows_are_ten_seconds_half_open_and_by_event_time() -> None:
    events = [_increment(time=f"2023-01-01T00:00:{second}Z") for second in ("10", "19.999999", "20", "05")]

    fold = _counters(*[(b"k", event) for event in events])

    ten = parse_instant("2023-01-01T00:00:10Z")
    assert ten is not None
    assert fold.windows[("k", ten, 0)] == [2, 2, 1, 2]
    assert sorted(fold.windows) == [("k", ten + step * SECOND, 0) for step in (-10, 0, 10)]


def test_a_vehicles_state_is_the_newest_by_event_time_whatever_the_order_of_arrival() -> None:
    log = [Record(0, 0, _now, None, _created)]
    for offset, (day, state) in enumerate([(12, "sold"), (10, "quoted"), (11, "selling"), (11, "quoted")], start=1):
        event: dict[str, Any] = {"specversion": "1.0", "id": str(offset), "source": "s", "type": STATE_CHANGED}
        event |= {"time": f"2022-09-{day}T00:00:00Z", "data": {"id": 7, "state": state}}
        log.append(Record(0, offset, _now, b"7", json.dumps(event).encode()))
    fold = Vehicles()

    fold.fold(log, {0: len(log)})

    def at(text: str) -> str | None:
        instant = parse_instant(text)
        assert instant is not None
        return fold.state_at(7, instant)

    assert fold.current()[7][4] == "sold"
    assert at("2022-09-09T23:59:59Z") is None
    assert at("2022-09-10T00:00:00Z") == "quoted"
    assert at("2022-09-11T12:00:00Z") == "quoted", "a tie goes to the later record"
    assert at("2022-09-12T00:00:00Z") == "sold"
