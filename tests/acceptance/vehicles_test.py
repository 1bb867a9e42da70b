"""Vehicles: the table of the contract's section 5, and the other reads of their history."""

from __future__ import annotations

import concurrent.futures
import csv
import io
import json
import random
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from stack.process import wait_for
from support.answers import exchange, instant, pointers, problem, token
from support.fold import Vehicles
from support.tables import expected_tables
from support.tidemark import Running, Tidemark

_sample = Path(__file__).resolve().parents[2] / "infra" / "dev" / "sample" / "vehicles.ndjson"

_no_cache = {"Cache-Control": "no-cache"}


@pytest.fixture(scope="module", autouse=True)
def _sample_data(tidemark: Tidemark, consumer: Running) -> None:
    """The three vehicles that `up` loads, by the same command."""
    done = tidemark.run("producer", "import", _sample)
    assert done.returncode == 0, done.stderr
    tidemark.settle("vehicles")


class _Late:
    """A cached answer that an older state, arriving late, makes wrong; looked at again at the module's end."""

    target = "/vehicles/6001/timestamp/2022-10-02T00:00:00Z"
    written = ""
    since = 0.0


@pytest.fixture(scope="module", autouse=True)
def _late(api: Running, _sample_data: None) -> _Late:
    late = _Late()
    _register(api, 6001)
    known = _change(api, 6001, "quoted", "2022-10-01T00:00:00Z")
    api.get(f"/vehicles/6001?at_least={known}")
    assert _state(api, late.target) == ("quoted", False)
    late.written = _change(api, 6001, "sold", "2022-10-01T12:00:00Z")
    late.since = time.monotonic()
    return late


def _register(api: Running, vehicle: int, make: str = "VW", model: str = "GOLF", **options: Any) -> str:
    return token(api.put(f"/vehicles/{vehicle}", {"make": make, "model": model}, **options))


def _change(api: Running, vehicle: int, state: str, occurred_at: str | None = None, **options: Any) -> str:
    body = {"state": state} | ({} if occurred_at is None else {"occurredAt": occurred_at})
    answer = api.post(f"/vehicles/{vehicle}/states", body, **options)
    assert answer.text == "" or answer.status_code != 202
    return token(answer)


def _state(api: Running, target: str, **options: Any) -> tuple[str, bool]:
    answer = api.get(target, **options)
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert list(body) == ["fromCache", "data"] and list(body["data"]) == ["vehicle"]
    vehicle = body["data"]["vehicle"]
    assert list(vehicle) == ["id", "make", "model", "state"]
    return vehicle["state"], body["fromCache"]


def _at(vehicle: int, timestamp: str) -> str:
    return f"/vehicles/{vehicle}/timestamp/{timestamp}"


# --- the state at a moment ----------------------------------------------------------------------------------


def test_the_second_answer_comes_from_the_cache_also_for_an_equal_instant_written_otherwise(api: Running) -> None:
    first = api.get(_at(2, "2022-09-19%2010:00:00+00"))
    assert first.text == (
        '{"fromCache":false,"data":{"vehicle":{"id":2,"make":"AUDI","model":"A4","state":"selling"}}}'
    )

    second = api.get(_at(2, "2022-09-19%2010:00:00+00"))
    assert second.json() == {**first.json(), "fromCache": True}
    for same in ("2022-09-19T10:00:00Z", "2022-09-19t12:00:00.000%2B02:00", "2022-09-19%2010:00:00+0000"):
        assert _state(api, _at(2, same)) == ("selling", True)
    assert second.headers["ETag"] == first.headers["ETag"]
    assert second.headers["ETag"].startswith('W/"')
    assert second.headers["Data-As-Of"] == first.headers["Data-As-Of"]
    assert second.headers["Applied-Position"] == first.headers["Applied-Position"]
    again = api.get(_at(2, "2022-09-19T10:00:00Z"), headers={"If-None-Match": first.headers["ETag"]})
    assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize(
    ("timestamp", "state"),
    [
        ("2022-09-11%2010:00:00+00", "quoted"),
        ("2022-09-12%2010:00:00+00", "selling"),
        ("2022-09-12%2013:00:00+00", "sold"),
        ("2022-09-11T09:11:45Z", "quoted"),
        ("2022-09-11T23:21:38Z", "selling"),
        ("2022-09-12T12:41:41Z", "sold"),
        ("2022-09-11T23:21:37Z", "quoted"),
        ("2022-09-11T23:21:37.999999Z", "quoted"),
        ("2022-09-12T12:41:40Z", "selling"),
        ("2022-09-12T01:00:00+02:00", "quoted"),
        ("2022-09-12T01:00:00%2B02:00", "quoted"),
    ],
)
def test_the_state_at_a_moment_is_the_newest_until_then(api: Running, timestamp: str, state: str) -> None:
    assert _state(api, _at(3, timestamp))[0] == state


