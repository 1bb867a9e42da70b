"""What is measured beside Tidemark: the service that its increment route replaces."""

from __future__ import annotations

import shutil
import statistics
import subprocess
from functools import partial
from pathlib import Path

from bench.machine import OTHER_CORE
from bench.report import Goal, Section, Spread, in_turns, number
from bench.world import Sent, Worlds, Wrong
from stack.private import STATE
from stack.process import Failure, choose_ports

_source = Path(__file__).parent / "peers" / "express-redis"
_store = ("broker", "consumer", "postgres")


def express(worlds: Worlds, quick: bool) -> Section:
    """Beside Express and Redis' INCRBY, which keeps nothing when the power goes."""
    world = worlds.shared()
    rounds, ours, theirs = (2, 40_000, 6_000) if quick else (5, 200_000, 25_000)
    counts = (64, 256) if quick else (64, 256, 1024)
    section = Section(
        "An acknowledged, durable increment beside Express + Redis",
        "Express 4 with ioredis and INCRBY (auto-pipelining, NODE_ENV=production), warm; Redis without any persistence."
        " Each server alone on one core; Redis, or broker, consumer and PostgreSQL, with the load on the other. The"
        " consumer folds all the while, so Tidemark's figures include the tables. Redis answers before anything is on a disk; Tidemark"
        f" after every in-sync replica has the event. Medians of {rounds} rounds of {number(theirs)} and"
        f" {number(ours)} requests, in turns; CPU in microseconds per event.",
        [
            "connections", "Express", "Redis", "events per CPU-second", "per s",
            "API", "broker + consumer + PostgreSQL", "events per CPU-second of the API", "per s",
            "server ratio", "whole ratio", "rate ratio",
        ],
    )  # fmt: skip
    redis_port, express_port = choose_ports(2)
    redis = ["redis-server", "--port", str(redis_port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    world.start_other("redis", [*redis, "--dir", str(world.scratch("redis"))], redis_port, core=OTHER_CORE)
    peer = world.start_other(
        "express",
        ["node", str(_installed() / "server.js")],
        express_port,
        NODE_ENV="production",
        PORT=str(express_port),
        REDIS_PORT=str(redis_port),
        AUTO_PIPELINING="1",
    )
    world.start_consumer()
    api = world.start_api()
    # Long enough for the compiler of Node to have seen everything.
    warm = 20_000 if quick else 150_000
    world.post(peer.url, connections=64, requests=1_000, warm=warm, logged=False)
    sent = warm + 1_000
    found: dict[int, list[list[Sent]]] = {}
    for connections in counts:
        found[connections] = in_turns(
            rounds,
            [
                partial(world.post, peer.url, connections=connections, requests=theirs, warm=theirs // 5, logged=False),
                partial(world.post, api.url, connections=connections, requests=ours),
            ],
        )
        sent += rounds * (theirs + theirs // 5)
        _add_row(section, connections, *found[connections])
    # Each side at its own best.
    ratio = min(_cost(runs[0], "express") for runs in found.values()) / min(
        _cost(runs[1], "api") for runs in found.values()
    )
    whole = min(_cost(runs[0], "express", "redis") for runs in found.values()) / min(
        _cost(runs[1], "api", *_store) for runs in found.values()
    )
    rate = max(_rate(runs[1]) for runs in found.values()) / max(_rate(runs[0]) for runs in found.values())
    section.goals.append(Goal("express", "events per CPU-second of the server / of Express, each at its best", ratio, 12, at_most=False))
    section.notes.append(
        f"Everything counted (Express + Redis against API + broker + consumer + PostgreSQL) the ratio is {number(whole)};"
        f" the rate at each side's best on these two cores {number(rate)}."
    )
    section.raw = {
        str(connections): [[{"cpu": one.cpu, "requests": one.requests, "seconds": one.seconds} for one in side] for side in runs]
        for connections, runs in found.items()
    }
    _check_redis(redis_port, sent)
    world.stop("express", "redis", "api")
    world.verify()
    world.stop("consumer")
    return section


def _add_row(section: Section, connections: int, theirs: list[Sent], ours: list[Sent]) -> None:
    section.add(
        str(connections),
        _cost(theirs, "express"),
        _cost(theirs, "redis"),
        1e6 / _cost(theirs, "express"),
        _rate(theirs),
        _cost(ours, "api"),
        _cost(ours, *_store),
        1e6 / _cost(ours, "api"),
        _rate(ours),
        Spread.of([one.per_event("express") for one in theirs], [one.per_event("api") for one in ours]).median,
        Spread.of(
            [one.per_event("express", "redis") for one in theirs], [one.per_event("api", *_store) for one in ours]
        ).median,
        Spread.of([one.rate for one in ours], [one.rate for one in theirs]).median,
    )


def _cost(runs: list[Sent], *processes: str) -> float:
    return statistics.median(one.per_event(*processes) for one in runs)


def _rate(runs: list[Sent]) -> float:
    return statistics.median(one.rate for one in runs)


def _check_redis(port: int, sent: int) -> None:
    """Wrong unless Redis has counted what Express acknowledged."""
    script = "local sum = 0 for _, key in ipairs(redis.call('KEYS', '*')) do sum = sum + redis.call('GET', key) end return sum"
    done = subprocess.run(
        ["redis-cli", "-p", str(port), "EVAL", script, "0"], capture_output=True, text=True, check=False
    )
    if done.stdout.strip() != str(sent):
        raise Wrong(f"Express acknowledged {sent} increments, Redis has {done.stdout.strip()}{done.stderr.strip()}")


def _installed() -> Path:
    """The peer with what its lock file names, kept in the clone's own state."""
    target = STATE / "peers" / _source.name
    names = ("package.json", "package-lock.json")
    if all((target / name).exists() and (target / name).read_bytes() == (_source / name).read_bytes() for name in names):
        shutil.copy(_source / "server.js", target)
        return target
    shutil.rmtree(target, ignore_errors=True)
    unfinished = target.with_name(target.name + ".new")
    shutil.rmtree(unfinished, ignore_errors=True)
    shutil.copytree(_source, unfinished)
    done = subprocess.run(
        ["npm", "ci", "--omit=dev", "--no-audit", "--no-fund"],
        cwd=unfinished,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise Failure(f"npm could not install what {_source / names[1]} names:\n{done.stderr[-2000:]}")
    unfinished.rename(target)
    return target
