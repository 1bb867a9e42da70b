"""The example settings files are what the programs themselves print."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest

from stack.private import CLONE
from stack.programs import FOLDERS


def _example(program: str) -> Path:
    return CLONE / "infra" / "dev" / "settings" / f"{program.removeprefix('tidemark-')}.toml.example"


def _of_an_environment(program: str) -> dict[str, Any]:
    """The settings of what runs in an environment, and not once by hand; with their defaults."""
    common, *sections = re.split(r"^# ---- only for \S+ ", _example(program).read_text(), flags=re.MULTILINE)
    served = [one for one in sections if one.partition("\n")[0] in {"serve", "run", "migrate", "import"}]
    lines = re.findall(r"^# ([a-z-]+ = .*)$", "\n".join([common, *served]), re.MULTILINE)
    lines += re.findall(r"^# ([a-z-]+-dsn(?:-file)? = .*)$", "\n".join(sections), re.MULTILINE)
    return {name: value for line in lines for name, value in tomllib.loads(line).items()}


@pytest.mark.parametrize("program", FOLDERS)
def test_the_example_names_every_setting_of_the_program_with_its_default(program: str, build: Path) -> None:
    example = _example(program)
    command = [build / FOLDERS[program] / program, "--print-settings-example"]

    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout

    assert example.read_text() == printed, f"refresh it: {program} --print-settings-example > {example}"


@pytest.mark.parametrize("program", FOLDERS)
def test_every_command_has_examples_that_it_takes(program: str, build: Path, tmp_path: Path) -> None:
    executable = build / FOLDERS[program] / program
    (tmp_path / "old.dsn").write_text("postgresql://reader@old/vehicles")
    (tmp_path / "old.dsn").chmod(0o600)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TIDEMARK_")}
    if program == "tidemark-api":
        environment["TIDEMARK_API_DSN"] = "postgresql://tidemark_api@/tidemark"

    def said(*words: str) -> str:
        done = subprocess.run(
            [executable, *words], capture_output=True, text=True, check=False, cwd=tmp_path, env=environment
        )
        assert done.returncode == 0, (words, done.stderr)
        return done.stdout

    commands = re.findall(r"^  (\S+)(?: \(the default\))?$", said("--help").split("\nCommands")[1].split("\n\n")[0], re.MULTILINE)
    assert commands
    for command in commands:
        section = said(command, "--help").partition("\nExamples\n")[2].partition("\n\n")[0]
        examples = re.findall(rf"^  {program} (.*)$", section, re.MULTILINE)
        assert examples, f"{command} has no example"
        for example in examples:
            words = shlex.split(example.partition(" > ")[0])
            assert words[0] == command
            said(*words, "--check-config")


@pytest.mark.parametrize(
    ("program", "words", "offered"),
    [
        ("tidemark-consumer", ["re"], {"replay", "redrive"}),
        ("tidemark-consumer", ["run", "--log-level", ""], {"debug", "info", "warn", "error"}),
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


@pytest.mark.parametrize("level", ["debug", "info", "warn", "error"])
@pytest.mark.parametrize("program", FOLDERS)
def test_one_environment_with_every_setting_serves_each_program(
    program: str, level: str, build: Path, tmp_path: Path
) -> None:
    settings = {name: value for one in FOLDERS for name, value in _of_an_environment(one).items()}
    secret = tmp_path / "secret"
    secret.write_text("dbname=tidemark\n")
    secret.chmod(0o600)
    for name in [name for name in settings if f"{name}-file" in settings]:
        del settings[name]
        settings[f"{name}-file"] = secret
    settings |= {"log-level": level, "admin-listen": "127.0.0.1:4444"}
    environment = {
        f"TIDEMARK_{name.replace('-', '_').upper()}": str(value).lower() if isinstance(value, bool) else str(value)
        for name, value in settings.items()
    }
    assert {"TIDEMARK_API_DSN_FILE", "TIDEMARK_WINDOW_RETENTION", "TIDEMARK_GIVE_UP", "TIDEMARK_SOURCE_DSN_FILE"} < set(environment)
    command = [build / FOLDERS[program] / program, "--check-config"]
    command += ["import", "some.ndjson"] if program == "tidemark-producer" else []
    checked = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert (checked.returncode, checked.stderr) == (0, "")
    assert f'log-level = "{level}"' in checked.stdout


@pytest.mark.parametrize("variable", ["TIDEMARK_PARTITION", "TIDEMARK_FLUSH_INTREVAL"])
def test_a_variable_with_a_typing_error_is_refused(variable: str, build: Path) -> None:
    """Also when another program has an option of that name, for what it does once: `export --partition`."""
    command = [build / FOLDERS["tidemark-consumer"] / "tidemark-consumer", "migrate", "--check-config"]
    checked = subprocess.run(command, capture_output=True, text=True, check=False, env={variable: "12"})
    assert checked.returncode == 2
    assert f"{variable}: unknown variable; did you mean TIDEMARK_" in checked.stderr
