#pragma once

#include "api/counters.h"
#include "api/dead_letters.h"
#include "api/events.h"
#include "api/generations.h"
#include "api/read.h"
#include "api/vehicles.h"
#include "infra/http/router.h"
#include "producer/event_publisher.h"
#include "tests/support/fake_sink.h"
#include "tests/support/postgres.h"
#include "tests/unit/api/answers.h"

#include <doctest/doctest.h>

#include <atomic>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace tidemark::tests {

using namespace api;
using namespace std::chrono_literals;
using test::eventually;

/// An answer that another thread may bring.
class Pending final : public http::Reply::Target {
public:
    bool complete(std::uint64_t, int given_status, std::string_view, std::string_view header_lines,
                  std::string_view text) noexcept override {
        lines = header_lines;
        body = text;
        status = given_status;
        return true;
    }
    void extend(std::uint64_t, std::uint32_t) noexcept override {}

    std::string lines;
    std::string body;
    std::atomic<int> status{-1};
};

/// The routes over real tables. The broker is the test: the log's identity is the registry's, its end is never known.
struct Served {
    explicit Served(const std::string& dsn)
        : pool({.dsn = dsn, .session = {}, .connections = 1}),
          watch(watch_options(dsn), clock),
          publisher({}, clock,
                    [this](kafka::RecordSink::Listener& listener) {
                        auto made = std::make_unique<FakeSink>(listener);
                        sink = made.get();
                        return made;
                    }),
          cache({}),
          writer(publisher, watch, clock),
          reads(pool, watch, clock) {
        add_counters(router, writer, reads);
        add_vehicles(router, writer, reads, cache);
        add_dead_letters(router, writer, reads);
        add_events(router, reads);
        add_generations(router, reads);
        REQUIRE(eventually([&] { return pool.connected() && !watch.trouble(); }));
    }
    ~Served() {
        watch.release();
        reads.wait_idle();
    }

    static ProgressWatchOptions watch_options(const std::string& dsn) {
        ProgressWatchOptions options;
        options.dsn = dsn;
        options.brokers = "127.0.0.1:1";
        options.broker_timeout = 100ms;
        options.poll_interval = 60s;  // what the tests see must have come by notification
        return options;
    }

    std::shared_ptr<Pending> ask(const std::string& target,
                                 std::vector<std::pair<std::string, std::string>> header = {},
                                 http::Method method = http::Method::get, std::string text = {}) {
        Asked asked(method, target, std::move(header), std::move(text));
        std::vector<std::string> params;
        const auto match = router.match(method, asked.request.path, params);
        REQUIRE(match.route != nullptr);
        asked.request.params = params;
        asked.request.route = match.route->path;
        auto pending = std::make_shared<Pending>();
        match.route->handler(asked.request, http::Reply(pending, 0));
        return pending;
    }
    /// Asks and waits for the answer.
    std::shared_ptr<Pending> get(const std::string& target,
                                 std::vector<std::pair<std::string, std::string>> header = {}) {
        auto pending = ask(target, std::move(header));
        REQUIRE(eventually([&] { return pending->status != -1; }));
        return pending;
    }

    base::SystemClock clock;
    pg::QueryPool pool;
    ProgressWatch watch;
    FakeSink* sink = nullptr;  // the publisher's
    producer::EventPublisher publisher;
    VehicleCache cache;
    LogWriter writer;
    Reads reads;
    http::Router router;
};

}  // namespace tidemark::tests
