#include "producer/event_publisher.h"

#include "tests/support/fake_clock.h"
#include "tests/support/fake_sink.h"
#include "tests/unit/producer/allocations.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <future>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

using namespace tidemark;
using namespace tidemark::producer;
using namespace std::chrono_literals;
using kafka::Persistence;
using tests::FakeClock;
using tests::FakeSink;

namespace {

struct Fixture {
    explicit Fixture(EventPublisherOptions options = {})
        : publisher(std::make_unique<EventPublisher>(options, clock, [this](kafka::RecordSink::Listener& listener) {
              auto made = std::make_unique<FakeSink>(listener);
              sink = made.get();
              return made;
          })) {}

    void publish(std::string_view key = "k", std::string_view value = "v") {
        const std::size_t n = outcomes.size();
        outcomes.emplace_back();
        publisher->publish({0, key, value}, [this, n](const Published& published) noexcept {
            ++outcomes[n].calls;
            outcomes[n].published = published;
        });
    }
    Outcome outcome(std::size_t n) {
        REQUIRE(outcomes.at(n).calls == 1);
        return outcomes[n].published.outcome;
    }
    bool answered(std::size_t n) { return outcomes.at(n).calls != 0; }

    struct Seen {
        int calls = 0;
        Published published;
    };
    FakeClock clock;
    FakeSink* sink = nullptr;
    std::vector<Seen> outcomes;
    std::unique_ptr<EventPublisher> publisher;
};

}  // namespace

TEST_CASE("an event is accepted when its delivery report says persisted, not earlier, with its position") {
    Fixture f;
    f.publish("abcdef", R"({"a":1})");
    CHECK_FALSE(f.answered(0));
    f.sink->tick();
    CHECK_FALSE(f.answered(0));
    f.sink->ack(0, 2, 17);
    CHECK(f.outcome(0) == Outcome::accepted);
    CHECK(f.outcomes[0].published.partition == 2);
    CHECK(f.outcomes[0].published.offset == 17);
    CHECK(f.publisher->counters().accepted == 1);
    CHECK(f.publisher->counters().in_flight == 0);
    CHECK(f.publisher->counters().bytes == 0);
}

TEST_CASE("a record carries key, value, its content type, and traceparent only when there is one") {
    Fixture f;
    f.publisher->publish({4, "k", "v", "00-ab-cd-01"}, [](const Published&) noexcept {});
    f.publish("l", "w");
    using Headers = std::vector<std::pair<std::string, std::string>>;
    CHECK(f.sink->record(0).topic == 4);
    CHECK(f.sink->record(0).key == "k");
    CHECK(f.sink->record(0).value == "v");
    CHECK(f.sink->record(0).headers ==
          Headers{{"content-type", "application/cloudevents+json"}, {"traceparent", "00-ab-cd-01"}});
    CHECK(f.sink->record(1).headers == Headers{{"content-type", "application/cloudevents+json"}});
}

TEST_CASE("headers that are given stand behind an event's own, or alone, and more than a record may have are refused") {
    Fixture f;
    using Headers = std::vector<std::pair<std::string, std::string>>;
    const std::vector<kafka::Header> given{{"a", "1"}, {"b", "2"}};
    f.publisher->publish({.key = "k", .value = "v", .traceparent = "00", .headers = given},
                         [](const Published&) noexcept {});
    f.publisher->publish({.key = "k", .value = "v", .headers = given, .bare = true}, [](const Published&) noexcept {});
    f.publisher->publish({.key = "k", .value = "v", .bare = true}, [](const Published&) noexcept {});
    CHECK(f.sink->record(0).headers ==
          Headers{{"content-type", "application/cloudevents+json"}, {"traceparent", "00"}, {"a", "1"}, {"b", "2"}});
    CHECK(f.sink->record(1).headers == Headers{{"a", "1"}, {"b", "2"}});
    CHECK(f.sink->record(2).headers.empty());
    CHECK(f.publisher->counters().bytes == 3 * 2 + 2 * 4);
    const std::vector<kafka::Header> many(kafka::kMaxHeaders - 1, {"a", "1"});
    CHECK_THROWS_AS(f.publisher->publish({.key = "k", .value = "v", .headers = many}, [](const Published&) noexcept {}),
                    std::invalid_argument);
}

