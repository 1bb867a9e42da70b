"""HTTP in general: routes, methods, limits, problems, lists' parameters, and keys that make a write idempotent."""

from __future__ import annotations

import concurrent.futures
import json
import re
import time

import pytest

from stack.process import wait_for
from support.answers import JSON, exchange, instant, places, pointers, problem, token
from support.fold import murmur2_partition
from support.tidemark import Running, Tidemark

_reads = [
    "/counters",
    "/counters/routes",
    "/counters/routes/windows",
    "/vehicles",
    "/vehicles/41",
    "/vehicles/41/states",
    "/vehicles/windows",
    "/vehicles/41/timestamp/2022-09-19T10:00:00Z",
]
_operations = ["/status", "/generations/counters", "/livez", "/readyz", "/startupz", "/health", "/metrics", "/version"]
_pages = ["/", "/docs", "/openapi.json", "/problems/stale"]
_writes = {
    "/increment": ("POST", {"key": "routes", "value": 1}),
    "/vehicles/41": ("PUT", {"make": "VW", "model": "GOLF"}),
    "/vehicles/41/states": ("POST", {"state": "sold", "occurredAt": "2022-09-12T00:00:00Z"}),
}


@pytest.fixture(scope="module", autouse=True)
def _something_to_read(tidemark: Tidemark, api: Running) -> None:
    for path, (method, body) in _writes.items():
        token(api.request(method, path, json=body))
    tidemark.settle("counters")
    tidemark.settle("vehicles")


@pytest.mark.parametrize("path", [*_reads, *_operations, *_pages])
def test_every_read_has_get_head_and_options(api: Running, path: str) -> None:
    api.get(path)  # so that both of the next come from the cache, where there is one
    get = api.get(path)
    head = api.request("HEAD", path)
    options = api.request("OPTIONS", path)

    assert get.status_code == head.status_code == 200, get.text
    assert head.content == b""
    changing = {"Date", "Age", "Data-As-Of", "Applied-Position"}
    if path not in ("/metrics", "/status", "/generations/counters"):  # what they tell moves
        assert {k: v for k, v in head.headers.items() if k not in changing} == {
            k: v for k, v in get.headers.items() if k not in changing
        }
    assert options.status_code in (200, 204)
    assert {"GET", "HEAD", "OPTIONS"} <= set(options.headers["Allow"].replace(",", " ").split())


@pytest.mark.parametrize("path", [*_reads, *_operations, *_pages])
def test_another_method_is_refused_with_the_ones_there_are(api: Running, path: str) -> None:
    answer = api.request("PATCH", path)

    problem(answer, 405, "method_not_allowed")
    assert {"GET", "HEAD"} <= set(answer.headers["Allow"].replace(",", " ").split())


@pytest.mark.parametrize("path", _writes)
def test_a_write_route_has_its_method_only(api: Running, path: str) -> None:
    answer = api.request("DELETE", path)

    problem(answer, 405, "method_not_allowed")
    assert _writes[path][0] in answer.headers["Allow"]


@pytest.mark.parametrize("path", ["/nothing", "/increment/", "//counters", "/vehicles/1/2/3", "/Counters", "/api"])
def test_an_unknown_route_is_not_found(api: Running, path: str) -> None:
    [answer] = exchange(api, f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode())

    assert answer.status == 404
    body = json.loads(answer.body)
    assert (body["type"], body["error"]) == ("/problems/not_found", "Not Found")


def test_every_type_of_problem_can_be_read_about(api: Running) -> None:
    names = {
        problem(api.get("/nothing"), 404, "not_found")["type"],
        problem(api.get("/counters/nobody"), 404, "unknown_entity")["type"],
        problem(api.request("POST", "/increment", data=b"{}", headers=JSON), 400, "invalid_request")["type"],
    }
    for path in [*names, "/problems/outcome_unknown", "/problems/stale", "/problems/token_unknown"]:
        answer = api.get(path)
        assert answer.status_code == 200, path
        assert path.rpartition("/")[2] in answer.text
    assert api.get("/problems/no_such_problem").status_code == 404


def test_a_body_beyond_the_limit_is_refused_with_the_limit(api: Running) -> None:
    answer = api.request("POST", "/increment", data=b" " * 20_000, headers=JSON)

    detail = problem(answer, 413, "content_too_large")["detail"]
    assert "16384" in detail.replace(",", "") or "16 KiB" in detail


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "text/json"]
)
@pytest.mark.parametrize("path", _writes)
def test_a_body_of_another_media_type_is_refused(api: Running, path: str, kind: str) -> None:
    method, body = _writes[path]

    answer = api.request(method, path, json=body, headers={"Content-Type": kind})

    problem(answer, 415, "unsupported_media_type")


