#include "api/dead_letters.h"

#include "api/items.h"
#include "api/request.h"
#include "api/stream_sql.h"
#include "infra/postgres/connection.h"
#include "schemas/base64.h"
#include "schemas/catalogue.h"
#include "schemas/dead_letter.h"
#include "schemas/json.h"
#include "schemas/members.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <deque>
#include <limits>
#include <memory>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace tidemark::api {
namespace {

namespace json = schemas::json;
namespace dead_letter = schemas::dead_letter;
using producer::Outcome;
using producer::Published;
using schemas::Position;
using schemas::Violations;
using std::chrono::milliseconds;

constexpr std::string_view kJson = "application/json";

/// Of a record's key in a list: one may be as large as its record.
constexpr std::int32_t kMaxListedKeyBytes = 1'024;
constexpr std::size_t kMaxReasonBytes = 64;
constexpr std::size_t kMaxStreamBytes = 64;

/// An edit in what JSON makes of it.
constexpr std::size_t kMaxDecisionBytes = std::size_t{1} << 20;
constexpr std::size_t kMaxFilterBytes = 4 * 1024;

/// Of one request. So many are sent before what became of them is looked at, for when the first ones are refused the
/// next would be too.
constexpr std::size_t kMostLetters = 1'000;
constexpr std::size_t kDecisionsAtOnce = 100;

/// What a step needs beyond its own wait: a query's time-out, or the publisher's deadline and grace, and a second.
constexpr milliseconds kQueryStep{4'000};
constexpr milliseconds kPublishStep{6'500};

constexpr std::string_view kNoSuchLetter = "No dead letter has this id";

constexpr std::array<std::string_view, 4> kStatuses{"open", "redriven", "discarded", "quarantined"};

struct LetterId {
    std::string_view stream;
    Position position;
};
std::optional<LetterId> parse_id(std::string_view id) {
    const auto last = id.rfind(':');
    const auto colon = last == std::string_view::npos || last == 0 ? last : id.rfind(':', last - 1);
    if (colon == std::string_view::npos || colon == 0) return std::nullopt;
    const auto position = schemas::parse_position(id.substr(colon + 1));
    return position ? std::optional(LetterId{id.substr(0, colon), *position}) : std::nullopt;
}

/// The letter that the path names; nullopt with a violation.
std::optional<LetterId> read_id(const http::Request& request, Violations& violations) {
    const auto id = parse_id(request.params[0]);
    if (!id) violations.push_back({"/id", "must be STREAM:PARTITION:OFFSET, like counters:2:1834"});
    return id;
}

std::string stream_names() {
    std::string names;
    for (const auto& stream : schemas::catalogue())
        names.append(names.empty() ? "" : ", ").append(stream.name);
    return names;
}

/// The streams that a query means: one, or all.
Streams read_streams(const Query& query, Violations& violations) {
    const auto name = query.get("stream");
    if (!name) return schemas::catalogue();
    if (const auto* stream = schemas::find_stream(*name)) return {stream, 1};
    violations.push_back({"?stream", "must be one of " + stream_names()});
    return schemas::catalogue();
}

/// The status that a query means; nullopt: any.
std::optional<std::string> read_status(const Query& query, std::string_view by_default, Violations& violations) {
    const auto status = query.get("status").value_or(by_default);
    if (status == "all") return std::nullopt;
    if (std::find(kStatuses.begin(), kStatuses.end(), status) == kStatuses.end())
        violations.push_back({"?status", "must be one of open, redriven, discarded, quarantined, all"});
    return std::string(status);
}

std::optional<std::string> read_reason(const Query& query, Violations& violations) {
    const auto reason = query.get("reason");
    if (!reason) return std::nullopt;
    if (reason->empty() || reason->size() > kMaxReasonBytes)
        violations.push_back({"?reason", "must be 1 to 64 bytes, as in /dead-letters/reasons"});
    return std::string(*reason);
}

/// Where a list goes on: the last letter of the page before.
struct ListKey {
    schemas::Timestamp appended = kEndOfTime;
    std::string stream = "~";  // behind every name
    Position position{std::numeric_limits<std::int32_t>::max(), std::numeric_limits<std::int64_t>::max()};
};
ListKey read_key(const Page& page, Violations& violations) {
    if (!page.after) return {};
    const auto dot = std::min(page.after->find('.'), page.after->size());
    Page instant;
    instant.after = page.after->substr(0, dot);
    const auto appended = read_instant_key(instant, violations);
    const auto letter = parse_id(std::string_view(*page.after).substr(std::min(dot + 1, page.after->size())));
    if (appended && letter && schemas::find_stream(letter->stream) != nullptr)
        return {*appended, std::string(letter->stream), letter->position};
    if (appended) violations.push_back({"?cursor", "is not a cursor of this list"});
    return {};
}

// Statements, which name the schemas of the streams that they read.

// Each stream's and status's own limit first, which an index serves; then that of all. $1 limit, ($2, $3, $4, $5) the
// key to go on from, $6 the most of a key; then the status and the reason, as far as they are given: with optional ones
// no plan would use the index.
std::string list_sql(Streams streams, bool has_status, bool has_reason) {
    std::string letters;
    for (const auto status : kStatuses) {
        std::string one = R"(
            (select 1 as part, generation, # as stream, reason, detail, partition, "offset", append_time, status, attempts, holds,
                    octet_length(key) as key_size, case when octet_length(key) <= $6 then key end as key,
                    octet_length(value) as size
             from @.api_dead_letters
             where append_time <= $2 and (append_time, #, partition, "offset") < ($2, $3::text collate "C", $4, $5))";
        one.append(" and status = ").append(has_status ? "$7" : "'" + std::string(status) + "'");
        if (has_reason) one.append(" and reason = ").append(has_status ? "$8" : "$7");
        one.append(" order by append_time desc, partition desc, \"offset\" desc limit $1)");
        letters.append(letters.empty() ? "" : " union all ").append(for_each_stream(streams, one, " union all "));
        if (has_status) break;
    }
    return "select part, generation, stream, reason, detail, partition, \"offset\", "
           "(extract(epoch from append_time) * 1000000)::bigint, status, attempts, key_size, key, size, holds from ("
           "(select * from (" +
           letters +
           ") as letters order by append_time desc, stream desc, partition desc, \"offset\" desc limit $1) union all " +
           for_each_stream(
               streams,
               "select 0, generation, #, applied, as_of, null, null, null, null, null, null, null, null, null "
               "from @.api_progress",
               " union all ") +
           ") as page order by part desc, append_time desc, stream desc, partition desc, \"offset\" desc";
}

std::string reasons_sql(Streams streams) {
    return for_each_stream(streams, R"(
        select 1 as part, generation, # as stream, reason, status, count(*) as count,
               (extract(epoch from min(append_time)) * 1000000)::bigint, (extract(epoch from max(append_time)) * 1000000)::bigint
        from @.api_dead_letters where $1::text is null or status = $1 group by generation, reason, status)",
                           " union all ") +
           " union all " +
           for_each_stream(streams, "select 0, generation, #, applied, as_of, null, null, null from @.api_progress",
                           " union all ") +
           " order by part desc, count desc, stream, reason, status";
}

// The letter, then its headers, then the progress: see Reads.
constexpr std::string_view kOne = R"(
    select 2 as part, generation, reason, detail, status, attempts, topic,
           (extract(epoch from append_time) * 1000000)::bigint, decided_at, note, key, value, holds, 0::bigint as place
    from @.api_dead_letters where partition = $1 and "offset" = $2
    union all
    select 1, d.generation, null, null, null, null, null, null, null, null, h.name, h.value, null, h.place
    from @.api_dead_letters d, unnest(d.header_names, d.header_values) with ordinality as h (name, value, place)
    where d.partition = $1 and d."offset" = $2
    union all
    select 0, generation, applied, as_of, null, null, null, null, null, null, null, null, null, 0 from @.api_progress
    order by part desc, place)";

constexpr std::string_view kStatus = R"(
    select 1, generation, status, null, attempts, holds, behind from @.api_dead_letters
    where partition = $1 and "offset" = $2
    union all
    select 0, generation, applied, as_of, 0, false, null from @.api_progress order by 1 desc)";

// Of reason $1 or any, $2 at most, those first that were tried least: whoever asks again gets to the others. Those that
// wait behind one come last: they go with it. A decision that became a letter is not meant with them: judged again it
// is one of no type of the stream.
constexpr std::string_view kOpen = R"(
    (select 1 as part, generation, ''::text, ''::text, partition, "offset", attempts, behind is not null as waits
     from @.api_dead_letters
     where status = 'open' and ($1::text is null or reason = $1)
       and not (key is not distinct from 'decision'::bytea
                and coalesce(position('"tidemark.dead_letter.'::bytea in value), 0) > 0)
     order by waits, attempts, partition, "offset" limit $2)
    union all
    select 0, generation, applied, as_of, 0, 0, 0, false from @.api_progress
    order by part desc, waits, attempts, partition, "offset")";

// What became of letters that were decided about at offsets $3. The limits have each looked up by its key.
constexpr std::string_view kOutcomes = R"(
    select 1 as part, coalesce(d.generation, p.generation), coalesce(d.status, 'gone'),
           coalesce(c.detail, d.detail, 'the tables that are read now do not have it'), coalesce(d.attempts, 0),
           c.detail is not null, coalesce(d.decided_at = w.decision, false), w.place
    from unnest($1::integer[], $2::bigint[], $3::bigint[]) with ordinality as w (partition, "offset", decision, place)
    cross join @.api_progress p
    left join lateral (select x.generation, x.status, x.detail, x.attempts, x.decided_at from @.api_dead_letters x
                       where x.partition = w.partition and x."offset" = w."offset" limit 1) d on true
    left join lateral (select x.detail from @.api_dead_letters x
                       where x.partition = w.partition and x."offset" = w.decision limit 1) c on true
    union all
    select 0, generation, applied, as_of, 0, false, false, 0 from @.api_progress
    order by part desc, place)";