def test_before_its_first_state_and_without_a_registration_there_is_no_vehicle(api: Running) -> None:
    for timestamp in ("2021-09-12%2010:00:00+00", "2022-09-11T09:11:44Z"):
        found = problem(api.get(_at(3, timestamp)), 404, "unknown_entity")
        assert found["error"] == "Vehicle didn't exist at this timestamp"
    for _ in range(2):
        found = problem(api.get(_at(9999, "2022-09-12T10:00:00Z")), 404, "unknown_entity")
        assert found["error"] == "No vehicle with this id"


@pytest.mark.parametrize(
    ("vehicle", "timestamp"),
    [
        *[(text, "2022-09-12T10:00:00Z") for text in ("abc", "-1", "0", "01", "+1", "1.0", "9007199254740992", "%31a")],
        *[
            ("3", text)
            for text in (
                "last%20christmas",
                "2022-09-12T10:00:00",
                "2022-09-12",
                "2022-09-12T10:00:60Z",
                "2022-09-12T24:00:00Z",
                "2022-02-30T10:00:00Z",
                "0000-01-01T00:00:00Z",
                "10000-01-01T00:00:00Z",
                "2022-09-12T10:00:00.1234567890Z",
                "2022-09-12T10:00:00%00Z",
                "1663000000",
            )
        ],
    ],
)
def test_what_is_no_id_or_no_instant_is_refused(api: Running, vehicle: str, timestamp: str) -> None:
    assert len(pointers(api.get(f"/vehicles/{vehicle}/timestamp/{timestamp}"))) == 1


def test_an_empty_instant_is_refused_and_two_violations_are_both_named(api: Running) -> None:
    assert api.get("/vehicles/3/timestamp/").status_code == 400
    assert len(pointers(api.get("/vehicles/0/timestamp/christmas"))) == 2


def test_states_shuffled_and_sent_twice_give_the_same_answers(
    tidemark: Tidemark, api: Running, other_api: Running
) -> None:
    events = []
    for line in _sample.read_text().splitlines():
        event = json.loads(line)
        if event["type"].endswith("state_changed.v1"):
            events.append((event["data"]["id"] + 3000, event["data"]["state"], event["time"]))
    assert len(events) == 6
    for vehicle in (3001, 3002, 3003):
        _register(api, vehicle)
    twice = [*enumerate(events), *enumerate(events)]
    random.Random(1).shuffle(twice)

    for number, (vehicle, state, at) in twice:
        instance = (api, other_api)[random.Random(number).randrange(2)]
        _change(instance, vehicle, state, at, headers={"Idempotency-Key": f"shuffled-{number}"})

    assert api.get("/vehicles/3003", headers=_no_cache).json()["state"] == "sold"
    assert api.get("/vehicles/3001", headers=_no_cache).json()["state"] == "quoted"
    for at, state in [("11T10:00:00Z", "quoted"), ("12T10:00:00Z", "selling"), ("12T13:00:00Z", "sold")]:
        assert _state(api, _at(3003, f"2022-09-{at}"))[0] == state
    assert tidemark.query("select count(*) from vehicles.history where vehicle_id = 3003 and state is not null") == [
        (3,)
    ]


