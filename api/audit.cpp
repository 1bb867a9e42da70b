#include "api/audit.h"

#include "api/pages.h"
#include "schemas/instant.h"
#include "schemas/json.h"

#include <algorithm>
#include <string>
#include <string_view>
#include <utility>

namespace tidemark::api {
namespace {

using schemas::json::append_integer;
using schemas::json::append_member;
using schemas::json::append_string;

constexpr pg::Statement kAudits{"audits", R"(
    select stream, generation, is_current, instance, state, detail, next_offsets, behind, digest, log_us, tables_us, findings
    from tidemark.api_audits order by stream collate "C")"};

// What nobody has said lately is not repeated.
void append_found(std::string& out, const pg::Rows& rows, std::size_t row) {
    append_member(out, "outcome", rows.text(row, 4));
    append_member(out, "detail", rows.text(row, 5));
    append_member(out, "auditor", rows.text(row, 3));
    std::string offsets(rows.text(row, 6));  // {1,2}
    std::replace(offsets.begin(), offsets.end(), '{', '[');
    std::replace(offsets.begin(), offsets.end(), '}', ']');
    out.append(R"(,"nextOffsets":)").append(offsets).append(R"(,"behind":)");
    append_integer(out, rows.integer(row, 7));
    append_member(out, "digest", rows.text(row, 8));
    if (rows.cell(row, 9)) append_member(out, "logComparedAt", schemas::format_instant(rows.instant(row, 9)));
    if (rows.cell(row, 10)) append_member(out, "tablesComparedAt", schemas::format_instant(rows.instant(row, 10)));
    if (const auto findings = rows.cell(row, 11))
        out.append(R"(,"findings":)").append(findings->substr(0, findings->find_last_not_of('\n') + 1));
}

std::string body_of(const pg::Rows& rows) {
    std::string out = R"({"streams":[)";
    for (std::size_t row = 0; row < rows.size(); ++row) {
        out.append(row == 0 ? "" : ",").append(R"({"stream":)");
        append_string(out, rows.text(row, 0));
        out.append(R"(,"generation":)");
        append_integer(out, rows.integer(row, 1));
        if (rows.boolean(row, 2)) {
            append_found(out, rows, row);
        } else {
            append_member(out, "outcome", "unaudited");
            append_member(out, "detail", "no consumer audits these tables now");
        }
        out.push_back('}');
    }
    return out.append("]}");
}

}  // namespace

void add_audit(http::Router& router, Reads& reads) {
    add_plain(router, "/audit", [&reads](const http::Request& request, http::Reply reply) {
        reads.tell(kAudits, {}, request, std::move(reply), body_of);
    });
}

}  // namespace tidemark::api
