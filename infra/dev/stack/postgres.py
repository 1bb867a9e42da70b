"""PostgreSQL: a private cluster, its databases and roles."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

from stack.process import Failure, Process, choose_ports, is_alive, wait_for, write_whole

OWNER = "tidemark_owner"
CONSUMER = "tidemark_consumer"
API = "tidemark_api"

# The superuser and the owner (who may create roles) need the password. The two roles that the programs run as may do no
# more than their tables allow, so on loopback they come in without one: `migrate` makes them, and knows none.
_access = f"""\
host all {CONSUMER},{API} 127.0.0.1/32 trust
host all all 127.0.0.1/32 scram-sha-256
"""


def binaries() -> Path:
    """The folder of the newest installed server's programs."""
    versions = [path for path in Path("/usr/lib/postgresql").glob("*/bin") if (path / "initdb").exists()]
    if not versions:
        raise Failure("no PostgreSQL server is installed; infra/dev/install brings one")
    return max(versions, key=lambda path: int(path.parent.name))


class Postgres:
    """A private server on loopback, its clock in UTC, with the owner's role made.

    The server refuses to run as root; started by root it runs as `postgres`, so every folder above `directory` must let
    that user pass. `durable=False` leaves out fsync: it survives any kill, but not a power cut. The port is chosen
    once (`port` if that is free) and stays with the directory. Connections are free for anyone: the limit is 200.
    """

    def __init__(
        self,
        directory: Path,
        *,
        port: int | None = None,
        durable: bool = True,
        settings: Sequence[str] = (),
        tied: bool = False,
    ) -> None:
        self._directory = directory
        self._durable = durable
        self._settings = list(settings)
        self._tied = tied
        self._user = "postgres" if os.geteuid() == 0 else None
        self.data = directory / "data"
        self.process = Process("postgres", directory)
        directory.mkdir(parents=True, exist_ok=True)
        self.port = int(_kept(directory / "port", lambda: str(choose_ports(1, port)[0])))
        self.password = _kept(directory / "password", lambda: secrets.token_urlsafe(18))

    def start(self, deadline: float = 30.0) -> None:
        """Starts it unless it runs, and returns when it takes connections and the owner's role exists."""
        new = not (self.data / "PG_VERSION").exists()
        if new:
            self._create()
        if self.process.pid() is None:
            self._start_server(deadline)
        self.process.wait_until(self._is_ready, "taking connections", deadline)
        if not (self._directory / "roles-made").exists():
            self.execute(
                f"SET password_encryption = 'scram-sha-256'; DROP ROLE IF EXISTS {OWNER};"
                f"CREATE ROLE {OWNER} LOGIN CREATEROLE PASSWORD '{self.password}'"
            )
            (self._directory / "roles-made").touch()

    def start_anew(self) -> None:
        """Starts an empty server in the place of one whose data are lost."""
        (self._directory / "roles-made").unlink(missing_ok=True)
        self.start()

    def stop(self) -> None:
        """A clean stop: sessions are ended, a checkpoint is written."""
        self.process.stop(signal.SIGINT, deadline=20)

    def kill(self) -> None:
        """kill -9 of the postmaster and of every backend, as a crash of the machine's software would."""
        children = self.backends()
        self.process.kill()
        for pid in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        wait_for(lambda: not any(map(is_alive, children)), "Postgres' backends to be gone")

    def backends(self) -> list[int]:
        """The pids of the postmaster's children."""
        postmaster = self.process.pid()
        if postmaster is None:
            return []
        text = Path(f"/proc/{postmaster}/task/{postmaster}/children").read_text()
        return [int(pid) for pid in text.split()]

    def dsn(self, role: str = "postgres", database: str = "postgres") -> str:
        """A connection string for libpq, password included."""
        secret = "" if role in (CONSUMER, API) else f":{self.password}"
        return f"postgresql://{role}{secret}@127.0.0.1:{self.port}/{database}"

    def psql(self, dsn: str, *arguments: str) -> list[str]:
        """The command that runs psql on a connection string."""
        return [str(binaries() / "psql"), "-X", dsn, *arguments]

    def execute(self, sql: str, database: str = "postgres") -> str:
        """Runs statements as superuser, in one transaction unless there is only one; returns psql's plain output."""
        done = subprocess.run(
            self.psql(self.dsn(database=database), "-qAt", "-v", "ON_ERROR_STOP=1", "-c", sql),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise Failure(f"Postgres refuses {sql!r}: {done.stderr.strip()}")
        return done.stdout.strip()

    def create_database(self, name: str) -> None:
        """A database that belongs to the owner's role; one that exists is left as it is."""
        if not self.execute(f"SELECT 1 FROM pg_database WHERE datname = '{name}'"):
            self.execute(f"CREATE DATABASE {name} OWNER {OWNER}")

    def _create(self) -> None:
        """Makes the cluster's files; an unfinished try is thrown away."""
        unfinished = self._directory / "data.new"
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(mode=0o700)
        password = self._directory / "password"
        if self._user:
            for path in (unfinished, password):
                shutil.chown(path, self._user, self._user)
        command = [binaries() / "initdb", "-D", unfinished, "-U", "postgres", "-E", "UTF8", "--locale=C", "--no-sync"]
        self._as_server_user([*map(str, command), "--auth=scram-sha-256", f"--pwfile={password}"])
        (unfinished / "pg_hba.conf").write_text(_access)
        (unfinished / "postgresql.conf").write_text("".join(line + "\n" for line in self._configuration()))
        unfinished.rename(self.data)

    def _configuration(self) -> list[str]:
        durable = "on" if self._durable else "off"
        return [
            "listen_addresses = '127.0.0.1'",
            f"port = {self.port}",
            # A socket in the file system would need a short path that the server's user may write to.
            "unix_socket_directories = ''",
            "max_connections = 200",
            "shared_buffers = 128MB",
            f"fsync = {durable}",
            f"full_page_writes = {durable}",
            "synchronous_commit = on",
            "max_wal_size = 1GB",
            "timezone = 'UTC'",
            "log_timezone = 'UTC'",
            "datestyle = 'iso, ymd'",
            "lc_messages = 'C'",
            "log_line_prefix = '%m [%p] %q%u@%d '",
            "log_checkpoints = off",
            *self._settings,
        ]

    def _start_server(self, deadline: float) -> None:
        # A postmaster that was killed leaves backends which hold its memory for a moment; the next one refuses to start
        # until they have noticed.
        def started() -> bool:
            self.process.start(
                [binaries() / "postgres", "-D", self.data], user=self._user, tied=self._tied, recipe=str(self.port)
            )
            wait_for(lambda: self.process.pid() is None or self._is_ready(), "Postgres to start or to refuse", deadline)
            return self.process.pid() is not None or "shared memory block" not in self.process.said(3)

        wait_for(started, "the backends of the Postgres that was killed to end", deadline, pause=0.2)

    def _is_ready(self) -> bool:
        """The server's own word for it, in its pid file."""
        try:
            lines = (self.data / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return False
        return len(lines) >= 8 and lines[0] == str(self.process.pid()) and lines[7].strip() == "ready"

    def _as_server_user(self, command: list[str]) -> None:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            cwd="/",
            user=self._user,
            group=self._user,
            extra_groups=[] if self._user else None,
            env={"PATH": os.environ.get("PATH", "/usr/bin"), "LC_ALL": "C"},
            check=False,
        )
        if done.returncode != 0:
            hint = ""
            if self._user and "ermission denied" in done.stderr:
                hint = f"\nThe user '{self._user}' must be able to enter every folder above {self._directory}."
            raise Failure(f"{' '.join(command[:3])} failed: {done.stderr.strip()}{hint}")


def _kept(path: Path, make: Callable[[], str]) -> str:
    """A value that is made once and then stays in a file that only we can read."""
    if not path.exists():
        path.touch(mode=0o600)
        write_whole(path, make())
        path.chmod(0o600)
    return path.read_text()
