"""The Tidemark that most acceptance tests share: two APIs and a consumer. Tests keep apart by their keys and ids."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from support.tidemark import Running, Tidemark


@pytest.fixture(scope="session")
def tidemark(make_shared_tidemark: Callable[..., Tidemark]) -> Tidemark:
    return make_shared_tidemark()


@pytest.fixture(scope="session")
def consumer(tidemark: Tidemark) -> Running:
    return tidemark.start_consumer()


@pytest.fixture(scope="session")
def api(tidemark: Tidemark, consumer: Running) -> Running:
    return tidemark.start_api()


@pytest.fixture(scope="session")
def other_api(tidemark: Tidemark, consumer: Running) -> Running:
    """A second instance over the same log and tables."""
    return tidemark.start_api()
