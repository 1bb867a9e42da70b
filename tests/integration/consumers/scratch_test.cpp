#include "consumers/scratch.h"

#include "consumers/diff.h"
#include "consumers/projections.h"
#include "consumers/swap.h"
#include "schemas/base64.h"
#include "tests/integration/consumers/random_log.h"
#include "tests/integration/consumers/scratch.h"

#include <doctest/doctest.h>

#include <optional>
#include <set>
#include <sstream>
#include <string>
#include <vector>

using namespace tidemark;
using consumers::digest_of;
using consumers::find_generations;
using consumers::find_projection;
using consumers::Flushed;
using consumers::fold_file;
using consumers::Generation;
using consumers::Refused;
using consumers::Role;
using consumers::ScratchOptions;
using consumers::ScratchReport;
using tidemark::tests::difference;
using tidemark::tests::FakeLog;
using tidemark::tests::Folding;
using tidemark::tests::RandomLog;
using tidemark::tests::ScratchDatabase;
using tidemark::tests::Tables;

namespace {

void append_bytes(std::string& out, const std::optional<std::string>& bytes) {
    out += bytes ? "\"" + schemas::to_base64(*bytes) + "\"" : "null";
}

std::string line_of(const char* stream, const FakeLog& log, std::int32_t partition, const FakeLog::Entry& entry) {
    std::string line = std::string(R"({"record":")") + stream + R"(","position":")" + std::to_string(partition) + ":" +
                       std::to_string(entry.offset) + R"(","partitions":)" + std::to_string(log.partitions()) +
                       R"(,"appended":")" + schemas::format_instant(entry.append_time) + R"(","key":)";
    append_bytes(line, entry.key);
    line += R"(,"value":)";
    append_bytes(line, entry.value);
    line += R"(,"headers":[)";
    for (const auto& [name, value] : entry.headers) {
        if (line.back() != '[') line += ',';
        line += R"({"name_base64":")" + schemas::to_base64(name) + R"(","value":)";
        append_bytes(line, value);
        line += '}';
    }
    return line + "]}\n";
}

// One partition after the other, or a record of each in turn.
std::string file_of(const char* stream, const FakeLog& log, bool in_turn) {
    std::vector<std::vector<std::string>> lines;
    std::size_t longest = 0;
    for (std::int32_t partition = 0; partition < log.partitions(); ++partition) {
        auto& all = lines.emplace_back();
        for (const auto* entry = log.find(partition, 0); entry != nullptr;
             entry = log.find(partition, entry->offset + 1))
            all.push_back(line_of(stream, log, partition, *entry));
        longest = std::max(longest, all.size());
    }
    std::string text;
    for (std::size_t n = 0; in_turn && n < longest; ++n) {
        for (const auto& partition : lines)
            text += n < partition.size() ? partition[n] : "";
    }
    for (const auto& partition : lines) {
        for (std::size_t n = 0; !in_turn && n < partition.size(); ++n)
            text += partition[n];
    }
    return text;
}

