package peers;

import java.nio.ByteBuffer;

/** What the events of one row add up to: a window's, or a counter's since ever. */
public final class Sum {
    static final int BYTES = 44;

    public long value;
    public long count;
    public int partition;
    public long minOffset = Long.MAX_VALUE;
    public long maxOffset = Long.MIN_VALUE;
    public long updated;

    public Sum add(Event event) {
        value += event.value;
        ++count;
        partition = event.partition;
        minOffset = Math.min(minOffset, event.offset);
        maxOffset = Math.max(maxOffset, event.offset);
        updated = Math.max(updated, event.appended);
        return this;
    }

    public Sum add(Sum other) {
        value += other.value;
        count += other.count;
        partition = other.partition;
        minOffset = Math.min(minOffset, other.minOffset);
        maxOffset = Math.max(maxOffset, other.maxOffset);
        updated = Math.max(updated, other.updated);
        return this;
    }

    byte[] encode() {
        return ByteBuffer.allocate(BYTES).putLong(value).putLong(count).putInt(partition).putLong(minOffset)
                .putLong(maxOffset).putLong(updated).array();
    }

    static Sum decode(byte[] bytes) {
        ByteBuffer from = ByteBuffer.wrap(bytes);
        Sum sum = new Sum();
        sum.value = from.getLong();
        sum.count = from.getLong();
        sum.partition = from.getInt();
        sum.minOffset = from.getLong();
        sum.maxOffset = from.getLong();
        sum.updated = from.getLong();
        return sum;
    }
}
