"""A stream may ask that what comes behind a dead letter of its key waits for it, in order."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from support.answers import problem
from support.fold import BEHIND, HOLDING
from support.log import Position
from support.operating import command, increment, totals
from support.tidemark import Running, Tidemark

_program = "consumer-holding"


@pytest.fixture
def fresh(make_tidemark: Callable[..., Tidemark]) -> Iterator[Tidemark]:
    """Migrated by the program whose counters ask for it; a consumer of it runs."""
    tidemark = make_tidemark(migrated=False)
    command(tidemark, "migrate", program=_program)
    tidemark.start_consumer(version="holding", audit_interval="100ms")
    yield tidemark
    tidemark.end()


@pytest.fixture
def api(fresh: Tidemark) -> Running:
    return fresh.start_api()


def _put(tidemark: Tidemark, *records: tuple[bytes | None, bytes | None]) -> list[str]:
    """Puts records on the counters' log; what they are called if they are letters."""
    placed: list[Position] = tidemark.log.put_all("tidemark.counters", list(records))
    tidemark.settle("counters")
    return [f"{position.partition}:{position.offset}" for position in placed]


def _decide(tidemark: Tidemark, *arguments: str, code: int = 0) -> dict[str, dict[str, Any]]:
    done = tidemark.run(_program, *arguments, "--json")
    assert done.returncode == code, done.stdout + done.stderr
    return {one["letter"]: one for one in json.loads(done.stdout)["letters"]}


def _one(tidemark: Tidemark, letter: str) -> dict[str, Any]:
    return json.loads(command(tidemark, "dead-letters", "counters", letter, "--json", program=_program))


def _states(tidemark: Tidemark) -> dict[str, tuple[str, int, bool]]:
    rows = tidemark.query("select partition || ':' || \"offset\", status, attempts, holds from counters.dead_letters")
    return {letter: (status, attempts, holds) for letter, status, attempts, holds in rows}


def _decisions(tidemark: Tidemark) -> int:
    return sum(record.key == b"decision" for record in tidemark.log.read("tidemark.counters"))


def _agree(tidemark: Tidemark) -> None:
    """The tables, the independent fold, verify, a replay, and the audit."""
    tidemark.assert_equals_log("counters", holding=HOLDING)
    command(tidemark, "verify", "counters", program=_program)
    command(tidemark, "replay", "counters", program=_program)
    assert json.loads(command(tidemark, "diff", "counters", "--json", program=_program))["differing"] == 0
    tidemark.await_audit("counters")


def test_what_waits_is_released_in_order_by_an_edit_and_by_a_discard(fresh: Tidemark, api: Running, tmp_path: Path) -> None:
    first, one, _, two, null, four = _put(
        fresh,
        (b"k", b"{"),
        increment("k", 1),
        increment("other", 5),
        increment("k", 2),
        (b"k", None),
        increment("k", 4),
    )
    assert totals(fresh) == {"other": 5}
    assert set(_states(fresh).values()) == {("open", 1, True)} and len(_states(fresh)) == 5
    waiting = _one(fresh, one)
    assert (waiting["reason"], waiting["detail"], waiting["holds"]) == (BEHIND, f"came while {first} held its key", True)
    assert "holds what comes later" in command(fresh, "dead-letters", "counters", first, program=_program)

    # One that waits cannot be redriven by itself, and nothing is sent.
    said = command(fresh, "redrive", "counters", two, program=_program, code=3)
    assert f"{two} of counters waits behind {first}: redrive or discard that one first" in said
    found = problem(api.post(f"/dead-letters/counters:{two}/redrive", {}), 409, BEHIND)
    assert found["detail"] == f"it waits behind counters:{first}"
    assert _decisions(fresh) == 0

    edit = tmp_path / "edit.json"
    edit.write_bytes(increment("k", 10)[1])
    assert _decide(fresh, "redrive", "counters", first, "--edit", str(edit))[first]["status"] == "redriven"
    assert totals(fresh) == {"k": 13, "other": 5}
    assert _states(fresh) == {
        first: ("redriven", 1, False),
        one: ("redriven", 1, False),
        two: ("redriven", 1, False),
        null: ("open", 2, True),
        four: ("open", 1, True),
    }
    listed = api.get("/dead-letters?stream=counters&status=all").json()["items"]
    assert {item["letter"]: item["holds"] for item in listed} == {
        letter: holds for letter, (_, _, holds) in _states(fresh).items()
    }
    assert api.get(f"/dead-letters/counters:{four}").json()["holds"] is True

    # Of all, only the first one is tried; the other keeps waiting.
    decided = _decide(fresh, "redrive", "counters", "--all", code=1)
    assert (decided[null]["status"], decided[four]["status"]) == ("open", "open")
    assert (decided[four]["decision"], decided[four]["detail"]) == (None, f"waits behind {null}")
    assert _states(fresh)[null] == ("open", 3, True) and _states(fresh)[four] == ("open", 1, True)
    assert _decisions(fresh) == 2

    answer = api.post(f"/dead-letters/counters:{null}/discard", {"note": "nothing"}, headers={"Prefer": "wait=30"})
    assert (answer.status_code, answer.json()["status"]) == (200, "discarded")
    assert _put(fresh, increment("k", 100)) and totals(fresh) == {"k": 117, "other": 5}
    assert _states(fresh)[four] == ("redriven", 1, False)
    _agree(fresh)


