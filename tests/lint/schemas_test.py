"""The JSON Schemas of the events agree with the code and with the golden events."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

ROOT = Path(__file__).resolve().parents[2]
SCHEMAS = sorted((ROOT / "schemas").glob("*.json"))
GOLDEN = sorted((ROOT / "tests/golden/events").glob("*.json"))
ENVELOPE = "cloudevent.v1"
LARGEST = 2**53 - 1


def validator(name):
    return Draft202012Validator(json.loads((ROOT / "schemas" / f"{name}.json").read_text("utf-8")))


def name_of(event_type):
    """"counter.incremented.v1" of "tidemark.counter.incremented.v1"."""
    return event_type.removeprefix("tidemark.")


def types_in_code():
    found = set()
    for header in (ROOT / "schemas").glob("*.h"):
        found |= set(re.findall(r'"(tidemark\.[a-z_.]+\.v\d+)"', header.read_text("utf-8")))
    return found


def test_every_type_has_a_schema_and_every_schema_a_type():
    assert types_in_code(), "no event type found in schemas/*.h"
    expected = {name_of(event_type) for event_type in types_in_code()} | {ENVELOPE}
    assert {path.stem for path in SCHEMAS} == expected


@pytest.mark.parametrize("path", SCHEMAS, ids=lambda path: path.stem)
def test_a_schema_is_valid_and_named_like_its_file(path):
    schema = json.loads(path.read_text("utf-8"))
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert schema["$id"] == f"urn:tidemark:schema:{path.stem}"
    Draft202012Validator.check_schema(schema)


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_a_golden_event_is_valid(path):
    event = json.loads(path.read_text("utf-8"))
    validator(ENVELOPE).validate(event)
    validator(name_of(event["type"])).validate(event["data"])


def test_there_are_golden_events_of_every_type():
    assert {json.loads(path.read_text("utf-8"))["type"] for path in GOLDEN} == types_in_code()


ENVELOPE_REQUIRED = {"specversion": "1.0", "id": "1", "source": "/s", "type": "t"}

REFUSED = [
    ("counter.incremented.v1", {}),
    ("counter.incremented.v1", {"key": "a"}),
    ("counter.incremented.v1", {"value": 1}),
    ("counter.incremented.v1", {"key": "", "value": 1}),
    ("counter.incremented.v1", {"key": 1, "value": 1}),
    ("counter.incremented.v1", {"key": "a\0b", "value": 1}),
    ("counter.incremented.v1", {"key": "k" * 257, "value": 1}),
    ("counter.incremented.v1", {"key": "a", "value": "1"}),
    ("counter.incremented.v1", {"key": "a", "value": 1.5}),
    ("counter.incremented.v1", {"key": "a", "value": LARGEST + 1}),
    ("counter.incremented.v1", {"key": "a", "value": -LARGEST - 1}),
    ("counter.incremented.v1", ["key", "value"]),
    ("vehicle.registered.v1", {"id": 0, "make": "a", "model": "b"}),
    ("vehicle.registered.v1", {"id": LARGEST + 1, "make": "a", "model": "b"}),
    ("vehicle.registered.v1", {"id": 1, "make": "", "model": "b"}),
    ("vehicle.registered.v1", {"id": 1, "make": "a", "model": "b" * 129}),
    ("vehicle.registered.v1", {"id": 1, "make": "a"}),
    ("vehicle.state_changed.v1", {"id": 1, "state": "parked"}),
    ("vehicle.state_changed.v1", {"id": 1}),
    ("vehicle.state_changed.v1", {"state": "sold"}),
    ("dead_letter.redriven.v1", {}),
    ("dead_letter.redriven.v1", {"offset": -1}),
    ("dead_letter.redriven.v1", {"offset": 1, "edit": ""}),
    ("dead_letter.discarded.v1", {"offset": "1"}),
    ("dead_letter.discarded.v1", {"offset": 1, "note": 1}),
    ("log.created.v1", {}),
    ("log.created.v1", {"uuid": "not one"}),
    (ENVELOPE, {}),
    (ENVELOPE, ENVELOPE_REQUIRED | {"specversion": "0.3"}),
    (ENVELOPE, ENVELOPE_REQUIRED | {"id": ""}),
    (ENVELOPE, ENVELOPE_REQUIRED | {"id": None}),
    (ENVELOPE, ENVELOPE_REQUIRED | {"type": "t" * 257}),
    (ENVELOPE, ENVELOPE_REQUIRED | {"time": 1}),
    (ENVELOPE, ENVELOPE_REQUIRED | {"idempotencykey": ""}),
    (ENVELOPE, ENVELOPE_REQUIRED | {"data_base64": "AA=="}),
    (ENVELOPE, ENVELOPE_REQUIRED | {"datacontenttype": "text/plain"}),
    (ENVELOPE, ENVELOPE_REQUIRED | {"subject": ["a"]}),
    (ENVELOPE, ENVELOPE_REQUIRED | {"subject": 1.5}),
]


@pytest.mark.parametrize(("name", "instance"), REFUSED, ids=lambda value: str(value)[:60])
def test_a_schema_refuses_what_the_code_refuses(name, instance):
    assert not validator(name).is_valid(instance)


@pytest.mark.parametrize(
    "more",
    [{}, {"time": None, "data_base64": None}, {"datacontenttype": "application/vnd.x+json; charset=utf-8"}, {"x": True, "y": -7}],
    ids=str,
)
def test_the_envelope_accepts_what_the_code_accepts(more):
    validator(ENVELOPE).validate(ENVELOPE_REQUIRED | more)
