#pragma once

#include "api/read.h"
#include "api/write.h"
#include "infra/http/router.h"

namespace tidemark::api {

/// The routes of the counters' stream. The router must not outlive `writer` and `reads`.
void add_counters(http::Router& router, LogWriter& writer, Reads& reads);

}  // namespace tidemark::api
