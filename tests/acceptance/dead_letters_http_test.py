"""Dead letters by HTTP: shown, judged again, left be; and the command line says the same of them."""

from __future__ import annotations

import base64
import concurrent.futures
import csv
import io
import itertools
import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import requests

from stack.process import wait_for
from support.answers import JSON, instant, places, pointers, problem
from support.operating import command, increment, totals
from support.tidemark import Running, Tidemark

_COLUMNS = ["id", "stream", "letter", "appendTime", "reason", "detail", "status", "attempts", "holds", "key", "keyBase64", "size"]


def _letters(tidemark: Tidemark, records: list[tuple[bytes | None, bytes | None]], **options: Any) -> list[str]:
    """Puts records on the counters' log that cannot be applied; their ids."""
    placed = tidemark.log.put_all("tidemark.counters", records, **options)
    tidemark.settle("counters")
    return [f"counters:{position.partition}:{position.offset}" for position in placed]


def _shown(tidemark: Tidemark, letter_id: str) -> dict[str, Any]:
    """One letter as the command line shows it."""
    stream, letter = letter_id.split(":", 1)
    return json.loads(command(tidemark, "dead-letters", stream, letter, "--json"))


def _pages(api: Running, query: str) -> Iterator[list[dict[str, Any]]]:
    """Page after page, by the cursor and by the link alike."""
    target = f"/dead-letters?{query}"
    while target:
        answer = api.get(target)
        assert answer.status_code == 200, answer.text
        body = answer.json()
        yield body["items"]
        target = answer.links["next"]["url"] if "next" in answer.links else ""
        assert ("next" in body) == bool(target)
        assert not target or target.endswith(f"cursor={body['next']}")


def _all(api: Running, query: str = "limit=1000") -> list[dict[str, Any]]:
    return list(itertools.chain(*_pages(api, query)))


def _post(api: Running, path: str, body: Any, **headers: str) -> requests.Response:
    """Asks for a decision, and waits for the tables as long as may be."""
    return api.post(path, body, headers={"Prefer": "wait=30", **headers}, timeout=60)


# --- reading -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def own(make_tidemark: Callable[..., Tidemark]) -> Iterator[Tidemark]:
    """With seven letters among good records: six of counters, of three reasons, and one of vehicles."""
    tidemark = make_tidemark()
    tidemark.start_consumer()
    headers = [("plain", b"text"), ("twice", b"1"), ("twice", b"\xff\x00")]
    tidemark.log.put_all("tidemark.counters", [increment("good", 1)] * 5, partition=0)
    tidemark.log.put_all("tidemark.vehicles", [(b"7", b"[]")])
    tidemark.log.put_all("tidemark.counters", [(b"k", b"{"), (b"k", None), (None, b"\x1b[2J\x00\xff")], partition=0, headers=headers)
    tidemark.log.put_all("tidemark.counters", [(b"\xfe\xff", increment("k", n)[1]) for n in range(3)], partition=1)
    tidemark.settle("counters")
    tidemark.settle("vehicles")
    yield tidemark
    tidemark.end()


@pytest.fixture(scope="module")
def reading(own: Tidemark) -> Running:
    return own.start_api()


def test_letters_of_all_streams_are_listed_the_newest_first(own: Tidemark, reading: Running) -> None:
    answer = reading.get("/dead-letters")
    items = answer.json()["items"]
    assert [one["stream"] for one in items].count("vehicles") == 1
    assert len(items) == 7

    def key(one: dict[str, Any]) -> tuple[int, str, int, int]:
        partition, offset = one["letter"].split(":")
        return instant(one["appendTime"]), one["stream"], int(partition), int(offset)

    assert items == sorted(items, key=key, reverse=True)
    for one in items:
        whole = _shown(own, one["id"])
        assert one["id"] == f"{one['stream']}:{one['letter']}"
        for name in ("letter", "appendTime", "reason", "detail", "status", "attempts", "holds"):
            assert one[name] == whole[name], name
        assert one.get("key") == whole.get("key") and one.get("keyBase64") == whole.get("keyBase64")
        assert ("key" in one) != ("keyBase64" in one)
    sizes = {one["letter"]: one["size"] for one in items if one["stream"] == "counters"}
    for partition, offset, size in own.query('select partition, "offset", octet_length(value) from counters.dead_letters'):
        assert sizes[f"{partition}:{offset}"] == size
    # How fresh: of both streams.
    streams = {part.split("-")[0] for part in answer.headers["Applied-Position"].split(",")}
    assert streams == {"counters", "vehicles"}
    assert instant(answer.headers["Data-As-Of"]) > 0 and int(answer.headers["Age"]) >= 0
    again = reading.get("/dead-letters", headers={"If-None-Match": answer.headers["ETag"]})
    assert again.status_code == 304


