#pragma once

#include "infra/base/metrics.h"
#include "producer/event_publisher.h"

namespace tidemark::producer {

/// An EventPublisher's part of its program's metrics, the same in every program that has one. Names and labels are API:
/// golden tests hold them.
class PublisherTelemetry {
public:
    /// `metrics` must outlive it.
    explicit PublisherTelemetry(base::Metrics& metrics);

    /// Before each scrape. One thread at a time.
    void refresh(const EventPublisherCounters& counters, bool broker_up);

private:
    base::Metrics::Follower accepted_, overloaded_, unavailable_, unknown_, too_large_, late_persisted_, late_lost_;
    base::Metrics::Gauge& in_flight_;
    base::Metrics::Gauge& in_flight_bytes_;
    base::Metrics::Gauge& broker_up_;
};

}  // namespace tidemark::producer
