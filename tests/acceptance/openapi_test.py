"""/openapi.json describes what is served: every answer it promises is had here once, and held against its words."""

from __future__ import annotations

import re
from typing import Any

import pytest
import requests
from jsonschema import Draft202012Validator

from support.answers import JSON, token
from support.tidemark import Running, Tidemark

# What any answer of HTTP may have.
_of_http = {
    *("Accept-Encoding", "Cache-Control", "Connection", "Content-Length", "Content-Security-Policy", "Content-Type"),
    *("Date", "Server", "Vary", "X-Content-Type-Options"),
}

_made = {"{key}": "described", "{id}": "7001", "{timestamp}": "2022-09-19T10:00:00Z", "{name}": "stale", "{stream}": "counters"}
_nobodys = {**_made, "{key}": "nobody", "{id}": "7999", "{name}": "none", "{stream}": "none"}
_lists = {
    "/counters": "prefix=described",
    "/counters/{key}/windows": "from=2020-01-01T00:00:00Z",
    "/vehicles": "state=sold",
    "/vehicles/{id}/states": "to=9999-01-01T00:00:00Z",
    "/vehicles/windows": "from=2020-01-01T00:00:00Z&step=1d",
    "/dead-letters": "stream=counters",
    "/dead-letters/reasons": "stream=counters",
}
_entities = {"/counters/{key}": "", "/vehicles/{id}": "", "/vehicles/{id}/timestamp/{timestamp}": ""}
_writes = {
    "/increment": ("POST", {"key": "described", "value": 1}),
    "/vehicles/{id}": ("PUT", {"make": "VW", "model": "GOLF"}),
    "/vehicles/{id}/states": ("POST", {"state": "sold", "occurredAt": "2022-09-12T12:41:41Z"}),
}
_letter = "/dead-letters/{id}"
_decisions = [f"{_letter}/redrive", f"{_letter}/discard"]
_redrive_many = "/dead-letters/redrive"
_event = "/events/{token}"
_named = ["/problems/{name}", "/generations/{stream}"]
_plain = ["/status", "/audit", "/health", "/version", "/livez", "/readyz", "/startupz", "/metrics", "/openapi.json", "/", "/docs"]


class _Description:
    """The document, and which of its answers have been seen."""

    def __init__(self, api: Running) -> None:
        self._api = api
        self._document: dict[str, Any] = api.get("/openapi.json").json()
        self.letters: list[str] = []  # ids of open ones
        self.token = ""  # of an event
        self.seen: set[tuple[str, str, str]] = set()

    def _resolve(self, value: dict[str, Any]) -> dict[str, Any]:
        while "$ref" in value:
            found: Any = self._document
            for step in value["$ref"].removeprefix("#/").split("/"):
                found = found[step]
            value = found
        return value

    def promised(self) -> set[tuple[str, str, str]]:
        """Every method, path and status."""
        return {
            (method.upper(), path, status)
            for path, methods in self._document["paths"].items()
            for method, operation in methods.items()
            for status in operation["responses"]
        }

    def ask(self, method: str, path: str, status: int, query: str = "", **options: Any) -> requests.Response:
        """Asks, and holds the answer against what is written of it. For a 404, of what nobody has made."""
        names = _nobodys if status == 404 else _made
        if path == _event:
            names = {"{token}": self.token}
        if path.startswith(_letter):
            names = {"{id}": "counters:0:0" if status == 404 else self.letters[0]}
        target = "/".join(names.get(segment, segment) for segment in path.split("/")) + (query and f"?{query}")
        answer = self._api.request(method, target, **options)
        assert answer.status_code == status, f"{answer.status_code} {answer.text}"
        operation = self._document["paths"][path][method.lower()]
        assert str(status) in operation["responses"], f"{method} {path} does not say that it answers {status}"
        described = self._resolve(operation["responses"][str(status)])
        named = set(described.get("headers", {}))
        assert set(answer.headers) - _of_http <= named, (method, path, status)
        assert named - {"Link"} <= set(answer.headers), (method, path, status)
        self._check_body(answer, described.get("content", {}))
        self.seen.add((method, path, str(status)))
        return answer

    def _check_body(self, answer: requests.Response, content: dict[str, Any]) -> None:
        if not content:
            assert answer.content == b""
            return
        kind = answer.headers["Content-Type"].split(";")[0]
        assert kind in content, kind
        if kind in ("application/json", "application/problem+json"):
            schema = {**content[kind]["schema"], "components": self._document["components"]}
            Draft202012Validator(schema).validate(answer.json())


