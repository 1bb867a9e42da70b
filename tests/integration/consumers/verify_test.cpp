#include "consumers/verify.h"

#include "consumers/projections.h"
#include "tests/integration/consumers/random_log.h"
#include "tests/integration/consumers/scratch.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <chrono>
#include <functional>
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

/// Does something before it hands out the record or end at an offset.
class Hooked final : public kafka::RecordSource {
public:
    Hooked(FakeLog& log, std::function<void()> first, std::function<void()> second)
        : source_(log), first_(std::move(first)), second_(std::move(second)) {
        source_.grant({0});
    }
    kafka::Polled poll(std::chrono::milliseconds timeout) override { return source_.poll(timeout); }
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
};

}  // namespace

TEST_CASE("tables that became another generation's while they were compared are refused") {
    // A snapshot freezes rows and not names: the other generation's tables were compared, and found equal or not.
    ScratchDatabase database;
    const auto& projection = *find_projection("counters");
    FakeLog log(1);
    tests::identify(log);
    increment(log, "a");
    const auto live = database.make_generation(projection, 1, Role::live);
    const auto other = database.make_generation(projection, 1);
    Folding folding(database.dsn(), live, log);
    folding.take_all();
    folding.flush();
    Tables tables(database, live);

    VerifyOptions options;
    options.dsn = database.dsn();
    const auto generation = registered(database, live.generation);
    Hooked source(
        log,
        [&] {  // when it begins to read: there is more to be read when it looks again
            increment(log, "a");
            folding.take_all();
            folding.flush();
        },
        [&] {  // within the snapshot
            tables.execute("alter schema counters rename to counters_old; alter schema counters_" +
                           std::to_string(other.generation) +
                           " rename to counters; update tidemark.generations set status = 'retired', schema_name = "
                           "'counters_old' where generation = " +
                           std::to_string(live.generation) +
                           "; update tidemark.generations set status = 'live', schema_name = 'counters' where "
                           "generation = " +
                           std::to_string(other.generation) + "; update tidemark.streams set swaps = swaps + 1");
        });
    CHECK_THROWS_WITH_AS(static_cast<void>(verify(options, generation, source)), doctest::Contains("verify it again"),
                         Refused);

    Hooked again(
        log, [] {}, [] {});
    CHECK(verify(options, registered(database, live.generation), again).differing() == 0);
    Hooked candidate(
        log, [] {}, [] {});
    CHECK(verify(options, registered(database, other.generation), candidate).differing() == 0);
}

TEST_CASE("what is folded while the log is read is verified, too") {
    ScratchDatabase database;
    FakeLog log(1);
    tests::identify(log);
    increment(log, "a");
    const auto target = database.make_generation(*find_projection("counters"), 1, Role::live);
    Folding folding(database.dsn(), target, log);
    folding.take_all();
    folding.flush();
    VerifyOptions options;
    options.dsn = database.dsn();
    Hooked source(
        log,
        [&] {
            increment(log, "b");
            folding.take_all();
            folding.flush();
        },
        [&] {
            increment(log, "c");  // beyond the snapshot
            folding.take_all();
            folding.flush();
        });
    const auto found = verify(options, registered(database, target.generation), source);
    CHECK(found.differing() == 0);
    CHECK(found.vector == std::vector<std::int64_t>{3});
    CHECK(found.tables.front().rows_live == 2);
}
