#pragma once

#include "api/read.h"
#include "infra/http/router.h"

namespace tidemark::api {

/// GET /events/{token}: what became of the event that was written at a position. `reads` must outlive the router.
void add_events(http::Router& router, Reads& reads);

}  // namespace tidemark::api
