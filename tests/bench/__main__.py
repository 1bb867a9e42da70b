"""The command line behind `infra/dev/bench`."""

from __future__ import annotations

import argparse
import json
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench import edge, files, flushes, lag, live, machine, peers, replays, report, streaming, tuning
from bench.report import Section
from bench.world import Worlds, Wrong
from stack.postgres import binaries
from stack.process import Failure
from stack.programs import CLONE, build

_preset = "release"
_results = CLONE / "build" / "bench"
_published = CLONE / "docs" / "figures.md"

Measure = Callable[[Worlds, bool], Section | list[Section]]

_measures: dict[str, Measure] = {
    "post": edge.post,
    "instructions": edge.instructions,
    "memory": edge.memory,
    "express": peers.express,
    "flush": flushes.flush,
    "lag": lag.lag,
    "replay": replays.replay,
    "replay_peers": streaming.replay_peers,
    "growth": replays.growth,
    "during_replay": live.during_replay,
    "audit": live.audit,
    "files": files.files,
    "linger": tuning.linger,
    "partitions": tuning.partitions,
    "idempotence": tuning.idempotence,
}

# These begin with an empty log.
_in_their_own_world: tuple[Measure, ...] = (
    replays.replay,
    replays.growth,
    streaming.replay_peers,
    live.during_replay,
    live.audit,
    files.files,
)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="infra/dev/bench", description="Measures Tidemark on private servers.", allow_abbrev=False
    )
    parser.add_argument("name", nargs="*", help=f"only these: {', '.join(_measures)}")
    parser.add_argument("--quick", action="store_true", help="small counts and few rounds: some eight minutes, coarse figures")
    parser.add_argument("--build", type=Path, help="measure the programs of this build directory, as they are")
    parser.add_argument("--write", action="store_true", help=f"also renew {_published.relative_to(CLONE)}; needs a whole run")
    given = parser.parse_args()
    for name in given.name:
        if name not in _measures:
            parser.error(f"no measure '{name}'; there are: {', '.join(_measures)}")
    if given.write and given.name:
        parser.error("--write is for a whole run")
    # What is under way is ended as at the end of a run.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        return _run(given.name or list(_measures), quick=given.quick, built=given.build, write=given.write)
    except Failure as failure:
        print(f"infra/dev/bench: {failure}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _run(names: list[str], *, quick: bool, built: Path | None, write: bool) -> int:
    if built is None:
        build(_preset, ["bench"])
        built = CLONE / "build" / _preset
    machine.prepare()
    head = _head(built)
    sections: list[Section] = []
    failures: list[str] = []
    worlds = Worlds(built.resolve())
    try:
        for name in names:
            print(f"\n=== {name}", flush=True)
            try:
                found = _measured(worlds, _measures[name], quick)
            except (Wrong, Failure, AssertionError) as wrong:
                failures.append(f"{name}: no figure, for the measurement was wrong: {wrong}")
                print(failures[-1], flush=True)
                worlds.forget_shared()
                continue
            for section in found:
                print(section.markdown(), flush=True)
            sections += found
    finally:
        worlds.end()
    _keep(head, sections, failures, write=write and not failures)
    return 1 if failures else 0


def _measured(worlds: Worlds, measure: Measure, quick: bool) -> list[Section]:
    """What a measure found, with what the machine was like meanwhile."""
    if measure not in _in_their_own_world:
        worlds.shared()
    watch = machine.Watch()
    servers = worlds.cpu_seconds()
    begin = time.monotonic()
    found = measure(worlds, quick)
    sections = found if isinstance(found, list) else [found]
    quiet = machine.as_json(watch.end(worlds.cpu_seconds() - servers))
    for section in sections:
        section.quiet = quiet
        section.seconds = time.monotonic() - begin
    return sections


def _head(built: Path) -> dict[str, str]:
    """Of what, when and on what."""
    commit = _git("rev-parse", "--short=12", "HEAD") + (" with changes" if _git("status", "--porcelain") else "")
    commands = {
        "compiler": ["c++", "--version"],
        "node": ["node", "--version"],
        "redis": ["redis-server", "--version"],
        "postgres": [str(binaries() / "postgres"), "--version"],
        "java": ["java", "-version"],
    }
    return {
        "command": shlex.join(["infra/dev/bench", *sys.argv[1:]]),
        "commit": commit,
        "measured": datetime.now(UTC).isoformat(timespec="minutes"),
        "build": _build_type(built),
        **machine.describe(commands),
    }


def _build_type(built: Path) -> str:
    cache = (built / "CMakeCache.txt").read_text()
    return next((line.partition("=")[2] for line in cache.splitlines() if line.startswith("CMAKE_BUILD_TYPE:")), "?")


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=CLONE, capture_output=True, text=True, check=False).stdout.strip()


def _keep(head: dict[str, str], sections: list[Section], failures: list[str], *, write: bool) -> None:
    """Writes the results, and prints the goals."""
    goals = report.goals_table(goal for section in sections for goal in section.goals)
    print(f"\n{goals}\n", flush=True)
    _results.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = {**head, "failures": failures, "sections": [section.as_json() for section in sections]}
    (_results / "result.json").write_text(json.dumps(found, indent=1) + "\n")
    lines = ["# Figures", "", "Measured, not written: `infra/dev/bench --write` makes this file. Ratios hold; absolute figures are of one machine.", ""]
    lines += ["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in head.items()), ""]
    lines += [*failures, ""] if failures else []
    lines += ["## Goals", "", goals, "", *(section.markdown() for section in sections)]
    text = "\n".join(lines).rstrip() + "\n"
    for path in [_results / "figures.md", *([_published] if write else [])]:
        path.write_text(text)
        print(f"wrote {path.relative_to(CLONE)}", flush=True)


sys.exit(main())
