package peers;

import java.time.Duration;
import org.apache.flink.api.common.eventtime.WatermarkStrategy;
import org.apache.flink.api.common.functions.AggregateFunction;
import org.apache.flink.api.common.functions.OpenContext;
import org.apache.flink.api.common.state.ValueState;
import org.apache.flink.api.common.state.ValueStateDescriptor;
import org.apache.flink.api.common.typeinfo.TypeInformation;
import org.apache.flink.configuration.Configuration;
import org.apache.flink.connector.kafka.source.KafkaSource;
import org.apache.flink.connector.kafka.source.enumerator.initializer.OffsetsInitializer;
import org.apache.flink.connector.kafka.source.reader.deserializer.KafkaRecordDeserializationSchema;
import org.apache.flink.streaming.api.datastream.DataStream;
import org.apache.flink.streaming.api.datastream.DataStreamUtils;
import org.apache.flink.streaming.api.environment.StreamExecutionEnvironment;
import org.apache.flink.streaming.api.functions.KeyedProcessFunction;
import org.apache.flink.streaming.api.functions.sink.RichSinkFunction;
import org.apache.flink.streaming.api.functions.windowing.ProcessWindowFunction;
import org.apache.flink.streaming.api.windowing.assigners.TumblingEventTimeWindows;
import org.apache.flink.streaming.api.windowing.windows.TimeWindow;
import org.apache.flink.util.Collector;
import org.apache.kafka.clients.consumer.ConsumerRecord;

/**
 * Flink doing what a replay does, in this process, of what the topic holds at the start: BROKERS TOPIC JDBC-URL
 * PARALLELISM. State on the heap, objects reused, no checkpoints: it could not resume.
 */
public final class Flink {
    public static void main(String[] given) throws Exception {
        String url = given[2];
        StreamExecutionEnvironment flink =
                StreamExecutionEnvironment.createLocalEnvironment(Integer.parseInt(given[3]), new Configuration());
        flink.getConfig().enableObjectReuse();
        KafkaSource<Event> source = KafkaSource.<Event>builder()
                .setBootstrapServers(given[0])
                .setTopics(given[1])
                .setStartingOffsets(OffsetsInitializer.earliest())
                .setBounded(OffsetsInitializer.latest())
                .setProperty("max.poll.records", "10000")
                .setDeserializer(new Decode())
                .build();
        DataStream<Row> windows = flink
                .fromSource(source,
                        WatermarkStrategy.<Event>forMonotonousTimestamps().withTimestampAssigner((event, before) -> event.time),
                        "log")
                .keyBy(event -> event.key)
                .window(TumblingEventTimeWindows.of(Duration.ofSeconds(10)))
                .aggregate(new Add(), new Name());
        windows.addSink(new ToWindows(url));
        DataStreamUtils.reinterpretAsKeyedStream(windows, row -> row.key).process(new AddUp()).addSink(new ToTotals(url));
        flink.execute();
    }

    /** A sum and whose it is. */
    public static final class Row {
        public String key;
        public long start;
        public Sum sum;

        public static Row of(String key, long start, Sum sum) {
            Row row = new Row();
            row.key = key;
            row.start = start;
            row.sum = sum;
            return row;
        }
    }

    private static final class Decode implements KafkaRecordDeserializationSchema<Event> {
        @Override
        public void deserialize(ConsumerRecord<byte[], byte[]> record, Collector<Event> out) {
            Event event = Event.decode(record.value());
            if (event.key != null) out.collect(event.at(record));
        }

        @Override
        public TypeInformation<Event> getProducedType() {
            return TypeInformation.of(Event.class);
        }
    }

    private static final class Add implements AggregateFunction<Event, Sum, Sum> {
        @Override
        public Sum createAccumulator() {
            return new Sum();
        }

        @Override
        public Sum add(Event event, Sum sum) {
            return sum.add(event);
        }

        @Override
        public Sum getResult(Sum sum) {
            return sum;
        }

        @Override
        public Sum merge(Sum one, Sum other) {
            return one.add(other);
        }
    }

    private static final class Name extends ProcessWindowFunction<Sum, Row, String, TimeWindow> {
        @Override
        public void process(String key, Context context, Iterable<Sum> sums, Collector<Row> out) {
            out.collect(Row.of(key, context.window().getStart(), sums.iterator().next()));
        }
    }

    private static final class AddUp extends KeyedProcessFunction<String, Row, Row> {
        private transient ValueState<Sum> totals;

        @Override
        public void open(OpenContext context) {
            totals = getRuntimeContext().getState(new ValueStateDescriptor<>("total", Sum.class));
        }

        @Override
        public void processElement(Row window, Context context, Collector<Row> out) throws Exception {
            Sum before = totals.value();
            // A copy: the one that was handed on before still waits to be written.
            Sum total = new Sum().add(window.sum);
            if (before != null) total.add(before);
            totals.update(total);
            out.collect(Row.of(window.key, 0, total));
        }
    }

    private abstract static class ToTables extends RichSinkFunction<Row> {
        private final String url;
        protected transient Tables tables;

        ToTables(String url) {
            this.url = url;
        }

        @Override
        public void open(OpenContext context) {
            tables = new Tables(url);
        }

        @Override
        public void finish() {
            tables.close();
        }
    }

    private static final class ToWindows extends ToTables {
        ToWindows(String url) {
            super(url);
        }

        @Override
        public void invoke(Row row, Context context) {
            tables.window(row.key, row.start, row.sum);
        }
    }

    private static final class ToTotals extends ToTables {
        ToTotals(String url) {
            super(url);
        }

        @Override
        public void invoke(Row row, Context context) {
            tables.total(row.key, row.sum);
        }
    }
}
