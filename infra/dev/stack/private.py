"""A broker and a database for one run of something, gone when it ends."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from stack.kafka import Jars, Kafka
from stack.postgres import OWNER, Postgres
from stack.process import scratch_directory

CLONE = Path(__file__).resolve().parents[3]
STATE = CLONE / ".dev"


def jars() -> Jars:
    """Kafka's jars, kept in the clone so that every command shares one download."""
    return Jars(STATE / "jars")


@contextlib.contextmanager
def servers() -> Iterator[tuple[Kafka, Postgres]]:
    """Both, started. They die with the calling thread, whatever kills it; their files go at the end of the block."""
    with scratch_directory("tidemark-servers") as directory, contextlib.ExitStack() as started:
        kafka = Kafka(directory / "kafka", jars(), tied=True)
        postgres = Postgres(directory / "postgres", durable=False, tied=True)
        started.callback(kafka.kill)
        started.callback(postgres.kill)
        postgres.start()
        kafka.start()
        postgres.execute(f"ALTER ROLE {OWNER} CREATEDB")
        postgres.create_database("tidemark_test")
        yield kafka, postgres


def environment(kafka: Kafka, postgres: Postgres) -> dict[str, str]:
    """The variables by which the tests find them, on top of our own environment."""
    return {
        **os.environ,
        "TIDEMARK_TEST_BROKERS": kafka.brokers,
        "TIDEMARK_TEST_DSN": postgres.dsn(OWNER, "tidemark_test"),
    }