def test_a_tie_goes_to_the_later_record(api: Running) -> None:
    _register(api, 3010)
    for state in ("selling", "sold", "quoted"):
        written = _change(api, 3010, state, "2022-09-12T10:00:00Z")

    assert api.get(f"/vehicles/3010?at_least={written}").json()["state"] == "quoted"
    assert _state(api, _at(3010, "2022-09-12T10:00:00Z"))[0] == "quoted"


def test_concurrent_misses_make_one_query(tidemark: Tidemark, api: Running) -> None:
    def lookups(result: str) -> float:
        return api.metric("tidemark_vehicle_cache_lookups_total", result=result)

    before = {result: lookups(result) for result in ("hit", "miss", "joined")}
    sent = b"GET /vehicles/3/timestamp/2022-09-13T00:00:00Z HTTP/1.1\r\nHost: a\r\n\r\n"
    with concurrent.futures.ThreadPoolExecutor(40) as threads:
        answers = [answer for found in threads.map(lambda _: exchange(api, sent), range(40)) for answer in found]

    assert [answer.status for answer in answers] == [200] * 40
    assert {json.loads(answer.body)["data"]["vehicle"]["state"] for answer in answers} == {"sold"}
    assert lookups("miss") - before["miss"] == 1
    assert sum(lookups(result) - before[result] for result in ("hit", "joined")) == 39


def test_a_cached_answers_tag_is_found_in_any_of_the_fields_that_name_tags(api: Running) -> None:
    target = _at(2, "2022-09-20T00:00:00Z")
    tag = api.get(target).headers["ETag"]
    assert _state(api, target) == ("selling", True)
    head = f'GET {target} HTTP/1.1\r\nHost: a\r\nIf-None-Match: "other"\r\nIf-None-Match: {tag}\r\n\r\n'

    [answer] = exchange(api, head.encode())

    assert (answer.status, answer.body) == (304, b"")


def test_a_demanding_read_is_not_served_from_a_cache_that_is_too_old_for_it(api: Running) -> None:
    _register(api, 3011)
    first = _change(api, 3011, "quoted", "2022-09-01T00:00:00Z")
    target = _at(3011, "2022-09-12T10:00:00Z")
    assert _state(api, f"{target}?at_least={first}") == ("quoted", False)
    assert _state(api, target) == ("quoted", True)
    assert _state(api, f"{target}?at_least={first}") == ("quoted", True), "the entry satisfies the wish"

    late = _change(api, 3011, "selling", "2022-09-02T00:00:00Z")

    assert _state(api, f"{target}?at_least={late}") == ("selling", False)
    assert _state(api, target, headers=_no_cache)[0] == "selling"


def test_an_unregistered_vehicles_states_are_kept_until_it_is_registered(api: Running) -> None:
    written = _change(api, 3012, "selling", "2022-09-01T00:00:00Z")
    problem(api.get(f"/vehicles/3012?at_least={written}"), 404, "unknown_entity")
    found = problem(api.get(_at(3012, "2022-09-12T10:00:00Z") + f"?at_least={written}"), 404, "unknown_entity")
    assert found["error"] == "No vehicle with this id"

    registered = _register(api, 3012)

    assert api.get(f"/vehicles/3012?at_least={registered}").json()["state"] == "selling"
    assert _state(api, _at(3012, "2022-09-12T10:00:00Z"))[0] == "selling"


# --- writing ------------------------------------------------------------------------------------------------


def test_registering_sets_no_state_and_a_state_without_an_instant_happens_now(api: Running) -> None:
    registered = _register(api, 3020, "BMW", "X1")
    vehicle = api.get(f"/vehicles/3020?at_least={registered}").json()
    assert list(vehicle) == ["id", "make", "model", "state", "occurredAt", "appliedAt"]
    assert (vehicle["id"], vehicle["make"], vehicle["model"], vehicle["state"]) == (3020, "BMW", "X1", None)
    assert vehicle["occurredAt"] is None

    before = time.time()
    changed = _change(api, 3020, "quoted")

    vehicle = api.get(f"/vehicles/3020?at_least={changed}").json()
    assert vehicle["state"] == "quoted"
    assert before - 1 <= instant(vehicle["occurredAt"]) / 1e6 <= time.time()


