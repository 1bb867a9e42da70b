"""A version with another fold takes over from its predecessor while clients write and read."""

from __future__ import annotations

import concurrent.futures
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from support.answers import token
from support.load import Load
from support.operating import command, fill, roles
from support.tidemark import Running, Tidemark


@pytest.fixture
def own(make_tidemark: Callable[..., Tidemark]) -> Iterator[Tidemark]:
    """Migrated by the older version; nothing runs in it yet."""
    tidemark = make_tidemark()
    yield tidemark
    tidemark.end()


def test_a_version_with_another_fold_takes_over_under_traffic(own: Tidemark) -> None:
    old = [own.start_consumer(slot) for slot in range(2)]
    apis = [own.start_api(), own.start_api()]
    fill(own)
    own.settle("counters")
    ended = threading.Event()

    def write(api: Running, key: str) -> tuple[int, float, list[str]]:
        """Adds one and reads it back, as the same client: nothing is refused, nothing is older than its own write."""
        written, longest, wrong = 0, 0.0, []
        while not ended.is_set():
            began = time.monotonic()
            answer = api.post("/increment", {"key": key, "value": 1})
            if answer.status_code != 202:
                wrong.append(f"POST {answer.status_code} {answer.text}")
                continue
            written += 1
            read = api.get(f"/counters/{key}?at_least={token(answer)}")
            if read.status_code != 200 or read.json()["value"] != written:
                wrong.append(f"GET {read.status_code} {read.text} after {written} writes")
            longest = max(longest, time.monotonic() - began)
        return written, longest, wrong

    load = Load(own, apis, keys=20, prefix="upgrade-", rate=300, connections=4)
    with concurrent.futures.ThreadPoolExecutor(2) as threads:
        try:
            load.wait_acked(100)
            clients = [threads.submit(write, api, f"own-{n}") for n, api in enumerate(apis)]
            # Expand: what the new version needs of the registry is made while the old one works.
            command(own, "migrate", program="consumer-next")
            # Migrate: the tables of the new fold beside the old ones, then who keeps them up; the old version runs on.
            command(own, "replay", "counters", program="consumer-next")
            new = [own.start_consumer(slot, version="next") for slot in (2, 3)]
            assert all(one.events("generation_of_another_fingerprint") for one in new)
            load.wait_acked(100)
            command(own, "promote", "counters", "--accept-diff", program="consumer-next")
            assert roles(own) == {1: "retired", 2: "live"}
            load.wait_acked(300)
            # Contract: the old version goes, then its tables.
            assert [one.terminate() for one in old] == [0, 0]
            command(own, "drop", "counters", "1", program="consumer-next")
            load.wait_acked(300)
        finally:
            ended.set()
            answers = load.stop()
        outcomes = [client.result(60) for client in clients]

    print(f"{answers.acked} events; nothing acked for {answers.longest_gap:.2f} s at most;"
          f" a write read back within {max(longest for _, longest, _ in outcomes):.2f} s")
    assert not [what for _, _, wrong in outcomes for what in wrong[:3]]
    assert all(count > 20 for count, _, _ in outcomes)
    assert answers.acked == answers.total
    own.settle("counters")
    for n, (count, _, _) in enumerate(outcomes):
        assert apis[0].get(f"/counters/own-{n}").json()["value"] == count
    for key, sums in answers.entities.items():
        name = key.removeprefix("counters/")
        assert apis[0].get(f"/counters/{name}").json()["value"] == sums["acked"][1], key
    command(own, "verify", "counters", program="consumer-next")
    assert all(one.alive for one in new)
