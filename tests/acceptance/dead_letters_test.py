"""What could not be applied is shown: by reason, the newest, and whole."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from support.operating import command, increment, totals
from support.tidemark import Tidemark


@pytest.fixture(scope="module")
def own(make_tidemark: Callable[..., Tidemark]) -> Iterator[Tidemark]:
    """With six letters of three reasons among good records."""
    tidemark = make_tidemark()
    tidemark.start_consumer()
    headers = [("plain", b"text"), ("twice", b"1"), ("twice", b"\xff\x00")]
    tidemark.log.put_all("tidemark.counters", [increment("good", 1)] * 5, partition=0)
    tidemark.log.put_all("tidemark.counters", [(b"k", b"{"), (b"k", None), (None, b"\x1b[2J\x00\xff")], partition=0, headers=headers)
    tidemark.log.put_all("tidemark.counters", [(b"other", increment("k", n)[1]) for n in range(3)], partition=1)
    tidemark.settle("counters")
    yield tidemark
    tidemark.end()


def _json(tidemark: Tidemark, *arguments: str) -> dict[str, Any]:
    return json.loads(command(tidemark, "dead-letters", "counters", *arguments, "--json"))


def test_dead_letters_are_counted_by_reason(own: Tidemark) -> None:
    found = _json(own)
    assert (found["stream"], found["generation"], found["count"]) == ("counters", 1, 6)
    assert [(one["reason"], one["status"], one["count"]) for one in found["reasons"]] == [
        ("key_mismatch", "open", 3),
        ("malformed", "open", 2),
        ("tombstone", "open", 1),
    ]
    for one in found["reasons"]:
        assert one["oldest"] <= one["newest"]
    assert len(found["letters"]) == 6
    assert [one["appendTime"] for one in found["letters"]] == sorted(
        (one["appendTime"] for one in found["letters"]), reverse=True
    )


def test_dead_letters_of_one_reason_and_only_the_newest(own: Tidemark) -> None:
    found = _json(own, "--reason", "key_mismatch", "--top", "2")
    assert (found["count"], len(found["letters"])) == (3, 2)
    assert {one["reason"] for one in found["letters"]} == {"key_mismatch"}
    assert found["letters"][0]["key"] == "other"
    assert found["letters"][0]["size"] > 100
    assert _json(own, "--reason", "nothing")["count"] == 0


def test_a_dead_letter_is_shown_byte_for_byte(own: Tidemark) -> None:
    rows = own.query(
        'select partition, "offset", key, value, reason, detail from counters.dead_letters order by partition, "offset"'
    )
    assert len(rows) == 6
    for partition, offset, key, value, reason, detail in rows:
        letter = _json(own, f"{partition}:{offset}")
        assert (letter["letter"], letter["topic"]) == (f"{partition}:{offset}", "tidemark.counters")
        assert (letter["reason"], letter["detail"], letter["status"], letter["attempts"]) == (reason, detail, "open", 1)
        for name, stored in (("key", key), ("value", value)):
            if f"{name}Base64" in letter:
                assert base64.b64decode(letter[f"{name}Base64"]) == bytes(stored)
            else:
                assert letter[name] == (None if stored is None else bytes(stored).decode())
        if partition == 0:
            assert letter["headers"] == [
                {"name": "plain", "value": "text"},
                {"name": "twice", "value": "1"},
                {"name": "twice", "valueBase64": "/wA="},
            ]
        else:
            assert letter["headers"] == []


def test_dead_letters_do_not_move_a_terminals_cursor(own: Tidemark) -> None:
    listed = command(own, "dead-letters", "counters")
    assert "6 dead letters" in listed
    letters = [line.split()[0] for line in listed.splitlines() if line[:1].isdigit()]
    assert len(letters) == 6
    shown = [command(own, "dead-letters", "counters", letter) for letter in letters]
    for text in (listed, *shown):
        assert all(character.isprintable() or character == "\n" for character in text)
    assert any("reason    tombstone" in text and "value     null" in text for text in shown)
    assert any("header    plain: text" in text for text in shown)


def test_a_dead_letter_that_is_none_is_refused(own: Tidemark) -> None:
    assert "has no dead letter 0:0" in command(own, "dead-letters", "counters", "0:0", code=3)
    for wrong in ("0", "0:", ":1", "0:-1", "-1:0", "0:1x", "a:b", "99999999999:0", "0:99999999999999999999"):
        assert "letter" in command(own, "dead-letters", "counters", "--", wrong, code=2), wrong
    assert "there is no stream" in command(own, "dead-letters", "nothing", code=3)


# --- decisions -----------------------------------------------------------------------------------------------


@pytest.fixture
def fresh(make_tidemark: Callable[..., Tidemark]) -> Iterator[Tidemark]:
    """Migrated; a consumer runs."""
    tidemark = make_tidemark()
    tidemark.start_consumer()
    yield tidemark
    tidemark.end()


def _letter(tidemark: Tidemark, key: bytes | None, value: bytes | None) -> str:
    """Puts a record that cannot be applied; its name as a letter."""
    position = tidemark.log.put("tidemark.counters", key, value)
    tidemark.settle("counters")
    return f"{position.partition}:{position.offset}"


def _decide(tidemark: Tidemark, *arguments: str, code: int = 0) -> list[dict[str, Any]]:
    done = tidemark.run("consumer", *arguments, "--json")
    assert done.returncode == code, done.stdout + done.stderr
    return json.loads(done.stdout)["letters"]


def _agree(tidemark: Tidemark) -> None:
    """The tables, the independent fold, verify, and a replay."""
    tidemark.assert_equals_log("counters")
    command(tidemark, "verify", "counters")
    command(tidemark, "replay", "counters")
    assert json.loads(command(tidemark, "diff", "counters", "--json"))["differing"] == 0


def test_an_edited_letter_counts_where_the_decision_stands(fresh: Tidemark, tmp_path: Path) -> None:
    letter = _letter(fresh, b"k", increment("k", 1)[1].replace(b'"value": 1', b'"value": "one"'))
    edit = tmp_path / "edit.json"
    edit.write_bytes(increment("k", 41)[1] + b"\n")
    [decided] = _decide(fresh, "redrive", "counters", letter, "--edit", str(edit))
    assert (decided["letter"], decided["status"]) == (letter, "redriven")
    assert totals(fresh) == {"k": 41}
    partition, offset = decided["decision"].split(":")
    assert fresh.query("select partition, min_offset, max_offset from counters.windows") == [
        (int(partition), int(offset), int(offset))
    ]
    # Its record is kept as it was, and a second press changes nothing.
    assert b'"one"' in fresh.query("select value from counters.dead_letters")[0][0].tobytes()
    assert "is redriven" in command(fresh, "redrive", "counters", letter, code=3)
    fresh.log.put(
        "tidemark.counters",
        None,
        json.dumps(
            {"specversion": "1.0", "id": "again", "source": "s", "type": "tidemark.dead_letter.redriven.v1"}
            | {"data": {"offset": int(letter.split(":")[1]), "edit": edit.read_text()}}
        ).encode(),
        partition=int(partition),
    )
    fresh.settle("counters")
    assert totals(fresh) == {"k": 41}
    _agree(fresh)


def test_a_letter_that_stays_one_is_quarantined_after_six_attempts(fresh: Tidemark) -> None:
    letter = _letter(fresh, b"k", b"{")
    for attempt in range(2, 7):
        [decided] = _decide(fresh, "redrive", "counters", letter, code=1)
        assert decided["status"] == ("quarantined" if attempt == 6 else "open")
        assert decided["detail"].startswith(f"attempt {attempt}: malformed: ")
    assert "is quarantined" in command(fresh, "redrive", "counters", letter, code=3)
    assert _json(fresh, letter)["attempts"] == 6
    assert _json(fresh)["reasons"][0]["status"] == "quarantined"
    assert fresh.query("select applied, parked from counters.offsets where parked > 0") == [(1 + 5, 1)]
    _agree(fresh)


def test_a_decision_that_is_sent_twice_is_one_attempt(fresh: Tidemark) -> None:
    fresh.log.put("tidemark.counters", b"k", b"{")
    fresh.settle("counters")
    [(partition, offset)] = fresh.query('select partition, "offset" from counters.dead_letters')
    command(fresh, "redrive", "counters", f"{partition}:{offset}", code=1)
    [decision] = [one for one in fresh.log.read("tidemark.counters") if one.key == b"decision"]
    assert decision.value is not None and json.loads(decision.value)["data"] == {"offset": offset, "attempts": 1}
    for _ in range(7):
        fresh.log.put("tidemark.counters", b"decision", decision.value, partition=partition)
    fresh.assert_equals_log("counters")
    assert fresh.query("select attempts, status from counters.dead_letters") == [(2, "open")]


def test_letters_are_discarded_with_a_note(fresh: Tidemark) -> None:
    letters = [_letter(fresh, b"k", b"{"), _letter(fresh, b"k", None)]
    assert "which ones?" in command(fresh, "discard", "counters", code=3)
    planned = _decide(fresh, "discard", "counters", "--all", "--dry-run")
    assert sorted(one["letter"] for one in planned) == sorted(letters)
    assert {(one["decision"], one["status"]) for one in planned} == {(None, "open")}
    [decided] = _decide(fresh, "discard", "counters", "--reason", "tombstone", "--note", "a test's 🚗")
    assert (decided["letter"], decided["status"]) == (letters[1], "discarded")
    assert fresh.query("select note from counters.dead_letters where status = 'discarded'") == [("a test's 🚗",)]
    assert "1 discarded" in command(fresh, "discard", "counters", "--all")
    assert "no letter is open" in command(fresh, "discard", "counters", "--all")
    assert "is discarded" in command(fresh, "redrive", "counters", letters[0], code=3)
    _agree(fresh)


def test_many_letters_are_redriven_when_the_fold_takes_them_at_last(fresh: Tidemark) -> None:
    """As when a limit was lifted: the database refused them, and takes them now."""
    fresh.postgres.execute("alter table counters.totals add constraint small check (value < 100)", database=fresh.database)
    fresh.log.put_all("tidemark.counters", [increment("k", 1_000 + n) for n in range(20)] + [increment("k", 7)])
    fresh.settle("counters")
    assert (totals(fresh), _json(fresh)["count"]) == ({"k": 7}, 20)
    # While the limit stands a decision is refused like the record was: it is a dead letter itself, the letter stays.
    first = fresh.query('select partition || \':\' || "offset" from counters.dead_letters order by "offset" limit 1')[0][0]
    [decided] = _decide(fresh, "redrive", "counters", first, code=1)
    assert decided["status"] == "open"
    assert _json(fresh)["count"] == 21
    # A dry run names them and sends nothing.
    ends = fresh.log.ends("tidemark.counters")
    planned = _decide(fresh, "redrive", "counters", "--reason", "refused_by_database", "--dry-run")
    assert len(planned) == 20 and {(one["decision"], one["status"]) for one in planned} == {(None, "open")}
    assert fresh.log.ends("tidemark.counters") == ends
    # With many, one refused hundred is enough to know.
    fresh.log.put_all("tidemark.counters", [increment("k", 2_000 + n) for n in range(130)])
    fresh.settle("counters")
    done = fresh.run("consumer", "redrive", "counters", "--reason", "refused_by_database")
    assert done.returncode == 1
    assert "the decision itself became a dead letter" in done.stdout and "nothing was sent" in done.stdout
    assert fresh.query("select count(*) from counters.dead_letters") == [(21 + 130 + 100,)]
    command(fresh, "verify", "counters")
    fresh.postgres.execute("alter table counters.totals drop constraint small", database=fresh.database)
    # The decision that became a letter is not meant with the others.
    decided = _decide(fresh, "redrive", "counters", "--reason", "refused_by_database")
    assert [one["status"] for one in decided] == ["redriven"] * 150
    assert totals(fresh) == {"k": 7 + sum(1_000 + n for n in range(20)) + sum(2_000 + n for n in range(130))}
    command(fresh, "verify", "counters")


def test_a_fold_that_was_fixed_takes_what_was_decided_about(make_tidemark: Callable[..., Tidemark], tmp_path: Path) -> None:
    """A version that refuses what is over a million, and tables that refuse a key: decided about, then mended."""
    faulty = "consumer-next"
    own = make_tidemark(migrated=False)
    command(own, "migrate", program=faulty)
    own.start_consumer(0, version="next")
    own.postgres.execute("alter table counters.totals add constraint strange check (key <> 'redriven')", database=own.database)
    values = {"redriven": 5, "tried": 2_000_000, "edited": 3_000_000, "discarded": 4_000_000, "left": 6_000_000}
    letters = {key: _letter(own, *increment(key, value)) for key, value in values.items()}
    own.log.put_all("tidemark.counters", [increment("plain", 1)])
    own.postgres.execute("alter table counters.totals drop constraint strange", database=own.database)
    edit = tmp_path / "edit.json"
    edit.write_bytes(increment("edited", 7)[1])
    command(own, "redrive", "counters", letters["redriven"], program=faulty)
    command(own, "redrive", "counters", letters["tried"], program=faulty, code=1)
    command(own, "redrive", "counters", letters["edited"], "--edit", str(edit), program=faulty)
    command(own, "discard", "counters", letters["discarded"], "--note", "too much", program=faulty)

    def decided() -> dict[str, tuple[str, int]]:
        rows = own.query("select convert_from(key, 'UTF8'), status, attempts from counters.dead_letters")
        return {key: (status, attempts) for key, status, attempts in rows}

    before = {
        "redriven": ("redriven", 1),
        "tried": ("open", 2),
        "edited": ("redriven", 1),
        "discarded": ("discarded", 1),
        "left": ("open", 1),
    }
    assert decided() == before
    assert totals(own) == {"plain": 1, "redriven": 5, "edited": 7}
    command(own, "verify", "counters", program=faulty)

    # Where the records apply there are no letters, and decisions about what is none change nothing.
    command(own, "replay", "counters")
    own.start_consumer(1)
    found = json.loads(command(own, "diff", "counters", "--json", code=1).splitlines()[0])
    differing = {one["name"]: (one["added"], one["removed"], one["changed"]) for one in found["tables"]}
    # What live had redriven stands at its own place now, and what live had edited has its own value.
    assert differing["dead_letters"] == (0, 5, 0)
    assert differing["totals"] == differing["windows"] == (3, 0, 2)
    command(own, "verify", "counters", "2")
    command(own, "promote", "counters", "--accept-diff")
    assert totals(own) == {"plain": 1, **values}
    assert decided() == {}
    # The four decisions have applied, as events do.
    assert own.query("select sum(applied), sum(duplicates), sum(parked) from counters.offsets") == [(4 + 6 + 4, 0, 0)]
    own.assert_equals_log("counters")
    # Going back, everything is as it was decided.
    command(own, "rollback", "counters")
    assert decided() == before
    assert totals(own) == {"plain": 1, "redriven": 5, "edited": 7}
    command(own, "verify", "counters", program=faulty)
    own.end()


def test_what_would_be_no_decision_is_not_sent(fresh: Tidemark, tmp_path: Path) -> None:
    letter = _letter(fresh, b"k", b"{")
    ends = fresh.log.ends("tidemark.counters")
    edit = tmp_path / "edit"
    for wrong in (b"a\x00b", b"\xff", b"\n", b"x" * 500_001):
        edit.write_bytes(wrong)
        command(fresh, "redrive", "counters", letter, "--edit", str(edit), code=3)
    edit.write_bytes(b"{}")
    command(fresh, "redrive", "counters", "--all", "--edit", str(edit), code=3)
    command(fresh, "redrive", "counters", letter, "--edit", str(tmp_path / "none"), code=3)
    assert "fingerprint" in command(fresh, "discard", "counters", letter, program="consumer-next", code=3)
    done = fresh.run("consumer", "discard", "counters", letter, "--note", "n" * 2_001)
    assert done.returncode == 2
    assert fresh.log.ends("tidemark.counters") == ends


def test_a_decision_waits_for_a_consumer_and_holds_without_one(make_tidemark: Callable[..., Tidemark]) -> None:
    tidemark = make_tidemark()
    consumer = tidemark.start_consumer()
    letter = _letter(tidemark, b"k", b"{")
    consumer.terminate()
    assert "not folded yet" in command(tidemark, "discard", "counters", letter, "--timeout", "1s", code=1)
    tidemark.start_consumer()
    tidemark.settle("counters")
    assert _json(tidemark, letter)["status"] == "discarded"
    tidemark.end()


def test_decisions_that_are_none_are_parked(fresh: Tidemark) -> None:
    kinds = ("tidemark.dead_letter.redriven.v1", "tidemark.dead_letter.discarded.v1")
    datas: list[Any] = [None, {}, {"offset": -1}, {"offset": "1"}, {"offset": 1.5}, {"offset": 0, "edit": "", "note": ""}]
    records = [
        (b"d", json.dumps({"specversion": "1.0", "id": "1", "source": "s", "type": kind, "data": data}).encode())
        for kind in kinds
        for data in datas
    ]
    fresh.log.put_all("tidemark.counters", records)
    # About what is no letter, or comes later: nothing.
    fresh.log.put_all(
        "tidemark.counters",
        [
            (b"d", json.dumps({"specversion": "1.0", "id": "1", "source": "s", "type": kind, "data": {"offset": n}}).encode())
            for kind in kinds
            for n in (0, 10**6, 2**63 - 1)
        ],
    )
    fresh.settle("counters")
    assert _json(fresh)["count"] == len(records)
    assert {one["reason"] for one in _json(fresh)["reasons"]} == {"invalid_data"}
    _agree(fresh)
