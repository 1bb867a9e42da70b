"""Reading counters: freshness as promised in headers, waiting reads, conditional requests, lists and windows."""

from __future__ import annotations

import concurrent.futures
import csv
import io
import json
import random
import re
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import requests

from stack.process import wait_for
from support.answers import exchange, instant, places, pointers, problem, token
from support.fold import SECOND, Counters, Record, murmur2_partition
from support.load import Load
from support.tables import expected_tables
from support.tidemark import Running, Tidemark

_no_cache = {"Cache-Control": "no-cache"}
_kinds = ["application/json", "text/csv", "application/x-ndjson"]


def _write(api: Running, key: str, value: int = 1) -> str:
    return token(api.post("/increment", {"key": key, "value": value}))


def test_a_plain_read_says_how_fresh_it_is(tidemark: Tidemark, api: Running) -> None:
    written = _write(api, "fresh")
    before = time.time()

    answer = api.get(f"/counters/fresh?at_least={written}")

    assert answer.status_code == 200
    body = answer.json()
    assert list(body) == ["key", "value", "count", "updatedAt"]
    as_of, age = instant(answer.headers["Data-As-Of"]), int(answer.headers["Age"])
    assert before - 30 < as_of / SECOND <= time.time()
    assert 0 <= age <= 30
    [(partition, offset)] = places(written).items()
    assert places(answer.headers["Applied-Position"]).keys() == {partition}
    assert places(answer.headers["Applied-Position"])[partition] >= offset
    assert answer.headers["Cache-Control"] == "no-cache"
    [record] = [record for record in tidemark.log.read("tidemark.counters") if record.key == b"fresh"]
    assert instant(body["updatedAt"]) == record.append_time


def test_an_unknown_counter_is_not_found_and_says_how_fresh_that_is(api: Running) -> None:
    answer = api.get("/counters/nobody", headers=_no_cache)

    problem(answer, 404, "unknown_entity")
    assert {"Data-As-Of", "Applied-Position"} <= set(answer.headers)
    assert answer.headers.get("Cache-Control") == "no-cache", "a cache may keep a 404, and this one ends with a write"


def test_a_reader_sees_its_own_write_on_either_instance(api: Running, other_api: Running) -> None:
    for count in range(1, 21):
        written = _write(api, "own write")

        reader = (api, other_api)[count % 2]
        assert reader.get(f"/counters/own%20write?at_least={written}").json()["value"] == count


def test_a_read_without_a_cache_sees_everything_acknowledged_before_it(api: Running, other_api: Running) -> None:
    for count in range(1, 11):
        _write(api, "linear")

        answer = other_api.get("/counters/linear", headers=_no_cache)
        assert answer.json()["value"] == count
        assert any(
            item["key"] == "linear" and item["value"] == count for item in _all(other_api, "/counters?prefix=lin")
        )


def test_joined_tokens_wait_for_the_latest_of_each_partition_and_ignore_other_streams(api: Running) -> None:
    tokens = [_write(api, f"joined-{number}") for number in range(8)]
    assert len({place for text in tokens for place in places(text)}) > 1, "all in one partition"
    vehicle = token(api.put("/vehicles/5001", {"make": "VW", "model": "GOLF"}))

    items = api.get("/counters?prefix=joined-&at_least=" + ",".join([vehicle, *tokens])).json()["items"]

    assert [item["value"] for item in items] == [1] * 8


def test_a_token_that_names_no_position_of_the_stream_is_refused(api: Running) -> None:
    vehicle = token(api.put("/vehicles/5001", {"make": "VW", "model": "GOLF"}))

    assert pointers(api.get(f"/counters/fresh?at_least={vehicle}")) == ["?at_least"]


@pytest.mark.parametrize("text", ["x", "", "counters-00000000-0", "counters-0000000g-0-1", "counters-00000000-0--1"])
def test_a_malformed_token_is_refused(api: Running, text: str) -> None:
    assert pointers(api.get(f"/counters/fresh?at_least={text}")) == ["?at_least"]


