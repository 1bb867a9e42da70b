#pragma once

#include "api/vehicle_cache.h"
#include "infra/base/metrics.h"
#include "infra/http/server.h"
#include "producer/event_publisher.h"
#include "producer/publisher_telemetry.h"

#include <array>
#include <atomic>
#include <cstddef>
#include <memory>
#include <mutex>
#include <optional>
#include <string_view>
#include <vector>

namespace tidemark::api {

/// The program's metrics. Names and labels are API: a golden test holds them. One for the program; `observe` is for any
/// thread.
class Telemetry {
public:
    /// `metrics` must outlive it.
    explicit Telemetry(base::Metrics& metrics);
    ~Telemetry();
    Telemetry(const Telemetry&) = delete;
    Telemetry& operator=(const Telemetry&) = delete;

    /// One exchange into its histogram: what the server is given as its Observer. Lock-free but for the first exchange
    /// of each route, method and status.
    void observe(const http::Exchange& exchange) noexcept;

    /// What other objects count for themselves, read off them before each scrape.
    struct Readings {
        producer::EventPublisherCounters publisher;
        http::ServerCounters server;
        VehicleCache::Counters cache;
        std::size_t reads_waiting = 0;
        std::size_t queries_queued = 0;
        bool broker_up = false;
        bool database_up = false;
        std::vector<std::optional<double>> lag_seconds;  ///< by place in the catalogue; nullopt: not known
    };
    /// One thread at a time.
    void refresh(const Readings& readings);

private:
    struct Slot;
    using Follower = base::Metrics::Follower;

    base::Metrics::Histogram* find(const http::Exchange& exchange) noexcept;

    /// Some 30 routes, most with one method, and about six statuses each; a power of two, so that probing wraps by a
    /// mask.
    static constexpr std::size_t kSlots = 1'024;

    base::Metrics& metrics_;
    std::array<std::atomic<const Slot*>, kSlots> slots_{};  // open addressing; filled, never emptied
    std::mutex filling_;                                    // guards storing into slots_
    std::vector<std::unique_ptr<Slot>> owned_;              // guarded by filling_

    producer::PublisherTelemetry publisher_;
    Follower connections_, shed_, malformed_, deadline_, dropped_replies_;
    Follower cache_hits_, cache_misses_, cache_joins_;
    base::Metrics::Gauge& open_connections_;
    base::Metrics::Gauge& cache_entries_;
    base::Metrics::Gauge& cache_bytes_;
    base::Metrics::Gauge& reads_waiting_;
    base::Metrics::Gauge& queries_queued_;
    base::Metrics::Gauge& database_up_;
    std::vector<base::Metrics::Gauge*> lag_;  // by place in the catalogue
};

}  // namespace tidemark::api