def test_letters_are_chosen_by_stream_reason_and_status(own: Tidemark, reading: Running) -> None:
    assert {one["stream"] for one in _all(reading, "stream=counters")} == {"counters"}
    assert len(_all(reading, "stream=counters")) == 6
    assert [one["key"] for one in _all(reading, "stream=vehicles")] == ["7"]
    assert {one["reason"] for one in _all(reading, "reason=key_mismatch")} == {"key_mismatch"}
    assert len(_all(reading, "reason=key_mismatch&stream=counters")) == 3
    assert _all(reading, "reason=nothing") == []
    assert len(_all(reading, "status=all")) == 7
    for status in ("redriven", "discarded", "quarantined"):
        assert _all(reading, f"status={status}") == []


def test_a_list_of_letters_comes_in_each_media_type(reading: Running) -> None:
    items = _all(reading)
    lines = reading.get("/dead-letters", headers={"Accept": "application/x-ndjson"}).text.splitlines()
    assert [json.loads(line) for line in lines] == items
    answer = reading.get("/dead-letters", headers={"Accept": "text/csv"})
    [columns, *rows] = list(csv.reader(io.StringIO(answer.content.decode(), newline="")))
    assert columns == _COLUMNS
    for row, one in zip(rows, items, strict=True):
        cells = [one.get(name) for name in _COLUMNS]
        assert row == ["" if cell is None else cell if isinstance(cell, str) else json.dumps(cell) for cell in cells]
    problem(reading.get("/dead-letters", headers={"Accept": "image/png"}), 406, "not_acceptable")


def test_letters_are_counted_by_reason_as_the_command_line_does(own: Tidemark, reading: Running) -> None:
    answer = reading.get("/dead-letters/reasons?stream=counters")
    found = answer.json()["items"]
    told = json.loads(command(own, "dead-letters", "counters", "--json"))["reasons"]
    assert found == [{"stream": "counters", **one} for one in told]
    everywhere = reading.get("/dead-letters/reasons").json()["items"]
    assert [one for one in everywhere if one["stream"] == "counters"] == found
    assert [(one["reason"], one["count"]) for one in everywhere if one["stream"] == "vehicles"] == [("malformed", 1)]
    assert [one["count"] for one in everywhere] == sorted((one["count"] for one in everywhere), reverse=True)
    assert reading.get("/dead-letters/reasons?status=discarded").json() == {"items": []}
    text = reading.get("/dead-letters/reasons", headers={"Accept": "text/csv"}).text
    assert text.splitlines()[0] == "stream,reason,status,count,oldest,newest"
    assert len(text.splitlines()) == 1 + len(everywhere)


def test_a_letter_is_shown_byte_for_byte_and_as_the_command_line_does(own: Tidemark, reading: Running) -> None:
    for listed in _all(reading):
        answer = reading.get(f"/dead-letters/{listed['id']}")
        assert answer.status_code == 200
        whole = answer.json()
        partition, offset = (int(part) for part in listed["letter"].split(":"))
        stream = listed["stream"]
        place = {"id": listed["id"], "stream": stream, "partition": partition, "offset": offset}
        assert whole == _shown(own, listed["id"]) | place
        [(key, value)] = own.query(
            f'select key, value from {stream}.dead_letters where partition = %s and "offset" = %s', partition, offset
        )
        for name, stored in (("key", key), ("value", value)):
            if f"{name}Base64" in whole:
                assert base64.b64decode(whole[f"{name}Base64"]) == bytes(stored)
            else:
                assert whole[name] == (None if stored is None else bytes(stored).decode())
        assert set(places(answer.headers["Applied-Position"])) == {partition}
        # An id may be escaped as a whole.
        assert reading.get(f"/dead-letters/{listed['id'].replace(':', '%3A')}").json() == whole


