package peers;

import com.fasterxml.jackson.core.JsonFactory;
import com.fasterxml.jackson.core.JsonParser;
import com.fasterxml.jackson.core.JsonToken;
import java.io.IOException;
import java.time.LocalDate;
import org.apache.kafka.clients.consumer.ConsumerRecord;

/** An increment as it stands in the log; a plain object that both frameworks can carry. */
public final class Event {
    private static final JsonFactory JSON = new JsonFactory();

    /** Null: no increment, to be left out. */
    public String key;
    public long value;
    /** Event time, in milliseconds. */
    public long time;
    public int partition;
    public long offset;
    /** Log time, in milliseconds. */
    public long appended;

    public static Event decode(byte[] json) {
        Event event = new Event();
        boolean isIncrement = false;
        try (JsonParser parser = JSON.createParser(json)) {
            parser.nextToken();
            while (parser.nextToken() == JsonToken.FIELD_NAME) {
                String name = parser.currentName();
                parser.nextToken();
                switch (name) {
                    case "type" -> isIncrement = parser.getText().equals("tidemark.counter.incremented.v1");
                    case "time" -> event.time = milliseconds(parser.getText());
                    case "data" -> event.readData(parser);
                    default -> parser.skipChildren();
                }
            }
        } catch (IOException error) {
            throw new IllegalArgumentException("no event: " + new String(json), error);
        }
        if (!isIncrement) event.key = null;
        return event;
    }

    /** Where it was read. */
    public Event at(ConsumerRecord<?, ?> record) {
        partition = record.partition();
        offset = record.offset();
        appended = record.timestamp();
        return this;
    }

    private void readData(JsonParser parser) throws IOException {
        while (parser.nextToken() == JsonToken.FIELD_NAME) {
            String name = parser.currentName();
            parser.nextToken();
            switch (name) {
                case "key" -> key = parser.getText();
                case "value" -> value = parser.getLongValue();
                default -> parser.skipChildren();
            }
        }
    }

    /** Of an instant in the one form that the measurement writes, 2026-11-20T10:00:03.217000Z: Instant.parse costs a microsecond. */
    private static long milliseconds(String text) {
        long day = LocalDate.of(digits(text, 0, 4), digits(text, 5, 7), digits(text, 8, 10)).toEpochDay();
        int seconds = digits(text, 11, 13) * 3600 + digits(text, 14, 16) * 60 + digits(text, 17, 19);
        return (day * 86_400 + seconds) * 1000 + digits(text, 20, 23);
    }

    private static int digits(String text, int begin, int end) {
        int number = 0;
        for (int place = begin; place < end; ++place) number = 10 * number + (text.charAt(place) - '0');
        return number;
    }
}