def test_registering_again_changes_make_and_model_and_keeps_the_state(api: Running) -> None:
    _register(api, 3021, "VW", "GOLF")
    _change(api, 3021, "selling", "2022-09-01T00:00:00Z")
    last = _register(api, 3021, "VW", "ID.3")

    vehicle = api.get(f"/vehicles/3021?at_least={last}").json()
    assert (vehicle["model"], vehicle["state"]) == ("ID.3", "selling")


@pytest.mark.parametrize("text", ["é", "e\u0301", "😀" * 32, 'quote" \\ %', "\u202ertl", "line\nfeed"])
def test_make_and_model_come_back_byte_for_byte(api: Running, text: str) -> None:
    written = _register(api, 3022, text, text)

    vehicle = api.get(f"/vehicles/3022?at_least={written}").json()
    assert vehicle["make"].encode() == vehicle["model"].encode() == text.encode()


@pytest.mark.parametrize(
    ("path", "body", "named"),
    [
        ("/vehicles/3030", {}, ["/make", "/model"]),
        ("/vehicles/3030", {"make": "", "model": "m" * 129, "state": "sold"}, ["/make", "/model", "/state"]),
        ("/vehicles/3030", {"make": 1, "model": None}, ["/make", "/model"]),
        ("/vehicles/3030/states", {}, ["/state"]),
        ("/vehicles/3030/states", {"state": "broken", "occurredAt": "yesterday"}, ["/occurredAt", "/state"]),
        ("/vehicles/3030/states", {"state": "SOLD"}, ["/state"]),
        ("/vehicles/3030/states", {"state": "sold", "occurredAt": None, "note": 1}, ["/note", "/occurredAt"]),
        ("/vehicles/3030/states", {"state": "sold", "occurredAt": "2022-09-12T10:00:00"}, ["/occurredAt"]),
    ],
)
def test_what_is_no_vehicle_event_is_refused_with_every_violation_named(
    api: Running, path: str, body: dict[str, Any], named: list[str]
) -> None:
    method = "POST" if path.endswith("states") else "PUT"

    assert pointers(api.request(method, path, json=body)) == named


@pytest.mark.parametrize("vehicle", ["0", "abc", "-1", "01", "9007199254740992"])
def test_a_write_to_what_is_no_id_is_refused(api: Running, vehicle: str) -> None:
    assert len(pointers(api.put(f"/vehicles/{vehicle}", {"make": "a", "model": "b"}))) == 1
    assert len(pointers(api.post(f"/vehicles/{vehicle}/states", {"state": "sold"}))) == 1


def test_the_largest_id_is_a_vehicle(api: Running) -> None:
    written = _register(api, 2**53 - 1)

    assert api.get(f"/vehicles/{2**53 - 1}?at_least={written}").json()["id"] == 2**53 - 1


def test_a_state_from_the_future_is_refused_beyond_an_hour(tidemark: Tidemark, api: Running) -> None:
    def ahead(seconds: int) -> str:
        return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + seconds))

    before = tidemark.log.ends("tidemark.vehicles")
    answer = api.post("/vehicles/3031/states", {"state": "sold", "occurredAt": ahead(3_700)})

    problem(answer, 422, "from_the_future")
    assert tidemark.log.ends("tidemark.vehicles") == before
    _change(api, 3031, "sold", ahead(3_500))


# --- history, lists, windows --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def history(tidemark: Tidemark, api: Running) -> dict[str, str]:
    """A vehicle registered twice with four states; the tokens of its writes."""
    tokens = {
        "registered": _register(api, 4001, "SEAT", "IBIZA"),
        "selling": _change(api, 4001, "selling", "2022-03-01T00:00:10Z"),
        "quoted": _change(api, 4001, "quoted", "2022-02-01T00:00:00Z"),
        "sold": _change(api, 4001, "sold", "2022-03-01T00:00:15Z"),
    }
    tokens["renamed"] = _register(api, 4001, "SEAT", "LEON")
    tokens["back"] = _change(api, 4001, "selling", "2022-04-01T00:00:00Z")
    tidemark.settle("vehicles")
    return tokens