TEST_CASE("an event is sent to the partition that it names, or to its key's") {
    Fixture f;
    f.publish();
    f.publisher->publish({.topic = 0, .key = "k", .value = "v", .partition = 3}, [](const Published&) noexcept {});
    CHECK_FALSE(f.sink->record(0).partition);
    CHECK(f.sink->record(1).partition == 3);
    CHECK(f.sink->record(1).key == "k");
}

TEST_CASE("an empty key is refused, for it would have no one partition") {
    Fixture f;
    CHECK_THROWS_AS(f.publisher->publish({0, "", "v"}, [](const Published&) noexcept {}), std::invalid_argument);
    CHECK(f.sink->size() == 0);
    CHECK(f.publisher->counters().in_flight == 0);
}

TEST_CASE("what the sink refuses is answered before publish returns, each refusal by its name") {
    Fixture f;
    f.sink->set_answer(kafka::Enqueued::full);
    f.publish();
    CHECK(f.outcome(0) == Outcome::overloaded);
    f.sink->set_answer(kafka::Enqueued::too_large);
    f.publish();
    CHECK(f.outcome(1) == Outcome::too_large);
    f.sink->set_available(false);
    f.publish();
    CHECK(f.outcome(2) == Outcome::unavailable);
    CHECK_FALSE(f.publisher->available());
    const auto counters = f.publisher->counters();
    CHECK(counters.overloaded == 1);
    CHECK(counters.too_large == 1);
    CHECK(counters.unavailable == 1);
    CHECK(counters.in_flight == 0);
    CHECK(counters.bytes == 0);
}

TEST_CASE("more records in flight than the cap are overloaded, and room comes back with each report") {
    Fixture f({.max_records = 2});
    f.publish();
    f.publish();
    f.publish();
    CHECK(f.outcome(2) == Outcome::overloaded);
    CHECK(f.sink->size() == 2);
    f.sink->ack(1, 0, 0);
    f.publish();
    CHECK_FALSE(f.answered(3));
    CHECK(f.publisher->counters().in_flight == 2);
}

TEST_CASE("more bytes in flight than the cap are overloaded, keys counted") {
    Fixture f({.max_bytes = 10});
    f.publish("key", "value");
    f.publish("key", "");
    CHECK(f.outcome(1) == Outcome::overloaded);
    f.publish("k", "v");
    CHECK_FALSE(f.answered(2));
    CHECK(f.publisher->counters().bytes == 10);
    f.publish("a", std::string(100, 'x'));
    CHECK(f.outcome(3) == Outcome::overloaded);
}

TEST_CASE("a report that the record was not stored is unavailable, that it may be stored is unknown") {
    Fixture f;
    f.publish();
    f.publish();
    f.sink->fail(0, Persistence::not_persisted);
    f.sink->fail(1, Persistence::possibly_persisted);
    CHECK(f.outcome(0) == Outcome::unavailable);
    CHECK(f.outcome(1) == Outcome::unknown);
}

