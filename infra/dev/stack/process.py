"""Processes that outlive the command that started them, ports for them, and waiting for a condition."""

from __future__ import annotations

import contextlib
import json
import os
import random
import select
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any


class Failure(Exception):
    """Something of the outside world is not as needed; the message says what, and what to do about it."""


def wait_for(condition: Callable[[], object], what: str, deadline: float = 10.0, pause: float = 0.02) -> None:
    """Returns as soon as `condition()` is true; raises Failure, naming `what`, after `deadline` seconds."""
    end = time.monotonic() + deadline
    while not condition():
        if time.monotonic() > end:
            raise Failure(f"waited {deadline:g} s in vain: {what}")
        time.sleep(pause)


def choose_ports(count: int, preferred: int | None = None) -> list[int]:
    """Loopback ports that nobody uses; the preferred one first if it is free.

    The others lie below the range that the kernel gives to outgoing connections: a server restarted on a port of that
    range may find it taken by a client, and a client that keeps trying a dead server there can meet itself.
    """
    lowest_ephemeral = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    candidates = random.SystemRandom().sample(range(10_000, lowest_ephemeral), 200)
    found: list[int] = []
    with contextlib.ExitStack() as held:
        for port in candidates if preferred is None else [preferred, *candidates]:
            if len(found) == count:
                break
            probe = held.enter_context(socket.socket())
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                probe.bind(("127.0.0.1", port))
                found.append(port)
    if len(found) < count:
        raise Failure(f"no {count} free loopback ports between 10000 and {lowest_ephemeral}")
    return found


def accepts(port: int) -> bool:
    """Whether somebody accepts connections on this loopback port."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextlib.contextmanager
def scratch_directory(name: str) -> Iterator[Path]:
    """A directory that another user (the database's) may enter, removed at the end."""
    with tempfile.TemporaryDirectory(prefix=f"{name}-", ignore_cleanup_errors=True) as path:
        os.chmod(path, 0o711)
        yield Path(path)


def is_alive(pid: int) -> bool:
    """Whether a process of this pid exists and is not a zombie."""
    return _start_ticks(pid) is not None


def write_whole(path: Path, text: str) -> None:
    """Writes a file so that a reader, or a crash, sees the old text or the new one."""
    fresh = path.with_name(path.name + ".new")
    fresh.write_text(text)
    fresh.replace(path)


class Process:
    """One named process, remembered on disk by pid, start time and boot, so that a recycled pid is never touched.

    `<directory>/<name>.json` says who it is and `<directory>/<name>.log` has its output; any later command finds the
    process by them. A process started with `tied=True` is killed by the kernel when the thread that started it ends.
    """

    def __init__(self, name: str, directory: Path) -> None:
        self.name = name
        self.log = directory / f"{name}.log"
        self._record = directory / f"{name}.json"
        self._child: subprocess.Popen[bytes] | None = None

    def start(
        self,
        argv: Sequence[str | Path],
        *,
        environment: Mapping[str, str] | None = None,
        user: str | None = None,
        tied: bool = False,
        recipe: str = "",
    ) -> None:
        """Starts it, detached from the terminal. `recipe` is whatever a later command must compare (see `recipe`)."""
        if self.pid() is not None:
            raise Failure(f"{self.name} runs already (pid {self.pid()})")
        self._record.parent.mkdir(parents=True, exist_ok=True)
        command = [str(word) for word in argv]
        if tied:
            command = ["setpriv", "--pdeathsig", "KILL", "--", *command]
        with self.log.open("ab") as output:
            self._child = subprocess.Popen(
                command,
                env=None if environment is None else dict(environment),
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                user=user,
                group=user,
                extra_groups=[] if user else None,
            )
        started = _start_ticks(self._child.pid)
        write_whole(
            self._record,
            json.dumps({"pid": self._child.pid, "started": started, "boot": _boot_id(), "recipe": recipe}),
        )

    def pid(self) -> int | None:
        """Its pid while it lives (stopped counts as living, a zombie does not)."""
        if self._child is not None:
            self._child.poll()
        known = self._known()
        if known is None or known["boot"] != _boot_id() or known["started"] is None:
            return None
        return known["pid"] if _start_ticks(known["pid"]) == known["started"] else None

    def recipe(self) -> str:
        """What it was started with, as told to `start`."""
        known = self._known()
        return known["recipe"] if known else ""

    def exit_code(self) -> int | None:
        """How it ended (negative: the signal), if this object started it and it has ended."""
        return self._child.poll() if self._child is not None else None

    def send(self, number: signal.Signals) -> None:
        """Sends a signal; to a dead process it does nothing."""
        handle = self._handle()
        if handle is None:
            return
        try:
            signal.pidfd_send_signal(handle, number)
        except ProcessLookupError:
            pass
        finally:
            os.close(handle)

    def wait(self, deadline: float) -> bool:
        """Whether it has ended before `deadline` seconds were over."""
        handle = self._handle()
        ended = True
        if handle is not None:
            try:
                ended = bool(select.select([handle], [], [], deadline)[0])
            finally:
                os.close(handle)
        if ended and self._child is not None:
            # A killed process is a zombie for as long as any thread of it is still ending.
            self._child.wait()
        return ended

    def stop(self, number: signal.Signals = signal.SIGTERM, deadline: float = 10.0) -> bool:
        """Asks it to end, and kills it when the deadline passes. True: it ended by itself."""
        self.send(signal.SIGCONT)
        self.send(number)
        if self.wait(deadline):
            return True
        self.kill()
        return False

    def kill(self) -> None:
        """kill -9, and waits until it is gone."""
        self.send(signal.SIGKILL)
        if not self.wait(10):
            raise Failure(f"{self.name} (pid {self.pid()}) does not even end by SIGKILL")

    def said(self, lines: int = 15) -> str:
        """The last lines of its log."""
        try:
            text = self.log.read_text(errors="replace")
        except FileNotFoundError:
            return "(no log)"
        return "\n".join("    " + line for line in text.splitlines()[-lines:])

    def wait_until(self, ready: Callable[[], object], what: str, deadline: float) -> None:
        """Waits for `ready()`; Failure with the end of its log when it dies first or the deadline passes."""
        end = time.monotonic() + deadline
        while not ready():
            if self.pid() is None:
                raise Failure(f"{self.name} ended instead of {what}; the end of {self.log}:\n{self.said()}")
            if time.monotonic() > end:
                raise Failure(f"{self.name} is not {what} after {deadline:g} s; the end of {self.log}:\n{self.said()}")
            time.sleep(0.02)

    def _known(self) -> dict[str, Any] | None:
        try:
            known: dict[str, Any] = json.loads(self._record.read_text())
        except FileNotFoundError:
            return None
        return known

    def _handle(self) -> int | None:
        """A handle that stays on this very process, even when it ends and its pid is given to another."""
        pid = self.pid()
        if pid is None:
            return None
        try:
            handle = os.pidfd_open(pid)
        except ProcessLookupError:
            return None
        if self.pid() != pid:
            os.close(handle)
            return None
        return handle


def _start_ticks(pid: int) -> int | None:
    """When the process started, in clock ticks since boot; None when there is none, or only a zombie."""
    try:
        after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if after_name[0] in "ZX" else int(after_name[19])


def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