def test_a_token_of_another_log_or_beyond_this_ones_end_is_unknown(api: Running) -> None:
    stream, log, partition, offset = _write(api, "beyond").split("-")
    other = "0" * 8 if log != "0" * 8 else "1" * 8

    for text in (
        f"{stream}-{other}-{partition}-{offset}",
        f"{stream}-{log}-{partition}-{int(offset) + 1_000_000}",
        f"{stream}-{log}-99-0",
    ):
        began = time.monotonic()
        problem(api.get(f"/counters/beyond?at_least={text}", headers={"Prefer": "wait=20"}), 400, "token_unknown")
        assert time.monotonic() - began < 15, "it was waited for"


@pytest.fixture
def frozen(consumer: Running) -> Iterator[Callable[[], None]]:
    """Stops the consumer for less than its session; called, lets it go on."""
    consumer.freeze()
    try:
        yield consumer.thaw
    finally:
        consumer.thaw()
        consumer.wait_ready()


def test_a_wait_that_runs_out_is_stale_and_a_lenient_reader_gets_the_older_answer(
    api: Running, frozen: Callable[[], None]
) -> None:
    # The counter is there from before.
    written = _write(api, "fresh", 41)
    target = f"/counters/fresh?at_least={written}"

    began = time.monotonic()
    stale = api.get(target, headers={"Prefer": "wait=1"})
    waited = time.monotonic() - began
    lenient = api.get(target, headers={"Prefer": "wait=0, handling=lenient"})
    unasked = api.get("/counters/fresh")

    problem(stale, 503, "stale")
    assert 1 <= waited < 4
    assert lenient.status_code == 200
    assert lenient.json()["value"] == unasked.json()["value"]
    assert places(lenient.headers["Applied-Position"]).items() < places(written).items() or (
        places(lenient.headers["Applied-Position"]) != places(written)
    )
    frozen()
    assert api.get(target).json()["value"] == unasked.json()["value"] + 41


def test_data_older_than_asked_for_is_refused_until_it_is_fresh_again(api: Running, frozen: Callable[[], None]) -> None:
    # Without a newer event the tables would be as fresh as can be, however old.
    _write(api, "fresh")
    began = time.monotonic()
    wait_for(lambda: time.monotonic() - began > 2, "the event to be older than a second")

    problem(api.get("/counters/fresh", headers={"Cache-Control": "max-age=1", "Prefer": "wait=1"}), 503, "stale")
    assert api.get("/counters/fresh", headers={"Cache-Control": "max-age=3600"}).status_code == 200
    frozen()
    answer = api.get("/counters/fresh", headers={"Cache-Control": "max-age=1", "Prefer": "wait=20"})
    assert answer.status_code == 200
    assert int(answer.headers["Age"]) <= 1


def test_a_reader_may_wait_longer_than_other_requests_take_but_only_so_many_may(
    tidemark: Tidemark, api: Running, frozen: Callable[[], None]
) -> None:
    narrow = tidemark.start_api(max_waiting="1")
    written = _write(api, "patient")
    target = f"/counters/patient?at_least={written}"
    sent = f"GET {target} HTTP/1.1\r\nHost: a\r\nPrefer: wait=300\r\n\r\n".encode()

    with concurrent.futures.ThreadPoolExecutor(1) as threads:
        began = time.monotonic()
        waiting = threads.submit(exchange, narrow, sent, deadline=40)
        wait_for(lambda: narrow.metric("tidemark_reads_waiting") == 1, "the read to wait")
        problem(narrow.get(target), 503, "overloaded")
        # Any other request is answered within six seconds.
        wait_for(lambda: time.monotonic() - began > 7, "the read to have waited")
        frozen()
        [answer] = waiting.result()

    assert answer.status == 200, answer.body
    assert json.loads(answer.body)["key"] == "patient"
    narrow.terminate()