def test_a_letter_that_is_none_is_not_found_and_an_id_that_is_none_is_refused(reading: Running) -> None:
    for unknown in ("counters:0:0", "counters:99:0", "none:0:0", "counters:0:9223372036854775807", "vehicles:3:17"):
        problem(reading.get(f"/dead-letters/{unknown}"), 404, "unknown_entity")
        for verb in ("redrive", "discard"):
            problem(_post(reading, f"/dead-letters/{unknown}/{verb}", {}), 404, "unknown_entity")
    wrong = ["0:0", "counters:0", "counters:-1:0", "counters:0:-0", "counters:00:1", "counters:0:1x", ":0:1", "counters::1"]
    for letter in [*wrong, "counters:0:", "counters:2147483648:0", "counters:0:9223372036854775808", "%ff"]:
        assert pointers(reading.get(f"/dead-letters/{letter}")) == ["/id"]
        for verb in ("redrive", "discard"):
            assert pointers(_post(reading, f"/dead-letters/{letter}/{verb}", {})) == ["/id"]


def test_every_violation_of_a_read_is_named(reading: Running) -> None:
    wrong = "stream=none&status=shut&reason=&limit=0&cursor=x&at_least=y&z=1"
    assert pointers(reading.get(f"/dead-letters?{wrong}")) == [
        *("?at_least", "?cursor", "?limit", "?reason", "?status", "?stream", "?z")
    ]
    assert pointers(reading.get("/dead-letters/reasons?stream=none&status=x&limit=1")) == ["?limit", "?status", "?stream"]
    assert pointers(reading.get("/dead-letters/counters:0:0?stream=counters")) == ["?stream"]
    other = reading.get("/counters?limit=1&prefix=").json().get("next") or "c61"
    for cursor in (other, "d", "d31", "d" + b"1.counters:0".hex(), "d" + b"1.none:0:1".hex(), "d" + b"x.counters:0:1".hex()):
        assert pointers(reading.get(f"/dead-letters?cursor={cursor}")) == ["?cursor"]


def test_a_list_waits_for_what_its_reader_demands(own: Tidemark, reading: Running) -> None:
    end = own.log.put("tidemark.vehicles", b"7", b"[")
    hashes = own.query("select name, log_hash from tidemark.streams")
    token = f"vehicles-{dict(hashes)['vehicles']}-{end.partition}-{end.offset}"
    found = reading.get(f"/dead-letters?at_least={token}")
    assert f"vehicles:{end.partition}:{end.offset}" in [one["id"] for one in found.json()["items"]]
    one = reading.get(f"/dead-letters/vehicles:{end.partition}:{end.offset}?at_least={token}")
    assert one.json()["value"] == "["
    end = own.log.put("tidemark.vehicles", b"7", b"]")
    found = reading.get("/dead-letters", headers={"Cache-Control": "no-cache"})
    assert f"vehicles:{end.partition}:{end.offset}" in [one["id"] for one in found.json()["items"]]
    assert pointers(reading.get(f"/dead-letters?stream=counters&at_least={token}")) == ["?at_least"]
    problem(reading.get(f"/dead-letters?at_least=vehicles-00000000-0-1,{token}"), 400, "token_unknown")
    beyond = f"vehicles-{dict(hashes)['vehicles']}-{end.partition}-{end.offset + 1000}"
    problem(reading.get(f"/dead-letters?at_least={beyond}"), 400, "token_unknown")
    # Their letters, for the tests that count.
    for listed in _all(reading, "stream=vehicles"):
        if listed["size"] == 1:
            assert _post(reading, f"/dead-letters/{listed['id']}/discard", {}).status_code == 200


# --- large, and under writes ---------------------------------------------------------------------------------


@pytest.fixture
def fresh(make_tidemark: Callable[..., Tidemark]) -> Iterator[Tidemark]:
    """Migrated; a consumer runs."""
    tidemark = make_tidemark()
    tidemark.start_consumer()
    yield tidemark
    tidemark.end()


def test_a_list_does_not_carry_what_its_letters_weigh(fresh: Tidemark) -> None:
    api = fresh.start_api()
    large = b"\x01" * 1_000_000
    ids = _letters(fresh, [(b"k", large)] * 12, partition=0)
    [wide] = _letters(fresh, [(b"w" * 900_000, b"{")], partition=0)
    [brink, beyond] = _letters(fresh, [(b"b" * 1_024, b"{"), (b"b" * 1_025, b"{")], partition=0)
    answer = api.get("/dead-letters")
    assert len(answer.content) < 10_000
    found = {one["id"]: one for one in answer.json()["items"]}
    assert found[ids[0]]["size"] == 1_000_000
    assert found[brink]["key"] == "b" * 1_024
    for left_out in (wide, beyond):
        assert "key" not in found[left_out] and "keyBase64" not in found[left_out]
    assert api.get(f"/dead-letters/{ids[3]}").json()["value"].encode() == large
    assert api.get(f"/dead-letters/{wide}").json()["key"] == "w" * 900_000
    # Judged again, its bytes need not travel.
    answer = _post(api, f"/dead-letters/{ids[0]}/redrive", {})
    assert (answer.status_code, answer.json()["attempts"]) == (200, 2)


