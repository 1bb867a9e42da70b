#include "consumers/stream_processor.h"

#include "consumers/projections.h"
#include "consumers/swap.h"
#include "tests/integration/consumers/random_log.h"
#include "tests/integration/consumers/scratch.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

using namespace std::chrono_literals;
namespace kafka = tidemark::kafka;
namespace pg = tidemark::pg;
using tidemark::base::Metrics;
using tidemark::base::SystemClock;
using tidemark::base::Timestamp;
using tidemark::consumers::CheckLog;
using tidemark::consumers::Claim;
using tidemark::consumers::drop_generation;
using tidemark::consumers::find_generations;
using tidemark::consumers::find_projection;
using tidemark::consumers::LogMismatch;
using tidemark::consumers::ProcessorOptions;
using tidemark::consumers::Role;
using tidemark::consumers::StreamProcessor;
using tidemark::consumers::swap_generations;
using tidemark::consumers::Target;
using tidemark::test::eventually;
using tidemark::test::Network;
using tidemark::tests::difference;
using tidemark::tests::EventSketch;
using tidemark::tests::FakeLog;
using tidemark::tests::FakeSource;
using tidemark::tests::identify;
using tidemark::tests::increment_data;
using tidemark::tests::kIncremented;
using tidemark::tests::ScratchDatabase;
using tidemark::tests::Tables;