def test_a_waiting_reader_pulls_the_flush_forward(make_tidemark: Callable[..., Tidemark]) -> None:
    tidemark = make_tidemark()
    tidemark.start_consumer(flush_interval="3s")
    api = tidemark.start_api()
    api.get(f"/counters/pulled?at_least={_write(api, 'pulled')}")

    began = time.monotonic()
    for _ in range(10):
        assert api.get(f"/counters/pulled?at_least={_write(api, 'pulled')}").status_code == 200
    took = time.monotonic() - began

    print(f"{took / 10:.3f} s from a write to its own read, with a flush every 3 s")
    assert took < 15, "each waited for the flush of its own accord"
    tidemark.end()


def test_what_the_headers_promise_is_in_the_answer(
    tidemark: Tidemark, api: Running, other_api: Running, seed: int
) -> None:
    """Nothing appended before Data-As-Of is missing, nothing after Applied-Position is in, and values never fall."""
    load = Load(tidemark, [api, other_api], keys=8, prefix=f"promise{seed}-", highest=9, rate=1500, connections=8)
    seen: list[tuple[str, requests.Response]] = []
    random_ = random.Random(seed)
    try:
        load.wait_acked(100)
        until = time.monotonic() + 6
        while time.monotonic() < until:
            key = f"promise{seed}-{random_.randrange(8)}"
            asked = random_.choice([{}, {}, _no_cache, {"Cache-Control": "max-age=1"}])
            answer = random_.choice([api, other_api]).get(f"/counters/{key}", headers=asked)
            if answer.status_code == 200:
                seen.append((key, answer))
    finally:
        load.stop()
    assert len(seen) > 100
    tidemark.settle("counters")

    records = tidemark.log.read("tidemark.counters")
    partitions = len(tidemark.log.ends("tidemark.counters"))
    by_key: dict[str, list[tuple[Record, int]]] = {f"promise{seed}-{n}": [] for n in range(8)}
    for record in records:
        key = (record.key or b"").decode(errors="replace")
        if key in by_key and record.value is not None:
            by_key[key].append((record, json.loads(record.value)["data"]["value"]))
    newest: dict[str, int] = {}
    for key, answer in seen:
        value = answer.json()["value"]
        [(partition, applied)] = places(answer.headers["Applied-Position"]).items()
        assert partition == murmur2_partition(key.encode(), partitions)
        assert value == sum(one for record, one in by_key[key] if record.offset <= applied)
        as_of = instant(answer.headers["Data-As-Of"])
        promised = [record for record, _ in by_key[key] if record.append_time < as_of]
        assert all(record.offset <= applied for record in promised), "Data-As-Of promises more than is in"
        # One client's reads on one instance never go back, and neither do two instances' views of one table.
        assert value >= newest.get(key, 0)
        newest[key] = value


def test_an_unchanged_counter_is_not_sent_again(api: Running) -> None:
    first = api.get(f"/counters/tagged?at_least={_write(api, 'tagged')}")
    tag = first.headers["ETag"]

    same = api.get("/counters/tagged", headers={"If-None-Match": f'"other", {tag}'})
    assert (same.status_code, same.content) == (304, b"")
    assert same.headers["ETag"] == tag
    assert "Data-As-Of" in same.headers
    assert api.get("/counters/tagged", headers={"If-None-Match": "*"}).status_code == 304

    changed = api.get(f"/counters/tagged?at_least={_write(api, 'tagged')}", headers={"If-None-Match": tag})
    assert changed.status_code == 200
    assert changed.headers["ETag"] != tag


def _all(api: Running, target: str, **options: Any) -> list[dict[str, Any]]:
    """Every item of a list, by its cursors."""
    items: list[dict[str, Any]] = []
    page = api.get(target, **options)
    while True:
        assert page.status_code == 200, page.text
        body = page.json()
        items += body["items"]
        if "next" not in body:
            assert "Link" not in page.headers
            return items
        link = page.headers["Link"]
        assert link.endswith('>; rel="next"') and link.startswith("<")
        next_target = link[1:].partition(">")[0]
        assert body["next"] in next_target
        page = api.get(next_target, **options)