/// Items, then the progress of each stream: what one statement finds in several streams at once.
struct Looked {
    pg::Rows rows;
    std::size_t items = 0;
    std::vector<Progress> progress;  ///< in the streams' order

    /// Tells apart what two representations may differ by.
    [[nodiscard]] std::int32_t generations() const noexcept {
        std::int32_t mixed = 0;
        for (const auto& one : progress)
            mixed = mixed * 31 + one.generation;
        return mixed;
    }
};

/// Nullopt when a stream's tables are just being made, or were swapped while the statement ran: then it is run again.
std::optional<Looked> read_looked(pg::Rows rows, Streams streams) {
    constexpr std::size_t kStream = 2;
    Looked found;
    found.progress.resize(streams.size());
    const auto place = [&](std::size_t row) {
        const auto name = rows.text(row, kStream);
        const auto at = std::find_if(streams.begin(), streams.end(), [&](const auto& one) { return one.name == name; });
        if (at == streams.end()) throw std::logic_error("a row of no stream that was asked for");
        return static_cast<std::size_t>(at - streams.begin());
    };
    if (rows.size() < streams.size()) throw std::logic_error("fewer rows than streams");
    found.items = rows.size() - streams.size();
    for (auto row = found.items; row < rows.size(); ++row) {
        if (rows.integer(row, 0) != 0) throw std::logic_error("the last rows are not the progress");
        if (!rows.cell(row, 1)) return std::nullopt;
        found.progress[place(row)] = Progress::read(rows.integer(row, 1), rows.text(row, 3), rows.text(row, 4));
    }
    for (std::size_t row = 0; row < found.items; ++row) {
        if (rows.integer(row, 1) != found.progress[place(row)].generation) return std::nullopt;
    }
    found.rows = std::move(rows);
    return found;
}

