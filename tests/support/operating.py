"""The operator's commands, and a log worth running them on."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path
from typing import Any

from stack.private import jars
from support.fold import INCREMENTED
from support.tidemark import Tidemark


def increment(key: str, value: int, **more: str) -> tuple[bytes, bytes]:
    """A record of the counters' topic."""
    event = {"specversion": "1.0", "id": f"{key}-{value}-{time.monotonic_ns()}", "source": "/test", "type": INCREMENTED}
    return key.encode(), json.dumps(event | {"data": {"key": key, "value": value}} | more).encode()


def fill(tidemark: Tidemark, count: int = 3_000) -> None:
    """Increments of many keys, of which some repeat, conflict or are no events at all."""
    records = [increment(f"k{n % 97}", n % 11) for n in range(count)]
    records += [increment("again", 7, idempotencykey="one") for _ in range(3)]
    records += [increment("again", 8, idempotencykey="one"), (b"poison", b"{"), (b"wrong", increment("right", 1)[1])]
    tidemark.log.put_all("tidemark.counters", records)


def generations(tidemark: Tidemark, program: str = "consumer") -> dict[int, dict[str, Any]]:
    done = tidemark.run(program, "generations", "counters", "--json")
    assert done.returncode == 0, done.stderr
    return {one["generation"]: one for one in json.loads(done.stdout)["generations"]}


def roles(tidemark: Tidemark) -> dict[int, str]:
    return {number: one["role"] for number, one in generations(tidemark).items()}


def totals(tidemark: Tidemark) -> dict[str, int]:
    """Every counter's value."""
    return {key: int(value) for key, value in tidemark.query("select key, value from counters.totals")}


def command(tidemark: Tidemark, *arguments: str, program: str = "consumer", code: int = 0) -> str:
    done = tidemark.run(program, *arguments)
    assert done.returncode == code, f"{arguments} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
    return done.stdout if code == 0 else done.stdout + done.stderr


def delete_records(tidemark: Tidemark, topic: str, partition: int, before: int) -> None:
    """As retention would: the log's start is gone then."""
    plan = tidemark.scratch(f"deletion-{time.monotonic_ns()}") / "offsets.json"
    plan.write_text(
        json.dumps({"partitions": [{"topic": topic, "partition": partition, "offset": before}], "version": 1})
    )
    tool = jars().tool("delete-records", ["--offset-json-file", str(plan)], tidemark.kafka.brokers)
    subprocess.run(tool, check=True, capture_output=True, timeout=60)


def is_stopped(process: subprocess.Popen[str]) -> bool:
    """Whether it got SIGSTOP, and nobody has let it go on."""
    return Path(f"/proc/{process.pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "T"


def orphans(tidemark: Tidemark) -> list[tuple[Any, ...]]:
    """Schemas that no generation has, and generations without one; rows of offsets that are not their generation's."""
    return tidemark.query(
        "select n.nspname, g.schema_name from pg_namespace n"
        " full join tidemark.generations g on g.schema_name = n.nspname"
        " where (n.nspname is null or g.schema_name is null) and coalesce(n.nspname, 'counters') ~ '^(counters|vehicles)'"
        " union all select 'offsets', generation::text from counters.offsets where generation <>"
        " (select generation from tidemark.generations where stream = 'counters' and status = 'live')"
    )
