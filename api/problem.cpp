#include "api/problem.h"

#include "infra/base/log.h"
#include "schemas/json.h"

#include <algorithm>
#include <random>

namespace tidemark::api {
namespace problems {

const ProblemType kInvalidRequest{"invalid_request", 400, "The request is not valid",
                                  "The request by itself can never be served: its syntax, a value, a parameter or a "
                                  "header is wrong. `errors` names every violation.",
                                  "Change what `errors` names; the same request will be refused again."};
const ProblemType kTokenUnknown{
    "token_unknown", 400, "The position is not one of this log",
    "A position token is of another cluster or of a topic that was made anew, or lies beyond the end of the log.",
    "Take a token from a Log-Position or Applied-Position header of this deployment."};
const ProblemType kNotFound{"not_found", 404, "Not Found", "No route has this path.", "See /docs for the routes."};
const ProblemType kUnknownEntity{"unknown_entity", 404, "There is no such entity",
                                 "Nothing in the log, as far as it is in the tables, makes what was asked for exist. "
                                 "Applied-Position says how far that is.",
                                 "If it was written just now, ask again with ?at_least=<the write's Log-Position>."};
const ProblemType kMethodNotAllowed{"method_not_allowed", 405, "The path has no such method",
                                    "The path exists, but not with this method.", "Use one of the methods in Allow."};
const ProblemType kNotAcceptable{"not_acceptable", 406, "No acceptable representation",
                                 "The resource has no representation of a media type that Accept names.",
                                 "Accept application/json; lists also come as text/csv and application/x-ndjson."};
const ProblemType kRequestTimeout{"request_timeout", 408, "The request took too long to arrive",
                                  "The header or the body was not there within its deadline.",
                                  "Send it again, faster."};
const ProblemType kNotOpen{"not_open", 409, "The dead letter is not open any more",
                           "It was redriven, discarded or quarantined before; `detail` says which. No decision changes "
                           "that.",
                           "Read it to see what was decided. What it says can be written again as a new event."};
const ProblemType kBehindDeadLetter{"behind_dead_letter", 409, "The dead letter waits behind another one",
                                    "An earlier record of the same key is a dead letter that holds what comes after "
                                    "it; `detail` names it. Letters behind it are judged when it goes, in order.",
                                    "Redrive or discard the one that it waits behind, or discard this one."};
const ProblemType kWindowDropped{
    "window_dropped", 410, "The windows are no longer kept",
    "The range begins before the windows that are kept; the operator of this deployment says for how long they are. "
    "Totals and histories are kept for ever.",
    "Ask from the instant on that `detail` names."};
const ProblemType kContentTooLarge{"content_too_large", 413, "The body is too large",
                                   "The body is larger than the route takes; `detail` says the limit.", "Send less."};
const ProblemType kTargetTooLong{"target_too_long", 414, "The target is too long",
                                 "The path and query are longer than the server reads.", "Shorten them."};
const ProblemType kUnsupportedMediaType{"unsupported_media_type", 415, "The body's media type is not supported",
                                        "The route does not read bodies of this Content-Type or Content-Encoding.",
                                        "Send Content-Type: application/json, not compressed."};
const ProblemType kFromTheFuture{
    "from_the_future", 422, "The event lies in the future",
    "The event is said to happen more than one hour from now. It would pin the current state, so it is not written.",
    "Correct the instant or the clock it came from."};
const ProblemType kHeadersTooLarge{"headers_too_large", 431, "The header fields are too large",
                                   "The header has more bytes or fields than the server reads.", "Send fewer."};
const ProblemType kInternal{"internal", 500, "The server made a mistake", "This is a bug of the server.",
                            "Report it with its trace_id."};
const ProblemType kNotImplemented{"not_implemented", 501, "The framing is not supported",
                                  "The request uses a transfer coding or version that the server does not speak.",
                                  "Use HTTP/1.1 with Content-Length or chunked."};
const ProblemType kOverloaded{
    "overloaded", 503, "Too much is under way",
    "A bound on outstanding work was reached. A write answered like this is not in the log and never will be.",
    "Repeat it after Retry-After."};
const ProblemType kUnavailable{"unavailable", 503, "A dependency does not answer",
                               "The broker or the database could not be reached in time. A write answered like this is "
                               "not in the log and never will be.",
                               "Repeat it after Retry-After."};
const ProblemType kOutcomeUnknown{
    "outcome_unknown", 503, "Perhaps stored",
    "The event was on its way to the broker when time ran out. It is in the log once, or not at all, or may appear "
    "there later.",
    "Repeat it with the same Idempotency-Key: then it counts once at most. Without one, a repeat may count twice."};
const ProblemType kStale{
    "stale", 503, "The tables are not fresh enough yet",
    "The read asked for fresher data than the tables held before its wait ran out.",
    "Repeat it after Retry-After, wait longer with Prefer: wait=30, or take older data with Prefer: handling=lenient."};
const ProblemType kNotReady{"not_ready", 503, "The program is not ready",
                            "A dependency that the program needs is missing; `detail` names it.",
                            "Wait, or look after the dependency."};

}  // namespace problems

namespace {

constexpr std::array kTypes{
    &problems::kInvalidRequest,
    &problems::kTokenUnknown,
    &problems::kNotFound,
    &problems::kUnknownEntity,
    &problems::kMethodNotAllowed,
    &problems::kNotAcceptable,
    &problems::kRequestTimeout,
    &problems::kNotOpen,
    &problems::kBehindDeadLetter,
    &problems::kWindowDropped,
    &problems::kContentTooLarge,
    &problems::kTargetTooLong,
    &problems::kUnsupportedMediaType,
    &problems::kFromTheFuture,
    &problems::kHeadersTooLarge,
    &problems::kInternal,
    &problems::kNotImplemented,
    &problems::kOverloaded,
    &problems::kUnavailable,
    &problems::kOutcomeUnknown,
    &problems::kStale,
    &problems::kNotReady,
};

constexpr std::string_view kProblemJson = "application/problem+json";
constexpr std::size_t kTraceparentLength = 55;  // 00-<32 digits>-<16 digits>-<2 digits>

/// Every 503 is about something that heals by itself within seconds, or is watched over by somebody.
constexpr std::string_view kRetryAfter = "Retry-After: 1\r\n";

bool is_hex(std::string_view text) noexcept {
    return std::all_of(text.begin(), text.end(),
                       [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); });
}

std::uint8_t hex_value(char digit) noexcept {
    return static_cast<std::uint8_t>(digit <= '9' ? digit - '0' : digit - 'a' + 10);
}

/// Fast and not secret: a trace id need only be unlikely to meet its like.
std::mt19937_64& random_source() {
    thread_local std::mt19937_64 source = [] {
        std::random_device device;
        std::seed_seq seed{device(), device(), device(), device()};
        return std::mt19937_64(seed);
    }();
    return source;
}

/// "/key: is required; ?limit: must be a number", so that a client that shows one line shows everything.
std::string detail_of(const Problem& problem) {
    if (!problem.detail.empty() || problem.violations.empty()) {
        return problem.detail.empty() ? std::string(problem.type->title) : problem.detail;
    }
    std::string detail;
    for (const auto& violation : problem.violations) {
        if (!detail.empty()) detail.append("; ");
        if (!violation.pointer.empty()) detail.append(violation.pointer).append(": ");
        detail.append(violation.detail);
    }
    return detail;
}

std::string body_of(const Problem& problem, const TraceId& trace) {
    using schemas::json::append_string;
    const auto detail = detail_of(problem);
    std::string body;
    body.reserve(256 + 2 * detail.size());
    body.append(R"({"type":"/problems/)").append(problem.type->name).append(R"(","title":)");
    append_string(body, problem.type->title);
    body.append(R"(,"status":)").append(std::to_string(problem.type->status)).append(R"(,"detail":)");
    append_string(body, detail);
    if (!problem.violations.empty()) {
        body.append(R"(,"errors":[)");
        for (const auto& violation : problem.violations) {
            if (body.back() != '[') body.push_back(',');
            body.append(R"({"pointer":)");
            append_string(body, violation.pointer);
            body.append(R"(,"detail":)");
            append_string(body, violation.detail);
            body.push_back('}');
        }
        body.push_back(']');
    }
    if (problem.type == &problems::kOutcomeUnknown) body.append(R"(,"outcome":"unknown")");
    if (!problem.event_id.empty()) {
        body.append(R"(,"eventId":)");
        append_string(body, problem.event_id);
    }
    body.append(R"(,"trace_id":")");
    append_hex(body, trace);
    body.append(R"(","error":)");
    append_string(body, detail);
    body.push_back('}');
    return body;
}

/// Without a request the server turned a connection away. With one its handler did not answer in time (the process was
/// stopped, say): what it was writing may then be in the log.
const ProblemType* problem_of_503(const http::Request* request) noexcept {
    if (request == nullptr) return &problems::kOverloaded;
    const bool reads = request->method == http::Method::get || request->method == http::Method::head;
    return reads ? &problems::kUnavailable : &problems::kOutcomeUnknown;
}

/// What a bug's victim is told to report must be found in the log.
void log_internal(const Problem& problem, const TraceId& trace) {
    if (problem.type != &problems::kInternal) return;
    std::string id;
    append_hex(id, trace);
    base::log::error("internal_error", {{"trace_id", id}});
}

http::Response respond(const Problem& problem, const http::Request* request) {
    http::Response response;
    response.status = problem.type->status;
    response.content_type = kProblemJson;
    if (response.status == 503) response.headers.emplace_back("Retry-After", "1");
    const auto trace = request != nullptr ? trace_of(*request) : trace_of(http::Request{});
    response.body = body_of(problem, trace);
    log_internal(problem, trace);
    return response;
}

}  // namespace