std::optional<std::string> bytes_at(const pg::Rows& rows, std::size_t row, std::size_t column) {
    return rows.cell(row, column) ? std::optional(rows.bytes(row, column)) : std::nullopt;
}

// Decisions

/// A letter that a request decides about.
struct Letter {
    Position position;
    bool waits = false;     ///< behind another one, with which it goes: nothing is sent about it
    std::int64_t seen = 1;  ///< attempts before the decision, which holds only if there were no others meanwhile
    Outcome outcome = Outcome::unavailable;
    std::int64_t decision = -1;  ///< where the decision stands; -1: nowhere
    bool is_known = false;       ///< what became of it, which the rest says
    std::string status;
    std::string detail;
    std::int64_t attempts = 0;
    bool was_refused = false;  ///< the decision itself became a dead letter
    bool is_decided = false;   ///< by this decision, not by another that came before it
};

/// One request that decides: chunk by chunk its decisions are published, waited for and looked at. Each step is taken
/// by the thread that ended the one before it, except that the publications of a chunk end on any thread.
struct Deciding {
    std::shared_ptr<void> stay;  // first, so that it is let go last
    http::Reply reply;
    TraceId trace{};
    std::string traceparent;  // empty: one is made
    std::string source;
    std::size_t stream = 0;
    bool redrives = true;
    bool is_filter = false;
    std::optional<std::string> words;  // the edit, or the note
    std::chrono::seconds wait{};
    std::vector<Letter> letters;
    bool more = false;               // letters are left that the request means
    std::size_t begin = 0, end = 0;  // the chunk under way
    std::atomic<std::size_t> unanswered{0};
    std::chrono::steady_clock::time_point until;
};
using Decision = std::shared_ptr<Deciding>;

class DeadLetters : public std::enable_shared_from_this<DeadLetters> {
public:
    DeadLetters(LogWriter& writer, Reads& reads) : writer_(writer), reads_(reads) {
        const auto all = schemas::catalogue();
        for (std::size_t n = 0; n <= all.size(); ++n) {
            const auto streams = n < all.size() ? all.subspan(n, 1) : all;
            const auto name = n < all.size() ? std::string(all[n].name) : std::string("all");
            for (const bool has_status : {false, true}) {
                for (const bool has_reason : {false, true}) {
                    const auto kind = std::string(has_status ? "_of_status" : "") + (has_reason ? "_of_reason" : "");
                    lists_.emplace_back("dead_letters" + kind + "_" + name, list_sql(streams, has_status, has_reason));
                }
            }
            reasons_.emplace_back("dead_letter_reasons_" + name, reasons_sql(streams));
            if (n == all.size()) break;
            ones_.emplace_back("dead_letter_" + name, for_each_stream(streams, kOne, ""));
            statuses_.emplace_back("dead_letter_status_" + name, for_each_stream(streams, kStatus, ""));
            open_.emplace_back("dead_letters_open_" + name, for_each_stream(streams, kOpen, ""));
            outcomes_.emplace_back("dead_letter_outcomes_" + name, for_each_stream(streams, kOutcomes, ""));
        }
    }

    void list(const http::Request& request, http::Reply reply) const;
    void reasons(const http::Request& request, http::Reply reply) const;
    void one(const http::Request& request, http::Reply reply) const;
    void decide_one(const http::Request& request, http::Reply reply, bool redrives) const;
    void redrive_many(const http::Request& request, http::Reply reply) const;

private:
    using Render = std::function<std::pair<std::string, std::string>(const Looked&, const Read&)>;
    /// The whole of a read of several streams; `render` gives body and cursor.
    void answer(const std::shared_ptr<Read>& read, Streams streams, const Sql& sql, std::function<pg::Params()> params,
                Render render) const;
    void look(const std::shared_ptr<Read>& read, Streams streams, const Sql& sql,
              const std::function<pg::Params()>& params, const Render& render, int runs_left) const;