namespace {

constexpr Timestamp kAppended{1'700'000'000s};

/// A log that several sources read and the test writes to meanwhile.
struct SharedLog {
    explicit SharedLog(std::int32_t partitions) : log(partitions) { identify(log); }
    std::mutex mutex;  // guards the log and the sources over it
    FakeLog log;
};

/// A FakeSource that waits as a real one does.
class SharedSource final : public kafka::RecordSource {
public:
    explicit SharedSource(std::shared_ptr<SharedLog> shared)
        : shared_(std::move(shared)), mutex_(shared_->mutex), source_(shared_->log) {}

    /// Whatever the test does to the log and the group.
    void with(const std::function<void(FakeLog&, FakeSource&)>& action) {
        const std::lock_guard lock(mutex_);
        action(shared_->log, source_);
    }
    void increment(const std::string& key, const std::string& value, std::int32_t partition = 0) {
        const auto event = EventSketch{kIncremented, increment_data(key, value), kAppended, {}}.text();
        with([&](FakeLog& log, FakeSource&) { log.append(partition, key, event, kAppended); });
    }
    /// One that happened so long before it was appended.
    void late(const std::string& key, std::chrono::hours ago, std::int32_t partition = 0) {
        const auto event = EventSketch{kIncremented, increment_data(key, "1"), kAppended - ago, {}}.text();
        with([&](FakeLog& log, FakeSource&) { log.append(partition, key, event, kAppended); });
    }
    [[nodiscard]] bool assigned(std::int32_t partition) {
        const std::lock_guard lock(mutex_);
        return source_.assigned(partition);
    }
    [[nodiscard]] std::int64_t reported(std::int32_t partition) {
        const std::lock_guard lock(mutex_);
        const auto& all = source_.reported();
        const auto found = all.find(partition);
        return found == all.end() ? -1 : found->second;
    }
    [[nodiscard]] const std::shared_ptr<SharedLog>& log() const { return shared_; }

    kafka::Polled poll(std::chrono::milliseconds timeout) override {
        const auto deadline = std::chrono::steady_clock::now() + timeout;
        while (true) {
            {
                const std::lock_guard lock(mutex_);
                auto polled = source_.poll(timeout);
                if (!std::holds_alternative<kafka::Nothing>(polled)) return polled;
            }
            if (std::chrono::steady_clock::now() >= deadline) return kafka::Nothing{};
            std::this_thread::sleep_for(1ms);
        }
    }
    void assign(std::span<const kafka::Start> starts) override {
        with([&](FakeLog&, FakeSource& source) { source.assign(starts); });
    }
    void unassign() override {
        with([](FakeLog&, FakeSource& source) { source.unassign(); });
    }
    void pause() override {
        with([](FakeLog&, FakeSource& source) { source.pause(); });
    }
    void resume() override {
        with([](FakeLog&, FakeSource& source) { source.resume(); });
    }
    void report_progress(std::span<const kafka::Start> next) noexcept override {
        const std::lock_guard lock(mutex_);
        source_.report_progress(next);
    }

private:
    std::shared_ptr<SharedLog> shared_;
    std::mutex& mutex_;
    FakeSource source_;
};

/// A processor of the counters on a thread of its own, over a fake log and real tables.
class Running {
public:
    struct Settings {
        std::int32_t partitions = 1;
        std::chrono::milliseconds interval{20};
        std::chrono::milliseconds drain{5'000};
        CheckLog check_log = [](const Claim&) {};
        Network* network = nullptr;
        std::chrono::milliseconds fence_wait{50};
        std::chrono::milliseconds window_retention{0};
        std::chrono::milliseconds retention_look = 1h;  // so that it is flushes that meet a test's fault
    };

    explicit Running(Settings settings)
        : Running(std::make_shared<ScratchDatabase>(), std::make_shared<SharedLog>(settings.partitions), settings,
                  Role::live) {}
    Running() : Running(Settings{}) {}
    /// Another generation of the same stream, from the same log.
    Running(const Running& live, const Settings& settings)
        : Running(live.shared_database_, live.source.log(), settings, Role::candidate) {}
    ~Running() {
        if (thread_.joinable()) stop();
    }
    Running(const Running&) = delete;
    Running& operator=(const Running&) = delete;

    void start() {
        thread_ = std::thread([this] {
            try {
                processor.run();
            } catch (...) {
                ended_ = std::current_exception();
            }
            has_returned_ = true;
        });
    }
    void stop() {
        processor.stop();
        thread_.join();
    }
    /// Waits until run() has thrown, and throws it here.
    void join() {
        thread_.join();
        if (ended_) std::rethrow_exception(ended_);
    }
    [[nodiscard]] bool has_returned() const { return has_returned_; }
    void log_is_another() { processor.log_is_another("another log"); }

    /// Its tables where they stand by now.
    [[nodiscard]] Tables tables_now() const { return {database, target}; }
    [[nodiscard]] bool reaches(const std::string& total) const {
        auto now = tables_now();
        return eventually([&] {
            return now.ask("select coalesce((select value::text from totals where key = 'k'), 'none')") == total;
        });
    }
    /// The sample of a metric, by its name and labels as rendered; empty: there is none.
    [[nodiscard]] std::string metric(const std::string& name) const {
        const auto text = "\n" + metrics_.render();
        const auto at = text.find("\n" + name + " ");
        if (at == std::string::npos) return {};
        const auto from = at + name.size() + 2;
        return text.substr(from, text.find('\n', from) - from);
    }
    [[nodiscard]] bool flushed_as(const std::string& outcome) const {
        return eventually([&] {
            const auto count = metric("tidemark_flushes_total{generation=\"" + std::to_string(target.generation) +
                                      "\",outcome=\"" + outcome + "\",stream=\"counters\"}");
            return !count.empty() && count != "0";
        });
    }
    /// Breaks off a flush's commit that comes to the server, and then lets nobody ask how it ended. `write` makes the
    /// flush.
    void put_in_doubt(Network& network, const std::function<void()>& write) {
        network.delay(30ms);  // so that there is time to act between the steps
        write();
        REQUIRE(eventually([&] {
            return tables.ask(
                       "select count(*) from pg_stat_activity a join offsets o on a.pid = o.backend_pid "
                       "where a.query like '%next_offset = b.next_offset%'") != "0";
        }));
        network.lose_answer_to("COMMIT");
        CHECK(flushed_as("in_doubt"));
        network.fall_silent();
        REQUIRE(eventually([&] { return processor.status().phase == "resolving"; }));
    }
    [[nodiscard]] bool buffers(int records) const {
        return eventually([&] {
            return metric("tidemark_buffered_records{generation=\"" + std::to_string(target.generation) +
                          "\",stream=\"counters\"}") == std::to_string(records);
        });
    }

private:
    Running(std::shared_ptr<ScratchDatabase> in, std::shared_ptr<SharedLog> log, const Settings& settings, Role role)
        : shared_database_(std::move(in)),
          database(*shared_database_),
          source(std::move(log)),
          target(database.make_generation(*find_projection("counters"), settings.partitions, role)),
          tables(database, target),
          settings_(settings),
          processor(options(), target, source, settings_.check_log, clock_, metrics_) {
        source.with([](FakeLog& folded, FakeSource& group) {
            std::vector<std::int32_t> all;
            for (std::int32_t partition = 0; partition < folded.partitions(); ++partition)
                all.push_back(partition);
            group.grant(all);
        });
    }
    [[nodiscard]] ProcessorOptions options() const {
        ProcessorOptions options;
        options.dsn = settings_.network != nullptr ? database.dsn(*settings_.network) : database.dsn();
        options.owner = "test";
        options.state.limits.interval = settings_.interval;
        options.state.fence_wait = settings_.fence_wait;
        options.drain = settings_.drain;
        options.look = 20ms;
        options.window_retention = settings_.window_retention;
        options.retention_look = settings_.retention_look;
        return options;
    }

    std::shared_ptr<ScratchDatabase> shared_database_;

public:
    ScratchDatabase& database;
    SharedSource source;
    Target target;
    Tables tables;

private:
    Settings settings_;
    SystemClock clock_;
    Metrics metrics_;
    std::exception_ptr ended_;
    std::atomic<bool> has_returned_{false};
    std::thread thread_;

public:
    StreamProcessor processor;
};

/// A live generation and a candidate of the same stream.
struct Beside {
    explicit Beside(const Running::Settings& settings = {}) : Beside(settings, settings) {}
    Beside(const Running::Settings& of_live, const Running::Settings& of_other)
        : live(of_live), other(live, of_other) {}

    void start() {
        live.start();
        other.start();
    }
    /// Makes the one live that is not.
    void swap() const {
        pg::Connection connection(live.database.dsn(), {});
        auto all = find_generations(connection, *live.target.projection);
        REQUIRE(all.size() == 2);
        if (all[0].role != Role::live) std::swap(all[0], all[1]);
        swap_generations({.owner_dsn = live.database.dsn()}, {all[0], all[1]});
    }
    /// By how much the candidate is ahead anywhere. One statement, so one snapshot.
    [[nodiscard]] bool is_ahead() {
        return asked_.ask(
                   "select bool_or(f.next_offset > l.next_offset)::text from counters_2.offsets f "
                   "join counters.offsets l using (partition)") == "true";
    }
    /// Both have everything, once.
    void check_total(int total) {
        CHECK(live.reaches(std::to_string(total)));
        CHECK(other.reaches(std::to_string(total)));
        live.stop();
        other.stop();
        auto one = live.tables_now();
        auto two = other.tables_now();
        CHECK(one.conserved());
        CHECK(two.conserved());
        CHECK(difference(one.all(), two.all()).empty());
    }

    Running live;
    Running other;

private:
    Tables asked_{live.database, live.target};
};

/// Who is fenced by a swap has to go on without this wait, or the test takes too long.
constexpr auto kFenceWait = 60s;

}  // namespace

TEST_CASE("records are folded as they come, and stopping writes the rest and gives everything back") {
    Running running({2, 20ms});
    running.source.increment("k", "1", 0);
    running.source.increment("k", "20", 1);
    running.start();
    CHECK(running.reaches("21"));
    CHECK(eventually([&] { return running.source.reported(0) == 2 && running.source.reported(1) == 2; }));
    running.source.increment("k", "300", 1);
    CHECK(running.reaches("321"));
    const auto status = running.processor.status();
    CHECK(status.partitions == std::vector<std::int32_t>{0, 1});
    CHECK(status.phase == "consuming");
    CHECK(status.joined);
    running.source.increment("k", "4000", 0);
    CHECK(eventually([&] { return running.source.reported(0) == 3; }));
    running.stop();
    CHECK(running.reaches("4321"));
    CHECK(running.tables.conserved());
    CHECK_FALSE(running.source.assigned(0));
    CHECK(running.processor.status().partitions.empty());
    CHECK(running.metric(R"(tidemark_records_total{generation="1",stream="counters",verdict="applied"})") == "6");
}

TEST_CASE("what is buffered when it is stopped is written first") {
    Running running({1, 60s});
    running.source.increment("k", "1");
    running.start();
    CHECK(running.buffers(2));
    CHECK(running.tables.ask("select count(*) from totals") == "0");
    running.stop();
    CHECK(running.reaches("1"));
}

TEST_CASE("a waiting reader is served before the interval is over") {
    Running running({1, 60s});
    running.source.increment("k", "1");
    running.start();
    CHECK(running.buffers(2));
    running.processor.wanted();
    CHECK(running.reaches("1"));
}

TEST_CASE("the instant up to which everything is in moves when the log's end is known") {
    Running running;
    running.start();
    CHECK(eventually([&] { return running.processor.status().phase == "consuming"; }));
    running.processor.log_end(kAppended, {1});
    CHECK(eventually([&] { return running.processor.status().as_of == kAppended; }));
    CHECK(running.tables.ask("select (extract(epoch from as_of) * 1000000)::bigint from offsets") ==
          std::to_string(kAppended.time_since_epoch().count()));
}

TEST_CASE("a revoked partition is written once more, a lost one is read again") {
    for (const bool lost : {false, true}) {
        CAPTURE(lost);
        Running running({1, 60s});
        running.source.increment("k", "1");
        running.start();
        CHECK(running.buffers(2));
        running.source.with([&](FakeLog&, FakeSource& group) {
            if (lost) {
                group.lose();
            } else {
                group.revoke();
            }
        });
        CHECK(eventually([&] { return running.processor.status().phase == "idle"; }));
        CHECK_FALSE(running.source.assigned(0));
        CHECK(running.tables.ask("select next_offset from offsets") == (lost ? "0" : "2"));
        running.source.with([](FakeLog&, FakeSource& group) { group.grant({0}); });
        CHECK(eventually([&] { return running.processor.status().phase == "consuming"; }));
        running.stop();
        CHECK(running.reaches("1"));
        CHECK(running.tables.conserved());
    }
}

TEST_CASE("who was fenced claims again and goes on from where the tables are") {
    Running running;
    running.source.increment("k", "1");
    running.start();
    CHECK(running.reaches("1"));
    running.tables.claim(0);
    running.source.increment("k", "10");
    CHECK(running.reaches("11"));
    CHECK(running.flushed_as("fenced"));
    CHECK(running.tables.conserved());
}

TEST_CASE("a session that ends is replaced, and the rows name the new one") {
    Running running;
    running.source.increment("k", "1");
    running.start();
    CHECK(running.reaches("1"));
    const auto backend = running.tables.ask("select backend_pid from offsets");
    running.tables.execute("select pg_terminate_backend(" + backend + ")");
    running.source.increment("k", "10");
    CHECK(running.reaches("11"));
    CHECK(running.flushed_as("failed"));
    CHECK(running.tables.ask("select backend_pid from offsets") != backend);
    CHECK(running.tables.ask("select count(*) from offsets o join pg_stat_activity a on a.pid = o.backend_pid and "
                             "a.backend_start = o.backend_start") == "1");
    CHECK(running.tables.conserved());
}

TEST_CASE("a session that ends after the partition was claimed by somebody else is not announced over them") {
    Running running;
    running.source.increment("k", "1");
    running.start();
    CHECK(running.reaches("1"));
    const auto backend = running.tables.ask("select backend_pid from offsets");
    running.tables.claim(0);
    running.tables.execute("select pg_terminate_backend(" + backend + ")");
    running.source.increment("k", "10");
    CHECK(running.reaches("11"));
    CHECK(running.flushed_as("fenced"));
    CHECK(running.tables.conserved());
}

TEST_CASE("commits whose answers are lost count once, and are seen in the counters") {
    for (const bool done : {true, false}) {
        CAPTURE(done);
        Network network;
        Running running({1, 20ms, 5'000ms, [](const Claim&) {}, &network});
        running.source.increment("k", "1");
        running.start();
        CHECK(running.reaches("1"));
        if (done) {
            network.lose_answer_to("COMMIT");
        } else {
            network.lose("COMMIT");
        }
        running.source.increment("k", "10");
        CHECK(running.reaches("11"));
        CHECK(running.flushed_as("in_doubt"));
        running.source.increment("k", "100");
        CHECK(running.reaches("111"));
        CHECK(running.metric(R"(tidemark_flushes_total{generation="1",outcome="fenced",stream="counters"})") == "0");
        CHECK(running.tables.conserved());
    }
}

TEST_CASE("while the database is away nothing is lost, and what came meanwhile is written when it is back") {
    Network network;
    Running running({1, 20ms, 5'000ms, [](const Claim&) {}, &network});
    running.source.increment("k", "1");
    running.start();
    CHECK(running.reaches("1"));
    network.cut();
    network.fall_silent();
    running.source.increment("k", "10");
    CHECK(running.flushed_as("failed"));
    network.speak_again();
    CHECK(running.reaches("11"));
    CHECK(running.tables.conserved());
}

TEST_CASE("a consumer that is stopped while the database is away gives up after its time and loses nothing") {
    Network network;
    Running running({1, 60s, 300ms, [](const Claim&) {}, &network});
    running.source.increment("k", "1");
    running.start();
    CHECK(running.buffers(2));
    network.cut();
    network.fall_silent();
    running.stop();
    CHECK(running.tables.ask("select next_offset from offsets") == "0");
}

TEST_CASE("a claim that fails is tried again") {
    int checks = 0;
    Running running({1, 20ms, 5'000ms, [&checks](const Claim&) {
                         if (++checks < 3) throw kafka::Error("not now", 1, true, false);
                     }});
    running.source.increment("k", "1");
    running.start();
    CHECK(running.reaches("1"));
    running.stop();
    CHECK(checks == 3);
}

TEST_CASE("another log under the same tables ends the process, with nothing read") {
    Running running({1, 20ms, 5'000ms, [](const Claim&) { throw LogMismatch("another log"); }});
    running.source.increment("k", "1");
    running.start();
    CHECK_THROWS_AS(running.join(), LogMismatch);
    CHECK(running.tables.ask("select next_offset from offsets") == "0");
}

TEST_CASE("a log that became another one while it was read ends the process, with nothing more written") {
    Running running({1, 60s});
    running.source.increment("k", "1");
    running.start();
    REQUIRE(running.buffers(2));
    running.log_is_another();
    CHECK_THROWS_AS(running.join(), LogMismatch);
    CHECK(running.tables.ask("select count(*) from totals") == "0");
}

TEST_CASE("a broker's client that is beyond repair ends the process") {
    Running running;
    running.source.with([](FakeLog&, FakeSource& group) { group.fail(kafka::Error("replaced", 1, false, true)); });
    running.start();
    CHECK_THROWS_AS(running.join(), kafka::Error);
}

TEST_CASE("tables that may not be written to end the process instead of being tried for ever") {
    Running running;
    running.tables.execute("revoke insert on totals from current_user");
    running.source.increment("k", "1");
    running.start();
    CHECK_THROWS_AS(running.join(), pg::Error);
    CHECK(running.tables.ask("select next_offset from offsets") == "0");
}

TEST_CASE("a candidate follows the live generation and is never ahead of it") {
    Beside both({.partitions = 2});
    both.live.source.increment("k", "1", 0);
    both.live.source.increment("k", "2", 1);
    both.other.start();
    CHECK(both.other.buffers(4));
    CHECK_FALSE(both.other.processor.status().live);
    CHECK(both.other.tables.ask("select max(next_offset) from offsets") == "0");
    both.live.start();
    CHECK(both.other.reaches("3"));
    int total = 3;
    for (int n = 0; n < 300; ++n) {
        both.live.source.increment("k", "1", n % 2);
        total += 1;
        REQUIRE_FALSE(both.is_ahead());
    }
    both.check_total(total);
    CHECK(both.live.processor.status().live);
}

TEST_CASE("a candidate waits for a live generation that stands still and catches up when it moves") {
    Beside both;
    both.live.source.increment("k", "1");
    both.start();
    CHECK(both.other.reaches("1"));
    both.live.stop();
    both.live.source.increment("k", "10");
    CHECK(both.other.buffers(1));
    both.other.processor.wanted();
    both.other.processor.log_end(kAppended, {2});
    CHECK(eventually([&] { return both.other.processor.status().as_of == kAppended; }));
    CHECK(both.other.tables.ask("select next_offset from offsets") == "2");
    both.other.stop();
    CHECK(both.other.reaches("1"));
    CHECK_FALSE(both.is_ahead());
}

TEST_CASE("both generations go on at once when they are swapped while nothing comes") {
    Running::Settings settings;
    settings.fence_wait = kFenceWait;
    Beside both(settings);
    both.live.source.increment("k", "1");
    both.start();
    int total = 1;
    for (int n = 0; n < 4; ++n) {
        CHECK(both.live.reaches(std::to_string(total)));
        CHECK(both.other.reaches(std::to_string(total)));
        both.swap();
        both.live.source.increment("k", "1");
        total += 1;
    }
    both.check_total(total);
}

TEST_CASE("both generations go on at once when they are swapped while records come") {
    Running::Settings settings;
    settings.partitions = 3;
    settings.fence_wait = kFenceWait;
    Beside both(settings);
    both.start();
    std::atomic<bool> enough = false;
    int total = 0;
    std::thread writer([&] {
        for (; !enough; ++total) {
            both.live.source.increment("k", "1", total % 3);
            std::this_thread::sleep_for(1ms);
        }
    });
    for (int n = 0; n < 6; ++n)
        both.swap();
    enough = true;
    writer.join();
    both.check_total(total);
}

TEST_CASE("both generations go on at once when they were swapped there and back between two flushes") {
    Running::Settings settings;
    settings.fence_wait = kFenceWait;
    Beside both(settings);
    both.live.source.increment("k", "1");
    both.start();
    CHECK(both.live.reaches("1"));
    CHECK(both.other.reaches("1"));
    const auto stood_at = both.live.tables.ask("select next_offset from offsets");
    {
        auto live = both.live.tables_now();
        live.execute(
            "update counters.offsets set epoch = epoch + 2; update counters_2.offsets set epoch = epoch + 2; "
            "update tidemark.streams set swaps = swaps + 2");
    }
    CHECK(both.live.tables.ask("select next_offset from offsets") == stood_at);
    both.live.source.increment("k", "10");
    both.check_total(11);
}

TEST_CASE("a generation whose commit was in doubt when it was swapped goes on in its new place") {
    for (const bool of_live : {false, true}) {
        CAPTURE(of_live);
        Network network;
        Running::Settings settings;
        settings.fence_wait = kFenceWait;
        auto cut_off = settings;
        cut_off.network = &network;
        Beside both(of_live ? cut_off : settings, of_live ? settings : cut_off);
        auto& one = of_live ? both.live : both.other;
        both.live.source.increment("k", "1");
        both.start();
        CHECK(both.live.reaches("1"));
        CHECK(both.other.reaches("1"));
        one.put_in_doubt(network, [&] { both.live.source.increment("k", "10"); });
        both.swap();
        network.delay(0ms);
        network.speak_again();
        both.live.source.increment("k", "100");
        both.check_total(111);
        CHECK(one.metric("tidemark_flushes_total{generation=\"" + std::to_string(one.target.generation) +
                         "\",outcome=\"fenced\",stream=\"counters\"}") == "1");
    }
}

TEST_CASE("folding ends without an error when the generation is dropped, whatever it is doing") {
    enum class Doing { nothing, writing, in_doubt };
    for (const auto doing : {Doing::nothing, Doing::writing, Doing::in_doubt}) {
        CAPTURE(static_cast<int>(doing));
        Network network;
        Running::Settings settings;
        settings.network = &network;
        Beside both({}, settings);
        both.live.source.increment("k", "1");
        both.start();
        REQUIRE(both.other.reaches("1"));
        const auto write = [&] { both.live.source.increment("k", "10"); };
        if (doing == Doing::writing) write();
        if (doing == Doing::in_doubt) both.other.put_in_doubt(network, write);
        drop_generation(both.live.database.dsn(), *both.live.target.projection, 2);
        network.delay(0ms);
        network.speak_again();
        REQUIRE(eventually([&] { return both.other.has_returned(); }));
        both.other.join();
        CHECK_FALSE(both.live.has_returned());
        both.live.source.increment("k", "100");
        CHECK(both.live.reaches(doing == Doing::nothing ? "101" : "111"));
    }
}

TEST_CASE("tables that are missing for a moment are waited for, the live ones by both") {
    Beside both;
    both.live.source.increment("k", "1");
    both.start();
    CHECK(both.other.reaches("1"));
    both.live.tables.execute("alter schema counters rename to elsewhere");
    both.live.source.increment("k", "10");
    CHECK(both.live.flushed_as("failed"));
    CHECK_FALSE(both.live.has_returned());
    CHECK_FALSE(both.other.has_returned());
    both.live.tables.execute("alter schema elsewhere rename to counters");
    both.check_total(11);
}

TEST_CASE("a candidate whose tables cannot be claimed is not taken for the live generation when it fails") {
    Running live;
    Running other(live, {});
    other.tables.execute("revoke update on offsets from current_user");
    other.start();
    CHECK_THROWS_AS(other.join(), pg::Error);
    CHECK_FALSE(other.processor.status().live);
}

TEST_CASE("windows older than the retention are dropped, of a candidate those that the live generation dropped") {
    Running::Settings following;
    following.retention_look = 20ms;
    auto keeping = following;
    keeping.window_retention = 50h;
    Beside both(keeping, following);
    for (const auto ago : {0h, 49h, 51h, 1'000h})
        both.live.source.late("k", ago);
    both.start();
    CHECK(both.live.reaches("4"));
    CHECK(both.other.reaches("4"));
    const std::string starts =
        "select string_agg(round(extract(epoch from (timestamptz 'epoch' + interval '1700000000 s' - window_start)) / "
        "3600)::text, ' ' order by window_start) from windows";
    CHECK(eventually([&] { return both.live.tables.ask(starts) == "49 0"; }));
    CHECK(eventually([&] { return both.other.tables.ask(starts) == "49 0"; }));
    const std::string from = "select extract(epoch from windows_from)::bigint::text from offsets";
    CHECK(both.live.tables.ask(from) == std::to_string((1'700'000'000 - 50 * 3'600) / 10 * 10));
    CHECK(both.other.tables.ask(from) == both.live.tables.ask(from));

    // It counts, and makes no window. How many of the earlier ones came late depends on when the cut was first known.
    const auto late = [](const Running& running) {
        return std::stoi(running.metric("tidemark_late_records_total{generation=\"" +
                                        std::to_string(running.target.generation) + "\",stream=\"counters\"}"));
    };
    const auto before = std::pair(late(both.live), late(both.other));
    both.live.source.late("k", 60h);
    CHECK(both.live.reaches("5"));
    CHECK(both.other.reaches("5"));
    CHECK(both.live.tables.ask(starts) == "49 0");
    CHECK(eventually([&] { return late(both.live) == before.first + 1; }));
    CHECK(eventually([&] { return late(both.other) == before.second + 1; }));
    both.check_total(5);
}

TEST_CASE("a broker whose clock was ahead has no window dropped that is not old by our clock") {
    Running::Settings keeping;
    keeping.retention_look = 20ms;
    keeping.window_retention = 50h;
    Running running(keeping);
    const auto now = SystemClock().now();
    const auto append = [&](Timestamp time, Timestamp append_time) {
        const auto event = EventSketch{kIncremented, increment_data("k", "1"), time, {}}.text();
        running.source.with([&](FakeLog& log, FakeSource&) { log.append(0, "k", event, append_time); });
    };
    append(now - 49h, now);
    append(now - 51h, now);
    append(now, now + 24h * 3'650);
    running.start();
    CHECK(running.reaches("3"));
    CHECK(eventually([&] { return running.tables.ask("select windows_from is not null from offsets") == "t"; }));
    CHECK(eventually([&] { return running.tables.ask("select count(*) from windows") == "2"; }));
    CHECK(running.tables.ask("select windows_from < now() - interval '50 hours' from offsets") == "t");
    running.stop();
}

TEST_CASE("what is made live begins its windows no earlier than what was read before") {
    Beside both;
    both.live.source.late("k", 100h);
    both.start();
    CHECK(both.live.reaches("1"));
    CHECK(both.other.reaches("1"));
    both.other.stop();
    // A candidate whose consumers have not heard of it yet.
    both.live.tables.execute("update offsets set windows_from = timestamptz 'epoch' + interval '1699900000 s'");
    const std::string from = "select extract(epoch from max(windows_from))::bigint::text from counters.offsets";
    CHECK(both.live.tables.ask(from) == "1699900000");
    both.swap();
    CHECK(both.live.tables_now().ask(from) == "1699900000");
    CHECK(both.other.tables_now().ask("select count(*)::text from api_counter_windows") == "0");
    both.swap();
    CHECK(both.live.tables_now().ask(from) == "1699900000");
}

TEST_CASE("a generation that an earlier version made is gone back to although it knows of no retention") {
    Beside both;
    both.live.source.increment("k", "1");
    both.start();
    CHECK(both.live.reaches("1"));
    CHECK(both.other.reaches("1"));
    both.live.stop();
    both.live.tables.execute("alter table offsets drop column windows_from cascade");
    both.swap();
    CHECK(both.other.tables_now().ask("select count(*)::text from counters.windows") == "1");
    both.swap();
    both.other.stop();
}
