#include "producer/import.h"

#include "tests/support/fake_clock.h"

#include <doctest/doctest.h>

#include <chrono>
#include <condition_variable>
#include <ctime>
#include <deque>
#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <set>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

using namespace tidemark;
using namespace tidemark::producer;

namespace {

// A sink with a broker behind it that answers by itself, on the sink's thread, as the script says.
class AnsweringSink final : public kafka::RecordSink {
public:
    struct Script {
        std::size_t full_at_first = 0;                      // how many produce calls find no room
        std::size_t most_bytes = 10'000;                    // a longer value is too large
        std::map<std::size_t, kafka::Persistence> answers;  // by order of taking; all others are persisted
        std::optional<std::size_t> late;                    // the one whose answer needs a while
    };

    AnsweringSink(Listener& listener, Script script)
        : listener_(listener), script_(std::move(script)), thread_([this] { run(); }) {}
    ~AnsweringSink() override {
        {
            const std::lock_guard lock(mutex_);
            done_ = true;
        }
        changed_.notify_all();
        thread_.join();
    }

    kafka::Enqueued produce(const kafka::NewRecord& record) noexcept override {
        {
            const std::lock_guard lock(mutex_);
            if (record.value.size() > script_.most_bytes) return kafka::Enqueued::too_large;
            if (refused_++ < script_.full_at_first) return kafka::Enqueued::full;
            taken_.push_back({record.topic, std::string(record.key), std::string(record.value), {}});
            for (const auto& header : record.headers) {
                taken_.back().headers.push_back(
                    std::string(header.name) + (header.value.data() == nullptr ? "" : "=" + std::string(header.value)));
            }
            tags_.push_back(record.tag);
        }
        changed_.notify_all();
        return kafka::Enqueued::ok;
    }
    [[nodiscard]] bool available() const noexcept override { return true; }

    struct Taken {
        kafka::TopicIndex topic = 0;
        std::string key;
        std::string value;
        std::vector<std::string> headers;
    };
    // The log as it came to be: what was persisted, in order.
    std::vector<Taken> log() {
        const std::lock_guard lock(mutex_);
        return log_;
    }

private:
    void run() {
        std::unique_lock lock(mutex_);
        while (true) {
            changed_.wait(lock, [this] { return done_ || answered_ < tags_.size(); });
            if (answered_ == tags_.size()) return;
            const auto n = answered_++;
            const auto scripted = script_.answers.find(n);
            const auto persistence =
                scripted == script_.answers.end() ? kafka::Persistence::persisted : scripted->second;
            if (persistence == kafka::Persistence::persisted) log_.push_back(taken_[n]);
            const kafka::Delivery delivery{tags_[n], persistence, 0, static_cast<std::int64_t>(n)};
            lock.unlock();
            if (script_.late == n) std::this_thread::sleep_for(std::chrono::milliseconds(500));
            listener_.on_deliveries({&delivery, 1});
            lock.lock();
        }
    }

    Listener& listener_;
    Script script_;
    std::mutex mutex_;
    std::condition_variable changed_;
    std::size_t refused_ = 0;
    std::vector<Taken> taken_;
    std::vector<std::uint64_t> tags_;
    std::vector<Taken> log_;
    std::size_t answered_ = 0;
    bool done_ = false;
    std::thread thread_;
};

std::string increment(const std::string& key, int value) {
    return R"({"specversion":"1.0","id":"1","source":"s","type":"tidemark.counter.incremented.v1","time":"2023-01-01T00:00:00Z","data":{"key":")" +
           key + R"(","value":)" + std::to_string(value) + "}}";
}

struct Run {
    ImportReport report;
    std::string metrics;
    std::string errors;
    std::vector<AnsweringSink::Taken> log;
};

Run import_text(
    const std::string& text, AnsweringSink::Script script = {},
    const std::function<bool(std::chrono::milliseconds)>& give_up = [](auto) { return false; },
    ImportOptions options = {}) {
    tests::FakeClock clock;
    AnsweringSink* sink = nullptr;
    EventPublisher publisher({}, clock, [&](kafka::RecordSink::Listener& listener) {
        auto made = std::make_unique<AnsweringSink>(listener, script);
        sink = made.get();
        return made;
    });
    std::istringstream lines(text);
    std::ostringstream errors;
    Run run;
    base::Metrics metrics;
    ImportMetrics import_metrics(metrics);
    options.give_up = give_up;
    run.report = import_lines(lines, publisher, import_metrics, clock, errors, options);
    run.metrics = metrics.render();
    run.errors = errors.str();
    run.log = sink->log();
    return run;
}

}  // namespace

