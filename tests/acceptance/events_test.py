"""GET /events/{token}: what became of what was written."""

from __future__ import annotations

from collections.abc import Callable

from stack.process import wait_for
from support.answers import pointers, problem, token
from support.operating import command
from support.tidemark import Tidemark


def test_an_event_is_logged_then_applied_and_a_dead_letter_is_parked(make_tidemark: Callable[..., Tidemark]) -> None:
    tidemark = make_tidemark()
    consumer = tidemark.start_consumer()
    api = tidemark.start_api()
    consumer.terminate()
    first = token(api.post("/increment", {"key": "k", "value": 1}, headers={"Idempotency-Key": "once"}))
    repeat = token(api.post("/increment", {"key": "k", "value": 1}, headers={"Idempotency-Key": "once"}))
    answer = api.get(f"/events/{first}")
    assert (answer.status_code, answer.json()) == (200, {"state": "logged"})
    place = tidemark.log.put("tidemark.counters", b"k", b"{")
    stream, log_hash, partition, offset = first.split("-")
    assert int(partition) == place.partition
    parked = f"{stream}-{log_hash}-{partition}-{place.offset}"
    assert api.get(f"/events/{parked}").json() == {"state": "logged"}
    problem(api.get(f"/events/{stream}-{log_hash}-{partition}-{place.offset + 1}"), 400, "token_unknown")
    problem(api.get(f"/events/{first}?at_least={first}", headers={"Prefer": "wait=1"}), 503, "stale")

    tidemark.start_consumer()
    patient = {"Prefer": "wait=30"}
    assert api.get(f"/events/{first}?at_least={first}", headers=patient, timeout=60).json() == {"state": "applied"}
    assert api.get(f"/events/{repeat}?at_least={repeat}", headers=patient, timeout=60).json() == {"state": "applied"}
    letter = f"counters:{partition}:{place.offset}"
    told = {"reason": "malformed", "deadLetterId": letter}
    assert api.get(f"/events/{parked}?at_least={parked}", headers=patient, timeout=60).json() == {"state": "parked", **told}
    assert [one["id"] for one in api.get("/dead-letters").json()["items"]] == [letter]
    body = '{"specversion":"1.0","id":"1","source":"s","type":"tidemark.counter.incremented.v1","data":{"key":"k","value":2}}'
    redriven = api.post(f"/dead-letters/{letter}/redrive", {"edit": body}, headers={"Prefer": "wait=30"}, timeout=60)
    assert redriven.json()["status"] == "redriven"
    assert api.get(f"/events/{parked}").json() == {"state": "applied", **told}
    tag = api.get(f"/events/{parked}").headers["ETag"]
    assert api.get(f"/events/{parked}", headers={"If-None-Match": tag}).status_code == 304
    for wrong in ("x", "counters", f"{first},{repeat}", f"nothing-{log_hash}-0-1", f"{first}-1"):
        assert pointers(api.get(f"/events/{wrong}")) == ["/token"]
    command(tidemark, "verify", "counters")

    # Without a broker nobody knows where the log ends, but what is in the tables is known.
    tidemark.kafka.kill()
    wait_for(lambda: api.get("/readyz").status_code == 503, "the broker to be missed", 30)
    assert api.get(f"/events/{first}").json() == {"state": "applied"}
    problem(api.get(f"/events/{stream}-{log_hash}-{partition}-1000000"), 503, "unavailable")
    tidemark.end()
