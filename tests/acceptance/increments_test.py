"""The increment service: the table of the contract's section 4 that needs no fault."""

from __future__ import annotations

import time
from typing import Any

import pytest

from stack.process import wait_for
from support.answers import JSON, pointers, token
from support.fold import MAX_INTEGER, WINDOW
from support.tidemark import Running, Tidemark


def _total(tidemark: Tidemark, key: str) -> list[tuple[Any, ...]]:
    return tidemark.query("select value::bigint, count from counters.totals where key = %s", key)


def test_increments_of_one_key_are_one_row_that_goes_on_growing_in_the_next_window(
    tidemark: Tidemark, api: Running
) -> None:
    def window_now() -> int:
        return int(time.time() * 1_000_000) // WINDOW

    first = window_now()
    for _ in range(25):
        last = api.post("/increment", {"key": "one-row", "value": 1})
    assert api.get(f"/counters/one-row?at_least={token(last)}").json()["value"] == 25
    assert _total(tidemark, "one-row") == [(25, 25)]

    wait_for(lambda: window_now() > first, "the next window to begin", 11)
    last = api.post("/increment", {"key": "one-row", "value": 1})

    body = api.get(f"/counters/one-row?at_least={token(last)}").json()
    assert (body["key"], body["value"], body["count"]) == ("one-row", 26, 26)
    assert _total(tidemark, "one-row") == [(26, 26)]
    windows = tidemark.query("select value::bigint from counters.windows where key = 'one-row' order by window_start")
    assert len(windows) >= 2
    assert sum(value for (value,) in windows) == 26


_overlong = b'{"key":"\xc0\xaf","value":1}'


@pytest.mark.parametrize(
    ("body", "named"),
    [
        (b"{}", ["/key", "/value"]),
        (b'{"key":"bad"}', ["/value"]),
        (b'{"value":1}', ["/key"]),
        (b'{"key":"bad","value":1', [""]),
        (b"", [""]),
        (b"null", [""]),
        (b"[]", [""]),
        (b'{"key":"","value":1}', ["/key"]),
        (b'{"key":1,"value":1}', ["/key"]),
        (b'{"key":null,"value":null}', ["/key", "/value"]),
        (b'{"key":"bad","value":"abc"}', ["/value"]),
        (b'{"key":"bad","value":"1"}', ["/value"]),
        (b'{"key":"bad","value":1.5}', ["/value"]),
        (b'{"key":"bad","value":1.0}', ["/value"]),
        (b'{"key":"bad","value":1e3}', ["/value"]),
        (b'{"key":"bad","value":9007199254740992}', ["/value"]),
        (b'{"key":"bad","value":-9007199254740992}', ["/value"]),
        (b'{"key":"bad","value":9223372036854775808}', ["/value"]),
        (b'{"key":"bad","value":true}', ["/value"]),
        (b'{"key":"bad","value":NaN}', [""]),
        (b'{"key":"bad","value":01}', [""]),
        (b'{"key":"bad","value":+1}', [""]),
        (b'{"key":"bad","value":1}x', [""]),
        (b'\xef\xbb\xbf{"key":"bad","value":1}', [""]),
        (b'{"key":"bad","value":1,"note":2}', ["/note"]),
        (b'{"key":"","value":"abc","note":2,"more":3}', ["/key", "/more", "/note", "/value"]),
        (b'{"key":"bad\\u0000","value":1}', ["/key"]),
        (b'{"key":"\xff","value":1}', [""]),
        (_overlong, [""]),
        (b'{"key":"' + b"k" * 257 + b'","value":1}', ["/key"]),
    ],
    ids=lambda value: repr(value)[:40] if isinstance(value, bytes) else None,
)
def test_what_is_no_increment_is_refused_with_every_violation_named(
    tidemark: Tidemark, api: Running, body: bytes, named: list[str]
) -> None:
    before = tidemark.log.ends("tidemark.counters")

    found = pointers(api.request("POST", "/increment", data=body, headers=JSON))

    assert found == named
    assert tidemark.log.ends("tidemark.counters") == before, "something was sent all the same"


def test_a_member_named_twice_is_refused(tidemark: Tidemark, api: Running) -> None:
    answer = api.request("POST", "/increment", data=b'{"key":"bad","value":1,"value":2}', headers=JSON)

    assert len(pointers(answer)) == 1
    assert "value" in answer.json()["detail"]


def test_zero_makes_the_key_exist_and_negative_values_count(tidemark: Tidemark, api: Running) -> None:
    zero = api.post("/increment", {"key": "zero", "value": 0})
    negative = api.post("/increment", {"key": "negative", "value": -7})
    assert zero.text == negative.text == ""

    assert api.get(f"/counters/zero?at_least={token(zero)}").json()["value"] == 0
    assert api.get(f"/counters/negative?at_least={token(negative)}").json()["value"] == -7


def test_ten_on_top_of_twenty_is_thirty(api: Running) -> None:
    first = api.post("/increment", {"key": "thirty", "value": 20})
    assert api.get(f"/counters/thirty?at_least={token(first)}").json()["value"] == 20

    second = api.post("/increment", {"key": "thirty", "value": 10})

    body = api.get(f"/counters/thirty?at_least={token(second)}").json()
    assert (body["value"], body["count"]) == (30, 2)


@pytest.mark.parametrize("sign", [1, -1])
def test_a_total_beyond_64_bits_keeps_all_its_digits(tidemark: Tidemark, api: Running, sign: int) -> None:
    key, count = f"huge{sign}", 1_100
    data = f'{{"key":"{key}","value":{sign * MAX_INTEGER}}}'
    event = (
        '{"specversion":"1.0","id":"1","source":"s","type":"tidemark.counter.incremented.v1","data":' + data + "}"
    ).encode()
    tidemark.log.put_all("tidemark.counters", [(key.encode(), event)] * count)

    answer = api.get(f"/counters/{key}", headers={"Cache-Control": "no-cache"})

    assert abs(sign * count * MAX_INTEGER) > 2**63
    assert f'"value":{sign * count * MAX_INTEGER},' in answer.text


def test_the_last_event_before_the_traffic_stops_is_in_the_table_within_ten_seconds(
    tidemark: Tidemark, api: Running
) -> None:
    api.post("/increment", {"key": "last", "value": 1})
    begin = time.monotonic()

    # Looked up past the API, which would ask for an early flush.
    wait_for(lambda: _total(tidemark, "last") == [(1, 1)], "the last event to be in the table", 10)
    print(f"in the table after {time.monotonic() - begin:.2f} s")


def test_one_request_shows_in_the_metrics(api: Running) -> None:
    labels = {"method": "POST", "path": "/increment", "status_code": "202"}
    before = api.metric("http_request_duration_seconds_count", **labels)

    token(api.post("/increment", {"key": "measured", "value": 1}))

    assert api.metric("http_request_duration_seconds_count", **labels) == before + 1
    labels = {"method": "HEAD", "path": "/counters/{key}", "status_code": "404"}
    before = api.metric("http_request_duration_seconds_count", **labels)
    api.request("HEAD", "/counters/nobody%20measures%20this")
    assert api.metric("http_request_duration_seconds_count", **labels) == before + 1, "a path is no label"
    assert api.metric("process_cpu_seconds_total") > 0
    assert api.metric("process_resident_memory_bytes") > 0
