"""What could not be applied is shown: by reason, the newest, and whole."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from support.operating import command, increment
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
    assert found["letters"][0]["size"] == len(increment("k", 2)[1]) or found["letters"][0]["size"] > 0
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