def test_pages_under_writes_show_what_was_there_once(fresh: Tidemark) -> None:
    api = fresh.start_api()
    before = _letters(fresh, [(b"k", b"{%d" % n) for n in range(230)])
    stop = threading.Event()

    def write() -> None:
        for number in itertools.count():
            if stop.is_set():
                return
            fresh.log.put_all("tidemark.counters", [(b"w", b"%d" % number)] * 3)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        seen: list[str] = []
        for page in _pages(api, "limit=7&stream=counters"):
            assert len(page) <= 7
            seen += [one["id"] for one in page]
    finally:
        stop.set()
        writer.join()
    assert len(seen) == len(set(seen))
    assert set(before) <= set(seen)
    fresh.settle("counters")
    now = [one["id"] for one in _all(api)]
    assert len(now) == len(set(now)) == fresh.query("select count(*) from counters.dead_letters")[0][0]
    assert [one for one in now if one in set(seen)] == seen
    assert [one["id"] for one in _all(api, "limit=1000&status=all")] == now


# --- deciding ------------------------------------------------------------------------------------------------


def test_an_edited_letter_is_redriven_by_http_and_a_replay_makes_the_same_of_it(fresh: Tidemark) -> None:
    api = fresh.start_api()
    [letter] = _letters(fresh, [(b"k", b'{"no":"event"}')])
    edit = increment("k", 41)[1].decode()
    answer = _post(api, f"/dead-letters/{letter}/redrive", {"edit": edit}, **{"Idempotency-Key": "once"})
    assert answer.status_code == 200, answer.text
    decided = answer.json()
    assert decided == {
        **{"id": letter, "letter": letter.split(":", 1)[1], "decision": decided["decision"], "status": "redriven"},
        **{"detail": decided["detail"], "attempts": 1, "decisionRefused": False},
    }
    partition, offset = (int(part) for part in decided["decision"].split(":"))
    assert partition == int(letter.split(":")[1])
    assert places(answer.headers["Log-Position"]) == {partition: offset}
    assert totals(fresh) == {"k": 41}
    # The tables were waited for, so a read needs no token; and the command line says the same.
    whole = api.get(f"/dead-letters/{letter}").json()
    assert (whole["status"], whole["decision"], whole["value"]) == ("redriven", decided["decision"], '{"no":"event"}')
    assert _shown(fresh, letter).items() <= whole.items()
    assert "is redriven" in command(fresh, "redrive", "counters", whole["letter"], code=3)
    for verb in ("redrive", "discard"):
        found = problem(_post(api, f"/dead-letters/{letter}/{verb}", {}), 409, "not_open")
        assert "redriven" in found["detail"]
    assert _all(api) == []
    assert [one["id"] for one in _all(api, "status=redriven")] == [letter]
    # Its event says where it came from.
    [record] = [one for one in fresh.log.read("tidemark.counters") if (one.partition, one.offset) == (partition, offset)]
    assert record.key == b"decision"
    event = json.loads(record.value)
    assert (event["type"], event["source"]) == ("tidemark.dead_letter.redriven.v1", "/dead-letters/{id}/redrive")
    assert event["data"] == {"offset": int(letter.split(":")[2]), "attempts": 1, "edit": edit}

    fresh.assert_equals_log("counters")
    command(fresh, "verify", "counters")
    command(fresh, "replay", "counters")
    command(fresh, "promote", "counters")
    assert api.get("/generations/counters").json()["generations"][1]["role"] == "live"
    assert api.get(f"/dead-letters/{letter}").json() == whole
    assert totals(fresh) == {"k": 41}


