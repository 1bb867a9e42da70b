"""A server is missing: the API says which, refuses in time what it cannot do, and goes on with what it can."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest
import requests

from stack.process import wait_for
from support.answers import problem, token
from support.tidemark import Running, Tidemark

_writes = {
    "/increment": ("POST", {"key": "degraded", "value": 1}),
    "/vehicles/8001": ("PUT", {"make": "VW", "model": "GOLF"}),
    "/vehicles/8001/states": ("POST", {"state": "sold", "occurredAt": "2022-09-12T00:00:00Z"}),
}
_reads = [
    "/counters",
    "/counters/degraded",
    "/counters/degraded/windows",
    "/vehicles",
    "/vehicles/8001",
    "/vehicles/8001?at=2023-01-01T00:00:00Z",
    "/vehicles/8001/states",
    "/vehicles/windows",
]
_of_the_process = ["/health", "/livez", "/startupz", "/version", "/metrics"]


@pytest.fixture(scope="module")
def tidemark(make_tidemark: Callable[..., Tidemark]) -> Tidemark:
    """With servers that may be killed."""
    return make_tidemark(own_postgres=True)


@pytest.fixture(scope="module")
def api(tidemark: Tidemark) -> Running:
    tidemark.start_consumer()
    api = tidemark.start_api()
    for path in _writes:
        token(_write(api, path))
    tidemark.settle("counters")
    tidemark.settle("vehicles")
    return api


@pytest.fixture
def _servers_back(tidemark: Tidemark, api: Running) -> Iterator[None]:
    yield
    tidemark.kafka.start()
    tidemark.postgres.start()
    api.wait_ready()


def _write(api: Running, path: str) -> requests.Response:
    method, body = _writes[path]
    return api.request(method, path, json=body)


def _is_degraded(api: Running, by: str) -> None:
    """The process serves, and every place that tells of its health names the server."""
    assert by in problem(api.get("/readyz"), 503, "not_ready")["detail"]
    for path in _of_the_process:
        assert api.get(path).status_code == 200, path
    status = api.get("/status")
    assert status.status_code == 200
    assert any(by in reason for reason in status.json()["degraded"]), status.text


@pytest.mark.usefixtures("_servers_back")
def test_without_the_database_reads_are_refused_and_writes_accepted(tidemark: Tidemark, api: Running) -> None:
    tidemark.postgres.kill()
    wait_for(lambda: api.get("/readyz").status_code == 503, "the API to miss the database", 10)

    for path in [*_reads, "/vehicles/8001/timestamp/2022-09-13T00:00:00Z", "/generations/counters"]:
        began = time.monotonic()
        problem(api.get(path), 503, "unavailable")
        assert time.monotonic() - began < 6, path
    _is_degraded(api, "postgres")
    written = [token(_write(api, path)) for path in _writes]

    tidemark.postgres.start()
    api.wait_ready()
    answer = api.get(f"/counters/degraded?at_least={written[0]}", headers={"Prefer": "wait=30"}, timeout=40)
    assert (answer.status_code, answer.json()["value"]) == (200, 2)
    wait_for(lambda: api.get("/status").json()["degraded"] == [], "the status to be as good as before", 30)


@pytest.mark.usefixtures("_servers_back")
def test_without_the_broker_writes_are_refused_and_reads_served_as_fresh_as_they_are(
    tidemark: Tidemark, api: Running
) -> None:
    [known] = [token(_write(api, "/increment"))]
    value = api.get(f"/counters/degraded?at_least={known}").json()["value"]
    tidemark.kafka.kill()
    wait_for(lambda: api.get("/readyz").status_code == 503, "the API to miss the broker", 15)

    for path in _writes:
        began = time.monotonic()
        body = problem(_write(api, path), 503, "unavailable")
        assert "outcome" not in body
        assert time.monotonic() - began < 7, path
    _is_degraded(api, "kafka")
    for path in _reads:
        assert api.get(path).status_code == 200, path
    assert api.get(f"/counters/degraded?at_least={known}").json()["value"] == value
    for demand in ("no-cache", "max-age=0"):
        headers = {"Cache-Control": demand, "Prefer": "wait=1"}
        problem(api.get("/counters/degraded", headers=headers), 503, "stale")
        lenient = api.get("/counters/degraded", headers={**headers, "Prefer": "wait=0, handling=lenient"})
        assert lenient.json()["value"] == value

    tidemark.kafka.start()
    api.wait_ready()
    last = token(_write(api, "/increment"))
    body = api.get(f"/counters/degraded?at_least={last}", headers={"Prefer": "wait=30"}, timeout=40).json()
    assert body["value"] == value + 1, "what was refused has been counted"


def test_a_bug_is_told_by_its_trace_alone_which_stands_in_the_log(tidemark: Tidemark, api: Running) -> None:
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    tidemark.query("revoke select on counters.api_counters from tidemark_api")
    try:
        answer = api.get("/counters/degraded", headers={"traceparent": f"00-{trace}-00f067aa0ba902b7-01"})
    finally:
        tidemark.query("grant select on counters.api_counters to tidemark_api")

    body = problem(answer, 500, "internal")
    assert body["trace_id"] == trace
    assert "permission" not in answer.text and "api_counters" not in answer.text
    assert [line["trace_id"] for line in api.events("internal_error")] == [trace]
    assert any("api_counters" in line["error"] for line in api.events("statement_is_wrong"))


def test_an_api_that_starts_before_the_migration_waits_for_it(make_tidemark: Callable[..., Tidemark]) -> None:
    tidemark = make_tidemark(migrated=False)
    api = tidemark.start_api(ready=False)
    wait_for(lambda: _serves(api), "the API to listen", 10)

    problem(api.get("/readyz"), 503, "not_ready")
    problem(api.get("/startupz"), 503, "not_ready")
    for path in _writes:
        assert "outcome" not in problem(_write(api, path), 503, "unavailable")
    for path in _reads:
        problem(api.get(path), 503, "unavailable")
    assert api.get("/status").json()["degraded"]

    tidemark.migrate()
    tidemark.start_consumer()
    api.wait_ready()
    assert api.get("/startupz").status_code == 200
    written = token(_write(api, "/increment"))
    assert api.get(f"/counters/degraded?at_least={written}").json()["value"] == 1
    tidemark.end()


def _serves(api: Running) -> bool:
    try:
        return api.get("/health").status_code == 200
    except requests.ConnectionError:
        return False