std::span<const ProblemType* const> problem_types() noexcept {
    return kTypes;
}

const ProblemType* find_problem_type(std::string_view name) noexcept {
    const auto found =
        std::find_if(kTypes.begin(), kTypes.end(), [name](const auto* type) { return type->name == name; });
    return found == kTypes.end() ? nullptr : *found;
}

std::optional<std::string_view> traceparent_of(const http::Request& request) noexcept {
    const auto value = request.field("traceparent");
    if (!value || value->size() != kTraceparentLength || !value->starts_with("00-")) return std::nullopt;
    const auto trace = value->substr(3, 32);
    const auto parent = value->substr(36, 16);
    const auto is_zero = [](std::string_view id) { return id.find_first_not_of('0') == std::string_view::npos; };
    const bool well_formed = (*value)[35] == '-' && (*value)[52] == '-' && is_hex(trace) && is_hex(parent) &&
                             is_hex(value->substr(53)) && !is_zero(trace) && !is_zero(parent);
    return well_formed ? value : std::nullopt;
}

TraceId trace_of_traceparent(std::string_view traceparent) noexcept {
    TraceId trace;
    for (std::size_t i = 0; i < trace.size(); ++i) {
        trace[i] =
            static_cast<std::uint8_t>((hex_value(traceparent[3 + 2 * i]) << 4) | hex_value(traceparent[4 + 2 * i]));
    }
    return trace;
}

