#include "consumers/verify.h"

#include "consumers/projections.h"
#include "tests/integration/consumers/random_log.h"
#include "tests/integration/consumers/scratch.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <chrono>
#include <functional>
#include <optional>
#include <string>
#include <utility>

using namespace tidemark;
using namespace tidemark::consumers;
using tests::EventSketch;
using tests::FakeLog;
using tests::FakeSource;
using tests::Folding;
using tests::ScratchDatabase;
using tests::Tables;

namespace {

constexpr base::Timestamp kAppended{std::chrono::seconds(1'700'000'000)};

void increment(FakeLog& log, const std::string& key) {
    log.append(0, key, EventSketch{tests::kIncremented, tests::increment_data(key, "1"), {}, {}}.text(), kAppended);
}

Generation registered(const ScratchDatabase& database, int number) {
    pg::Connection connection(database.dsn(), {});
    auto all = find_generations(connection, *find_projection("counters"));
    return *std::find_if(all.begin(), all.end(), [&](const auto& one) { return one.target.generation == number; });
}

/// Does something before it begins to read, the first and the second time.
class Hooked final : public kafka::RecordSource {
public:
    Hooked(
        FakeLog& log, std::function<void()> first, std::function<void()> second,
        std::function<bool()> is_silent = [] { return false; })
        : source_(log), first_(std::move(first)), second_(std::move(second)), is_silent_(std::move(is_silent)) {
        source_.grant({0});
    }
    kafka::Polled poll(std::chrono::milliseconds timeout) override {
        if (is_silent_()) return kafka::Nothing{};
        return source_.poll(timeout);
    }
    void assign(std::span<const kafka::Start> starts) override {
        std::exchange(first_, std::exchange(second_, [] {}))();
        source_.assign(starts);
    }
    void unassign() override { source_.unassign(); }
    void pause() override { source_.pause(); }
    void resume() override { source_.resume(); }
    void report_progress(std::span<const kafka::Start>) noexcept override {}

private:
    FakeSource source_;
    std::function<void()> first_;
    std::function<void()> second_;
    std::function<bool()> is_silent_;  // though there is something to be read
};

/// Looks whether vacuum is kept from its work.
class Observer {
public:
    explicit Observer(const ScratchDatabase& database) : connection_(database.dsn(), {}) {}
    bool sees_snapshot() {
        return connection_
            .run({"sees_snapshot",
                  "select exists (select 1 from pg_stat_activity where application_name = 'tidemark-consumer verify' "
                  "and datname = current_database() and (backend_xmin is not null or backend_xid is not null))"})
            .boolean(0, 0);
    }

private:
    pg::Connection connection_;
};

/// A log with one event, which the live generation has folded.
struct Live {
    Live() {
        tests::identify(log);
        increment(log, "a");
        fold();
        options.dsn = database.dsn();
    }
    void fold() {
        folding.take_all();
        folding.flush();
    }

    ScratchDatabase database;
    FakeLog log{1};
    Target target = database.make_generation(*find_projection("counters"), 1, Role::live);
    Folding folding{database.dsn(), target, log};
    VerifyOptions options;
};

}  // namespace

TEST_CASE_FIXTURE(Live, "tables that became another generation's while they were compared are refused") {
    // A snapshot freezes rows and not names: the other generation's tables were compared, and found equal or not.
    const auto other = database.make_generation(*target.projection, 1);
    Tables tables(database, target);

    const auto generation = registered(database, target.generation);
    Hooked source(
        log,
        [&] {  // when it begins to read: there is more to be read when it looks again
            increment(log, "a");
            fold();
        },
        [&] {  // within the snapshot
            tables.execute("alter schema counters rename to counters_old; alter schema counters_" +
                           std::to_string(other.generation) +
                           " rename to counters; update tidemark.generations set status = 'retired', schema_name = "
                           "'counters_old' where generation = " +
                           std::to_string(target.generation) +
                           "; update tidemark.generations set status = 'live', schema_name = 'counters' where "
                           "generation = " +
                           std::to_string(other.generation) + "; update tidemark.streams set swaps = swaps + 1");
        });
    CHECK_THROWS_WITH_AS(static_cast<void>(verify(options, generation, source)), doctest::Contains("verify it again"),
                         Refused);

    Hooked again(
        log, [] {}, [] {});
    CHECK(verify(options, registered(database, target.generation), again).differing() == 0);
    Hooked candidate(
        log, [] {}, [] {});
    CHECK(verify(options, registered(database, other.generation), candidate).differing() == 0);
}

TEST_CASE_FIXTURE(Live, "what is folded while the log is read is verified, too") {
    Hooked source(
        log,
        [&] {
            increment(log, "b");
            fold();
        },
        [&] {
            increment(log, "c");  // beyond the snapshot
            fold();
        });
    const auto found = verify(options, registered(database, target.generation), source);
    CHECK(found.differing() == 0);
    CHECK(found.vector == std::vector<std::int64_t>{3});
    CHECK(found.tables.front().rows_live == 2);
}

TEST_CASE_FIXTURE(Live, "what was folded while the log was read is read without a snapshot when it is much") {
    constexpr int kMany = 20'000;
    Observer observer(database);
    int polls = 0;
    int looks = 0;
    int seen = 0;
    Hooked source(
        log,
        [&] {
            for (int n = 0; n < kMany; ++n)
                increment(log, "a");
            fold();
        },
        [] {},
        [&] {
            if (++polls % 100 == 0) {
                ++looks;
                seen += observer.sees_snapshot() ? 1 : 0;
            }
            return false;
        });
    const auto found = verify(options, registered(database, target.generation), source);
    CHECK(found.differing() == 0);
    CHECK(found.vector == std::vector<std::int64_t>{kMany + 2});
    CHECK(looks >= kMany / 100);
    CHECK(seen == 0);
}

TEST_CASE_FIXTURE(Live, "a log that does not come is not waited for in a snapshot") {
    Observer observer(database);
    using Instant = std::chrono::steady_clock::time_point;
    std::optional<Instant> first;
    Instant last;
    options.timeout = std::chrono::seconds(10);
    Hooked source(
        log,
        [&] {
            increment(log, "b");
            fold();
        },
        [] {},
        [&] {  // it does as long as nothing is held for it
            if (!observer.sees_snapshot()) return false;
            last = std::chrono::steady_clock::now();
            if (!first) first = last;
            return true;
        });
    const auto found = verify(options, registered(database, target.generation), source);
    CHECK(found.differing() == 0);
    CHECK(found.vector == std::vector<std::int64_t>{3});
    REQUIRE(first);
    CHECK(last - *first < std::chrono::seconds(5));
}
