#include "api/counters.h"

#include "api/items.h"
#include "schemas/counters.h"
#include "schemas/json.h"

#include <algorithm>
#include <array>
#include <string>
#include <utility>

namespace tidemark::api {
namespace {

namespace counters = schemas::counters;
using schemas::Violations;

const schemas::Stream& stream() {
    return *schemas::find_stream("counters");
}

// In each statement the last row is the progress: see Reads.

constexpr pg::Statement kCounter{"counter", R"(
    select 1, generation, key, value, count::text, updated_us::text
    from counters.api_counters where key = $1
    union all
    select 0, generation, applied, as_of, null, null from counters.api_progress
    order by 1 desc)"};

constexpr pg::Statement kCounters{"counters", R"(
    (select 1 as part, generation, key collate "C" as key, value, count::text, updated_us::text
     from counters.api_counters
     where key >= $1 and ($2::text is null or key < $2) and ($3::text is null or key > $3)
     order by counters.api_counters.key limit $4)
    union all
    select 0, generation, applied collate "C", as_of, null, null from counters.api_progress
    order by part desc, key)"};

// Nothing is dropped of tables whose progress does not know windows_from: an earlier version made them.
// $2 and $3 bound the starts of the bins. Reads $5 windows at most: if there are as many, the last row says which bin
// the last one is in.
constexpr pg::Statement kWindows{"counter_windows", R"(
    with binned as materialized (
        select generation, bin_start, sum(value) as value, sum(count) as count, count(*) as windows
        from (select generation, date_bin(make_interval(secs => $4), window_start, timestamptz 'epoch') as bin_start, value, count
              from counters.api_counter_windows
              where key = $1 and window_start >= $2 and window_start < $3
              order by counters.api_counter_windows.window_start limit $5) as scanned
        group by generation, bin_start)
    (select 2 as part, generation, (extract(epoch from bin_start) * 1000000)::bigint::text as start_us,
            value::text, count::text, bin_start, null::text
     from binned order by binned.bin_start limit $6)
    union all
    select 1, generation, key, null, null, null, null from counters.api_counters where key = $1
    union all
    select 0, generation, applied, as_of,
           (select (extract(epoch from max(bin_start)) * 1000000)::bigint::text from binned having sum(windows) = $5), null,
           p.windows_from_us::text
    -- Tables of an older version do not have the column, and the outer one's is meant.
    from (select null::bigint as windows_from_us) absent
    cross join lateral (select generation, applied, as_of, windows_from_us from counters.api_progress) p
    order by part desc, bin_start)"};

/// An increment is a key of 256 bytes, each up to six in escapes, and a number.
constexpr std::size_t kMaxIncrementBytes = 16 * 1024;

constexpr std::string_view kNoSuchCounter = "No counter has this key";

/// The key in the path, which the router has decoded.
std::string read_key(const http::Request& request, Violations& violations) {
    const auto& key = request.params[0];
    if (key.empty() || key.size() > counters::kMaxKeyBytes || !schemas::json::is_utf8(key)) {
        violations.push_back({"/key", "must be 1 to 256 bytes of UTF-8"});
        return {};
    }
    return key;
}

void post_increment(LogWriter& writer, const http::Request& request, http::Reply reply) {
    static const auto kStream = ProgressWatch::index_of(stream());
    const auto body = read_body(request);
    if (!body) {
        writer.write(request, std::move(reply), {}, body.violations());
        return;
    }
    const auto increment = counters::read(*body, schemas::json::Unknown::refuse);
    if (!increment) {
        writer.write(request, std::move(reply), {}, increment.violations());
        return;
    }
    thread_local std::string data;
    data.clear();
    counters::append(data, *increment);
    writer.write(request, std::move(reply),
                 {.stream = kStream, .type = counters::kIncremented, .key = increment->key, .data = data});
}

void get_counter(Reads& reads, const http::Request& request, http::Reply reply) {
    Violations violations;
    const std::array known{Reads::kAtLeast};
    const Query query(request.query, known, violations);
    const auto key = read_key(request, violations);
    auto read = reads.begin(request, std::move(reply), query, stream(), kEntityMedia, std::move(violations));
    if (!read) return;
    read->entity = key;
    const auto params = [key] {
        pg::Params given;
        given.add(key);
        return given;
    };
    const auto render = [](const Reads::Look& look, const Read&) -> Found {
        if (look.items == 0) return {.missing = kNoSuchCounter};
        const auto& rows = look.rows;
        return {.body = Item()
                            .text("key", rows.text(0, 2))
                            .number("value", rows.text(0, 3))
                            .number("count", rows.text(0, 4))
                            .instant("updatedAt", rows.instant(0, 5))
                            .finish()};
    };
    reads.answer(read, {kCounter, params, render});
}

void get_counters(Reads& reads, const http::Request& request, http::Reply reply) {
    static constexpr std::array<std::string_view, 4> kColumns{"key", "value", "count", "updatedAt"};
    constexpr char kCursor = 'c';
    Violations violations;
    const std::array<std::string_view, 4> known{Reads::kAtLeast, "prefix", "limit", "cursor"};
    const Query query(request.query, known, violations);
    const auto page = read_page(query, kCursor, violations);
    const std::string prefix(query.get("prefix").value_or(""));
    if (prefix.size() > counters::kMaxKeyBytes)
        violations.push_back({"?prefix", "is longer than any key, which has 256 bytes at most"});
    auto read = reads.begin(request, std::move(reply), query, stream(), kListMedia, std::move(violations));
    if (!read) return;
    const auto params = [prefix, page] {
        pg::Params given;
        given.add(prefix).add_optional(after_prefix(prefix)).add_optional(page.after).add(page.limit + 1);
        return given;
    };
    const auto render = [page](const Reads::Look& look, const Read& asked) -> Found {
        const auto& rows = look.rows;
        const auto shown = std::min(look.items, static_cast<std::size_t>(page.limit));
        Items items(asked.media, kColumns);
        for (std::size_t row = 0; row < shown; ++row) {
            items.text(rows.text(row, 2));
            items.number(rows.text(row, 3));
            items.number(rows.text(row, 4));
            items.instant(rows.instant(row, 5));
        }
        const auto next = shown < look.items ? make_cursor(kCursor, rows.text(shown - 1, 2)) : std::string();
        return {.body = items.finish(next), .next_cursor = next};
    };
    reads.answer(read, {kCounters, params, render});
}

void get_windows(Reads& reads, const http::Request& request, http::Reply reply) {
    static constexpr std::array<std::string_view, 3> kColumns{"start", "value", "count"};
    constexpr char kCursor = 'w';
    constexpr std::int64_t kWindowPart = 2;
    Violations violations;
    const std::array<std::string_view, 6> known{Reads::kAtLeast, "from", "to", "step", "limit", "cursor"};
    const Query query(request.query, known, violations);
    const auto key = read_key(request, violations);
    const auto range = read_range(query, violations);
    const auto step = read_step(query, violations);
    const auto page = read_page(query, kCursor, violations);
    const auto after = read_instant_key(page, violations);
    auto read = reads.begin(request, std::move(reply), query, stream(), kListMedia, std::move(violations));
    if (!read) return;
    read->entity = key;
    auto bins = bins_of(range, step, reads.watch().as_of(read->stream).value_or(reads.clock().now()));
    if (after) bins = bins_after(bins, *after, step);
    const bool is_default = !range.from && !range.to && !after;
    // Anyone's increment counts in the partition where it lands.
    const auto rows_per_window = reads.watch().log(read->stream).partitions();
    const auto params = [key, bins, step, page, rows_per_window] {
        pg::Params given;
        given.add(key)
            .add(bins.from)
            .add(bins.to)
            .add(std::int64_t{step.count()})
            .add(rows_of_page(page, step, rows_per_window))
            .add(page.limit + 1);
        return given;
    };
    const auto render = [page, bins, is_default](const Reads::Look& look, const Read& asked) -> Found {
        const auto& rows = look.rows;
        // The row after the windows says that there is such a counter.
        if (look.items == 0 || rows.integer(look.items - 1, 0) == kWindowPart) return {.missing = kNoSuchCounter};
        const auto windows_from = look.windows_from(6);
        if (windows_from && bins.from < *windows_from && !is_default) return {.windows_from = windows_from};
        const auto cut_off = look.cut_off(4);
        const auto windows = look.complete(look.items - 1, 2, cut_off);
        const auto shown = std::min(windows, static_cast<std::size_t>(page.limit));
        Items items(asked.media, kColumns);
        for (std::size_t row = 0; row < shown; ++row) {
            if (windows_from && rows.instant(row, 2) < *windows_from) continue;  // not whole any more
            items.instant(rows.instant(row, 2));
            items.number(rows.text(row, 3));
            items.number(rows.text(row, 4));
        }
        std::string next;
        if (shown < windows) {
            next = make_cursor(kCursor, rows.text(shown - 1, 2));
        } else if (cut_off) {
            next = make_cursor(kCursor, make_instant_key(*cut_off - std::chrono::microseconds(1)));
        }
        return {.body = items.finish(next), .next_cursor = next};
    };
    reads.answer(read, {kWindows, params, render});
}

}  // namespace

void add_counters(http::Router& router, LogWriter& writer, Reads& reads) {
    add_write(router, http::Method::post, "/increment", kMaxIncrementBytes, writer, post_increment);
    add_read(router, "/counters", reads, get_counters);
    add_read(router, "/counters/{key}", reads, get_counter);
    add_read(router, "/counters/{key}/windows", reads, get_windows);
}

}  // namespace tidemark::api
