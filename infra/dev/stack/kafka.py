"""Apache Kafka in KRaft mode: its jars, a private cluster, its command line tools."""

from __future__ import annotations

import fcntl
import functools
import hashlib
import json
import shutil
import socket
import struct
import subprocess
import uuid
from base64 import urlsafe_b64encode
from collections.abc import Mapping, Sequence
from pathlib import Path

from stack.process import Failure, Process, choose_ports, write_whole

_pom = Path(__file__).resolve().parents[2] / "kafka" / "pom.xml"

# Kafka's own start script gives the collector these; the heap is the smallest in which a broker with a few topics
# never collects for long.
_java_options = [
    "-Xms512m",
    "-Xmx512m",
    "-server",
    "-XX:+UseG1GC",
    "-XX:MaxGCPauseMillis=20",
    "-Djava.awt.headless=true",
]

_log_settings = """\
log4j.rootLogger=WARN, stderr
log4j.appender.stderr=org.apache.log4j.ConsoleAppender
log4j.appender.stderr.target=System.err
log4j.appender.stderr.layout=org.apache.log4j.PatternLayout
log4j.appender.stderr.layout.ConversionPattern=[%d] %p %m (%c)%n
# The life of the server and of its consumer groups.
log4j.logger.kafka.server.KafkaRaftServer=INFO
log4j.logger.kafka.coordinator.group=INFO
log4j.logger.org.apache.kafka.coordinator.group=INFO
"""

# Kafka's name for a tool (without `kafka-` and `.sh`), its class, and its option for the address of the cluster.
_tools = {
    "broker-api-versions": ("kafka.admin.BrokerApiVersionsCommand", "--bootstrap-server"),
    "configs": ("kafka.admin.ConfigCommand", "--bootstrap-server"),
    "console-consumer": ("org.apache.kafka.tools.consumer.ConsoleConsumer", "--bootstrap-server"),
    "console-producer": ("kafka.tools.ConsoleProducer", "--bootstrap-server"),
    "consumer-groups": ("org.apache.kafka.tools.consumer.group.ConsumerGroupCommand", "--bootstrap-server"),
    "consumer-perf-test": ("org.apache.kafka.tools.ConsumerPerformance", "--bootstrap-server"),
    "delete-records": ("org.apache.kafka.tools.DeleteRecordsCommand", "--bootstrap-server"),
    "dump-log": ("kafka.tools.DumpLogSegments", ""),
    "features": ("org.apache.kafka.tools.FeatureCommand", "--bootstrap-server"),
    "get-offsets": ("org.apache.kafka.tools.GetOffsetShell", "--bootstrap-server"),
    "leader-election": ("org.apache.kafka.tools.LeaderElectionCommand", "--bootstrap-server"),
    "log-dirs": ("org.apache.kafka.tools.LogDirsCommand", "--bootstrap-server"),
    "metadata-quorum": ("org.apache.kafka.tools.MetadataQuorumCommand", "--bootstrap-server"),
    "producer-perf-test": ("org.apache.kafka.tools.ProducerPerformance", ""),
    "topics": ("org.apache.kafka.tools.TopicCommand", "--bootstrap-server"),
    "transactions": ("org.apache.kafka.tools.TransactionsCommand", "--bootstrap-server"),
}


