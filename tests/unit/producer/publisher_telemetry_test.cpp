#include "producer/publisher_telemetry.h"

#include <doctest/doctest.h>

#include <string>

using namespace tidemark;
using namespace tidemark::producer;

TEST_CASE("a publisher's totals are followed by outcome, and its gauges set") {
    base::Metrics metrics;
    PublisherTelemetry telemetry(metrics);
    const auto says = [&](const std::string& line) {
        return metrics.render().find("\n" + line + "\n") != std::string::npos;
    };
    EventPublisherCounters counters;
    counters.accepted = 1;
    counters.overloaded = 2;
    counters.unavailable = 3;
    counters.unknown = 4;
    counters.too_large = 5;
    counters.late_persisted = 6;
    counters.late_lost = 7;
    counters.in_flight = 8;
    counters.bytes = 9;
    telemetry.refresh(counters, true);
    CHECK(says(R"(tidemark_publish_outcomes_total{outcome="accepted"} 1)"));
    CHECK(says(R"(tidemark_publish_outcomes_total{outcome="overloaded"} 2)"));
    CHECK(says(R"(tidemark_publish_outcomes_total{outcome="unavailable"} 3)"));
    CHECK(says(R"(tidemark_publish_outcomes_total{outcome="unknown"} 4)"));
    CHECK(says(R"(tidemark_publish_outcomes_total{outcome="too_large"} 5)"));
    CHECK(says(R"(tidemark_publish_late_total{fate="persisted"} 6)"));
    CHECK(says(R"(tidemark_publish_late_total{fate="lost"} 7)"));
    CHECK(says("tidemark_publish_in_flight_records 8"));
    CHECK(says("tidemark_publish_in_flight_bytes 9"));
    CHECK(says(R"(tidemark_dependency_up{dependency="kafka"} 1)"));

    counters.accepted = 10;
    counters.in_flight = 0;
    telemetry.refresh(counters, false);
    CHECK(says(R"(tidemark_publish_outcomes_total{outcome="accepted"} 10)"));
    CHECK(says("tidemark_publish_in_flight_records 0"));
    CHECK(says(R"(tidemark_dependency_up{dependency="kafka"} 0)"));
}
