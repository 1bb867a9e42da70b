#pragma once

#include "api/read.h"
#include "infra/http/router.h"

namespace tidemark::api {

/// GET /generations/{stream}: which sets of tables a stream has, what each is there for, and who folds it. `reads` must
/// outlive the router.
void add_generations(http::Router& router, Reads& reads);

}  // namespace tidemark::api
