"""Names of C++ tests: ctest hands each to doctest as a filter, so none may hold what splits a list."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_name = re.compile(r'TEST_CASE(?:_FIXTURE|_TEMPLATE)?\((?:\w+, )?"((?:[^"\\]|\\.)*)"')


def bad_names(text: str) -> list[str]:
    """Names that ctest would cut in two or could not quote."""
    return [name for name in _name.findall(text) if re.search(r"[;\[\]\\]", name)]


def test_no_name_is_cut_in_two() -> None:
    found = {str(path.relative_to(ROOT)): bad_names(path.read_text()) for path in ROOT.glob("tests/**/*_test.cpp")}
    assert {path: names for path, names in found.items() if names} == {}


def test_the_check_finds_what_it_forbids() -> None:
    assert bad_names('TEST_CASE("one; two") {') == ["one; two"]
    assert bad_names('TEST_CASE("[from, to)") {') == ["[from, to)"]
    assert bad_names('TEST_CASE("a fine name, with a comma") {') == []