TEST_CASE("an import waits without work while one line came back and others are still out") {
    const auto cpu_now = [] {
        timespec at{};
        REQUIRE(::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &at) == 0);
        return std::chrono::seconds(at.tv_sec) + std::chrono::nanoseconds(at.tv_nsec);
    };
    const auto before = cpu_now();
    const auto run = import_text(increment("a", 1) + "\n" + increment("b", 2) + "\n",
                                 {.answers = {{0, kafka::Persistence::not_persisted}}, .late = 1});
    CHECK(run.report.accepted == 2);
    CHECK(cpu_now() - before < std::chrono::milliseconds(250));  // it waits for twice as long
}

TEST_CASE("an imported line reaches its stream's topic byte for byte, under its entity's key") {
    const auto line =
        R"( {"specversion":"1.0", "id":"7","source":"s","extra":"kept","type":"tidemark.vehicle.state_changed.v1","data":{"id":3,"state":"sold"}} )";
    const auto run = import_text(std::string(line) + "\n\n" + increment("a", 1));
    CHECK(run.report.clean());
    CHECK(run.report.lines == 2);
    REQUIRE(run.log.size() == 2);
    CHECK(run.log[0].topic == 1);
    CHECK(run.log[0].key == "3");
    CHECK(run.log[0].value == line);
    CHECK(run.log[1].topic == 0);
    CHECK(run.log[1].key == "a");
}

TEST_CASE("a line that is no valid event is named with everything that is wrong, and the others go on") {
    const auto run =
        import_text("{broken\n" + increment("", 1) + "\n" + increment("a", 1) + "\n" +
                    R"({"specversion":"1.0","id":"1","source":"s","type":"tidemark.counter.reset.v1","data":{}})");
    CHECK(run.report.lines == 4);
    CHECK(run.report.refused == 3);
    CHECK(run.report.accepted == 1);
    CHECK_FALSE(run.report.clean());
    CHECK(run.errors.find("line 1: ") != std::string::npos);
    CHECK(run.errors.find("line 2: /data/key") != std::string::npos);
    CHECK(run.errors.find("line 4: /type") != std::string::npos);
}

TEST_CASE("what was another log's own is skipped and counted, and its line keeps its number") {
    const std::string decision =
        R"({"specversion":"1.0","id":"1","source":"s","type":"tidemark.dead_letter.discarded.v1","data":{"offset":1}})";
    const auto run = import_text(decision + "\n" + increment("a", 1), {}, [](auto) { return false; }, {.file = "f"});
    CHECK(run.report.lines == 2);
    CHECK(run.report.skipped == 1);
    CHECK(run.report.accepted == 1);
    CHECK(run.report.clean());
    CHECK(run.report.next_line == 0);
    CHECK(run.errors.empty());
    CHECK(run.metrics.find(R"(tidemark_import_outcomes_total{outcome="skipped"} 1)") != std::string::npos);
    REQUIRE(run.log.size() == 1);
    CHECK(run.log[0].key == "a");
}

TEST_CASE("an event more than an hour ahead is refused before it is sent") {
    auto line = increment("a", 1);
    line.replace(line.find("2023-01-01"), 10, "2033-01-01");
    const auto run = import_text(line);
    CHECK(run.report.refused == 1);
    CHECK(run.log.empty());
    CHECK(run.errors.find("/time") != std::string::npos);
}

TEST_CASE("what finds no room is offered again, in the file's order") {
    std::string text;
    for (int n = 0; n < 40; ++n)
        text += increment("same", n) + "\n";
    AnsweringSink::Script script;
    script.full_at_first = 5;
    const auto run = import_text(text, script);
    CHECK(run.report.clean());
    REQUIRE(run.log.size() == 40);
    for (int n = 0; n < 40; ++n)
        CHECK(run.log[static_cast<std::size_t>(n)].value == increment("same", n));
}