@pytest.fixture(scope="module")
def description(tidemark: Tidemark, api: Running) -> _Description:
    """With something to read for each route."""
    description = _Description(api)
    for value in (b"{", b"[", b"\xff"):
        position = tidemark.log.put("tidemark.counters", b"described", value)
        description.letters.append(f"counters:{position.partition}:{position.offset}")
    for path, (method, body) in _writes.items():
        for _ in range(2):
            token(description.ask(method, path, 202, json=body))
    description.token = token(api.post("/increment", {"key": "described too", "value": 1}))
    token(api.post("/vehicles/7001/states", {"state": "quoted", "occurredAt": "2022-09-11T00:00:00Z"}))
    token(api.put("/vehicles/7002", {"make": "SEAT", "model": "LEON"}))
    tidemark.settle("counters")
    tidemark.settle("vehicles")
    return description


def test_every_path_says_what_its_parameters_are(api: Running) -> None:
    document = api.get("/openapi.json").json()
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            described = [
                document["components"]["parameters"][each["$ref"].split("/")[-1]] if "$ref" in each else each
                for each in operation.get("parameters", [])
            ]
            in_path = [each["name"] for each in described if each["in"] == "path" and each["required"]]
            assert sorted(in_path) == sorted(re.findall(r"\{(\w+)\}", path)), f"{method} {path}"
            assert all(each["schema"] and each["description"] for each in described), f"{method} {path}"


def test_every_answer_is_as_it_is_described_and_every_described_answer_is_given(description: _Description) -> None:
    ask = description.ask
    for path, (method, body) in _writes.items():
        ask(method, path, 400, data=b"{}", headers=JSON)
        ask(method, path, 413, data=b" " * 100_000, headers=JSON)
        ask(method, path, 415, data=b"x", headers={"Content-Type": "text/plain"})
        ask(method, path, 415, json=body, headers={"Content-Encoding": "gzip"})
    ask("POST", "/vehicles/{id}/states", 422, json={"state": "sold", "occurredAt": "9999-01-01T00:00:00Z"})
    for path, query in (_lists | _entities | {_letter: "", _event: ""}).items():
        tag = ask("GET", path, 200, query).headers["ETag"]
        ask("GET", path, 304, query, headers={"If-None-Match": tag})
        ask("GET", path, 400, "nothing=1")
        ask("GET", path, 406, headers={"Accept": "image/png"})
    for path, query in _lists.items():
        if path != "/dead-letters/reasons":
            ask("GET", path, 200, f"{query}&limit=1")
        for kind in ("text/csv", "application/x-ndjson"):
            answer = ask("GET", path, 200, query, headers={"Accept": kind})
            assert answer.headers["Content-Type"].startswith(kind)
    for path in _plain:
        ask("GET", path, 200)
    for path in [*_lists, *_entities, *_named, _letter]:
        if "{" in path:
            ask("GET", path, 404)
    for path in _named:
        ask("GET", path, 200)
    ask("GET", "/vehicles/{id}/timestamp/", 400)
    for path in [*_decisions, _redrive_many]:
        ask("POST", path, 400, json={"nothing": 1})
        ask("POST", path, 413, data=b" " * 1_100_000, headers=JSON)
        ask("POST", path, 415, data=b"x", headers={"Content-Type": "text/plain"})
    patient = {"headers": {"Prefer": "wait=30"}, "timeout": 60}
    ask("POST", _redrive_many, 200, json={"stream": "counters"}, **patient)
    ask("POST", _redrive_many, 202, json={"stream": "counters"}, headers={"Prefer": "wait=0"})
    for path in _decisions:
        ask("POST", path, 404, json={})
        ask("POST", path, 202, json={}, headers={"Prefer": "wait=0"})
        if description.letters.pop(0) and path.endswith("redrive"):
            ask("POST", path, 200, json={}, **patient)
    ask("POST", _decisions[1], 200, json={}, **patient)
    for path in _decisions:
        ask("POST", path, 409, json={})
    # The servers' absence (503) and windows that are dropped (410) are other modules' matter.
    left = {promise for promise in description.promised() - description.seen if promise[2] not in ("503", "410")}
    assert left == set()