def test_the_history_is_newest_first_with_what_is_known_of_each(
    tidemark: Tidemark, api: Running, history: dict[str, str]
) -> None:
    items = api.get("/vehicles/4001/states").json()["items"]

    assert [(item["state"], item["position"]) for item in items] == [
        (state, history[name])
        for name, state in [("back", "selling"), ("sold", "sold"), ("selling", "selling"), ("quoted", "quoted")]
    ]
    assert list(items[0]) == ["state", "occurredAt", "recordedAt", "position"]
    appended = {
        record.offset: record.append_time for record in tidemark.log.read("tidemark.vehicles") if record.key == b"4001"
    }
    for item in items:
        assert instant(item["recordedAt"]) == appended[int(item["position"].split("-")[-1])]
    ranged = api.get("/vehicles/4001/states?from=2022-03-01T00:00:10Z&to=2022-03-01T00:00:15Z").json()["items"]
    assert [item["state"] for item in ranged] == ["selling"]
    first = api.get("/vehicles/4001/states?limit=3").json()
    second = api.get(f"/vehicles/4001/states?limit=3&cursor={first['next']}").json()
    assert first["items"] + second["items"] == items


def test_a_vehicle_as_of_a_moment(api: Running, history: dict[str, str]) -> None:
    def state(at: str) -> tuple[Any, ...]:
        vehicle = api.get(f"/vehicles/4001?at={at}").json()
        return vehicle["state"], vehicle["occurredAt"].replace(".000000", "")

    assert state("2022-02-15T00:00:00Z") == ("quoted", "2022-02-01T00:00:00Z")
    assert state("2022-03-01T00:00:10Z") == ("selling", "2022-03-01T00:00:10Z")
    assert state("2022-03-01 00:00:14+00".replace(" ", "%20")) == ("selling", "2022-03-01T00:00:10Z")
    assert state("2022-03-01T00:00:15Z") == ("sold", "2022-03-01T00:00:15Z")
    problem(api.get("/vehicles/4001?at=2022-01-31T23:59:59Z"), 404, "unknown_entity")


def test_a_vehicle_as_the_log_stood_then(api: Running, history: dict[str, str]) -> None:
    def known_at(name: str, at: str = "2022-05-01T00:00:00Z") -> Any:
        return api.get(f"/vehicles/4001?at={at}&known_at={history[name]}").json()

    assert known_at("selling")["state"] == "selling"
    assert known_at("quoted")["state"] == "selling"
    assert known_at("sold")["state"] == "sold"
    assert (known_at("sold")["model"], known_at("renamed")["model"]) == ("IBIZA", "LEON") or known_at("sold")[
        "model"
    ] == "IBIZA"
    assert known_at("back")["state"] == "selling"
    assert pointers(api.get(f"/vehicles?known_at={history['sold']}")) == ["?known_at"]
    assert pointers(api.get(f"/vehicles/4001/states?known_at={history['sold']}")) == ["?known_at"]


@pytest.fixture(scope="module")
def fleet(tidemark: Tidemark, api: Running) -> dict[int, str | None]:
    """Sixty vehicles and their states; one of the ids is not registered."""
    states: dict[int, str | None] = {}
    for number in range(60):
        vehicle = 5100 + number
        if number != 7:
            _register(api, vehicle)
        state = (None, "quoted", "selling", "sold")[number % 4]
        if state is not None:
            _change(api, vehicle, state, f"2021-01-{1 + number % 28:02}T00:00:00Z")
        if number != 7:
            states[vehicle] = state
    tidemark.settle("vehicles")
    return states


def _all(api: Running, target: str) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = []
    page = api.get(target).json()
    while True:
        items += page["items"]
        if "next" not in page:
            return items
        page = api.get(f"{target}&cursor={quote(page['next'])}").json()


