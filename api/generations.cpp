#include "api/generations.h"

#include "api/pages.h"
#include "schemas/json.h"

#include <utility>

namespace tidemark::api {
namespace {

using schemas::json::append_integer;
using schemas::json::append_member;
using schemas::json::append_string;

// Consumers are heard of every few seconds; one that has been silent for longer folds nothing any more.
constexpr pg::Statement kGenerations{"generations", R"(
    select g.generation, g.status, g.fingerprint, g.schema_name, g.created_us, g.retired_us,
           array_to_json(array(
               select c.instance from tidemark.api_consumers c
               where c.stream = g.stream and c.generation = g.generation
                 and c.heartbeat_us > (extract(epoch from now() - interval '10 seconds') * 1000000)::bigint
               order by c.instance collate "C"))::text
    from tidemark.api_generations g where g.stream = $1 order by g.generation)"};

std::string body_of(const schemas::Stream& stream, const pg::Rows& rows) {
    std::string out = R"({"stream":)";
    append_string(out, stream.name);
    out.append(R"(,"generations":[)");
    for (std::size_t row = 0; row < rows.size(); ++row) {
        out.append(row == 0 ? "" : ",").append(R"({"generation":)");
        append_integer(out, rows.integer(row, 0));
        append_member(out, "role", rows.text(row, 1));
        append_member(out, "fingerprint", rows.text(row, 2));
        append_member(out, "schema", rows.text(row, 3));
        append_member(out, "createdAt", schemas::format_instant(rows.instant(row, 4)));
        if (rows.cell(row, 5)) append_member(out, "retiredAt", schemas::format_instant(rows.instant(row, 5)));
        out.append(R"(,"foldedBy":)").append(rows.text(row, 6)).push_back('}');
    }
    return out.append("]}");
}

void get_generations(Reads& reads, const http::Request& request, http::Reply reply) {
    const auto* stream = schemas::find_stream(request.params[0]);
    if (stream == nullptr) {
        send_problem(reply, {.type = &problems::kUnknownEntity, .detail = "No stream has this name"}, trace_of(request),
                     kNoStore);
        return;
    }
    pg::Params params;
    params.add(stream->name);
    reads.tell(kGenerations, std::move(params), request, std::move(reply),
               [stream](const pg::Rows& rows) { return body_of(*stream, rows); });
}

}  // namespace

void add_generations(http::Router& router, Reads& reads) {
    add_plain(router, "/generations/{stream}", [&reads](const http::Request& request, http::Reply reply) {
        get_generations(reads, request, std::move(reply));
    });
}

}  // namespace tidemark::api
