package peers;

import java.time.Duration;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.concurrent.atomic.AtomicLong;
import java.util.concurrent.atomic.AtomicReference;
import org.apache.kafka.clients.consumer.ConsumerConfig;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.producer.ProducerConfig;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.Serde;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.StreamsBuilder;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.errors.StreamsUncaughtExceptionHandler.StreamThreadExceptionResponse;
import org.apache.kafka.streams.kstream.Consumed;
import org.apache.kafka.streams.kstream.Grouped;
import org.apache.kafka.streams.kstream.KGroupedStream;
import org.apache.kafka.streams.kstream.Materialized;
import org.apache.kafka.streams.kstream.TimeWindows;
import org.apache.kafka.streams.kstream.Windowed;
import org.apache.kafka.streams.processor.api.ContextualProcessor;
import org.apache.kafka.streams.processor.api.ProcessorContext;
import org.apache.kafka.streams.processor.api.Record;
import org.apache.kafka.streams.state.Stores;

/**
 * Kafka Streams doing what a replay does, until it has processed what the topic holds at the start:
 * BROKERS TOPIC JDBC-URL GUARANTEE CHANGELOGS APPLICATION STATE-DIRECTORY. In-memory stores under a cache that holds every row, so a row
 * is written to PostgreSQL once per commit.
 */
public final class Streams {
    private static final Duration WINDOW = Duration.ofSeconds(10);
    private static final AtomicLong processed = new AtomicLong();
    private static final AtomicReference<Throwable> failure = new AtomicReference<>();

    public static void main(String[] given) throws Exception {
        String brokers = given[0];
        String topic = given[1];
        String url = given[2];
        String guarantee = given[3];
        boolean changelogs = Boolean.parseBoolean(given[4]);

        Properties settings = new Properties();
        settings.put(StreamsConfig.APPLICATION_ID_CONFIG, given[5]);
        settings.put(StreamsConfig.STATE_DIR_CONFIG, given[6]);
        settings.put(StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, brokers);
        settings.put(StreamsConfig.PROCESSING_GUARANTEE_CONFIG, guarantee);
        settings.put(StreamsConfig.REPLICATION_FACTOR_CONFIG, 1);
        settings.put(StreamsConfig.COMMIT_INTERVAL_MS_CONFIG, 30_000);
        settings.put(StreamsConfig.STATESTORE_CACHE_MAX_BYTES_CONFIG, 512L << 20);
        settings.put(StreamsConfig.consumerPrefix(ConsumerConfig.AUTO_OFFSET_RESET_CONFIG), "earliest");
        settings.put(StreamsConfig.consumerPrefix(ConsumerConfig.MAX_POLL_RECORDS_CONFIG), 10_000);
        settings.put(StreamsConfig.BUFFERED_RECORDS_PER_PARTITION_CONFIG, 10_000);
        settings.put(StreamsConfig.producerPrefix(ProducerConfig.COMPRESSION_TYPE_CONFIG), "lz4");
        settings.put(StreamsConfig.producerPrefix(ProducerConfig.BATCH_SIZE_CONFIG), 256 << 10);
        settings.put(StreamsConfig.producerPrefix(ProducerConfig.LINGER_MS_CONFIG), 100);
        settings.put(StreamsConfig.producerPrefix(ProducerConfig.TRANSACTION_TIMEOUT_CONFIG), 120_000);

        long wanted;
        try (KafkaConsumer<byte[], byte[]> asker = new KafkaConsumer<>(
                Map.of("bootstrap.servers", brokers), new ByteArrayDeserializer(), new ByteArrayDeserializer())) {
            List<TopicPartition> partitions = asker.partitionsFor(topic).stream()
                    .map(one -> new TopicPartition(topic, one.partition())).toList();
            wanted = asker.endOffsets(partitions).values().stream().mapToLong(Long::longValue).sum();
            settings.put(StreamsConfig.NUM_STREAM_THREADS_CONFIG, partitions.size());
        }

        KafkaStreams streams = new KafkaStreams(topology(topic, url, changelogs), settings);
        streams.setUncaughtExceptionHandler(error -> {
            failure.compareAndSet(null, error);
            return StreamThreadExceptionResponse.SHUTDOWN_CLIENT;
        });
        streams.start();
        while (processed.get() < wanted && failure.get() == null) Thread.sleep(20);
        // Commits, and so writes what the caches hold.
        if (!streams.close(Duration.ofMinutes(2))) failure.compareAndSet(null, new IllegalStateException("does not close"));
        if (failure.get() != null) {
            failure.get().printStackTrace();
            System.exit(1);
        }
    }