TraceId trace_of(const http::Request& request) noexcept {
    if (const auto given = traceparent_of(request)) return trace_of_traceparent(*given);
    TraceId trace;
    auto& random = random_source();
    for (std::size_t half = 0; half < trace.size(); half += 8) {
        const auto bits = random() | 1U;  // an id of zeros would be invalid
        for (std::size_t i = 0; i < 8; ++i)
            trace[half + i] = static_cast<std::uint8_t>(bits >> (8 * i));
    }
    return trace;
}

void append_hex(std::string& out, std::span<const std::uint8_t> bytes) {
    constexpr std::string_view kDigits = "0123456789abcdef";
    auto at = out.size();
    out.resize(at + 2 * bytes.size());
    for (const auto byte : bytes) {
        out[at++] = kDigits[byte >> 4U];
        out[at++] = kDigits[byte & 15U];
    }
}

void send_problem(http::Reply& reply, const Problem& problem, const TraceId& trace, std::string_view header_lines) {
    std::string lines(header_lines);
    if (problem.type->status == 503) lines.append(kRetryAfter);
    log_internal(problem, trace);
    reply.send(problem.type->status, kProblemJson, lines, body_of(problem, trace));
}

http::Response server_problem(int status, std::string_view detail, const http::Request* request) {
    Problem problem{.type = &problems::kInternal, .detail = std::string(detail)};
    switch (status) {
        case 400:
            problem.type = &problems::kInvalidRequest;
            problem.violations = {{"", problem.detail}};
            break;
        case 404:
            problem.type = &problems::kNotFound;
            problem.detail = "Not Found";  // clients of the services that this one replaces read exactly these words
            break;
        case 405:
            problem.type = &problems::kMethodNotAllowed;
            break;
        case 408:
            problem.type = &problems::kRequestTimeout;
            break;
        case 413:
            problem.type = &problems::kContentTooLarge;
            break;
        case 414:
            problem.type = &problems::kTargetTooLong;
            break;
        case 415:
            problem.type = &problems::kUnsupportedMediaType;
            break;
        case 431:
            problem.type = &problems::kHeadersTooLarge;
            break;
        case 501:
            problem.type = &problems::kNotImplemented;
            break;
        case 503:
            problem.type = problem_of_503(request);
            break;
        default:
            problem.detail.clear();
            break;
    }
    return respond(problem, request);
}

http::Response not_ready_problem(int, std::string_view detail, const http::Request* request) {
    return respond({.type = &problems::kNotReady, .detail = std::string(detail)}, request);
}

}  // namespace tidemark::api
