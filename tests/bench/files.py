"""What it takes to write a log to a file, and a file to a log."""

from __future__ import annotations

import json
import statistics
from itertools import count

from bench.report import Goal, Section, Spread, in_turns, number
from bench.world import Ran, Worlds, Wrong


def files(worlds: Worlds, quick: bool) -> Section:
    """An import beside librdkafka's producer alone."""
    rounds, events = (2, 200_000) if quick else (5, 1_000_000)
    topic = "bench.producer"
    with worlds.empty() as world:
        world.fill(events, keys=1_000)
        file = world.scratch("export") / "counters.ndjson"
        exported = world.producer("export", "counters", "--output", str(file))
        size = file.stat().st_size / events
        names = count()

        def alone() -> float:
            found, _ = world.produce(topic, events, idempotent=True)
            return events / found["seconds"]

        def imported() -> Ran:
            # Under a name of its own each counts anew, as a file would that was never imported.
            ran = world.producer("import", str(file), "--id", f"bench-{next(names)}", "--json")
            world.posted(events)
            if json.loads(ran.said.splitlines()[-1])["stored"] != events:
                raise Wrong(f"import says {ran.said}")
            return ran

        # Once for the broker's compiler.
        alone()
        floor, imports = in_turns(rounds, [alone, imported])
        world.fold()
        world.verify()
    section = Section(
        "A file to the log, and the log to a file",
        f"`tidemark-producer import` of a file of {number(events)} increments of {number(size)} bytes, beside librdkafka's producer alone, which"
        " sends as many records of 200 bytes as fast as it goes, idempotent, with the same settings; and `export` of the topic to that file. The"
        " times are of the whole command, starting and the last acknowledgement included. Program on one core, broker on the other; medians of"
        f" {rounds} rounds, in turns.",
        ["", "events/s", "CPU us/event", "peak RSS, MB"],
    )
    section.add("producer alone", statistics.median(floor), "", "")
    for name, runs in (("import", imports), ("export", [exported])):
        section.add(
            name,
            statistics.median(events / one.seconds for one in runs),
            statistics.median(1e6 * one.own / events for one in runs),
            max(one.peak for one in runs) / 1e6,
        )
    ratio = Spread.of([events / one.seconds for one in imports], floor)
    section.goals.append(Goal("files", "events/s of an import / of a producer alone", ratio.median, 0.5, at_most=False))
    section.raw = {"producer": floor, "imports": [one.used() for one in imports], "export": exported.used()}
    return section
