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


@pytest.mark.parametrize(
    ("program", "words", "offered"),
    [
        ("tidemark-consumer", ["re"], {"replay", "redrive"}),
        ("tidemark-consumer", ["run", "--log-level", ""], {"debug", "info"}),
        ("tidemark-consumer", ["--log-level", "info", "diff", "--m"], {"--max-diff"}),
        ("tidemark-consumer", ["verify", ""], {"counters", "vehicles"}),
        ("tidemark-consumer", ["run", "--dr"], set()),
        ("tidemark-producer", ["import", "exam"], {"example.ndjson"}),
        ("tidemark-api", ["serve", "--config", "exam"], {"example.ndjson"}),
    ],
)
def test_the_shell_completes_commands_options_and_values(
    program: str, words: list[str], offered: set[str], build: Path, tmp_path: Path
) -> None:
    (tmp_path / "example.ndjson").touch()
    script = (
        'source <("$1" --print-completion) && COMP_WORDS=("${@:2}") && COMP_CWORD=$(($# - 2))'
        f'; _{program.replace("-", "_")}; printf "%s\\n" "${{COMPREPLY[@]}}"'
    )
    command = ["bash", "-uc", script, "bash", build / FOLDERS[program] / program, program, *words]
    printed = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path).stdout
    assert set(printed.split()) == offered
