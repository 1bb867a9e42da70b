#include "api/telemetry.h"

#include <doctest/doctest.h>

#include <fstream>
#include <set>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

using namespace tidemark;
using namespace tidemark::api;
using namespace std::chrono_literals;

namespace {

http::Exchange exchange(std::string_view route, http::Method method, int status) {
    return {.method = method, .route = route, .status = status, .duration = 2ms};
}

bool holds(const base::Metrics& metrics, const std::string& line) {
    return metrics.render().find(line + "\n") != std::string::npos;
}

}  // namespace

TEST_CASE("the names, types and labels of the program's metrics are those of the golden file") {
    base::Metrics metrics;
    Telemetry telemetry(metrics);
    telemetry.observe(exchange("/increment", http::Method::post, 202));
    telemetry.refresh({});
    std::set<std::string> found;
    std::istringstream lines(metrics.render());
    for (std::string line; std::getline(lines, line);) {
        if (line.starts_with("# HELP")) continue;
        if (line.starts_with("# TYPE ")) {
            found.insert(line.substr(2));
        } else if (line.find("_bucket{") == std::string::npos && !line.starts_with("tidemark_build_info")) {
            found.insert(line.substr(0, line.rfind(' ')));
        }
    }
    std::ifstream file(std::string(TIDEMARK_SOURCE_DIR) + "/tests/golden/metrics/api.txt");
    REQUIRE(file);
    std::set<std::string> golden;
    for (std::string line; std::getline(file, line);)
        golden.insert(line);
    CHECK(found == golden);
}

TEST_CASE("exchanges are counted by method, template and status") {
    base::Metrics metrics;
    Telemetry telemetry(metrics);
    const std::string route = "/counters/{key}";
    telemetry.observe(exchange(route, http::Method::get, 200));
    telemetry.observe(exchange(route, http::Method::get, 200));
    telemetry.observe(exchange(route, http::Method::head, 200));
    telemetry.observe(exchange(route, http::Method::get, 404));
    telemetry.observe(exchange({}, http::Method::other, 404));
    CHECK(holds(metrics,
                R"(http_request_duration_seconds_count{method="GET",path="/counters/{key}",status_code="200"} 2)"));
    CHECK(holds(metrics,
                R"(http_request_duration_seconds_count{method="HEAD",path="/counters/{key}",status_code="200"} 1)"));
    CHECK(holds(metrics,
                R"(http_request_duration_seconds_count{method="GET",path="/counters/{key}",status_code="404"} 1)"));
    CHECK(
        holds(metrics, R"(http_request_duration_seconds_count{method="OTHER",path="unmatched",status_code="404"} 1)"));
}

TEST_CASE("no exchange is lost when threads meet at the first of its kind") {
    base::Metrics metrics;
    Telemetry telemetry(metrics);
    const std::string route = "/increment";
    std::vector<std::thread> threads;
    for (int t = 0; t < 4; ++t) {
        threads.emplace_back([&] {
            for (int status = 200; status < 300; ++status)
                telemetry.observe(exchange(route, http::Method::post, status));
        });
    }
    for (auto& thread : threads)
        thread.join();
    for (int status = 200; status < 300; ++status) {
        CHECK(holds(metrics, R"(http_request_duration_seconds_count{method="POST",path="/increment",status_code=")" +
                                 std::to_string(status) + "\"} 4"));
    }
}

TEST_CASE("totals counted elsewhere are followed, gauges are set") {
    base::Metrics metrics;
    Telemetry telemetry(metrics);
    Telemetry::Readings readings;
    readings.publisher.accepted = 5;
    readings.cache.misses = 4;
    readings.cache.joins = 1;
    readings.lag_seconds = {1.5, std::nullopt};
    telemetry.refresh(readings);
    readings.publisher.accepted = 7;
    telemetry.refresh(readings);
    CHECK(holds(metrics, R"(tidemark_publish_outcomes_total{outcome="accepted"} 7)"));
    CHECK(holds(metrics, R"(tidemark_vehicle_cache_lookups_total{result="miss"} 3)"));
    CHECK(holds(metrics, R"(tidemark_vehicle_cache_lookups_total{result="joined"} 1)"));
    CHECK(holds(metrics, R"(tidemark_stream_lag_seconds{stream="counters"} 1.5)"));
    CHECK(holds(metrics, R"(tidemark_stream_lag_seconds{stream="vehicles"} +Inf)"));
}
