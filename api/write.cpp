#include "api/write.h"

#include "api/problem.h"
#include "api/request.h"
#include "infra/base/failpoint.h"
#include "infra/http/ascii.h"
#include "schemas/event.h"
#include "schemas/position.h"

#include <array>
#include <span>
#include <string>
#include <utility>

namespace tidemark::api {
namespace {

using producer::Outcome;
using producer::Published;

using EventId = std::array<std::uint8_t, 16>;

/// The bytes of a UUID in its text form.
EventId read_uuid(std::string_view text) noexcept {
    EventId id{};
    std::size_t digit = 0;
    for (const char c : text) {
        if (c == '-' || digit == 2 * id.size()) continue;
        const auto value = static_cast<std::uint8_t>(c <= '9' ? c - '0' : c - 'a' + 10);
        id[digit / 2] = static_cast<std::uint8_t>((id[digit / 2] << 4U) | value);
        ++digit;
    }
    return id;
}

std::string uuid_text(const EventId& id) {
    std::string text;
    for (std::size_t i = 0; i < id.size(); ++i) {
        if (i == 4 || i == 6 || i == 8 || i == 10) text.push_back('-');
        append_hex(text, std::span(id).subspan(i, 1));
    }
    return text;
}

/// A traceparent for a request that brought none. Its trace id is the event's, a UUID, so that who has one has the
/// other.
void make_traceparent(std::string& out, std::string_view id) {
    out.assign("00-").append(id.substr(0, 8)).append(id.substr(9, 4)).append(id.substr(14, 4));
    const auto last = out.size();
    out.append(id.substr(19, 4)).append(id.substr(24)).append(1, '-');
    out.append(out, last, 16).append("-00");
}

/// Whether the body is in a content coding, which nobody here undoes.
bool is_coded(const http::Request& request) noexcept {
    const auto coding = request.field("content-encoding");
    return coding && !http::equal_ignoring_case(*coding, "identity");
}

/// Answers a request when its event's fate is known, on the publisher's thread or the request's own. Of just the size
/// that the publisher holds without allocating.
struct Answer {
    http::Reply reply;
    EventId event;
    TraceId trace;
    const StreamLog* log;

    void operator()(const Published& published) noexcept {
        if (published.outcome == Outcome::accepted) {
            accept(published);
            return;
        }
        auto problem = problem_of(published.outcome);
        std::string id;
        if (published.outcome == Outcome::unknown) problem.event_id = id = uuid_text(event);
        send_problem(reply, problem, trace);
    }