def test_vehicles_are_listed_by_state(api: Running, fleet: dict[int, str | None]) -> None:
    listed = {item["id"]: item["state"] for item in _all(api, "/vehicles?limit=7")}

    assert {vehicle: listed[vehicle] for vehicle in fleet} == fleet
    assert 5107 not in listed
    assert list(listed) == sorted(listed)
    selling = [item["id"] for item in _all(api, "/vehicles?limit=7&state=selling") if item["id"] in fleet]
    assert selling == [vehicle for vehicle, state in fleet.items() if state == "selling"]


def test_vehicles_are_listed_as_of_a_moment(tidemark: Tidemark, api: Running, fleet: dict[int, str | None]) -> None:
    at = instant("2021-01-10T00:00:00Z")
    fold = expected_tables("vehicles", tidemark.log, tidemark.vector("vehicles"))
    assert isinstance(fold, Vehicles)
    expected = {vehicle: state for vehicle in fleet if (state := fold.state_at(vehicle, at)) is not None}

    listed = _all(api, "/vehicles?at=2021-01-10T00:00:00Z&limit=9")

    assert {item["id"]: item["state"] for item in listed if item["id"] in fleet} == expected
    sold = _all(api, "/vehicles?at=2021-01-10T00:00:00Z&state=sold&limit=9")
    assert [item["id"] for item in sold if item["id"] in fleet] == [v for v, s in expected.items() if s == "sold"]


def test_vehicles_come_as_csv_with_nothing_for_null(api: Running, fleet: dict[int, str | None]) -> None:
    answer = api.get("/vehicles?limit=1000", headers={"Accept": "text/csv"})

    rows = {int(row["id"]): row for row in csv.DictReader(io.StringIO(answer.content.decode(), newline=""))}
    assert {vehicle: rows[vehicle]["state"] or None for vehicle in fleet} == fleet


def test_transitions_are_counted_by_window_and_state(tidemark: Tidemark, api: Running, history: dict[str, str]) -> None:
    def windows(query: str) -> list[tuple[str, str, int]]:
        items = _all(api, f"/vehicles/windows?{query}")
        return [(item["start"].replace(".000000", ""), item["state"], item["count"]) for item in items]

    span = "from=2022-02-01T00:00:00Z&to=2022-04-02T00:00:00Z&limit=2"
    assert windows(span) == [
        ("2022-02-01T00:00:00Z", "quoted", 1),
        ("2022-03-01T00:00:10Z", "selling", 1),
        ("2022-03-01T00:00:10Z", "sold", 1),
        ("2022-04-01T00:00:00Z", "selling", 1),
    ]
    assert windows(f"{span}&state=sold") == [("2022-03-01T00:00:10Z", "sold", 1)]
    assert windows("from=2022-02-01T00:00:00Z&to=2022-04-02T00:00:00Z&step=1d&state=selling") == [
        ("2022-03-01T00:00:00Z", "selling", 1),
        ("2022-04-01T00:00:00Z", "selling", 1),
    ]


def test_an_unknown_vehicle_is_not_found(api: Running) -> None:
    problem(api.get("/vehicles/9999"), 404, "unknown_entity")
    problem(api.get("/vehicles/9999/states"), 404, "unknown_entity")


def test_reads_and_tables_agree_about_every_vehicle(tidemark: Tidemark, api: Running) -> None:
    tidemark.assert_equals_log("vehicles")
    fold = expected_tables("vehicles", tidemark.log, tidemark.vector("vehicles"))
    assert isinstance(fold, Vehicles)

    listed = {item["id"]: (item["make"], item["model"], item["state"]) for item in _all(api, "/vehicles?limit=1000")}

    assert listed == {v: (row[0], row[1], row[4]) for v, row in fold.current().items() if row[0] is not None}


def test_a_cached_answer_is_right_again_within_a_minute_of_a_late_older_state(
    api: Running, _late: _Late, request: pytest.FixtureRequest
) -> None:
    known = api.get(f"/vehicles/6001/states?at_least={_late.written}").json()["items"]
    assert [item["state"] for item in known] == ["sold", "quoted"]

    wait_for(lambda: _state(api, _late.target)[0] == "sold", "the cached answer to be right", 60, pause=0.2)

    print(f"right after {time.monotonic() - _late.since:.0f} s")
    assert time.monotonic() - _late.since < 60
