"""What the HTTP edge costs: an acknowledged POST beside the same server with nothing behind it; instructions; memory."""

from __future__ import annotations

import re
import statistics
from functools import partial

from bench.machine import resident_bytes
from bench.report import Goal, Section, Spread, in_turns, number
from bench.world import World, Worlds, Wrong
from stack.process import choose_ports
from support.tidemark import Running

_connections = (64, 256)

# The API's threads: its event loop; those of librdkafka; those that have no name of their own, of which the one that
# takes delivery reports is the only busy one.
_threads = (("http",), ("rdk:main", "rdk:broker"), ("tidemark-api",))


def post(worlds: Worlds, quick: bool) -> Section:
    """An acknowledged POST beside the bare server, and the price of the metrics."""
    world = worlds.shared()
    rounds, requests = (3, 60_000) if quick else (8, 200_000)
    section = Section(
        "An acknowledged POST beside the bare server",
        "POST /increment, some 30 bytes of JSON, 1,000 keys, 4 partitions, acks=all, idempotent, the default linger. The"
        " bare server is the same HTTP library with a handler that answers 202 at once; *metered* is that with the"
        " API's metrics. One event loop each on a core of its own, broker and load on the other. CPU in microseconds per"
        f" request; medians of {rounds} rounds of {number(requests)} requests, in turns.",
        [
            "connections", "bare", "metered", "API", "its event loop", "its Kafka client", "its delivery thread", "broker",
            "API / bare", "worst pair", "acked/s", "bare/s",
        ],
    )  # fmt: skip
    api = world.start_api()
    bare = _start_bare(world, "bare")
    metered = _start_bare(world, "metered")
    prices: list[float] = []
    section.raw = {}
    for connections in _connections:
        send = partial(world.post, connections=connections, requests=requests)
        rows = in_turns(
            rounds,
            [partial(send, bare.url, logged=False), partial(send, metered.url, logged=False), partial(send, api.url)],
        )
        of_bare, of_metered, of_api = (
            [one.per_event(name) for one in row] for name, row in zip(("bare", "metered", "api"), rows, strict=True)
        )
        ratios = Spread.of(of_api, of_bare)
        prices += Spread.of(of_metered, of_bare).ratios
        section.raw[str(connections)] = {"bare": of_bare, "metered": of_metered, "api": of_api}
        section.add(
            str(connections),
            statistics.median(of_bare),
            statistics.median(of_metered),
            statistics.median(of_api),
            *(statistics.median(one.per_event_of_threads(*names) for one in rows[2]) for names in _threads),
            statistics.median(one.per_event("broker") for one in rows[2]),
            ratios.median,
            ratios.highest,
            statistics.median(one.rate for one in rows[2]),
            statistics.median(one.rate for one in rows[0]),
        )
        section.goals.append(
            Goal("post", f"CPU of an acknowledged POST / of a bare one, {connections} connections", ratios.median, 1.40)
        )
    section.goals.append(
        Goal("metrics", "CPU of a bare POST with metrics / without", statistics.median(prices), 1.03)
    )
    section.notes.append("Logging costs a request nothing: a line is written per event in the process's life, none per request.")
    world.stop("api", "bare", "metered")
    world.verify()
    return section


def instructions(worlds: Worlds, quick: bool) -> Section:
    """Instructions per POST, by callgrind."""
    world = worlds.shared()
    short, long = (1_000, 5_000) if quick else (2_000, 12_000)
    section = Section(
        "Instructions per POST",
        "Of the whole process, its Kafka client included, by callgrind: the difference of a run with"
        f" {number(long)} requests and one with {number(short)}, which cancels the start. 64 connections.",
        ["server", "instructions per POST"],
    )

    def run(name: str, requests: int) -> int:
        out = world.scratch("callgrind") / "out"
        under = ("valgrind", "--tool=callgrind", f"--callgrind-out-file={out}")
        server = world.start_api(under=under) if name == "api" else _start_bare(world, name, under=under)
        world.post(server.url, connections=64, requests=requests, warm=64, logged=name == "api")
        world.stop(name)
        found = re.search(r"^(?:summary|totals): (\d+)", out.read_text(), re.MULTILINE)
        if found is None:
            raise Wrong(f"callgrind left no total in {out}")
        return int(found[1])

    per_post = {name: (run(name, long) - run(name, short)) / (long - short) for name in ("bare", "metered", "api")}
    for name, title in (("bare", "bare"), ("metered", "bare, with the API's metrics"), ("api", "API")):
        section.add(title, per_post[name])
    section.goals.append(Goal("instructions", "of an acknowledged POST", per_post["api"], 12_000))
    section.raw = per_post
    world.verify()
    return section


def memory(worlds: Worlds, quick: bool) -> Section:
    """What connections cost."""
    world = worlds.shared()
    requests = 30_000 if quick else 200_000
    section = Section(
        "Memory of the API",
        "Resident memory, one event loop, 1,000 connections that have each sent one request, then the same under load.",
        ["state", "MB", "KiB per connection"],
    )
    api = world.start_api()
    at_start = resident_bytes(api.pid)
    count = 1_000
    load = world.load(api.url, requests=requests, warm=count, connections=count)
    idle = resident_bytes(api.pid)
    load.go()
    load.wait()
    busy = resident_bytes(api.pid)
    load.close()
    peak = resident_bytes(api.pid, "VmHWM")
    section.add("no connection", at_start / 1e6, "")
    section.add("1,000 idle", idle / 1e6, (idle - at_start) / count / 1024)
    section.add(f"1,000 after {number(requests)} requests", busy / 1e6, (busy - at_start) / count / 1024)
    section.add("most that there was", peak / 1e6, "")
    section.goals.append(Goal("memory", "resident memory of the API at 1,000 connections", peak / 1e6, 64, unit=" MB"))
    section.raw = {"start": at_start, "idle": idle, "busy": busy, "peak": peak}
    world.stop("api")
    world.verify()
    return section


def _start_bare(world: World, name: str, *, under: tuple[str, ...] = ()) -> Running:
    """The project's own HTTP server with nothing behind it; `metered`: with metrics."""
    port = choose_ports(1)[0]
    command = [*under, str(world.bench_binary("bench-bare-server")), str(port), "1"]
    if name == "metered":
        command.append("metered")
    return world.start_other(name, command, port)
