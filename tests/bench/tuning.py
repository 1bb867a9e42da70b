"""What the choices of linger and partitions cost, on the real server; and the price of idempotence."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from functools import partial

from bench.report import Goal, Section, Spread, in_turns, number
from bench.world import Sent, World, Worlds, Wrong

_lingers_us = (0, 200, 500, 1_000, 2_000, 5_000)
_connections = (16, 64, 256)
_partitions = (1, 2, 4, 8)
_default_linger_us = 200


@dataclass(frozen=True)
class _Cell:
    rate: float
    api: float
    broker: float
    p99_ms: float

    @staticmethod
    def of(runs: list[Sent]) -> _Cell:
        return _Cell(
            statistics.median(one.rate for one in runs),
            statistics.median(one.per_event("api") for one in runs),
            statistics.median(one.per_event("broker") for one in runs),
            statistics.median(one.latency["p99"] for one in runs) / 1000,
        )

    def __str__(self) -> str:
        return f"{number(self.rate)} ({number(self.api)} / {number(self.broker)}; {number(self.p99_ms)})"


def linger(worlds: Worlds, quick: bool) -> Section:
    """acked/s and CPU by linger and connections."""
    world = worlds.shared()
    section = Section(
        "Linger, with the real server",
        "Closed loop, 4 partitions. In each cell: acknowledged per second (CPU microseconds per event of the API / of the broker;"
        " p99 in ms). API on one core, broker and load on the other; medians of the rounds.",
        ["linger", *(f"{connections} connections" for connections in _connections)],
    )
    rounds, seconds = (1, 0.7) if quick else (3, 1.5)

    def run(linger_us: int) -> dict[int, Sent]:
        api = world.start_api(linger_us=str(linger_us))
        found = {each: _closed_loop(world, api.url, each, linger_us, seconds) for each in _connections}
        world.stop("api")
        return found

    found = in_turns(rounds, [partial(run, each) for each in _lingers_us])
    cells = {
        (linger_us, connections): _Cell.of([one[connections] for one in runs])
        for linger_us, runs in zip(_lingers_us, found, strict=True)
        for connections in _connections
    }
    for linger_us in _lingers_us:
        section.add(f"{linger_us / 1000:g} ms", *(str(cells[linger_us, each]) for each in _connections))
    for connections in _connections:
        fastest = max(_lingers_us, key=lambda each: cells[each, connections].rate)
        cheapest = min(_lingers_us, key=lambda each: cells[each, connections].api + cells[each, connections].broker)
        section.notes.append(
            f"{connections} connections: fastest at {fastest / 1000:g} ms; least CPU of API and broker together at"
            f" {cheapest / 1000:g} ms."
        )
    section.raw = [{"linger_us": key[0], "connections": key[1], **vars(cell)} for key, cell in cells.items()]
    world.verify()
    return section


def partitions(worlds: Worlds, quick: bool) -> Section:
    """The same by number of partitions, at the default linger."""
    section = Section(
        "Partitions, with the real server",
        f"As above, at a linger of {_default_linger_us / 1000:g} ms.",
        ["partitions", *(f"{connections} connections" for connections in _connections)],
    )
    rounds, seconds = (1, 0.7) if quick else (3, 1.5)
    counts = (1, 4, 8) if quick else _partitions
    section.raw = []
    for count in counts:
        world = worlds.shared() if count == 4 else worlds.new(partitions=count)
        api = world.start_api(linger_us=str(_default_linger_us))
        found = in_turns(
            rounds,
            [partial(_closed_loop, world, api.url, each, _default_linger_us, seconds) for each in _connections],
        )
        cells = [_Cell.of(runs) for runs in found]
        section.add(str(count), *map(str, cells))
        section.raw += [
            {"partitions": count, "connections": each, **vars(cell)} for each, cell in zip(_connections, cells, strict=True)
        ]
        world.stop("api")
        world.verify()
        if world is not worlds.shared():
            worlds.close(world)
    return section


def _closed_loop(world: World, url: str, connections: int, linger_us: int, seconds: float) -> Sent:
    """For about so many seconds: the rate is guessed from what a round trip takes at least."""
    guess = min(60_000.0, connections / (linger_us / 1e6 + 0.000_8))
    return world.post(url, connections=connections, requests=int(guess * seconds), warm=max(connections, int(guess / 10)))


def idempotence(worlds: Worlds, quick: bool) -> Section:
    """CPU of an idempotent producer over that of a plain one, and of the broker behind each."""
    world = worlds.shared()
    rounds, messages = (3, 200_000) if quick else (8, 500_000)
    section = Section(
        "The price of an idempotent producer",
        f"librdkafka alone, as fast as it goes: {number(messages)} keyed records of 200 bytes, acks=all, lz4, linger 0.5 ms, a"
        f" delivery report for each. CPU in microseconds per record, medians of {rounds} rounds, in turns.",
        ["producer", "client", "broker", "records/s"],
    )
    topic = "bench.producer"

    def run(idempotent: bool) -> tuple[float, float, float]:
        found, ran = world.produce(topic, messages, idempotent=idempotent)
        return 1e6 * found["cpu"] / messages, 1e6 * ran.broker / messages, messages / found["seconds"]

    # Once for the broker's compiler.
    run(True)
    plain, idempotent = in_turns(rounds, [partial(run, False), partial(run, True)])
    if sum(world.tidemark.log.ends(topic).values()) != messages * (2 * rounds + 1):
        raise Wrong("the log does not hold what was acknowledged")
    for name, runs in (("plain", plain), ("idempotent", idempotent)):
        section.add(name, *(statistics.median(one[column] for one in runs) for column in range(3)))
    ratio = Spread.of([one[0] for one in idempotent], [one[0] for one in plain])
    section.goals.append(Goal("idempotence", "CPU of an idempotent producer / of a plain one", ratio.median, 1.10))
    section.raw = {"plain": plain, "idempotent": idempotent}
    return section
