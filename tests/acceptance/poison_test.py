"""Records that cannot be applied, put straight onto the topics: each is parked whole with its reason, its neighbours
count, and the partition goes on."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from stack.process import wait_for
from support.answers import token
from support.fold import MAX_INTEGER, murmur2_partition
from support.log import Position
from support.tidemark import Running, Tidemark

_incremented = "tidemark.counter.incremented.v1"


def _event(kind: str, data: Any, **attributes: Any) -> bytes:
    return json.dumps(
        {"specversion": "1.0", "id": "1", "source": "s", "type": kind, **attributes, "data": data}
    ).encode()


def _increment(key: str, value: Any = 1, **attributes: Any) -> bytes:
    return _event(_incremented, {"key": key, "value": value}, **attributes)


def _ahead(hours: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + hours * 3600))


_created = b'{"specversion":"1.0","id":"0","source":"/log","type":"tidemark.log.created.v1","data":{"uuid":"%s"}}'

# Name, record key, value, reason.
_counters: list[tuple[str, bytes | None, bytes | None, str]] = [
    ("bad JSON", b"p", b'{"specversion":"1.0",', "malformed"),
    ("no JSON", b"p", b"\x00\x01\x02\xff", "malformed"),
    ("empty", b"p", b"", "malformed"),
    ("tombstone", b"p", None, "tombstone"),
    ("an array", b"p", b"[1,2,3]", "malformed"),
    ("a megabyte", b"p", b'{"a":"' + b"x" * 1_000_000 + b'"}', "malformed"),
    ("200,000 brackets", b"p", b"[" * 200_000, "malformed"),
    ("a killer", b"p", b'{"a":1.' + b"0" * 400 + b"1e-2147483639}", "malformed"),
    (
        "a killer as value",
        b"p",
        _increment("p", 0).replace(b" 0}", b" 1." + b"0" * 400 + b"1e-2147483639}"),
        "malformed",
    ),
    ("a member twice", b"p", _increment("p").replace(b'"id"', b'"source"'), "malformed"),
    ("another specversion", b"p", _increment("p", specversion="0.3"), "malformed"),
    ("no type", b"p", _increment("p").replace(b'"type"', b'"kind"'), "malformed"),
    ("a time that is none", b"p", _increment("p", time="yesterday"), "malformed"),
    ("base64", b"p", _increment("p", data_base64="AA=="), "malformed"),
    ("a content type that is no JSON", b"p", _increment("p", datacontenttype="text/xml"), "malformed"),
    ("NUL in the key", b"p\0q", _increment("p\0q"), "malformed"),
    ("half a surrogate pair", b"p", _increment("p").replace(b'"p"', b'"\\ud800"'), "malformed"),
    ("broken UTF-8", b"\xff", _increment("p").replace(b'"p"', b'"\xff"'), "malformed"),
    ("unknown type", b"p", _event("tidemark.counter.decremented.v1", {"key": "p", "value": 1}), "unknown_type"),
    (
        "another stream's type",
        b"1",
        _event("tidemark.vehicle.registered.v1", {"id": 1, "make": "a", "model": "b"}),
        "unknown_type",
    ),
    (
        "no data",
        b"p",
        b'{"specversion":"1.0","id":"1","source":"s","type":"%s"}' % _incremented.encode(),
        "invalid_data",
    ),
    ("no value", b"p", _event(_incremented, {"key": "p"}), "invalid_data"),
    ("a text for value", b"p", _increment("p", "1"), "invalid_data"),
    ("a fraction", b"p", _increment("p", 1.5), "invalid_data"),
    ("an exponent", b"p", _increment("p", 0).replace(b" 0}", b" 1e3}"), "invalid_data"),
    ("2^53", b"p", _increment("p", 2**53), "invalid_data"),
    ("-2^53", b"p", _increment("p", -(2**53)), "invalid_data"),
    ("2^63", b"p", _increment("p", 2**63), "invalid_data"),
    ("-2^63", b"p", _increment("p", -(2**63)), "invalid_data"),
    ("empty key", b"", _increment(""), "invalid_data"),
    ("key of 257 bytes", b"k" * 257, _increment("k" * 257), "invalid_data"),
    ("key of 10,000 bytes", b"k" * 10_000, _increment("k" * 10_000), "invalid_data"),
    ("no record key", None, _increment("p"), "key_mismatch"),
    ("another record key", b"q", _increment("p"), "key_mismatch"),
    ("a record key of other bytes", "e\u0301".encode(), _increment("é"), "key_mismatch"),
    ("two hours ahead", b"p", _increment("p", time=_ahead(2)), "from_the_future"),
    ("a stranger's log.created", b"p", _created % b"another", "unexpected_identity"),
]


def _vehicles(partition: int, partitions: int) -> list[tuple[str, bytes | None, bytes | None, str]]:
    """Those that only a stream with an order knows; the entities are chosen by where they belong."""
    ids = (
        number for number in range(70_000, 80_000) if murmur2_partition(str(number).encode(), partitions) == partition
    )
    home = next(ids)
    stranger = next(n for n in range(70_000, 80_000) if murmur2_partition(str(n).encode(), partitions) != partition)
    changed, registered = "tidemark.vehicle.state_changed.v1", "tidemark.vehicle.registered.v1"
    key = str(home).encode()
    return [
        ("another state", key, _event(changed, {"id": home, "state": "broken"}), "invalid_data"),
        ("no make", key, _event(registered, {"id": home, "model": "m"}), "invalid_data"),
        ("a make of 129 bytes", key, _event(registered, {"id": home, "make": "m" * 129, "model": "m"}), "invalid_data"),
        ("id 0", b"0", _event(changed, {"id": 0, "state": "sold"}), "invalid_data"),
        ("id 2^53", str(2**53).encode(), _event(changed, {"id": 2**53, "state": "sold"}), "invalid_data"),
        ("a text for id", key, _event(changed, {"id": str(home), "state": "sold"}), "invalid_data"),
        (
            "a leading zero in the record key",
            b"0" + key,
            _event(changed, {"id": home, "state": "sold"}),
            "key_mismatch",
        ),
        (
            "another partition",
            str(stranger).encode(),
            _event(changed, {"id": stranger, "state": "sold"}),
            "wrong_partition",
        ),
        ("two hours ahead", key, _event(changed, {"id": home, "state": "sold"}, time=_ahead(2)), "from_the_future"),
        ("an increment", b"p", _increment("p"), "unknown_type"),
        ("tombstone", key, None, "tombstone"),
        ("bad JSON", key, b"{", "malformed"),
    ]


def _letters(tidemark: Tidemark, stream: str, placed: list[Position]) -> dict[Position, tuple[Any, ...]]:
    rows = tidemark.query(
        'select partition, "offset", reason, key, value, topic, attempts, status, detail,'
        f" header_names, header_values from {stream}.dead_letters where partition = any(%s)",
        sorted({position.partition for position in placed}),
    )
    return {Position(row[0], row[1]): row[2:] for row in rows}


def _bytes(value: memoryview | None) -> bytes | None:
    return None if value is None else bytes(value)


def test_every_kind_of_poison_is_parked_with_its_reason_and_its_neighbours_count(
    tidemark: Tidemark, consumer: Running
) -> None:
    topic, neighbour = "tidemark.counters", "neighbour of poison"
    partition = murmur2_partition(neighbour.encode(), len(tidemark.log.ends(topic)))
    before = {
        reason: consumer.metric("tidemark_dead_letters_total", stream="counters", reason=reason)
        for reason in {reason for _, _, _, reason in _counters}
    }
    records: list[tuple[bytes | None, bytes | None]] = [(neighbour.encode(), _increment(neighbour))]
    for _, key, value, _ in _counters:
        records += [(key, value), (neighbour.encode(), _increment(neighbour))]
    headers = [("twice", b"1"), ("twice", b"\xff\x00"), ("empty", b"")]

    began = time.monotonic()
    placed = tidemark.log.put_all(topic, records, partition=partition, headers=headers)
    tidemark.settle("counters")
    print(f"{len(_counters)} poison records among {len(records)} were applied in {time.monotonic() - began:.1f} s")

    letters = _letters(tidemark, "counters", placed)
    for (name, key, value, reason), position in zip(_counters, placed[1::2], strict=True):
        assert position in letters, f"{name} is not parked"
        found = letters[position]
        assert (found[0], _bytes(found[1]), _bytes(found[2])) == (reason, key, value), name
        assert found[3:6] == (topic, 1, "open"), name
        assert found[6], f"{name} has no detail"
        assert [(bytes(n), bytes(v)) for n, v in zip(found[7], found[8], strict=True)] == [
            (n.encode(), v) for n, v in headers
        ], name
    assert not {position for position in placed[0::2] if position in letters}, "a good neighbour is parked"
    count = len(_counters) + 1
    assert tidemark.query("select value::bigint, count from counters.totals where key = %s", neighbour) == [
        (count, count)
    ]
    tidemark.assert_equals_log("counters")
    for reason, count_before in before.items():
        grown = sum(1 for each in _counters if each[3] == reason)
        wait_for(
            lambda reason=reason, wanted=count_before + grown: (
                consumer.metric("tidemark_dead_letters_total", stream="counters", reason=reason) == wanted
            ),
            f"{grown} more dead letters of {reason} in the metrics",
        )


def test_poison_among_vehicles_is_parked_and_their_order_kept(tidemark: Tidemark, consumer: Running) -> None:
    topic, partition = "tidemark.vehicles", 1
    poison = _vehicles(partition, len(tidemark.log.ends(topic)))
    good = json.loads(poison[0][2] or b"")["data"]["id"]
    states = ("quoted", "selling", "sold")
    records: list[tuple[bytes | None, bytes | None]] = []
    for number, (_, key, value, _) in enumerate(poison):
        changed = _event(
            "tidemark.vehicle.state_changed.v1",
            {"id": good, "state": states[number % 3]},
            time=f"2022-01-01T00:00:{number:02}Z",
        )
        records += [(str(good).encode(), changed), (key, value)]

    placed = tidemark.log.put_all(topic, records, partition=partition)
    tidemark.settle("vehicles")

    letters = _letters(tidemark, "vehicles", placed)
    found = {
        name: letters[place][0] for (name, _, _, _), place in zip(poison, placed[1::2], strict=True) if place in letters
    }
    assert found == {name: reason for name, _, _, reason in poison}
    assert not {position for position in placed[0::2] if position in letters}
    rows = tidemark.query("select state from vehicles.vehicles where id = %s", good)
    assert rows == [(states[(len(poison) - 1) % 3],)]
    tidemark.assert_equals_log("vehicles")


def test_an_event_with_an_identity_counts_only_at_home(tidemark: Tidemark, consumer: Running) -> None:
    topic, key = "tidemark.counters", b"homebody"
    partitions = len(tidemark.log.ends(topic))
    home = murmur2_partition(key, partitions)
    away = (home + 1) % partitions

    plain = tidemark.log.put(topic, key, _increment("homebody"), partition=away)
    keyed_away = tidemark.log.put(topic, key, _increment("homebody", idempotencykey="home"), partition=away)
    keyed_home = tidemark.log.put(topic, key, _increment("homebody", idempotencykey="home"), partition=home)
    tidemark.settle("counters")

    letters = _letters(tidemark, "counters", [plain, keyed_away, keyed_home])
    assert [place in letters for place in (plain, keyed_away, keyed_home)] == [False, True, False]
    assert letters[keyed_away][0] == "wrong_partition"
    assert tidemark.query("select value::bigint from counters.totals where key = 'homebody'") == [(2,)]


def test_a_parked_event_leaves_no_identity_behind(tidemark: Tidemark, consumer: Running) -> None:
    key = "second try"
    bad = _increment(key, 2**53, idempotencykey="again")
    good = _increment(key, 5, idempotencykey="again")

    tidemark.log.put_all("tidemark.counters", [(key.encode(), bad), (key.encode(), good)])
    tidemark.settle("counters")

    assert tidemark.query("select value::bigint from counters.totals where key = %s", key) == [(5,)]


@pytest.mark.parametrize("value", [MAX_INTEGER, -MAX_INTEGER, 0])
def test_the_edges_of_a_value_count(tidemark: Tidemark, consumer: Running, value: int) -> None:
    key = f"edge {value}"
    tidemark.log.put_all("tidemark.counters", [(key.encode(), _increment(key, value))] * 2)
    tidemark.settle("counters")

    assert tidemark.query("select value::bigint, count from counters.totals where key = %s", key) == [(2 * value, 2)]


def test_a_foreign_event_without_a_time_happens_when_it_is_appended(tidemark: Tidemark, consumer: Running) -> None:
    position = tidemark.log.put("tidemark.counters", b"timeless", _increment("timeless", colour="red", when=None))
    tidemark.settle("counters")

    [record] = [
        record
        for record in tidemark.log.read("tidemark.counters")
        if (record.partition, record.offset) == (position.partition, position.offset)
    ]
    start = tidemark.query(
        "select (extract(epoch from window_start) * 1000000)::bigint from counters.windows where key = 'timeless'"
    )
    assert start == [(record.append_time // 10_000_000 * 10_000_000,)]


def test_the_api_counts_the_dead_letters(tidemark: Tidemark, api: Running, consumer: Running) -> None:
    token(api.post("/increment", {"key": "after poison", "value": 1}))
    tidemark.log.put("tidemark.counters", b"p", b"poison")
    tidemark.settle("counters")

    def counted() -> dict[str, int]:
        return {each["name"]: each["deadLetters"] for each in api.get("/status").json()["streams"]}

    expected = {
        stream: tidemark.query(f"select count(*) from {stream}.dead_letters where status = 'open'")[0][0]
        for stream in ("counters", "vehicles")
    }
    assert expected["counters"] > 0
    wait_for(lambda: counted() == expected, f"the status to count {expected}")