TEST_CASE("what is given back is offered again until it is stored, once") {
    std::string text;
    for (int n = 0; n < 40; ++n)
        text += increment("same", n) + "\n";
    AnsweringSink::Script script;
    for (std::size_t n = 20; n < 40; ++n)
        script.answers[n] = kafka::Persistence::not_persisted;
    const auto run = import_text(text, script);
    CHECK(run.report.clean());
    std::multiset<std::string> stored;
    for (const auto& record : run.log)
        stored.insert(record.value);
    std::multiset<std::string> expected;
    for (int n = 0; n < 40; ++n)
        expected.insert(increment("same", n));
    CHECK(stored == expected);
}

TEST_CASE("an event that may have been stored is reported as unknown and not sent again") {
    AnsweringSink::Script script;
    script.answers[1] = kafka::Persistence::possibly_persisted;
    const auto run = import_text(increment("a", 1) + "\n" + increment("a", 2) + "\n" + increment("a", 3), script);
    CHECK(run.report.accepted == 2);
    CHECK(run.report.unknown == 1);
    CHECK(run.log.size() == 2);
    CHECK(run.errors.find("line 2: ") != std::string::npos);
}

TEST_CASE("each record names its line, blank and refused ones counted, behind what every event gets") {
    const auto run = import_text(increment("a", 1) + "\n\n{broken\n" + increment("b", 2), {},
                                 [](auto) { return false; }, {.file = "AAAAAAAAAAAAAAAAAAAAAA"});
    REQUIRE(run.log.size() == 2);
    CHECK(run.log[0].headers ==
          std::vector<std::string>{"content-type=application/cloudevents+json", "import=AAAAAAAAAAAAAAAAAAAAAA:1"});
    CHECK(run.log[1].headers.back() == "import=AAAAAAAAAAAAAAAAAAAAAA:4");
    CHECK(run.report.next_line == 0);
    const auto nameless = import_text(increment("a", 1));
    CHECK(nameless.log.at(0).headers == std::vector<std::string>{"content-type=application/cloudevents+json"});
}

TEST_CASE("an envelope's record gets its own headers back, in order, and no others but its line's when it has none") {
    const std::string envelope =
        R"({"record":"counters","key":"azE=","value":"e30=","headers":[{"name":"b","value":"MDA="},)"
        R"({"name":"import","value":"QUFBQUFBQUFBQUFBQUFBQUFBQUFBQTo3"},{"name":"a","value":""},{"name":"a","value":null},)"
        R"({"name":"import","value":"bWluZQ=="},{"name_base64":"/w==","value":"MQ=="}]})";
    const auto run = import_text(envelope, {}, [](auto) { return false; }, {.file = "BBBBBBBBBBBBBBBBBBBBBB"});
    REQUIRE(run.log.size() == 1);
    CHECK(run.log[0].headers == std::vector<std::string>{"b=00", "import=AAAAAAAAAAAAAAAAAAAAAA:7", "a=", "a",
                                                         "import=mine", "\xFF=1", "import=BBBBBBBBBBBBBBBBBBBBBB:1"});
    const auto named = import_text(
        R"({"record":"counters","key":"azE=","value":"e30=","headers":[{"name":"import","value":"bWluZQ=="},)"
        R"({"name":"import","value":"QUFBQUFBQUFBQUFBQUFBQUFBQUFBQTo3"}]})",
        {}, [](auto) { return false; }, {.file = "BBBBBBBBBBBBBBBBBBBBBB"});
    CHECK(named.log.at(0).headers == std::vector<std::string>{"import=mine", "import=AAAAAAAAAAAAAAAAAAAAAA:7"});
    const auto nameless = import_text(R"({"record":"counters","key":"azE=","value":"e30=","headers":[]})");
    REQUIRE(nameless.log.size() == 1);
    CHECK(nameless.log[0].headers.empty());
}

TEST_CASE("an import goes on from a line, whose number stays what it is in the file") {
    const auto run = import_text("{broken\n" + increment("a", 2) + "\n" + increment("a", 3), {},
                                 [](auto) { return false; }, {.file = "AAAAAAAAAAAAAAAAAAAAAA", .from_line = 3});
    CHECK(run.report.clean());
    CHECK(run.report.lines == 1);
    REQUIRE(run.log.size() == 1);
    CHECK(run.log[0].value == increment("a", 3));
    CHECK(run.log[0].headers.back() == "import=AAAAAAAAAAAAAAAAAAAAAA:3");
}

