#pragma once

#include "infra/base/metrics.h"
#include "infra/http/message.h"
#include "infra/http/router.h"
#include "infra/http/server.h"

#include <functional>
#include <optional>
#include <string>
#include <string_view>

namespace tidemark::http {

/// A problem in the form that programs without a catalogue of their own answer with: RFC 9457, `type` "about:blank".
/// What an admin listener gives its Server, and the default of OperationsOptions.
Response plain_problem(int status, std::string_view detail, const Request* request);

struct OperationsOptions {
    /// Called before each rendering of /metrics, to set the gauges that are read off other objects. On an event loop,
    /// by one request at a time.
    std::function<void()> refresh;
    /// How a 503 of /readyz and /startupz is worded.
    ErrorBody problem = plain_problem;
};

/// The four routes that every program has on its listener, for whoever runs it:
///   GET /metrics    the Prometheus text format
///   GET /livez      200 as long as the process answers at all
///   GET /readyz     200 while `not_ready_because` gives nothing, else 503 with the dependency it names
///   GET /startupz   200 from the first moment of readiness on, 503 until then
/// `metrics` and what the functions stand on must outlive the router's server. `not_ready_because` is called on event
/// loops, by several at once: it must neither block nor throw, and names no addresses or credentials.
void add_operations(Router& router, const base::Metrics& metrics,
                    std::function<std::optional<std::string>()> not_ready_because, OperationsOptions options = {});

}  // namespace tidemark::http