def test_a_redrive_that_fails_adds_an_attempt_and_the_sixth_quarantines(fresh: Tidemark) -> None:
    api = fresh.start_api()
    [letter] = _letters(fresh, [(b"k", b"{")])
    other = {"edit": increment("other", 1)[1].decode()}  # an edit has the letter's key
    bodies = {2: None, 3: {}, 4: {"edit": "{"}, 5: {"edit": None}, 6: other}
    for attempt, body in bodies.items():
        answer = api.request("POST", f"/dead-letters/{letter}/redrive", json=body, headers={"Prefer": "wait=30"}, timeout=60)
        assert answer.status_code == 200, answer.text
        decided = answer.json()
        assert (decided["status"], decided["attempts"]) == ("quarantined" if attempt == 6 else "open", attempt)
        reason = "key_mismatch" if body == other else "malformed"
        assert decided["detail"].startswith(f"attempt {attempt}: {reason}: ")
    found = problem(_post(api, f"/dead-letters/{letter}/redrive", {}), 409, "not_open")
    assert "quarantined" in found["detail"]
    assert (_shown(fresh, letter)["attempts"], _shown(fresh, letter)["reason"]) == (6, "malformed")
    assert [one["id"] for one in _all(api, "status=quarantined")] == [letter]
    fresh.assert_equals_log("counters")


def test_a_letter_is_discarded_with_a_note_and_without(fresh: Tidemark) -> None:
    api = fresh.start_api()
    first, second = _letters(fresh, [(b"k", b"{"), (b"k", None)])
    answer = _post(api, f"/dead-letters/{first}/discard", {"note": "a test's 🚗"})
    assert (answer.status_code, answer.json()["status"]) == (200, "discarded")
    assert api.get(f"/dead-letters/{first}").json()["note"] == _shown(fresh, first)["note"] == "a test's 🚗"
    answer = api.request("POST", f"/dead-letters/{second}/discard", headers={"Prefer": "wait=30"}, timeout=60)
    assert (answer.status_code, answer.json()["status"]) == (200, "discarded")
    assert api.get(f"/dead-letters/{second}").json()["note"] == ""
    problem(_post(api, f"/dead-letters/{first}/redrive", {}), 409, "not_open")
    assert totals(fresh) == {}
    fresh.assert_equals_log("counters")


def test_a_decision_that_the_command_line_made_is_seen_by_http(fresh: Tidemark) -> None:
    api = fresh.start_api()
    [letter] = _letters(fresh, [(b"k", b"{")])
    command(fresh, "discard", "counters", letter.split(":", 1)[1], "--note", "by hand")
    whole = api.get(f"/dead-letters/{letter}").json()
    assert (whole["status"], whole["note"]) == ("discarded", "by hand")
    problem(_post(api, f"/dead-letters/{letter}/discard", {}), 409, "not_open")


def test_what_is_wrong_with_a_decision_is_named_and_nothing_is_written(fresh: Tidemark) -> None:
    api = fresh.start_api()
    [letter] = _letters(fresh, [(b"k", b"{")])
    ends = fresh.log.ends("tidemark.counters")
    one = f"/dead-letters/{letter}/redrive"
    for body in ({"edit": ""}, {"edit": 1}, {"edit": {}}, {"edit": "x" * 500_001}):
        assert pointers(_post(api, one, body)) == ["/edit"]
    assert pointers(api.post(f"{one}?x=1", {"note": "n", "y": 1}, headers={"Idempotency-Key": "a b"})) == [
        *("/note", "/y", "?x", "Idempotency-Key")
    ]
    assert pointers(_post(api, f"/dead-letters/{letter}/discard", {"note": "n" * 2_001, "edit": "e"})) == ["/edit", "/note"]
    for body in (b"{", b"[]", b"\xff", b'{"edit":"a\\u0000b"}'):
        answer = api.request("POST", one, data=body, headers=JSON)
        problem(answer, 400, "invalid_request")
    many = "/dead-letters/redrive"
    assert pointers(_post(api, many, {})) == ["/stream"]
    assert pointers(_post(api, many, {"stream": "none", "reason": "", "dryRun": "yes", "limit": 1})) == [
        *("/dryRun", "/limit", "/reason", "/stream")
    ]
    problem(api.request("POST", many), 400, "invalid_request")
    for path in (one, f"/dead-letters/{letter}/discard", many):
        problem(api.request("POST", path, data=b"x", headers={"Content-Type": "text/plain"}), 415, "unsupported_media_type")
        gzip = {**JSON, "Content-Encoding": "gzip"}
        problem(api.request("POST", path, data=b"{}", headers=gzip), 415, "unsupported_media_type")
        problem(api.request("POST", path, data=b" " * 1_100_000, headers=JSON), 413, "content_too_large")
        assert api.request("PUT", path, json={}).status_code == 405
    # As long as may be, but not so long once it is a record.
    problem(_post(api, one, {"edit": '"' * 499_999}), 413, "content_too_large")
    assert fresh.log.ends("tidemark.counters") == ends
    assert api.get(f"/dead-letters/{letter}").json()["attempts"] == 1