    private static org.apache.kafka.streams.Topology topology(String topic, String url, boolean changelogs) {
        Serde<Event> events = Serdes.serdeFrom(
                (name, event) -> {
                    throw new IllegalStateException("nothing is repartitioned here");
                },
                (name, bytes) -> Event.decode(bytes));
        Serde<Sum> sums = Serdes.serdeFrom(
                (name, sum) -> sum == null ? null : sum.encode(), (name, bytes) -> bytes == null ? null : Sum.decode(bytes));
        StreamsBuilder builder = new StreamsBuilder();
        KGroupedStream<String, Event> byKey = builder
                .stream(topic, Consumed.with(Serdes.String(), events).withTimestampExtractor((record, before) -> {
                    Event event = ((Event) record.value()).at(record);
                    return event.key == null ? Math.max(0, before) : event.time;
                }))
                .peek((key, event) -> processed.incrementAndGet())
                .filter((key, event) -> event.key != null)
                .groupByKey(Grouped.with(Serdes.String(), events));
        byKey.windowedBy(TimeWindows.ofSizeAndGrace(WINDOW, Duration.ofHours(1)))
                .aggregate(Sum::new, (key, event, sum) -> sum.add(event),
                        logged(Materialized.<String, Sum>as(
                                Stores.inMemoryWindowStore("windows", Duration.ofHours(2), WINDOW, false))
                                .withKeySerde(Serdes.String()).withValueSerde(sums).withCachingEnabled(), changelogs))
                .toStream().process(() -> new ToWindows(url));
        byKey.aggregate(Sum::new, (key, event, sum) -> sum.add(event),
                        logged(Materialized.<String, Sum>as(Stores.inMemoryKeyValueStore("totals"))
                                .withKeySerde(Serdes.String()).withValueSerde(sums).withCachingEnabled(), changelogs))
                .toStream().process(() -> new ToTotals(url));
        return builder.build();
    }

    private static <S extends org.apache.kafka.streams.processor.StateStore> Materialized<String, Sum, S> logged(
            Materialized<String, Sum, S> store, boolean changelogs) {
        return changelogs ? store.withLoggingEnabled(new HashMap<>()) : store.withLoggingDisabled();
    }

    /** A last stage; its tables are written when it closes, after the commit of a clean end. */
    private abstract static class ToTables<K> extends ContextualProcessor<K, Sum, Void, Void> {
        private final String url;
        protected Tables tables;

        ToTables(String url) {
            this.url = url;
        }

        @Override
        public void init(ProcessorContext<Void, Void> context) {
            super.init(context);
            tables = new Tables(url);
        }

        @Override
        public void close() {
            try {
                tables.close();
            } catch (RuntimeException error) {
                failure.compareAndSet(null, error);
            }
        }
    }

    private static final class ToWindows extends ToTables<Windowed<String>> {
        ToWindows(String url) {
            super(url);
        }

        @Override
        public void process(Record<Windowed<String>, Sum> record) {
            tables.window(record.key().key(), record.key().window().start(), record.value());
        }
    }

    private static final class ToTotals extends ToTables<String> {
        ToTotals(String url) {
            super(url);
        }

        @Override
        public void process(Record<String, Sum> record) {
            tables.total(record.key(), record.value());
        }
    }
}