    Decision begin(const http::Request& request, http::Reply reply, const schemas::Stream& stream, bool redrives) const;
    void publish_next(const Decision& deciding) const;
    void when_published(const Decision& deciding) const;
    void when_folded(const Decision& deciding) const;
    void take_outcomes(const Decision& deciding, const Reads::Look& look) const;
    void finish(Deciding& deciding, bool in_time) const;
    void fail(Deciding& deciding, const ProblemType& problem) const;

    static std::size_t place_of(Streams streams) noexcept {
        return streams.size() == 1 ? ProgressWatch::index_of(streams.front()) : schemas::catalogue().size();
    }

    LogWriter& writer_;
    Reads& reads_;
    // By the stream's place in the catalogue; of the first two the last is of all streams. Of lists there are four
    // each.
    std::deque<Sql> lists_, reasons_, ones_, statuses_, open_, outcomes_;
};

// Reading

void DeadLetters::answer(const std::shared_ptr<Read>& read, Streams streams, const Sql& sql,
                         std::function<pg::Params()> params, Render render) const {
    constexpr int kRuns = 3;  // one that meets two swaps in a row has met something else
    reads_.when_fresh(read, [this, read, streams, &sql, params = std::move(params), render = std::move(render)] {
        look(read, streams, sql, params, render, kRuns);
    });
}

void DeadLetters::look(const std::shared_ptr<Read>& read, Streams streams, const Sql& sql,
                       const std::function<pg::Params()>& params, const Render& render, int runs_left) const {
    const auto on_result = [this, read, streams, &sql, params, render, runs_left](pg::QueryResult result) {
        if (result.error) {
            const bool is_bug = result.error->failure() == pg::Failure::bug;
            if (is_bug) reads_.report_bug(sql.statement(), *result.error);
            Reads::fail(*read, is_bug ? problems::kInternal : problems::kUnavailable);
            return;
        }
        try {
            if (const auto found = read_looked(std::move(result.rows), streams)) {
                const auto [body, next] = render(*found, *read);
                reads_.send(*read, body, make_etag(found->generations(), read->media, body),
                            reads_.freshness(*read, found->progress), next);
            } else if (runs_left > 1) {
                look(read, streams, sql, params, render, runs_left - 1);
            } else {
                Reads::fail(*read, problems::kUnavailable);
            }
        } catch (const std::logic_error& error) {
            reads_.report_bug(sql.statement(), error);
            Reads::fail(*read, problems::kInternal);
        }
    };
    if (!reads_.query(sql.statement(), params(), on_result)) Reads::fail(*read, problems::kOverloaded);
}

void DeadLetters::list(const http::Request& request, http::Reply reply) const {
    static constexpr std::array<std::string_view, 12> kColumns{"id",     "stream", "letter",    "appendTime",
                                                               "reason", "detail", "status",    "attempts",
                                                               "holds",  "key",    "keyBase64", "size"};
    constexpr char kCursor = 'd';
    Violations violations;
    const std::array<std::string_view, 6> known{Reads::kAtLeast, "stream", "status", "reason", "limit", "cursor"};
    const Query query(request.query, known, violations);
    const auto streams = read_streams(query, violations);
    const auto status = read_status(query, "open", violations);
    const auto reason = read_reason(query, violations);
    const auto page = read_page(query, kCursor, violations);
    const auto key = read_key(page, violations);
    auto read = reads_.begin(request, std::move(reply), query, streams, kListMedia, std::move(violations));
    if (!read) return;
    const auto params = [status, reason, page, key] {
        pg::Params given;
        given.add(page.limit + 1).add(key.appended).add(key.stream).add(key.position.partition);
        given.add(key.position.offset).add(kMaxListedKeyBytes);
        if (status) given.add(*status);
        if (reason) given.add(*reason);
        return given;
    };
    const auto render = [page](const Looked& found, const Read& asked) {
        const auto& rows = found.rows;
        const auto shown = std::min(found.items, static_cast<std::size_t>(page.limit));
        Items items(asked.media, kColumns);
        std::string id;
        for (std::size_t row = 0; row < shown; ++row) {
            const auto letter = std::string(rows.text(row, 5)).append(1, ':').append(rows.text(row, 6));
            id.assign(rows.text(row, 2)).append(1, ':').append(letter);
            items.text(id);
            items.text(rows.text(row, 2));
            items.text(letter);
            items.instant(rows.instant(row, 7));
            items.text(rows.text(row, 3));
            items.text(rows.text(row, 4));
            items.text(rows.text(row, 8));
            items.number(rows.text(row, 9));
            items.flag(rows.boolean(row, 13));
            const auto bytes = bytes_at(rows, row, 11);
            const bool is_text = bytes && json::is_utf8(*bytes);
            if (is_text) {
                items.text(*bytes);
            } else if (!rows.cell(row, 10)) {
                items.null();
            } else {
                items.absent();
            }
            if (bytes && !is_text) {
                items.text(schemas::to_base64(*bytes));
            } else {
                items.absent();
            }
            if (rows.cell(row, 12)) {
                items.number(rows.text(row, 12));
            } else {
                items.null();
            }
        }
        std::string next;
        if (shown < found.items)
            next = make_cursor(kCursor, make_instant_key(rows.instant(shown - 1, 7)).append(1, '.').append(id));
        return std::pair(items.finish(next), next);
    };
    const std::size_t kind = (status ? 2U : 0U) + (reason ? 1U : 0U);
    answer(read, streams, lists_[4 * place_of(streams) + kind], params, render);
}

