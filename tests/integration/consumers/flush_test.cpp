#include "consumers/flush.h"

#include "consumers/projections.h"
#include "consumers/verify.h"
#include "schemas/dead_letter.h"
#include "tests/integration/consumers/random_log.h"
#include "tests/integration/consumers/scratch.h"
#include "tests/support/holding_counters.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <map>
#include <numeric>
#include <optional>
#include <random>
#include <set>
#include <sstream>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

using namespace std::chrono_literals;
namespace pg = tidemark::pg;
namespace dead_letter = tidemark::schemas::dead_letter;
namespace reason = tidemark::consumers::reason;
using tidemark::base::Timestamp;
using tidemark::consumers::Claim;
using tidemark::consumers::DiffFormat;
using tidemark::consumers::find_generations;
using tidemark::consumers::find_projection;
using tidemark::consumers::Flushed;
using tidemark::consumers::FlushReport;
using tidemark::consumers::OffsetStore;
using tidemark::consumers::Projection;
using tidemark::consumers::StreamState;
using tidemark::consumers::Target;
using tidemark::consumers::verify;
using tidemark::consumers::VerifyOptions;
using tidemark::consumers::write_diff;
using tidemark::kafka::murmur2_partition;
using tidemark::test::eventually;
using tidemark::test::Network;
using tidemark::tests::difference;
using tidemark::tests::EventSketch;
using tidemark::tests::FakeLog;
using tidemark::tests::FakeSource;
using tidemark::tests::Folding;
using tidemark::tests::HoldingCounters;
using tidemark::tests::identify;
using tidemark::tests::increment_data;
using tidemark::tests::kIncremented;
using tidemark::tests::kLogUuid;
using tidemark::tests::RandomLog;
using tidemark::tests::ScratchDatabase;
using tidemark::tests::session_options;
using tidemark::tests::Tables;

