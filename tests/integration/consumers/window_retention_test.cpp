#include "consumers/flush.h"
#include "consumers/generation.h"
#include "consumers/offset_store.h"
#include "consumers/projections.h"
#include "consumers/verify.h"
#include "schemas/instant.h"
#include "tests/integration/consumers/random_log.h"
#include "tests/integration/consumers/scratch.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <future>
#include <numeric>
#include <random>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

using namespace std::chrono_literals;
using namespace tidemark;
using namespace tidemark::consumers;
using schemas::format_instant;
using test::eventually;
using tests::difference;
using tests::EventSketch;
using tests::FakeLog;
using tests::FakeSource;
using tests::Folding;
using tests::RandomLog;
using tests::ScratchDatabase;
using tests::session_options;
using tests::Tables;

namespace {

constexpr Timestamp kAppended{1'700'000'000s};
constexpr std::size_t kBite = 7;

std::string windows_of(const Target& target) {
    return target.projection->stream().name == "counters" ? "windows" : "transitions";
}

// As one consumer of these partitions does it, to the end or with some left over.
void drop(Folding& folding, const std::vector<Claim>& claims, Timestamp from, int bites) {
    for (; bites > 0; --bites) {
        auto tx = folding.connection().begin();
        REQUIRE(folding.store().hold(tx, claims));
        const auto rows =
            OffsetStore::drop_windows(tx, *folding.target().projection->drop_windows(), claims, from, kBite);
        REQUIRE(rows <= kBite);
        tx.commit();
        if (rows < kBite) return;
    }
}

// What a second way of counting finds different in the tables; empty: nothing.
std::string counted_again(const ScratchDatabase& database, const Target& target, const RandomLog& random,
                          std::int64_t memory) {
    pg::Connection connection(database.dsn(), {});
    VerifyOptions options;
    options.dsn = database.dsn();
    options.memory = memory;
    auto log = random.log();
    const auto all = find_generations(connection, *target.projection);
    const auto& generation = *std::find_if(all.begin(), all.end(),
                                           [&](const auto& one) { return one.target.generation == target.generation; });
    FakeSource source(log);
    std::vector<std::int32_t> partitions(static_cast<std::size_t>(target.partitions));
    std::iota(partitions.begin(), partitions.end(), 0);
    source.grant(partitions);
    const auto found = verify(options, generation, source);
    std::ostringstream text;
    if (found.differing() > 0) write_diff(found, DiffFormat::table, text);
    return text.str();
}

// Whatever moves the cut when: the tables are those that nothing was ever dropped of, without the windows before it.
void check_that_only_windows_before_the_cut_go(const char* stream) {
    constexpr std::int32_t kPartitions = 3;
    ScratchDatabase database;
    std::int64_t dropped = 0;
    std::int64_t late = 0;
    for (std::uint64_t seed = 1; seed <= 8; ++seed) {
        CAPTURE(seed);
        const auto& projection = *find_projection(stream);
        const RandomLog random(seed, std::string_view(stream) == "counters", kPartitions, 150);
        std::mt19937_64 dice(seed);
        const auto below = [&](int bound) { return static_cast<int>(dice() % static_cast<std::uint64_t>(bound)); };

        const auto kept = database.make_generation(projection, kPartitions);
        Folding whole(database.dsn(), kept, random.log());
        whole.take_all();
        CHECK(whole.flush().late == 0);

        const auto cut = database.make_generation(projection, kPartitions);
        Folding pieces(database.dsn(), cut, random.log());
        auto from = schemas::window_start(kAppended - 48h);
        while (!pieces.has_taken_all()) {
            const auto choice = below(100);
            if (choice < 60) {
                pieces.take(below(kPartitions), 1 + below(12));
            } else if (choice < 85) {
                late += pieces.flush().late;
            } else if (choice < 90) {
                pieces.restart();
            } else {
                // Not every owner comes to it at the same time.
                auto claims = pieces.state().claims();
                std::shuffle(claims.begin(), claims.end(), dice);
                claims.resize(static_cast<std::size_t>(below(kPartitions)) + 1);
                from += 10s * below(5'000);
                pieces.store().move_windows(pieces.connection(), claims, from);
                drop(pieces, claims, from, below(3));
            }
        }
        late += pieces.flush().late;
        const auto windows_from = pieces.store().windows(pieces.connection()).from;
        if (!windows_from) continue;

        // Whatever is still to be deleted is no difference, however few rows fit into memory.
        REQUIRE(counted_again(database, cut, random, 1 << 30) == "");
        REQUIRE(counted_again(database, cut, random, 60'000) == "");
        // It never moves back.
        pieces.store().move_windows(pieces.connection(), pieces.state().claims(), kAppended - 1'000h);
        CHECK(pieces.store().windows(pieces.connection()).from == windows_from);
        pieces.store().move_windows(pieces.connection(), pieces.state().claims(), *windows_from);
        drop(pieces, pieces.state().claims(), *windows_from, 1'000);
        Tables expected(database, kept);
        const auto before =
            "delete from " + windows_of(cut) + " where window_start < '" + format_instant(*windows_from) + "'";
        dropped +=
            std::stoll(expected.ask("with gone as (" + before + " returning 1) select count(*)::text from gone"));
        expected.execute(before);
        Tables actual(database, cut);
        CHECK(actual.conserved());
        REQUIRE(difference(expected.all(), actual.all()) == "");
        REQUIRE(counted_again(database, cut, random, 1 << 30) == "");
    }
    // The logs have to contain what it is about.
    CHECK(dropped > 50);
    CHECK(late > 10);
}

void increment(FakeLog& log, const std::string& key, std::chrono::seconds ago) {
    log.append(0, key, EventSketch{tests::kIncremented, tests::increment_data(key, "1"), kAppended - ago, {}}.text(),
               kAppended);
}

}  // namespace

TEST_CASE("of the counters only windows before the cut go, whenever it moves and whatever comes late") {
    check_that_only_windows_before_the_cut_go("counters");
}

TEST_CASE("of the vehicles only transitions before the cut go, whenever it moves and whatever comes late") {
    check_that_only_windows_before_the_cut_go("vehicles");
}

TEST_CASE("a flush under way keeps the cut from moving, and the next one heeds it") {
    ScratchDatabase database;
    FakeLog log(1);
    tests::identify(log);
    increment(log, "k", 100h);
    const auto target = database.make_generation(*find_projection("counters"), 1);
    Folding folding(database.dsn(), target, log);
    Tables tables(database, target);
    folding.take_all();
    const auto claims = folding.state().claims();
    const auto cut = schemas::window_start(kAppended - 50h);

    // A flush stopped between its fence and its commit.
    pg::Connection other(database.dsn(), session_options(database.dsn(), target));
    auto flushing = std::optional(other.begin());
    const auto seen = folding.store().advance(*flushing, folding.state().batch());
    REQUIRE(seen);
    CHECK_FALSE(seen->has_dropped(0, kAppended - 100h));
    auto moved =
        std::async(std::launch::async, [&] { folding.store().move_windows(folding.connection(), claims, cut); });
    REQUIRE(eventually([&] { return tables.sessions("wait_event_type = 'Lock'") == 1; }));
    CHECK(tables.ask("select coalesce(windows_from::text, 'none') from offsets") == "none");
    flushing.reset();
    moved.get();

    const auto report = folding.flush();
    REQUIRE(report.outcome == Flushed::committed);
    CHECK(report.late == 1);
    CHECK(report.rows == 1);
    CHECK(tables.ask("select count(*) from totals") == "1");
    CHECK(tables.ask("select count(*) from windows") == "0");
}

TEST_CASE("whoever has lost a partition neither moves its cut nor deletes its windows") {
    ScratchDatabase database;
    FakeLog log(1);
    tests::identify(log);
    increment(log, "k", 100h);
    const auto target = database.make_generation(*find_projection("counters"), 1);
    Folding folding(database.dsn(), target, log);
    Tables tables(database, target);
    folding.take_all();
    REQUIRE(folding.flush().outcome == Flushed::committed);
    const auto claims = folding.state().claims();
    tables.claim(0);
    folding.store().move_windows(folding.connection(), claims, kAppended);
    CHECK(tables.ask("select coalesce(windows_from::text, 'none') from offsets") == "none");
    auto tx = folding.connection().begin();
    CHECK_FALSE(folding.store().hold(tx, claims));
}

TEST_CASE("readers of the tables are shown no window that may be half deleted") {
    ScratchDatabase database;
    FakeLog log(2);
    tests::identify(log);
    increment(log, "k", 100h);
    increment(log, "k", 0h);
    const auto target = database.make_generation(*find_projection("counters"), 2);
    Folding folding(database.dsn(), target, log);
    Tables tables(database, target);
    folding.take_all();
    REQUIRE(folding.flush().outcome == Flushed::committed);
    CHECK(tables.ask("select count(*) from api_counter_windows") == "2");
    // The owner of the other partition has got there first, and nothing is deleted yet.
    const auto from = schemas::window_start(kAppended - 50h);
    folding.store().move_windows(folding.connection(), std::vector{folding.state().claims()[1]}, from);
    CHECK(tables.ask("select count(*) from windows") == "2");
    CHECK(tables.ask("select count(*) from api_counter_windows") == "1");
    CHECK(tables.ask("select windows_from_us from api_progress") == std::to_string(from.time_since_epoch().count()));
}