def test_json_may_name_its_charset(api: Running) -> None:
    headers = {"Content-Type": "Application/JSON; charset=utf-8"}

    token(api.request("POST", "/increment", data=b'{"key":"routes","value":1}', headers=headers))


def test_a_target_or_header_beyond_the_limit_is_refused(api: Running) -> None:
    problem(api.get("/counters/" + "k" * 3_000), 414, "target_too_long")
    problem(api.get("/version", headers={"X-Long": "a" * 9_000}), 431, "headers_too_large")
    problem(api.get("/version", headers={f"X-{n}": "a" for n in range(100)}), 431, "headers_too_large")


def test_what_accept_excludes_is_not_sent(api: Running) -> None:
    problem(api.get("/counters", headers={"Accept": "image/png"}), 406, "not_acceptable")
    problem(api.get("/counters/routes", headers={"Accept": "text/csv"}), 406, "not_acceptable")
    assert api.get("/counters/routes", headers={"Accept": "application/*;q=0.5"}).status_code == 200


@pytest.mark.parametrize(
    ("target", "named"),
    [
        ("/counters?nothing=1", ["?nothing"]),
        ("/counters?prefix=a&prefix=b", ["?prefix"]),
        ("/counters?limit=0&cursor=x&nothing=1", ["?cursor", "?limit", "?nothing"]),
        ("/counters?limit=-1", ["?limit"]),
        ("/counters?limit=ten", ["?limit"]),
        ("/counters?prefix=%ff", ["?prefix"]),
        ("/counters/routes?prefix=a", ["?prefix"]),
        ("/counters/routes?at_least=x", ["?at_least"]),
        ("/counters/routes/windows?from=yesterday&to=now&step=1s", ["?from", "?step", "?to"]),
        ("/counters/routes/windows?from=2022-01-01T00:00:00", ["?from"]),
        ("/vehicles?state=broken", ["?state"]),
        ("/vehicles?at=2022-02-30T00:00:00Z", ["?at"]),
        ("/vehicles/windows?state=x&step=2m", ["?state", "?step"]),
        ("/vehicles/41?at=24:00", ["?at"]),
        ("/vehicles/41/states?from=a&to=b&limit=c", ["?from", "?limit", "?to"]),
    ],
)
def test_a_wrong_query_is_refused_with_every_violation_named(api: Running, target: str, named: list[str]) -> None:
    assert pointers(api.get(target)) == named


@pytest.mark.parametrize("path", [*_operations, *_pages])
def test_a_route_without_parameters_takes_none(api: Running, path: str) -> None:
    assert pointers(api.get(f"{path}?at_least=x")) == ["?at_least"]
    assert api.get(f"{path}?").status_code == 200


def test_a_compressed_body_is_refused_and_not_read_as_it_stands(tidemark: Tidemark, api: Running) -> None:
    before = tidemark.log.ends("tidemark.counters")

    answer = api.post("/increment", {"key": "routes", "value": 1}, headers={"Content-Encoding": "gzip"})

    problem(answer, 415, "unsupported_media_type")
    assert answer.headers["Accept-Encoding"] == "identity"
    assert tidemark.log.ends("tidemark.counters") == before


@pytest.mark.parametrize("key", [b"", b" ", b"a b", "ü".encode(), b"k" * 129, b"a\tb"])
def test_an_idempotency_key_is_visible_ascii(api: Running, key: bytes) -> None:
    body = b'{"key":"never","value":1}'
    head = b"POST /increment HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: %d\r\n" % len(
        body
    )

    [answer] = exchange(api, head + b"Idempotency-Key: " + key + b"\r\n\r\n" + body)

    assert answer.status == 400
    assert [each["pointer"] for each in json.loads(answer.body)["errors"]] == ["Idempotency-Key"]


def test_every_violation_of_body_header_and_query_is_named_at_once(api: Running) -> None:
    answer = api.request(
        "POST", "/increment?dry=1", data=b'{"key":"","value":"x"}', headers={**JSON, "Idempotency-Key": "a b"}
    )

    assert pointers(answer) == ["/key", "/value", "?dry", "Idempotency-Key"]