namespace {

constexpr std::int32_t kPartitions = 3;
constexpr Timestamp kAppended{1'700'000'000s};
const HoldingCounters kHolding;

/// A log of one partition with its identity, to be filled with increments.
struct Increments {
    FakeLog log{1};

    Increments() { identify(log); }

    std::int64_t add(const std::string& key, const std::string& value, std::optional<std::string> identity = {},
                     Timestamp append_time = kAppended) {
        return add_raw(key,
                       EventSketch{kIncremented, increment_data(key, value), append_time, std::move(identity)}.text(),
                       append_time);
    }
    std::int64_t add_raw(std::optional<std::string> key, std::optional<std::string> value,
                         Timestamp append_time = kAppended) {
        return log.append(0, FakeLog::Entry{0, append_time, std::move(key), std::move(value), {}});
    }
    std::int64_t redrive(std::int64_t letter, std::optional<std::string_view> edit = {}) {
        std::string data;
        dead_letter::append(data, dead_letter::Redriven{letter, edit});
        return add_raw("decision", EventSketch{dead_letter::kRedriven, data, kAppended, {}}.text());
    }
    std::int64_t discard(std::int64_t letter) {
        std::string data;
        dead_letter::append(data, dead_letter::Discarded{letter, {}});
        return add_raw("decision", EventSketch{dead_letter::kDiscarded, data, kAppended, {}}.text());
    }
};

/// A scratch database with the counters' tables for a log, and one consumer of it.
struct Counting {
    ScratchDatabase database;
    Target target;
    Tables tables;
    Folding folding;

    explicit Counting(const FakeLog& log, const Projection& projection = *find_projection("counters"))
        : target(database.make_generation(projection, log.partitions())),
          tables(database, target),
          folding(database.dsn(), target, log) {}

    std::string total(const std::string& key) {
        return tables.ask("select coalesce((select value::text from totals where key = '" + key + "'), 'none')");
    }
    std::string reasons() {
        return tables.ask(
            R"(select coalesce(string_agg("offset" || ' ' || reason, ', ' order by "offset"), '') from dead_letters)");
    }
    /// Of those decided about, waiting or holding: offset, reason, status, attempts, +: it holds its entity.
    std::string letters() {
        return tables.ask(
            "select coalesce(string_agg(\"offset\" || ' ' || reason || ' ' || status || attempts || case when holds "
            "then "
            "'+' else '' end, ', ' order by \"offset\"), '') from dead_letters");
    }
    void fold_by(int cut) {
        while (!folding.has_taken_all()) {
            folding.take(0, cut);
            REQUIRE(folding.flush().outcome == Flushed::committed);
        }
    }
    std::string next_offset() { return tables.ask("select next_offset::text from offsets where partition = 0"); }
};

/// Flushes whatever is taken in cuts, orders and lives that `seed` chooses.
void fold_anyhow(Folding& folding, std::uint64_t seed) {
    std::mt19937_64 random(seed);
    const auto below = [&random](int bound) { return static_cast<int>(random() % static_cast<std::uint64_t>(bound)); };
    while (!folding.has_taken_all()) {
        const auto choice = below(100);
        if (choice < 70) {
            folding.take(below(kPartitions), 1 + below(12));
        } else if (choice < 96) {
            folding.flush();
        } else {
            folding.restart();
        }
    }
    folding.flush();
}

// What a second way of counting the same log finds different in the tables: as text; empty: nothing.
std::string counted_again(const ScratchDatabase& database, const Target& target, FakeLog log) {
    pg::Connection connection(database.dsn(), {});
    VerifyOptions options;
    options.dsn = database.dsn();
    for (const auto& generation : find_generations(connection, *target.projection)) {
        if (generation.target.generation != target.generation) continue;
        FakeSource source(log);
        std::vector<std::int32_t> partitions(static_cast<std::size_t>(log.partitions()));
        std::iota(partitions.begin(), partitions.end(), 0);
        source.grant(partitions);
        const auto found = verify(options, generation, source);
        std::ostringstream text;
        if (found.differing() > 0) write_diff(found, DiffFormat::table, text);
        return text.str();
    }
    throw std::logic_error("no such generation");
}

// What has to become of letters that wait, in one log or the other.
constexpr std::pair<const char*, const char*> kOfQueues[] = {
    {"waits", "holds and reason = 'behind_dead_letter' and attempts = 1"},
    {"is the new head", "holds and reason = 'behind_dead_letter' and attempts > 1"},
    {"released", "reason = 'behind_dead_letter' and status = 'redriven'"},
    {"released in vain", "reason = 'behind_dead_letter' and status = 'open' and not holds"},
    {"discarded while it waits", "reason = 'behind_dead_letter' and status = 'discarded'"},
    {"quarantined head", "holds and status = 'quarantined'"}};

void check_that_no_cut_shows(const Projection& projection, std::uint64_t first_seed, std::uint64_t seeds) {
    ScratchDatabase database;
    const bool holds = !projection.holding_reasons().empty();
    std::map<std::string_view, std::int64_t> parked;
    std::int64_t duplicates = 0;
    std::map<std::string, bool> filled;
    std::map<std::string, int> decided;
    std::set<std::string> digests;
    for (auto seed = first_seed; seed < first_seed + seeds; ++seed) {
        CAPTURE(seed);
        const RandomLog random(seed, projection.stream().name == "counters", kPartitions, 150, holds ? 40 : 12);

        const auto target = database.make_generation(projection, kPartitions);
        Folding whole(database.dsn(), target, random.log());
        whole.take_all();
        const auto report = whole.flush();
        REQUIRE(report.outcome == Flushed::committed);
        for (const auto& [why, count] : report.parked)
            parked[why] += count;
        duplicates += report.duplicates;
        Tables expected(database, target);
        CHECK(expected.conserved());
        const auto tables = expected.all();

        const auto other = database.make_generation(projection, kPartitions);
        Folding pieces(database.dsn(), other, random.log());
        fold_anyhow(pieces, seed);
        Tables actual(database, other);
        CHECK(actual.conserved());
        REQUIRE(difference(tables, actual.all()) == "");
        REQUIRE(counted_again(database, other, random.log()) == "");
        // What the flushes say they have added is what the tables add up to; and it tells logs apart.
        REQUIRE(actual.ask("select folded = stored from audit") == "t");
        digests.insert(actual.ask("select folded from audit"));
        for (const char* status : {"open", "redriven", "discarded"}) {
            decided[status] +=
                std::stoi(actual.ask("select count(*) from dead_letters where status = '" + std::string(status) + "'"));
        }
        if (holds) {
            for (const auto& [what, condition] : kOfQueues)
                decided[what] +=
                    std::stoi(actual.ask("select count(*) from dead_letters where " + std::string(condition)));
        }
        for (const auto& [table, rows] : tables)
            filled[table] = filled[table] || !rows.empty();
    }
    CHECK(digests.size() == seeds);
    // The log has to contain what it is for.
    CHECK(duplicates > 0);
    for (const auto& [status, letters] : decided) {
        CAPTURE(status);
        CHECK(letters > 0);
    }
    CHECK(std::all_of(filled.begin(), filled.end(), [](const auto& table) { return table.second; }));
    for (const auto why :
         {reason::kTombstone, reason::kMalformed, reason::kUnknownType, reason::kInvalidData, reason::kKeyMismatch,
          reason::kWrongPartition, reason::kFromTheFuture, reason::kIdempotencyConflict, reason::kUnexpectedIdentity}) {
        CAPTURE(why);
        CHECK(parked[why] > 0);
    }
    CHECK((parked[reason::kBehindDeadLetter] > 0) == holds);
}

}  // namespace

TEST_CASE("neither the cut of batches nor the order of partitions nor a restart shows in the counters' tables") {
    check_that_no_cut_shows(*find_projection("counters"), 1, 10);
}

TEST_CASE("neither the cut of batches nor the order of partitions nor a restart shows in the vehicles' tables") {
    check_that_no_cut_shows(*find_projection("vehicles"), 1, 10);
}

TEST_CASE("neither the cut of batches nor a restart shows in what waits behind dead letters") {
    check_that_no_cut_shows(kHolding, 1, 30);
}

TEST_CASE("every kind of poison is parked with its reason, byte for byte, and its neighbours count") {
    const std::string good = EventSketch{kIncremented, increment_data("k", "1"), kAppended, {}}.text();
    const auto with_data = [](std::string data) {
        return EventSketch{kIncremented, std::move(data), kAppended, {}}.text();
    };
    const auto of_type = [](std::string_view type) {
        return EventSketch{type, R"({"key":"k","value":1})", kAppended, {}}.text();
    };
    const struct {
        const char* what;
        std::optional<std::string> key;
        std::optional<std::string> value;
        std::string_view why;
    } cases[] = {
        {"no value", "k", std::nullopt, reason::kTombstone},
        {"no bytes", "k", "", reason::kMalformed},
        {"no JSON", "k", "hello", reason::kMalformed},
        {"cut short", "k", good.substr(0, good.size() - 1), reason::kMalformed},
        {"something after it", "k", good + "x", reason::kMalformed},
        {"a byte order mark", "k", "\xEF\xBB\xBF" + good, reason::kMalformed},
        {"an array", "k", "[" + good + "]", reason::kMalformed},
        {"broken UTF-8", "k", with_data("{\"key\":\"k\xC3\",\"value\":1}"), reason::kMalformed},
        {"half a surrogate pair", "k", with_data(R"({"key":"k\ud800","value":1})"), reason::kMalformed},
        {"U+0000 in the key", "k", with_data(R"({"key":"k\u0000","value":1})"), reason::kMalformed},
        {"200,000 brackets", "k", std::string(200'000, '['), reason::kMalformed},
        {"a number to break parsers", "k",
         with_data(R"({"key":"k","value":1.)" + std::string(400, '0') + "1e-2147483639}"), reason::kMalformed},
        {"a member twice", "k", with_data(R"({"key":"k","key":"k","value":1})"), reason::kMalformed},
        {"another envelope", "k", R"({"specversion":"0.3","id":"1","source":"/","type":"t"})", reason::kMalformed},
        {"a megabyte of blanks", "k", std::string(1 << 20, ' '), reason::kMalformed},
        {"a stranger's type", "k", of_type("com.example.stranger.v1"), reason::kUnknownType},
        {"another stream's type", "k", of_type(tidemark::tests::kRegistered), reason::kUnknownType},
        {"no data", "k", with_data(""), reason::kInvalidData},
        {"data of null", "k", with_data("null"), reason::kInvalidData},
        {"no value in the data", "k", with_data(R"({"key":"k"})"), reason::kInvalidData},
        {"a value in quotes", "k", with_data(R"({"key":"k","value":"1"})"), reason::kInvalidData},
        {"a fraction", "k", with_data(R"({"key":"k","value":1.0})"), reason::kInvalidData},
        {"one beyond the largest", "k", with_data(R"({"key":"k","value":9007199254740992})"), reason::kInvalidData},
        {"a key of 257 bytes", std::string(257, 'k'), with_data(increment_data(std::string(257, 'k'), "1")),
         reason::kInvalidData},
        {"an empty key", "", with_data(R"({"key":"","value":1})"), reason::kInvalidData},
        {"no key", std::nullopt, good, reason::kKeyMismatch},
        {"another key", "K", good, reason::kKeyMismatch},
        {"a key with more behind U+0000", std::string("k\0x", 3), good, reason::kKeyMismatch},
        {"an hour and a microsecond ahead", "k",
         EventSketch{kIncremented, increment_data("k", "1"), kAppended + 1s + 1h + 1us, {}}.text(),
         reason::kFromTheFuture},
        {"a second beginning", "identity",
         EventSketch{tidemark::schemas::kLogCreated, R"({"uuid":")" + std::string(kLogUuid) + "\"}", {}, {}}.text(),
         reason::kUnexpectedIdentity},
    };
    const std::vector<std::pair<std::string, std::string>> headers{
        {"traceparent", "00-1"}, {std::string("\0\xFF", 2), ""}, {"", std::string("{\"NULL\\\0", 8)}};
    Increments increments;
    std::map<std::int64_t, const char*> offsets;
    for (const auto& poison : cases) {
        offsets[increments.log.append(0, FakeLog::Entry{0, kAppended + 1s, poison.key, poison.value, headers})] =
            poison.what;
        increments.add("k", "2");
    }
    Counting counting(increments.log);
    counting.folding.take_all();
    const auto report = counting.folding.flush();
    REQUIRE(report.outcome == Flushed::committed);
    CHECK(report.applied == std::ssize(cases) + 1);
    CHECK(counting.total("k") == std::to_string(2 * std::ssize(cases)));
    CHECK(counting.tables.conserved());

    pg::Connection connection(counting.database.dsn(), session_options(counting.database.dsn(), counting.target));
    const pg::Statement kDeadLetters{"test_dead_letters", R"(
        select "offset", reason, detail, topic, key is null, coalesce(key, ''), value is null, coalesce(value, ''),
               header_names[1], header_values[1], header_names[2], header_values[2], header_names[3], header_values[3],
               (extract(epoch from append_time) * 1000000)::bigint, status, attempts
        from dead_letters order by "offset")"};
    const auto rows = connection.run(kDeadLetters);
    REQUIRE(rows.size() == std::size(cases));
    for (std::size_t row = 0; row < rows.size(); ++row) {
        const auto& poison = cases[row];
        CAPTURE(poison.what);
        CHECK(offsets.at(rows.integer(row, 0)) == poison.what);
        CHECK(rows.text(row, 1) == poison.why);
        CHECK_FALSE(rows.text(row, 2).empty());
        CHECK(rows.text(row, 3) == "tidemark.counters");
        CHECK(rows.boolean(row, 4) == !poison.key);
        CHECK(rows.bytes(row, 5) == poison.key.value_or(""));
        CHECK(rows.boolean(row, 6) == !poison.value);
        CHECK(rows.bytes(row, 7) == poison.value.value_or(""));
        for (std::size_t header = 0; header < headers.size(); ++header) {
            CHECK(rows.bytes(row, 8 + 2 * header) == headers[header].first);
            CHECK(rows.bytes(row, 9 + 2 * header) == headers[header].second);
        }
        CHECK(rows.instant(row, 14) == kAppended + 1s);
        CHECK(rows.text(row, 15) == "open");
        CHECK(rows.integer(row, 16) == 1);
    }
}

TEST_CASE("an increment counts wherever it lands, a deduplicated one only at home") {
    FakeLog log(kPartitions);
    identify(log);
    const auto home = murmur2_partition("k", kPartitions);
    const auto away = (home + 1) % kPartitions;
    const auto append = [&log](std::int32_t partition, std::optional<std::string> identity) {
        log.append(partition, "k",
                   EventSketch{kIncremented, increment_data("k", "1"), kAppended, std::move(identity)}.text(),
                   kAppended);
    };
    append(home, {});
    append(away, {});
    append(home, "i");
    append(away, "i");
    Counting counting(log);
    counting.folding.take_all();
    const auto report = counting.folding.flush();
    CHECK(counting.total("k") == "3");
    CHECK(report.parked == std::map<std::string_view, std::int64_t>{{reason::kWrongPartition, 1}});
}

TEST_CASE("a first record that is another log's is parked") {
    FakeLog log(1);
    log.append(0, "identity", EventSketch{tidemark::schemas::kLogCreated, R"({"uuid":"another"})", {}, {}}.text(),
               kAppended);
    Counting counting(log);
    counting.folding.take_all();
    counting.folding.flush();
    CHECK(counting.reasons() == "0 unexpected_identity");
}

TEST_CASE("an event exactly an hour ahead of its append time is taken") {
    Increments increments;
    increments.add_raw("k", EventSketch{kIncremented, increment_data("k", "1"), kAppended + 1h, {}}.text());
    Counting counting(increments.log);
    counting.folding.take_all();
    counting.folding.flush();
    CHECK(counting.total("k") == "1");
}

TEST_CASE("how far ahead an event is counts from its own append time, also when that stepped back") {
    Increments increments;
    increments.add("k", "1", {}, kAppended + 2h);
    increments.add_raw("k", EventSketch{kIncremented, increment_data("k", "1"), kAppended + 90min, {}}.text(),
                       kAppended);
    Counting counting(increments.log);
    counting.folding.take_all();
    counting.folding.flush();
    CHECK(counting.total("k") == "1");
    CHECK(counting.reasons() == "2 from_the_future");
}

TEST_CASE("increments add up by key, and by key and ten seconds of event time") {
    const auto at = [](std::chrono::microseconds after, const std::string& value) {
        return EventSketch{kIncremented, increment_data("k", value), kAppended + after, {}}.text();
    };
    Increments increments;  // kAppended is the start of a window
    increments.add_raw("k", at(0s, "1"), kAppended + 1s);
    increments.add_raw("k", at(10s - 1us, "20"), kAppended + 11s);
    increments.add_raw("k", at(10s, "300"), kAppended + 12s);
    increments.add_raw("k", at(-1us, "-4000"), kAppended + 3s);
    increments.add_raw("k", EventSketch{kIncremented, increment_data("k", "9007199254740991"), {}, {}}.text(),
                       kAppended + 13s);
    // Without a time of its own an event is of its append time, though the log time does not step back with it.
    increments.add_raw("k", EventSketch{kIncremented, increment_data("k", "50000"), {}, {}}.text(), kAppended + 2s);
    for (const bool whole : {true, false}) {
        CAPTURE(whole);
        Counting counting(increments.log);
        while (!counting.folding.has_taken_all()) {
            counting.folding.take(0, whole ? 100 : 1);
            counting.folding.flush();
        }
        CHECK(counting.tables.ask("select string_agg(t::text, ' ') from totals t") ==
              "(k,9007199254787312,6,\"2023-11-14 22:13:33+00\")");
        CHECK(counting.tables.ask(
                  "select string_agg(format('%s: %s in %s of %s to %s', to_char(window_start, 'MI:SS'), value, count, "
                  "min_offset, max_offset), ', ' order by window_start) from windows") ==
              "13:10: -4000 in 1 of 4 to 4, 13:20: 50021 in 3 of 1 to 6, 13:30: 9007199254741291 in 2 of 3 to 5");
    }
}

TEST_CASE("a vehicle is in the state of the newest event by event time, and by position among equals") {
    const struct {
        std::string_view type;
        const char* data;
        std::chrono::seconds after;
    } events[] = {
        {tidemark::tests::kStateChanged, R"({"id":3,"state":"quoted"})", 30s},
        {tidemark::tests::kRegistered, R"({"id":3,"make":"Audi","model":"A1"})", 20s},
        {tidemark::tests::kStateChanged, R"({"id":3,"state":"sold"})", 40s},
        {tidemark::tests::kStateChanged, R"({"id":3,"state":"selling"})", 40s},
        {tidemark::tests::kStateChanged, R"({"id":3,"state":"quoted"})", 39s},
        {tidemark::tests::kRegistered, R"({"id":3,"make":"Audi","model":"A2"})", 10s},
    };
    FakeLog log(1);
    identify(log);
    for (const auto& event : events) {
        log.append(0, "3", EventSketch{event.type, event.data, kAppended + event.after, {}}.text(), kAppended + 1h);
    }
    for (const int cut : {100, 1, 2}) {
        CAPTURE(cut);
        ScratchDatabase database;
        const auto target = database.make_generation(*find_projection("vehicles"), 1);
        Folding folding(database.dsn(), target, log);
        while (!folding.has_taken_all()) {
            folding.take(0, cut);
            REQUIRE(folding.flush().outcome == Flushed::committed);
        }
        Tables tables(database, target);
        CHECK(
            tables.ask("select string_agg(v::text, ' ') from vehicles v") ==
            "(3,Audi,A1,\"2023-11-14 22:13:40+00\",2,selling,\"2023-11-14 22:14:00+00\",4,\"2023-11-14 23:13:20+00\")");
        CHECK(tables.ask("select string_agg(format('%s %s', \"offset\", coalesce(state, model)), ', ' order by "
                         "occurred_at, \"offset\") "
                         "from history") == "6 A2, 2 A1, 1 quoted, 5 quoted, 3 sold, 4 selling");
        CHECK(tables.ask("select string_agg(format('%s: %s %s of %s to %s', to_char(window_start, 'MI:SS'), count, "
                         "state, min_offset, "
                         "max_offset), ', ' order by window_start, state) from transitions") ==
              "13:50: 2 quoted of 1 to 5, 14:00: 1 selling of 4 to 4, 14:00: 1 sold of 3 to 3");
    }
}

TEST_CASE("a vehicle's event is taken in the partition of its id only") {
    FakeLog log(kPartitions);
    identify(log);
    const auto home = murmur2_partition("3", kPartitions);
    for (const auto partition : {home, (home + 1) % kPartitions}) {
        log.append(partition, "3",
                   EventSketch{tidemark::tests::kStateChanged, R"({"id":3,"state":"sold"})", kAppended, {}}.text(),
                   kAppended);
    }
    ScratchDatabase database;
    const auto target = database.make_generation(*find_projection("vehicles"), kPartitions);
    Folding folding(database.dsn(), target, log);
    folding.take_all();
    CHECK(folding.flush().parked == std::map<std::string_view, std::int64_t>{{reason::kWrongPartition, 1}});
    CHECK(Tables(database, target).ask("select count(*) from history") == "1");
}

TEST_CASE("a repeat is told by its identity and data, over flushes and for a day of log time") {
    const auto day_later = kAppended + 24h;
    Increments increments;
    increments.add("k", "1", "i");
    increments.add("k", "1", "i");
    increments.add("k", "2", "i");
    increments.add("k", "1", "i", day_later);
    increments.add("k", "10", "i", day_later + 1us);
    increments.add("k", "1", "i", day_later + 2us);
    Counting counting(increments.log);
    for (int i = 0; i < 7; ++i) {
        counting.folding.take(0, 1);
        REQUIRE(counting.folding.flush().outcome == Flushed::committed);
    }
    CHECK(counting.total("k") == "11");
    CHECK(counting.reasons() == "3 idempotency_conflict, 6 idempotency_conflict");
    CHECK(counting.tables.ask(R"(select string_agg("offset"::text, ',') from dedupe)") == "5");
    CHECK(counting.tables.ask("select applied || ' ' || duplicates || ' ' || parked from offsets") == "3 2 2");
}

TEST_CASE(
    "a repeat counts as one also when the white space of its data differs, or the spelling of the attribute's name") {
    Increments increments;
    increments.add("k", "1", "i");
    increments.add_raw("k", EventSketch{kIncremented, R"({ "key" : "k", "value" : 1 })", kAppended, "i"}.text());
    increments.add_raw("k", EventSketch{kIncremented, R"({"key":"k","value":1})", kAppended, "i", true}.text());
    Counting counting(increments.log);
    for (int i = 0; i < 4; ++i) {
        counting.folding.take(0, 1);
        REQUIRE(counting.folding.flush().outcome == Flushed::committed);
    }
    CHECK(counting.total("k") == "1");
    CHECK(counting.tables.ask("select duplicates::text from offsets") == "2");
}

TEST_CASE("an imported line counts once in its partition, over flushes, lives and any time") {
    Increments log;
    const std::string file(22, 'f');
    const std::string other(22, 'o');
    const auto import = [&](const std::string& header, const std::string& value, std::chrono::hours after = 0h) {
        return log.log.append(
            0, FakeLog::Entry{0,
                              kAppended + after,
                              "k",
                              EventSketch{kIncremented, increment_data("k", value), kAppended, {}}.text(),
                              {{"content-type", "application/cloudevents+json"}, {"import", header}}});
    };
    // Out of order, for a line may be given back to the importer and stored behind its followers.
    import(file + ":2", "1");
    import(file + ":1", "10");
    import(file + ":2", "1");
    import(other + ":2", "100");
    import(file + ":8193", "1000");
    import("nothing of the kind", "10000");
    import("nothing of the kind", "10000");
    log.add("k", "100000");
    Counting counting(log.log);
    counting.folding.take(0, 4);
    CHECK(counting.folding.flush().duplicates == 1);
    counting.folding.restart();
    counting.folding.take_all();
    CHECK(counting.folding.flush().duplicates == 0);
    CHECK(counting.total("k") == "121111");
    CHECK(counting.tables.ask(
              "select string_agg(file || block || encode(lines, 'hex'), ' ' order by file, block) from imports") ==
          file + "003 " + file + "101 " + other + "002");

    // A year later it is not forgotten, and another value changes nothing: the line is what counts.
    import(file + ":1", "10", 9'000h);
    import(file + ":8193", "5", 9'000h);
    import(file + ":3", "1000000", 9'000h);
    counting.folding.take_all();
    CHECK(counting.folding.flush().duplicates == 2);
    CHECK(counting.total("k") == "1121111");
    CHECK(counting.tables.conserved());
}

TEST_CASE("an imported dead letter is one the first time only, and its redrive is judged without its line") {
    Increments log;
    const std::string line = std::string(22, 'f') + ":1";
    const auto good = EventSketch{kIncremented, increment_data("k", "5"), kAppended, {}}.text();
    const auto add = [&](std::string key, std::string value) {
        return log.log.append(0, FakeLog::Entry{0, kAppended, std::move(key), std::move(value), {{"import", line}}});
    };
    const auto letter = add("other", good);
    add("other", good);
    add("k", good);  // the same line, mended: it has come all the same
    std::string decision;
    tidemark::schemas::dead_letter::append(decision, tidemark::schemas::dead_letter::Discarded{letter, std::nullopt});
    Counting counting(log.log);
    counting.folding.take_all();
    auto report = counting.folding.flush();
    CHECK(report.parked[reason::kKeyMismatch] == 1);
    CHECK(report.duplicates == 2);
    CHECK(counting.total("k") == "none");

    // A decision is a record like others.
    const auto decide = [&] {
        const auto text = EventSketch{tidemark::schemas::dead_letter::kDiscarded, decision, kAppended, {}}.text();
        log.log.append(0, FakeLog::Entry{0, kAppended, "d", text, {{"import", std::string(22, 'f') + ":2"}}});
    };
    decide();
    decide();
    counting.folding.take_all();
    report = counting.folding.flush();
    CHECK(report.applied == 1);
    CHECK(report.duplicates == 1);
    CHECK(counting.tables.ask("select status from dead_letters") == "discarded");
}

TEST_CASE("a letter whose line has come applies when it is redriven") {
    Increments log;
    const auto letter =
        log.log.append(0, FakeLog::Entry{0, kAppended, "k", "{", {{"import", std::string(22, 'f') + ":1"}}});
    const auto edit = EventSketch{kIncremented, increment_data("k", "5"), kAppended, {}}.text();
    std::string decision;
    tidemark::schemas::dead_letter::append(decision, tidemark::schemas::dead_letter::Redriven{letter, edit});
    log.add_raw("d", EventSketch{tidemark::schemas::dead_letter::kRedriven, decision, kAppended, {}}.text());
    Counting counting(log.log);
    counting.folding.take_all();
    CHECK(counting.folding.flush().applied == 2);
    CHECK(counting.total("k") == "5");
}

TEST_CASE("a line that comes before its identity does is dropped before that is looked at") {
    Increments log;
    const auto add = [&](const std::string& value, const std::string& line) {
        log.log.append(0, FakeLog::Entry{0,
                                         kAppended,
                                         "k",
                                         EventSketch{kIncremented, increment_data("k", value), kAppended, "id"}.text(),
                                         {{"import", std::string(22, 'f') + line}}});
    };
    add("5", ":1");
    add("6", ":1");  // no conflict: it is the same line
    add("5", ":2");
    add("6", ":3");
    Counting counting(log.log);
    counting.folding.take_all();
    auto report = counting.folding.flush();
    CHECK(report.duplicates == 2);
    CHECK(report.parked[reason::kIdempotencyConflict] == 1);
    CHECK(counting.tables.ask("select encode(lines, 'hex') from imports") == "07");
}

TEST_CASE("a record without value has no line: it is a tombstone each time") {
    Increments log;
    for (int n = 0; n < 2; ++n)
        log.log.append(0, FakeLog::Entry{0, kAppended, "k", std::nullopt, {{"import", std::string(22, 'f') + ":1"}}});
    Counting counting(log.log);
    counting.folding.take_all();
    CHECK(counting.folding.flush().parked[reason::kTombstone] == 2);
    CHECK(counting.tables.ask("select count(*) from imports") == "0");
}

TEST_CASE("what was parked is no first sight: the healthy event of its identity counts") {
    Increments increments;
    increments.add_raw("k", EventSketch{kIncremented, increment_data("k", "5"), kAppended + 2h, "i"}.text());
    increments.add("k", "5", "i");
    increments.add("k", "6", "i");
    increments.add("k", "5", "i");
    Counting counting(increments.log);
    counting.folding.take_all();
    counting.folding.flush();
    CHECK(counting.total("k") == "5");
    CHECK(counting.reasons() == "1 from_the_future, 3 idempotency_conflict");
}

TEST_CASE("first sights past the horizon are deleted in time, and it changes nothing") {
    Increments increments;
    increments.add("k", "1", "old");
    increments.add("k", "1", "new", kAppended + 26h);
    increments.add("k", "1", "old", kAppended + 26h);
    Counting counting(increments.log);
    for (int i = 0; i < 4; ++i) {
        counting.folding.take(0, 1);
        counting.folding.flush();
        if (i == 2) CHECK(counting.tables.ask("select string_agg(identity, ',') from dedupe") == "new");
    }
    CHECK(counting.total("k") == "3");
}

TEST_CASE("a flush of somebody who lost the partition writes nothing") {
    Increments increments;
    increments.add("k", "1", "i");
    increments.add_raw("k", "poison");
    Counting counting(increments.log);
    counting.folding.take_all();
    SUBCASE("it was claimed since") {
        counting.tables.claim(0);
    }
    SUBCASE("it stands elsewhere") {
        counting.tables.execute("update offsets set next_offset = 1, gaps = 1");
    }
    const auto before = counting.tables.all();
    const auto report = counting.folding.flush();
    CHECK(report.outcome == Flushed::fenced);
    CHECK_FALSE(report.error.empty());
    CHECK(difference(before, counting.tables.all()) == "");
    CHECK(counting.tables.sessions("state like 'idle in transaction%'") == 0);
    CHECK(std::string(counting.folding.state().phase()) == "fenced");
    counting.folding.restart();
    counting.folding.take_all();
    CHECK(counting.folding.flush().outcome == Flushed::committed);
    CHECK(counting.tables.conserved());
}

TEST_CASE("one partition lost is the whole flush refused") {
    FakeLog log(2);
    identify(log);
    Counting counting(log);
    counting.folding.take_all();
    counting.tables.claim(1);
    const auto before = counting.tables.all();
    CHECK(counting.folding.flush().outcome == Flushed::fenced);
    CHECK(difference(before, counting.tables.all()) == "");
}

TEST_CASE("a flush that waited for a claim is refused: the row is looked at again once it is free") {
    Increments increments;
    increments.add("k", "1");
    Counting counting(increments.log);
    counting.folding.take_all();
    pg::Connection promoter(counting.database.dsn(), session_options(counting.database.dsn(), counting.target));
    auto claim = promoter.begin();
    claim.run_script("update offsets set epoch = epoch + 1");
    FlushReport report;
    std::thread flush([&] { report = counting.folding.flush(); });
    CHECK(eventually(
        [&] { return counting.tables.sessions("wait_event_type = 'Lock' and query like '%offsets%'") == 1; }));
    claim.commit();
    flush.join();
    CHECK(report.outcome == Flushed::fenced);
    CHECK(counting.total("k") == "none");
}

TEST_CASE(
    "a record whose values the database refuses is found and parked, whatever the cut, and its neighbours count") {
    Increments increments;
    for (int i = 0; i < 5; ++i) {
        increments.add("k", "1");
        increments.add("bad", "1", "i");
        increments.add("k", "10");
        increments.add("worse", "1");
    }
    std::optional<std::map<std::string, std::string>> expected;
    for (const int cut : {1'000, 1, 3, 7}) {
        CAPTURE(cut);
        Counting counting(increments.log);
        counting.tables.execute(
            "alter table totals add check (key <> 'bad');"
            "create function refuse() returns trigger language plpgsql as $$ begin "
            "raise exception 'the window has % increments', new.count using errcode = '22003'; end $$;"
            "create trigger refuse before insert on windows for each row when (new.key = 'worse') execute function "
            "refuse()");
        while (!counting.folding.has_taken_all()) {
            counting.folding.take(0, cut);
            REQUIRE(counting.folding.flush().outcome == Flushed::committed);
        }
        CHECK(counting.total("k") == "55");
        CHECK(counting.total("bad") == "none");
        CHECK(counting.total("worse") == "none");
        CHECK(counting.tables.ask("select count(*)::text from dedupe") == "0");
        CHECK(counting.tables.conserved());
        CHECK(counting.tables.ask("select string_agg(distinct key_text || ' ' || reason, ', ') from "
                                  "(select convert_from(key, 'UTF8') as key_text, reason from dead_letters) d") ==
              "bad refused_by_database, worse refused_by_database");
        const auto tables = counting.tables.all();
        if (!expected) expected = tables;
        CHECK(difference(*expected, tables) == "");
    }
}

TEST_CASE("a record that is refused for what stands before it is the same one in every cut") {
    // The whole batch was refused, each half was taken, and the consumer ended; one by one the third was parked.
    for (const int cut : {1, 2, 3, 10}) {
        CAPTURE(cut);
        Increments increments;
        for (const char* value : {"6", "1", "6", "2"})
            increments.add("k", value);
        Counting counting(increments.log);
        counting.tables.execute("alter table totals add check (value < 10)");
        while (!counting.folding.has_taken_all()) {
            counting.folding.take(0, cut);
            counting.folding.flush();
        }
        CHECK(counting.reasons() == "3 refused_by_database");
        CHECK(counting.total("k") == "9");
    }
}

TEST_CASE("an imported record that the database refuses has come, in every cut") {
    for (const int cut : {1, 2, 3, 10}) {
        CAPTURE(cut);
        Increments increments;
        for (const auto* const line : {":1", ":2", ":2", ":1", ":3", ":2"}) {
            const std::string value = std::string_view(line) == ":2" ? "20" : "3";
            increments.log.append(0,
                                  FakeLog::Entry{0,
                                                 kAppended,
                                                 "k",
                                                 EventSketch{kIncremented, increment_data("k", value), {}, {}}.text(),
                                                 {{"import", std::string(22, 'f') + line}}});
        }
        Counting counting(increments.log);
        counting.tables.execute("alter table totals add check (value < 10)");
        while (!counting.folding.has_taken_all()) {
            counting.folding.take(0, cut);
            REQUIRE(counting.folding.flush().outcome == Flushed::committed);
        }
        CHECK(counting.reasons() == "2 refused_by_database");
        CHECK(counting.total("k") == "6");
        CHECK(counting.tables.ask("select duplicates::text from offsets") == "3");
        CHECK(counting.tables.ask("select encode(lines, 'hex') from imports") == "07");
    }
}

TEST_CASE("tables that refuse a batch without any record stop the consumer instead of parking everything") {
    Increments increments;
    increments.add("k", "6");
    Counting counting(increments.log);
    counting.tables.execute("alter table offsets add check (next_offset < 2)");
    counting.folding.take_all();
    std::optional<pg::Failure> failure;
    try {
        counting.folding.flush();
    } catch (const pg::Error& error) {
        failure = error.failure();
    }
    CHECK(failure == pg::Failure::data);
    CHECK(counting.next_offset() == "0");
    CHECK(counting.reasons().empty());
}

TEST_CASE("a decision that the database refuses is parked in every cut, and its letter stays") {
    // In one batch with its letter it ended the consumer: each half was taken without the other.
    for (const int cut : {1, 2, 10}) {
        for (const bool edited : {false, true}) {
            CAPTURE(cut);
            CAPTURE(edited);
            Increments increments;
            increments.add("k", "1");
            const auto letter = edited ? increments.add_raw("k", "{") : increments.add("k", "500");
            const auto edit = EventSketch{kIncremented, increment_data("k", "700"), kAppended, {}}.text();
            std::string data;
            tidemark::schemas::dead_letter::append(
                data, tidemark::schemas::dead_letter::Redriven{
                          letter, edited ? std::optional<std::string_view>(edit) : std::nullopt});
            increments.add_raw("d", EventSketch{tidemark::schemas::dead_letter::kRedriven, data, kAppended, {}}.text());
            increments.add("k", "2");
            Counting counting(increments.log);
            counting.tables.execute("alter table totals add check (value < 100)");
            while (!counting.folding.has_taken_all()) {
                counting.folding.take(0, cut);
                counting.folding.flush();
            }
            CHECK(counting.reasons() ==
                  (edited ? "2 malformed, 3 refused_by_database" : "2 refused_by_database, 3 refused_by_database"));
            CHECK(counting.tables.ask(R"(select status || attempts from dead_letters where "offset" = 2)") == "open1");
            CHECK(counting.total("k") == "3");
        }
    }
}

TEST_CASE("a decision about a letter that is not open is not to blame for a record behind it") {
    // Without the one before it, it looked as if it applied, and was parked with the record that the database refused.
    for (const int cut : {1, 2, 10}) {
        CAPTURE(cut);
        Increments increments;
        const auto letter = increments.add("k", "500");
        Counting counting(increments.log);
        counting.tables.execute("alter table totals add check (value < 100)");
        counting.folding.take_all();
        counting.folding.flush();
        std::string discard;
        tidemark::schemas::dead_letter::append(discard,
                                               tidemark::schemas::dead_letter::Discarded{letter, std::nullopt});
        std::string redrive;
        tidemark::schemas::dead_letter::append(redrive, tidemark::schemas::dead_letter::Redriven{letter, std::nullopt});
        increments.add_raw("d", EventSketch{tidemark::schemas::dead_letter::kDiscarded, discard, kAppended, {}}.text());
        increments.add_raw("d", EventSketch{tidemark::schemas::dead_letter::kRedriven, redrive, kAppended, {}}.text());
        increments.add("k", "900");
        while (!counting.folding.has_taken_all()) {
            counting.folding.take(0, cut);
            counting.folding.flush();
        }
        CHECK(counting.reasons() == "1 refused_by_database, 4 refused_by_database");
        CHECK(counting.tables.ask(R"(select status from dead_letters where "offset" = 1)") == "discarded");
    }
}

TEST_CASE("very many decisions about big letters are folded in time") {
    // Each decision loaded its letter, all in one statement, which then took longer than a statement may.
    Increments increments;
    const std::string big = "{\"a\":\"" + std::string(1'000'000, 'x');
    for (int n = 0; n < 20; ++n)
        increments.add_raw("k", big);
    Counting counting(increments.log);
    counting.folding.take_all();
    counting.folding.flush();
    for (int n = 0; n < 2'000; ++n) {
        std::string data;
        tidemark::schemas::dead_letter::append(data,
                                               tidemark::schemas::dead_letter::Redriven{1 + n % 20, std::nullopt});
        increments.add_raw("d", EventSketch{tidemark::schemas::dead_letter::kRedriven, data, kAppended, {}}.text());
    }
    counting.folding.take_all();
    CHECK(counting.folding.flush().outcome == Flushed::committed);
    CHECK(counting.tables.ask("select count(*) from dead_letters where status = 'quarantined'") == "20");
}

TEST_CASE("what comes behind a letter that holds waits for it, whatever it is, and others flow") {
    for (const int cut : {1, 2, 3, 20}) {
        CAPTURE(cut);
        Increments increments;
        const auto first = increments.add_raw("k", "{");
        increments.add("k", "1");
        increments.add("other", "2");
        increments.add_raw("k", std::nullopt);
        increments.add_raw("k", "[");
        increments.add_raw(std::nullopt, "{");  // no entity
        increments.add("somebody else", "5");
        increments.add_raw("somebody else", EventSketch{kIncremented, increment_data("x", "1"), kAppended, {}}.text());
        increments.add("somebody else", "6");  // a letter of that reason holds nothing
        const std::string any("\0\xFF'", 3);
        increments.add_raw(any, "{");
        increments.add_raw(any, "{}");
        increments.add_raw("decision", "{");  // holds a key that decisions have, too
        increments.add_raw("k", EventSketch{tidemark::schemas::kLogCreated, R"({"uuid":"1"})", {}, {}}.text());
        increments.redrive(first);
        Counting counting(increments.log, kHolding);
        counting.fold_by(cut);
        CHECK(counting.letters() ==
              "1 malformed open2+, 2 behind_dead_letter open1+, 4 behind_dead_letter open1+, 5 behind_dead_letter "
              "open1+, "
              "6 malformed open1, 8 key_mismatch open1, 10 malformed open1+, 11 behind_dead_letter open1+, "
              "12 malformed open1+, 13 unexpected_identity open1");
        CHECK(counting.total("k") == "none");
        CHECK(counting.total("other") == "2");
        CHECK(counting.total("somebody else") == "11");
        CHECK(counting.tables.ask("select detail from dead_letters where \"offset\" = 5") ==
              "came while 0:1 held its key");
        CHECK(counted_again(counting.database, counting.target, increments.log) == "");
    }
}

TEST_CASE("those that wait are judged in order when the first is redriven, up to the next that stays") {
    const auto edit = EventSketch{kIncremented, increment_data("k", "10"), kAppended, {}}.text();
    for (const int cut : {1, 2, 3, 4, 30}) {
        CAPTURE(cut);
        Increments increments;
        const auto first = increments.add_raw("k", "{");
        increments.add("k", "1", "i");
        increments.add("k", "2", "i");  // a conflict with the one before it, once that has applied: it holds nothing
        increments.add("k", "1", "i");  // a repeat
        increments.add("k", "3");
        const auto second = increments.add_raw("k", "[");
        const auto waiting = increments.add("k", "100");
        increments.redrive(waiting);       // not its turn: no attempt
        increments.redrive(second, edit);  // nor this one's
        increments.redrive(first, edit);
        increments.add("k", "200");
        const auto refused = increments.redrive(waiting);
        CHECK(refused > 0);
        const auto left = increments.add("k", "400");
        increments.discard(left);
        Counting counting(increments.log, kHolding);
        counting.fold_by(cut);
        CHECK(counting.letters() ==
              "1 malformed redriven1, 2 behind_dead_letter redriven1, 3 behind_dead_letter open2, "
              "4 behind_dead_letter redriven1, 5 behind_dead_letter redriven1, 6 behind_dead_letter open2+, "
              "7 behind_dead_letter open1+, 11 behind_dead_letter open1+, 13 behind_dead_letter discarded1");
        CHECK(counting.total("k") == "14");
        CHECK(counted_again(counting.database, counting.target, increments.log) == "");
        increments.discard(second);
        increments.add("k", "1000");
        counting.folding.restart();
        counting.fold_by(cut);
        CHECK(counting.total("k") == "1314");
        CHECK(counting.tables.ask("select count(*) from dead_letters where holds") == "0");
        CHECK(counting.tables.ask(
                  "select string_agg(distinct decided_at::text, ',') from dead_letters where \"offset\" in "
                  "(7, 11)") == std::to_string(left + 2));
        CHECK(counted_again(counting.database, counting.target, increments.log) == "");
    }
}

TEST_CASE("a quarantined letter that holds can only be discarded, and one that does not hold not even that") {
    for (const int cut : {1, 3, 30}) {
        CAPTURE(cut);
        Increments increments;
        const auto first = increments.add_raw("k", "{");
        increments.add("k", "1");
        const auto other = increments.add_raw("a", EventSketch{kIncremented, increment_data("b", "1"), {}, {}}.text());
        for (int n = 0; n < 8; ++n) {
            increments.redrive(first);
            increments.redrive(other);
        }
        Counting counting(increments.log, kHolding);
        counting.fold_by(cut);
        CHECK(counting.letters() ==
              "1 malformed quarantined6+, 2 behind_dead_letter open1+, 3 key_mismatch quarantined6");
        CHECK(counted_again(counting.database, counting.target, increments.log) == "");
        increments.discard(other);
        increments.discard(first);
        counting.folding.restart();
        counting.fold_by(cut);
        CHECK(counting.letters() ==
              "1 malformed discarded6, 2 behind_dead_letter redriven1, 3 key_mismatch quarantined6");
        CHECK(counting.total("k") == "1");
        CHECK(counted_again(counting.database, counting.target, increments.log) == "");
    }
}

TEST_CASE("a letter whose new reason holds nothing lets those behind it go") {
    const auto strangers = EventSketch{kIncremented, increment_data("stranger", "1"), kAppended, {}}.text();
    for (const int cut : {1, 2, 30}) {
        CAPTURE(cut);
        Increments increments;
        const auto first = increments.add_raw("k", "{");
        increments.add("k", "1");
        increments.redrive(first, strangers);
        increments.add("k", "2");
        increments.redrive(first, "{");  // never again does it hold: what came behind it has applied
        increments.add("k", "4");
        Counting counting(increments.log, kHolding);
        counting.fold_by(cut);
        CHECK(counting.letters() == "1 malformed open3, 2 behind_dead_letter redriven1");
        CHECK(counting.total("k") == "7");
        CHECK(counted_again(counting.database, counting.target, increments.log) == "");
    }
}

TEST_CASE("one decision releases a thousand letters at most, the next one the others") {
    const auto edit = EventSketch{kIncremented, increment_data("k", "1"), kAppended, {}}.text();
    for (const int cut : {700, 5'000}) {
        CAPTURE(cut);
        Increments increments;
        const auto first = increments.add_raw("k", "{");
        for (std::int64_t n = 0; n < dead_letter::kMostReleased + 2; ++n)
            increments.add("k", "1");
        increments.redrive(first, edit);
        increments.add("k", "1");
        Counting counting(increments.log, kHolding);
        counting.fold_by(cut);
        CHECK(counting.total("k") == "1001");
        CHECK(counting.tables.ask("select count(*) from dead_letters where holds") == "3");
        CHECK(counted_again(counting.database, counting.target, increments.log) == "");
        increments.redrive(first + dead_letter::kMostReleased);      // it has gone
        increments.redrive(first + dead_letter::kMostReleased + 2);  // it waits
        increments.redrive(first + dead_letter::kMostReleased + 1);
        increments.add("k", "1");
        counting.folding.restart();
        counting.fold_by(cut);
        CHECK(counting.total("k") == "1005");
        CHECK(counting.tables.ask("select count(*) from dead_letters where holds") == "0");
        CHECK(counted_again(counting.database, counting.target, increments.log) == "");
    }
}

TEST_CASE(
    "a decision that releases what the database refuses is refused itself, and nothing is released, in every cut") {
    const auto edit = EventSketch{kIncremented, increment_data("k", "1"), kAppended, {}}.text();
    for (const int cut : {1, 2, 3, 30}) {
        CAPTURE(cut);
        Increments increments;
        const auto first = increments.add_raw("k", "{");
        increments.add("k", "1");
        const auto bad = increments.add("k", "500");
        increments.add("k", "2");
        increments.redrive(first, edit);
        increments.add("k", "4");
        increments.add("decision", "3");  // what is refused of an operator holds nothing
        increments.add("refused", "900");
        increments.add("refused", "3");
        Counting counting(increments.log, kHolding);
        counting.tables.execute("alter table totals add check (value < 100)");
        counting.fold_by(cut);
        CHECK(counting.letters() ==
              "1 malformed open1+, 2 behind_dead_letter open1+, 3 behind_dead_letter open1+, 4 behind_dead_letter "
              "open1+, "
              "5 refused_by_database open1, 6 behind_dead_letter open1+, 8 refused_by_database open1+, "
              "9 behind_dead_letter open1+");
        CHECK(counting.total("decision") == "3");
        CHECK(counted_again(counting.database, counting.target, increments.log) == "");
        increments.discard(bad);
        increments.redrive(first, edit);
        counting.folding.restart();
        counting.fold_by(cut);
        CHECK(counting.total("k") == "8");
        CHECK(counted_again(counting.database, counting.target, increments.log) == "");
    }
}

TEST_CASE("a line of an imported file that waits behind a letter has come") {
    for (const int cut : {1, 2, 30}) {
        CAPTURE(cut);
        Increments increments;
        const auto first = increments.add_raw("k", "{");
        for (int n = 0; n < 2; ++n) {
            increments.log.append(0, FakeLog::Entry{0,
                                                    kAppended,
                                                    "k",
                                                    EventSketch{kIncremented, increment_data("k", "1"), {}, {}}.text(),
                                                    {{"import", std::string(22, 'f') + ":1"}}});
        }
        increments.discard(first);
        Counting counting(increments.log, kHolding);
        counting.fold_by(cut);
        CHECK(counting.letters() == "1 malformed discarded1, 2 behind_dead_letter redriven1");
        CHECK(counting.total("k") == "1");
        CHECK(counting.tables.ask("select duplicates::text from offsets") == "1");
    }
}

TEST_CASE("keys and letters of a megabyte that wait are released in time") {
    const std::string key(1'000'000, '\xFF');
    Increments increments;
    const auto first = increments.add_raw(key, "{");
    for (int n = 0; n < 30; ++n)
        increments.add_raw(key, "{\"a\":\"" + std::string(1'000'000, 'x'));
    Counting counting(increments.log, kHolding);
    counting.folding.take_all();
    REQUIRE(counting.folding.flush().outcome == Flushed::committed);
    for (int n = 0; n < 30; ++n)
        increments.discard(first + n);
    counting.folding.take_all();
    REQUIRE(counting.folding.flush().outcome == Flushed::committed);
    CHECK(counting.tables.ask("select count(*) || ' ' || max(attempts) from dead_letters where status = 'discarded'") ==
          "30 2");
    CHECK(counting.tables.ask("select \"offset\" || status from dead_letters where holds") == "31open");
}

TEST_CASE("a partition claimed while a refused record is being looked for is lost, not refused") {
    Increments increments;
    for (int i = 0; i < 8; ++i)
        increments.add(i == 5 ? "bad" : "k", "1");
    Counting counting(increments.log);
    // Long enough in each attempt for the claimer to queue up for the row.
    counting.tables.execute(
        "create function refuse() returns trigger language plpgsql as $$ begin "
        "perform pg_sleep(0.2); raise exception 'no' using errcode = '22003'; end $$;"
        "create trigger refuse before insert on totals for each row when (new.key = 'bad') execute function refuse()");
    counting.folding.take_all();
    std::thread claimer([&] {
        CHECK(eventually([&] { return counting.tables.sessions("wait_event = 'PgSleep'") == 1; }));
        counting.tables.claim(0);
    });
    const auto report = counting.folding.flush();
    claimer.join();
    CHECK(report.outcome == Flushed::fenced);
    CHECK(counting.next_offset() == "0");
    CHECK(counting.reasons().empty());
}

TEST_CASE("what fails for a while is told apart from what is refused, and done again counts once") {
    Increments increments;
    increments.add("k", "1");
    Counting counting(increments.log);
    counting.folding.take_all();
    pg::Connection other(counting.database.dsn(), session_options(counting.database.dsn(), counting.target));
    {
        auto lock = other.begin();
        lock.run_script("lock table totals in exclusive mode");
        const auto report = counting.folding.flush();
        CHECK(report.outcome == Flushed::failed);
        CHECK_FALSE(report.connection_lost);
        CHECK_FALSE(report.error.empty());
    }
    CHECK(counting.next_offset() == "0");
    CHECK(counting.folding.flush().outcome == Flushed::committed);
    CHECK(counting.total("k") == "1");
}

TEST_CASE("a session that ends before the commit is nothing written, and done again on a new one counts once") {
    Increments increments;
    increments.add("k", "1");
    Counting counting(increments.log);
    counting.folding.take_all();
    counting.tables.execute("select pg_terminate_backend(" +
                            std::to_string(counting.folding.connection().backend_pid()) + ")");
    const auto report = counting.folding.flush();
    CHECK(report.outcome == Flushed::failed);
    CHECK(report.connection_lost);
    counting.folding.connect();
    CHECK(counting.folding.flush().outcome == Flushed::committed);
    CHECK(counting.total("k") == "1");
}

TEST_CASE("a commit whose answer is lost counts once, whether it was done or not") {
    Increments increments;
    increments.add("k", "1");
    Network network;
    Counting counting(increments.log);
    Folding folding(counting.database.dsn(network), counting.target, increments.log);
    folding.take_all();
    bool committed = false;
    SUBCASE("done") {
        committed = true;
        network.lose_answer_to("COMMIT");
    }
    SUBCASE("not done") {
        network.lose("COMMIT");
    }
    const auto report = folding.flush();
    CHECK(report.outcome == Flushed::in_doubt);
    CHECK(report.connection_lost);
    folding.connect();
    folding.resolve();
    CHECK(folding.state().counters().in_doubt_committed == (committed ? 1 : 0));
    CHECK(folding.state().counters().fenced == 0);
    CHECK(folding.state().buffer().empty() == committed);
    if (!committed) CHECK(folding.flush().outcome == Flushed::committed);
    CHECK(counting.total("k") == "1");
    CHECK(counting.next_offset() == "2");
    CHECK(counting.tables.conserved());
}

TEST_CASE("a commit in doubt that is still under way is waited for before it is judged") {
    Increments increments;
    increments.add("k", "1");
    Network network;
    Counting counting(increments.log);
    // The commit waits for a lock that the test holds.
    counting.tables.execute(
        "create function wait() returns trigger language plpgsql set lock_timeout = '20s' as $$ begin "
        "perform pg_advisory_xact_lock(1); return null; end $$;"
        "create constraint trigger wait after insert on totals deferrable initially deferred "
        "for each row execute function wait()");
    Folding folding(counting.database.dsn(network), counting.target, increments.log);
    folding.take_all();
    pg::Connection holder(counting.database.dsn(), session_options(counting.database.dsn(), counting.target));
    std::optional<pg::Transaction> hold(holder.begin());
    hold->run_script("select pg_advisory_xact_lock(1)");
    FlushReport report;
    std::thread flush([&] { report = folding.flush(); });
    CHECK(eventually([&] { return counting.tables.sessions("wait_event = 'advisory' and query = 'COMMIT'") == 1; }));
    network.cut();
    flush.join();
    REQUIRE(report.outcome == Flushed::in_doubt);
    folding.connect();
    std::optional<pg::Failure> undecided;
    try {
        folding.resolve();
    } catch (const pg::Error& error) {
        undecided = error.failure();
    }
    CHECK(undecided == pg::Failure::retryable);
    hold.reset();
    folding.resolve();
    CHECK(folding.state().counters().in_doubt_committed == 1);
    CHECK(folding.state().counters().fenced == 0);
    CHECK(counting.total("k") == "1");
}

TEST_CASE("a flush without records moves the instant alone, and never back") {
    Increments increments;
    Counting counting(increments.log);
    counting.folding.take_all();
    counting.folding.flush();
    const auto as_of = [&] {
        return counting.tables.ask("select (extract(epoch from as_of) * 1000000)::bigint::text from offsets");
    };
    counting.folding.state().log_end(kAppended, std::vector<std::int64_t>{1});
    CHECK(counting.folding.flush().outcome == Flushed::committed);
    CHECK(as_of() == std::to_string(kAppended.time_since_epoch().count()));
    counting.folding.restart();
    counting.folding.state().log_end(kAppended - 1s, std::vector<std::int64_t>{1});
    CHECK(counting.folding.flush().outcome == Flushed::committed);
    CHECK(as_of() == std::to_string(kAppended.time_since_epoch().count()));
    CHECK(counting.tables.conserved());
}

TEST_CASE("readers hear of each flush that wrote records, once it is committed") {
    Increments increments;
    increments.add("k", "1");
    Counting counting(increments.log);
    pg::Connection reader(counting.database.dsn(), session_options(counting.database.dsn(), counting.target));
    reader.listen("tidemark_progress");
    counting.folding.take_all();
    counting.folding.flush();
    const auto heard = reader.notifications(10s);
    REQUIRE(heard.size() == 1);
    CHECK(heard[0].payload == "counters");
}

TEST_CASE("a claimer ends the session of an owner who holds the rows, and takes over") {
    Increments increments;
    increments.add("k", "1");
    Counting counting(increments.log);
    const std::vector<std::int32_t> partitions{0};
    auto options = session_options(counting.database.dsn(), counting.target);
    options.lock_timeout = 200ms;
    pg::Connection first(counting.database.dsn(), options);
    const OffsetStore one(counting.target.generation, "one");
    const auto claims = one.claim(first, partitions);
    auto stopped = first.begin();
    stopped.run_script("update offsets set next_offset = 2, gaps = 2");

    pg::Connection second(counting.database.dsn(), options);
    const OffsetStore two(counting.target.generation, "two");
    const auto taken = two.claim(second, partitions);
    REQUIRE(taken.size() == 1);
    CHECK(taken[0].epoch == claims[0].epoch + 1);
    CHECK(taken[0].next_offset == 0);
    CHECK(counting.tables.ask("select owner || ' ' || (backend_pid = " + std::to_string(second.backend_pid()) +
                              ")::text from offsets") == "two true");
    CHECK_THROWS_AS(stopped.commit(), pg::Error);
    CHECK(first.is_broken());
    CHECK(counting.next_offset() == "0");
}

TEST_CASE("a claimer does not end the session of an owner who holds nothing") {
    Increments increments;
    Counting counting(increments.log);
    const std::vector<std::int32_t> partitions{0};
    pg::Connection second(counting.database.dsn(), session_options(counting.database.dsn(), counting.target));
    OffsetStore(counting.target.generation, "two").claim(second, partitions);
    counting.folding.take_all();
    CHECK(counting.folding.flush().outcome == Flushed::fenced);
    CHECK_FALSE(counting.folding.connection().is_broken());
}

TEST_CASE("partitions that migrate did not know cannot be claimed") {
    Increments increments;
    Counting counting(increments.log);
    const std::vector<std::int32_t> partitions{0, 1};
    CHECK_THROWS_AS(counting.folding.store().claim(counting.folding.connection(), partitions), std::runtime_error);
}

TEST_CASE("a session that replaces a broken one is announced for the claims that are still held") {
    Increments increments;
    Counting counting(increments.log);
    counting.folding.connect();
    const auto claims = counting.folding.state().claims();
    CHECK(counting.folding.store().announce(counting.folding.connection(), claims));
    CHECK(counting.tables.ask("select backend_pid::text from offsets") ==
          std::to_string(counting.folding.connection().backend_pid()));
    counting.tables.claim(0);
    CHECK_FALSE(counting.folding.store().announce(counting.folding.connection(), claims));
}
