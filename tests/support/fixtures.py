"""What every Python test can ask pytest for. Loaded as a plugin by tests/pytest.ini."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from stack.kafka import Kafka
from stack.postgres import Postgres
from stack.private import CLONE, jars
from stack.process import scratch_directory
from support.log import Log
from support.tidemark import Tidemark

_tidemarks = pytest.StashKey[list[Tidemark]]()
_databases = itertools.count(1)


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("tidemark")
    group.addoption("--long", action="store_true", help="also the tests marked `long`, and more seeds")
    group.addoption("--seeds", type=int, help="how many seeds each seeded test runs with (default 1, with --long 2)")
    group.addoption(
        "--build", type=Path, default=CLONE / "build" / "ci", help="the build whose programs are tested (build/ci)"
    )


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_tidemarks] = []


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves the long tests out, and lets pytest's last line say how many."""
    if config.getoption("--long"):
        return
    left_out = [item for item in items if item.get_closest_marker("long")]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test that takes `seed` runs once for each; its name shows the seed, so its command line reproduces it."""
    if "seed" in metafunc.fixturenames:
        count = metafunc.config.getoption("--seeds") or (2 if metafunc.config.getoption("--long") else 1)
        metafunc.parametrize("seed", range(1, count + 1), ids=lambda seed: f"seed{seed}")


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, None]:
    """Shows the last log lines of every program under a failure."""
    outcome = yield
    report = outcome.get_result()
    if report.failed:
        for tidemark in item.config.stash[_tidemarks]:
            for running in tidemark.running:
                report.sections.append((f"{running.name} at {running.url}", running.tail()))


@pytest.fixture(scope="session")
def build(request: pytest.FixtureRequest) -> Path:
    """The build directory whose programs are tested."""
    path: Path = request.config.getoption("--build")
    return path.resolve()


@pytest.fixture(scope="session")
def scratch() -> Iterator[Path]:
    """A directory for servers' files, gone at the end."""
    with scratch_directory("tidemark-test") as directory:
        yield directory


@pytest.fixture(scope="session")
def postgres(scratch: Path) -> Iterator[Postgres]:
    """One database server for all tests that do not hurt it; each makes databases of its own on it."""
    server = Postgres(scratch / "postgres", durable=False, tied=True)
    server.start()
    yield server
    server.kill()


@pytest.fixture(scope="session")
def kafka(scratch: Path) -> Iterator[Kafka]:
    """One broker for all tests that need only a log, each on topics of its own."""
    cluster = Kafka(scratch / "kafka", jars(), tied=True)
    cluster.start()
    yield cluster
    cluster.kill()


@pytest.fixture(scope="session")
def log(kafka: Kafka) -> Log:
    return Log(kafka.brokers)


@contextlib.contextmanager
def _tidemark_maker(
    scratch: Path, build: Path, postgres: Postgres, alive: list[Tidemark]
) -> Iterator[Callable[..., Tidemark]]:
    made: list[tuple[Tidemark, Postgres | None]] = []

    def make(*, nodes: int = 1, own_postgres: bool = False, migrated: bool = True, **settings: str) -> Tidemark:
        number = next(_databases)
        directory = scratch / f"tidemark-{number}"
        directory.mkdir(mode=0o711)
        own = Postgres(directory / "postgres", durable=False, tied=True) if own_postgres else None
        server = own or postgres
        server.start()
        server.create_database(f"tidemark_{number}")
        cluster = Kafka(directory / "kafka", jars(), nodes=nodes, tied=True)
        tidemark = Tidemark(directory, cluster, server, f"tidemark_{number}", build)
        made.append((tidemark, own))
        alive.append(tidemark)
        cluster.start()
        if migrated:
            tidemark.migrate(**settings)
        return tidemark

    try:
        yield make
    finally:
        for tidemark, own in made:
            tidemark.end()
            if own is not None:
                own.kill()
            alive.remove(tidemark)


@pytest.fixture(scope="module")
def make_tidemark(
    scratch: Path, build: Path, postgres: Postgres, pytestconfig: pytest.Config
) -> Iterator[Callable[..., Tidemark]]:
    """Makes migrated Tidemarks, each with a fresh broker (the topics' names are fixed) and a fresh database.

    `nodes=3` makes a cluster; `own_postgres=True` a database server that the test may kill; `migrated=False` leaves the
    migration to the test; other settings go to `migrate`. They end with the module, or earlier by `end()`.
    """
    with _tidemark_maker(scratch, build, postgres, pytestconfig.stash[_tidemarks]) as make:
        yield make


@pytest.fixture(scope="session")
def make_shared_tidemark(
    scratch: Path, build: Path, postgres: Postgres, pytestconfig: pytest.Config
) -> Iterator[Callable[..., Tidemark]]:
    """The same for Tidemarks that several modules use; they end with the session."""
    with _tidemark_maker(scratch, build, postgres, pytestconfig.stash[_tidemarks]) as make:
        yield make