def test_a_trace_goes_into_the_record_and_into_problems(tidemark: Tidemark, api: Running) -> None:
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    headers = {"traceparent": f"00-{trace}-00f067aa0ba902b7-01"}

    token(api.post("/increment", {"key": "traced", "value": 1}, headers=headers))
    assert problem(api.get("/nothing", headers=headers), 404, "not_found")["trace_id"] == trace

    [record] = [record for record in tidemark.log.read("tidemark.counters") if record.key == b"traced"]
    assert dict(record.headers)["traceparent"] == headers["traceparent"].encode()
    assert dict(record.headers)["content-type"].startswith(b"application/cloudevents+json")


def test_an_event_on_the_log_is_what_the_contract_says(tidemark: Tidemark, api: Running) -> None:
    before = time.time()
    position = token(api.post("/increment", {"key": "enveloped", "value": -3}))
    keyed = token(api.post("/increment", {"key": "enveloped", "value": 1}, headers={"Idempotency-Key": "envelope"}))
    vehicle = token(
        api.post("/vehicles/43/states", {"state": "sold", "occurredAt": "2022-09-12 12:41:41.123456789+02:00"})
    )

    partitions = len(tidemark.log.ends("tidemark.counters"))
    first, second = (record for record in tidemark.log.read("tidemark.counters") if record.key == b"enveloped")
    assert places(position) == {first.partition: first.offset}
    assert places(keyed) == {second.partition: second.offset}
    assert first.partition == second.partition == murmur2_partition(b"enveloped", partitions)
    event = json.loads(first.value or b"")
    assert list(event) == ["specversion", "id", "source", "type", "time", "data"]
    assert re.fullmatch(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", event["id"])
    assert (event["specversion"], event["source"]) == ("1.0", "/increment")
    assert event["type"] == "tidemark.counter.incremented.v1"
    assert before - 1 <= instant(event["time"]) / 1e6 <= time.time()
    assert event["data"] == {"key": "enveloped", "value": -3}
    # There exactly when it must be deduplicated: the hash of caller, route, entity and key, base64url without padding.
    assert re.fullmatch(r"[A-Za-z0-9_-]{43}", json.loads(second.value or b"")["idempotencykey"])
    [(partition, offset)] = places(vehicle).items()
    [changed] = [
        json.loads(record.value or b"")
        for record in tidemark.log.read("tidemark.vehicles")
        if (record.partition, record.offset, record.key) == (partition, offset, b"43")
    ]
    assert changed["source"] == "/vehicles/{id}/states"
    assert changed["time"] == "2022-09-12T10:41:41.123456Z"
    assert changed["data"] == {"id": 43, "state": "sold"}


def test_a_request_that_does_not_arrive_in_time_is_answered_and_cut(api: Running) -> None:
    head = b"POST /increment HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
    halves = [head, head + b"Content-Length: 25\r\n\r\n{"]

    with concurrent.futures.ThreadPoolExecutor(len(halves)) as threads:
        began = time.monotonic()
        answers = list(threads.map(lambda half: exchange(api, half, answers=2), halves))
        took = time.monotonic() - began

    for [answer] in answers:
        assert answer.status == 408
        assert answer.closed
        assert json.loads(answer.body)["type"] == "/problems/request_timeout"
    assert took < 9


def test_a_malformed_trace_is_replaced(api: Running) -> None:
    answer = api.get("/nothing", headers={"traceparent": "00-xyz-00f067aa0ba902b7-01"})

    assert re.fullmatch("[0-9a-f]{32}", problem(answer, 404, "not_found")["trace_id"])


def _keyed(api: Running, key: str, value: int, idempotency_key: str) -> str:
    headers = {"Idempotency-Key": idempotency_key}
    return token(api.post("/increment", {"key": key, "value": value}, headers=headers))


def _settled(tidemark: Tidemark, key: str) -> list[tuple[int, int]]:
    tidemark.settle("counters")
    return tidemark.query("select value::bigint, count from counters.totals where key = %s", key)


def test_a_key_retried_on_the_other_instance_counts_once(tidemark: Tidemark, api: Running, other_api: Running) -> None:
    _keyed(api, "retried", 5, "r-1")
    _keyed(other_api, "retried", 5, "r-1")
    _keyed(api, "retried", 5, "r-1")

    assert _settled(tidemark, "retried") == [(5, 1)]
    assert tidemark.query("select sum(duplicates) from counters.offsets")[0][0] >= 2


def test_fifty_at_once_on_two_instances_count_once(tidemark: Tidemark, api: Running, other_api: Running) -> None:
    def write(number: int) -> str:
        # A session of `requests` belongs to one thread.
        instance = (api, other_api)[number % 2]
        sent = (
            b"POST /increment HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nIdempotency-Key: fifty\r\n"
            b'Content-Length: 25\r\n\r\n{"key":"fifty","value":3}'
        )
        return exchange(instance, sent)[0].head

    with concurrent.futures.ThreadPoolExecutor(50) as threads:
        heads = list(threads.map(write, range(50)))

    assert all(head.startswith("HTTP/1.1 202") for head in heads), heads
    assert _settled(tidemark, "fifty") == [(3, 1)]


def test_the_same_idempotency_key_on_another_entity_is_another_operation(tidemark: Tidemark, api: Running) -> None:
    _keyed(api, "one entity", 1, "shared")
    _keyed(api, "another entity", 1, "shared")

    assert _settled(tidemark, "one entity") == _settled(tidemark, "another entity") == [(1, 1)]


def test_every_write_can_be_repeated_under_its_idempotency_key(
    tidemark: Tidemark, api: Running, other_api: Running
) -> None:
    headers = {"Idempotency-Key": "one-for-all"}
    before = tidemark.query("select sum(applied), sum(duplicates) from vehicles.offsets")

    # The same key on another route is another operation, also on the same vehicle.
    for instance in (api, other_api, api):
        token(instance.put("/vehicles/44", {"make": "VW", "model": "GOLF"}, headers=headers))
        token(instance.post("/vehicles/44/states", {"state": "quoted"}, headers=headers))
        token(instance.put("/vehicles/45", {"make": "VW", "model": "GOLF"}, headers=headers))
    tidemark.settle("vehicles")

    after = tidemark.query("select sum(applied), sum(duplicates) from vehicles.offsets")
    assert (after[0][0] - before[0][0], after[0][1] - before[0][1]) == (3, 6)
    history = tidemark.query(
        "select vehicle_id, kind, count(*) from vehicles.history where vehicle_id in (44, 45) group by 1, 2"
    )
    assert sorted(history) == [(44, "registered", 1), (44, "state_changed", 1), (45, "registered", 1)]


def test_the_same_idempotency_key_with_other_data_is_a_dead_letter_and_the_first_wins(
    tidemark: Tidemark, api: Running, consumer: Running
) -> None:
    labels = {"stream": "counters", "reason": "idempotency_conflict"}
    before = consumer.metric("tidemark_dead_letters_total", **labels)
    _keyed(api, "conflict", 1, "c-1")
    position = _keyed(api, "conflict", 2, "c-1")

    assert _settled(tidemark, "conflict") == [(1, 1)]
    partition, offset = map(int, position.split("-")[-2:])
    letters = tidemark.query(
        'select reason, key from counters.dead_letters where partition = %s and "offset" = %s', partition, offset
    )
    assert [(reason, bytes(key)) for reason, key in letters] == [("idempotency_conflict", b"conflict")]
    wait_for(
        lambda: consumer.metric("tidemark_dead_letters_total", **labels) == before + 1, "the dead letter to be counted"
    )


def test_without_a_key_every_request_counts(tidemark: Tidemark, api: Running) -> None:
    for _ in range(3):
        token(api.post("/increment", {"key": "unkeyed", "value": 1}))

    assert _settled(tidemark, "unkeyed") == [(3, 3)]


def test_the_programs_say_who_they_are(api: Running, consumer: Running) -> None:
    version = api.get("/version").json()
    assert set(version) == {"version", "commit", "built"}
    assert api.get("/health").json() == {"status": "ok"}
    for program in (api, consumer):
        for path in ("/livez", "/readyz", "/startupz"):
            assert program.get(path).status_code == 200


def test_the_status_lists_the_streams(tidemark: Tidemark, api: Running) -> None:
    tidemark.settle("counters")
    letters = tidemark.query("select count(*) from counters.dead_letters where status = 'open'")[0][0]

    body = api.get("/status").json()

    assert body["status"] == "running"
    assert body["uptimeSeconds"] >= 0
    assert body["version"] == api.get("/version").json()["version"]
    streams = {stream["name"]: stream for stream in body["streams"]}
    assert {"counters", "vehicles"} <= set(streams)
    assert 0 <= streams["counters"]["lagSeconds"] <= 10
    assert streams["counters"]["generation"] == 1
    assert streams["counters"]["deadLetters"] == letters, body
