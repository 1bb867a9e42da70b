"""Trials under load, and the table of what they found."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from support.tidemark import Running, Tidemark
from support.trial import Finding, MakeTrial, Trial

_findings = pytest.StashKey[list[Finding]]()


@pytest.fixture
def trial(request: pytest.FixtureRequest) -> MakeTrial:
    """Makes the test's trials; each adds a line to the closing table."""

    def make(tidemark: Tidemark, apis: list[Running], fault: str, **options: object) -> Trial:
        finding = Finding(fault)
        request.config.stash.setdefault(_findings, []).append(finding)
        return Trial(tidemark, apis, finding, **options)

    return make


@pytest.fixture(scope="module")
def tidemark(make_tidemark: Callable[..., Tidemark]) -> Tidemark:
    """A module's own Tidemark."""
    return make_tidemark()


@pytest.fixture(scope="module")
def apis(tidemark: Tidemark, consumer: Running) -> list[Running]:
    """Two instances."""
    return [tidemark.start_api(), tidemark.start_api()]


@pytest.fixture(scope="module")
def consumer(tidemark: Tidemark) -> Running:
    return tidemark.start_consumer(0)


@pytest.fixture(autouse=True)
def _revive(request: pytest.FixtureRequest) -> Iterator[None]:
    """A test that failed half-way leaves the next one what it needs."""
    yield
    programs: list[Running] = []
    for name in {"apis", "consumer", "heir"} & set(request.fixturenames):
        found = request.getfixturevalue(name)
        programs += found if isinstance(found, list) else [found]
    for program in programs:
        program.plan_fault("")
        program.thaw()
        if not program.alive:
            program.start()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    findings = config.stash.get(_findings, [])
    if findings:
        terminalreporter.section("faults")
        for line in Finding.table(findings):
            terminalreporter.write_line(line)
