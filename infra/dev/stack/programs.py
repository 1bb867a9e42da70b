"""Tidemark's three programs: building them, the settings they run with, starting one and waiting until it is ready."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from stack.postgres import API, CONSUMER, OWNER, Postgres
from stack.process import Failure, Process, accepts

CLONE = Path(__file__).resolve().parents[3]

# The programs' names, and the folder of each in the source and in a build directory.
FOLDERS = {"tidemark-api": "api", "tidemark-consumer": "consumers", "tidemark-producer": "producer"}

# Variables of the user's that programs get too: the fault tests' plan.
_passed_on = ("TIDEMARK_FAILPOINT", "TIDEMARK_FAILPOINT_FILE")


def build(preset: str, targets: Sequence[str] = ()) -> None:
    """Configures where needed and builds; the compiler's output goes to the terminal. No targets: everything."""
    directory = CLONE / "build" / preset
    environment = dict(os.environ)
    if shutil.which("ccache"):
        environment.setdefault("CMAKE_CXX_COMPILER_LAUNCHER", "ccache")
    commands = [["cmake", "--build", "--preset", preset, *(["--target", *targets] if targets else [])]]
    presets = CLONE / "CMakePresets.json"
    configured = directory / "build.ninja"
    if not configured.exists() or configured.stat().st_mtime < presets.stat().st_mtime:
        commands.insert(0, ["cmake", "--preset", preset])
    for command in commands:
        if subprocess.run(command, cwd=CLONE, env=environment, check=False).returncode != 0:
            raise Failure(f"{' '.join(command)} failed; what the compiler says stands above")


def binary(preset: str, program: str) -> Path:
    """Where a build has put a program."""
    if program not in FOLDERS:
        raise Failure(f"no program '{program}'; there are: {', '.join(FOLDERS)}")
    return CLONE / "build" / preset / FOLDERS[program] / program


@dataclass
class Surroundings:
    """What the programs' settings say of the world around them."""

    brokers: str
    postgres: Postgres
    database: str

    def settings(self, program: str, **own: str) -> dict[str, str]:
        """The environment for a program; `own` adds settings by their short names (`listen`, `flush_interval`)."""
        given = {
            "tidemark-api": {"api_dsn": self.postgres.dsn(API, self.database)},
            "tidemark-consumer": {
                "owner_dsn": self.postgres.dsn(OWNER, self.database),
                "consumer_dsn": self.postgres.dsn(CONSUMER, self.database),
            },
            "tidemark-producer": {},
        }[program]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("TIDEMARK_")}
        environment |= {name: os.environ[name] for name in _passed_on if name in os.environ}
        for name, value in {"brokers": self.brokers, **given, **own}.items():
            environment[f"TIDEMARK_{name.upper()}"] = value
        return environment


class Program:
    """One running program with an HTTP listener of its own on `port`."""

    def __init__(self, name: str, directory: Path, executable: Path, port: int, *, tied: bool = False) -> None:
        self.process = Process(name, directory)
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self._executable = executable
        self._tied = tied

    def start(self, arguments: Sequence[str], environment: Mapping[str, str]) -> bool:
        """Starts it; one that runs from another build or with other settings is ended first. False: it ran already."""
        recipe = self._recipe(arguments, environment)
        if self.process.pid() is not None:
            if self.process.recipe() == recipe:
                return False
            self.process.stop(deadline=15)
        if accepts(self.port):
            raise Failure(f"{self.process.name} cannot listen on 127.0.0.1:{self.port}: another program does already")
        self.process.start([self._executable, *arguments], environment=environment, tied=self._tied, recipe=recipe)
        return True

    def wait_ready(self, deadline: float = 30.0) -> None:
        """Waits until /readyz says 200."""
        self.process.wait_until(lambda: answers(f"{self.url}/readyz"), f"ready ({self.url}/readyz)", deadline)

    def _recipe(self, arguments: Sequence[str], environment: Mapping[str, str]) -> str:
        built = self._executable.stat()
        ours = sorted(f"{name}={value}" for name, value in environment.items() if name.startswith("TIDEMARK_"))
        text = "\n".join([str(self._executable), str(built.st_mtime_ns), str(built.st_size), *arguments, *ours])
        return hashlib.sha256(text.encode()).hexdigest()


def answers(url: str) -> bool:
    """Whether a GET gets a 2xx within two seconds."""
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return bool(200 <= answer.status < 300)
    except (urllib.error.URLError, OSError):
        return False
