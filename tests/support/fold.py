"""The reference fold: what the tables must hold, worked out from the log by other code than the consumer's.

Nothing here is shared with the C++ sources but the rules, which stand in the documents: an event is a strict
CloudEvents JSON object; its key is its entity; a deduplicated or ordered event counts only in its key's partition; an
event over an hour ahead of its append time is parked; a repeat of an identity within 24 hours of log time is a
duplicate, or a conflict when its data differ; log time is the running maximum of a partition's append times. Before all
that: a record with a value whose header `import` names a line of a file that has come to its partition is a duplicate;
and what comes under a key that a dead letter holds is parked behind it, until that one is redriven or discarded.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar

SECOND = 1_000_000
HOUR = 3600 * SECOND
DAY = 24 * HOUR
WINDOW = 10 * SECOND
MAX_INTEGER = 2**53 - 1
LINES_OF_BLOCK = 8192

INCREMENTED = "tidemark.counter.incremented.v1"
REGISTERED = "tidemark.vehicle.registered.v1"
STATE_CHANGED = "tidemark.vehicle.state_changed.v1"
LOG_CREATED = "tidemark.log.created.v1"
REDRIVEN = "tidemark.dead_letter.redriven.v1"
DISCARDED = "tidemark.dead_letter.discarded.v1"
MOST_ATTEMPTS = 6
MOST_RELEASED = 1000
BEHIND = "behind_dead_letter"
# Of a stream that asks for it: the reasons for which a letter holds its key (tests/support/holding_counters.h).
HOLDING = frozenset({"tombstone", "malformed", "unknown_type", "invalid_data", "refused_by_database"})


@dataclass(frozen=True)
class Record:
    """One record as the log holds it; instants are microseconds since the epoch."""

    partition: int
    offset: int
    append_time: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...] = ()


class Parked(Exception):
    """The record is a dead letter, for this reason."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass
class Letter:
    """A dead letter, and what was decided about it."""

    record: Record
    reason: str
    attempts: int = 1
    status: str = "open"
    decided_at: int | None = None
    note: str | None = None
    holds: bool = False


@dataclass
class Partition:
    """Where the fold stands in one partition, and what became of its records."""

    next_offset: int = 0
    log_time: int = 0
    applied: int = 0
    duplicates: int = 0
    parked: int = 0
    gaps: int = 0


