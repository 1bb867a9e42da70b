#include "api/events.h"

#include "api/items.h"
#include "api/stream_sql.h"
#include "schemas/catalogue.h"
#include "schemas/position.h"

#include <array>
#include <cstddef>
#include <deque>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <variant>

namespace tidemark::api {
namespace {

/// For the broker to say where the log ends, which takes two seconds at most.
constexpr std::chrono::milliseconds kEndWait{3'000};

/// The letter that stands at ($1, $2), if one does, then the progress: see Reads.
constexpr std::string_view kEvent = R"(
    select 1, generation, reason, status from @.api_dead_letters where partition = $1 and "offset" = $2
    union all
    select 0, generation, applied, as_of from @.api_progress order by 1 desc)";

/// By the stream's place in the catalogue.
using Statements = std::deque<Sql>;

void send_unknown(Read& read, std::string_view detail) {
    send_problem(read.reply, {.type = &problems::kTokenUnknown, .violations = {{"/token", std::string(detail)}}},
                 read.trace);
}

/// What the tables say: parked, applied, or nothing yet.
std::string body_of(const Reads::Look& look, const schemas::TokenPart& event) {
    const auto& [partition, offset] = event.position;
    if (look.items == 0) return look.progress.holds(partition, offset) ? R"({"state":"applied"})" : "";
    // A letter that was redriven counts where its decision stands.
    const bool is_parked = look.rows.text(0, 3) != "redriven";
    return Item()
        .text("state", is_parked ? "parked" : "applied")
        .text("reason", look.rows.text(0, 2))
        .text("deadLetterId", event.stream + ':' + std::to_string(partition) + ':' + std::to_string(offset))
        .finish();
}

/// The tables have not come that far: it is in the log, or the position is none.
void answer_logged(Reads& reads, const std::shared_ptr<Read>& read, const schemas::Position& position,
                   std::int32_t generation, const Freshness& fresh) {
    read->reply.extend_deadline(static_cast<std::uint32_t>((kEndWait + std::chrono::seconds(1)).count()));
    reads.watch().wait(
        read->stream, {.at_least = {position}, .only_in_log = true}, kEndWait,
        [&reads, read, generation, fresh](const WaitOutcome& outcome) {
            constexpr std::string_view kLogged = R"({"state":"logged"})";
            switch (outcome.waited) {
                case Waited::satisfied:
                    reads.send(*read, kLogged, make_etag(generation, read->media, kLogged), fresh);
                    return;
                case Waited::token_unknown:
                    send_unknown(*read, "lies beyond the end of the log");
                    return;
                case Waited::stale:
                    send_problem(read->reply,
                                 {.type = &problems::kUnavailable, .detail = "it is not known where the log ends"},
                                 read->trace);
                    return;
                case Waited::crowded:
                    Reads::fail(*read, problems::kOverloaded);
                    return;
            }
        });
}

void get_event(const Statements& statements, Reads& reads, const http::Request& request, http::Reply reply) {
    schemas::Violations violations;
    const std::array known{Reads::kAtLeast};
    const Query query(request.query, known, violations);
    const auto parts = schemas::parse_token(request.params[0]);
    const auto* const stream = parts ? schemas::find_stream(parts->front().stream) : nullptr;
    if (!parts) {
        violations.push_back({"/token", "is not a position token"});
    } else if (parts->size() > 1) {
        violations.push_back({"/token", "names more than one position"});
    } else if (stream == nullptr) {
        violations.push_back({"/token", "names no position of a stream"});
    }
    auto read = reads.begin(request, std::move(reply), query, stream != nullptr ? *stream : schemas::catalogue()[0],
                            kEntityMedia, std::move(violations));
    if (!read) return;
    const auto& event = parts->front();
    if (reads.watch().log(read->stream).hash().empty()) {
        send_problem(read->reply, {.type = &problems::kUnavailable, .detail = "the log is not known yet"}, read->trace);
        return;
    }
    if (!reads.watch().is_of_log(read->stream, event)) {
        send_unknown(*read, "is of another log");
        return;
    }
    read->partition = event.position.partition;
    const auto params = [position = event.position] {
        pg::Params given;
        given.add(position.partition).add(position.offset);
        return given;
    };
    reads.when_fresh(read, [&statements, &reads, read, params, event] {
        reads.look(statements.at(read->stream).statement(), params,
                   [&reads, read, event](std::variant<Reads::Look, const ProblemType*> looked) {
                       if (const auto* problem = std::get_if<const ProblemType*>(&looked)) {
                           Reads::fail(*read, **problem);
                           return;
                       }
                       const auto& found = std::get<Reads::Look>(looked);
                       const auto fresh = reads.freshness(*read, found.progress);
                       const auto generation = found.progress.generation;
                       if (const auto body = body_of(found, event); !body.empty()) {
                           reads.send(*read, body, make_etag(generation, read->media, body), fresh);
                       } else {
                           answer_logged(reads, read, event.position, generation, fresh);
                       }
                   });
    });
}

}  // namespace

void add_events(http::Router& router, Reads& reads) {
    const auto statements = std::make_shared<Statements>();
    const auto streams = schemas::catalogue();
    for (std::size_t n = 0; n < streams.size(); ++n) {
        statements->emplace_back("event_" + std::string(streams[n].name),
                                 for_each_stream(streams.subspan(n, 1), kEvent, ""));
    }
    router.add({.method = http::Method::get,
                .path = "/events/{token}",
                .handler = [statements, &reads](const http::Request& request, http::Reply reply) {
                    get_event(*statements, reads, request, std::move(reply));
                }});
}

}  // namespace tidemark::api