def test_a_quarantined_letter_that_holds_can_be_discarded(fresh: Tidemark, api: Running) -> None:
    first, second = _put(fresh, (b"k", b"{"), increment("k", 1))
    for attempt in range(2, 7):
        decided = _decide(fresh, "redrive", "counters", first, code=1)
        assert decided[first]["status"] == ("quarantined" if attempt == 6 else "open")
    only = "is quarantined, and can only be discarded"
    assert only in command(fresh, "redrive", "counters", first, program=_program, code=3)
    assert only in problem(api.post(f"/dead-letters/counters:{first}/redrive", {}), 409, "not_open")["detail"]
    assert _states(fresh) == {first: ("quarantined", 6, True), second: ("open", 1, True)}
    assert _decide(fresh, "discard", "counters", first)[first]["status"] == "discarded"
    assert totals(fresh) == {"k": 1}
    # The same over HTTP.
    first, second = _put(fresh, (b"l", b"{"), increment("l", 2))
    for _ in range(2, 7):
        api.post(f"/dead-letters/counters:{first}/redrive", {}, headers={"Prefer": "wait=30"})
    assert _states(fresh)[first] == ("quarantined", 6, True)
    answer = api.post(f"/dead-letters/counters:{first}/discard", {}, headers={"Prefer": "wait=30"})
    assert (answer.status_code, answer.json()["status"]) == (200, "discarded")
    assert totals(fresh) == {"k": 1, "l": 2}
    _agree(fresh)


def test_many_that_wait_go_with_their_first_and_nothing_is_sent_about_them(fresh: Tidemark, api: Running) -> None:
    # Over a thousand the command line goes on by itself; a request takes a thousand.
    for key, over_http, count in (("k", False, 1_100), ("l", True, 250)):
        fresh.postgres.execute("alter table counters.totals add constraint small check (value < 1000) not valid", database=fresh.database)
        letters = _put(fresh, increment(key, 2_000), *[increment(key, 1)] * count)
        fresh.postgres.execute("alter table counters.totals drop constraint small", database=fresh.database)
        before = _decisions(fresh)
        if over_http:
            body = {"stream": "counters"}
            answer = api.post("/dead-letters/redrive", body, headers={"Prefer": "wait=30"}, timeout=60).json()
            decided = {one["letter"]: one for one in answer["letters"]}
            assert answer["more"] is False
        else:
            decided = _decide(fresh, "redrive", "counters", "--all")
        assert {letter: one["status"] for letter, one in decided.items()} == dict.fromkeys(letters, "redriven")
        sent = [letters[0]] if over_http else [letters[0], letters[1_001]]
        assert [letter for letter, one in decided.items() if one["decision"]] == sent
        assert _decisions(fresh) == before + len(sent)
        assert totals(fresh)[key] == 2_000 + count
    # None of a filter that means only such.
    first, second = _put(fresh, (b"m", b"{"), increment("m", 1))
    answer = api.post("/dead-letters/redrive", {"stream": "counters", "reason": BEHIND}, headers={"Prefer": "wait=30"})
    assert (answer.status_code, "Log-Position" in answer.headers) == (200, False)
    assert [(one["letter"], one["status"], one["decision"]) for one in answer.json()["letters"]] == [(second, "open", None)]
    assert _states(fresh)[first] == ("open", 1, True)
    command(fresh, "verify", "counters", program=_program)


def test_a_filter_gets_to_every_first_however_many_wait(fresh: Tidemark, api: Running) -> None:
    queues = [_put(fresh, (key, b"{"), *[increment(key.decode(), 1)] * 1_005) for key in (b"a", b"b")]
    before, after = sorted(queues, key=lambda letters: [int(number) for number in letters[0].split(":")])
    # A thousand go with it, and the next one is the first of those that stay, though nobody has tried it yet.
    _decide(fresh, "discard", "counters", after[0])
    answer = api.post("/dead-letters/redrive", {"stream": "counters"}, headers={"Prefer": "wait=30"}, timeout=60).json()
    sent = {one["letter"]: one["status"] for one in answer["letters"] if one["decision"]}
    assert sent == {before[0]: "open", after[1_001]: "redriven"}


def test_what_is_discarded_with_the_first_is_not_released(fresh: Tidemark) -> None:
    letters = _put(fresh, (b"k", b"{"), *[increment("k", 1)] * 120)
    decided = _decide(fresh, "discard", "counters", "--all")
    assert list(decided) == letters and {one["status"] for one in decided.values()} == {"discarded"}
    assert totals(fresh) == {}
    assert set(_states(fresh).values()) == {("discarded", 1, False)}
    assert _put(fresh, increment("k", 1)) and totals(fresh) == {"k": 1}
    _agree(fresh)
