"""The command line behind the scripts in infra/dev: `python3 -m stack COMMAND ...`."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
from typing import NoReturn

from stack import private
from stack.local import API_PORT, PARTS, LocalStack
from stack.process import Failure
from stack.suite import Suite


def up(arguments: list[str]) -> int:
    parser = _parser("up", "Builds and starts Tidemark on this machine; quick when nothing changed.")
    parser.add_argument("part", nargs="*", help=f"start only these, with what they need: {', '.join(PARTS)}")
    parser.add_argument("--port", type=int, help=f"where the API listens, from now on (default {API_PORT})")
    parser.add_argument("--docker", action="store_true", help="run the broker from its Docker image")
    given = parser.parse_args(arguments)
    _check_parts(parser, given.part)
    stack = LocalStack()
    stack.up(given.part, docker=given.docker, port=given.port)
    if not given.part:
        print(stack.describe())
    return 0


def down(arguments: list[str]) -> int:
    parser = _parser("down", "Ends what infra/dev/up started, and nothing else.")
    parser.add_argument("part", nargs="*", help=f"end only these: {', '.join(PARTS)}")
    parser.add_argument("--erase", action="store_true", help="also remove the log and the tables")
    given = parser.parse_args(arguments)
    _check_parts(parser, given.part)
    LocalStack().down(given.part, erase=given.erase)
    return 0


def watch(arguments: list[str]) -> int:
    _parser("watch", "Rebuilds and restarts the programs on every change of a source file.").parse_args(arguments)
    LocalStack().watch()
    return 0


def run(arguments: list[str]) -> int:
    if not arguments:
        raise Failure("name a program: api, consumer or producer, then its arguments")
    _become(LocalStack().run(arguments[0], arguments[1:]))


def psql(arguments: list[str]) -> int:
    _become(LocalStack().psql(arguments))


def kafka(arguments: list[str]) -> int:
    _become(LocalStack().kafka_tool(arguments))


def servers(arguments: list[str]) -> int:
    if not arguments:
        raise Failure("give the command to run beside them")
    with private.servers() as (broker, postgres):
        return subprocess.run(arguments, env=private.environment(broker, postgres), check=False).returncode


def test(arguments: list[str]) -> int:
    names = [stage.name for stage in Suite(long=False, arguments=[]).stages()]
    parser = _parser("test", "Every check of the repository, on private servers.")
    parser.add_argument("--long", action="store_true", help="more seeds, every fault, sanitizers on everything")
    parser.add_argument("--only", choices=names, help="one stage; arguments that are not ours go to its runner")
    given, others = parser.parse_known_args(arguments)
    if others and not given.only:
        parser.error(f"{' '.join(others)}: arguments for a runner need --only")
    return 0 if Suite(long=given.long, arguments=others).run(given.only) else 1


def _parser(name: str, description: str) -> argparse.ArgumentParser:
    return argparse.ArgumentParser(prog=f"infra/dev/{name}", description=description, allow_abbrev=False)


def _check_parts(parser: argparse.ArgumentParser, parts: list[str]) -> None:
    for part in parts:
        if part not in PARTS:
            parser.error(f"no part '{part}'; there are: {', '.join(PARTS)}")


def _become(command: list[str]) -> NoReturn:
    os.execvp(command[0], command)


def main() -> int:
    # A command that is asked to end takes the private servers of its run with it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    commands = {each.__name__: each for each in (up, down, watch, run, psql, kafka, servers, test)}
    command, *arguments = sys.argv[1:]
    try:
        return commands[command](arguments)
    except Failure as failure:
        print(f"infra/dev/{command}: {failure}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


sys.exit(main())
