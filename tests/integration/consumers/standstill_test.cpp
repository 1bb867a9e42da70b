#include "consumers/standstill.h"

#include "consumers/projections.h"
#include "tests/integration/consumers/random_log.h"
#include "tests/integration/consumers/scratch.h"

#include <doctest/doctest.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <exception>
#include <functional>
#include <mutex>
#include <optional>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

using namespace std::chrono_literals;
namespace pg = tidemark::pg;
using tidemark::base::Timestamp;
using tidemark::consumers::find_generations;
using tidemark::consumers::find_progress;
using tidemark::consumers::find_projection;
using tidemark::consumers::Flushed;
using tidemark::consumers::FlushReport;
using tidemark::consumers::Generation;
using tidemark::consumers::Refused;
using tidemark::consumers::Role;
using tidemark::consumers::Standstill;
using tidemark::consumers::Target;
using tidemark::test::eventually;
using tidemark::tests::EventSketch;
using tidemark::tests::FakeLog;
using tidemark::tests::Folding;
using tidemark::tests::identify;
using tidemark::tests::increment_data;
using tidemark::tests::kIncremented;
using tidemark::tests::ScratchDatabase;
using tidemark::tests::Tables;
using Vector = std::vector<std::int64_t>;

namespace {

constexpr Timestamp kAppended{1'700'000'000s};

/// Four partitions with so many increments in each, after the identity.
FakeLog filled(int records) {
    FakeLog log(4);
    identify(log);
    for (int n = 0; n < records; ++n) {
        for (std::int32_t partition = 0; partition < 4; ++partition) {
            log.append(partition, "k", EventSketch{kIncremented, increment_data("k", "1"), kAppended, {}}.text(),
                       kAppended);
        }
    }
    return log;
}

/// A live generation and a candidate, each folded at the test's pace.
struct Beside {
    explicit Beside(int records)
        : log(filled(records)),
          live_target(database.make_generation(*find_projection("counters"), 4, Role::live)),
          follower_target(database.make_generation(*find_projection("counters"), 4, Role::candidate)),
          live_tables(database, live_target),
          follower_tables(database, follower_target),
          live(database.dsn(), live_target, log),
          follower(database.dsn(), follower_target, log) {}

    /// Takes some of each partition and writes them.
    static FlushReport fold(Folding& folding, int records) {
        for (std::int32_t partition = 0; partition < 4; ++partition)
            folding.take(partition, records);
        return folding.flush();
    }
    [[nodiscard]] Generation generation(Role role) const {
        pg::Connection connection(database.dsn(), {});
        for (auto& one : find_generations(connection, *live_target.projection)) {
            if (one.role == role) return one;
        }
        throw std::logic_error("no such generation");
    }
    [[nodiscard]] Standstill::Options options(std::chrono::milliseconds timeout = 10s) const {
        Standstill::Options options;
        options.owner_dsn = database.dsn();
        options.timeout = timeout;
        return options;
    }
    [[nodiscard]] Vector progress(const char* schema) const {
        pg::Connection connection(database.dsn(), {});
        return find_progress(connection, schema);
    }
    /// Whether a session comes to wait for a lock on offset rows.
    [[nodiscard]] bool somebody_waits() {
        return eventually([&] { return live_tables.sessions("wait_event_type = 'Lock'") > 0; });
    }

    FakeLog log;
    ScratchDatabase database;
    Target live_target;
    Target follower_target;
    Tables live_tables;
    Tables follower_tables;
    Folding live;
    Folding follower;
};

}  // namespace

TEST_CASE("both generations stand at one vector while a standstill lasts, and their writers go on after it") {
    for (const bool of_live : {true, false}) {
        CAPTURE(of_live);
        Beside both(10);
        REQUIRE(Beside::fold(both.live, 3).outcome == Flushed::committed);
        REQUIRE(Beside::fold(both.follower, 3).outcome == Flushed::committed);
        std::optional<Standstill> standstill(std::in_place, both.options(), both.generation(Role::live),
                                             both.generation(Role::candidate));
        const auto stood_at = standstill->vector();
        CHECK(stood_at == Vector{3, 3, 3, 3});
        FlushReport report;
        std::thread writer([&] { report = Beside::fold(of_live ? both.live : both.follower, 1); });
        CHECK(both.somebody_waits());
        CHECK(both.progress("counters") == stood_at);
        CHECK(both.progress("counters_2") == stood_at);
        standstill.reset();
        writer.join();
        CHECK(report.outcome == Flushed::committed);
    }
}

TEST_CASE("a standstill waits for the live writer's transaction and for the follower to come up to it") {
    Beside both(10);
    REQUIRE(Beside::fold(both.live, 3).outcome == Flushed::committed);
    REQUIRE(Beside::fold(both.follower, 3).outcome == Flushed::committed);
    pg::Connection writer(both.database.dsn(), {});
    std::optional<pg::Transaction> writing(writer.begin());
    writing->run_script("update counters.offsets set next_offset = 5 where partition = 2");
    Vector stood_at;
    std::atomic<bool> stands = false;
    std::thread thread([&] {
        const Standstill standstill(both.options(), both.generation(Role::live), both.generation(Role::candidate));
        stood_at = standstill.vector();
        stands = true;
    });
    CHECK(both.somebody_waits());
    CHECK_FALSE(stands);
    writing->commit();
    writing.reset();
    CHECK(eventually([&] { return both.progress("counters") == Vector{3, 3, 5, 3}; }));
    CHECK_FALSE(stands);
    both.follower_tables.execute("update counters_2.offsets set next_offset = 5 where partition = 2");
    thread.join();
    CHECK(stood_at == Vector{3, 3, 5, 3});
}

TEST_CASE("readers of either generation notice nothing of a standstill") {
    Beside both(10);
    REQUIRE(Beside::fold(both.live, 3).outcome == Flushed::committed);
    REQUIRE(Beside::fold(both.follower, 3).outcome == Flushed::committed);
    const Standstill standstill(both.options(), both.generation(Role::live), both.generation(Role::candidate));
    for (auto* tables : {&both.live_tables, &both.follower_tables}) {
        tables->execute("set lock_timeout = '1ms'");
        CHECK(tables->ask("select value from api_counters where key = 'k'") == "8");
        CHECK(tables->ask("select applied from api_progress") == "3,3,3,3");
        CHECK(tables->ask("select sum(value) from api_counter_windows") == "8");
    }
}

TEST_CASE("a standstill that nobody's follower comes up for says so in time, and leaves live its turns in between") {
    Beside both(10'000);
    std::atomic<bool> enough = false;
    int committed = 0;
    std::thread thread([&] {
        while (!enough)
            committed += Beside::fold(both.live, 1).outcome == Flushed::committed ? 1 : 0;
    });
    REQUIRE(eventually([&] { return both.progress("counters")[3] > 0; }));
    auto options = both.options(2'500ms);
    options.longest = 200ms;
    const auto before = both.progress("counters")[3];
    const auto began = std::chrono::steady_clock::now();
    std::string why;
    try {
        const Standstill standstill(options, both.generation(Role::live), both.generation(Role::candidate));
    } catch (const Standstill::Late& late) {
        why = late.what();
    }
    const auto took = std::chrono::steady_clock::now() - began;
    const auto after = both.progress("counters")[3];
    enough = true;
    thread.join();
    CAPTURE(why);
    CHECK(why.find("generation 2 of counters did not come up to generation 1") != std::string::npos);
    CHECK(why.find("records were missing") != std::string::npos);
    CHECK(why.find(" 0 records") == std::string::npos);
    CHECK(why.find("Is a consumer of fingerprint") != std::string::npos);
    CHECK(why.find("tidemark-consumer generations counters") != std::string::npos);
    CHECK(took >= 2'500ms);
    CHECK(took < 3'500ms);
    CHECK(after > before + 5);
    CHECK(committed > 5);
    CHECK(both.progress("counters_2") == Vector{0, 0, 0, 0});
}

TEST_CASE("a standstill that is cancelled is given up without waiting for its time") {
    Beside both(10);
    REQUIRE(Beside::fold(both.live, 3).outcome == Flushed::committed);
    std::atomic<int> asked = 0;
    auto options = both.options(60s);
    options.longest = 50ms;
    options.cancelled = [&] { return ++asked > 3; };
    const auto began = std::chrono::steady_clock::now();
    CHECK_THROWS_AS(Standstill(options, both.generation(Role::live), both.generation(Role::candidate)),
                    Standstill::Late);
    CHECK(std::chrono::steady_clock::now() - began < 2s);
    CHECK(Beside::fold(both.live, 1).outcome == Flushed::committed);
}

TEST_CASE("a standstill that began while another one swapped the generations is refused, not taken for the old pair") {
    Beside both(10);
    REQUIRE(Beside::fold(both.live, 3).outcome == Flushed::committed);
    REQUIRE(Beside::fold(both.follower, 3).outcome == Flushed::committed);
    const auto live = both.generation(Role::live);
    const auto follower = both.generation(Role::candidate);
    Standstill first(both.options(), live, follower);
    std::exception_ptr thrown;
    std::thread second([&] {
        try {
            const Standstill standstill(both.options(), live, follower);
        } catch (...) {
            thrown = std::current_exception();
        }
    });
    CHECK(both.somebody_waits());
    first.transaction().run_script(
        "alter schema counters rename to counters_1; alter schema counters_2 rename to counters;"
        "update tidemark.generations set status = 'retired', schema_name = 'counters_1' where generation = 1;"
        "update tidemark.generations set status = 'live', schema_name = 'counters' where generation = 2;"
        "update tidemark.streams set swaps = swaps + 1");
    first.transaction().commit();
    second.join();
    REQUIRE(thrown);
    CHECK_THROWS_AS(std::rethrow_exception(thrown), Refused);
}

TEST_CASE("many flushes of several partitions and many standstills never wait for each other in a circle") {
    Beside both(20'000);
    std::atomic<bool> enough = false;
    std::vector<std::string> refusals;  // of both; read when their threads are gone
    std::mutex mutex;
    const auto write = [&](Folding& folding, const std::function<void()>& look) {
        return std::thread([&, look] {
            while (!enough) {
                look();
                for (std::int32_t partition = 0; partition < 4; ++partition) {
                    if (folding.state().buffer().records() < 40) folding.take(partition, 3);
                }
                if (folding.state().batch().parts.empty()) continue;
                const auto report = folding.flush();
                if (report.outcome == Flushed::committed) continue;
                const std::lock_guard lock(mutex);
                refusals.push_back(report.error);
            }
        });
    };
    pg::Connection looking(both.database.dsn(), {});
    auto live = write(both.live, [] {});
    auto follower = write(both.follower, [&] { both.follower.state().follow(find_progress(looking, "counters")); });
    Vector last;
    for (int n = 0; n < 25; ++n) {
        const Standstill standstill(both.options(), both.generation(Role::live), both.generation(Role::candidate));
        CHECK(both.progress("counters") == standstill.vector());
        CHECK(both.progress("counters_2") == standstill.vector());
        CHECK((last.empty() || standstill.vector() >= last));
        last = standstill.vector();
    }
    enough = true;
    live.join();
    follower.join();
    for (const auto& why : refusals)
        CHECK(why.find("lock timeout") != std::string::npos);
    CHECK(last[0] > 25);
    CHECK(both.live_tables.conserved());
    CHECK(both.follower_tables.conserved());
}
