#include "infra/base/metrics.h"

#include "infra/base/version.h"

#include <doctest/doctest.h>
#include <unistd.h>

#include <chrono>
#include <cmath>
#include <sstream>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

using tidemark::base::Metrics;

namespace {

/// The lines of families whose names begin with `prefix`.
std::string rendered(const Metrics& metrics, const std::string& prefix) {
    std::istringstream lines(metrics.render());
    std::string selected;
    for (std::string line; std::getline(lines, line);) {
        const auto name = line.rfind("# ", 0) == 0 ? line.substr(7) : line;
        if (name.rfind(prefix, 0) == 0) selected += line + "\n";
    }
    return selected;
}

double value(const Metrics& metrics, const std::string& series) {
    std::istringstream lines(metrics.render());
    for (std::string line; std::getline(lines, line);) {
        if (line.rfind(series + " ", 0) == 0) return std::stod(line.substr(series.size() + 1));
    }
    return std::nan("");
}

}  // namespace

TEST_CASE("instruments render in the Prometheus text format, by name and labels") {
    Metrics metrics;
    metrics.histogram("t_seconds", "How long.", {{"path", "/increment"}, {"method", "POST"}}, {0.25, 1}).observe(0.25);
    metrics.histogram("t_seconds", "How long.", {{"path", "/increment"}, {"method", "POST"}}, {0.25, 1}).observe(0.5);
    metrics.histogram("t_seconds", "How long.", {{"path", "/increment"}, {"method", "POST"}}, {0.25, 1}).observe(7);
    metrics.gauge("t_lag_seconds", "How far behind.", {{"stream", "vehicles"}}).set(1.5);
    metrics.gauge("t_lag_seconds", "How far behind.", {{"stream", "counters"}}).set(-0.5);
    metrics.counter("t_flushes_total", "Flushes.", {{"reason", "a\"b\\c\n"}}).add();
    metrics.counter("t_flushes_total", "Flushes.", {{"reason", "a\"b\\c\n"}}).add(2);
    CHECK(rendered(metrics, "t_") == R"(# HELP t_flushes_total Flushes.
# TYPE t_flushes_total counter
t_flushes_total{reason="a\"b\\c\n"} 3
# HELP t_lag_seconds How far behind.
# TYPE t_lag_seconds gauge
t_lag_seconds{stream="counters"} -0.5
t_lag_seconds{stream="vehicles"} 1.5
# HELP t_seconds How long.
# TYPE t_seconds histogram
t_seconds_count{method="POST",path="/increment"} 3
t_seconds_sum{method="POST",path="/increment"} 7.75
t_seconds_bucket{method="POST",path="/increment",le="0.25"} 1
t_seconds_bucket{method="POST",path="/increment",le="1"} 2
t_seconds_bucket{method="POST",path="/increment",le="+Inf"} 3
)");
}

TEST_CASE("the default bounds reach from 100 us to 10 s") {
    Metrics metrics;
    metrics.histogram("t_seconds", "How long.").observe(0.0001);
    const auto text = rendered(metrics, "t_seconds_bucket");
    CHECK(text.rfind("t_seconds_bucket{le=\"0.0001\"} 1\n", 0) == 0);
    CHECK(text.find("t_seconds_bucket{le=\"10\"} 1\n") != std::string::npos);
}

TEST_CASE("the process tells of itself and of its build") {
    Metrics metrics;
    const auto text = rendered(metrics, "process_");
    for (const char* type :
         {"# TYPE process_cpu_seconds_total counter\n", "# TYPE process_open_fds gauge\n",
          "# TYPE process_resident_memory_bytes gauge\n", "# TYPE process_start_time_seconds gauge\n"}) {
        CHECK(text.find(type) != std::string::npos);
    }
    CHECK(value(metrics, "process_cpu_seconds_total") >= 0);
    CHECK(value(metrics, "process_resident_memory_bytes") > 1e6);
    const auto now = std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
    CHECK(value(metrics, "process_start_time_seconds") < now + 2);
    CHECK(value(metrics, "process_start_time_seconds") > now - 3600);
    const auto before = value(metrics, "process_open_fds");
    const int extra = dup(STDERR_FILENO);
    CHECK(value(metrics, "process_open_fds") == before + 1);
    close(extra);
    CHECK(rendered(metrics, "tidemark_build_info") ==
          "# HELP tidemark_build_info Always 1; the labels say what runs.\n# TYPE tidemark_build_info gauge\n"
          "tidemark_build_info{commit=\"" +
              std::string(tidemark::base::commit()) + "\",version=\"" + std::string(tidemark::base::version()) +
              "\"} 1\n");
}

