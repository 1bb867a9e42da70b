"""The log as anyone may use it: reading whole topics, and putting any bytes on them past our own producer."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewPartitions, NewTopic

from stack.process import wait_for
from support.fold import Record


@dataclass(frozen=True)
class Position:
    """Where a record stands."""

    partition: int
    offset: int


class Log:
    """One cluster. Every call is done when it returns."""

    def __init__(self, brokers: str) -> None:
        self.brokers = brokers
        self._producer: Producer | None = None

    def put(
        self,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        *,
        partition: int | None = None,
        headers: list[tuple[str, bytes]] | None = None,
    ) -> Position:
        """Puts one record on a topic, as another team's program would; returns where it stands."""
        return self.put_all(topic, [(key, value)], partition=partition, headers=headers)[0]

    def put_all(
        self,
        topic: str,
        records: list[tuple[bytes | None, bytes | None]],
        *,
        partition: int | None = None,
        headers: list[tuple[str, bytes]] | None = None,
    ) -> list[Position]:
        """Puts records on a topic in this order."""
        if self._producer is None:
            self._producer = Producer(
                {
                    "bootstrap.servers": self.brokers,
                    "enable.idempotence": True,
                    "partitioner": "murmur2_random",
                    "linger.ms": 5,
                    "message.max.bytes": 8 << 20,
                }
            )
        placed: list[Position | None] = [None] * len(records)
        failures: list[str] = []

        def delivered(index: int, error: KafkaError | None, message: Message) -> None:
            if error is None:
                placed[index] = Position(message.partition(), message.offset())
            else:
                failures.append(error.str())

        where = {} if partition is None else {"partition": partition}
        for index, (key, value) in enumerate(records):
            while True:
                try:
                    self._producer.produce(
                        topic,
                        key=key,
                        value=value,
                        headers=headers or [],
                        on_delivery=lambda error, message, index=index: delivered(index, error, message),
                        **where,
                    )
                    break
                except BufferError:
                    self._producer.poll(0.1)
            self._producer.poll(0)
        self._producer.flush(30)
        if failures or None in placed:
            raise AssertionError(
                f"{placed.count(None)} of {len(records)} records did not reach {topic}: {failures[:3]}"
            )
        return [position for position in placed if position is not None]

    def ends(self, topic: str) -> dict[int, int]:
        """By partition, the offset that its next record gets; what open transactions wrote is counted."""
        with self._reader() as reader:
            metadata = reader.list_topics(topic, timeout=10).topics[topic]
            return {
                number: reader.get_watermark_offsets(TopicPartition(topic, number), timeout=10)[1]
                for number in sorted(metadata.partitions)
            }

    def read(self, topic: str, ends: dict[int, int] | None = None) -> list[Record]:
        """Every record below `ends` (default: the ends as they are now), each partition's by rising offset."""
        ends = self.ends(topic) if ends is None else ends
        found: list[Record] = []
        unfinished = {number for number, end in ends.items() if end > 0}
        with self._reader() as reader:
            reader.assign([TopicPartition(topic, number, OFFSET_BEGINNING) for number in unfinished])
            deadline = time.monotonic() + 120
            while unfinished:
                if time.monotonic() > deadline:
                    raise AssertionError(f"{topic}: partitions {unfinished} cannot be read to {ends}")
                for message in reader.consume(10_000, timeout=0.1):
                    number = message.partition()
                    reached = message.offset()
                    if message.error() is not None:
                        if message.error().code() != KafkaError._PARTITION_EOF:
                            raise AssertionError(f"{topic}-{number}: {message.error()}")
                    elif reached < ends[number]:
                        append_time = message.timestamp()[1] * 1000
                        headers = tuple(message.headers() or ())
                        found.append(Record(number, reached, append_time, message.key(), message.value(), headers))
                        reached += 1
                    if reached >= ends[number]:
                        unfinished.discard(number)
        return found

    def topics(self) -> dict[str, int]:
        """The topics and how many partitions each has."""
        metadata = self._admin().list_topics(timeout=10)
        return {name: len(topic.partitions) for name, topic in metadata.topics.items() if not name.startswith("__")}

    def delete_topic(self, topic: str) -> None:
        admin = self._admin()
        admin.delete_topics([topic])[topic].result(30)
        wait_for(lambda: topic not in self.topics(), f"{topic} to be gone", 30)

    def create_topic(self, topic: str, **settings: str) -> None:
        """With four partitions; by default without what `migrate` sets, as a passer-by would make it."""
        config = {name.replace("_", "."): value for name, value in settings.items()}
        admin = self._admin()
        admin.create_topics([NewTopic(topic, 4, 1, config=config)])[topic].result(30)
        wait_for(lambda: self.topics().get(topic) == 4, f"{topic} to be there", 30)

    def add_partitions(self, topic: str, count: int) -> None:
        """Until there are `count`."""
        admin = self._admin()
        admin.create_partitions([NewPartitions(topic, count)])[topic].result(30)
        wait_for(lambda: self.topics()[topic] == count, f"{topic} to have {count} partitions", 30)

    def _admin(self) -> AdminClient:
        """To be kept until it has answered: what it promised ends with it."""
        return AdminClient({"bootstrap.servers": self.brokers})

    @contextlib.contextmanager
    def open_transaction(self, topic: str, key: bytes, value: bytes) -> Iterator[Position]:
        """A foreign producer's transaction with one record in it, open inside the block and then aborted."""
        producer = Producer(
            {"bootstrap.servers": self.brokers, "transactional.id": f"foreign-{time.monotonic_ns()}", "linger.ms": 0}
        )
        placed: list[Position] = []
        producer.init_transactions(30)
        producer.begin_transaction()
        producer.produce(
            topic,
            key=key,
            value=value,
            on_delivery=lambda error, message: placed.append(Position(message.partition(), message.offset())),
        )
        producer.flush(30)
        try:
            yield placed[0]
        finally:
            producer.abort_transaction(30)

    @contextlib.contextmanager
    def _reader(self) -> Iterator[Consumer]:
        reader = Consumer(
            {
                "bootstrap.servers": self.brokers,
                # A name that the client wants to see; nothing is ever committed or joined under it.
                "group.id": "independent-reader",
                "enable.auto.commit": False,
                "enable.partition.eof": True,
                "isolation.level": "read_uncommitted",
            }
        )
        try:
            yield reader
        finally:
            reader.close()