void DeadLetters::reasons(const http::Request& request, http::Reply reply) const {
    static constexpr std::array<std::string_view, 6> kColumns{"stream", "reason", "status",
                                                              "count",  "oldest", "newest"};
    Violations violations;
    const std::array<std::string_view, 3> known{Reads::kAtLeast, "stream", "status"};
    const Query query(request.query, known, violations);
    const auto streams = read_streams(query, violations);
    const auto status = read_status(query, "all", violations);
    auto read = reads_.begin(request, std::move(reply), query, streams, kListMedia, std::move(violations));
    if (!read) return;
    const auto params = [status] {
        pg::Params given;
        given.add_optional(status);
        return given;
    };
    const auto render = [](const Looked& found, const Read& asked) {
        const auto& rows = found.rows;
        Items items(asked.media, kColumns);
        for (std::size_t row = 0; row < found.items; ++row) {
            for (const std::size_t column : {2U, 3U, 4U})
                items.text(rows.text(row, column));
            items.number(rows.text(row, 5));
            items.instant(rows.instant(row, 6));
            items.instant(rows.instant(row, 7));
        }
        return std::pair(items.finish({}), std::string());
    };
    answer(read, streams, reasons_[place_of(streams)], params, render);
}

std::string body_of_letter(const Reads::Look& look, std::string_view id, const Position& position) {
    const auto& rows = look.rows;
    std::string out = R"({"id":)";
    json::append_string(out, id);
    json::append_member(out, "stream", id.substr(0, id.find(':')));
    json::append_member(out, "letter", schemas::to_string(position));
    json::append_member(out, "topic", rows.text(0, 6));
    json::append_member(out, "partition", position.partition);
    json::append_member(out, "offset", position.offset);
    json::append_member(out, "appendTime", schemas::format_instant(rows.instant(0, 7)));
    json::append_member(out, "reason", rows.text(0, 2));
    json::append_member(out, "detail", rows.text(0, 3));
    json::append_member(out, "status", rows.text(0, 4));
    json::append_member(out, "attempts", rows.integer(0, 5));
    out.append(rows.boolean(0, 12) ? R"(,"holds":true)" : R"(,"holds":false)");
    if (rows.cell(0, 8)) {
        json::append_member(out, "decision", schemas::to_string({position.partition, rows.integer(0, 8)}));
    } else {
        out.append(R"(,"decision":null)");
    }
    json::append_member(out, "note", rows.cell(0, 9).value_or(""));
    out.push_back(',');
    schemas::append_bytes(out, "key", bytes_at(rows, 0, 10));
    out.append(R"(,"headers":[)");
    for (std::size_t row = 1; row < look.items; ++row) {
        out.append(row > 1 ? ",{" : "{");
        schemas::append_bytes(out, "name", bytes_at(rows, row, 10));
        out.push_back(',');
        schemas::append_bytes(out, "value", bytes_at(rows, row, 11));
        out.push_back('}');
    }
    out.append("],");
    schemas::append_bytes(out, "value", bytes_at(rows, 0, 11));
    return out.append("}");
}

void DeadLetters::one(const http::Request& request, http::Reply reply) const {
    Violations violations;
    const std::array known{Reads::kAtLeast};
    const Query query(request.query, known, violations);
    const auto id = read_id(request, violations);
    const auto* const stream = id ? schemas::find_stream(id->stream) : nullptr;
    // One of no stream is as unknown as one of no record; which stream's freshness was asked for is then no matter.
    auto read = reads_.begin(request, std::move(reply), query, stream != nullptr ? *stream : schemas::catalogue()[0],
                             kEntityMedia, std::move(violations));
    if (!read) return;
    if (stream == nullptr) {
        send_problem(read->reply, {.type = &problems::kUnknownEntity, .detail = std::string(kNoSuchLetter)},
                     read->trace);
        return;
    }
    const auto position = id->position;
    if (position.partition < reads_.watch().log(read->stream).partitions()) read->partition = position.partition;
    const auto params = [position] {
        pg::Params given;
        given.add(position.partition).add(position.offset);
        return given;
    };
    const auto render = [position, name = request.params[0]](const Reads::Look& look, const Read&) -> Found {
        if (look.items == 0) return {.missing = kNoSuchLetter};
        return {.body = body_of_letter(look, name, position)};
    };
    reads_.answer(read, {ones_[read->stream].statement(), params, render});
}

// Deciding

Decision DeadLetters::begin(const http::Request& request, http::Reply reply, const schemas::Stream& stream,
                            bool redrives) const {
    auto deciding = std::make_shared<Deciding>();
    deciding->stay = reads_.stay();
    deciding->reply = std::move(reply);
    deciding->trace = trace_of(request);
    deciding->traceparent = traceparent_of(request).value_or("");
    deciding->source = request.route;
    deciding->stream = ProgressWatch::index_of(stream);
    deciding->redrives = redrives;
    Violations none;
    deciding->wait = read_wishes(request, Query({}, {}, none), none).wait;
    return deciding;
}

void DeadLetters::fail(Deciding& deciding, const ProblemType& problem) const {
    std::string detail;
    if (&problem == &problems::kUnavailable) detail = "the tables could not be read in time; nothing was decided";
    if (&problem == &problems::kOverloaded) detail = "too many reads are under way; nothing was decided";
    send_problem(deciding.reply, {.type = &problem, .detail = std::move(detail)}, deciding.trace);
}

