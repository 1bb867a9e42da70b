#include "api/telemetry.h"

#include "schemas/catalogue.h"

#include <functional>
#include <limits>
#include <string>
#include <utility>

namespace tidemark::api {

struct Telemetry::Slot {
    const char* route;  // templates live as long as the router, so the address names one
    http::Method method;
    int status;
    base::Metrics::Histogram* histogram;
};

Telemetry::Telemetry(base::Metrics& metrics)
    : metrics_(metrics),
      publisher_(metrics),
      open_connections_(metrics.gauge("tidemark_http_open_connections", "Open HTTP connections")),
      cache_entries_(metrics.gauge("tidemark_vehicle_cache_entries", "Answers in the cache of vehicle states")),
      cache_bytes_(metrics.gauge("tidemark_vehicle_cache_bytes", "Memory of the cache of vehicle states")),
      reads_waiting_(metrics.gauge("tidemark_reads_waiting", "Reads that wait for fresher tables")),
      queries_queued_(metrics.gauge("tidemark_queries_queued", "Queries that wait for a database connection")),
      database_up_(
          metrics.gauge("tidemark_dependency_up", "1 while the dependency answers", {{"dependency", "postgres"}})) {
    connections_ = {&metrics.counter("tidemark_http_connections_total", "HTTP connections accepted")};
    const auto refused = [&](const char* reason) {
        return Follower{&metrics.counter("tidemark_http_refused_total",
                                         "Connections and requests that the server turned away by itself",
                                         {{"reason", reason}})};
    };
    shed_ = refused("shed");
    malformed_ = refused("malformed");
    deadline_ = refused("deadline");
    dropped_replies_ = {
        &metrics.counter("tidemark_http_dropped_replies_total", "Requests that a handler left unanswered: bugs")};
    const auto lookup = [&](const char* result) {
        return Follower{&metrics.counter("tidemark_vehicle_cache_lookups_total",
                                         "Lookups in the cache of vehicle states", {{"result", result}})};
    };
    cache_hits_ = lookup("hit");
    cache_misses_ = lookup("miss");
    cache_joins_ = lookup("joined");
    for (const auto& stream : schemas::catalogue()) {
        lag_.push_back(
            &metrics.gauge("tidemark_stream_lag_seconds",
                           "Age of the instant up to which a stream's tables are complete; infinite while not known",
                           {{"stream", std::string(stream.name)}}));
    }
}

Telemetry::~Telemetry() = default;

void Telemetry::refresh(const Readings& readings) {
    publisher_.refresh(readings.publisher, readings.broker_up);
    connections_.follow(readings.server.accepted);
    shed_.follow(readings.server.shed);
    malformed_.follow(readings.server.malformed);
    deadline_.follow(readings.server.deadline);
    dropped_replies_.follow(readings.server.dropped_replies);
    cache_hits_.follow(readings.cache.hits);
    cache_joins_.follow(readings.cache.joins);
    cache_misses_.follow(readings.cache.misses - readings.cache.joins);

    open_connections_.set(static_cast<double>(readings.server.open));
    cache_entries_.set(static_cast<double>(readings.cache.entries));
    cache_bytes_.set(static_cast<double>(readings.cache.bytes));
    reads_waiting_.set(static_cast<double>(readings.reads_waiting));
    queries_queued_.set(static_cast<double>(readings.queries_queued));
    database_up_.set(readings.database_up ? 1 : 0);
    for (std::size_t i = 0; i < lag_.size() && i < readings.lag_seconds.size(); ++i) {
        lag_[i]->set(readings.lag_seconds[i].value_or(std::numeric_limits<double>::infinity()));
    }
}

base::Metrics::Histogram* Telemetry::find(const http::Exchange& exchange) noexcept {
    const auto matches = [&](const Slot& slot) {
        return slot.route == exchange.route.data() && slot.method == exchange.method && slot.status == exchange.status;
    };
    const auto mixed = std::hash<const void*>{}(exchange.route.data()) / 16 +
                       static_cast<std::size_t>(exchange.status) * 31 + static_cast<std::size_t>(exchange.method);
    for (std::size_t probe = 0; probe < kSlots; ++probe) {
        auto& place = slots_[(mixed + probe) & (kSlots - 1)];
        const auto* slot = place.load(std::memory_order_acquire);
        if (slot != nullptr && matches(*slot)) return slot->histogram;
        if (slot != nullptr) continue;
        try {
            const std::lock_guard lock(filling_);
            if ((slot = place.load(std::memory_order_relaxed)) != nullptr) {
                if (matches(*slot)) return slot->histogram;
                continue;
            }
            auto& histogram = metrics_.histogram(
                "http_request_duration_seconds", "Time from a request's last byte to its answer",
                {{"method", std::string(http::to_string(exchange.method))},
                 {"path", exchange.route.empty() ? std::string("unmatched") : std::string(exchange.route)},
                 {"status_code", std::to_string(exchange.status)}});
            owned_.push_back(
                std::make_unique<Slot>(Slot{exchange.route.data(), exchange.method, exchange.status, &histogram}));
            place.store(owned_.back().get(), std::memory_order_release);
            return &histogram;
        } catch (const std::bad_alloc&) {
            return nullptr;  // an exchange uncounted is better than a server dead
        }
    }
    return nullptr;
}

void Telemetry::observe(const http::Exchange& exchange) noexcept {
    if (auto* histogram = find(exchange)) histogram->observe(std::chrono::duration<double>(exchange.duration).count());
}

}  // namespace tidemark::api
