"""With `--window-retention` old windows go; totals, histories and everything else that is read stays as the log says."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

import pytest

from stack.process import choose_ports, wait_for
from support.answers import token
from support.fold import REGISTERED, STATE_CHANGED
from support.operating import command, increment, roles
from support.tidemark import Running, Tidemark

# The shortest there is.
_kept = "25h"

# How many rows are deleted at once.
_bite = 5_000


@pytest.fixture
def own(make_tidemark: Callable[..., Tidemark]) -> Iterator[Tidemark]:
    """Migrated; nothing runs in it yet."""
    tidemark = make_tidemark()
    yield tidemark
    tidemark.end()


def _instant(hours_ago: float) -> str:
    return (datetime.now(UTC) - timedelta(hours=hours_ago)).isoformat(timespec="microseconds")


def _late(key: str, hours_ago: float, value: int = 1) -> tuple[bytes, bytes]:
    return increment(key, value, time=_instant(hours_ago))


def _vehicle_event(kind: str, hours_ago: float, **data: object) -> tuple[bytes, bytes]:
    event = {"specversion": "1.0", "id": f"{hours_ago}", "source": "/test", "type": kind, "time": _instant(hours_ago)}
    return str(data["id"]).encode(), json.dumps(event | {"data": data}).encode()


def _fill(own: Tidemark) -> None:
    """Windows of a moment ago and of long ago, on both sides of the cut, of both streams."""
    own.log.put_all(
        "tidemark.counters",
        [_late(f"k{n}", hours) for n in range(20) for hours in (0.1, 20, 24.9, 25.2, 30, 24 * 400)],
    )
    own.log.put_all(
        "tidemark.vehicles",
        [
            _vehicle_event(REGISTERED, 24 * 500, id=7, make="Audi", model="A4"),
            *(_vehicle_event(STATE_CHANGED, hours, id=7, state="quoted") for hours in (0.1, 20, 30, 24 * 400)),
        ],
    )


def _old_rows(own: Tidemark, stream: str = "counters") -> int:
    table = {"counters": "windows", "vehicles": "transitions"}[stream]
    [(rows,)] = own.query(f"select count(*) from {stream}.{table} where window_start < now() - interval '25 hours'")
    return int(rows)


def _await_no_old_rows(own: Tidemark) -> None:
    for stream in ("counters", "vehicles"):
        wait_for(lambda stream=stream: _old_rows(own, stream) == 0, f"the old windows of {stream} to go", 30)


def _windows_from(own: Tidemark, stream: str = "counters") -> datetime:
    [(instant,)] = own.query(f"select max(windows_from) from {stream}.offsets")
    assert isinstance(instant, datetime)
    return instant.astimezone(UTC)


def _z(instant: datetime) -> str:
    return instant.strftime("%Y-%m-%dT%H:%M:%SZ")


def _verify(own: Tidemark) -> None:
    for stream in ("counters", "vehicles"):
        command(own, "verify", stream, "--deep")
        own.assert_equals_log(stream)


def test_old_windows_go_and_whatever_comes_for_them_still_counts(own: Tidemark) -> None:
    keeping_all = own.start_consumer()
    api = own.start_api()
    _fill(own)
    own.settle("counters")
    own.settle("vehicles")
    assert (_old_rows(own), _old_rows(own, "vehicles")) == (60, 2)
    long_ago = api.get("/counters/k3/windows", params={"from": "2000-01-01T00:00:00Z"})
    assert [one["value"] for one in long_ago.json()["items"]] == [1] * 6
    assert keeping_all.terminate() == 0
    assert "windowsFrom" not in command(own, "status", "--json")

    consumer = own.start_consumer(window_retention=_kept)
    _await_no_old_rows(own)
    document = api.get("/openapi.json").json()
    for stream, path in (("counters", "/counters/k3/windows"), ("vehicles", "/vehicles/windows")):
        cut = _windows_from(own, stream)
        assert timedelta(hours=25) <= datetime.now(UTC) - cut < timedelta(hours=25, minutes=2)
        assert cut.timestamp() % 10 == 0
        gone = api.get(path, params={"from": "2000-01-01T00:00:00Z"})
        assert (gone.status_code, gone.json()["type"]) == (410, "/problems/window_dropped")
        assert api.get(gone.json()["type"]).json()["status"] == 410
        template = path.replace("k3", "{key}")
        described = document["paths"][template]["get"]["responses"]["410"]["$ref"].removeprefix("#/components/responses/")
        assert document["components"]["responses"][described]["headers"].keys() <= gone.headers.keys()
        # It names what can be asked for, and until the cut moves on that is answered.
        earliest = gone.json()["detail"].split("kept from ")[1].split(" ")[0]
        assert datetime.fromisoformat(earliest) >= cut
        answer = api.get(path, params={"from": _z(datetime.fromisoformat(earliest) + timedelta(minutes=5))})
        assert answer.status_code == 200, answer.text
        assert len(answer.json()["items"]) == (3 if stream == "counters" else 2)
        assert len(api.get(path).json()["items"]) == 1
    assert api.get("/counters/k3").json()["value"] == 6
    states = api.get("/vehicles/7/states").json()["items"]
    assert len(states) == 4, "history was dropped with the windows"
    lines = json.loads(command(own, "status", "--json"))["partitions"]
    assert all(datetime.fromisoformat(line["windowsFrom"]) > datetime.now(UTC) - timedelta(hours=26) for line in lines)
    assert "WINDOWS FROM" in command(own, "status")
    findings = json.loads(own.run("consumer", "doctor", "--json").stdout)["findings"]
    assert [one["subject"] for one in findings if one["check"] == "windows_from"] == [
        "generation 1 of counters",
        "generation 1 of vehicles",
    ], findings
    assert sum(one["rows"] for one in consumer.events("windows_dropped")) == 62

    # Late ones move the totals and make no window; each is counted, and none of those that are in time.
    assert consumer.metric("tidemark_late_records_total") == 0
    hours = [25.2 + n for n in range(40)] + [0.1 + n / 100 for n in range(60)]
    own.log.put_all("tidemark.counters", [_late(f"late-{n % 7}", ago, 1_000) for n, ago in enumerate(hours)])
    own.log.put("tidemark.counters", *_late("k3", 30, 1_000))
    own.log.put("tidemark.vehicles", *_vehicle_event(STATE_CHANGED, 31, id=7, state="sold"))
    own.log.put("tidemark.vehicles", *_vehicle_event(REGISTERED, 31, id=7, make="Audi", model="A5"))
    own.settle("counters")
    own.settle("vehicles")
    wait_for(
        lambda: consumer.metric("tidemark_late_records_total", stream="counters") >= 41
        and consumer.metric("tidemark_late_records_total", stream="vehicles") >= 1,
        "the late ones to be counted",
    )
    assert consumer.metric("tidemark_late_records_total", stream="counters") == 41
    assert consumer.metric("tidemark_late_records_total", stream="vehicles") == 1
    assert sum(api.get(f"/counters/late-{n}").json()["value"] for n in range(7)) == 100_000
    windows = "select sum(count) from counters.windows where key like 'late-%'"
    assert own.query(windows) == [(60,)]
    assert api.get("/counters/k3").json()["value"] == 1_006
    assert len(api.get("/vehicles/7/states").json()["items"]) == 5
    assert (_old_rows(own), _old_rows(own, "vehicles")) == (0, 0)
    assert own.query("select sum(parked) from counters.offsets") == [(0,)]
    _verify(own)

    # To keep all again brings nothing back, and drops nothing more.
    cut = _windows_from(own)
    assert consumer.terminate() == 0
    cut = max(cut, _windows_from(own))
    own.start_consumer()
    written = api.post("/increment", {"key": "k3", "value": 1})
    assert api.get(f"/counters/k3?at_least={token(written)}").json()["value"] == 1_007
    assert _windows_from(own) == cut
    assert api.get("/counters/k3/windows", params={"from": _z(cut - timedelta(minutes=1))}).status_code == 410
    _verify(own)


def test_replay_diff_promote_and_rollback_agree_on_what_is_dropped(own: Tidemark) -> None:
    own.start_consumer(window_retention=_kept)
    api = own.start_api()
    _fill(own)
    own.settle("counters")
    _await_no_old_rows(own)
    windows = api.get("/counters/k3/windows", params={"from": _instant(24.95)}).json()["items"]
    assert len(windows) == 3

    command(own, "replay", "counters")
    # It has not folded what would be thrown away.
    [(built,)] = own.query("select max(windows_from) from counters_2.offsets")
    assert built is not None
    assert own.query("select count(*) from counters_2.windows where window_start < now() - interval '26 hours'") == [(0,)]
    assert json.loads(command(own, "diff", "counters", "--json"))["differing"] == 0
    command(own, "verify", "counters", "2", "--deep")
    before = _windows_from(own)
    command(own, "promote", "counters")
    assert roles(own) == {1: "retired", 2: "live"}
    assert _windows_from(own) >= before
    own.log.put_all("tidemark.counters", [_late("k3", 30), _late("k3", 0.1)])
    own.settle("counters")
    assert api.get("/counters/k3").json()["value"] == 8
    assert api.get("/counters/k3/windows", params={"from": "2000-01-01T00:00:00Z"}).status_code == 410
    assert json.loads(command(own, "diff", "counters", "1", "--json"))["differing"] == 0
    command(own, "rollback", "counters")
    assert roles(own) == {1: "live", 2: "candidate"}
    assert _windows_from(own) >= before
    assert api.get("/counters/k3").json()["value"] == 8
    assert json.loads(command(own, "diff", "counters", "--json"))["differing"] == 0
    _verify(own)


def test_rows_that_wait_for_deletion_are_no_difference(own: Tidemark) -> None:
    """Of one generation they are deleted, of the other not yet, and it is not as far with its cut either."""
    own.start_consumer()
    _fill(own)
    own.settle("counters")
    command(own, "replay", "counters")
    assert json.loads(command(own, "diff", "counters", "--json"))["differing"] == 0
    own.postgres.execute(
        "delete from counters_2.windows where window_start < date_trunc('hour', now()) - interval '20 hours'",
        database=own.database,
    )
    assert json.loads(own.run("consumer", "diff", "counters", "--json").stdout)["differing"] > 0
    own.postgres.execute(
        "update counters.offsets set windows_from = date_trunc('hour', now()) - interval '20 hours'", database=own.database
    )
    assert json.loads(command(own, "diff", "counters", "--json"))["differing"] == 0


@pytest.mark.parametrize(
    # Both streams pass there, the vehicles with nothing to be deleted.
    ("fault", "bites"), [("w1_windows_moved=kill@2", range(5)), ("w2_windows_dropped=kill@3", range(1, 3))]
)
def test_a_consumer_killed_while_it_drops_is_gone_on_after(own: Tidemark, fault: str, bites: range) -> None:
    api = own.start_api()
    first = own.start_consumer()
    rows = 4 * _bite + 17
    own.log.put_all("tidemark.counters", [_late("old", 26 + n / 100) for n in range(rows)])
    own.log.put("tidemark.counters", *_late("old", 0.1))
    own.settle("counters", 60)
    before = _old_rows(own)
    assert before > 3 * _bite
    assert first.terminate() == 0

    killed = own.start_command(
        "run",
        fault=fault,
        window_retention=_kept,
        slot="1",
        admin_listen=f"127.0.0.1:{choose_ports(1)[0]}",
    )
    killed.communicate(timeout=60)
    assert killed.returncode == -signal.SIGKILL
    # What is left is not shown, if it was this stream that had got so far.
    assert _old_rows(own) in [before - n * _bite for n in bites]
    [(is_cut,)] = own.query("select max(windows_from) is not null from counters.offsets")
    gone = api.get("/counters/old/windows", params={"from": _instant(60)})
    assert gone.status_code == (410 if is_cut else 200)
    assert api.get("/counters/old").json()["value"] == rows + 1
    assert (len(own.query("select * from counters.api_counter_windows")) == 1) == is_cut
    _verify(own)

    own.start_consumer(window_retention=_kept)
    _await_no_old_rows(own)
    assert len(api.get("/counters/old/windows").json()["items"]) == 1
    _verify(own)


def test_two_consumers_drop_what_one_of_them_says(own: Tidemark) -> None:
    def start(slot: int, **settings: str) -> Running:
        return own.start_consumer(slot, **settings)

    start(0)
    start(1, window_retention=_kept)
    wait_for(
        lambda: own.query("select count(distinct owner) from counters.offsets") == [(2,)], "both to own partitions"
    )
    _fill(own)
    own.settle("counters")
    own.settle("vehicles")
    _await_no_old_rows(own)
    for stream in ("counters", "vehicles"):
        wait_for(
            lambda stream=stream: own.query(
                f"select count(*) from {stream}.offsets where windows_from > now() - interval '26 hours'"
            )
            == [(4,)],
            f"every partition of {stream} to begin its windows later",
        )
    _verify(own)


@pytest.mark.parametrize(("given", "accepted"), [("0", True), ("25h", True), ("8760h", True), ("24h", False), ("1s", False)])
def test_windows_are_kept_for_a_day_at_least(own: Tidemark, given: str, accepted: bool) -> None:
    done = own.run("consumer", "run", "--window-retention", given, "--check-config")
    assert done.returncode == (0 if accepted else 2), done.stderr
    if not accepted:
        assert "window-retention: less than 25h" in done.stderr
