#include "consumers/diff.h"

#include "consumers/projections.h"
#include "consumers/standstill.h"
#include "schemas/json.h"
#include "tests/integration/consumers/random_log.h"
#include "tests/integration/consumers/scratch.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <optional>
#include <sstream>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

using namespace std::chrono_literals;
namespace json = tidemark::schemas::json;
namespace pg = tidemark::pg;
using tidemark::base::Timestamp;
using tidemark::consumers::compare;
using tidemark::consumers::Diff;
using tidemark::consumers::DiffFormat;
using tidemark::consumers::DiffOptions;
using tidemark::consumers::find_generations;
using tidemark::consumers::find_progress;
using tidemark::consumers::find_projection;
using tidemark::consumers::Flushed;
using tidemark::consumers::Generation;
using tidemark::consumers::Refused;
using tidemark::consumers::Role;
using tidemark::consumers::Standstill;
using tidemark::consumers::Target;
using tidemark::consumers::write_diff;
using tidemark::test::eventually;
using tidemark::tests::EventSketch;
using tidemark::tests::FakeLog;
using tidemark::tests::Folding;
using tidemark::tests::identify;
using tidemark::tests::increment_data;
using tidemark::tests::kIncremented;
using tidemark::tests::RandomLog;
using tidemark::tests::ScratchDatabase;
using tidemark::tests::Tables;