/// What both decisions about one letter read of a request: the body's one member, which may be absent.
std::optional<std::string> read_words(const http::Request& request, bool redrives, Violations& violations) {
    if (request.body.empty()) return std::nullopt;
    const auto body = read_body(request);
    if (!body) {
        violations.insert(violations.end(), body.violations().begin(), body.violations().end());
        return std::nullopt;
    }
    schemas::Members members(*body, "");
    const auto words = redrives ? members.optional_text("edit", dead_letter::kMaxSentEditBytes)
                                : members.optional_text("note", dead_letter::kMaxNoteBytes);
    for (auto& found : members.violations(json::Unknown::refuse))
        violations.push_back(std::move(found));
    return words ? std::optional(std::string(*words)) : std::nullopt;
}

/// What every decision may carry is as every write's; true when it was answered because something is wrong.
bool is_refused(const http::Request& request, http::Reply& reply, Violations violations) {
    static_cast<void>(read_write_headers(request, violations));
    if (!request.query.empty()) static_cast<void>(Query(request.query, {}, violations));
    if (violations.empty()) return false;
    send_problem(reply, {.type = &problems::kInvalidRequest, .violations = std::move(violations)}, trace_of(request));
    return true;
}

void DeadLetters::decide_one(const http::Request& request, http::Reply reply, bool redrives) const {
    Violations violations;
    const auto id = read_id(request, violations);
    auto words = read_words(request, redrives, violations);
    if (is_refused(request, reply, std::move(violations))) return;
    const auto* const stream = schemas::find_stream(id->stream);
    if (stream == nullptr) {
        send_problem(reply, {.type = &problems::kUnknownEntity, .detail = std::string(kNoSuchLetter)},
                     trace_of(request));
        return;
    }
    auto deciding = begin(request, std::move(reply), *stream, redrives);
    deciding->words = std::move(words);
    deciding->letters.emplace_back().position = id->position;
    const auto params = [position = id->position] {
        pg::Params given;
        given.add(position.partition).add(position.offset);
        return given;
    };
    reads_.look(
        statuses_[deciding->stream].statement(), params,
        [self = shared_from_this(), deciding](std::variant<Reads::Look, const ProblemType*> looked) {
            if (const auto* problem = std::get_if<const ProblemType*>(&looked)) {
                self->fail(*deciding, **problem);
                return;
            }
            const auto& found = std::get<Reads::Look>(looked);
            if (found.items == 0) {
                send_problem(deciding->reply, {.type = &problems::kUnknownEntity, .detail = std::string(kNoSuchLetter)},
                             deciding->trace);
            } else if (found.rows.text(0, 2) != "open" && (deciding->redrives || !found.rows.boolean(0, 5))) {
                send_problem(deciding->reply,
                             {.type = &problems::kNotOpen,
                              .detail = "the letter is " + std::string(found.rows.text(0, 2)) +
                                        (found.rows.boolean(0, 5) ? ", and can only be discarded"
                                                                  : ", and no decision changes that")},
                             deciding->trace);
            } else if (deciding->redrives && found.rows.cell(0, 6)) {
                const Position first{deciding->letters.front().position.partition, found.rows.integer(0, 6)};
                send_problem(deciding->reply,
                             {.type = &problems::kBehindDeadLetter,
                              .detail = "it waits behind " + std::string(schemas::catalogue()[deciding->stream].name) +
                                        ':' + schemas::to_string(first)},
                             deciding->trace);
            } else {
                deciding->letters.front().seen = found.rows.integer(0, 4);
                self->publish_next(deciding);
            }
        });
}

void DeadLetters::redrive_many(const http::Request& request, http::Reply reply) const {
    Violations violations;
    const schemas::Stream* stream = nullptr;
    std::optional<std::string> reason;
    bool is_dry_run = false;
    if (const auto body = read_body(request)) {
        schemas::Members members(*body, "");
        const auto name = members.text("stream", kMaxStreamBytes);
        if (const auto given = members.optional_text("reason", kMaxReasonBytes)) reason = *given;
        is_dry_run = members.flag("dryRun");
        violations = members.violations(json::Unknown::refuse);
        stream = schemas::find_stream(name);
        if (stream == nullptr && !name.empty()) violations.push_back({"/stream", "must be one of " + stream_names()});
    } else {
        violations = body.violations();
    }
    if (is_refused(request, reply, std::move(violations))) return;
    auto deciding = begin(request, std::move(reply), *stream, true);
    deciding->is_filter = true;
    const auto params = [reason] {
        pg::Params given;
        given.add_optional(reason).add(static_cast<std::int64_t>(kMostLetters + 1));
        return given;
    };
    reads_.look(
        open_[deciding->stream].statement(), params,
        [self = shared_from_this(), deciding, is_dry_run](std::variant<Reads::Look, const ProblemType*> looked) {
            if (const auto* problem = std::get_if<const ProblemType*>(&looked)) {
                self->fail(*deciding, **problem);
                return;
            }
            const auto& found = std::get<Reads::Look>(looked);
            deciding->more = found.items > kMostLetters;
            for (std::size_t row = 0; row < std::min(found.items, kMostLetters); ++row) {
                auto& letter = deciding->letters.emplace_back();
                letter.position = {static_cast<std::int32_t>(found.rows.integer(row, 4)), found.rows.integer(row, 5)};
                letter.seen = found.rows.integer(row, 6);
                letter.waits = found.rows.boolean(row, 7);
            }
            if (is_dry_run || deciding->letters.empty()) {
                self->finish(*deciding, true);
            } else {
                self->publish_next(deciding);
            }
        });
}

