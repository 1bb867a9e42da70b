#include "consumers/stream_state.h"
#include "tests/unit/consumers/records.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

using namespace std::chrono_literals;
using tidemark::consumers::Batch;
using tidemark::consumers::Claim;
using tidemark::consumers::Flushed;
using tidemark::consumers::StreamState;
using tidemark::consumers::Timestamp;
using tidemark::kafka::Assigned;
using tidemark::kafka::EndOfPartition;
using tidemark::kafka::Revoked;
using tidemark::kafka::Start;
using tidemark::tests::record_at;
using Do = StreamState::Do;
using std::chrono::milliseconds;

namespace {

constexpr Timestamp kWall{1'700'000'000s};
constexpr Timestamp kLogTime{1'699'999'000s};

StreamState::Options options() {
    StreamState::Options options;
    options.limits.records = 10;
    return options;
}

/// A state machine with a clock beside it; what the tests say happens now.
struct Machine {
    StreamState state;
    StreamState::Instant now{1'000s};

    explicit Machine(const StreamState::Options& with = options()) : state(with) {}

    StreamState::Step next() { return state.next(now); }
    [[nodiscard]] bool paused() const { return state.paused(now); }
    void pass(std::chrono::microseconds time) { now += time; }

    void assign(std::vector<std::int32_t> partitions) { state.polled(Assigned{std::move(partitions)}, now); }
    void revoke() { state.polled(Revoked{state.partitions(), false}, now); }
    void lose() { state.polled(Revoked{state.partitions(), true}, now); }
    void record(std::int32_t partition, std::int64_t offset) { state.polled(record_at(partition, offset), now); }
    void end(std::int32_t partition, std::int64_t offset) { state.polled(EndOfPartition{partition, offset}, now); }
    std::vector<Start> claim(std::vector<Claim> claims) { return state.claimed(claims, now); }
    void log_end(Timestamp asked, std::vector<std::int64_t> ends) { state.log_end(asked, ends); }
    void flush(Flushed outcome, milliseconds took = 0ms) {
        const auto began = now;
        pass(took);
        state.flushed(outcome, began, now);
    }
    void resolve(std::vector<Claim> rows) { state.resolved(rows, now); }
    void follow(std::vector<std::int64_t> leader) { state.follow(std::move(leader)); }
    void move() { state.moved(now); }

    [[nodiscard]] std::string phase() const { return state.phase(); }
    [[nodiscard]] const StreamState::Counters& counted() const { return state.counters(); }
};

/// Consuming these partitions, each from offset 10 under epoch 5.
Machine consuming(const std::vector<std::int32_t>& partitions = {0}, const StreamState::Options& with = options()) {
    Machine machine(with);
    machine.assign(partitions);
    REQUIRE(machine.next().what == Do::claim);
    std::vector<Claim> claims;
    for (const auto partition : partitions)
        claims.push_back({partition, 10, 5, kLogTime});
    machine.claim(claims);
    return machine;
}

/// As consuming, with one record at offset 10 of partition 0 that is due.
Machine due(const std::vector<std::int32_t>& partitions = {0}) {
    auto machine = consuming(partitions);
    machine.record(0, 10);
    machine.pass(1s);
    REQUIRE(machine.next().what == Do::flush);
    return machine;
}

/// As due, with the commit of that record in doubt.
Machine in_doubt(const std::vector<std::int32_t>& partitions = {0}) {
    auto machine = due(partitions);
    machine.flush(Flushed::in_doubt);
    REQUIRE(machine.next().what == Do::resolve);
    return machine;
}

/// The one part of the batch.
Batch::Part only_part(const Machine& machine) {
    const auto batch = machine.state.batch();
    REQUIRE(batch.parts.size() == 1);
    return batch.parts[0];
}

}  // namespace

TEST_CASE("a new consumer is idle: it polls, takes nothing, has nothing to write") {
    Machine machine;
    CHECK(machine.next().what == Do::poll);
    CHECK(machine.next().timeout == 100ms);
    CHECK(machine.paused());
    CHECK(machine.phase() == "idle");
    CHECK_FALSE(machine.state.consuming());
    CHECK(machine.state.batch().parts.empty());
    CHECK(machine.state.partitions().empty());
    CHECK_FALSE(machine.state.as_of());
}

TEST_CASE("partitions given are claimed before anything is read") {
    Machine machine;
    machine.assign({2, 0});
    CHECK(machine.phase() == "claiming");
    CHECK(machine.paused());
    CHECK(machine.next().what == Do::claim);
    CHECK(machine.state.partitions() == std::vector<std::int32_t>{0, 2});
    const auto starts = machine.claim({{0, 17, 3, kLogTime}, {2, 4, 9, kLogTime}});
    CHECK(starts == std::vector<Start>{{0, 17}, {2, 4}});
    CHECK(machine.phase() == "consuming");
    CHECK(machine.state.consuming());
    CHECK_FALSE(machine.paused());
    CHECK(machine.next().what == Do::poll);
    CHECK(machine.counted().assigned == 1);
    CHECK(machine.counted().claims == 1);
    const auto claims = machine.state.claims();
    REQUIRE(claims.size() == 2);
    CHECK(claims[0].partition == 0);
    CHECK(claims[0].next_offset == 17);
    CHECK(claims[0].epoch == 3);
    CHECK(claims[0].log_time == kLogTime);
    CHECK(claims[1].epoch == 9);
}

TEST_CASE("a member that was given nothing stays idle") {
    Machine machine;
    machine.assign({});
    CHECK(machine.phase() == "idle");
    CHECK(machine.next().what == Do::poll);
    CHECK(machine.counted().assigned == 1);
}

TEST_CASE("records before the claim are stale: they are read again from the claimed offset") {
    Machine machine;
    machine.record(0, 9);
    machine.assign({0});
    machine.record(0, 10);
    machine.end(0, 30);
    CHECK(machine.counted().stale_records == 2);
    CHECK(machine.state.buffer().empty());
    machine.claim({{0, 10, 1, kLogTime}});
    machine.record(0, 9);
    machine.record(1, 9);
    machine.record(0, 10);
    CHECK(machine.counted().stale_records == 4);
    CHECK(machine.state.buffer().records() == 1);
}

TEST_CASE("a claim that failed is tried again, later and later, polling between") {
    Machine machine;
    machine.assign({0});
    for (const auto whole : {50ms, 100ms, 200ms, 400ms, 800ms, 1'600ms, 2'000ms, 2'000ms}) {
        REQUIRE(machine.next().what == Do::claim);
        machine.state.claim_failed(machine.now);
        const auto failed = machine.now;
        for (auto step = machine.next(); step.what == Do::poll; step = machine.next()) {
            REQUIRE(step.timeout > 0ms);
            REQUIRE(step.timeout <= 100ms);
            CHECK(machine.paused());
            machine.pass(step.timeout);
        }
        CHECK(machine.now - failed >= whole / 2);
        CHECK(machine.now - failed <= whole + 2ms);
    }
    machine.claim({{0, 10, 1, kLogTime}});
    machine.assign({0});
    machine.state.claim_failed(machine.now);
    machine.pass(52ms);
    CHECK(machine.next().what == Do::claim);
}

TEST_CASE("what comes after a silence waits for its companions only") {
    auto machine = consuming();
    CHECK(machine.next().timeout == 100ms);
    machine.record(0, 10);
    machine.pass(15ms);
    machine.record(0, 11);
    machine.pass(4ms);
    auto step = machine.next();
    CHECK(step.what == Do::poll);
    CHECK(step.timeout == 1ms);
    CHECK_FALSE(machine.paused());
    machine.pass(1ms);
    CHECK(machine.next().what == Do::flush);
}

TEST_CASE("in a stream that does not stop, what comes right after a flush began is in the tables an interval later") {
    auto machine = due();
    std::int64_t offset = 11;
    for (const auto took : {0ms, 1ms, 200ms, 333ms}) {
        machine.flush(Flushed::committed, took);  // now the next one is expected to take as long
        const auto begin = machine.now - took;
        machine.record(0, offset++);
        machine.pass(1s - 2 * took - 1ms);
        CHECK(machine.next().what == Do::poll);
        machine.pass(1ms);
        REQUIRE(machine.next().what == Do::flush);
        CHECK(machine.now + took == begin + 1s);
    }
}

TEST_CASE("while something is buffered no poll waits so long that a reader's wish would go unnoticed") {
    auto machine = consuming();
    machine.record(0, 10);
    CHECK(machine.next().timeout == 20ms);
}

TEST_CASE("a full buffer is due at once and takes no more") {
    auto machine = consuming();
    for (std::int64_t offset = 10; offset < 19; ++offset)
        machine.record(0, offset);
    CHECK(machine.next().what == Do::poll);
    CHECK_FALSE(machine.paused());
    machine.record(0, 19);
    CHECK(machine.paused());
    CHECK(machine.next().what == Do::flush);
    machine.flush(Flushed::committed);
    CHECK_FALSE(machine.paused());
    CHECK(machine.next().what == Do::poll);
}

TEST_CASE("a waiting reader makes what is buffered due, but not oftener than the least distance") {
    auto machine = due();
    machine.flush(Flushed::committed);
    machine.record(0, 11);
    machine.state.wanted(machine.now);
    CHECK(machine.next().what == Do::poll);
    machine.pass(49ms);
    CHECK(machine.next().what == Do::poll);
    machine.pass(1ms);
    CHECK(machine.next().what == Do::flush);
}

TEST_CASE("a reader's wish is forgotten after a while") {
    auto machine = due();
    machine.flush(Flushed::committed);
    machine.state.wanted(machine.now);
    machine.pass(999ms);
    machine.record(0, 11);
    CHECK(machine.next().what == Do::flush);
    machine.pass(1ms);
    CHECK(machine.next().what == Do::poll);
}

TEST_CASE("a batch carries the fence and the records of each partition that has something to write") {
    auto machine = consuming({0, 1, 2});
    machine.record(0, 10);
    machine.record(0, 13);
    machine.end(2, 12);
    const auto batch = machine.state.batch();
    REQUIRE(batch.parts.size() == 2);
    CHECK(batch.records() == 2);
    CHECK(batch.parts[0].partition == 0);
    CHECK(batch.parts[0].epoch == 5);
    CHECK(batch.parts[0].from == 10);
    CHECK(batch.parts[0].next == 14);
    CHECK(batch.parts[0].gaps == 2);
    CHECK(batch.parts[0].log_time == kLogTime);
    CHECK_FALSE(batch.parts[0].as_of);
    REQUIRE(batch.parts[0].records.size() == 2);
    CHECK(batch.parts[0].records[1].offset == 13);
    CHECK(batch.parts[1].partition == 2);
    CHECK(batch.parts[1].gaps == 2);
    CHECK(batch.parts[1].records.empty());
}

TEST_CASE("what was committed is not written again") {
    auto machine = due();
    machine.flush(Flushed::committed);
    CHECK(machine.state.batch().parts.empty());
    machine.record(0, 11);
    const auto part = only_part(machine);
    CHECK(part.from == 11);
    CHECK(part.next == 12);
}

TEST_CASE("the log time that a flush reached is where the next one goes on") {
    auto machine = due();
    machine.flush(Flushed::committed);
    machine.state.log_time(0, kLogTime + 5s);
    machine.state.log_time(7, kLogTime + 9s);
    machine.record(0, 11);
    CHECK(only_part(machine).log_time == kLogTime + 5s);
    CHECK(machine.state.partitions() == std::vector<std::int32_t>{0});
}

TEST_CASE("flushes begin as much earlier as they take, but not so that the database never rests") {
    auto machine = consuming();
    CHECK(machine.state.interval() == 1'000ms);
    const struct {
        milliseconds took;
        milliseconds interval;
    } cases[] = {{0ms, 1'000ms},     {100ms, 900ms},     {333ms, 667ms}, {400ms, 800ms},
                 {1'400ms, 2'800ms}, {9'000ms, 3'000ms}, {10ms, 990ms}};
    for (const auto& [took, interval] : cases) {
        machine.flush(Flushed::committed, took);
        CHECK(machine.state.interval() == interval);
    }
}

TEST_CASE("a stretched interval is what makes the next records due") {
    auto machine = due();
    machine.flush(Flushed::committed, 1'000ms);
    machine.record(0, 11);
    machine.pass(999ms);
    CHECK(machine.next().what == Do::poll);
    machine.pass(1ms);
    CHECK(machine.next().what == Do::flush);
}

TEST_CASE("an interval longer than the longest is kept as it was set") {
    auto with = options();
    with.limits.interval = 5'000ms;
    auto machine = consuming({0}, with);
    machine.flush(Flushed::committed, 4'000ms);
    CHECK(machine.state.interval() == 5'000ms);
}

TEST_CASE("a flush that failed is done again with the same records, later and later") {
    auto machine = due();
    for (const auto whole : {50ms, 100ms, 200ms, 400ms, 800ms, 1'600ms, 2'000ms}) {
        machine.flush(Flushed::failed);
        const auto failed = machine.now;
        CHECK(machine.paused());
        while (machine.next().what == Do::poll)
            machine.pass(1ms);
        REQUIRE(machine.next().what == Do::flush);
        CHECK(machine.now - failed >= whole / 2);
        CHECK(machine.now - failed <= whole);
        CHECK(only_part(machine).records.size() == 1);
    }
    CHECK(machine.counted().failed == 7);
    machine.flush(Flushed::committed);
    CHECK_FALSE(machine.paused());
    machine.record(0, 11);
    machine.pass(1s);
    machine.flush(Flushed::failed);
    machine.pass(50ms);
    CHECK(machine.next().what == Do::flush);
}

TEST_CASE("while it backs off it sleeps in polls instead of spinning") {
    auto machine = due();
    for (int i = 0; i < 8; ++i)
        machine.flush(Flushed::failed);
    int polls = 0;
    for (auto step = machine.next(); step.what == Do::poll; step = machine.next()) {
        REQUIRE(step.timeout > 0ms);
        REQUIRE(step.timeout <= 100ms);
        machine.pass(step.timeout);
        REQUIRE(++polls <= 25);
    }
    CHECK(machine.next().what == Do::flush);
}

TEST_CASE("a fenced consumer drops its buffer, waits for the group and claims again") {
    auto machine = due({0, 1});
    machine.flush(Flushed::fenced);
    CHECK(machine.phase() == "fenced");
    CHECK(machine.state.buffer().empty());
    CHECK(machine.state.batch().parts.empty());
    CHECK(machine.counted().fenced == 1);
    CHECK(machine.counted().dropped_records == 1);
    CHECK(machine.paused());
    machine.record(0, 11);
    machine.end(0, 30);
    CHECK(machine.counted().stale_records == 1);
    const auto fenced = machine.now;
    for (auto step = machine.next(); step.what == Do::poll; step = machine.next()) {
        REQUIRE(step.timeout > 0ms);
        machine.pass(step.timeout);
    }
    CHECK(machine.now - fenced >= 3'000ms);
    CHECK(machine.now - fenced <= 3'002ms);
    CHECK(machine.next().what == Do::claim);
    CHECK(machine.phase() == "claiming");
    CHECK(machine.state.partitions() == std::vector<std::int32_t>{0, 1});
    machine.claim({{0, 40, 8, kLogTime}, {1, 12, 8, kLogTime}});
    machine.record(0, 40);
    CHECK(only_part(machine).epoch == 8);
}

TEST_CASE("a fenced consumer that the group takes the partitions from does not claim them again") {
    auto machine = due();
    machine.flush(Flushed::fenced);
    machine.lose();
    CHECK(machine.next().what == Do::unassign);
    machine.state.unassigned();
    machine.pass(10s);
    CHECK(machine.next().what == Do::poll);
    CHECK(machine.phase() == "idle");
}

TEST_CASE("a commit in doubt that the rows show was committed is not repeated") {
    auto machine = in_doubt();
    CHECK(machine.phase() == "resolving");
    CHECK(machine.paused());
    machine.resolve({{0, 11, 5, kLogTime + 1s}});
    CHECK(machine.phase() == "consuming");
    CHECK(machine.state.buffer().empty());
    CHECK(machine.counted().in_doubt == 1);
    CHECK(machine.counted().in_doubt_committed == 1);
    CHECK(machine.counted().fenced == 0);
    machine.record(0, 11);
    CHECK(only_part(machine).from == 11);
    CHECK(only_part(machine).log_time == kLogTime + 1s);
}

TEST_CASE("a commit in doubt that the rows do not show is done again") {
    auto machine = in_doubt();
    machine.resolve({{0, 10, 5, kLogTime}});
    CHECK(machine.phase() == "consuming");
    CHECK(machine.counted().in_doubt_committed == 0);
    CHECK(machine.counted().fenced == 0);
    CHECK(machine.next().what == Do::flush);
    CHECK(only_part(machine).from == 10);
    CHECK(only_part(machine).records.size() == 1);
}

TEST_CASE("a commit in doubt whose rows are anything else is somebody else's affair") {
    const std::vector<std::vector<Claim>> cases{
        {{0, 11, 6, kLogTime}, {1, 10, 5, kLogTime}},  // claimed since, committed or not
        {{0, 10, 6, kLogTime}, {1, 10, 5, kLogTime}},
        {{0, 12, 5, kLogTime}, {1, 10, 5, kLogTime}},  // neither where it was nor where it was to go
        {{0, 11, 5, kLogTime}, {1, 10, 6, kLogTime}},  // a partition that had nothing to write was claimed since
        {{0, 11, 5, kLogTime}},                        // a row is gone
        {{0, 11, 5, kLogTime}, {2, 10, 5, kLogTime}},  // not what was asked for
        {},
    };
    for (const auto& rows : cases) {
        auto machine = in_doubt({0, 1});
        machine.resolve(rows);
        CHECK(machine.phase() == "fenced");
        CHECK(machine.counted().fenced == 1);
        CHECK(machine.counted().in_doubt_committed == 0);
        CHECK(machine.counted().dropped_records == 1);
        CHECK(machine.state.buffer().empty());
        CHECK(machine.next().what == Do::poll);
        machine.pass(3s);
        CHECK(machine.next().what == Do::claim);
    }
}

TEST_CASE("a commit in doubt of two partitions moved both or none") {
    for (const bool first : {false, true}) {
        auto machine = consuming({0, 1});
        machine.record(0, 10);
        machine.record(1, 10);
        machine.flush(Flushed::in_doubt);
        machine.resolve({{0, first ? 11 : 10, 5, kLogTime}, {1, first ? 10 : 11, 5, kLogTime}});
        CHECK(machine.phase() == "fenced");
    }
}

TEST_CASE("a partition that had nothing to write does not decide a commit in doubt") {
    auto machine = in_doubt({0, 1});
    machine.resolve({{0, 11, 5, kLogTime}, {1, 10, 5, kLogTime}});
    CHECK(machine.counted().in_doubt_committed == 1);
}

TEST_CASE("records that come while a commit is in doubt are kept and written after it") {
    auto machine = in_doubt();
    machine.record(0, 12);
    machine.end(0, 20);
    machine.resolve({{0, 11, 5, kLogTime}});
    const auto part = only_part(machine);
    CHECK(part.from == 11);
    CHECK(part.next == 20);
    CHECK(part.gaps == 8);
    CHECK(part.records.size() == 1);
}

TEST_CASE("reading the rows back is tried until it works") {
    auto machine = in_doubt();
    machine.state.resolve_failed(machine.now);
    CHECK(machine.next().what == Do::poll);
    CHECK(machine.phase() == "resolving");
    machine.pass(51ms);
    CHECK(machine.next().what == Do::resolve);
    machine.resolve({{0, 10, 5, kLogTime}});
    CHECK(machine.next().what == Do::flush);
}

TEST_CASE("what failed before a commit in doubt was resolved does not slow down what comes after it") {
    auto machine = in_doubt();
    for (int i = 0; i < 6; ++i)
        machine.state.resolve_failed(machine.now);
    machine.pass(2s);
    machine.resolve({{0, 10, 5, kLogTime}});
    machine.flush(Flushed::failed);
    machine.pass(50ms);
    CHECK(machine.next().what == Do::flush);
}

TEST_CASE("a revoke is answered after one flush of what is buffered") {
    for (const auto outcome : {Flushed::committed, Flushed::failed, Flushed::fenced, Flushed::in_doubt}) {
        auto machine = consuming();
        machine.record(0, 10);
        machine.revoke();
        CHECK(machine.next().what == Do::flush);
        CHECK(only_part(machine).records.size() == 1);
        machine.flush(outcome);
        CHECK(machine.next().what == Do::unassign);
        machine.state.unassigned();
        CHECK(machine.phase() == "idle");
        CHECK(machine.next().what == Do::poll);
        CHECK(machine.state.partitions().empty());
        CHECK(machine.state.buffer().parts().empty());
        CHECK(machine.state.batch().parts.empty());
        CHECK(machine.state.claims().empty());
        CHECK(machine.counted().revoked == 1);
        CHECK(machine.counted().lost == 0);
        CHECK(machine.counted().dropped_records == (outcome == Flushed::committed ? 0 : 1));
    }
}

TEST_CASE("a revoke does not wait for a back-off") {
    auto machine = due();
    for (int i = 0; i < 5; ++i)
        machine.flush(Flushed::failed);
    machine.revoke();
    CHECK(machine.next().what == Do::flush);
    machine.flush(Flushed::failed);
    CHECK(machine.next().what == Do::unassign);
}

TEST_CASE("a revoke with nothing buffered is answered at once") {
    auto machine = consuming();
    machine.revoke();
    CHECK(machine.next().what == Do::unassign);
}

TEST_CASE("a revoke is answered in every phase") {
    Machine idle;
    idle.revoke();
    CHECK(idle.next().what == Do::unassign);

    Machine claiming;
    claiming.assign({0});
    claiming.revoke();
    CHECK(claiming.next().what == Do::unassign);
    claiming.state.unassigned();
    CHECK(claiming.next().what == Do::poll);

    auto resolving = in_doubt();
    resolving.revoke();
    CHECK(resolving.next().what == Do::unassign);
    resolving.state.unassigned();
    CHECK(resolving.phase() == "idle");
}

TEST_CASE("a lost partition loses its unflushed records") {
    auto machine = due();
    machine.lose();
    CHECK(machine.state.buffer().empty());
    CHECK(machine.next().what == Do::unassign);
    machine.state.unassigned();
    CHECK(machine.counted().revoked == 1);
    CHECK(machine.counted().lost == 1);
    CHECK(machine.counted().dropped_records == 1);
    machine.assign({0});
    CHECK(machine.next().what == Do::claim);
    machine.claim({{0, 10, 6, kLogTime}});
    CHECK(machine.state.batch().parts.empty());
}

TEST_CASE("partitions lost while a commit is in doubt are simply gone") {
    auto machine = in_doubt();
    machine.lose();
    CHECK(machine.next().what == Do::unassign);
    machine.state.unassigned();
    machine.assign({0});
    machine.claim({{0, 11, 6, kLogTime}});
    machine.record(0, 11);
    CHECK(only_part(machine).from == 11);
}

TEST_CASE("a second revoke gets a flush of its own") {
    auto machine = consuming();
    machine.record(0, 10);
    machine.revoke();
    REQUIRE(machine.next().what == Do::flush);
    machine.flush(Flushed::committed);
    REQUIRE(machine.next().what == Do::unassign);
    machine.state.unassigned();
    machine.assign({0});
    machine.claim({{0, 11, 6, kLogTime}});
    machine.record(0, 11);
    machine.revoke();
    CHECK(machine.next().what == Do::flush);
}

TEST_CASE("what a member no longer owns is not claimed with the next assignment") {
    auto machine = consuming({0, 1});
    machine.revoke();
    REQUIRE(machine.next().what == Do::unassign);
    machine.state.unassigned();
    machine.assign({2});
    CHECK(machine.state.partitions() == std::vector<std::int32_t>{2});
}

TEST_CASE("stopping writes what is buffered, gives everything back and finishes") {
    auto machine = consuming();
    machine.record(0, 10);
    CHECK(machine.next().what == Do::poll);
    machine.state.stop();
    CHECK(machine.next().what == Do::flush);
    machine.flush(Flushed::committed);
    CHECK(machine.next().what == Do::unassign);
    machine.state.unassigned();
    CHECK(machine.next().what == Do::finished);
}

TEST_CASE("stopping has nothing to write in the other phases") {
    Machine idle;
    idle.state.stop();
    CHECK(idle.next().what == Do::finished);

    Machine claiming;
    claiming.assign({0});
    claiming.state.stop();
    CHECK(claiming.next().what == Do::unassign);

    auto fenced = due();
    fenced.flush(Flushed::fenced);
    fenced.state.stop();
    CHECK(fenced.next().what == Do::unassign);

    auto empty = consuming();
    empty.state.stop();
    CHECK(empty.next().what == Do::unassign);
}

TEST_CASE("a flush that fails while stopping is tried again until it works") {
    auto machine = due();
    machine.state.stop();
    machine.flush(Flushed::failed);
    const auto step = machine.next();
    CHECK(step.what == Do::poll);
    CHECK(step.timeout > 0ms);
    CHECK(step.timeout <= 51ms);
    CHECK(machine.paused());
    machine.pass(51ms);
    CHECK(machine.next().what == Do::flush);
    machine.flush(Flushed::committed);
    CHECK(machine.next().what == Do::unassign);
}

TEST_CASE("a commit in doubt is resolved before stopping") {
    auto machine = in_doubt();
    machine.state.stop();
    CHECK(machine.next().what == Do::resolve);
    machine.state.resolve_failed(machine.now);
    CHECK(machine.next().what == Do::poll);
    CHECK(machine.next().timeout > 0ms);
    machine.pass(51ms);
    CHECK(machine.next().what == Do::resolve);
    machine.resolve({{0, 10, 5, kLogTime}});
    CHECK(machine.next().what == Do::flush);
}

TEST_CASE("a revoke while stopping is answered first") {
    auto machine = due();
    machine.state.stop();
    machine.flush(Flushed::failed);
    machine.revoke();
    CHECK(machine.next().what == Do::flush);
    machine.flush(Flushed::failed);
    CHECK(machine.next().what == Do::unassign);
    machine.state.unassigned();
    CHECK(machine.next().what == Do::finished);
}

TEST_CASE("partitions given while stopping are given back unclaimed") {
    Machine machine;
    machine.state.stop();
    machine.assign({0});
    CHECK(machine.next().what == Do::unassign);
    machine.state.unassigned();
    CHECK(machine.next().what == Do::finished);
}

TEST_CASE("an instant is claimed once everything below the log's end of then is in the batch") {
    auto machine = consuming();
    machine.log_end(kWall, {12});
    machine.record(0, 10);
    CHECK_FALSE(only_part(machine).as_of);
    machine.record(0, 11);
    CHECK(only_part(machine).as_of == kWall);
    machine.log_end(kWall + 1s, {12});
    CHECK(only_part(machine).as_of == kWall + 1s);
    machine.log_end(kWall + 2s, {13});
    CHECK(only_part(machine).as_of == kWall + 1s);
    machine.end(0, 13);
    CHECK(only_part(machine).as_of == kWall + 2s);
}

TEST_CASE("the instant committed is what the consumer says it has, never before it is committed") {
    auto machine = consuming();
    machine.log_end(kWall, {10});
    CHECK_FALSE(machine.state.as_of());
    machine.flush(Flushed::failed);
    CHECK_FALSE(machine.state.as_of());
    machine.flush(Flushed::committed);
    CHECK(machine.state.as_of() == kWall);
    CHECK(machine.state.batch().parts.empty());
}

TEST_CASE("all partitions together are as of the earliest of them, and of nothing before each has one") {
    auto machine = consuming({0, 1});
    machine.log_end(kWall, {10, 11});
    machine.flush(Flushed::committed);
    CHECK_FALSE(machine.state.as_of());
    machine.log_end(kWall + 1s, {10, 11});
    machine.record(1, 10);
    machine.flush(Flushed::committed);
    CHECK(machine.state.as_of() == kWall + 1s);
    machine.record(0, 10);
    machine.log_end(kWall + 2s, {12, 11});
    machine.flush(Flushed::committed);
    CHECK(machine.state.as_of() == kWall + 1s);
}

TEST_CASE("while nothing comes only the instant is written, as often as a flush would be") {
    auto machine = due();
    machine.flush(Flushed::committed);
    machine.log_end(kWall, {11});
    CHECK(machine.next().what == Do::poll);
    CHECK(machine.next().timeout == 100ms);
    machine.pass(999ms);
    CHECK(machine.next().what == Do::poll);
    machine.pass(1ms);
    CHECK(machine.next().what == Do::flush);
    const auto part = only_part(machine);
    CHECK(part.from == part.next);
    CHECK(part.records.empty());
    CHECK(part.as_of == kWall);
    machine.flush(Flushed::committed);
    machine.pass(1s);
    CHECK(machine.next().what == Do::poll);
}

TEST_CASE("a waiting reader gets the instant early") {
    auto machine = due();
    machine.flush(Flushed::committed);
    machine.log_end(kWall, {11});
    machine.state.wanted(machine.now);
    CHECK(machine.next().what == Do::poll);
    machine.pass(50ms);
    CHECK(machine.next().what == Do::flush);
}

TEST_CASE("an instant alone whose commit was in doubt is simply told again") {
    for (const std::int64_t offset : {10, 11}) {
        auto machine = consuming();
        if (offset == 11) machine.record(0, 10);
        machine.log_end(kWall, {offset});
        machine.flush(Flushed::in_doubt);
        machine.resolve({{0, offset, 5, kLogTime}});
        CHECK(machine.phase() == "consuming");
        CHECK(only_part(machine).as_of == kWall);
    }
}

TEST_CASE("answers that are late, step back or know no such partition are left out") {
    auto machine = consuming({0, 1});
    const auto as_of = [&machine](std::size_t part) { return machine.state.batch().parts.at(part).as_of; };
    machine.log_end(kWall, {10, 10});
    machine.log_end(kWall - 1s, {10, 10});
    CHECK(as_of(0) == kWall);
    CHECK(as_of(1) == kWall);
    machine.log_end(kWall + 1s, {9, 10});
    CHECK(as_of(0) == kWall);
    CHECK(as_of(1) == kWall + 1s);
    machine.log_end(kWall + 2s, {10});
    CHECK(as_of(0) == kWall + 2s);
    CHECK(as_of(1) == kWall + 1s);
    machine.log_end(kWall + 3s, {});
    CHECK(as_of(0) == kWall + 2s);
}

TEST_CASE("answers that name the same end take the place of one") {
    auto machine = consuming();
    for (int second = 0; second < 200; ++second)
        machine.log_end(kWall + std::chrono::seconds(second), {12});
    machine.log_end(kWall + 200s, {13});
    machine.end(0, 12);
    CHECK(only_part(machine).as_of == kWall + 199s);
    machine.end(0, 13);
    CHECK(only_part(machine).as_of == kWall + 200s);
}

TEST_CASE("an instant never steps back, also when a late answer is the only one") {
    auto machine = consuming();
    machine.log_end(kWall, {10});
    machine.flush(Flushed::committed);
    machine.log_end(kWall - 1s, {10});
    CHECK(machine.state.batch().parts.empty());
    CHECK(machine.state.as_of() == kWall);
}

TEST_CASE("a consumer far behind remembers so many answers, and takes new ones when it has caught up") {
    auto machine = consuming();
    for (int second = 0; second < 100; ++second)
        machine.log_end(kWall + std::chrono::seconds(second), {20 + second});
    machine.end(0, 83);
    CHECK(only_part(machine).as_of == kWall + 63s);
    machine.end(0, 119);
    CHECK(only_part(machine).as_of == kWall + 63s);
    machine.flush(Flushed::committed);
    machine.log_end(kWall + 100s, {119});
    CHECK(only_part(machine).as_of == kWall + 100s);
}

TEST_CASE("a new claim keeps what is known of the log's end and forgets what the old one wrote") {
    auto machine = due();
    machine.log_end(kWall, {11});
    machine.log_end(kWall + 1s, {12});
    machine.flush(Flushed::committed);
    REQUIRE(machine.state.as_of() == kWall);
    machine.record(0, 11);
    machine.flush(Flushed::fenced);
    machine.pass(3s);
    REQUIRE(machine.next().what == Do::claim);
    machine.claim({{0, 12, 7, kLogTime}});
    CHECK_FALSE(machine.state.as_of());
    CHECK(only_part(machine).as_of == kWall + 1s);
}

TEST_CASE("a stream whose last flush failed says so until one is committed") {
    auto machine = consuming();
    machine.record(0, 10);
    machine.flush(Flushed::failed);
    CHECK(machine.phase() == "retrying");
    machine.flush(Flushed::committed);
    CHECK(machine.phase() == "consuming");
}

TEST_CASE("a follower writes nothing at or beyond its leader's offsets") {
    auto machine = consuming({0, 1, 2});
    machine.follow({12, 10, 9});  // in the middle of what comes, at its begin, and below where the tables are
    for (const auto partition : {0, 1, 2}) {
        for (std::int64_t offset = 10; offset < 13; ++offset)
            machine.record(partition, offset);
    }
    const auto part = only_part(machine);
    CHECK(part.partition == 0);
    CHECK(part.from == 10);
    CHECK(part.next == 12);
    REQUIRE(part.records.size() == 2);
    CHECK(part.records.back().offset == 11);
    machine.pass(1s);
    CHECK(machine.next().what == Do::flush);
    machine.flush(Flushed::committed);
    CHECK(machine.state.batch().parts.empty());
    CHECK(machine.state.buffer().records() == 7);
    machine.pass(10s);
    CHECK(machine.next().what == Do::poll);
}

TEST_CASE("gaps are counted on the side of the cut where they are, whatever the cut") {
    // Records at 10, 13, 14, 18; the partition ends at 20.
    const auto filled = [] {
        auto machine = consuming();
        for (const auto offset : {10, 13, 14, 18})
            machine.record(0, offset);
        machine.end(0, 20);
        return machine;
    };
    const struct {
        std::int64_t leader;
        std::size_t records;
        std::int64_t gaps;
    } cases[] = {{11, 1, 0}, {12, 1, 1}, {13, 1, 2}, {14, 2, 2}, {15, 3, 2},
                 {16, 3, 3}, {18, 3, 5}, {19, 4, 5}, {20, 4, 6}, {99, 4, 6}};
    for (const auto& one : cases) {
        const auto [leader, records, gaps] = one;
        CAPTURE(one.leader);
        auto machine = filled();
        machine.follow({leader});
        const auto before = only_part(machine);
        CHECK(before.next == std::min<std::int64_t>(leader, 20));
        CHECK(before.records.size() == records);
        CHECK(before.gaps == gaps);
        machine.flush(Flushed::committed);
        machine.follow({20});
        if (leader >= 20) {
            CHECK(machine.state.batch().parts.empty());
            continue;
        }
        const auto after = only_part(machine);
        CHECK(after.from == leader);
        CHECK(after.next == 20);
        CHECK(after.records.size() == 4 - records);
        CHECK(after.gaps == 6 - gaps);
    }
}

TEST_CASE("a follower that does not know yet how far its leader is writes nothing") {
    auto machine = consuming({0, 1});
    machine.follow({});
    machine.record(0, 10);
    machine.end(1, 20);
    machine.log_end(kWall, {11, 20});
    machine.pass(10s);
    CHECK(machine.state.batch().parts.empty());
    CHECK(machine.next().what == Do::poll);
    machine.follow({11});  // a partition that the leader does not have
    CHECK(only_part(machine).partition == 0);
    machine.state.follow(std::nullopt);
    CHECK(machine.state.batch().parts.size() == 2);
}

TEST_CASE("a follower whose buffer is full of what its leader has not takes no more, and waits in polls") {
    auto machine = consuming();
    machine.follow({10});
    for (std::int64_t offset = 10; offset < 20; ++offset)
        machine.record(0, offset);
    machine.state.wanted(machine.now);
    for (int n = 0; n < 30; ++n) {
        CHECK(machine.paused());
        const auto step = machine.next();
        CHECK(step.what == Do::poll);
        REQUIRE(step.timeout == 100ms);
        machine.pass(step.timeout);
    }
    CHECK(machine.counted().stale_records == 0);
    machine.follow({13});
    CHECK(machine.next().what == Do::flush);
    CHECK(only_part(machine).records.size() == 3);
    machine.flush(Flushed::committed);
    CHECK_FALSE(machine.paused());
    CHECK(machine.next().what == Do::poll);
    machine.follow({40});
    machine.pass(1s);
    CHECK(machine.next().what == Do::flush);
    CHECK(only_part(machine).from == 13);
    CHECK(only_part(machine).next == 20);
}

TEST_CASE("what a leader does not have in one partition does not starve a follower of what it has in another") {
    auto machine = consuming({0, 1});
    machine.follow({10, 15});
    for (std::int64_t offset = 10; offset < 20; ++offset)
        machine.record(0, offset);
    REQUIRE(machine.next().what == Do::assign);
    CHECK(machine.state.reading() == std::vector<Start>{{1, 10}});
    CHECK_FALSE(machine.paused());
    for (std::int64_t offset = 10; offset < 15; ++offset)
        machine.record(1, offset);
    // It has all that its leader has: the other one may be read again.
    REQUIRE(machine.next().what == Do::assign);
    CHECK(machine.state.reading() == std::vector<Start>{{0, 10}, {1, 15}});
    machine.pass(1s);
    CHECK(machine.next().what == Do::flush);
    CHECK(only_part(machine).partition == 1);
    CHECK(only_part(machine).next == 15);
    machine.flush(Flushed::committed);
    machine.record(0, 10);
    CHECK(machine.next().what == Do::poll);
    machine.follow({11, 15});
    machine.pass(1s);
    CHECK(machine.next().what == Do::flush);
}

TEST_CASE("tables that moved while only some partitions were read are read whole again") {
    auto machine = consuming({0, 1});
    machine.follow({10, 15});
    for (std::int64_t offset = 10; offset < 20; ++offset)
        machine.record(0, offset);
    REQUIRE(machine.next().what == Do::assign);
    machine.record(1, 10);
    machine.move();
    CHECK(machine.claim({{0, 10, 6, kLogTime}, {1, 10, 6, kLogTime}}) == std::vector<Start>{{0, 10}, {1, 11}});
    CHECK(machine.next().what == Do::poll);
}

TEST_CASE("what a leader lets go is due like what has just come") {
    auto machine = consuming();
    machine.follow({11});
    machine.record(0, 10);
    machine.record(0, 11);
    machine.pass(1s);
    machine.flush(Flushed::committed);
    machine.follow({12});
    CHECK(machine.next().what == Do::poll);
    CHECK(machine.next().timeout == 20ms);
    machine.pass(999ms);
    CHECK(machine.next().what == Do::poll);
    machine.pass(1ms);
    CHECK(machine.next().what == Do::flush);
    CHECK(only_part(machine).from == 11);
}

TEST_CASE("a follower claims no instant that its leader's offsets do not allow") {
    auto machine = consuming();
    machine.follow({11});
    machine.record(0, 10);
    machine.record(0, 11);
    machine.log_end(kWall, {11});
    machine.log_end(kWall + 1s, {12});
    CHECK(only_part(machine).as_of == kWall);
    machine.flush(Flushed::committed);
    CHECK(machine.state.as_of() == kWall);
    machine.pass(10s);
    CHECK(machine.next().what == Do::poll);
    CHECK(machine.state.batch().parts.empty());
    machine.follow({12});
    CHECK(only_part(machine).as_of == kWall + 1s);
    machine.flush(Flushed::committed);
    CHECK(machine.state.as_of() == kWall + 1s);
}

TEST_CASE("a follower at its leader's offsets writes the instant alone while more is buffered") {
    auto machine = consuming();
    machine.follow({10});
    machine.record(0, 10);
    machine.log_end(kWall, {10});
    machine.pass(1s);
    CHECK(machine.next().what == Do::flush);
    const auto part = only_part(machine);
    CHECK(part.next == 10);
    CHECK(part.records.empty());
    CHECK(part.gaps == 0);
    CHECK(part.as_of == kWall);
    machine.flush(Flushed::committed);
    CHECK(machine.state.buffer().records() == 1);
    machine.pass(10s);
    CHECK(machine.next().what == Do::poll);
}

TEST_CASE("a follower with nothing that it may write answers a revoke and a stop at once") {
    for (const bool stop : {false, true}) {
        CAPTURE(stop);
        auto machine = consuming();
        machine.follow({10});
        machine.record(0, 10);
        if (stop) {
            machine.state.stop();
        } else {
            machine.revoke();
        }
        CHECK(machine.next().what == Do::unassign);
        machine.state.unassigned();
        CHECK(machine.counted().dropped_records == 1);
        CHECK(machine.next().what == (stop ? Do::finished : Do::poll));
    }
}

TEST_CASE("a follower that is stopped or revoked writes up to its leader's offsets first") {
    for (const bool stop : {false, true}) {
        CAPTURE(stop);
        auto machine = consuming();
        machine.follow({11});
        machine.record(0, 10);
        machine.record(0, 11);
        if (stop) {
            machine.state.stop();
        } else {
            machine.revoke();
        }
        CHECK(machine.next().what == Do::flush);
        CHECK(only_part(machine).next == 11);
        machine.flush(Flushed::committed);
        CHECK(machine.next().what == Do::unassign);
    }
}

TEST_CASE("a new claim forgets the leader") {
    auto machine = consuming();
    machine.follow({10});
    machine.record(0, 10);
    CHECK(machine.state.batch().parts.empty());
    machine.move();
    machine.claim({{0, 10, 6, kLogTime}});
    CHECK(only_part(machine).next == 11);
    machine.follow({10});
    machine.flush(Flushed::fenced);
    machine.pass(10s);
    CHECK(machine.next().what == Do::claim);
    machine.claim({{0, 10, 7, kLogTime}});
    machine.record(0, 10);
    CHECK(only_part(machine).next == 11);
}

TEST_CASE("a follower's commit in doubt is of what was cut, whatever the leader did meanwhile") {
    for (const bool committed : {false, true}) {
        CAPTURE(committed);
        auto machine = consuming();
        machine.follow({12});
        for (const auto offset : {10, 11, 12})
            machine.record(0, offset);
        machine.flush(Flushed::in_doubt);
        machine.follow({13});
        machine.resolve({{0, committed ? 12 : 10, 5, kLogTime}});
        CHECK(machine.phase() == "consuming");
        CHECK(machine.counted().fenced == 0);
        CHECK(only_part(machine).from == (committed ? 12 : 10));
        CHECK(only_part(machine).next == 13);
        CHECK(only_part(machine).gaps == 0);
    }
}

TEST_CASE("tables that moved are claimed again at once, and what is buffered is written under the new claim") {
    auto machine = due();
    machine.flush(Flushed::failed);
    CHECK(machine.next().what == Do::poll);
    machine.move();
    CHECK(machine.phase() == "claiming");
    CHECK_FALSE(machine.paused());
    CHECK(machine.next().what == Do::claim);
    CHECK(machine.state.partitions() == std::vector<std::int32_t>{0});
    machine.record(0, 11);
    machine.end(0, 15);
    CHECK(machine.counted().stale_records == 0);
    CHECK(machine.state.goes_on(std::vector<Claim>{{0, 10, 7, kLogTime}}));
    CHECK(machine.claim({{0, 10, 7, kLogTime}}).empty());
    CHECK(machine.phase() == "consuming");
    CHECK(machine.counted().dropped_records == 0);
    CHECK(only_part(machine).epoch == 7);
    CHECK(only_part(machine).log_time == kLogTime);
    CHECK(only_part(machine).records.size() == 2);
    CHECK(only_part(machine).next == 15);
    CHECK(machine.next().what == Do::flush);
}

TEST_CASE("tables that moved and do not stand where the buffer begins are read on from where they stand") {
    const std::vector<std::vector<Claim>> cases{
        {{0, 11, 7, kLogTime + 1s}, {1, 10, 7, kLogTime}},  // somebody else went on
        {{0, 9, 7, kLogTime + 1s}, {1, 10, 7, kLogTime}},   // restored
        {{0, 10, 7, kLogTime + 1s}},
        {{0, 10, 7, kLogTime + 1s}, {2, 10, 7, kLogTime}}};
    for (const auto& claims : cases) {
        CAPTURE(claims[0].next_offset);
        CAPTURE(claims.size());
        auto machine = due({0, 1});
        machine.flush(Flushed::failed);
        machine.move();
        CHECK_FALSE(machine.state.goes_on(claims));
        CHECK(machine.claim(claims).size() == claims.size());
        CHECK(machine.state.buffer().empty());
        machine.record(0, 11);
        CHECK(only_part(machine).from == claims[0].next_offset);
        CHECK(only_part(machine).log_time == kLogTime + 1s);
    }
}

TEST_CASE("a full buffer takes no more while tables that moved are claimed, nor does one whose claim failed") {
    auto machine = due();
    machine.move();
    for (std::int64_t offset = 11; offset < 20; ++offset)
        machine.record(0, offset);
    CHECK(machine.paused());
    auto failing = due();
    failing.move();
    failing.state.claim_failed(failing.now);
    CHECK(failing.paused());
    CHECK(failing.next().what == Do::poll);
    CHECK(failing.next().timeout > 0ms);
    failing.pass(51ms);
    CHECK_FALSE(failing.paused());
    CHECK(failing.next().what == Do::claim);
    CHECK(failing.claim({{0, 10, 9, kLogTime}}).empty());
    CHECK(only_part(failing).records.size() == 1);
}

TEST_CASE("who was fenced has dropped its buffer, and reads again what it claims though the tables only moved") {
    auto machine = due();
    machine.flush(Flushed::fenced);
    CHECK(machine.next().what == Do::poll);
    machine.move();
    CHECK(machine.next().what == Do::claim);
    CHECK(machine.paused());
    machine.record(0, 11);
    CHECK(machine.counted().stale_records == 1);
    CHECK_FALSE(machine.state.goes_on(std::vector<Claim>{{0, 10, 7, kLogTime}}));
    CHECK(machine.claim({{0, 10, 7, kLogTime}}) == std::vector<Start>{{0, 10}});
}

TEST_CASE("an assignment after the tables moved is claimed from the log, not from the buffer") {
    auto machine = due();
    machine.move();
    machine.assign({0});
    CHECK(machine.paused());
    CHECK(machine.state.buffer().empty());
    CHECK_FALSE(machine.state.goes_on(std::vector<Claim>{{0, 10, 7, kLogTime}}));
    CHECK(machine.claim({{0, 10, 7, kLogTime}}) == std::vector<Start>{{0, 10}});
    machine.record(0, 10);
    machine.flush(Flushed::fenced);
    machine.pass(10s);
    CHECK(machine.next().what == Do::claim);
    CHECK(machine.claim({{0, 10, 9, kLogTime}}).size() == 1);  // moved() holds for one claim only
}

TEST_CASE("tables that moved while a commit was in doubt are not read back but claimed") {
    auto machine = in_doubt();
    machine.move();
    CHECK(machine.phase() == "claiming");
    CHECK(machine.next().what == Do::claim);
    CHECK(machine.counted().fenced == 1);
    CHECK(machine.counted().dropped_records == 1);
    machine.claim({{0, 11, 7, kLogTime}});
    machine.record(0, 11);
    CHECK(only_part(machine).from == 11);
}

TEST_CASE("tables that move are nothing to one who has not claimed any") {
    Machine idle;
    idle.move();
    CHECK(idle.phase() == "idle");
    CHECK(idle.next().what == Do::poll);

    Machine claiming;
    claiming.assign({0});
    claiming.state.claim_failed(claiming.now);
    claiming.move();
    CHECK(claiming.phase() == "claiming");
    CHECK(claiming.next().what == Do::poll);  // its back-off stands
}

TEST_CASE("a revoke or a stop that finds the tables moved is answered without a claim") {
    for (const bool stop : {false, true}) {
        CAPTURE(stop);
        auto machine = due();
        if (stop) {
            machine.state.stop();
        } else {
            machine.revoke();
        }
        CHECK(machine.next().what == Do::flush);
        machine.move();
        CHECK(machine.next().what == Do::unassign);
        machine.state.unassigned();
        CHECK(machine.state.buffer().empty());
        CHECK(machine.next().what == (stop ? Do::finished : Do::poll));
    }
}

TEST_CASE("partitions that were lost before the tables moved are not claimed") {
    auto machine = consuming();
    machine.record(0, 10);
    machine.lose();
    machine.move();
    CHECK(machine.next().what == Do::unassign);
    machine.state.unassigned();
    CHECK(machine.phase() == "idle");
}