class Jars:
    """The jars that infra/kafka/pom.xml pins, fetched once into `cache`."""

    def __init__(self, cache: Path) -> None:
        self._cache = cache

    def directory(self) -> Path:
        """Where they are; fetches them when they are not there, or the pom has changed."""
        wanted = self._cache / hashlib.sha256(_pom.read_bytes()).hexdigest()[:12]
        if not wanted.is_dir():
            self._cache.mkdir(parents=True, exist_ok=True)
            with (self._cache / "lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                if not wanted.is_dir():
                    self._fetch(wanted)
        return wanted

    def java(self, main_class: str, *arguments: str | Path, options: Sequence[str] = ()) -> list[str]:
        """The command that runs a class of these jars."""
        return [
            "java",
            f"-Dlog4j.configuration=file:{self.directory()}/log4j.properties",
            *options,
            "-cp",
            f"{self.directory()}/*",
            main_class,
            *map(str, arguments),
        ]

    def tool(self, name: str, arguments: Sequence[str], brokers: str) -> list[str]:
        """The command of one of Kafka's own tools, pointed at `brokers` unless the arguments say where."""
        name = name.removeprefix("kafka-").removesuffix(".sh")
        if name not in _tools:
            raise Failure(f"no Kafka tool '{name}'; there are: {', '.join(sorted(_tools))}")
        main_class, address = _tools[name]
        if address and not {address, "--bootstrap-controller", "--help", "--version"} & set(arguments):
            arguments = [address, brokers, *arguments]
        return self.java(main_class, *arguments, options=["-Xmx256m"])

    def _fetch(self, target: Path) -> None:
        print("fetching Apache Kafka's jars through Maven (once)", flush=True)
        unfinished = target.with_name(target.name + ".new")
        shutil.rmtree(unfinished, ignore_errors=True)
        command = [
            "mvn",
            "-q",
            "-B",
            "-f",
            str(_pom),
            "org.apache.maven.plugins:maven-dependency-plugin:copy-dependencies",
        ]
        done = subprocess.run(
            [*command, f"-DoutputDirectory={unfinished}", "-DincludeScope=runtime"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise Failure(f"Maven could not fetch what {_pom} names:\n{done.stdout[:2000]}")
        (unfinished / "log4j.properties").write_text(_log_settings)
        unfinished.rename(target)


class Kafka:
    """A private cluster: `nodes` brokers, each its own controller too, on loopback.

    Everything that shapes how clients are treated (session time-outs, rebalance delays, fetch sizes) stays at the
    broker's defaults, so that what holds here holds on anyone's broker. The ports are chosen once (the first broker's
    is `port` if that is free) and stay with the directory.
    """

    def __init__(
        self,
        directory: Path,
        jars: Jars,
        *,
        port: int | None = None,
        nodes: int = 1,
        settings: Mapping[str, str] | None = None,
        tied: bool = False,
    ) -> None:
        self._directory = directory
        self._jars = jars
        self._settings = dict(settings or {})
        self._tied = tied
        kept = directory / "ports.json"
        if not kept.exists():
            directory.mkdir(parents=True, exist_ok=True)
            chosen = choose_ports(2 * nodes, port)
            write_whole(kept, json.dumps({"brokers": chosen[:nodes], "controllers": chosen[nodes:]}))
        ports = json.loads(kept.read_text())
        self.ports: list[int] = ports["brokers"]
        self._controller_ports: list[int] = ports["controllers"]
        self.nodes = [Process(f"kafka-{n}", directory) for n in range(1, len(self.ports) + 1)]

    @property
    def brokers(self) -> str:
        """Its address, as a client wants it."""
        return ",".join(f"127.0.0.1:{port}" for port in self.ports)

    def start(self, deadline: float = 60.0) -> None:
        """Starts the nodes that are not running and returns when every broker takes records."""
        for number in range(1, len(self.nodes) + 1):
            if self.nodes[number - 1].pid() is None:
                self.start_node(number)
        for node, port in zip(self.nodes, self.ports, strict=True):
            ready = functools.partial(self._knows_all_brokers, port)
            node.wait_until(ready, "a broker that takes records", deadline)

    def start_node(self, number: int) -> None:
        """Starts one node (from 1) without waiting for it."""
        settings = self._format(number)
        self.nodes[number - 1].start(self._jars.java("kafka.Kafka", settings, options=_java_options), tied=self._tied)

    def stop(self) -> None:
        """A clean stop of all nodes."""
        for node in self.nodes:
            node.stop(deadline=20)

    def is_running(self) -> bool:
        """Whether any node lives."""
        return any(node.pid() is not None for node in self.nodes)

    def erase(self) -> None:
        """Ends what holds the log outside the directory: nothing here."""

    def kill(self) -> None:
        """kill -9 of all nodes; what was acknowledged is still in the page cache, and there after a start."""
        for node in self.nodes:
            node.kill()

    @staticmethod
    def live_brokers(port: int) -> int:
        """How many brokers the one on this port knows to be alive; 0 when it does not answer."""
        # A Metadata request, version 1, for no topic: size, api key 3, version, correlation id, client id, topics.
        body = struct.pack(">hhih4si", 3, 1, 1, 4, b"wait", 0)
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=2) as connection:
                connection.sendall(struct.pack(">i", len(body)) + body)
                # The answer: size, correlation id, then the count of brokers.
                answer = b""
                while len(answer) < 12:
                    piece = connection.recv(4096)
                    if not piece:
                        return 0
                    answer += piece
        except OSError:
            return 0
        return int.from_bytes(answer[8:12], "big")

    def _knows_all_brokers(self, port: int) -> bool:
        return self.live_brokers(port) == len(self.nodes)

    def _cluster_id(self) -> str:
        first, *rest = uuid.uuid5(uuid.NAMESPACE_URL, str(self._directory)).bytes
        # Kafka's tool takes an id that begins with a dash for an option; with this bit cleared none does.
        return urlsafe_b64encode(bytes([first & 0x7F, *rest])).decode().rstrip("=")

    def _format(self, number: int) -> Path:
        """Writes a node's settings, and its empty log on its first start."""
        home = self._directory / f"node-{number}"
        home.mkdir(parents=True, exist_ok=True)
        path = home / "server.properties"
        if (home / "log" / "meta.properties").exists():
            return path
        path.write_text("".join(f"{name}={value}\n" for name, value in self._node_settings(number, home).items()))
        done = subprocess.run(
            self._jars.java(
                "kafka.tools.StorageTool", "format", "-t", self._cluster_id(), "-c", path, options=["-Xmx128m"]
            ),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise Failure(f"Kafka cannot format {home}:\n{done.stdout[-1000:]}{done.stderr[-2000:]}")
        return path

    def _node_settings(self, number: int, home: Path) -> dict[str, str]:
        copies = str(min(3, len(self.nodes)))
        controllers = enumerate(self._controller_ports, start=1)
        return {
            "process.roles": "broker,controller",
            "node.id": str(number),
            "controller.quorum.voters": ",".join(f"{node}@127.0.0.1:{port}" for node, port in controllers),
            "controller.listener.names": "CONTROLLER",
            "listeners": (
                f"PLAINTEXT://127.0.0.1:{self.ports[number - 1]},"
                f"CONTROLLER://127.0.0.1:{self._controller_ports[number - 1]}"
            ),
            "advertised.listeners": f"PLAINTEXT://127.0.0.1:{self.ports[number - 1]}",
            "log.dirs": str(home / "log"),
            # A topic that `migrate` did not make would have the wrong retention and the wrong timestamps.
            "auto.create.topics.enable": "false",
            "offsets.topic.replication.factor": copies,
            "transaction.state.log.replication.factor": copies,
            "transaction.state.log.min.isr": "1",
            # Fifty partitions each would be a hundred open logs for a handful of groups.
            "offsets.topic.num.partitions": "4",
            "transaction.state.log.num.partitions": "4",
            # The cleaner's buffer is taken from the heap at the start: 128 MiB of 512 by default.
            "log.cleaner.dedupe.buffer.size": str(16 << 20),
            # How long a killed broker stays registered: it may not come back before. Nine seconds by default, fifteen
            # until it serves again; clients never see this setting.
            "broker.session.timeout.ms": "3000",
            "broker.heartbeat.interval.ms": "500",
            **self._settings,
        }
