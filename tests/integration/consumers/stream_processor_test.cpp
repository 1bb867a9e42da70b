#include "consumers/stream_processor.h"

#include "consumers/projections.h"
#include "tests/integration/consumers/random_log.h"
#include "tests/integration/consumers/scratch.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <exception>
#include <functional>
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
using tidemark::consumers::find_projection;
using tidemark::consumers::LogMismatch;
using tidemark::consumers::ProcessorOptions;
using tidemark::consumers::StreamProcessor;
using tidemark::consumers::Target;
using tidemark::test::eventually;
using tidemark::test::Network;
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

/// A FakeSource that waits as a real one does, over a log that the test may write to meanwhile.
class SharedSource final : public kafka::RecordSource {
public:
    explicit SharedSource(std::int32_t partitions) : log_(partitions), source_(log_) { identify(log_); }

    /// Whatever the test does to the log and the group.
    void with(const std::function<void(FakeLog&, FakeSource&)>& action) {
        const std::lock_guard lock(mutex_);
        action(log_, source_);
    }
    void increment(const std::string& key, const std::string& value, std::int32_t partition = 0) {
        const auto event = EventSketch{kIncremented, increment_data(key, value), kAppended, {}}.text();
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
    std::mutex mutex_;  // guards both
    FakeLog log_;
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
    };

    explicit Running(Settings settings)
        : source(settings.partitions),
          target(database.make_generation(*find_projection("counters"), settings.partitions)),
          tables(database, target),
          settings_(std::move(settings)),
          processor(options(), target, source, settings_.check_log, clock_, metrics_) {
        source.with([](FakeLog& log, FakeSource& group) {
            std::vector<std::int32_t> all;
            for (std::int32_t partition = 0; partition < log.partitions(); ++partition)
                all.push_back(partition);
            group.grant(all);
        });
    }
    Running() : Running(Settings{}) {}
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

    [[nodiscard]] bool reaches(const std::string& total) {
        return eventually([&] {
            return tables.ask("select coalesce((select value::text from totals where key = 'k'), 'none')") == total;
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
            const auto count = metric(R"(tidemark_flushes_total{outcome=")" + outcome + R"(",stream="counters"})");
            return !count.empty() && count != "0";
        });
    }

    ScratchDatabase database;
    SharedSource source;
    Target target;
    Tables tables;

private:
    [[nodiscard]] ProcessorOptions options() const {
        ProcessorOptions options;
        options.dsn = settings_.network != nullptr ? database.dsn(*settings_.network) : database.dsn();
        options.owner = "test";
        options.state.limits.interval = settings_.interval;
        options.state.fence_wait = 50ms;
        options.drain = settings_.drain;
        return options;
    }

    Settings settings_;
    SystemClock clock_;
    Metrics metrics_;
    std::exception_ptr ended_;
    std::thread thread_;

public:
    StreamProcessor processor;
};

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
    CHECK(running.metric(R"(tidemark_records_total{stream="counters",verdict="applied"})") == "6");
}

TEST_CASE("what is buffered when it is stopped is written first") {
    Running running({1, 60s});
    running.source.increment("k", "1");
    running.start();
    CHECK(eventually([&] { return running.metric(R"(tidemark_buffered_records{stream="counters"})") == "2"; }));
    CHECK(running.tables.ask("select count(*) from totals") == "0");
    running.stop();
    CHECK(running.reaches("1"));
}

TEST_CASE("a waiting reader is served before the interval is over") {
    Running running({1, 60s});
    running.source.increment("k", "1");
    running.start();
    CHECK(eventually([&] { return running.metric(R"(tidemark_buffered_records{stream="counters"})") == "2"; }));
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
        CHECK(eventually([&] { return running.metric(R"(tidemark_buffered_records{stream="counters"})") == "2"; }));
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
        CHECK(running.metric(R"(tidemark_flushes_total{outcome="fenced",stream="counters"})") == "0");
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
    CHECK(eventually([&] { return running.metric(R"(tidemark_buffered_records{stream="counters"})") == "2"; }));
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
