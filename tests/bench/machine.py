"""The machine under the measurements: cores, CPU time by process, how quiet it is."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import resource
import socket
import statistics
import subprocess
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from stack.postgres import Postgres
from stack.process import Failure

# What is measured runs alone on one core; broker, database and load share another. So the load cannot take time from
# the server, and its batches are as large as they are when the server is the bottleneck.
SERVER_CORE = 0
OTHER_CORE = 1

_tick = os.sysconf("SC_CLK_TCK")


def prepare() -> None:
    """Makes this process, and what it starts, fit for the measurements."""
    cores = os.sched_getaffinity(0)
    if not {SERVER_CORE, OTHER_CORE} <= cores:
        raise Failure(f"the measurements need cores {SERVER_CORE} and {OTHER_CORE}; this process may use {sorted(cores)}")
    os.sched_setaffinity(0, {OTHER_CORE})
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 65_536), hard))


@contextlib.contextmanager
def on_core(*cores: int) -> Iterator[None]:
    """What is started inside runs on this core, or on these, with all its threads."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, set(cores))
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def cpu_seconds(pid: int) -> float:
    """CPU time of a process so far, of all its threads, also those that have ended.

    It is what /proc/<pid>/stat says, without that file's rounding to hundredths of a second: clock_getcpuclockid(3)
    makes the clock's number in this way.
    """
    return time.clock_gettime((~pid << 3) | 2)


def cpu_seconds_by_thread(pid: int) -> dict[str, float]:
    """CPU time so far of the threads that are alive, by their names without numbers."""
    found: dict[str, float] = defaultdict(float)
    for thread in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            name = (thread / "comm").read_text().strip().rstrip("0123456789").rstrip("-")
            found[name] += int((thread / "schedstat").read_text().split()[0]) / 1e9
    return dict(found)


def postgres_cpu_seconds(postgres: Postgres) -> float:
    """CPU time of the postmaster, of the backends that are there and of those that have ended."""
    postmaster = postgres.process.pid()
    if postmaster is None:
        raise Failure("Postgres is dead")
    total = cpu_seconds(postmaster) + sum(_stat(postmaster)[13:15]) / _tick
    for pid in postgres.backends():
        with contextlib.suppress(OSError):
            total += cpu_seconds(pid)
    return total


def resident_bytes(pid: int, name: str = "VmRSS") -> int:
    """Resident memory now, or with `VmHWM` the most that there was."""
    found = re.search(rf"{name}:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    if found is None:
        raise Failure(f"process {pid} has no {name}")
    return int(found[1]) * 1024


def ping_pong(seconds: float = 1.0) -> float:
    """Microseconds that a byte takes to the other core and back, the median over a second.

    Around 5 on a quiet machine that does not let its cores sleep, 60 where waking one needs the hypervisor; much more
    when somebody else is using them.
    """
    here, there = socket.socketpair()
    child = os.fork()
    if child == 0:
        os.sched_setaffinity(0, {OTHER_CORE})
        here.close()
        while there.recv(1):
            there.send(b"x")
        os._exit(0)
    there.close()
    times = []
    with on_core(SERVER_CORE):
        end = time.perf_counter() + seconds
        while (begin := time.perf_counter()) < end:
            here.send(b"x")
            here.recv(1)
            times.append(time.perf_counter() - begin)
    here.close()
    os.waitpid(child, 0)
    return statistics.median(times) * 1e6


@dataclass(frozen=True)
class Quiet:
    """How far the machine was ours while something was measured."""

    load_average: float
    ping_pong_us: float
    foreign_percent: float
    steal_percent: float

    def __str__(self) -> str:
        return (
            f"load average {self.load_average:.1f}, ping-pong {self.ping_pong_us:.0f} us, "
            f"{self.foreign_percent:.0f} % of the machine used by others, {self.steal_percent:.0f} % stolen"
        )


class Watch:
    """Tells, at the end of a measure, how far the machine was ours."""

    def __init__(self) -> None:
        self._ping_pong = ping_pong()
        self._begin = time.monotonic()
        self._cpu = _machine_cpu()
        self._ours = _our_cpu_seconds()
        self._load = os.getloadavg()[0]

    def end(self, used_by_servers: float) -> Quiet:
        """`used_by_servers`: CPU seconds of the processes that are still running, since the watch began."""
        busy, steal = (after - before for after, before in zip(_machine_cpu(), self._cpu, strict=True))
        ours = _our_cpu_seconds() - self._ours + used_by_servers
        whole = (time.monotonic() - self._begin) * (os.cpu_count() or 1)
        return Quiet(
            load_average=self._load,
            ping_pong_us=self._ping_pong,
            foreign_percent=max(0.0, 100 * (busy - ours) / whole),
            steal_percent=100 * steal / whole,
        )


def describe(commands: dict[str, list[str]]) -> dict[str, str]:
    """Hardware and versions, for the head of a report."""
    cpu = re.search(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text())
    memory = re.search(r"MemTotal:\s+(\d+)", Path("/proc/meminfo").read_text())
    system = re.search(r'PRETTY_NAME="(.+)"', Path("/etc/os-release").read_text())
    found = {
        "cpu": f"{os.cpu_count()} cores, {cpu[1] if cpu else platform.machine()}",
        "memory": f"{int(memory[1]) / 1024 / 1024:.0f} GiB" if memory else "?",
        "system": f"{system[1] if system else '?'}, Linux {platform.release()}",
    }
    for name, command in commands.items():
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        found[name] = (done.stdout + done.stderr).strip().splitlines()[0] if done.returncode == 0 else "?"
    return found


def as_json(quiet: Quiet) -> dict[str, float]:
    """Rounded to what it is worth."""
    return {name: round(value, 1) for name, value in asdict(quiet).items()}


def _machine_cpu() -> tuple[float, float]:
    """Seconds that the cores have been busy (by whomever), and seconds stolen from them, so far."""
    fields = list(map(int, Path("/proc/stat").read_text().splitlines()[0].split()[1:]))
    user, nice, system, _idle, _iowait, irq, softirq, steal = fields[:8]
    return (user + nice + system + irq + softirq) / _tick, steal / _tick


def _our_cpu_seconds() -> float:
    """Of this process and of its children that have ended."""
    total = 0.0
    for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN):
        used = resource.getrusage(who)
        total += used.ru_utime + used.ru_stime
    return total


def _stat(pid: int) -> list[int]:
    """The fields of /proc/<pid>/stat from the third on; the letter of the state as 0."""
    after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return [0, *map(int, after_name[1:])]
