#pragma once

#include "api/read.h"
#include "infra/http/router.h"

namespace tidemark::api {

/// GET /audit: whether each stream's tables are what its log says, as its auditor last found.
void add_audit(http::Router& router, Reads& reads);

}  // namespace tidemark::api
