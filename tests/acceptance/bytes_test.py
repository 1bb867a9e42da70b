"""Keys and bodies byte for byte: what goes in comes back the same, and what must not come in does no harm."""

from __future__ import annotations

import json
from pathlib import Path
from urllib.parse import quote

import pytest

from support.answers import JSON, RawAnswer, exchange, pointers, problem, token
from support.tidemark import Running, Tidemark

_corpus = Path(__file__).resolve().parents[1] / "fuzz" / "corpus" / "json"

_keys = [
    "k",
    "k" * 256,
    "€" * 85 + "k",
    "😀" * 64,
    "with 'single' and \"double\" quotes",
    "100%",
    "%2F",
    "%",
    "a/b",
    "/",
    "//a//",
    ".",
    "..",
    "../../etc/passwd",
    "a+b",
    "a b",
    " leading and trailing ",
    "a?b=c&d#e",
    "\\back\\slash",
    "line\nfeed\r\n",
    "\x01\x1f\x7f",
    "é",
    "e\u0301",
    "\ufeff",
    "\uffff",
    "\U0010ffff",
    "\u202eright to left",
    "😀 emoji 👩‍👩‍👧‍👦",
    "'; drop table totals; --",
    "null",
    "$1",
]


def _get(api: Running, target: str) -> RawAnswer:
    """A GET of exactly this target, which an HTTP library would tidy up."""
    return exchange(api, f"GET {target} HTTP/1.1\r\nHost: tidemark\r\n\r\n".encode())[0]


def test_keys_come_back_byte_for_byte_and_each_is_its_own(tidemark: Tidemark, api: Running) -> None:
    tokens = [token(api.post("/increment", {"key": key, "value": number})) for number, key in enumerate(_keys, start=1)]

    # Twice each: as few characters escaped as a path allows, and all of them.
    for key, value, written in zip(_keys, range(1, len(_keys) + 1), tokens, strict=True):
        fully = "".join(f"%{byte:02x}" for byte in key.encode())
        for segment in {quote(key, safe="+'$&=;") if key not in (".", "..") else fully, fully}:
            answer = _get(api, f"/counters/{segment}?at_least={written}")
            assert answer.status == 200, (key, answer.body)
            found = json.loads(answer.body)
            assert (found["key"].encode(), found["value"]) == (key.encode(), value)
    stored = tidemark.query("select key from counters.totals where key = any(%s)", _keys)
    assert {key.encode() for (key,) in stored} == {key.encode() for key in _keys}


def test_a_plus_is_itself_in_a_path_and_a_space_in_a_query(api: Running) -> None:
    written = [token(api.post("/increment", {"key": key, "value": 1})) for key in ("plus+sign", "plus sign")]

    def listed(prefix: str) -> list[str]:
        answer = _get(api, f"/counters?prefix={prefix}&at_least={','.join(written)}")
        return [item["key"] for item in json.loads(answer.body)["items"]]

    assert listed("plus+s") == listed("plus%20s") == ["plus sign"]
    assert listed("plus%2Bs") == ["plus+sign"]
    for segment in ("plus+sign", "plus%2Bsign"):
        assert json.loads(_get(api, f"/counters/{segment}").body)["key"] == "plus+sign"


@pytest.mark.parametrize(
    "body",
    [
        b'{"key":"a\\u0000b","value":1}',
        b'{"key":"a\x00b","value":1}',
        b'{"key":"\xff","value":1}',
        b'{"key":"\xc3","value":1}',
        b'{"key":"\xed\xa0\x80","value":1}',
        b'{"key":"\xc0\x80","value":1}',
        b'{"key":"\\ud800","value":1}',
        b'{"key":"' + b"k" * 257 + b'","value":1}',
        b'{"key":"' + "€".encode() * 86 + b'","value":1}',
        b'{"key":"' + b"k" * 10_000 + b'","value":1}',
    ],
    ids=lambda body: repr(body)[:40],
)
def test_keys_that_could_not_come_back_the_same_are_refused(tidemark: Tidemark, api: Running, body: bytes) -> None:
    before = tidemark.log.ends("tidemark.counters")

    assert len(pointers(api.request("POST", "/increment", data=body, headers=JSON))) == 1

    assert tidemark.log.ends("tidemark.counters") == before


@pytest.mark.parametrize("segment", ["%00", "a%00b", "%ff", "%c3", "%zz", "%", "%4", "k" * 257])
def test_a_path_with_no_possible_key_is_refused(api: Running, segment: str) -> None:
    answer = _get(api, f"/counters/{segment}")

    assert answer.status == 400, answer.body
    assert json.loads(answer.body)["errors"]


def _accepted_or_refused(api: Running, body: bytes, path: str = "/increment") -> int:
    answer = api.request("POST", path, data=body, headers=JSON)
    if answer.status_code == 413:
        assert "16384" in problem(answer, 413, "content_too_large")["detail"].replace(",", "")
    elif answer.status_code != 202:
        pointers(answer)
    return answer.status_code


