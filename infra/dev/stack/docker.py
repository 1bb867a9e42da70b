"""The broker from its official image, for machines where Docker runs and Java is not wanted."""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Sequence
from pathlib import Path

from stack.kafka import Jars, Kafka
from stack.process import Failure, wait_for

IMAGE = "apache/kafka:3.9.1"


class DockerKafka(Kafka):
    """The same single broker with the same settings, in a container on the host's network.

    Container and volume are named after the directory, so several clones do not meet. A directory keeps its kind: the
    log of one cannot be read by the other.
    """

    def __init__(self, directory: Path, jars: Jars, *, port: int | None = None) -> None:
        super().__init__(directory, jars, port=port)
        self._name = f"tidemark-{hashlib.sha256(str(directory).encode()).hexdigest()[:12]}"

    @staticmethod
    def was_chosen(directory: Path) -> bool:
        return (directory / "docker").exists()

    @staticmethod
    def choose(directory: Path) -> None:
        """Makes a new directory one of this kind, if Docker is there."""
        DockerKafka._docker(["version"])
        if directory.exists() and not DockerKafka.was_chosen(directory):
            raise Failure("this stack has a log of its own already; `infra/dev/down --erase` first, then up --docker")
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "docker").touch()

    def start(self, deadline: float = 120.0) -> None:
        if not self._docker(["ps", "--all", "--quiet", "--filter", f"name=^{self._name}$"]):
            home = Path("/var/lib/kafka/data")
            settings = {"CLUSTER_ID": self._cluster_id()}
            for name, value in self._node_settings(1, home).items():
                settings["KAFKA_" + name.upper().replace(".", "_")] = value
            variables = [word for name, value in settings.items() for word in ("--env", f"{name}={value}")]
            create = ["create", "--name", self._name, "--network", "host", "--volume", f"{self._name}:{home}"]
            self._docker([*create, *variables, IMAGE])
        self._docker(["start", self._name])
        wait_for(lambda: self.live_brokers(self.ports[0]) == 1, f"the container {self._name} to take records", deadline)

    def is_running(self) -> bool:
        return bool(self._docker(["ps", "--quiet", "--filter", f"name=^{self._name}$"]))

    def stop(self) -> None:
        self._docker(["stop", self._name])

    def kill(self) -> None:
        self._docker(["kill", self._name])

    def erase(self) -> None:
        self._docker(["rm", "--force", self._name])
        self._docker(["volume", "rm", "--force", self._name])

    @staticmethod
    def _docker(arguments: Sequence[str]) -> str:
        try:
            done = subprocess.run(
                ["docker", *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
            )
        except FileNotFoundError:
            raise Failure("there is no `docker` in PATH; without --docker the broker runs from Kafka's jars") from None
        if done.returncode != 0:
            raise Failure(f"docker {' '.join(arguments[:2])} failed: {done.stderr.strip()}")
        return done.stdout.strip()
