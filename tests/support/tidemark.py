"""A whole Tidemark of one test's own: broker, database, and as many APIs and consumers as it wants."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import psycopg2
import requests

from stack.kafka import Kafka
from stack.postgres import Postgres
from stack.process import choose_ports, wait_for
from stack.programs import FOLDERS, Program, Surroundings
from support.log import Log
from support.tables import differences, read_tables


def sum_of_samples(text: str, name: str, **labels: str) -> float:
    """The sum of a metric's samples that carry these labels, in what /metrics answered; 0 when there is none."""
    total = 0.0
    for line in text.splitlines():
        found = re.fullmatch(r"([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? (\S+)", line)
        if found and found[1] == name:
            here = dict(re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', found[2] or ""))
            if labels.items() <= here.items():
                total += float(found[3])
    return total


def _program(name: str) -> str:
    """Of which program it is a version."""
    return re.sub("-(next|holding)$", "", name)


class Running:
    """One started program. Signals go to its pid; its HTTP listener (the admin one of a consumer) is at `url`."""

    def __init__(self, program: Program, arguments: Sequence[str], environment: dict[str, str], faults: Path) -> None:
        self._program = program
        self._arguments = arguments
        self._environment = environment
        self._faults = faults
        self._http = requests.Session()
        self.name = program.process.name
        self.url = program.url

    def start(self, *, ready: bool = True, deadline: float = 30.0) -> None:
        """Starts it again, with the settings it had."""
        self._program.start(self._arguments, self._environment)
        if ready:
            self._program.wait_ready(deadline)

    def wait_ready(self, deadline: float = 30.0) -> None:
        self._program.wait_ready(deadline)

    @property
    def alive(self) -> bool:
        return self._program.process.pid() is not None

    @property
    def pid(self) -> int:
        pid = self._program.process.pid()
        assert pid is not None, f"{self.name} is dead:\n{self.tail()}"
        return pid

    @property
    def peak_memory(self) -> int:
        """The most resident memory that it has had so far, in bytes."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) * 1024

    def kill(self) -> None:
        """kill -9."""
        self._program.process.kill()

    def freeze(self) -> None:
        """SIGSTOP."""
        self._program.process.send(signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT."""
        self._program.process.send(signal.SIGCONT)

    def ask_to_stop(self) -> None:
        """SIGTERM."""
        self._program.process.send(signal.SIGTERM)

    def terminate(self, deadline: float = 15.0) -> int:
        """SIGTERM; the exit code. Fails when it does not end in time."""
        self.ask_to_stop()
        return self.wait_end(deadline)

    def wait_end(self, deadline: float = 15.0) -> int:
        """Waits until it has ended, by whatever cause; the exit code, negative for a signal."""
        assert self._program.process.wait(deadline), f"{self.name} still runs after {deadline:g} s:\n{self.tail()}"
        code = self._program.process.exit_code()
        assert code is not None
        return code

    def plan_fault(self, plan: str) -> None:
        """What its kill points do from now on: "C4=kill", "C2=stop@3;C6=sleep:500"; "" for nothing."""
        self._faults.write_text(plan)

    def faults_fired(self) -> list[str]:
        """The kill points that have acted so far."""
        fired = self._faults.with_name(self._faults.name + ".fired")
        return fired.read_text().split() if fired.exists() else []

    def request(self, method: str, path: str, **options: Any) -> requests.Response:
        """One HTTP request on a connection that is kept; redirects are not followed."""
        options.setdefault("timeout", 15)
        return self._http.request(method, self.url + path, allow_redirects=False, **options)

    def get(self, path: str, **options: Any) -> requests.Response:
        return self.request("GET", path, **options)

    def post(self, path: str, body: Any, **options: Any) -> requests.Response:
        return self.request("POST", path, json=body, **options)

    def put(self, path: str, body: Any, **options: Any) -> requests.Response:
        return self.request("PUT", path, json=body, **options)

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples that carry these labels; 0 when there is none."""
        return sum_of_samples(self.get("/metrics").text, name, **labels)

    def events(self, event: str = "") -> list[dict[str, Any]]:
        """Its log lines, or those of one event."""
        lines = []
        for line in self._program.process.log.read_text(errors="replace").splitlines():
            if line.startswith("{"):
                lines.append(json.loads(line))
        return [line for line in lines if not event or line.get("event") == event]

    def tail(self, lines: int = 40) -> str:
        return self._program.process.said(lines)


class Tidemark:
    """Broker, database and programs, all private. The broker is this object's; the database server may be shared."""

    def __init__(self, directory: Path, kafka: Kafka, postgres: Postgres, database: str, build: Path) -> None:
        self.kafka = kafka
        self.postgres = postgres
        self.database = database
        self.log = Log(kafka.brokers)
        self.running: list[Running] = []
        self.build = build
        self._directory = directory
        self._surroundings = Surroundings(kafka.brokers, postgres, database)
        self._count = 0

    @property
    def dsn(self) -> str:
        """The superuser's connection string."""
        return self.postgres.dsn(database=self.database)

    def run(self, program: str, *arguments: str | Path, **settings: str) -> subprocess.CompletedProcess[str]:
        """Runs a command of `api`, `consumer`, `consumer-next`, `consumer-holding` or `producer` to its end, at most a
        minute."""
        return self.pipe(program, subprocess.DEVNULL, *arguments, **settings)

    def pipe(
        self, program: str, source: IO[str] | int, *arguments: str | Path, **settings: str
    ) -> subprocess.CompletedProcess[str]:
        """The same with a standard input."""
        name = f"tidemark-{program}"
        return subprocess.run(
            [str(self._binary(name)), *map(str, arguments)],
            env=self._surroundings.settings(_program(name), **settings),
            stdin=source,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def start_command(
        self, *arguments: str | Path, fault: str = "", variables: dict[str, str] | None = None, **settings: str
    ) -> subprocess.Popen[str]:
        """Starts a command of the consumer; `fault` is what its kill points do: "r2_folding=kill@3"; `variables` are
        added to its environment."""
        name = "tidemark-consumer"
        environment = self._surroundings.settings(name, **settings) | (variables or {})
        return subprocess.Popen(
            [str(self._binary(name)), *map(str, arguments)],
            env=environment | ({"TIDEMARK_FAILPOINT": fault} if fault else {}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def start_import(self, *arguments: str | Path, **settings: str) -> subprocess.Popen[str]:
        """Starts an import, by default of what is written to its `stdin`; it then ends once that is closed."""
        name = "tidemark-producer"
        return subprocess.Popen(
            [str(self._binary(name)), "import", *map(str, arguments or ["-"])],
            env=self._surroundings.settings(name, **settings),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def migrate(self, **settings: str) -> None:
        """Makes topics, tables and roles."""
        done = self.run("consumer", "migrate", **settings)
        assert done.returncode == 0, f"migrate ended with {done.returncode}:\n{done.stdout}{done.stderr}"

    def start_api(self, *, ready: bool = True, **settings: str) -> Running:
        port = choose_ports(1)[0]
        return self._start("tidemark-api", "serve", port, ready, {"listen": f"127.0.0.1:{port}", **settings})

    def start_consumer(self, slot: int = 0, *, ready: bool = True, version: str = "", **settings: str) -> Running:
        """`version`: "next" starts the one with another fold of the counters, "holding" the one whose counters' letters
        hold their key."""
        port = choose_ports(1)[0]
        listen = f"127.0.0.1:{port}"
        name = f"tidemark-consumer-{version}" if version else "tidemark-consumer"
        return self._start(
            name, "run", port, ready, {"admin_listen": listen, "slot": str(slot), **settings}
        )

    def settle(self, stream: str, deadline: float = 30.0) -> float:
        """Waits until the tables hold the whole log; the seconds it took."""
        begin = time.monotonic()
        ends = self.log.ends(f"tidemark.{stream}")
        wait_for(
            lambda: all(self.vector(stream).get(number, -1) >= end for number, end in ends.items()),
            f"the tables of {stream} to hold the log up to {ends}",
            deadline,
        )
        return time.monotonic() - begin

    def vector(self, stream: str) -> dict[int, int]:
        """By partition, the offset up to which the tables hold the log."""
        return {
            number: next_offset
            for number, next_offset in self.query(f"select partition, next_offset from {stream}.offsets")
        }

    def query(self, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """Runs one query as superuser."""
        connection = psycopg2.connect(self.dsn)
        try:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(sql, parameters or None)
                return cursor.fetchall() if cursor.description else []
        finally:
            connection.close()

    def tables(self, stream: str) -> dict[str, dict[Any, tuple[Any, ...]]]:
        """A stream's live tables in one snapshot."""
        return read_tables(self.dsn, stream).rows

    def assert_equals_log(
        self, stream: str, deadline: float = 30.0, *, holding: frozenset[str] = frozenset()
    ) -> None:
        """Waits until the tables hold the whole log, then compares them with the reference fold of it, in which letters
        of the reasons `holding` hold their key."""
        self.settle(stream, deadline)
        found = differences(stream, self.log, self.dsn, holding=holding)
        assert not found, "the tables differ from the log:\n" + "\n".join(found)

    def await_audit(self, stream: str, deadline: float = 60.0) -> None:
        """Waits until a consumer has counted the whole log again; fails when that differs from the tables."""
        ends = [end for _, end in sorted(self.log.ends(f"tidemark.{stream}").items())]

        def is_equal() -> bool:
            rows = self.query("select state, next_offsets, detail from tidemark.audits where stream = %s", stream)
            assert not rows or rows[0][0] in ("equal", "reading"), rows
            return bool(rows) and rows[0][:2] == ("equal", ends)

        wait_for(is_equal, f"the audit of {stream} to be equal at {ends}", deadline)
        assert self.query(f"select folded = stored from {stream}.audit") == [(True,)]

    def scratch(self, name: str) -> Path:
        """A new directory of this Tidemark's."""
        directory = self._directory / name
        directory.mkdir()
        return directory

    def end(self) -> None:
        """Ends every program; the broker too."""
        for running in self.running:
            running.kill()
        self.kafka.kill()

    def _start(self, name: str, command: str, port: int, ready: bool, settings: dict[str, str]) -> Running:
        self._count += 1
        directory = self.scratch(f"{name}-{self._count}")
        faults = directory / "faults"
        environment = self._surroundings.settings(_program(name), **settings)
        environment["TIDEMARK_FAILPOINT_FILE"] = str(faults)
        program = Program(name, directory, self._binary(name), port, tied=True)
        running = Running(program, [command], environment, faults)
        self.running.append(running)
        running.start(ready=ready)
        return running

    def _binary(self, name: str) -> Path:
        return self.build / FOLDERS.get(name, "tests") / name