@pytest.fixture(scope="module")
def many(tidemark: Tidemark, api: Running) -> list[str]:
    """1,100 counters of one prefix, beside neighbours in the order of keys."""
    keys = [f"many/{number:04}€" for number in range(1_100)]
    records = []
    for key in [*keys, "many.", "many0", "man"]:
        event = {"specversion": "1.0", "id": key, "source": "s", "type": "tidemark.counter.incremented.v1"}
        records.append((key.encode(), json.dumps({**event, "data": {"key": key, "value": 2}}).encode()))
    tidemark.log.put_all("tidemark.counters", records)
    tidemark.settle("counters")
    return keys


def test_a_list_goes_through_all_in_order_and_names_none_twice(api: Running, many: list[str]) -> None:
    assert [item["key"] for item in _all(api, "/counters?prefix=many%2F&limit=300")] == many
    first = api.get("/counters?prefix=many%2F").json()
    assert len(first["items"]) == 50
    clamped = api.get("/counters?prefix=many%2F&limit=5000").json()
    assert len(clamped["items"]) == 1000
    assert "next" in clamped
    assert all(item["value"] == 2 and item["count"] == 1 for item in clamped["items"])


def test_a_link_holds_what_its_target_may_not(api: Running) -> None:
    written = [_write(api, f'{{"link">{number}') for number in range(3)]
    target = '/counters?limit=1&prefix={"link">&at_least=' + ",".join(written)
    keys = []

    while target:
        [page] = exchange(api, f"GET {target} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        keys += [item["key"] for item in json.loads(page.body)["items"]]
        link = re.search(r'(?m)^Link: <([^>"{]*)>; rel="next"\r?$', page.head)
        assert (link is not None) == ("next" in json.loads(page.body)), page.head
        target = link[1] if link else ""

    assert keys == [f'{{"link">{number}' for number in range(3)]


def test_a_page_is_one_snapshot_and_says_of_what(
    tidemark: Tidemark, api: Running, other_api: Running, seed: int
) -> None:
    """What a list shows is the fold of just the records up to its Applied-Position, however much is written."""
    prefix = f"snapshot{seed}-"
    load = Load(tidemark, [api, other_api], keys=16, prefix=prefix, highest=9, rate=1500, connections=8)
    pages: list[requests.Response] = []
    try:
        load.wait_acked(100)
        until = time.monotonic() + 3
        while time.monotonic() < until:
            for instance, headers in ((api, {}), (other_api, _no_cache)):
                pages.append(instance.get(f"/counters?prefix={prefix}", headers=headers))
    finally:
        load.stop()
    assert len(pages) > 20
    tidemark.settle("counters")

    records = [
        (record, json.loads(record.value)["data"])
        for record in tidemark.log.read("tidemark.counters")
        if record.value is not None and (record.key or b"").startswith(prefix.encode())
    ]
    assert len({json.dumps(page.json()) for page in pages}) > 5, "nothing changed between the pages"
    for page in pages:
        applied = places(page.headers["Applied-Position"])
        assert applied.keys() == tidemark.log.ends("tidemark.counters").keys()
        assert re.fullmatch(r"[A-Za-z0-9._~,-]+", page.headers["Applied-Position"]), "not to be put into a URL as it is"
        expected: dict[str, int] = {}
        for record, data in records:
            if record.offset <= applied[record.partition]:
                expected[data["key"]] = expected.get(data["key"], 0) + data["value"]
            else:
                assert record.append_time >= instant(page.headers["Data-As-Of"]), "Data-As-Of promises more than is in"
        assert {item["key"]: item["value"] for item in page.json()["items"]} == expected
        # A position that was read is there for whoever asks any instance for it.
        assert api.get(f"/counters?limit=1&at_least={page.headers['Applied-Position']}").status_code == 200


def test_each_representation_has_a_tag_of_its_own(api: Running, many: list[str]) -> None:
    target = "/counters?prefix=many%2F&limit=2"
    tags = {kind: api.get(target, headers={"Accept": kind}).headers["ETag"] for kind in _kinds}

    assert len(set(tags.values())) == len(_kinds)
    for kind, tag in tags.items():
        for other in _kinds:
            answer = api.get(target, headers={"Accept": other, "If-None-Match": tag})
            assert answer.status_code == (304 if other == kind else 200)
            assert answer.headers["Vary"] == "Accept"


def test_a_list_of_nothing_is_empty(api: Running) -> None:
    assert api.get("/counters?prefix=no%20such%20prefix").json() == {"items": []}


def test_another_lists_cursor_is_refused(api: Running, many: list[str]) -> None:
    cursor = api.get("/counters?prefix=many%2F&limit=1").json()["next"]

    assert pointers(api.get(f"/counters/{'fresh'}/windows?cursor={cursor}")) == ["?cursor"]
    assert pointers(api.get(f"/counters?cursor={cursor[:-1]}!")) == ["?cursor"]


def test_a_list_comes_as_csv_and_as_lines_of_json(api: Running, many: list[str]) -> None:
    target = "/counters?prefix=many%2F&limit=1000"

    as_csv = api.get(target, headers={"Accept": "text/csv"})
    as_lines = api.get(target, headers={"Accept": "application/x-ndjson, text/csv;q=0.5"})

    assert as_csv.headers["Content-Type"].startswith("text/csv")
    rows = list(csv.DictReader(io.StringIO(as_csv.content.decode(), newline="")))
    assert [row["key"] for row in rows] == many[:1000]
    assert list(rows[0]) == ["key", "value", "count", "updatedAt"]
    assert 'rel="next"' in as_csv.headers["Link"]
    assert as_lines.headers["Content-Type"].startswith("application/x-ndjson")
    assert [json.loads(line)["key"] for line in as_lines.content.decode().splitlines()] == many[:1000]


_csv_key = 'comma, "quote"\nline'


def test_csv_quotes_what_needs_it(api: Running) -> None:
    written = _write(api, _csv_key)

    answer = api.get(f"/counters?prefix=comma&at_least={written}", headers={"Accept": "text/csv"})

    [row] = csv.DictReader(io.StringIO(answer.content.decode(), newline=""))
    assert row["key"] == _csv_key


def _at(key: str, time_: datetime, value: int) -> tuple[bytes, bytes]:
    event = {
        "specversion": "1.0",
        "id": f"{key}-{time_}",
        "source": "s",
        "type": "tidemark.counter.incremented.v1",
        "time": time_.isoformat(),
        "data": {"key": key, "value": value},
    }
    return key.encode(), json.dumps(event).encode()


_day = datetime(2023, 5, 17, tzinfo=UTC)


@pytest.fixture(scope="module")
def windowed(tidemark: Tidemark, api: Running) -> str:
    """A counter with events over two days, out of order, some of them years late."""
    times = [
        timedelta(seconds=0),
        timedelta(seconds=9, microseconds=999_999),
        timedelta(seconds=10),
        timedelta(minutes=1, seconds=5),
        timedelta(minutes=59, seconds=59),
        timedelta(hours=1),
        timedelta(hours=23, minutes=59, seconds=59),
        timedelta(days=1),
        timedelta(days=1, hours=3),
        timedelta(microseconds=-1),
    ]
    records = [_at("windowed", _day + after, 10**number) for number, after in enumerate(times)]
    random.Random(7).shuffle(records)
    tidemark.log.put_all("tidemark.counters", records)
    tidemark.settle("counters")
    return "windowed"


def _windows(api: Running, query: str, key: str = "windowed") -> dict[str, tuple[int, int]]:
    items = _all(api, f"/counters/{key}/windows?{query}")
    starts = [item["start"] for item in items]
    assert starts == sorted(starts)
    return {item["start"].replace(".000000", ""): (item["value"], item["count"]) for item in items}


def test_windows_are_ten_seconds_half_open_by_event_time_and_empty_ones_are_omitted(
    api: Running, windowed: str
) -> None:
    found = _windows(api, "from=2023-05-16T00:00:00Z&to=2023-05-20T00:00:00Z&limit=3")

    assert found == {
        "2023-05-16T23:59:50Z": (1_000_000_000, 1),
        "2023-05-17T00:00:00Z": (11, 2),
        "2023-05-17T00:00:10Z": (100, 1),
        "2023-05-17T00:01:00Z": (1_000, 1),
        "2023-05-17T00:59:50Z": (10_000, 1),
        "2023-05-17T01:00:00Z": (100_000, 1),
        "2023-05-17T23:59:50Z": (1_000_000, 1),
        "2023-05-18T00:00:00Z": (10_000_000, 1),
        "2023-05-18T03:00:00Z": (100_000_000, 1),
    }


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        ("1m", {"00:00:00": (111, 3), "00:01:00": (1_000, 1), "00:59:00": (10_000, 1), "01:00:00": (100_000, 1)}),
        ("1h", {"00:00:00": (11_111, 5), "01:00:00": (100_000, 1)}),
    ],
)
def test_windows_are_summed_by_step(
    api: Running, windowed: str, step: str, expected: dict[str, tuple[int, int]]
) -> None:
    found = _windows(api, f"from=2023-05-17T00:00:00Z&to=2023-05-17T02:00:00Z&step={step}")

    assert found == {f"2023-05-17T{start}Z": sums for start, sums in expected.items()}