// Ends every partition with a record: of a gap behind the last one no file knows.
FakeLog ended(FakeLog log) {
    for (std::int32_t partition = 0; partition < log.partitions(); ++partition)
        log.append(partition, "end", "end", base::Timestamp{std::chrono::seconds(1'900'000'000)});
    return log;
}

ScratchReport fold(const ScratchDatabase& database, const char* stream, const std::string& text,
                   ScratchOptions options = {}) {
    options.owner_dsn = database.dsn();
    std::istringstream lines(text);
    return fold_file(options, *find_projection(stream), lines);
}

std::optional<Generation> scratch_of(const ScratchDatabase& database, const char* stream) {
    pg::Connection connection(database.dsn(), {});
    for (auto& one : find_generations(connection, *find_projection(stream))) {
        if (one.role == Role::scratch) return one;
    }
    return std::nullopt;
}

std::string schemas_of(const ScratchDatabase& database) {
    pg::Connection connection(database.dsn(), {});
    return std::string(connection.begin()
                           .run_script("select coalesce(string_agg(nspname, ' ' order by nspname), '') "
                                       "from pg_namespace where nspname ~ '^(counters|vehicles)'")
                           .text(0, 0));
}

void make_live(ScratchDatabase& database, const char* stream, std::int32_t partitions) {
    database.make_generation(*find_projection(stream), partitions, Role::live);
}

}  // namespace

TEST_CASE("a file of a whole log makes its tables, and one digest in any cut, order and database") {
    for (const auto* stream : {"counters", "vehicles"}) {
        for (const std::uint64_t seed : {1, 2, 3}) {
            CAPTURE(stream);
            CAPTURE(seed);
            const auto log = ended(RandomLog(seed, std::string_view(stream) == "counters", 3, 150).log());
            ScratchDatabase database;
            const auto live = database.make_generation(*find_projection(stream), 3, Role::live);
            Folding folding(database.dsn(), live, log);
            folding.take_all();
            REQUIRE(folding.flush().outcome == Flushed::committed);
            const auto expected = Tables(database, live).all();

            ScratchOptions keeping;
            keeping.keep = true;
            const auto whole = fold(database, stream, file_of(stream, log, false), keeping);
            REQUIRE(whole.complete);
            CHECK(whole.parked.size() > 3);
            CHECK(whole.duplicates > 0);
            const auto kept = scratch_of(database, stream);
            REQUIRE(kept);
            CHECK(kept->target.generation == whole.generation);
            CHECK(kept->schema == whole.schema);
            Tables tables(database, kept->target);
            CHECK(difference(expected, tables.all()) == "");
            CHECK(tables.conserved());
            // The live tables say the same, although they stand elsewhere under another number.
            {
                pg::Connection connection(database.dsn(), {});
                auto tx = connection.begin_snapshot();
                auto generation = *kept;
                generation.schema = stream;
                CHECK(whole.digest.ends_with("-" + digest_of(tx, generation)));
            }

            ScratchDatabase other;
            make_live(other, stream, 8);
            for (const auto& [records, bytes, in_turn] : {std::tuple(std::size_t{1}, std::size_t{1} << 20, true),
                                                          {7, std::size_t{1} << 20, false},
                                                          {100, 700, true}}) {
                ScratchOptions options;
                options.records = records;
                options.bytes = bytes;
                const auto again = fold(other, stream, file_of(stream, log, in_turn), options);
                CHECK(again.digest == whole.digest);
                CHECK(again.parked == whole.parked);
            }
            CHECK(schemas_of(other) == stream);
        }
    }
}

TEST_CASE("a part of a log begins where its first records stood, with nothing missing before them") {
    auto log = ended(RandomLog(5, true, 2, 120).log());
    log.delete_before(0, 20);
    log.delete_before(1, 30);
    ScratchDatabase database;
    make_live(database, "counters", 2);
    ScratchOptions keeping;
    keeping.keep = true;
    const auto report = fold(database, "counters", file_of("counters", log, true), keeping);
    Tables tables(database, scratch_of(database, "counters")->target);
    CHECK(tables.conserved());
    CHECK(tables.ask("select string_agg(first_offset::text, ' ' order by partition) from offsets") ==
          std::to_string(log.find(0, 0)->offset) + " " + std::to_string(log.find(1, 0)->offset));
    CHECK(std::to_string(report.records) == tables.ask("select sum(applied + duplicates + parked)::text from offsets"));
}

TEST_CASE("a digest is another one when anything of any table is") {
    for (const auto* stream : {"counters", "vehicles"}) {
        CAPTURE(stream);
        const auto log = ended(RandomLog(2, std::string_view(stream) == "counters", 2, 150).log());
        ScratchDatabase database;
        make_live(database, stream, 2);
        ScratchOptions keeping;
        keeping.keep = true;
        fold(database, stream, file_of(stream, log, false), keeping);
        const auto generation = *scratch_of(database, stream);
        const auto digest_after = [&](const std::string& change) {
            pg::Connection connection(database.dsn(), tests::session_options(database.dsn(), generation.target));
            auto tx = connection.begin();
            if (!change.empty()) REQUIRE(tx.run_script(change).affected() > 0);
            return digest_of(tx, generation);
        };
        const auto digest = digest_after("");
        // Of no matter: who writes, where windows begin that are all kept, and in which words a letter says what is
        // wrong.
        CHECK(digest_after("update offsets set owner = 'x', epoch = 77, generation = 99, as_of = now()") == digest);
        CHECK(digest_after("update dead_letters set detail = detail || '.'") == digest);
        const auto one_of = [](const std::string& table, const std::string& change) {
            return "update " + table + " set " + change + " where ctid = (select min(ctid) from " + table + ")";
        };
        std::vector<std::string> changes{one_of("dead_letters", "reason = 'tombstone.'"),
                                         one_of("dead_letters", "note = 'x'"),
                                         one_of("dead_letters", "value = '\\x00'"),
                                         one_of("dead_letters", "header_values = '{x}', header_names = '{y}'"),
                                         one_of("offsets", "duplicates = duplicates + 1, applied = applied - 1"),
                                         one_of("offsets", "log_time = log_time + interval '1 microsecond'"),
                                         one_of("imports", "lines = lines || '\\x01'"),
                                         "delete from imports where ctid = (select min(ctid) from imports)"};
        if (std::string_view(stream) == "counters") {
            changes.push_back(one_of("totals", "value = value + 1"));
            changes.push_back(one_of("totals", "updated_at = updated_at + interval '1 microsecond'"));
            changes.push_back(one_of("windows", "max_offset = max_offset + 1"));
            changes.push_back("delete from windows where ctid = (select min(ctid) from windows)");
            changes.push_back(one_of("windows", "count = count + 1"));
        } else {
            changes.push_back(one_of("vehicles", "state = null"));
            changes.push_back(one_of("history", "recorded_at = recorded_at + interval '1 microsecond'"));
            changes.push_back("delete from history where ctid = (select min(ctid) from history)");
            changes.push_back(one_of("transitions", "count = count + 1"));
        }
        std::set<std::string> digests{digest};
        for (const auto& change : changes) {
            CAPTURE(change);
            CHECK(digests.insert(digest_after(change)).second);
        }
    }
}

TEST_CASE("a scratch is gone when its file is refused, the fold is told to stop, or somebody has dropped it") {
    const auto log = RandomLog(4, true, 2, 60).log();
    const auto text = file_of("counters", log, false);
    ScratchDatabase database;
    make_live(database, "counters", 2);
    ScratchOptions options;
    options.records = 10;
    int flushes = 0;

    options.on_progress = [&](const ScratchReport& report) {
        flushes += 1;
        CHECK(schemas_of(database) == "counters " + report.schema);
    };
    CHECK_THROWS_WITH_AS(fold(database, "counters", text + "{\n", options), doctest::Contains("line 63: "), Refused);
    CHECK(flushes > 3);
    CHECK(schemas_of(database) == "counters");

    options.cancelled = [&] { return flushes > 5; };
    const auto stopped = fold(database, "counters", text, options);
    CHECK_FALSE(stopped.complete);
    CHECK(stopped.digest.empty());
    CHECK(schemas_of(database) == "counters");

    options.cancelled = [] { return false; };
    options.keep = true;
    options.on_progress = [&](const ScratchReport& report) {
        if (schemas_of(database) != "counters")
            consumers::drop_generation(database.dsn(), *find_projection("counters"), report.generation);
    };
    CHECK_THROWS_WITH_AS(fold(database, "counters", text, options), doctest::Contains("was dropped meanwhile"),
                         Refused);
    CHECK(schemas_of(database) == "counters");
    CHECK_FALSE(scratch_of(database, "counters"));
}

TEST_CASE("an empty file comes to nothing") {
    ScratchDatabase database;
    make_live(database, "counters", 2);
    const auto report = fold(database, "counters", "\n");
    CHECK(report.complete);
    CHECK(report.digest.starts_with("0-0-0-"));
}

TEST_CASE(
    "a stream that is not registered, and a registry that knows no scratch, are refused until they are migrated") {
    ScratchDatabase database;
    CHECK_THROWS_WITH_AS(fold(database, "counters", ""), doctest::Contains("migrate"), Refused);
    make_live(database, "counters", 2);
    pg::Connection connection(database.dsn(), {});
    connection.run_script(
        "alter table tidemark.generations drop constraint generations_status_check;"
        "alter table tidemark.generations add constraint generations_status_check "
        "check (status in ('building', 'candidate', 'live', 'retired'))");
    CHECK_THROWS_WITH_AS(fold(database, "counters", ""), doctest::Contains("migrate"), Refused);
    CHECK(schemas_of(database) == "counters");
    connection.run_script(std::string(schemas::sql("registry")));
    CHECK(fold(database, "counters", "").complete);
}
