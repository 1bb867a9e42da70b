"""The example settings files are what the programs themselves print."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from stack.private import CLONE
from stack.programs import FOLDERS


@pytest.mark.parametrize("program", FOLDERS)
def test_the_example_names_every_setting_of_the_program_with_its_default(program: str, build: Path) -> None:
    example = CLONE / "infra" / "dev" / "settings" / f"{program.removeprefix('tidemark-')}.toml.example"
    command = [build / FOLDERS[program] / program, "--print-settings-example"]

    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout

    assert example.read_text() == printed, f"refresh it: {program} --print-settings-example > {example}"