void DeadLetters::publish_next(const Decision& deciding) const {
    auto& all = *deciding;
    if (reads_.watch().log(all.stream).hash().empty()) {
        send_problem(all.reply, {.type = &problems::kUnavailable, .detail = "the log is not known yet"}, all.trace);
        return;
    }
    if (all.begin == 0) all.until = reads_.clock().steady() + all.wait;
    all.reply.extend_deadline(static_cast<std::uint32_t>(kPublishStep.count()));
    all.end = std::min(all.letters.size(), all.begin + kDecisionsAtOnce);
    // One more than there are, so that the step does not end while this still publishes.
    all.unanswered = all.end - all.begin + 1;
    const auto settle = [](const DeadLetters& self, const Decision& whose) {
        if (whose->unanswered.fetch_sub(1, std::memory_order_acq_rel) == 1) self.when_published(whose);
    };
    std::string data;
    for (auto n = all.begin; n < all.end; ++n) {
        if (all.letters[n].waits) {
            settle(*this, deciding);
            continue;
        }
        data.clear();
        const auto offset = all.letters[n].position.offset;
        if (all.redrives) {
            dead_letter::append(data, dead_letter::Redriven{offset, all.words, all.letters[n].seen});
        } else {
            dead_letter::append(data, dead_letter::Discarded{offset, all.words});
        }
        writer_.publish({.stream = all.stream,
                         .type = all.redrives ? dead_letter::kRedriven : dead_letter::kDiscarded,
                         .key = dead_letter::kKey,
                         .data = data,
                         .partition = all.letters[n].position.partition},
                        all.source,
                        all.traceparent.empty() ? std::nullopt : std::optional<std::string_view>(all.traceparent),
                        [self = shared_from_this(), deciding, n, settle](const Published& published) noexcept {
                            auto& letter = deciding->letters[n];
                            letter.outcome = published.outcome;
                            if (published.outcome == Outcome::accepted) letter.decision = published.offset;
                            settle(*self, deciding);
                        });
    }
    settle(*this, deciding);
}

/// Of each partition the last decision, if there is one.
std::vector<Position> last_decisions(std::span<const Letter> letters) {
    std::vector<Position> last;
    for (const auto& one : letters) {
        if (one.decision < 0) continue;
        const auto same = std::find_if(last.begin(), last.end(),
                                       [&](const auto& other) { return other.partition == one.position.partition; });
        if (same == last.end()) {
            last.push_back({one.position.partition, one.decision});
        } else {
            same->offset = std::max(same->offset, one.decision);
        }
    }
    return last;
}

void DeadLetters::when_published(const Decision& deciding) const {
    auto& all = *deciding;
    const std::span sent(all.letters.data(), all.end);
    const auto failed = std::find_if(sent.begin(), sent.end(),
                                     [](const Letter& one) { return !one.waits && one.outcome != Outcome::accepted; });
    if (failed != sent.end()) {
        const auto stored =
            std::count_if(sent.begin(), sent.end(), [](const Letter& one) { return one.outcome == Outcome::accepted; });
        const auto unknown =
            std::any_of(sent.begin(), sent.end(), [](const Letter& one) { return one.outcome == Outcome::unknown; });
        auto problem = problem_of(stored > 0 || unknown ? Outcome::unknown : failed->outcome);
        if (all.is_filter && problem.type == &problems::kOutcomeUnknown)
            problem.detail = std::to_string(stored) + " decisions are on the log and hold, others perhaps";
        if (problem.type == &problems::kOutcomeUnknown)
            problem.detail.append("; a decision about a letter that is not open changes nothing, so ask again");
        send_problem(all.reply, problem, all.trace);
        return;
    }
    const auto now = reads_.clock().steady();
    const auto left = std::max(std::chrono::ceil<milliseconds>(all.until - now), milliseconds(0));
    all.reply.extend_deadline(static_cast<std::uint32_t>((left + kQueryStep).count()));
    Wish wish{.at_least = last_decisions(sent.subspan(all.begin))};
    if (wish.at_least.empty()) {
        when_folded(deciding);
        return;
    }
    reads_.watch().wait(all.stream, std::move(wish), left,
                        [self = shared_from_this(), deciding](const WaitOutcome& outcome) {
                            if (outcome.waited == Waited::satisfied) {
                                self->when_folded(deciding);
                            } else {
                                self->finish(*deciding, false);  // the decisions hold, whenever they are folded
                            }
                        });
}

void DeadLetters::when_folded(const Decision& deciding) const {
    const auto params = [deciding] {
        pg::Array partitions;
        pg::Array offsets;
        pg::Array decisions;
        for (auto n = deciding->begin; n < deciding->end; ++n) {
            const auto& one = deciding->letters[n];
            partitions.add(one.position.partition);
            offsets.add(one.position.offset);
            decisions.add(one.decision);
        }
        pg::Params given;
        given.add(std::move(partitions)).add(std::move(offsets)).add(std::move(decisions));
        return given;
    };
    reads_.look(outcomes_[deciding->stream].statement(), params,
                [self = shared_from_this(), deciding](std::variant<Reads::Look, const ProblemType*> looked) {
                    if (const auto* look = std::get_if<Reads::Look>(&looked)) {
                        self->take_outcomes(deciding, *look);
                    } else {
                        self->finish(*deciding, false);
                    }
                });
}