namespace {

constexpr Timestamp kAppended{1'700'000'000s};

/// A log of two partitions with their identities, to be filled with increments.
struct Increments {
    FakeLog log{2};

    Increments() { identify(log); }

    void add(std::int32_t partition, const std::string& key, const std::string& value,
             std::optional<std::string> identity = {}, Timestamp append_time = kAppended) {
        // Without an identity a counter may stand in any partition.
        log.append(partition, key,
                   EventSketch{kIncremented, increment_data(key, value), append_time, std::move(identity)}.text(),
                   append_time);
    }
};

/// A live generation of a stream and a candidate beside it, folded from the same log at the test's pace.
struct Beside {
    ScratchDatabase database;
    Target live_target;
    Target other_target;
    Tables live;
    Tables other;
    Folding live_folding;
    Folding other_folding;

    explicit Beside(const FakeLog& log, const char* stream = "counters")
        : live_target(database.make_generation(*find_projection(stream), log.partitions(), Role::live)),
          other_target(database.make_generation(*find_projection(stream), log.partitions(), Role::candidate)),
          live(database, live_target),
          other(database, other_target),
          live_folding(database.dsn(), live_target, log),
          other_folding(database.dsn(), other_target, log) {}

    void fold_all() {
        for (auto* folding : {&live_folding, &other_folding}) {
            folding->take_all();
            REQUIRE(folding->flush().outcome == Flushed::committed);
        }
    }
    [[nodiscard]] Generation generation(Role role) const {
        pg::Connection connection(database.dsn(), {});
        for (auto& one : find_generations(connection, *live_target.projection)) {
            if (one.role == role) return one;
        }
        throw std::logic_error("no such generation");
    }
    /// What a swap does to names and registry.
    void promote(int generation) {
        const auto number = std::to_string(generation);
        live.execute(
            "alter schema counters rename to counters_1; alter schema counters_" + number +
            " rename to counters;"
            "update tidemark.generations set status = 'retired', schema_name = 'counters_1' where generation = 1;"
            "update tidemark.generations set status = 'live', schema_name = 'counters' where generation = " +
            number + "; update tidemark.streams set swaps = swaps + 1");
    }
    [[nodiscard]] DiffOptions options() const {
        DiffOptions options;
        options.owner_dsn = database.dsn();
        return options;
    }
    Diff diff() const { return diff(options()); }
    Diff diff(const DiffOptions& options) const {
        return compare(options, generation(Role::live), generation(Role::candidate));
    }
};

/// Does something again and again in a thread of its own, until the scope ends.
class FoldedMeanwhile {
public:
    template <typename Step>
    explicit FoldedMeanwhile(Step step)
        : thread_([this, step = std::move(step)]() mutable {
              while (!done_)
                  step();
          }) {}
    ~FoldedMeanwhile() {
        done_ = true;
        thread_.join();
    }
    FoldedMeanwhile(const FoldedMeanwhile&) = delete;
    FoldedMeanwhile& operator=(const FoldedMeanwhile&) = delete;

private:
    std::atomic<bool> done_ = false;  // before the thread that asks it
    std::thread thread_;
};

Diff::Table table_of(const Diff& diff, const std::string& name) {
    const auto found =
        std::find_if(diff.tables.begin(), diff.tables.end(), [&](const auto& table) { return table.name == name; });
    if (found == diff.tables.end()) throw std::logic_error("the difference has no table " + name);
    return *found;
}

/// "added removed changed" of a table.
std::string counts(const Diff::Table& table) {
    return std::to_string(table.added) + ' ' + std::to_string(table.removed) + ' ' + std::to_string(table.changed);
}

std::string text_of(const std::optional<std::string>& value) {
    return value.value_or("null");
}

/// A sample in one line: "changed key=a | value 1 -> 2 (1) | 0:1-3".
std::string line_of(const Diff::Sample& sample) {
    constexpr const char* kKinds[] = {"added", "removed", "changed"};
    std::string line = kKinds[static_cast<int>(sample.kind)];
    for (const auto& cell : sample.key)
        line += ' ' + cell.column + '=' + cell.value;
    for (const auto& change : sample.changes) {
        line += " | " + change.column + ' ' + text_of(change.live) + " -> " + text_of(change.other);
        if (change.delta) line += " (" + *change.delta + ')';
    }
    for (const auto& range : sample.evidence) {
        line += " | " + std::to_string(range.partition) + ':' + std::to_string(range.min_offset) + '-' +
                std::to_string(range.max_offset);
    }
    return line;
}

std::vector<std::string> lines_of(const Diff::Table& table) {
    std::vector<std::string> lines;
    for (const auto& sample : table.samples)
        lines.push_back(line_of(sample));
    return lines;
}

std::string written(const Diff& diff, DiffFormat format) {
    std::ostringstream out;
    write_diff(diff, format, out);
    return out.str();
}

/// RFC 4180, read by other code than wrote it.
std::vector<std::vector<std::string>> read_csv(const std::string& text) {
    std::vector<std::vector<std::string>> rows{{""}};
    bool quoted = false;
    for (std::size_t i = 0; i < text.size(); ++i) {
        auto& cell = rows.back().back();
        if (quoted) {
            if (text[i] != '"') {
                cell += text[i];
            } else if (i + 1 < text.size() && text[i + 1] == '"') {
                cell += text[++i];
            } else {
                quoted = false;
            }
        } else if (text[i] == '"') {
            quoted = true;
        } else if (text[i] == ',') {
            rows.back().emplace_back();
        } else if (text[i] == '\n') {
            rows.push_back({""});
        } else {
            cell += text[i];
        }
    }
    REQUIRE(rows.back() == std::vector<std::string>{""});
    rows.pop_back();
    return rows;
}

}  // namespace

TEST_CASE("generations of the same records do not differ however the batches were cut") {
    for (const char* stream : {"counters", "vehicles"}) {
        CAPTURE(stream);
        const RandomLog random(7, std::string_view(stream) == "counters", 3, 150);
        Beside beside(random.log(), stream);
        beside.live_folding.take_all();
        REQUIRE(beside.live_folding.flush().outcome == Flushed::committed);
        while (!beside.other_folding.has_taken_all()) {
            for (std::int32_t partition = 0; partition < 3; ++partition)
                beside.other_folding.take(partition, 5 + partition);
            beside.other_folding.flush();
            beside.other_folding.restart();  // who wrote what, and how often it was claimed, does not count either
        }
        const auto diff = beside.diff();
        CHECK(diff.stream == stream);
        CHECK(diff.live == 1);
        CHECK(diff.other == 2);
        CHECK(diff.vector == std::vector{random.log().end(0), random.log().end(1), random.log().end(2)});
        CHECK(diff.differing() == 0);
        std::vector<std::string> names;
        for (const auto& table : diff.tables) {
            CAPTURE(table.name);
            CHECK(counts(table) == "0 0 0");
            CHECK(table.rows_live == table.rows_other);
            CHECK(table.rows_live > 0);
            CHECK(table.samples.empty());
            names.push_back(table.name);
        }
        CHECK(names ==
              (std::string_view(stream) == "counters"
                   ? std::vector<std::string>{"dead_letters", "dedupe", "imports", "offsets", "totals", "windows"}
                   : std::vector<std::string>{"dead_letters", "dedupe", "history", "imports", "offsets", "transitions",
                                              "vehicles"}));
        CHECK(written(diff, DiffFormat::table).find("No row differs.") != std::string::npos);
    }
}

TEST_CASE("first sights that can decide nothing any more may be there or not") {
    Increments increments;
    const auto home = tidemark::kafka::murmur2_partition("k", 2);
    increments.add(home, "k", "1", "old", kAppended);
    increments.add(home, "k", "1", "at the horizon", kAppended + 1us);
    increments.add(home, "k", "1", "new", kAppended + 24h + 1us);
    Beside beside(increments.log);
    beside.fold_all();
    REQUIRE(beside.live.ask("select count(*) from dedupe") == "3");
    beside.other.execute("delete from dedupe where identity = 'old'");
    const auto diff = beside.diff();
    CHECK(diff.differing() == 0);
    CHECK(table_of(diff, "dedupe").rows_live == 2);
    beside.other.execute("delete from dedupe where identity = 'at the horizon'");
    const auto deciding = beside.diff();
    CHECK(deciding.differing() == 1);
    CHECK(counts(table_of(deciding, "dedupe")) == "0 1 0");
    CHECK(table_of(deciding, "dedupe").samples.at(0).key.at(1).value == "at the horizon");
}

TEST_CASE("each table's added, removed and changed rows are counted, the biggest deltas first with their evidence") {
    Increments increments;
    for (const char* key : {"a", "b", "c", "d"}) {
        increments.add(0, key, "10");
        increments.add(1, key, "5");
    }
    increments.log.append(1, FakeLog::Entry{0, kAppended, "k", "poison", {}});
    increments.log.append(1, FakeLog::Entry{0, kAppended, "k", "venom", {}});
    Beside beside(increments.log);
    beside.fold_all();
    beside.other.execute(R"(
        update totals set value = value - 3, updated_at = updated_at + interval '1 second' where key = 'a';
        delete from totals where key = 'b';
        insert into totals values ('e', 7, 1, '2023-11-14 22:13:20+00');
        update windows set count = count + 1 where key = 'c' and partition = 0;
        update windows set max_offset = 40 where key = 'd' and partition = 1;
        delete from windows where key = 'a' and partition = 1;
        insert into windows values ('z', '2023-11-14 22:13:20+00', 1, -100, 1, 8, 9);
        update dead_letters set detail = 'other words' where "offset" = 5;
        delete from dead_letters where "offset" = 6;
        update offsets set applied = applied - 2, epoch = 77, owner = 'somebody else', as_of = now() where partition = 1)");
    const auto diff = beside.diff();
    CHECK(diff.differing() == 10);
    CHECK(counts(table_of(diff, "totals")) == "1 1 1");
    CHECK(table_of(diff, "totals").rows_live == 4);
    CHECK(table_of(diff, "totals").rows_other == 4);
    // Of an entity that is in no window nothing says where it comes from.
    CHECK(lines_of(table_of(diff, "totals")) ==
          std::vector<std::string>{
              "removed key=b | value 15 -> null (-15) | count 2 -> null (-2) | "
              "updated_at 2023-11-14 22:13:20+00 -> null | 0:2-2 | 1:2-2",
              "added key=e | value null -> 7 (7) | count null -> 1 (1) | updated_at null -> 2023-11-14 22:13:20+00",
              "changed key=a | value 15 -> 12 (-3) | "
              "updated_at 2023-11-14 22:13:20+00 -> 2023-11-14 22:13:21+00 | 0:1-1 | 1:1-1"});
    CHECK(counts(table_of(diff, "windows")) == "1 1 2");
    CHECK(lines_of(table_of(diff, "windows")) ==
          std::vector<std::string>{
              "added key=z window_start=2023-11-14 22:13:20+00 partition=1 | value null -> -100 (-100) | "
              "count null -> 1 (1) | min_offset null -> 8 | max_offset null -> 9 | 1:8-9",
              "removed key=a window_start=2023-11-14 22:13:20+00 partition=1 | value 5 -> null (-5) | "
              "count 1 -> null (-1) | min_offset 1 -> null | max_offset 1 -> null | 1:1-1",
              "changed key=c window_start=2023-11-14 22:13:20+00 partition=0 | count 1 -> 2 (1) | 0:3-3",
              "changed key=d window_start=2023-11-14 22:13:20+00 partition=1 | max_offset 4 -> 40 | 1:4-40"});
    CHECK(counts(table_of(diff, "dead_letters")) == "0 1 1");
    // A row that is missing counts with its attempts.
    CHECK(table_of(diff, "dead_letters").samples.at(0).kind == Diff::Kind::removed);
    CHECK(line_of(table_of(diff, "dead_letters").samples.at(1)).find("changed partition=1 offset=5 | detail ") == 0);
    CHECK(table_of(diff, "dead_letters").samples.at(1).evidence.at(0).min_offset == 5);
    CHECK(lines_of(table_of(diff, "offsets")) == std::vector<std::string>{"changed partition=1 | applied 5 -> 3 (-2)"});

    auto few = beside.options();
    few.top = 2;
    const auto cut = beside.diff(few);
    CHECK(cut.differing() == 10);
    CHECK(lines_of(table_of(cut, "windows")).size() == 2);
    CHECK(line_of(table_of(cut, "windows").samples.at(0)).find("added key=z") == 0);
    few.top = 0;
    CHECK(beside.diff(few).differing() == 10);
    CHECK(table_of(beside.diff(few), "windows").samples.empty());
}

TEST_CASE("rows with equal deltas stand by key, numbers as numbers") {
    const RandomLog random(3, false, 2, 40);
    Beside beside(random.log(), "vehicles");
    beside.fold_all();
    beside.other.execute(
        "insert into vehicles (id, state, applied_at) select n, 'sold', now() from unnest(array[1002, "
        "20000, 300, 1001]) n");
    std::vector<std::string> keys;
    for (const auto& sample : table_of(beside.diff(), "vehicles").samples)
        keys.push_back(sample.key.at(0).value);
    CHECK(keys == std::vector<std::string>{"300", "1001", "1002", "20000"});
}

TEST_CASE("evidence is what both sides know, one range for each partition") {
    Increments increments;
    increments.add(0, "a", "1");
    Beside beside(increments.log);
    beside.fold_all();
    beside.live.execute(
        "insert into windows values ('a', 'epoch', 1, 1, 1, 100, 120), ('a', '2020-01-01', 1, 1, 1, 90, 95)");
    beside.other.execute(R"(
        insert into windows values ('a', 'epoch', 1, 1, 1, 110, 130), ('a', '2020-01-01', 1, 1, 1, 90, 95);
        update totals set count = 5)");
    SUBCASE("both have the view") {
        CHECK(lines_of(table_of(beside.diff(), "totals")) ==
              std::vector<std::string>{"changed key=a | count 1 -> 5 (4) | 0:1-1 | 1:90-130"});
    }
    SUBCASE("one has it") {
        beside.other.execute("drop view evidence");
        CHECK(lines_of(table_of(beside.diff(), "totals")) ==
              std::vector<std::string>{"changed key=a | count 1 -> 5 (4) | 0:1-1 | 1:90-120"});
    }
    SUBCASE("none has it") {
        beside.live.execute("drop view evidence");
        beside.other.execute("drop view evidence");
        CHECK(lines_of(table_of(beside.diff(), "totals")) ==
              std::vector<std::string>{"changed key=a | count 1 -> 5 (4)"});
    }
}

TEST_CASE("a partition's number is no entity") {
    Increments increments;
    increments.add(0, "0", "1");
    Beside beside(increments.log);
    beside.fold_all();
    beside.other.execute("update offsets set gaps = 1 where partition = 0");
    CHECK(lines_of(table_of(beside.diff(), "offsets")) ==
          std::vector<std::string>{"changed partition=0 | gaps 0 -> 1 (1)"});
}

TEST_CASE("a table that only one side has counts row by row") {
    Increments increments;
    increments.add(0, "a", "1");
    Beside beside(increments.log);
    beside.fold_all();
    beside.live.execute("create table old (id integer primary key, n bigint); insert into old values (1, 4), (2, -6)");
    beside.other.execute(
        "create table \"New \"\" one\" (\"The Key\" text, part uuid, primary key (part, \"The Key\"));"
        "insert into \"New \"\" one\" values ('x', '00000000-0000-0000-0000-000000000001')");
    const auto diff = beside.diff();
    CHECK(diff.differing() == 3);
    const auto old = table_of(diff, "old");
    CHECK(old.in_live);
    CHECK_FALSE(old.in_other);
    CHECK(counts(old) == "0 2 0");
    CHECK(old.rows_live == 2);
    CHECK(old.rows_other == 0);
    CHECK(lines_of(old) ==
          std::vector<std::string>{"removed id=2 | n -6 -> null (6)", "removed id=1 | n 4 -> null (-4)"});
    const auto fresh = table_of(diff, "New \" one");
    CHECK_FALSE(fresh.in_live);
    CHECK(counts(fresh) == "1 0 0");
    CHECK(lines_of(fresh) == std::vector<std::string>{"added part=00000000-0000-0000-0000-000000000001 The Key=x"});
    CHECK(written(diff, DiffFormat::table).find("only in 1") != std::string::npos);
    // A row of nothing but a key has a line too.
    CHECK(read_csv(written(diff, DiffFormat::csv)).size() == 1 + 3);
}

TEST_CASE("columns that only one side has are named, and the others are compared") {
    Increments increments;
    increments.add(0, "a", "1");
    Beside beside(increments.log);
    beside.fold_all();
    beside.live.execute("alter table totals add gone integer");
    beside.other.execute("alter table totals add fresh text not null default 'x'; update totals set value = 2");
    const auto diff = beside.diff();
    const auto totals = table_of(diff, "totals");
    CHECK(totals.columns_only_in_live == std::vector<std::string>{"gone"});
    CHECK(totals.columns_only_in_other == std::vector<std::string>{"fresh"});
    CHECK(lines_of(totals) == std::vector<std::string>{"changed key=a | value 1 -> 2 (1) | 0:1-1"});
}

TEST_CASE("columns of other types and collations are compared by what they say") {
    Increments increments;
    increments.add(0, "a", "1");
    Beside beside(increments.log);
    beside.fold_all();
    beside.live.execute(R"(
        create table t (k bigint primary key, n integer, s text, c text, j json, b bytea);
        insert into t values (1, 10, 'x', 'y', '{}', '\x01'), (2, 20, '7', 'y', '{}', '\x01');
        create table u (k text collate "C" primary key, n text);
        insert into u values ('a', 'b'), ('c', 'd'), ('10', '1'))");
    beside.other.execute(R"(
        create table t (k integer primary key, n numeric, s text collate "C", c integer, j json, b bytea);
        insert into t values (1, 10.0, 'x', 5, '{}', '\x01'), (2, 20.5, '8', 6, '{ }', '\x0102');
        create table u (k text collate "POSIX" primary key, n text collate "C");
        insert into u values ('a', 'b'), ('C', 'd'), ('10', '1'))");
    const auto diff = beside.diff();
    CHECK(lines_of(table_of(diff, "t")) ==
          std::vector<std::string>{
              "changed k=2 | n 20 -> 20.5 (0.5) | s 7 -> 8 | c y -> 6 | j {} -> { } | b \\x01 -> \\x0102",
              "changed k=1 | c y -> 5"});
    CHECK(lines_of(table_of(diff, "u")) ==
          std::vector<std::string>{"added k=C | n null -> d", "removed k=c | n d -> null"});
}

TEST_CASE("rows whose tables have different keys have no counterparts") {
    Increments increments;
    increments.add(0, "a", "1");
    Beside beside(increments.log);
    beside.fold_all();
    beside.other.execute("alter table windows drop constraint windows_pkey, add primary key (key, window_start)");
    const auto diff = beside.diff();
    CHECK(table_of(diff, "windows").other_key);
    CHECK(counts(table_of(diff, "windows")) == "1 1 0");
    CHECK(diff.differing() == 2);
    CHECK(written(diff, DiffFormat::table).find("another primary key") != std::string::npos);
}

TEST_CASE("a long value is cut, and says of which length it was") {
    Increments increments;
    Beside beside(increments.log);
    beside.fold_all();
    beside.live.execute(
        "create table t (k integer primary key, s text); insert into t values (1, repeat('x', 2000)), "
        "(2, repeat('x', 1000000) || 'a')");
    beside.other.execute(
        "create table t (k integer primary key, s text); insert into t values (1, 'y'), "
        "(2, repeat('x', 1000000) || 'b')");
    const auto samples = table_of(beside.diff(), "t").samples;
    REQUIRE(samples.size() == 2);
    CHECK(samples[0].changes.at(0).live == std::string(2'000, 'x'));
    const auto& change = samples[1].changes.at(0);
    CHECK(change.live->find(std::string(1'000, 'x') + "... (1000001 characters, MD5 ") == 0);
    CHECK(change.live != change.other);
}

TEST_CASE("keys with quotes, line breaks, controls and emoji come out right in every format") {
    const std::string key =
        "say \"hi\",\nthen \xF0\x9F\x9A\x97 \x1B[31m\xC2\x9B"
        "1m\x7F";
    Increments increments;
    increments.add(0, key, "1");
    increments.add(0, "null", "1");
    Beside beside(increments.log);
    beside.fold_all();
    beside.other.execute(
        "update totals set value = value + 2; create table n (k text primary key, s text);"
        "insert into n values ('', null), (' ', '')");
    beside.live.execute("create table n (k text primary key, s text); insert into n values ('', ''), (' ', 'null')");
    auto options = beside.options();
    const auto diff = beside.diff(options);
    REQUIRE(diff.differing() == 4);

    SUBCASE("JSON") {
        const auto text = written(diff, DiffFormat::json);
        json::Reader reader;
        const auto parsed = reader.parse(text, json::Limits{16, 0, 0, false});
        REQUIRE(parsed);
        CHECK(parsed->find("stream").text() == "counters");
        CHECK(parsed->find("differing").text() == "4");
        CHECK(parsed->find("vector").size() == 2);
        bool found = false;
        for (const auto table : parsed->find("tables")) {
            if (table.find("name").text() != "totals") continue;
            CHECK(table.find("changed").text() == "2");
            for (const auto sample : table.find("samples")) {
                if (sample.find("key").find("key").text() != key) continue;
                found = true;
                const auto change = *sample.find("changes").begin();
                CHECK(sample.find("kind").text() == "changed");
                CHECK(change.find("column").text() == "value");
                CHECK(change.find("live").text() == "1");
                CHECK(change.find("other").text() == "3");
                CHECK(change.find("delta").text() == "2");
                CHECK((*sample.find("evidence").begin()).find("maxOffset").text() == "1");
            }
        }
        CHECK(found);
        CHECK(text.find(R"({"column":"s","live":"","other":null,"delta":null})") != std::string::npos);
    }
    SUBCASE("CSV") {
        const auto text = written(diff, DiffFormat::csv);
        const auto rows = read_csv(text);
        REQUIRE(rows.size() == 5);
        CHECK(rows[0] ==
              std::vector<std::string>{"table", "kind", "key", "column", "live", "other", "delta", "evidence"});
        std::string cell = R"({"key":)";
        json::append_string(cell, key);
        cell += '}';
        CHECK(std::find(rows.begin(), rows.end(),
                        std::vector<std::string>{"totals", "changed", cell, "value", "1", "3", "2", "0:1-1"}) !=
              rows.end());
        CHECK(text.find("s,\"\",,,\n") != std::string::npos);  // an empty text became NULL
    }
    SUBCASE("a table for people") {
        const auto text = written(diff, DiffFormat::table);
        CHECK(text.find(R"(key="say \"hi\",\nthen )"
                        "\xF0\x9F\x9A\x97 "
                        R"(\u001b[31m\u009b1m\u007f")") != std::string::npos);
        CHECK(text.find("key=\"null\"\n           value  1 -> 3  (+2)\n           from offsets 0:2-2\n") !=
              std::string::npos);
        CHECK(text.find("s  \"\" -> null\n") != std::string::npos);
        CHECK(text.find("s  \"null\" -> \"\"\n") != std::string::npos);
        CHECK(text.find("4 rows differ.") != std::string::npos);
    }
}

TEST_CASE("neither generation waits for the comparison, and what is written meanwhile is not in it") {
    Increments increments;
    increments.add(0, "a", "1");
    Beside beside(increments.log);
    beside.fold_all();
    increments.add(0, "a", "10");
    auto options = beside.options();
    int asked = 0;
    options.cancelled = [&] {
        // The snapshot stands: it is compared now.
        if (++asked == 1) {
            CHECK(beside.live.sessions("application_name = 'tidemark-consumer standstill'") == 0);
            CHECK(beside.live.sessions(
                      "application_name = 'tidemark-consumer diff' and state = 'idle in transaction'") == 1);
            beside.live_folding.take_all();
            CHECK(beside.live_folding.flush().outcome == Flushed::committed);
        }
        return false;
    };
    const auto diff = beside.diff(options);
    CHECK(asked == static_cast<int>(diff.tables.size()));
    CHECK(diff.vector == std::vector<std::int64_t>{2, 1});
    CHECK(diff.differing() == 0);
    CHECK(beside.live.ask("select value::text from totals") == "11");
}

TEST_CASE("generations that are folded all the while are compared at one vector") {
    Increments increments;
    for (int n = 0; n < 30'000; ++n)  // more than is folded before the last comparison ends
        increments.add(n % 2, "key " + std::to_string(n % 17), std::to_string(n));
    Beside beside(increments.log);
    // Each in its own thread, as lanes fold them: the candidate never beyond the live one.
    FoldedMeanwhile live([&, turn = 0]() mutable {
        beside.live_folding.take(turn++ % 2, 3);
        beside.live_folding.flush();
    });
    pg::Connection leader(beside.database.dsn(), {});
    beside.other_folding.take_all();
    FoldedMeanwhile other([&] {
        beside.other_folding.state().follow(find_progress(leader, "counters"));
        beside.other_folding.flush();
    });
    pg::Connection watcher(beside.database.dsn(), {});
    std::vector<std::int64_t> last{0, 0};
    for (int n = 0; n < 5; ++n) {
        CHECK(eventually([&] { return find_progress(watcher, "counters") > last; }));
        const auto diff = beside.diff();
        CHECK(diff.differing() == 0);
        CHECK(diff.vector > last);
        last = diff.vector;
    }
    CHECK(find_progress(watcher, "counters") < std::vector{increments.log.end(0), increments.log.end(1)});
}

TEST_CASE("a generation that nobody folds is late") {
    Increments increments;
    increments.add(0, "a", "1");
    Beside beside(increments.log);
    beside.live_folding.take_all();
    REQUIRE(beside.live_folding.flush().outcome == Flushed::committed);
    auto options = beside.options();
    options.timeout = 100ms;
    CHECK_THROWS_AS(beside.diff(options), Standstill::Late);
    // And the live one goes on.
    increments.add(0, "a", "1");
    beside.live_folding.take_all();
    CHECK(beside.live_folding.flush().outcome == Flushed::committed);
}

TEST_CASE("generations that changed places before they are compared are refused, not taken for each other") {
    Increments increments;
    Beside beside(increments.log);
    beside.fold_all();
    const auto live = beside.generation(Role::live);
    const auto other = beside.generation(Role::candidate);
    beside.promote(2);
    CHECK_THROWS_AS(compare(beside.options(), live, other), Refused);
}

TEST_CASE("generations that change places while they are compared are refused, not taken for each other") {
    Increments increments;
    increments.add(0, "a", "1");
    Beside beside(increments.log);
    beside.fold_all();
    std::function<void()> meanwhile;
    SUBCASE("with each other") {
        meanwhile = [&] { beside.promote(2); };
    }
    SUBCASE("and are forgotten") {
        meanwhile = [&] {
            beside.promote(2);
            beside.live.execute("delete from tidemark.generations where generation = 1");
        };
    }
    SUBCASE("with a third, whose tables get the live one's name") {
        beside.database.make_generation(*find_projection("counters"), 2);
        meanwhile = [&] { beside.promote(3); };
    }
    auto options = beside.options();
    int asked = 0;
    options.cancelled = [&] {
        if (++asked == 2) meanwhile();
        return false;
    };
    CHECK_THROWS_AS(beside.diff(options), Refused);
    CHECK(asked >= 2);
}

TEST_CASE("how far a comparison is is told from its first table to its last") {
    Increments increments;
    Beside beside(increments.log);
    beside.fold_all();
    std::vector<std::pair<std::int64_t, std::int64_t>> told;
    auto options = beside.options();
    options.on_progress = [&](std::int64_t done, std::int64_t total) { told.emplace_back(done, total); };
    const auto diff = beside.diff(options);
    REQUIRE(told.size() == diff.tables.size() + 1);
    CHECK(told.front().first == 0);
    CHECK(told.back().first == told.back().second);
    CHECK(told.back().second > 0);
    CHECK(std::is_sorted(told.begin(), told.end()));
}

TEST_CASE("a comparison that is cancelled ends before the next table") {
    Increments increments;
    Beside beside(increments.log);
    beside.fold_all();
    auto options = beside.options();
    options.cancelled = [] { return true; };
    CHECK_THROWS_AS(beside.diff(options), std::runtime_error);
}
