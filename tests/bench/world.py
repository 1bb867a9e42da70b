"""The servers under measurement, pinned, and holding what they acknowledged against the log and the tables."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import resource
import shlex
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psycopg2
from confluent_kafka.admin import AdminClient, NewTopic

from bench.machine import (
    OTHER_CORE,
    SERVER_CORE,
    cpu_seconds,
    cpu_seconds_by_thread,
    on_core,
    postgres_cpu_seconds,
    resident_bytes,
)
from stack.kafka import Kafka
from stack.postgres import Postgres
from stack.private import jars
from stack.process import Failure, accepts, choose_ports, scratch_directory, wait_for
from stack.programs import FOLDERS, Program, Surroundings, answers
from support.tidemark import Running, Tidemark

TOPIC = "tidemark.counters"


class Wrong(Exception):
    """What was acknowledged, logged and folded is not the same: there is no figure."""


# A broker's first million events cost it several times as much: its compiler is at work.
_warm_up = 1_000_000


@dataclass
class Sent:
    """One load of a fixed count of requests, all of them answered with 202."""

    requests: int
    seconds: float
    # p50, p90, p99, p999, max, in microseconds.
    latency: dict[str, int]
    # By process, in seconds.
    cpu: dict[str, float]
    # Of the API, by thread.
    threads: dict[str, float]

    @property
    def rate(self) -> float:
        """Acknowledged per second."""
        return self.requests / self.seconds

    def per_event(self, *processes: str) -> float:
        """CPU microseconds per request of these processes together."""
        return sum(self.cpu[name] for name in processes) / self.requests * 1e6

    def per_event_of_threads(self, *names: str) -> float:
        """CPU microseconds per request of these threads of the API together."""
        return sum(self.threads.get(name, 0.0) for name in names) / self.requests * 1e6


@dataclass(frozen=True)
class Ran:
    """One program that did its work and ended well."""

    said: str
    seconds: float
    # CPU seconds of the program, of PostgreSQL and of the broker meanwhile.
    own: float
    postgres: float
    broker: float
    # Most resident memory, in bytes.
    peak: int

    @property
    def cpu(self) -> float:
        """Of the program and PostgreSQL together."""
        return self.own + self.postgres

    def used(self) -> dict[str, float]:
        """All but what it said."""
        return {name: value for name, value in asdict(self).items() if name != "said"}


class Load:
    """A running bench-load that is connected and warm, and waits for `go`; without a number of requests it sends until
    `stop`."""

    def __init__(self, binary: Path, to: str, *, requests: int, warm: int, **options: Any) -> None:
        command = [str(binary), "--to", to.removeprefix("http://"), "--requests", str(requests), "--warm", str(warm)]
        for name, value in options.items():
            command += [f"--{name}", str(value)]
        self.requests = requests
        self._endless = requests == 0
        self._expected = "200" if options.get("method") == "GET" else "202"
        with on_core(OTHER_CORE):
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )
        self._expect("ready")

    def go(self) -> None:
        """Sends the requests; `wait` gets what became of them."""
        self._say("go")

    def stop(self) -> None:
        """No more requests; those under way are answered."""
        self._say("stop")

    def wait(self) -> dict[str, Any]:
        """What the load says; Wrong unless each request was answered with 202, a read with 200. The connections stay."""
        found: dict[str, Any] = json.loads(self._expect("{"))
        if self._endless:
            self.requests = sum(found["statuses"].values())
        if found["statuses"] != {self._expected: self.requests}:
            raise Wrong(f"{self.requests} requests were answered {found['statuses']}")
        return found

    def close(self) -> None:
        """Closes the connections."""
        _, errors = self._process.communicate(timeout=30)
        if self._process.returncode != 0:
            raise Wrong(f"the load failed: {errors.strip()}")

    def _say(self, word: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(word + "\n")
        self._process.stdin.flush()

    def _expect(self, start: str) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line.startswith(start):
            _, errors = self._process.communicate(timeout=30)
            raise Wrong(f"the load failed: {errors.strip() or line!r}")
        return line


class World:
    """One broker, one database and Tidemark's programs on them. Everything but what is measured runs on the other core."""

    _numbers = itertools.count(1)

    def __init__(self, directory: Path, build: Path, postgres: Postgres, *, partitions: int = 4) -> None:
        number = next(self._numbers)
        self._directory = directory / f"world-{number}"
        self._directory.mkdir(mode=0o711)
        self._build = build
        self._programs = itertools.count(1)
        self._alive: dict[str, Callable[[], float]] = {}
        self._running: dict[str, Running] = {}
        self.partitions = partitions
        self.postgres = postgres
        self.database = f"bench_{number}"
        postgres.create_database(self.database)
        self.kafka = Kafka(self._directory / "kafka", jars(), tied=True)
        self.kafka.start()
        self.surroundings = Surroundings(self.kafka.brokers, postgres, self.database)
        # For what it knows of tables and logs; programs are started here, where they can be pinned.
        self.tidemark = Tidemark(self._directory, self.kafka, postgres, self.database, build)
        self.tidemark.migrate(partitions=str(partitions))
        self._posted = 0
        # Event time of the series that `fill` writes: begins a day ago, so that no length of it is from the future.
        self._series_begin = (int(time.time()) // 10 - 8_640) * 10
        self._filled = 0
        self._counts("broker", lambda: cpu_seconds(self._broker_pid()))
        self._counts("postgres", lambda: postgres_cpu_seconds(postgres))

    def start_api(self, *, core: int = SERVER_CORE, under: Sequence[str] = (), **settings: str) -> Running:
        """An API with one event loop, on a core of its own; `under` is a command that runs it, valgrind for instance."""
        port = choose_ports(1)[0]
        own = {"listen": f"127.0.0.1:{port}", "http_threads": "1", **settings}
        return self._start("api", "tidemark-api", "serve", port, own, core, under)

    def start_consumer(self, *, core: int = OTHER_CORE, **settings: str) -> Running:
        """The consumer, with all partitions."""
        port = choose_ports(1)[0]
        own = {"admin_listen": f"127.0.0.1:{port}", **settings}
        return self._start("consumer", "tidemark-consumer", "run", port, own, core, ())

    def start_other(
        self, name: str, command: Sequence[str], port: int, *, core: int = SERVER_CORE, **environment: str
    ) -> Running:
        """A program that is not ours; it is ready when it accepts connections."""
        program = Program(name, self.scratch(name), _executable(command[0]), port, tied=True)
        return self._run(name, program, command[1:], {**os.environ, **environment}, core, lambda: accepts(port))

    def migrate(self, database: str) -> None:
        """Makes Tidemark's tables in another database of the same server, for the same log."""
        Tidemark(self._directory, self.kafka, self.postgres, database, self._build).migrate(partitions=str(self.partitions))

    def stop(self, *names: str) -> None:
        """Ends programs by SIGTERM; Wrong when one does not end well."""
        for name in names:
            self._alive.pop(name)
            running = self._running.pop(name)
            code = running.terminate(60)
            if code != 0:
                raise Wrong(f"{name} ended with {code}:\n{running.tail(10)}")

    def fill(self, count: int, *, keys: int, keyed: bool = False) -> None:
        """Appends increments of 1 to the log, past the API: of so many keys in turns, 100 for each key and window."""
        self._append(TOPIC, self._filled, count, keys, keyed)
        self._filled += count
        self._posted += count

    def fill_other(self, topic: str, count: int, *, keys: int) -> None:
        """The first so many events of the series in a topic of their own."""
        self._create_topic(topic, {"compression.type": "lz4"})
        self._append(topic, 0, count, keys, False)

    def _append(self, topic: str, first: int, count: int, keys: int, keyed: bool) -> None:
        words = [self.kafka.brokers, topic, str(first), str(count), str(keys), str(self._series_begin)]
        self.run([str(self.bench_binary("bench-log")), "fill", *words, "keyed" if keyed else "plain"])

    def produce(self, topic: str, records: int, *, idempotent: bool) -> tuple[dict[str, float], Ran]:
        """Runs librdkafka's producer alone: cpu, seconds."""
        if topic not in self.tidemark.log.topics():
            self._create_topic(topic, {})
        command = [str(self.bench_binary("bench-producer")), self.kafka.brokers, topic, str(records)]
        ran = self.run([*command, "idempotent" if idempotent else "plain"])
        return json.loads(ran.said), ran

    def _create_topic(self, topic: str, settings: Mapping[str, str]) -> None:
        admin = AdminClient({"bootstrap.servers": self.kafka.brokers})
        config = {"message.timestamp.type": "LogAppendTime", **settings}
        admin.create_topics([NewTopic(topic, self.partitions, 1, config=config)])[topic].result(30)

    def read_raw(self) -> dict[str, float]:
        """Reads the counters' topic as fast as it goes, a thread for each partition: records, seconds, cpu."""
        command = [str(self.bench_binary("bench-log")), "read", self.kafka.brokers, TOPIC, str(self.partitions)]
        found: dict[str, float] = json.loads(self.run(command).said)
        if found["records"] != self.logged() + self.partitions:
            raise Wrong(f"{self.logged() + self.partitions} records are in the log, {found['records']} were read")
        return found

    def consumer(self, *words: str, cores: Sequence[int] = (SERVER_CORE,), deadline: float = 900.0) -> Ran:
        """Runs a command of tidemark-consumer to its end."""
        return self._command("tidemark-consumer", words, cores, deadline)

    def producer(self, *words: str) -> Ran:
        """Runs a command of tidemark-producer to its end."""
        return self._command("tidemark-producer", words, (SERVER_CORE,), 900)

    def _command(self, executable: str, words: Sequence[str], cores: Sequence[int], deadline: float) -> Ran:
        binary = self._build / FOLDERS[executable] / executable
        return self.run([str(binary), *words], self.surroundings.settings(executable), cores=cores, deadline=deadline)

    def run(
        self,
        command: Sequence[str],
        environment: Mapping[str, str] | None = None,
        *,
        cores: Sequence[int] = (SERVER_CORE,),
        deadline: float = 900.0,
    ) -> Ran:
        """Runs a program to its end and measures what it used; Wrong unless it ends well and in time."""
        name = Path(command[0]).name
        directory = self.scratch(name)
        broker, postgres = cpu_seconds(self._broker_pid()), postgres_cpu_seconds(self.postgres)
        begin = time.monotonic()
        with (directory / "out").open("w") as out, (directory / "errors").open("w") as errors, on_core(*cores):
            process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", "--", *command],
                env=None if environment is None else dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=errors,
            )
        peak = 0
        usage: resource.struct_rusage | None = None
        try:
            # wait4 does not tell the peak: to it the memory of the process that forked counts too.
            while usage is None:
                with contextlib.suppress(FileNotFoundError, ProcessLookupError, Failure):
                    peak = max(peak, resident_bytes(process.pid, "VmHWM"))
                pid, status, used = os.wait4(process.pid, os.WNOHANG)
                if pid != 0:
                    process.returncode = os.waitstatus_to_exitcode(status)
                    usage = used
                elif time.monotonic() > begin + deadline:
                    raise Wrong(f"{shlex.join(command)} still runs after {deadline:g} s:\n{_end_of(directory)}")
                else:
                    time.sleep(0.02)
        finally:
            if process.returncode is None:
                process.kill()
                process.wait()
        if process.returncode != 0:
            raise Wrong(f"{shlex.join(command)} ended with {process.returncode}:\n{_end_of(directory)}")
        return Ran(
            (directory / "out").read_text(),
            time.monotonic() - begin,
            usage.ru_utime + usage.ru_stime,
            postgres_cpu_seconds(self.postgres) - postgres,
            cpu_seconds(self._broker_pid()) - broker,
            peak,
        )

    def cpu(self) -> dict[str, float]:
        """CPU seconds so far of every process that runs."""
        return {name: used() for name, used in self._alive.items()}

    def load(self, url: str, *, requests: int, warm: int, logged: bool = True, **options: Any) -> Load:
        """A load that is ready to go; `logged` says that its increments are Tidemark's, for `verify`."""
        load = Load(self.bench_binary("bench-load"), url, requests=requests, warm=warm, **options)
        if logged:
            self._posted += requests + warm
        return load

    def post(
        self, url: str, *, connections: int, requests: int, warm: int | None = None, folded: bool = False, **options: Any
    ) -> Sent:
        """POSTs increments, warm-up first, and measures what each process used for them; with `folded` until they are
        in the tables."""
        warm = max(connections, requests // 10) if warm is None else warm
        load = self.load(url, requests=requests, warm=warm, connections=connections, **options)
        if folded:
            self.settle()
        before, threads_before = self.cpu(), self._api_threads()
        load.go()
        found = load.wait()
        if folded:
            self.settle()
        after, threads = self.cpu(), self._api_threads()
        load.close()
        return Sent(
            requests,
            found["seconds"],
            found["latency_us"],
            {name: after[name] - before[name] for name in before},
            {name: threads[name] - threads_before.get(name, 0.0) for name in threads},
        )

    def posted(self, count: int) -> None:
        """So many increments more were acknowledged, of a load that had no end."""
        self._posted += count

    def logged(self) -> int:
        """Records in the log, without the identity that each partition begins with."""
        return sum(self.tidemark.log.ends(TOPIC).values()) - self.partitions

    def settle(self, deadline: float = 120.0) -> None:
        """Waits until the tables hold the whole log, asking on one connection and not often: what this costs PostgreSQL
        must not show in what is measured."""
        ends = self.tidemark.log.ends(TOPIC)
        connection = psycopg2.connect(self.tidemark.dsn)
        connection.autocommit = True
        try:
            with connection.cursor() as cursor:

                def is_settled() -> bool:
                    cursor.execute("select partition, next_offset from counters.offsets")
                    found = dict(cursor.fetchall())
                    return all(found[partition] >= end for partition, end in ends.items())

                wait_for(is_settled, f"the tables to hold the log up to {ends}", deadline, pause=0.05)
        finally:
            connection.close()

    def fold(self) -> None:
        """Brings the live tables up to the log's end, with a consumer that ends then."""
        self.start_consumer(core=SERVER_CORE, audit_interval="0s")
        self.settle(900)
        self.stop("consumer")

    def verify(self, deadline: float = 120.0) -> int:
        """Wrong unless acknowledged = in the log = in the tables, over the whole life of this world; the number.

        Starts a consumer unless one runs.
        """
        logged = self.logged()
        if logged != self._posted:
            raise Wrong(f"{self._posted} increments were acknowledged, {logged} are in the log")
        started = "consumer" not in self._alive
        if started:
            self.start_consumer(core=SERVER_CORE)
        self.settle(deadline)
        if started:
            self.stop("consumer")
        totals = "select coalesce(sum(value), 0), coalesce(sum(count), 0) from counters.totals"
        windows = "select coalesce(sum(value), 0) from counters.windows"
        parked = "select count(*) from counters.dead_letters"
        value, count = self.tidemark.query(totals)[0]
        found = {
            "sum of the totals": value,
            "events in the totals": count,
            "sum of the windows": self.tidemark.query(windows)[0][0],
        }
        for what, number in found.items():
            if number != self._posted:
                raise Wrong(f"{self._posted} increments were acknowledged, but the {what} is {number}")
        if self.tidemark.query(parked)[0][0] != 0:
            raise Wrong("there are dead letters")
        return self._posted

    def bench_binary(self, name: str) -> Path:
        """One of the programs of this folder."""
        return self._build / "tests" / "bench" / name

    def end(self) -> None:
        """Ends what is still running."""
        self.tidemark.end()

    def _start(
        self,
        name: str,
        executable: str,
        command: str,
        port: int,
        settings: Mapping[str, str],
        core: int,
        under: Sequence[str],
    ) -> Running:
        binary = self._build / FOLDERS[executable] / executable
        environment = self.surroundings.settings(executable, **settings)
        words = [*under, str(binary), command]
        program = Program(name, self.scratch(name), _executable(words[0]), port, tied=True)
        return self._run(name, program, words[1:], environment, core, lambda: answers(f"{program.url}/readyz"))

    def _run(
        self,
        name: str,
        program: Program,
        arguments: Sequence[str],
        environment: dict[str, str],
        core: int,
        ready: Callable[[], bool],
    ) -> Running:
        running = Running(program, arguments, environment, self._directory / "no-faults")
        self.tidemark.running.append(running)
        with on_core(core):
            running.start(ready=False)
        program.process.wait_until(ready, "ready", 120)
        self._running[name] = running
        self._counts(name, lambda: cpu_seconds(running.pid))
        return running

    def _counts(self, name: str, used: Callable[[], float]) -> None:
        assert name not in self._alive, f"two processes called {name}"
        self._alive[name] = used

    def _api_threads(self) -> dict[str, float]:
        return cpu_seconds_by_thread(self._running["api"].pid) if "api" in self._running else {}

    def _broker_pid(self) -> int:
        pid = self.kafka.nodes[0].pid()
        if pid is None:
            raise Wrong(f"the broker died:\n{self.kafka.nodes[0].said()}")
        return pid

    def scratch(self, name: str) -> Path:
        """A new directory, gone with the world."""
        return self.tidemark.scratch(f"{next(self._programs)}-{name}")


class Worlds:
    """Makes the worlds of one run and keeps the one that most measures share."""

    def __init__(self, build: Path) -> None:
        self.build = build
        self._scratch = scratch_directory("tidemark-bench")
        self._directory = self._scratch.__enter__()
        # Commits reach the disk, as they do in production.
        self.postgres = Postgres(self._directory / "postgres", durable=True, tied=True)
        self.postgres.start()
        self._shared: World | None = None
        self._open: list[World] = []

    def shared(self) -> World:
        """Four partitions, no program running."""
        if self._shared is None:
            self._shared = self.new(partitions=4)
        return self._shared

    @contextlib.contextmanager
    def empty(self) -> Iterator[World]:
        """For the length of a block a fresh one with nothing in its log, four partitions."""
        world = World(self._directory, self.build, self.postgres)
        self._open.append(world)
        try:
            yield world
        finally:
            self.close(world)

    def new(self, *, partitions: int) -> World:
        """A fresh one, its broker warm."""
        world = World(self._directory, self.build, self.postgres, partitions=partitions)
        self._open.append(world)
        api = world.start_api()
        for connections in (16, 256):
            world.post(api.url, connections=connections, requests=_warm_up * connections // 256)
        world.stop("api")
        return world

    def close(self, world: World) -> None:
        """Ends a world of `new`."""
        self._open.remove(world)
        world.end()

    def forget_shared(self) -> None:
        """After a failure: the next measure gets a world of its own."""
        if self._shared is not None:
            self.close(self._shared)
            self._shared = None

    def cpu_seconds(self) -> float:
        """CPU time so far of everything that runs."""
        return sum(sum(used for name, used in world.cpu().items() if name != "postgres") for world in self._open) + (
            postgres_cpu_seconds(self.postgres)
        )

    def end(self) -> None:
        """Ends all servers and removes their files."""
        for world in self._open:
            world.end()
        self.postgres.kill()
        self._scratch.__exit__(None, None, None)


def _end_of(directory: Path) -> str:
    return "\n".join((directory / name).read_text(errors="replace")[-1500:].strip() for name in ("out", "errors"))


def _executable(name: str) -> Path:
    found = shutil.which(name)
    if found is None:
        raise Failure(f"there is no {name}; infra/dev/install run test bench brings it")
    return Path(found)