TEST_CASE("an event that may have been stored is sent again if it names its line") {
    AnsweringSink::Script script;
    script.answers[1] = kafka::Persistence::possibly_persisted;
    const auto run = import_text(increment("a", 1) + "\n" + increment("a", 2) + "\n" + increment("a", 3), script,
                                 [](auto) { return false; }, {.file = "AAAAAAAAAAAAAAAAAAAAAA"});
    CHECK(run.report.clean());
    CHECK(run.errors.empty());
    REQUIRE(run.log.size() == 3);
    CHECK(run.log.back().value == increment("a", 2));
    CHECK(run.log.back().headers.back() == "import=AAAAAAAAAAAAAAAAAAAAAA:2");
}

TEST_CASE("an import that ends early says from which line to go on") {
    const auto text = increment("a", 1) + "\n{broken\n" + increment("a", 3) + "\n" + increment("a", 4);
    AnsweringSink::Script script;
    script.answers[1] = kafka::Persistence::not_persisted;
    script.answers[2] = kafka::Persistence::possibly_persisted;
    auto run = import_text(text, script, [](auto) { return true; }, {.file = "AAAAAAAAAAAAAAAAAAAAAA"});
    CHECK(run.report.next_line == 3);
    CHECK(run.report.failed + run.report.unknown >= 1);
    CHECK(run.report.accepted == 1);

    // Nobody knows of the last one; those that were refused are another matter.
    script.answers = {{2, kafka::Persistence::possibly_persisted}};
    run = import_text(text, script);
    CHECK(run.report.complete);
    CHECK(run.report.unknown == 1);
    CHECK(run.report.next_line == 4);
    CHECK(import_text(text).report.next_line == 0);
}

TEST_CASE("a file is named by its bytes") {
    const auto hash = [](const std::string& bytes) {
        std::istringstream stream(bytes);
        return hash_of(stream);
    };
    // The first 16 bytes of the well-known SHA-256 of nothing, and of "abc".
    CHECK(hash("") == "47DEQpj8HBSa-_TImW-5JA");
    CHECK(hash("abc") == "ungWv48Bz-pBQUDeXa4iIw");
    CHECK(hash(std::string(200'000, 'x')) != hash(std::string(200'001, 'x')));
    std::istringstream broken("abc");
    broken.setstate(std::ios::badbit);
    CHECK_THROWS_AS(hash_of(broken), std::runtime_error);
}

TEST_CASE("the metrics of an import say what became of its lines, as its report does") {
    AnsweringSink::Script script;
    script.answers[0] = kafka::Persistence::possibly_persisted;
    const auto ended = import_text(increment("a", 1) + "\n\n{broken\n" + increment("a", 2), script);
    const auto says = [](const Run& run, const std::string& line) {
        return run.metrics.find("\n" + line + "\n") != std::string::npos;
    };
    CHECK(says(ended, "tidemark_import_lines_total 3"));
    CHECK(says(ended, R"(tidemark_import_outcomes_total{outcome="accepted"} 1)"));
    CHECK(says(ended, R"(tidemark_import_outcomes_total{outcome="failed"} 0)"));
    CHECK(says(ended, R"(tidemark_import_outcomes_total{outcome="refused"} 1)"));
    CHECK(says(ended, R"(tidemark_import_outcomes_total{outcome="unknown"} 1)"));

    const auto too_large = import_text(increment("a", 1) + std::string(script.most_bytes, ' '));
    CHECK(too_large.report.refused == 1);
    CHECK(too_large.errors == "line 1: too large for its topic\n");
    CHECK(says(too_large, R"(tidemark_import_outcomes_total{outcome="refused"} 1)"));

    script.full_at_first = 1'000'000;
    const auto given_up = import_text(increment("a", 1), script, [](auto) { return true; });
    CHECK(given_up.report.failed == 1);
    CHECK(says(given_up, R"(tidemark_import_outcomes_total{outcome="failed"} 1)"));
}

TEST_CASE("an import that gives up names every line that was not stored") {
    AnsweringSink::Script script;
    script.full_at_first = 1'000'000;
    const auto run = import_text(increment("a", 1) + "\n" + increment("b", 2), script, [](auto) { return true; });
    CHECK(run.report.accepted == 0);
    CHECK(run.errors.find("line 1: not stored") != std::string::npos);
    CHECK(run.errors.find("not read beyond line") != std::string::npos);
    CHECK_FALSE(run.report.complete);
    CHECK_FALSE(run.report.clean());
}
