"""More than can be done: the broker stands still under full load; answers, memory and counts stay right."""

from __future__ import annotations

import signal
import time

import pytest

from stack.process import wait_for
from support.answers import problem
from support.load import Load
from support.tidemark import Running, Tidemark
from support.trial import MakeTrial

# What an API may take: its queue of 64 MiB twice (ours and the client library's copy), its caches of 64 MiB, and room
# for connections and code.
_memory_cap = 256 << 20

# The publisher's deadline of 5 s, its grace, and a second for a machine that is busy.
_slowest = 6.2


@pytest.mark.parametrize("how", ["stopped", "killed"])
def test_a_broker_that_stands_still_under_full_load(
    tidemark: Tidemark, apis: list[Running], consumer: Running, trial: MakeTrial, how: str, seed: int
) -> None:
    [broker] = tidemark.kafka.nodes
    connections = 256
    with trial(tidemark, apis, f"overload, broker {how}", seed=seed, rate=300) as run:
        flood = Load(
            tidemark, apis, keys=50, prefix=f"flood-{how}-{seed}-", highest=1000, connections=connections, journal=True
        )
        try:
            flood.wait_acked(2_000)
            if how == "stopped":
                broker.send(signal.SIGSTOP)
            else:
                tidemark.kafka.kill()
            since = time.monotonic()
            # Everything that is sent into this is refused or unknown; and so for longer than any deadline.
            wait_for(lambda: flood.progress["refused"] > 0, "writes to be refused", 15)
            wait_for(lambda: time.monotonic() - since > 12, "the broker to have stood still long enough", 13)
            run.saw(f"refused {flood.progress['refused']}, unknown {flood.progress['unknown']}")
            for api in apis:
                assert api.get("/health").status_code == 200
                assert "kafka" in problem(api.get("/readyz"), 503, "not_ready")["detail"]
            if how == "stopped":
                broker.send(signal.SIGCONT)
            else:
                tidemark.kafka.start()
            back = time.monotonic()
            flood.wait_acked(1_000, 60)
            run.saw(f"acks {time.monotonic() - back:.1f} s after it was back")
            answers = flood.stop()
            run.wait_served()
        finally:
            if how == "stopped":
                broker.send(signal.SIGCONT)
            flood.kill()
        run.hold(since)
        peaks = [api.peak_memory for api in apis]
        run.saw("peak MiB " + ", ".join(f"{peak >> 20}" for peak in peaks))
    run.check(answers)
    print(answers.latency)
    assert max(peaks) < _memory_cap
    assert answers.hung == answers.other == answers.odd == 0, answers
    assert answers.refused > 0
    assert answers.slowest < _slowest