def test_a_decision_without_a_consumer_holds_and_is_folded_later(make_tidemark: Callable[..., Tidemark]) -> None:
    tidemark = make_tidemark()
    consumer = tidemark.start_consumer()
    api = tidemark.start_api()
    [letter, other] = _letters(tidemark, [(b"k", b"{"), (b"k", b"[")])
    consumer.terminate()
    answer = api.post(f"/dead-letters/{letter}/discard", {}, headers={"Prefer": "wait=1"})
    assert answer.status_code == 202
    decided = answer.json()
    partition, offset = (int(part) for part in decided.pop("decision").split(":"))
    assert decided == {"id": letter, "letter": letter.split(":", 1)[1]}
    assert places(answer.headers["Log-Position"]) == {partition: offset}
    assert api.get(f"/dead-letters/{letter}").json()["status"] == "open"
    many = api.post("/dead-letters/redrive", {"stream": "counters"}, headers={"Prefer": "wait=0"})
    assert many.status_code == 202
    assert [set(one) for one in many.json()["letters"]] == [{"id", "letter", "decision"}] * 2
    tidemark.start_consumer()
    token = many.headers["Log-Position"]
    found = api.get(f"/dead-letters/{letter}?at_least={answer.headers['Log-Position']}")
    assert found.json()["status"] == "discarded"  # the later decision changes nothing
    assert api.get(f"/dead-letters/{other}?at_least={token}").json()["attempts"] == 2
    tidemark.assert_equals_log("counters")
    tidemark.end()


def test_a_decision_that_the_log_did_not_take_is_none(make_tidemark: Callable[..., Tidemark]) -> None:
    tidemark = make_tidemark()
    tidemark.start_consumer()
    api = tidemark.start_api()
    [letter] = _letters(tidemark, [(b"k", b"{")])
    tidemark.kafka.kill()
    wait_for(lambda: api.get("/readyz").status_code == 503, "the broker to be missed", 30)
    for path, body in ((f"/dead-letters/{letter}/discard", {}), ("/dead-letters/redrive", {"stream": "counters"})):
        found = problem(_post(api, path, body), 503, "unavailable")
        assert "outcome" not in found
    # What is read needs no broker.
    assert api.get(f"/dead-letters/{letter}").json()["status"] == "open"
    assert len(_all(api)) == 1
    tidemark.end()


