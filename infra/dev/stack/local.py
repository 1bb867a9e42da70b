"""The developer's stack: one broker, one database, one API and one consumer, living in the clone until `down`."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import time
import urllib.parse
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

from stack.docker import DockerKafka
from stack.kafka import Kafka
from stack.postgres import OWNER, Postgres
from stack.private import STATE, jars
from stack.process import Failure, accepts, choose_ports, wait_for, write_whole
from stack.programs import CLONE, FOLDERS, Program, Surroundings, answers, binary, build

SAMPLE = CLONE / "infra" / "dev" / "sample" / "vehicles.ndjson"
API_PORT = 3333
CONSUMER_ADMIN_PORT = 3334
PARTS = ("kafka", "postgres", "consumer", "api")

_database = "tidemark"
_preset = "release"


class LocalStack:
    """Everything of one clone. Its state is in `.dev`, so that any later command finds what an earlier one started."""

    def __init__(self) -> None:
        self._run = STATE / "run"
        self._postgres: Postgres | None = None
        self._kafka: Kafka | None = None

    @property
    def postgres(self) -> Postgres:
        if self._postgres is None:
            self._postgres = Postgres(_postgres_directory(), port=5432)
        return self._postgres

    @property
    def kafka(self) -> Kafka:
        if self._kafka is None:
            directory = STATE / "kafka"
            kind = DockerKafka if DockerKafka.was_chosen(directory) else Kafka
            self._kafka = kind(directory, jars(), port=9092)
        return self._kafka

    def up(self, parts: list[str], *, docker: bool = False, port: int | None = None) -> None:
        """Builds what changed, starts what does not run, loads the sample once."""
        parts = parts or list(PARTS)
        with self._alone():
            if docker:
                DockerKafka.choose(STATE / "kafka")
            if "api" in parts:
                self._settle_api_port(port)
            programs = [part for part in parts if part in ("consumer", "api")]
            if programs:
                with _step("build", "up to date"):
                    build(_preset, list(FOLDERS))
            if programs or "postgres" in parts:
                with _step("postgres", f"127.0.0.1:{self.postgres.port}"):
                    self.postgres.start()
                    self.postgres.create_database(_database)
            if programs or "kafka" in parts:
                with _step("kafka", self.kafka.brokers):
                    self.kafka.start()
            if programs:
                with _step("migrate", "topics, tables and roles are there"):
                    self._migrate()
            for part in programs:
                with _step(part, self._program(part).url):
                    self._start_program(part)
            if {"consumer", "api"} <= set(programs):
                with _step("sample", "three vehicles"):
                    self._load_sample()

    def down(self, parts: list[str], *, erase: bool = False) -> None:
        """Ends what `up` started and nothing else; `erase` also removes the log and the tables."""
        chosen = parts or list(PARTS)
        with self._alone():
            for part in ("api", "consumer"):
                if part in chosen:
                    self._end(part, self._program(part).process.pid(), self._program(part).process.stop)
            if "kafka" in chosen and (STATE / "kafka").exists():
                self._end("kafka", self.kafka.is_running(), self.kafka.stop)
            if "postgres" in chosen:
                self._end("postgres", self.postgres.process.pid(), self.postgres.stop)
            if erase:
                if parts:
                    raise Failure("down --erase: it erases the log and the tables together, so name no part")
                if (STATE / "kafka").exists():
                    self.kafka.erase()
                for directory in (STATE / "kafka", self._run, _postgres_directory()):
                    shutil.rmtree(directory, ignore_errors=True)
                print("erased the log and the tables")

    def watch(self) -> None:
        """Rebuilds and restarts on every change of a source file, until interrupted; the stack stays up then."""
        self.up([])
        print("watching; Ctrl-C ends this and leaves the stack running", flush=True)
        seen = _sources()
        while True:
            # Half a second is what an editor's saving of several files takes.
            time.sleep(0.5)
            if seen == (now := _sources()):
                continue
            seen = now
            print(f"--- {time.strftime('%H:%M:%S')} changed", flush=True)
            try:
                self.up([])
            except Failure as failure:
                print(f"{failure}\nstill running what was built before", flush=True)

    def run(self, program: str, arguments: list[str]) -> list[str]:
        """The command and, in this process's environment, the settings for one of the programs on this stack."""
        program = program if program.startswith("tidemark-") else f"tidemark-{program}"
        executable = binary(_preset, program)
        if not executable.exists():
            raise Failure(f"{program} is not built yet; infra/dev/up builds it")
        environment = self._settings(program)
        os.environ.clear()
        os.environ.update(environment)
        return [str(executable), *arguments]

    def psql(self, arguments: list[str]) -> list[str]:
        """The command that opens the database as its owner."""
        if self.postgres.process.pid() is None:
            raise Failure("the database does not run; infra/dev/up starts it")
        return self.postgres.psql(self.postgres.dsn(OWNER, _database), *arguments)

    def kafka_tool(self, arguments: list[str]) -> list[str]:
        """The command of one of Kafka's own tools on this broker."""
        if not arguments:
            raise Failure("name a tool, such as `infra/dev/kafka topics --list`")
        return jars().tool(arguments[0], arguments[1:], self.kafka.brokers)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        STATE.mkdir(exist_ok=True)
        with (STATE / "lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise Failure("another up, down or watch of this clone is at work; wait for it") from None
            yield

    def _settings(self, program: str, **own: str) -> dict[str, str]:
        surroundings = Surroundings(self.kafka.brokers, self.postgres, _database)
        listener = {
            "tidemark-api": {"listen": f"127.0.0.1:{self._port('api')}"},
            "tidemark-consumer": {"admin_listen": f"127.0.0.1:{self._port('consumer')}"},
            "tidemark-producer": {},
        }[program]
        return surroundings.settings(program, **listener, **own)

    def _program(self, part: str) -> Program:
        name = f"tidemark-{part}"
        return Program(name, self._run, binary(_preset, name), self._port(part))

    def _start_program(self, part: str) -> None:
        name = f"tidemark-{part}"
        program = self._program(part)
        program.start(["run" if part == "consumer" else "serve"], self._settings(name))
        program.wait_ready()

    def _migrate(self) -> None:
        name = "tidemark-consumer"
        done = subprocess.run(
            [binary(_preset, name), "migrate"],
            env=self._settings(name),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise Failure(f"tidemark-consumer migrate ended with {done.returncode}:\n{done.stdout[-3000:]}")

    def _load_sample(self) -> None:
        # A repeat within a day of log time is dropped by its key, a later one would be a second history; so a log gets
        # each version of the sample once.
        loaded = STATE / "kafka" / "sample"
        version = hashlib.sha256(SAMPLE.read_bytes()).hexdigest()
        if loaded.exists() and loaded.read_text() == version:
            return
        name = "tidemark-producer"
        done = subprocess.run(
            [binary(_preset, name), "import", SAMPLE],
            env=self._settings(name),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise Failure(f"tidemark-producer import {SAMPLE} ended with {done.returncode}:\n{done.stdout[-3000:]}")
        write_whole(loaded, version)
        instant = urllib.parse.quote("2022-09-12 13:00:00+00")
        wait_for(
            lambda: answers(f"{self._program('api').url}/vehicles/3/timestamp/{instant}"),
            "the sample's vehicle 3 to be readable",
            deadline=15,
        )

    @staticmethod
    def _end(part: str, running: object, stop: Callable[[], object]) -> None:
        if not running:
            print(f"{part:9} did not run")
            return
        stop()
        print(f"{part:9} ended", flush=True)

    def _port(self, part: str) -> int:
        """The port of a program's listener, the same from one command to the next."""
        known = self._ports()
        if part not in known:
            preferred = {"api": API_PORT, "consumer": CONSUMER_ADMIN_PORT}[part]
            # The API's address is what people type, so it never moves by itself.
            self._set_port(part, preferred if part == "api" else choose_ports(1, preferred)[0])
        return self._ports()[part]

    def _settle_api_port(self, wanted: int | None) -> None:
        """Before anything that takes long: the API gets the port it is wanted on, or the user hears why not."""
        current = self._port("api")
        port = current if wanted is None else wanted
        is_ours = port == current and self._program("api").process.pid() is not None
        if not is_ours and accepts(port):
            raise Failure(
                f"127.0.0.1:{port}, where the API is to listen, is taken by another program. "
                "End that one, or choose another port: infra/dev/up --port 3400"
            )
        self._set_port("api", port)

    def _set_port(self, part: str, port: int) -> None:
        self._run.mkdir(parents=True, exist_ok=True)
        write_whole(self._run / "ports.json", json.dumps(self._ports() | {part: port}))

    def _ports(self) -> dict[str, int]:
        path = self._run / "ports.json"
        return json.loads(path.read_text()) if path.exists() else {}

    def describe(self) -> str:
        """What to try now."""
        api = self._program("api").url
        return f"""
Try:
  curl -i --json '{{"key":"abcdef","value":1}}' {api}/increment
  curl -i -H 'Cache-Control: no-cache' {api}/counters/abcdef
  curl {api}/vehicles/3/timestamp/2022-09-12%2010:00:00+00

infra/dev/psql opens the tables, infra/dev/kafka topics --list the log, infra/dev/down ends it all.
Logs: {self._run.relative_to(CLONE)}/*.log"""


def _postgres_directory() -> Path:
    """In the clone; but when root runs it, the server runs as `postgres`, who may not enter root's folders."""
    if os.geteuid() != 0:
        return STATE / "postgres"
    directory = Path("/var/lib/tidemark") / _name_of(STATE)
    for path in (directory.parent, directory):
        path.mkdir(exist_ok=True)
        path.chmod(0o711)
    return directory


def _name_of(state: Path) -> str:
    """What tells this clone's tables from every other's, also from those of an earlier clone at the same place: they
    come from a log that went with it."""
    name = state / "name"
    if not name.exists():
        state.mkdir(parents=True, exist_ok=True)
        # A log that is there already has its tables where an older version put them.
        older = hashlib.sha256(str(state.parent).encode()).hexdigest()[:12]
        name.write_text(older if (state / "kafka").exists() else uuid.uuid4().hex[:12])
    return name.read_text()


def _sources() -> dict[str, int]:
    """When each file was changed from which the programs are built."""
    folders = [CLONE / name for name in ("schemas", "infra", "producer", "consumers", "api")]
    paths = [CLONE / "CMakeLists.txt", CLONE / "CMakePresets.json"]
    for folder in folders:
        paths += [path for path in folder.rglob("*") if path.suffix in (".cpp", ".h", ".sql", ".in", ".txt", ".cmake")]
    changed = {}
    for path in paths:
        with contextlib.suppress(FileNotFoundError):
            changed[str(path)] = path.stat().st_mtime_ns
    return changed


@contextlib.contextmanager
def _step(name: str, result: str) -> Iterator[None]:
    begin = time.monotonic()
    yield
    print(f"{name:9} {result} ({time.monotonic() - begin:.1f} s)", flush=True)
