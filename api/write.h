#pragma once

#include "api/problem.h"
#include "api/progress_watch.h"
#include "infra/base/clock.h"
#include "infra/http/message.h"
#include "infra/http/router.h"
#include "producer/event_publisher.h"
#include "schemas/instant.h"
#include "schemas/json.h"
#include "schemas/result.h"

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace tidemark::api {

/// One event that a request asks to be written.
struct NewEvent {
    std::size_t stream = 0;  ///< place in the catalogue, and of its topic in the publisher's sink
    std::string_view type;
    std::string_view key;                             ///< the entity's id as text
    std::string_view data;                            ///< JSON text
    std::optional<schemas::Timestamp> occurred_at{};  ///< nullopt: now
    std::optional<std::int32_t> partition{};          ///< nullopt: the key's
};

/// What a request is answered with whose event did not get into the log, or perhaps did. Not of an accepted one.
Problem problem_of(producer::Outcome outcome);

/// Parses a request's body with this thread's reader: the value is valid until the thread parses the next.
schemas::Result<schemas::json::Value> read_body(const http::Request& request);

/// Writes events to the log and answers their requests: 202 with `Log-Position` once the log has them, else what became
/// of them. One for the program; any thread. `clock` must outlive it; `watch` must outlive the publisher, which holds
/// answers.
class LogWriter {
public:
    LogWriter(producer::EventPublisher& publisher, const ProgressWatch& watch, const base::Clock& clock) noexcept
        : publisher_(publisher), watch_(watch), clock_(clock) {}

    /// Publishes `event` under the request's `Idempotency-Key` and `traceparent`. The event's views need only live
    /// until this returns. With `violations`, found by the handler, or others in the query and header, answers 400 with
    /// all of them instead.
    void write(const http::Request& request, http::Reply reply, const NewEvent& event,
               schemas::Violations violations = {});

    /// Publishes an event whose fate the caller answers for; see EventPublisher::publish. `source` is the route;
    /// without a `traceparent` one is made. The views need only live until this returns.
    void publish(const NewEvent& event, std::string_view source, std::optional<std::string_view> traceparent,
                 producer::Completion completion);

private:
    /// What stands around an event's data.
    struct Envelope {
        std::string_view id;
        std::string_view source;
        schemas::Timestamp time;
        std::optional<std::string_view> identity{};
        std::string_view traceparent;
    };
    void send(const NewEvent& event, const Envelope& envelope, producer::Completion completion);

    producer::EventPublisher& publisher_;
    const ProgressWatch& watch_;
    const base::Clock& clock_;
};

/// Adds a route whose handler reads a JSON body, or none.
void add_write(http::Router& router, http::Method method, std::string path, std::size_t max_body_bytes,
               http::Handler handler);
/// Likewise, one that works with `writer`, which must outlive the router.
void add_write(http::Router& router, http::Method method, std::string path, std::size_t max_body_bytes,
               LogWriter& writer, void (*handler)(LogWriter&, const http::Request&, http::Reply));

}  // namespace tidemark::api
