#pragma once

#include "api/read.h"
#include "api/write.h"
#include "infra/http/router.h"

namespace tidemark::api {

/// What could not be applied, of all streams, and the operators' decisions about it. A decision is an event on the
/// letter's own partition; the answer waits until the tables hold it and says what became of the letter. `writer` and
/// `reads` must outlive the router.
///
///   GET  /dead-letters                 the newest first, without their values
///   GET  /dead-letters/reasons         how many for which reason
///   GET  /dead-letters/{id}            one whole; its id is STREAM:PARTITION:OFFSET
///   POST /dead-letters/{id}/redrive    {"edit"?}
///   POST /dead-letters/{id}/discard    {"note"?}
///   POST /dead-letters/redrive         {"stream","reason"?,"dryRun"?}
void add_dead_letters(http::Router& router, LogWriter& writer, Reads& reads);

}  // namespace tidemark::api
