"""What of the local stack does not need servers."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "infra" / "dev"))

from stack.local import _name_of


def test_a_clone_made_again_at_the_same_place_has_tables_of_its_own(tmp_path: Path) -> None:
    state = tmp_path / "clone" / ".dev"
    first = _name_of(state)
    assert _name_of(state) == first
    (state / "name").unlink()
    state.rmdir()
    assert _name_of(state) != first


def test_a_log_of_an_older_version_keeps_its_tables(tmp_path: Path) -> None:
    state = tmp_path / ".dev"
    (state / "kafka").mkdir(parents=True)
    other = tmp_path / "other" / ".dev"
    (other / "kafka").mkdir(parents=True)
    assert _name_of(state) == _name_of(state)
    (state / "name").unlink()
    assert _name_of(state) == _name_of(state) != _name_of(other)
