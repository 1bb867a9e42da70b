#include "producer/publisher_telemetry.h"

namespace tidemark::producer {

PublisherTelemetry::PublisherTelemetry(base::Metrics& metrics)
    : in_flight_(metrics.gauge("tidemark_publish_in_flight_records", "Events on their way to the log")),
      in_flight_bytes_(metrics.gauge("tidemark_publish_in_flight_bytes", "Keys and values on their way to the log")),
      broker_up_(metrics.gauge("tidemark_dependency_up", "1 while the dependency answers", {{"dependency", "kafka"}})) {
    const auto outcome = [&](const char* name) {
        return base::Metrics::Follower{&metrics.counter("tidemark_publish_outcomes_total",
                                                        "What became of the events that were to be put on the log",
                                                        {{"outcome", name}})};
    };
    accepted_ = outcome("accepted");
    overloaded_ = outcome("overloaded");
    unavailable_ = outcome("unavailable");
    unknown_ = outcome("unknown");
    too_large_ = outcome("too_large");
    const auto late = [&](const char* fate) {
        return base::Metrics::Follower{&metrics.counter(
            "tidemark_publish_late_total", "Events answered as unknown whose fate came to be known", {{"fate", fate}})};
    };
    late_persisted_ = late("persisted");
    late_lost_ = late("lost");
}

void PublisherTelemetry::refresh(const EventPublisherCounters& counters, bool broker_up) {
    accepted_.follow(counters.accepted);
    overloaded_.follow(counters.overloaded);
    unavailable_.follow(counters.unavailable);
    unknown_.follow(counters.unknown);
    too_large_.follow(counters.too_large);
    late_persisted_.follow(counters.late_persisted);
    late_lost_.follow(counters.late_lost);
    in_flight_.set(static_cast<double>(counters.in_flight));
    in_flight_bytes_.set(static_cast<double>(counters.bytes));
    broker_up_.set(broker_up ? 1 : 0);
}

}  // namespace tidemark::producer