TEST_CASE(
    "at the deadline what was not sent comes back as unavailable, what was on the wire is unknown after the grace") {
    Fixture f;
    f.publish();
    f.publish();
    f.sink->send(1);
    f.clock.advance(4'999ms);
    f.sink->expire(f.clock.steady());
    f.sink->tick();
    CHECK_FALSE(f.answered(0));
    f.clock.advance(1ms);
    f.sink->expire(f.clock.steady());
    CHECK(f.outcome(0) == Outcome::unavailable);
    f.clock.advance(49ms);
    f.sink->tick();
    CHECK_FALSE(f.answered(1));
    f.clock.advance(1ms);
    f.sink->tick();
    CHECK(f.outcome(1) == Outcome::unknown);
}

TEST_CASE("a report within the grace after the deadline still decides") {
    Fixture f;
    f.publish();
    f.sink->send(0);
    f.clock.advance(5s);
    f.sink->tick();
    f.clock.advance(20ms);
    f.sink->ack(0, 1, 9);
    CHECK(f.outcome(0) == Outcome::accepted);
    f.clock.advance(1s);
    f.sink->tick();
    CHECK(f.outcomes[0].calls == 1);
}

TEST_CASE("an event answered unknown keeps its place in flight until its late report, which answers nobody") {
    Fixture f({.max_records = 1});
    f.publish();
    f.sink->send(0);
    f.clock.advance(5s);
    f.sink->tick();
    f.clock.advance(50ms);
    f.sink->tick();
    CHECK(f.outcome(0) == Outcome::unknown);
    f.publish();
    CHECK(f.outcome(1) == Outcome::overloaded);
    f.sink->ack(0, 0, 5);
    CHECK(f.outcomes[0].calls == 1);
    CHECK(f.publisher->counters().late_persisted == 1);
    CHECK(f.publisher->counters().accepted == 0);
    f.publish();
    CHECK_FALSE(f.answered(2));
}

TEST_CASE("events that reach their deadline one after the other become unknown each in its turn") {
    Fixture f;
    for (int n = 0; n < 30; ++n) {
        f.publish();
        f.clock.advance(20ms);
    }
    f.sink->send_all();
    f.clock.advance(5s - 30 * 20ms);
    for (std::size_t n = 0; n < 30; ++n) {
        f.sink->tick();
        f.clock.advance(20ms);
        CHECK(f.answered(n) == false);
        if (n >= 3) CHECK(f.outcome(n - 3) == Outcome::unknown);
    }
}

TEST_CASE("more than one chunk of reports or of overdue events is answered at once, each exactly once") {
    Fixture f;
    for (int n = 0; n < 1'000; ++n)
        f.publish();
    for (std::size_t n = 500; n < 1'000; ++n)
        f.sink->send(n);
    f.clock.advance(5s);
    f.sink->expire(f.clock.steady());
    f.clock.advance(50ms);
    f.sink->tick();
    for (std::size_t n = 0; n < 500; ++n)
        REQUIRE(f.outcome(n) == Outcome::unavailable);
    for (std::size_t n = 500; n < 1'000; ++n)
        REQUIRE(f.outcome(n) == Outcome::unknown);
    CHECK(f.publisher->counters().in_flight == 500);
    f.sink->ack_all();
    CHECK(f.publisher->counters().in_flight == 0);
    CHECK(f.publisher->counters().late_persisted == 500);
}

TEST_CASE("a report with the tag of an earlier holder of the slot, or of none, changes nothing") {
    Fixture f({.max_records = 1});
    f.publish();
    const auto old_tag = f.sink->record(0).tag;
    f.sink->ack(0, 0, 1);
    f.publish();
    f.sink->deliver({{old_tag, Persistence::persisted, 0, 1}, {~std::uint64_t{0}, Persistence::persisted, 0, 1}});
    CHECK_FALSE(f.answered(1));
    CHECK(f.publisher->counters().in_flight == 1);
}

TEST_CASE("an event that the sink refuses after its deadline passed inside produce is answered once") {
    static Fixture* current = nullptr;
    Fixture f;
    current = &f;
    // The thread that publishes stands still between the two, while the sink's thread goes on.
    f.sink->before_produce = [] {
        current->clock.advance(5s);
        current->sink->tick();
        current->clock.advance(50ms);
        current->sink->tick();
    };
    f.sink->set_answer(kafka::Enqueued::unavailable);
    f.publish();
    CHECK(f.outcome(0) == Outcome::unknown);
    CHECK(f.publisher->counters().in_flight == 0);
}

TEST_CASE("what is still in flight when the publisher dies is answered by then") {
    Fixture f;
    f.publish();
    f.publish();
    f.sink->send(1);
    f.publisher.reset();
    CHECK(f.outcome(0) == Outcome::unavailable);
    CHECK(f.outcome(1) == Outcome::unknown);
}

TEST_CASE("a completion may publish again") {
    Fixture f;
    Outcome second = Outcome::unknown;
    f.publisher->publish({0, "a", "1"}, [&f, &second](const Published&) noexcept {
        f.publisher->publish({0, "b", "2"},
                             [&second](const Published& published) noexcept { second = published.outcome; });
    });
    f.sink->ack(0, 0, 0);
    REQUIRE(f.sink->size() == 2);
    f.sink->ack(1, 0, 1);
    CHECK(second == Outcome::accepted);
}

TEST_CASE("waiting until nothing is in flight ends with the last report, or at the limit") {
    Fixture f;
    CHECK(f.publisher->wait_idle(0ms));
    f.publish();
    CHECK_FALSE(f.publisher->wait_idle(1ms));
    auto waited = std::async(std::launch::async, [&] { return f.publisher->wait_idle(30s); });
    f.sink->ack(0, 0, 0);
    CHECK(waited.get());
}

TEST_CASE("publishing and answering allocate nothing") {
    struct Sink final : kafka::RecordSink {
        explicit Sink(Listener& its_listener) : listener(its_listener) { tags.reserve(1'000); }
        kafka::Enqueued produce(const kafka::NewRecord& record) noexcept override {
            tags.push_back({record.tag, Persistence::persisted, 0, 1});
            return kafka::Enqueued::ok;
        }
        [[nodiscard]] bool available() const noexcept override { return true; }
        Listener& listener;
        std::vector<kafka::Delivery> tags;
    };
    FakeClock clock;
    Sink* sink = nullptr;
    EventPublisher publisher({}, clock, [&sink](kafka::RecordSink::Listener& listener) {
        auto made = std::make_unique<Sink>(listener);
        sink = made.get();
        return made;
    });
    std::uint64_t accepted = 0;
    const auto before = tests::allocations();
    for (int n = 0; n < 1'000; ++n) {
        publisher.publish({0, "key", "value", "trace"}, [&accepted](const Published&) noexcept { ++accepted; });
    }
    sink->listener.on_tick();
    sink->listener.on_deliveries(sink->tags);
    CHECK(tests::allocations() == before);
    CHECK(accepted == 1'000);
}

TEST_CASE("publishers on several threads, reports and deadlines at once: every event is answered exactly once") {
    Fixture f({.max_records = 64});
    constexpr int kThreads = 3;
    constexpr int kEach = 4'000;
    std::vector<std::atomic<int>> calls(kThreads * kEach);
    std::atomic<int> running{kThreads};
    std::vector<std::thread> threads;
    for (int t = 0; t < kThreads; ++t) {
        threads.emplace_back([&, t] {
            for (int n = 0; n < kEach; ++n) {
                f.publisher->publish({0, "k", "v"}, [&calls, slot = t * kEach + n](const Published&) noexcept {
                    ++calls[static_cast<std::size_t>(slot)];
                });
            }
            --running;
        });
    }
    std::mt19937 random(1);
    std::size_t next = 0;
    while (running.load() > 0 || next < f.sink->size()) {
        f.clock.advance(std::chrono::milliseconds(random() % 2'000));
        f.sink->expire(f.clock.steady());
        f.sink->tick();
        for (const std::size_t end = f.sink->size(); next < end; ++next) {
            // What expires does so on this thread, so only what has not been given back is open.
            if (!f.sink->record(next).answered) f.sink->ack(next, 0, 0);
        }
    }
    for (auto& thread : threads)
        thread.join();
    CHECK(std::all_of(calls.begin(), calls.end(), [](const std::atomic<int>& count) { return count == 1; }));
    CHECK(f.publisher->counters().in_flight == 0);
}
