"""What GET /generations/{stream} tells of the sets of tables that stand in the database."""

from __future__ import annotations

from stack.process import wait_for
from support.answers import instant, problem
from support.fold import SECOND
from support.tidemark import Running, Tidemark


def test_the_live_generation_is_told_with_those_who_fold_it(tidemark: Tidemark, api: Running) -> None:
    [(instance, fingerprint)] = tidemark.query(
        "select instance, fingerprint from tidemark.consumers where stream = 'counters'"
    )
    [(created_at,)] = tidemark.query(
        "select extract(epoch from created_at) from tidemark.generations where stream = 'counters'"
    )

    def told() -> bool:
        # Nobody is heard of while another test has stopped the consumer.
        return bool(api.get("/generations/counters").json()["generations"][0]["foldedBy"])

    wait_for(told, "the consumer to be heard of", 30)
    answer = api.get("/generations/counters")

    assert answer.status_code == 200
    assert answer.headers["Cache-Control"] == "no-store"
    body = answer.json()
    assert body["stream"] == "counters"
    [live] = body["generations"]
    assert instant(live.pop("createdAt")) == created_at * SECOND
    assert live == {
        "generation": 1,
        "role": "live",
        "fingerprint": fingerprint,
        "schema": "counters",
        "foldedBy": [instance],
    }


def test_a_stream_that_there_is_not_is_unknown(api: Running) -> None:
    answer = api.get("/generations/none")

    problem(answer, 404, "unknown_entity")
    assert answer.headers["Cache-Control"] == "no-store"