def test_many_letters_are_redriven_by_a_filter_at_most_a_thousand_at_once(fresh: Tidemark) -> None:
    """As when a limit was lifted: the database refused them, and takes them now."""
    api = fresh.start_api()
    fresh.postgres.execute("alter table counters.totals add constraint small check (value < 100)", database=fresh.database)
    _letters(fresh, [increment("k", 1_000) for _ in range(3)])
    # While the limit stands the decisions are refused too, and become letters.
    [malformed] = _letters(fresh, [(b"k", b"{")])
    body = {"stream": "counters", "reason": "refused_by_database"}
    answer = _post(api, "/dead-letters/redrive", body)
    assert answer.status_code == 200, answer.text
    refused = answer.json()["letters"]
    assert [(one["status"], one["decisionRefused"], one["attempts"]) for one in refused] == [("open", True, 1)] * 3
    assert fresh.query("select count(*) from counters.dead_letters") == [(3 + 1 + 3,)]
    [one] = [one for one in _all(api, "reason=refused_by_database") if one["id"] == refused[0]["id"]]
    alone = _post(api, f"/dead-letters/{one['id']}/redrive", {}).json()
    assert (alone["status"], alone["decisionRefused"]) == ("open", True)
    fresh.postgres.execute("alter table counters.totals drop constraint small", database=fresh.database)

    planned = _post(api, "/dead-letters/redrive", {**body, "dryRun": True})
    assert "Log-Position" not in planned.headers
    assert [one["id"] for one in planned.json()["letters"]] == [one["id"] for one in refused]
    assert all(one["decision"] is None and "status" not in one for one in planned.json()["letters"])
    assert planned.json()["more"] is False
    answer = _post(api, "/dead-letters/redrive", body)
    assert [one["status"] for one in answer.json()["letters"]] == ["redriven"] * 3
    assert totals(fresh) == {"k": 3_000}
    # The decisions that became letters are not meant with the others.
    rest = _post(api, "/dead-letters/redrive", {"stream": "counters", "dryRun": True}).json()
    assert [one["id"] for one in rest["letters"]] == [malformed]
    assert _post(api, "/dead-letters/redrive", {"stream": "vehicles"}).json() == {"stream": "vehicles", "letters": [], "more": False}

    # With many, one refused hundred is enough to know; `more` says that the rest was not tried.
    fresh.postgres.execute("alter table counters.totals add constraint none check (false) not valid", database=fresh.database)
    _letters(fresh, [increment("k", n) for n in range(130)])
    answer = _post(api, "/dead-letters/redrive", body).json()
    assert (len(answer["letters"]), answer["more"]) == (100, True)
    assert all(one["decisionRefused"] for one in answer["letters"])
    fresh.postgres.execute("alter table counters.totals drop constraint none", database=fresh.database)
    answer = _post(api, "/dead-letters/redrive", body).json()
    assert ([one["status"] for one in answer["letters"]], answer["more"]) == (["redriven"] * 130, False)

    _letters(fresh, [(b"k", None)] * 1_002)
    many = {"stream": "counters", "reason": "tombstone"}
    planned = _post(api, "/dead-letters/redrive", {**many, "dryRun": True}).json()
    assert (len(planned["letters"]), planned["more"]) == (1_000, True)
    answer = _post(api, "/dead-letters/redrive", many)
    assert answer.status_code == 200, answer.text
    done = answer.json()
    assert (len(done["letters"]), done["more"]) == (1_000, True)
    assert {(one["status"], one["attempts"]) for one in done["letters"]} == {("open", 2)}
    assert [one["id"] for one in done["letters"]] == [one["id"] for one in planned["letters"]]
    by_partition: dict[int, int] = {}
    for one in done["letters"]:
        partition, offset = (int(part) for part in one["decision"].split(":"))
        by_partition[partition] = max(by_partition.get(partition, 0), offset)
    assert places(answer.headers["Log-Position"]) == by_partition
    command(fresh, "verify", "counters")


def _at_once(letter: str, asked: list[tuple[Running, str, dict[str, Any]]]) -> list[requests.Response]:
    with concurrent.futures.ThreadPoolExecutor(len(asked)) as threads:
        return list(threads.map(lambda one: _post(one[0], f"/dead-letters/{letter}/{one[1]}", one[2]), asked))


def test_two_decisions_at_once_end_in_one(fresh: Tidemark) -> None:
    """Each decision is judged where it stands; whoever came too late is told."""
    apis = [fresh.start_api(), fresh.start_api()]
    letters = _letters(fresh, [(b"k", b"{"), (b"j", b"{"), (b"i", b"{"), (b"h", b"{")])
    for letter, key in zip(letters, "kjih", strict=True):
        edit = {"edit": increment(key, 1)[1].decode()}
        answers = _at_once(letter, [(apis[0], "redrive", edit), (apis[1], "discard", {})])
        assert sorted(answer.status_code for answer in answers) == [200, 409], [answer.text for answer in answers]
        [won] = [answer.json()["status"] for answer in answers if answer.status_code == 200]
        assert apis[0].get(f"/dead-letters/{letter}").json()["status"] == won
        assert (key in totals(fresh)) == (won == "redriven")
    fresh.assert_equals_log("counters")


def test_of_two_edits_at_once_only_the_one_that_counts_is_answered_with_success(fresh: Tidemark) -> None:
    apis = [fresh.start_api(), fresh.start_api()]
    keys = "kjih"
    for letter, key in zip(_letters(fresh, [(key.encode(), b"{") for key in keys]), keys, strict=True):
        edits = [{"edit": increment(key, value)[1].decode()} for value in (1, 2)]
        answers = _at_once(letter, [(api, "redrive", edit) for api, edit in zip(apis, edits, strict=True)])
        assert sorted(answer.status_code for answer in answers) == [200, 409], [answer.text for answer in answers]
        assert totals(fresh)[key] == 1 + [answer.status_code for answer in answers].index(200)
    fresh.assert_equals_log("counters")
