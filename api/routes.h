#pragma once

#include "api/health.h"
#include "api/read.h"
#include "api/vehicle_cache.h"
#include "api/write.h"
#include "infra/base/metrics.h"
#include "infra/http/router.h"

#include <functional>
#include <string_view>

namespace tidemark::api {

/// What the handlers work with; all of it must outlive the router.
struct Services {
    LogWriter& writer;
    Reads& reads;
    VehicleCache& cache;
    HealthSources health;
    const base::Metrics& metrics;
    std::function<void()> refresh_metrics;
};

/// Every route that the program serves: what openapi.json describes, both ways.
http::Router make_routes(const Services& services);

/// api/openapi.json, as it was when the program was built.
std::string_view openapi() noexcept;

}  // namespace tidemark::api
