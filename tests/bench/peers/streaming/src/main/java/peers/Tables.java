package peers;

import java.sql.Array;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.SQLException;
import java.util.HashMap;
import java.util.Map;
import java.util.TreeMap;

/**
 * Writes rows to Tidemark's own tables: the newest state of each, up to 5,000 in one statement, sorted by key. One
 * thread; close() writes what is left.
 */
final class Tables implements AutoCloseable {
    private static final int BATCH = 5_000;

    private static final String TOTALS = """
            insert into totals select key, value, count, to_timestamp(updated / 1000.0)
            from unnest(?::text[], ?::bigint[], ?::bigint[], ?::bigint[]) as given (key, value, count, updated)
            on conflict (key) do update set value = excluded.value, count = excluded.count, updated_at = excluded.updated_at""";

    private static final String WINDOWS = """
            insert into windows select key, to_timestamp(start / 1000.0), partition, value, count, min_offset, max_offset
            from unnest(?::text[], ?::bigint[], ?::bigint[], ?::bigint[], ?::integer[], ?::bigint[], ?::bigint[])
                as given (key, value, count, start, partition, min_offset, max_offset)
            on conflict (key, window_start, partition) do update set value = excluded.value, count = excluded.count,
                min_offset = excluded.min_offset, max_offset = excluded.max_offset""";

    private final Connection connection;
    private final PreparedStatement totals;
    private final PreparedStatement windows;
    private final Map<String, Sum> newTotals = new HashMap<>();
    /** By key and window. */
    private final Map<String, Map<Long, Sum>> newWindows = new HashMap<>();
    private int newWindowCount = 0;

    Tables(String url) {
        try {
            connection = DriverManager.getConnection(url);
            totals = connection.prepareStatement(TOTALS);
            windows = connection.prepareStatement(WINDOWS);
        } catch (SQLException error) {
            throw new IllegalStateException(error);
        }
    }

    void total(String key, Sum sum) {
        newTotals.put(key, sum);
        if (newTotals.size() >= BATCH) writeTotals();
    }

    void window(String key, long start, Sum sum) {
        if (newWindows.computeIfAbsent(key, k -> new TreeMap<>()).put(start, sum) == null) ++newWindowCount;
        if (newWindowCount >= BATCH) writeWindows();
    }

    @Override
    public void close() {
        writeTotals();
        writeWindows();
        try {
            connection.close();
        } catch (SQLException error) {
            throw new IllegalStateException(error);
        }
    }

    private void writeTotals() {
        if (newTotals.isEmpty()) return;
        Rows rows = new Rows(newTotals.size());
        new TreeMap<>(newTotals).forEach((key, sum) -> rows.add(key, sum, sum.updated));
        newTotals.clear();
        write(totals, rows.keys, rows.values, rows.counts, rows.times);
    }

    private void writeWindows() {
        if (newWindowCount == 0) return;
        Rows rows = new Rows(newWindowCount);
        new TreeMap<>(newWindows).forEach((key, starts) -> starts.forEach((start, sum) -> rows.add(key, sum, start)));
        newWindows.clear();
        newWindowCount = 0;
        write(windows, rows.keys, rows.values, rows.counts, rows.times, rows.partitions, rows.minOffsets, rows.maxOffsets);
    }

    private void write(PreparedStatement statement, Object[]... columns) {
        try {
            for (int column = 0; column < columns.length; ++column) {
                String type = columns[column] instanceof String[] ? "text" : columns[column] instanceof Long[] ? "bigint" : "integer";
                Array array = connection.createArrayOf(type, columns[column]);
                statement.setArray(column + 1, array);
            }
            statement.executeUpdate();
        } catch (SQLException error) {
            throw new IllegalStateException(error);
        }
    }

    private static final class Rows {
        final String[] keys;
        final Long[] values;
        final Long[] counts;
        final Long[] times;
        final Integer[] partitions;
        final Long[] minOffsets;
        final Long[] maxOffsets;
        private int size = 0;

        Rows(int capacity) {
            keys = new String[capacity];
            values = new Long[capacity];
            counts = new Long[capacity];
            times = new Long[capacity];
            partitions = new Integer[capacity];
            minOffsets = new Long[capacity];
            maxOffsets = new Long[capacity];
        }

        void add(String key, Sum sum, long time) {
            keys[size] = key;
            values[size] = sum.value;
            counts[size] = sum.count;
            times[size] = time;
            partitions[size] = sum.partition;
            minOffsets[size] = sum.minOffset;
            maxOffsets[size] = sum.maxOffset;
            ++size;
        }
    }
}