@dataclass
class Expected:
    """What every stream's tables have in common; instants in microseconds."""

    types: ClassVar[tuple[str, ...]]
    # Whether order matters, so that a record outside its key's partition is refused even without an identity.
    ordered: ClassVar[bool]

    partitions: dict[int, Partition] = field(default_factory=dict)
    letters: dict[tuple[int, int], Letter] = field(default_factory=dict)
    # (partition, identity) -> (offset, log time, data) of the first sight that still decides
    identities: dict[tuple[int, str], tuple[int, int, Any]] = field(default_factory=dict)
    # (partition, file, line) of imports
    lines: set[tuple[int, str, int]] = field(default_factory=set)
    # Reasons for which a letter holds its key, and by partition and key the offsets of those that do
    holding: frozenset[str] = frozenset()
    queues: dict[tuple[int, bytes], list[int]] = field(default_factory=dict)

    def fold(self, records: Iterable[Record], ends: Mapping[int, int]) -> None:
        """Folds a whole log: each partition's records by rising offset, and the offset after the last of each."""
        self.partitions = {number: Partition() for number in ends}
        identity: str | None = None
        for record in records:
            here = self.partitions[record.partition]
            here.gaps += record.offset - here.next_offset
            here.next_offset = record.offset + 1
            here.log_time = max(here.log_time, record.append_time)
            if self._has_come(record):
                here.duplicates += 1
                continue
            try:
                if self._queue(record) and not _is_of_no_entity(record):
                    raise Parked(BEHIND)
                event = _Event(record)
                if event.type == LOG_CREATED:
                    identity = _check_identity(event, record, identity)
                    here.applied += 1
                elif event.type in (REDRIVEN, DISCARDED):
                    self._decide(event, record, here, len(ends))
                    here.applied += 1
                elif self._is_new(event, record, here, len(ends)):
                    self._apply(event, record, here.log_time)
                    here.applied += 1
                else:
                    here.duplicates += 1
            except Parked as parked:
                here.parked += 1
                letter = self.letters[(record.partition, record.offset)] = Letter(record, parked.reason)
                asks = parked.reason in self.holding and record.key is not None and not _is_of_no_entity(record)
                if parked.reason == BEHIND or asks:
                    letter.holds = True
                    self.queues.setdefault((record.partition, record.key or b""), []).append(record.offset)
        for number, end in ends.items():
            here = self.partitions[number]
            here.gaps += end - here.next_offset
            here.next_offset = end

    @property
    def imports(self) -> dict[tuple[int, str, int], bytes]:
        """The rows of that table: a bit for each line of a block that has come, the lowest first."""
        rows: dict[tuple[int, str, int], int] = {}
        for partition, file, line in self.lines:
            block, bit = divmod(line - 1, LINES_OF_BLOCK)
            rows[partition, file, block] = rows.get((partition, file, block), 0) | 1 << bit
        return {place: bits.to_bytes((bits.bit_length() + 7) // 8, "little") for place, bits in rows.items()}

    def _has_come(self, record: Record) -> bool:
        headers = [value for name, value in record.headers if name == "import"]
        found = _imported_line.fullmatch(headers[-1] or b"") if headers and record.value is not None else None
        if found is None or int(found[2]) >= 2**63:
            return False
        line = (record.partition, found[1].decode(), int(found[2]))
        if line in self.lines:
            return True
        self.lines.add(line)
        return False

    @property
    def dead_letters(self) -> dict[tuple[int, int], str]:
        """The reason of each."""
        return {place: letter.reason for place, letter in self.letters.items()}

    def _decide(self, decision: _Event, record: Record, here: Partition, partitions: int) -> None:
        """An operator's decision about a letter; one about a letter that is not open changes nothing."""
        decision.integer("offset", 0, 2**63 - 1)
        extra = "edit" if decision.type == REDRIVEN else "note"
        text = decision.members.get(extra)
        if text is not None and not _is_text(text, 1 << 20 if extra == "edit" else 2_000):
            raise Parked("invalid_data")
        seen = decision.members.get("attempts") if decision.type == REDRIVEN else None
        if seen is not None:
            decision.integer("attempts", 1, 2**63 - 1)
            seen = decision.members["attempts"]
        letter = self.letters.get((record.partition, decision.members["offset"]))
        if letter is None or (seen is not None and seen != letter.attempts):
            return
        is_first = letter.holds and self._queue(letter.record)[0] == letter.record.offset
        if decision.type == DISCARDED:
            if letter.status != "open" and not letter.holds:
                return
            letter.decided_at, letter.status, letter.note = record.offset, "discarded", text
            self._let_go(letter)
        elif letter.status != "open" or (letter.holds and not is_first):
            return
        else:
            self._judge_again(letter, text, record, here, partitions)
        # Those behind it, one after the other, up to the next that stays.
        released = 0
        while is_first and not letter.holds and released < MOST_RELEASED and self._queue(letter.record):
            letter = self.letters[(record.partition, self._queue(letter.record)[0])]
            self._judge_again(letter, None, record, here, partitions)
            released += 1

    def _queue(self, record: Record) -> list[int]:
        return [] if record.key is None else self.queues.get((record.partition, record.key), [])

    def _let_go(self, letter: Letter) -> None:
        if letter.holds:
            letter.holds = False
            self._queue(letter.record).remove(letter.record.offset)

    def _judge_again(self, letter: Letter, text: str | None, record: Record, here: Partition, partitions: int) -> None:
        letter.decided_at = record.offset
        value = letter.record.value if text is None else text.encode()
        again = Record(record.partition, record.offset, record.append_time, letter.record.key, value)
        try:
            event = _Event(again, letter.record.append_time)
            if self._is_new(event, again, here, partitions):
                self._apply(event, again, here.log_time)
            letter.status = "redriven"
            self._let_go(letter)
        except Parked as parked:
            letter.attempts += 1
            letter.status = "quarantined" if letter.attempts >= MOST_ATTEMPTS else "open"
            if parked.reason not in self.holding:
                self._let_go(letter)

    def _is_new(self, event: _Event, record: Record, here: Partition, partitions: int) -> bool:
        if event.type not in self.types:
            raise Parked("unknown_type")
        entity = self._entity(event)
        if record.key != entity.encode():
            raise Parked("key_mismatch")
        is_bound = self.ordered or event.identity is not None
        if is_bound and murmur2_partition(record.key, partitions) != record.partition:
            raise Parked("wrong_partition")
        if event.time - record.append_time > HOUR:
            raise Parked("from_the_future")
        if event.identity is None:
            return True
        known = self.identities.get((record.partition, event.identity))
        if known is not None and here.log_time - known[1] <= DAY:
            if known[2] != event.data:
                raise Parked("idempotency_conflict")
            return False
        self.identities[(record.partition, event.identity)] = (record.offset, here.log_time, event.data)
        return True

    def _entity(self, event: _Event) -> str:
        """Reads the data; the text that the record's key must be."""
        raise NotImplementedError

    def _apply(self, event: _Event, record: Record, log_time: int) -> None:
        raise NotImplementedError


@dataclass
class Counters(Expected):
    """Totals by key and windows by (key, start, partition)."""

    totals: dict[str, list[int]] = field(default_factory=dict)  # value, count, updated at
    windows: dict[tuple[str, int, int], list[int]] = field(default_factory=dict)  # value, count, min and max offset

    types = (INCREMENTED,)
    ordered = False

    def _entity(self, event: _Event) -> str:
        event.text("key", 256)
        event.integer("value", -MAX_INTEGER, MAX_INTEGER)
        return str(event.members["key"])

    def _apply(self, event: _Event, record: Record, log_time: int) -> None:
        key, value = event.members["key"], event.members["value"]
        total = self.totals.setdefault(key, [0, 0, 0])
        total[0] += value
        total[1] += 1
        total[2] = max(total[2], log_time)
        place = (key, event.time // WINDOW * WINDOW, record.partition)
        window = self.windows.setdefault(place, [0, 0, record.offset, record.offset])
        window[0] += value
        window[1] += 1
        window[3] = record.offset


@dataclass
class Vehicles(Expected):
    """History by (id, kind, occurred at, offset), the newest of each kind, transitions by (start, state, partition)."""

    history: dict[tuple[int, str, int, int], tuple[Any, ...]] = field(default_factory=dict)
    transitions: dict[tuple[int, str, int], list[int]] = field(default_factory=dict)  # count, min and max offset
    applied_at: dict[int, int] = field(default_factory=dict)

    types = (REGISTERED, STATE_CHANGED)
    ordered = True

    def _entity(self, event: _Event) -> str:
        event.integer("id", 1, MAX_INTEGER)
        if event.type == REGISTERED:
            event.text("make", 128)
            event.text("model", 128)
        elif event.members.get("state") not in ("quoted", "selling", "sold"):
            raise Parked("invalid_data")
        return str(event.members["id"])

    def _apply(self, event: _Event, record: Record, log_time: int) -> None:
        vehicle, data = event.members["id"], event.members
        self.applied_at[vehicle] = max(self.applied_at.get(vehicle, 0), log_time)
        if event.type == REGISTERED:
            row = (record.partition, data["make"], data["model"], None, log_time)
            self.history[(vehicle, "registered", event.time, record.offset)] = row
            return
        row = (record.partition, None, None, data["state"], log_time)
        self.history[(vehicle, "state_changed", event.time, record.offset)] = row
        place = (event.time // WINDOW * WINDOW, data["state"], record.partition)
        window = self.transitions.setdefault(place, [0, record.offset, record.offset])
        window[0] += 1
        window[2] = record.offset

    def current(self) -> dict[int, tuple[Any, ...]]:
        """By id: make, model, registered at and offset, state, occurred at and offset, applied at."""
        newest: dict[tuple[int, str], tuple[Any, ...]] = {}
        for vehicle, kind, occurred_at, offset in sorted(self.history):
            _, make, model, state, _ = self.history[(vehicle, kind, occurred_at, offset)]
            newest[(vehicle, kind)] = (make, model, state, occurred_at, offset)
        rows = {}
        for vehicle, applied_at in self.applied_at.items():
            make, model, _, registered_at, registration = newest.get((vehicle, "registered"), (None,) * 5)
            _, _, state, occurred_at, change = newest.get((vehicle, "state_changed"), (None,) * 5)
            rows[vehicle] = (make, model, registered_at, registration, state, occurred_at, change, applied_at)
        return rows

    def state_at(self, vehicle: int, instant: int) -> str | None:
        """The state that the newest change up to this instant set; ties go to the later record."""
        changes = [
            (occurred_at, offset, row[3])
            for (known, kind, occurred_at, offset), row in self.history.items()
            if known == vehicle and kind == "state_changed" and occurred_at <= instant
        ]
        return max(changes)[2] if changes else None


STREAMS: dict[str, type[Expected]] = {"counters": Counters, "vehicles": Vehicles}


class _Event:
    """One record's value, read strictly. Raises Parked("malformed") for everything that is not an event."""

    def __init__(self, record: Record, known_at: int | None = None) -> None:
        if record.value is None:
            raise Parked("tombstone")
        envelope = _parse(record.value)
        if not isinstance(envelope, _Object):
            raise Parked("malformed")
        attributes = {name: value for name, value in envelope.pairs if name != "data" and value is not None}
        for value in attributes.values():
            if isinstance(value, (_Object, list)) or (isinstance(value, _Number) and value.integer() is None):
                raise Parked("malformed")
        for name in ("id", "source", "type"):
            _require(_is_text(attributes.get(name)))
        for name in ("idempotencykey", "traceparent"):
            _require(name not in attributes or _is_text(attributes[name]))
        _require(attributes.get("specversion") == "1.0" and "data_base64" not in attributes)
        if "datacontenttype" in attributes:
            kind = attributes["datacontenttype"]
            _require(isinstance(kind, str) and re.match(r"[^;]+[/+]json[ \t]*(;|\Z)", kind, re.IGNORECASE) is not None)
        self.type: str = attributes["type"]
        self.identity: str | None = attributes.get("idempotencykey")
        self.time = record.append_time if known_at is None else known_at
        if "time" in attributes:
            time = parse_instant(attributes["time"]) if isinstance(attributes["time"], str) else None
            _require(time is not None)
            assert time is not None
            self.time = time
        self.data: Any = envelope.get("data")
        self.members: dict[str, Any] = dict(self.data.pairs) if isinstance(self.data, _Object) else {}

    def text(self, name: str, limit: int) -> None:
        """Requires a member of `data` to be a text of 1..limit bytes."""
        if not _is_text(self.members.get(name), limit):
            raise Parked("invalid_data")

    def integer(self, name: str, low: int, high: int) -> None:
        """Requires a member of `data` to be an integer, and turns it into one."""
        number = self.members.get(name)
        value = number.integer() if isinstance(number, _Number) else None
        if value is None or not low <= value <= high:
            raise Parked("invalid_data")
        self.members[name] = value


@dataclass(frozen=True)
class _Object:
    """A JSON object: equal to another when the names stand in the same order."""

    pairs: list[tuple[str, Any]]

    def get(self, wanted: str) -> Any:
        return next((value for name, value in self.pairs if name == wanted), None)


@dataclass(frozen=True)
class _Number:
    """A JSON number: equal to another when it is written the same."""

    text: str

    def integer(self) -> int | None:
        """Its value, if it is written without fraction and exponent and fits into 64 bits."""
        if not re.fullmatch(r"-?[0-9]+", self.text):
            return None
        value = int(self.text)
        return value if -(2**63) <= value < 2**63 else None


def _parse(value: bytes) -> Any:
    """Strict JSON: UTF-8, no duplicate names, no NUL, no lone surrogate, at most 8 deep, 16 members, 20 digits."""

    def refuse(_: str) -> Any:
        raise ValueError("NaN and Infinity are not JSON")

    try:
        text = value.decode()
        found = json.loads(
            text, object_pairs_hook=_Object, parse_int=_Number, parse_float=_Number, parse_constant=refuse
        )
        text_is_clean = "\\" not in text and "\0" not in text
    except (ValueError, RecursionError):
        raise Parked("malformed") from None
    _check_limits(found, 8, text_is_clean)
    return found


def _check_limits(value: Any, depth: int, clean: bool) -> None:
    if isinstance(value, (_Object, list)):
        _require(depth > 0)
    if isinstance(value, _Object):
        _require(len({name for name, _ in value.pairs}) == len(value.pairs) <= 16)
        for name, member in value.pairs:
            _require(clean or _is_clean(name))
            _check_limits(member, depth - 1, clean)
    elif isinstance(value, list):
        for element in value:
            _check_limits(element, depth - 1, clean)
    elif isinstance(value, _Number):
        _require(len(value.text) <= 20 and abs(float(value.text)) != float("inf"))
    elif isinstance(value, str):
        _require(clean or _is_clean(value))


def _is_clean(text: str) -> bool:
    return "\0" not in text and not any("\ud800" <= c <= "\udfff" for c in text)


def _is_text(value: Any, limit: int = 256) -> bool:
    return isinstance(value, str) and 1 <= len(value.encode()) <= limit


def _require(condition: bool) -> None:
    if not condition:
        raise Parked("malformed")


def _is_of_no_entity(record: Record) -> bool:
    """An operator's decision, or what says which log this is."""
    try:
        return _Event(record).type in (LOG_CREATED, REDRIVEN, DISCARDED)
    except Parked:
        return False


def _check_identity(event: _Event, record: Record, known: str | None) -> str:
    uuid = event.members.get("uuid")
    if record.offset != 0 or not _is_text(uuid) or (known is not None and uuid != known):
        raise Parked("unexpected_identity")
    return str(uuid)


_imported_line = re.compile(rb"([A-Za-z0-9_-]{22}):([1-9][0-9]*)")
_instant = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)[Tt ](\d\d):(\d\d):(\d\d)(?:\.(\d{1,9}))?(?:[Zz]|([+-])(\d\d)(?::?(\d\d))?)", re.ASCII
)
_epoch = datetime(1970, 1, 1, tzinfo=UTC)


def parse_instant(text: str) -> int | None:
    """Microseconds since the epoch; None for what is no instant with an offset."""
    found = _instant.fullmatch(text)
    if not found:
        return None
    year, month, day, hour, minute, second = map(int, found.group(1, 2, 3, 4, 5, 6))
    offset_hours, offset_minutes = int(found[9] or 0), int(found[10] or 0)
    if offset_hours > 23 or offset_minutes > 59:
        return None
    offset = timedelta(hours=offset_hours, minutes=offset_minutes) * (-1 if found[8] == "-" else 1)
    try:
        local = datetime(year, month, day, hour, minute, second, int((found[7] or "")[:6].ljust(6, "0")), UTC)
        return (local - offset - _epoch) // timedelta(microseconds=1)
    except (ValueError, OverflowError):
        return None


def murmur2_partition(key: bytes, partitions: int) -> int:
    """The partition that the Java clients' default partitioner gives a key."""
    mask, m = 0xFFFFFFFF, 0x5BD1E995
    h = 0x9747B28C ^ len(key)
    whole = len(key) // 4 * 4
    for i in range(0, whole, 4):
        k = int.from_bytes(key[i : i + 4], "little") * m & mask
        k = (k ^ k >> 24) * m & mask
        h = h * m & mask ^ k
    rest = key[whole:]
    if rest:
        h = (h ^ int.from_bytes(rest, "little")) * m & mask
    h = (h ^ h >> 13) * m & mask
    h ^= h >> 15
    return (h & 0x7FFFFFFF) % partitions