    void accept(const Published& published) noexcept {
        thread_local std::string lines;
        lines.assign("Log-Position: ");
        schemas::append_token(lines, log->stream(), log->hash(), {published.partition, published.offset});
        lines.append("\r\n");
        reply.send(202, {}, lines, {});
    }
};

}  // namespace

Problem problem_of(Outcome outcome) {
    switch (outcome) {
        case Outcome::overloaded:
            return {.type = &problems::kOverloaded, .detail = "too many events are on their way to the log"};
        case Outcome::unavailable:
            return {.type = &problems::kUnavailable, .detail = "the log did not take the event in time"};
        case Outcome::too_large:
            return {.type = &problems::kContentTooLarge,
                    .detail = "the event is larger than a record of the log may be"};
        case Outcome::accepted:
        case Outcome::unknown:
            break;
    }
    return {.type = &problems::kOutcomeUnknown, .detail = "time ran out while the event was on its way to the log"};
}

schemas::Result<schemas::json::Value> read_body(const http::Request& request) {
    FAILPOINT("p1_request_parsed");
    thread_local schemas::json::Reader reader;
    return reader.parse(request.body);
}

void LogWriter::write(const http::Request& request, http::Reply reply, const NewEvent& event,
                      schemas::Violations violations) {
    const auto headers = read_write_headers(request, violations);
    if (!request.query.empty()) static_cast<void>(Query(request.query, {}, violations));
    if (!violations.empty()) {
        send_problem(reply, {.type = &problems::kInvalidRequest, .violations = std::move(violations)},
                     trace_of(request));
        return;
    }
    const auto now = clock_.now();
    if (event.occurred_at && *event.occurred_at > now + schemas::kMaxAhead) {
        send_problem(reply,
                     {.type = &problems::kFromTheFuture,
                      .violations = {{"/occurredAt", "lies more than one hour in the future"}}},
                     trace_of(request));
        return;
    }
    const auto& log = watch_.log(event.stream);
    if (log.hash().empty()) {
        send_problem(reply, {.type = &problems::kUnavailable, .detail = "the log is not known yet"}, trace_of(request));
        return;
    }

    thread_local std::string made_traceparent;
    const auto id = schemas::make_uuid7(now);
    const auto id_bytes = read_uuid(id);
    auto traceparent = headers.traceparent;
    if (!traceparent) {
        make_traceparent(made_traceparent, id);
        traceparent = made_traceparent;
    }
    const TraceId trace = headers.traceparent ? trace_of_traceparent(*traceparent) : id_bytes;
    std::string identity;
    if (headers.idempotency_key) {
        // Without accounts every caller is the same, nameless one.
        const std::array<std::string_view, 4> parts{"", request.route, event.key, *headers.idempotency_key};
        identity = schemas::idempotency_identity(parts);
    }
    send(event,
         {.id = id,
          .source = request.route,
          .time = event.occurred_at.value_or(now),
          .identity = headers.idempotency_key ? std::optional<std::string_view>(identity) : std::nullopt,
          .traceparent = *traceparent},
         Answer{std::move(reply), id_bytes, trace, &log});
}

void LogWriter::publish(const NewEvent& event, std::string_view source, std::optional<std::string_view> traceparent,
                        producer::Completion completion) {
    const auto now = clock_.now();
    const auto id = schemas::make_uuid7(now);
    std::string made;
    if (!traceparent) make_traceparent(made, id);
    send(event,
         {.id = id,
          .source = source,
          .time = event.occurred_at.value_or(now),
          .traceparent = traceparent.value_or(made)},
         std::move(completion));
}

void LogWriter::send(const NewEvent& event, const Envelope& envelope, producer::Completion completion) {
    thread_local std::string value;
    value.clear();
    schemas::append_event(value, {.id = envelope.id,
                                  .source = envelope.source,
                                  .type = event.type,
                                  .time = envelope.time,
                                  .idempotency_key = envelope.identity,
                                  .traceparent = std::nullopt,
                                  .data = event.data});
    publisher_.publish({.topic = static_cast<kafka::TopicIndex>(event.stream),
                        .key = event.key,
                        .value = value,
                        .traceparent = envelope.traceparent,
                        .partition = event.partition},
                       std::move(completion));
}

void add_write(http::Router& router, http::Method method, std::string path, std::size_t max_body_bytes,
               http::Handler handler) {
    router.add({.method = method,
                .path = std::move(path),
                .handler =
                    [handler = std::move(handler)](const http::Request& request, http::Reply reply) {
                        if (is_coded(request)) {
                            send_problem(reply,
                                         {.type = &problems::kUnsupportedMediaType,
                                          .detail = "this route does not decode a Content-Encoding"},
                                         trace_of(request), "Accept-Encoding: identity\r\n");
                            return;
                        }
                        handler(request, std::move(reply));
                    },
                .max_body_bytes = max_body_bytes,
                .media_types = {"application/json"}});
}

void add_write(http::Router& router, http::Method method, std::string path, std::size_t max_body_bytes,
               LogWriter& writer, void (*handler)(LogWriter&, const http::Request&, http::Reply)) {
    add_write(router, method, std::move(path), max_body_bytes,
              [&writer, handler](const http::Request& request, http::Reply reply) {
                  handler(writer, request, std::move(reply));
              });
}

}  // namespace tidemark::api
