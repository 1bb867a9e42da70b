#pragma once

#include "api/read.h"
#include "infra/http/router.h"
#include "infra/postgres/query_pool.h"
#include "producer/event_publisher.h"

#include <optional>
#include <string>

namespace tidemark::api {

/// What the health routes look at; all of it must outlive the router.
struct HealthSources {
    const producer::EventPublisher& publisher;
    const pg::QueryPool& pool;
    Reads& reads;
};

/// The dependency without which the program cannot do its whole job now, and why; nullopt when it can. Any thread,
/// never blocks.
std::optional<std::string> not_ready_because(const HealthSources& sources);

/// Seconds since the instant up to which the stream's tables are complete; nullopt while that is not known.
std::optional<double> lag_seconds(const HealthSources& sources, std::size_t stream);

/// /health, /status and /version.
void add_health(http::Router& router, const HealthSources& sources);

}  // namespace tidemark::api
