#pragma once

#include "infra/http/message.h"
#include "schemas/result.h"

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace tidemark::api {

/// One kind of problem, as clients may tell them apart. The name is API: it stands in `type` as /problems/<name>, where
/// the rest of this can be read.
struct ProblemType {
    std::string_view name;
    int status;
    std::string_view title;
    std::string_view meaning;
    std::string_view remedy;
};

namespace problems {
extern const ProblemType kInvalidRequest;
extern const ProblemType kTokenUnknown;
extern const ProblemType kNotFound;
extern const ProblemType kUnknownEntity;
extern const ProblemType kMethodNotAllowed;
extern const ProblemType kNotAcceptable;
extern const ProblemType kRequestTimeout;
extern const ProblemType kNotOpen;
extern const ProblemType kBehindDeadLetter;
extern const ProblemType kWindowDropped;
extern const ProblemType kContentTooLarge;
extern const ProblemType kTargetTooLong;
extern const ProblemType kUnsupportedMediaType;
extern const ProblemType kFromTheFuture;
extern const ProblemType kHeadersTooLarge;
extern const ProblemType kInternal;
extern const ProblemType kNotImplemented;
extern const ProblemType kOverloaded;
extern const ProblemType kUnavailable;
extern const ProblemType kOutcomeUnknown;
extern const ProblemType kStale;
extern const ProblemType kNotReady;
}  // namespace problems

/// Every type, in order of status.
std::span<const ProblemType* const> problem_types() noexcept;
/// Null when there is none of that name.
const ProblemType* find_problem_type(std::string_view name) noexcept;

/// The W3C trace id of a request.
using TraceId = std::array<std::uint8_t, 16>;

/// The value of the request's `traceparent` field when it is one of version 00 (55 characters, ids not zero, lower
/// case). Another one is as good as none, as the W3C text asks.
std::optional<std::string_view> traceparent_of(const http::Request& request) noexcept;
/// The trace id that a valid traceparent carries, or a new random one.
TraceId trace_of(const http::Request& request) noexcept;
/// The one that `traceparent` carries, which has to be valid: see traceparent_of.
TraceId trace_of_traceparent(std::string_view traceparent) noexcept;

/// Appends bytes as lower-case hexadecimal digits.
void append_hex(std::string& out, std::span<const std::uint8_t> bytes);

/// One answer that is not what the caller wanted: RFC 9457. `error` repeats `detail`.
struct Problem {
    const ProblemType* type = nullptr;
    std::string detail{};  ///< empty: made of the violations, or else the type's title
    schemas::Violations violations{};
    /// Of outcome_unknown, whose body says "outcome":"unknown": the event that may be in the log. Empty when not known.
    std::string_view event_id{};
};

/// Answers with it: application/problem+json, `Retry-After: 1` with every 503. `header_lines` as http::Reply::send
/// takes them.
void send_problem(http::Reply& reply, const Problem& problem, const TraceId& trace, std::string_view header_lines = {});

/// The server's own answers, worded as ours. What a Server is given as its ErrorBody.
http::Response server_problem(int status, std::string_view detail, const http::Request* request);

/// How /readyz and /startupz say that `detail` is missing.
http::Response not_ready_problem(int status, std::string_view detail, const http::Request* request);

}  // namespace tidemark::api
