#pragma once

#include "api/read.h"
#include "api/vehicle_cache.h"
#include "api/write.h"
#include "infra/http/router.h"

namespace tidemark::api {

/// The routes of the vehicles' stream. The router must not outlive the others.
void add_vehicles(http::Router& router, LogWriter& writer, Reads& reads, VehicleCache& cache);

}  // namespace tidemark::api