void DeadLetters::take_outcomes(const Decision& deciding, const Reads::Look& look) const {
    auto& all = *deciding;
    if (look.items != all.end - all.begin) throw std::logic_error("not one outcome for each decision");
    bool is_refused = false;
    for (std::size_t row = 0; row < look.items; ++row) {
        auto& letter = all.letters[all.begin + row];
        letter.is_known = true;
        letter.status = look.rows.text(row, 2);
        letter.detail = look.rows.text(row, 3);
        letter.attempts = look.rows.integer(row, 4);
        letter.was_refused = look.rows.boolean(row, 5);
        letter.is_decided = look.rows.boolean(row, 6);
        is_refused |= letter.was_refused;
    }
    all.begin = all.end;
    if (all.begin == all.letters.size() || is_refused || reads_.clock().steady() >= all.until) {
        finish(all, true);
    } else {
        publish_next(deciding);
    }
}

void append_letter(std::string& out, const Deciding& deciding, const Letter& letter) {
    const auto place = schemas::to_string(letter.position);
    out.append(R"({"id":)");
    json::append_string(out, std::string(schemas::catalogue()[deciding.stream].name).append(1, ':').append(place));
    json::append_member(out, "letter", place);
    if (letter.decision >= 0) {
        json::append_member(out, "decision", schemas::to_string({letter.position.partition, letter.decision}));
    } else {
        out.append(R"(,"decision":null)");
    }
    if (letter.is_known) {
        json::append_member(out, "status", letter.status);
        json::append_member(out, "detail", letter.detail);
        json::append_member(out, "attempts", letter.attempts);
        out.append(R"(,"decisionRefused":)").append(letter.was_refused ? "true" : "false");
    }
    out.push_back('}');
}

void DeadLetters::finish(Deciding& all, bool in_time) const {
    // Of a filter's letters those that nothing was sent for are left, but a dry run shows them.
    const bool is_dry = all.end == 0;
    const auto shown = std::span(all.letters).first(is_dry ? all.letters.size() : all.end);
    if (shown.size() < all.letters.size()) all.more = true;
    std::string lines;
    if (!is_dry) {
        const auto last = last_decisions(shown);
        const auto& log = reads_.watch().log(all.stream);
        for (const auto& position : last) {
            lines.append(&position == &last.front() ? "Log-Position: " : ",");
            schemas::append_token(lines, log.stream(), log.hash(), position);
        }
        if (!last.empty()) lines.append("\r\n");
    }
    if (!all.is_filter) {
        const auto& letter = shown.front();
        // Whoever wants what another decision has made of it has got it; an edit is not what another's is.
        const bool is_as_wanted =
            all.redrives ? letter.status == "redriven" && !all.words : letter.status == "discarded";
        if (letter.is_known && !letter.was_refused && !letter.is_decided && letter.status != "open" && !is_as_wanted) {
            send_problem(all.reply,
                         {.type = &problems::kNotOpen,
                          .detail = "the letter was " + letter.status + " by another decision in the meantime"},
                         all.trace);
            return;
        }
        std::string body;
        append_letter(body, all, letter);
        all.reply.send(in_time ? 200 : 202, kJson, lines, body);
        return;
    }
    std::string body = R"({"stream":)";
    json::append_string(body, schemas::catalogue()[all.stream].name);
    body.append(R"(,"letters":[)");
    for (const auto& letter : shown) {
        if (body.back() != '[') body.push_back(',');
        append_letter(body, all, letter);
    }
    body.append(R"(],"more":)").append(all.more ? "true}" : "false}");
    all.reply.send(in_time ? 200 : 202, kJson, lines, body);
}

}  // namespace

void add_dead_letters(http::Router& router, LogWriter& writer, Reads& reads) {
    const auto letters = std::make_shared<DeadLetters>(writer, reads);
    const auto add_get = [&](std::string path, void (DeadLetters::*handler)(const http::Request&, http::Reply) const) {
        router.add({.method = http::Method::get,
                    .path = std::move(path),
                    .handler = [letters, handler](const http::Request& request, http::Reply reply) {
                        (*letters.*handler)(request, std::move(reply));
                    }});
    };
    add_get("/dead-letters", &DeadLetters::list);
    add_get("/dead-letters/reasons", &DeadLetters::reasons);
    add_get("/dead-letters/{id}", &DeadLetters::one);
    add_write(router, http::Method::post, "/dead-letters/{id}/redrive", kMaxDecisionBytes,
              [letters](const http::Request& request, http::Reply reply) {
                  letters->decide_one(request, std::move(reply), true);
              });
    add_write(router, http::Method::post, "/dead-letters/{id}/discard", kMaxFilterBytes * 4,
              [letters](const http::Request& request, http::Reply reply) {
                  letters->decide_one(request, std::move(reply), false);
              });
    add_write(router, http::Method::post, "/dead-letters/redrive", kMaxFilterBytes,
              [letters](const http::Request& request, http::Reply reply) {
                  letters->redrive_many(request, std::move(reply));
              });
}

}  // namespace tidemark::api