def test_windows_of_days_are_aligned_to_utc_and_the_range_selects_by_start(api: Running, windowed: str) -> None:
    days = _windows(api, "from=2023-05-16T00:00:00Z&to=2023-05-18T00:00:00Z&step=1d")

    assert days == {"2023-05-16T00:00:00Z": (1_000_000_000, 1), "2023-05-17T00:00:00Z": (1_111_111, 7)}
    assert _windows(api, "from=2023-05-17T00:00:00.000001Z&to=2023-05-17T00:00:10Z") == {}
    assert _windows(api, "from=2023-05-17T02:00:10%2B02:00&to=2023-05-17%2000:00:11+00") == {
        "2023-05-17T00:00:10Z": (100, 1)
    }


def test_without_a_range_the_last_hour_is_shown_and_windows_add_up_to_the_total(
    tidemark: Tidemark, api: Running, windowed: str
) -> None:
    assert _windows(api, "") == {}
    _write(api, "recent", 4)
    now = datetime.now(UTC)
    tidemark.log.put_all("tidemark.counters", [_at("recent", now - timedelta(minutes=90), 2)])
    written = _write(api, "recent", 5)
    api.get(f"/counters/recent?at_least={written}")
    tidemark.settle("counters")

    assert sum(value for value, _ in _windows(api, "", "recent").values()) == 9
    everything = _windows(api, "from=0001-01-01T00:00:00Z&to=9999-12-31T00:00:00Z&step=1d", "recent")
    assert sum(value for value, _ in everything.values()) == 11 == api.get("/counters/recent").json()["value"]


def test_windows_of_an_unknown_counter_are_not_found(api: Running) -> None:
    problem(api.get("/counters/nobody/windows"), 404, "unknown_entity")


def test_a_reversed_range_is_refused(api: Running, windowed: str) -> None:
    assert pointers(api.get("/counters/windowed/windows?from=2023-05-18T00:00:00Z&to=2023-05-17T00:00:00Z"))


def test_reads_and_tables_agree_about_every_counter(tidemark: Tidemark, api: Running) -> None:
    tidemark.assert_equals_log("counters")
    fold = expected_tables("counters", tidemark.log, tidemark.vector("counters"))
    assert isinstance(fold, Counters)

    listed = {
        item["key"]: (item["value"], item["count"]) for item in _all(api, "/counters?limit=1000", headers=_no_cache)
    }

    assert listed == {key: (total[0], total[1]) for key, total in fold.totals.items()}