TEST_CASE("asking twice gives the same instrument: asking differently is a bug") {
    Metrics metrics;
    auto& counter = metrics.counter("t_total", "Things.", {{"a", "1"}});
    CHECK(&counter == &metrics.counter("t_total", "Things.", {{"a", "1"}}));
    CHECK(&counter != &metrics.counter("t_total", "Things.", {{"a", "2"}}));
    metrics.histogram("t_seconds", "How long.", {}, {1, 2});
    CHECK_THROWS_AS(metrics.gauge("t_total", "Things."), std::logic_error);
    CHECK_THROWS_AS(metrics.counter("t_seconds", "How long."), std::logic_error);
    CHECK_THROWS_AS(metrics.histogram("t_total", "Things."), std::logic_error);
    CHECK_THROWS_AS(metrics.counter("t_total", "Other things.", {{"a", "3"}}), std::logic_error);
    CHECK_THROWS_AS(metrics.histogram("t_seconds", "How long.", {}, {1, 3}), std::logic_error);
    CHECK_THROWS_AS(metrics.histogram("t_other_seconds", "How long.", {}, {1, 1}), std::logic_error);
    CHECK_THROWS_AS(metrics.counter("no-dashes", "x"), std::logic_error);
    CHECK_THROWS_AS(metrics.counter("t_lines_total", "Two\nlines."), std::logic_error);
    CHECK_THROWS_AS(metrics.counter("t_ok_total", "x", {{"le gal", "1"}}), std::logic_error);
}

TEST_CASE("a counter never falls and a histogram never becomes NaN") {
    Metrics metrics;
    auto& counter = metrics.counter("t_total", "Things.");
    counter.add(5);
    counter.add(-3);
    counter.add(std::nan(""));
    CHECK(value(metrics, "t_total") == 5);
    auto& histogram = metrics.histogram("t_seconds", "How long.");
    histogram.observe(1);
    histogram.observe(std::nan(""));
    CHECK(value(metrics, "t_seconds_sum") == 1);
    CHECK(value(metrics, "t_seconds_count") == 1);
}

TEST_CASE("a counter follows a total counted elsewhere, and stays where it is when that one falls") {
    Metrics metrics;
    Metrics::Follower follower{&metrics.counter("t_total", "Things.")};
    follower.follow(5);
    follower.follow(5);
    follower.follow(7);
    CHECK(value(metrics, "t_total") == 7);
    follower.follow(3);
    follower.follow(8);
    CHECK(value(metrics, "t_total") == 8);
}

TEST_CASE("no movement is lost when threads move one instrument while it is rendered") {
    Metrics metrics;
    auto& counter = metrics.counter("t_total", "Things.");
    auto& histogram = metrics.histogram("t_seconds", "How long.");
    auto& gauge = metrics.gauge("t_depth", "How deep.");
    constexpr int kThreads = 4;
    constexpr int kMoves = 20'000;
    std::vector<std::thread> threads;
    for (int t = 0; t < kThreads; ++t) {
        threads.emplace_back([&] {
            for (int i = 0; i < kMoves; ++i) {
                counter.add();
                histogram.observe(0.5);
                gauge.set(i);
            }
        });
    }
    double last = 0;
    for (int i = 0; i < 20; ++i) {
        const auto now = value(metrics, "t_seconds_count");
        CHECK(now >= last);
        last = now;
    }
    for (auto& thread : threads)
        thread.join();
    CHECK(value(metrics, "t_total") == kThreads * kMoves);
    CHECK(value(metrics, "t_seconds_count") == kThreads * kMoves);
    CHECK(value(metrics, "t_seconds_sum") == 0.5 * kThreads * kMoves);
    CHECK(value(metrics, "t_depth") == kMoves - 1);
}
