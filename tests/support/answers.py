"""Reading answers of the API: positions, instants, problems; and exchanges that an HTTP library would not make."""

from __future__ import annotations

import re
import socket
from dataclasses import dataclass
from typing import Any

import requests

from support.fold import parse_instant
from support.tidemark import Running

JSON = {"Content-Type": "application/json"}


def token(answer: requests.Response, status: int = 202) -> str:
    """Where an accepted write stands in the log."""
    assert answer.status_code == status, answer.text
    return answer.headers["Log-Position"]


def places(text: str) -> dict[int, int]:
    """A token's offsets by partition."""
    parts = [part.split("-") for part in text.split(",")]
    return {int(part[2]): int(part[3]) for part in parts}


def instant(text: str) -> int:
    """Microseconds since the epoch."""
    found = parse_instant(text)
    assert found is not None, text
    return found


def problem(answer: requests.Response, status: int, name: str) -> dict[str, Any]:
    """The answer's problem, after checking that it is one of this kind and has all that each must have."""
    assert answer.status_code == status, f"{answer.status_code} {answer.text}"
    assert answer.headers["Content-Type"].split(";")[0] == "application/problem+json"
    body: dict[str, Any] = answer.json()
    assert body["type"] == f"/problems/{name}", body
    assert body["status"] == status
    assert body["title"]
    assert body["detail"] == body["error"] != ""
    assert re.fullmatch("[0-9a-f]{32}", body["trace_id"])
    assert ("Retry-After" in answer.headers) == (status in (429, 503))
    return body


def pointers(answer: requests.Response) -> list[str]:
    """What a 400 names, sorted; a thing that is wrong in two ways is named twice."""
    violations = problem(answer, 400, "invalid_request")["errors"]
    assert all(violation["detail"] for violation in violations)
    return sorted(violation["pointer"] for violation in violations)


@dataclass
class RawAnswer:
    """What came back for bytes that were sent as they are."""

    status: int
    head: str
    body: bytes
    closed: bool


def exchange(api: Running, sent: bytes, *, answers: int = 1, deadline: float = 10) -> list[RawAnswer]:
    """Sends bytes on a connection of its own; returns up to `answers` answers, fewer when the server closes."""
    host, port = api.url.removeprefix("http://").split(":")
    found: list[RawAnswer] = []
    with socket.create_connection((host, int(port)), timeout=deadline) as connection:
        connection.sendall(sent)
        received = b""
        while len(found) < answers:
            head, separator, rest = received.partition(b"\r\n\r\n")
            if separator:
                text = head.decode("latin-1")
                length = re.search(r"(?im)^content-length: *(\d+)", text)
                size = int(length[1]) if length else 0
                if len(rest) >= size:
                    closes = re.search(r"(?im)^connection: *close", text) is not None
                    found.append(RawAnswer(int(text.split()[1]), text, rest[:size], closes))
                    received = rest[size:]
                    continue
            try:
                piece = connection.recv(65536)
            except ConnectionResetError:
                break
            if not piece:
                break
            received += piece
    return found