@pytest.mark.parametrize(
    ("body", "status"),
    [
        # Each of these ends a process that gives it to RapidJSON's document or number parser.
        (b'{"key":"killer","value":1.' + b"0" * 400 + b"1e-2147483639}", 400),
        (b"1." + b"0" * 400 + b"1e-2147483639", 400),
        (b"[" * 200_000, 413),
        (b"[" * 16_000, 400),
        (b'{"a":' * 3_000, 400),
        (b'{"key":"' + b"k" * 1_000_000 + b'","value":1}', 413),
        (b'{"key":"killer","value":' + b"9" * 10_000 + b"}", 400),
        (b'{"key":"killer","value":1e400}', 400),
        (b"{" + b",".join(b'"m%d":1' % n for n in range(1_500)) + b"}", 400),
    ],
    ids=lambda value: repr(value)[:30] if isinstance(value, bytes) else None,
)
def test_killers_do_nothing(api: Running, body: bytes, status: int) -> None:
    before = api.pid

    assert _accepted_or_refused(api, body) == status

    assert api.pid == before
    token(api.post("/increment", {"key": "after a killer", "value": 1}))


def test_everything_the_fuzzers_know_is_accepted_or_refused(api: Running) -> None:
    before = api.pid
    seeds = sorted(_corpus.iterdir())
    assert len(seeds) > 50

    for path in ("/increment", "/vehicles/77/states"):
        statuses = {seed.name: _accepted_or_refused(api, seed.read_bytes(), path) for seed in seeds}
        assert 400 in statuses.values()

    assert api.pid == before


# "One request in" is one request counted by both sides, or 4xx and the connection closed.
_increment = b'{"key":"hidden","value":1}'
_chunked = b"1a\r\n" + _increment + b"\r\n0\r\n\r\n"
_start = b"POST /increment HTTP/1.1\r\nHost: tidemark\r\nContent-Type: application/json\r\n"
_length = b"Content-Length: 26\r\n"


@pytest.mark.parametrize(
    "sent",
    [
        _start + b"Transfer-Encoding: gzip\r\n\r\n" + _increment,
        _start + b"Transfer-Encoding: identity\r\n\r\n" + _increment,
        _start + b"Transfer-Encoding: xchunked\r\n" + _length + b"\r\n" + _increment,
        _start + b"Transfer-Encoding: chunked, identity\r\n\r\n" + _chunked,
        _start + b"Transfer-Encoding: chunked\r\n" + _length + b"\r\n" + _chunked,
        _start + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n" + _chunked,
        _start + _length + _length + b"\r\n" + _increment,
        _start + b"Content-Length: 26, 26\r\n\r\n" + _increment,
        _start + b"Content-Length: +26\r\n\r\n" + _increment,
        _start + b"Content-Length: 26 \t\r\nContent-Length: 0\r\n\r\n" + _increment,
        _start + b"Host: other\r\n" + _length + b"\r\n" + _increment,
        _start.replace(b"Host: tidemark\r\n", b"") + _length + b"\r\n" + _increment,
        _start + b"X-Folded: a\r\n b\r\n" + _length + b"\r\n" + _increment,
        _start + b"X-Name : a\r\n" + _length + b"\r\n" + _increment,
        _start + b"X-Nul: a\x00b\r\n" + _length + b"\r\n" + _increment,
        _start.replace(b"HTTP/1.1", b"HTTP/1.0") + b"Transfer-Encoding: chunked\r\n\r\n" + _chunked,
        _start + b"Transfer-Encoding: chunked\r\n\r\n" + _chunked[:-2] + b"X-Trailer: a\r\n\r\n",
        _start.replace(b"/increment", b"http://other/increment") + _length + b"\r\n" + _increment,
        _start.replace(b"HTTP/1.1", b"HTTP/2.0") + _length + b"\r\n" + _increment,
    ],
    ids=lambda sent: repr(sent.removeprefix(_start))[:50],
)
def test_a_request_whose_frame_is_ambiguous_is_refused_and_hides_none(
    tidemark: Tidemark, api: Running, sent: bytes
) -> None:
    before = tidemark.log.ends("tidemark.counters")
    smuggled = b"GET /version HTTP/1.1\r\nHost: tidemark\r\n\r\n"

    answers = exchange(api, sent + smuggled, answers=2)

    assert [answer.status for answer in answers] in ([400], [501], [505]), answers
    assert answers[0].closed
    assert tidemark.log.ends("tidemark.counters") == before


def test_a_chunked_body_is_read_like_any_other(api: Running) -> None:
    answers = exchange(
        api,
        _start + b"Transfer-Encoding: Chunked\r\n\r\n" + _chunked + b"GET /version HTTP/1.1\r\nHost: a\r\n\r\n",
        answers=2,
    )

    assert [answer.status for answer in answers] == [202, 200]
