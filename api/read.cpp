#include "api/read.h"

#include "api/pages.h"
#include "infra/base/log.h"
#include "infra/kafka/partitioner.h"
#include "infra/postgres/error.h"
#include "schemas/instant.h"
#include "schemas/json.h"
#include "schemas/position.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <stdexcept>
#include <utility>

namespace tidemark::api {
namespace {

/// A statement that meets two swaps of generations in a row has met something else.
constexpr int kRuns = 3;

/// Beyond its wait a read needs its statement's own time-out, and a second for the answer.
constexpr std::chrono::milliseconds kBeyondWait{4'000};

/// The latest positions of those streams among a token's parts.
std::vector<schemas::TokenPart> parts_of_streams(const std::vector<schemas::TokenPart>& parts,
                                                 std::span<const schemas::Stream> streams,
                                                 schemas::Violations& violations) {
    constexpr std::string_view kPointer = "?at_least";
    if (streams.size() == 1) return parts_of_stream(parts, streams.front().name, kPointer, violations);
    std::vector<schemas::TokenPart> found;
    for (const auto& stream : streams) {
        schemas::Violations none;  // a token need not name every stream
        for (auto& part : parts_of_stream(parts, stream.name, kPointer, none))
            found.push_back(std::move(part));
    }
    if (found.empty()) violations.push_back({std::string(kPointer), "names no position of a stream"});
    return found;
}

std::string stale_detail(const Read& read, const std::optional<schemas::Timestamp>& as_of) {
    std::string detail = "the tables did not become as fresh as was asked for within ";
    detail.append(std::to_string(read.wishes.wait.count())).append(" s");
    if (as_of) detail.append("; they hold everything before ").append(schemas::format_instant(*as_of));
    return detail;
}

/// What a request's target may hold but a URI may not is escaped, or a `>` would end the link.
void append_uri(std::string& uri, std::string_view target) {
    for (const char c : target) {
        if (std::string_view(R"("<>\^`{|})").find(c) == std::string_view::npos) {
            uri.push_back(c);
        } else {
            uri.push_back('%');
            append_hex(uri, std::array{static_cast<std::uint8_t>(c)});
        }
    }
}

/// The target without its cursor, up to where the next cursor's value goes.
std::string link_of(const http::Request& request) {
    std::string link;
    append_uri(link, request.path);
    link.push_back('?');
    for (auto rest = request.query; !rest.empty();) {
        const auto at = std::min(rest.find('&'), rest.size());
        const auto parameter = rest.substr(0, at);
        rest.remove_prefix(std::min(at + 1, rest.size()));
        const auto name = http::percent_decode(parameter.substr(0, parameter.find('=')), true);
        if (parameter.empty() || name == "cursor") continue;
        append_uri(link, parameter);
        link.push_back('&');
    }
    return link.append("cursor=");
}

/// FNV-1a, finished with a mixer as its upper bits alone are weak. An entity tag tells versions of one resource apart;
/// nobody gains by making two equal.
std::uint64_t hash(std::string_view text, std::uint64_t seed) noexcept {
    std::uint64_t value = 14695981039346656037ULL ^ seed;
    for (const char c : text)
        value = (value ^ static_cast<unsigned char>(c)) * 1099511628211ULL;
    value ^= value >> 33U;
    value *= 0xff51afd7ed558ccdULL;
    value ^= value >> 33U;
    return value;
}

std::string quote(std::uint64_t value, std::string_view prefix) {
    std::array<char, 16> digits;
    const auto end = std::to_chars(digits.data(), digits.data() + digits.size(), value, 16).ptr;
    std::string tag(prefix);
    tag.push_back('"');
    tag.append(digits.data(), static_cast<std::size_t>(end - digits.data())).push_back('"');
    return tag;
}

/// Nullopt while the tables are just being made, and have no partitions yet.
std::optional<Reads::Look> read_look(pg::Rows rows) {
    if (rows.empty()) throw std::logic_error("no row of progress");
    const auto last = rows.size() - 1;
    if (rows.integer(last, 0) != 0) throw std::logic_error("the last row is not the progress");
    if (!rows.cell(last, 1)) return std::nullopt;
    auto progress = Progress::read(rows.integer(last, 1), rows.text(last, 2), rows.text(last, 3));
    return Reads::Look{std::move(rows), last, std::move(progress)};
}

bool has_one_generation(const Reads::Look& look) {
    for (std::size_t row = 0; row < look.items; ++row) {
        if (look.rows.integer(row, 1) != look.progress.generation) return false;
    }
    return true;
}

}  // namespace

void add_read(http::Router& router, std::string path, Reads& reads,
              void (*handler)(Reads&, const http::Request&, http::Reply)) {
    router.add({.method = http::Method::get,
                .path = std::move(path),
                .handler = [&reads, handler](const http::Request& request, http::Reply reply) {
                    handler(reads, request, std::move(reply));
                }});
}

std::string make_etag(std::int32_t generation, Media media, std::string_view body) {
    const auto seed =
        (static_cast<std::uint64_t>(static_cast<std::uint32_t>(generation)) << 8U) | static_cast<std::uint64_t>(media);
    return quote(hash(body, seed * 0x9e3779b97f4a7c15ULL), "");
}

std::string make_weak_etag(std::string_view text) {
    return quote(hash(text, 0), "W/");
}

std::shared_ptr<Read> Reads::begin(const http::Request& request, http::Reply reply, const Query& query,
                                   std::span<const schemas::Stream> streams, std::span<const Media> offered,
                                   schemas::Violations violations) {
    auto read = std::make_shared<Read>();
    read->reply = std::move(reply);
    read->trace = trace_of(request);
    read->stream = ProgressWatch::index_of(streams.front());
    for (std::size_t n = 1; n < streams.size(); ++n)
        read->others.emplace_back(read->stream + n, Wish());
    read->wishes = read_wishes(request, query, violations);
    std::vector<schemas::TokenPart> parts;
    if (!read->wishes.at_least.empty()) parts = parts_of_streams(read->wishes.at_least, streams, violations);
    if (!violations.empty()) {
        send_problem(read->reply, {.type = &problems::kInvalidRequest, .violations = std::move(violations)},
                     read->trace);
        return nullptr;
    }
    const auto media = choose_media(joined_fields(request, "accept"), offered);
    if (!media) {
        std::string detail = "this route answers with ";
        for (const auto offer : offered)
            detail.append(offer == offered.front() ? "" : ", ").append(content_type(offer));
        send_problem(read->reply, {.type = &problems::kNotAcceptable, .detail = std::move(detail)}, read->trace);
        return nullptr;
    }
    read->media = *media;
    read->if_none_match = joined_fields(request, "if-none-match");
    if (offered.size() > 1) read->next_link = link_of(request);
    if (read->wishes.is_demanding() && !demand(*read, parts, "?at_least")) return nullptr;
    read->wish.everything_acknowledged = read->wishes.no_cache;
    if (read->wishes.max_age) read->wish.as_of = clock_.now() - *read->wishes.max_age;
    for (auto& [stream, wish] : read->others) {
        wish.everything_acknowledged = read->wish.everything_acknowledged;
        wish.as_of = read->wish.as_of;
    }
    return read;
}

bool Reads::demand(Read& read, const std::vector<schemas::TokenPart>& parts, std::string_view pointer) const {
    const bool knows_logs = !watch_.log(read.stream).hash().empty() &&
                            std::none_of(read.others.begin(), read.others.end(),
                                         [this](const auto& other) { return watch_.log(other.first).hash().empty(); });
    if (!knows_logs) {
        send_problem(read.reply,
                     {.type = &problems::kUnavailable, .detail = "it is not known yet how far the tables are"},
                     read.trace);
        return false;
    }
    read.token_pointer = pointer;
    for (const auto& part : parts) {
        const auto other = std::find_if(read.others.begin(), read.others.end(), [&](const auto& one) {
            return schemas::catalogue()[one.first].name == part.stream;
        });
        const bool is_other = other != read.others.end();
        if (watch_.is_of_log(is_other ? other->first : read.stream, part)) {
            (is_other ? other->second : read.wish).at_least.push_back(part.position);
            continue;
        }
        send_problem(read.reply,
                     {.type = &problems::kTokenUnknown, .violations = {{std::string(pointer), "is of another log"}}},
                     read.trace);
        return false;
    }
    return true;
}

void Reads::when_fresh(std::shared_ptr<Read> read, std::function<void()> then) {
    std::vector<std::pair<std::size_t, Wish>> wanted(read->others.rbegin(), read->others.rend());
    wanted.emplace_back(read->stream, read->wish);
    std::erase_if(wanted, [](const auto& one) { return !one.second; });
    if (wanted.empty()) {
        then();
        return;
    }
    const std::chrono::milliseconds wait = read->wishes.wait;
    read->reply.extend_deadline(static_cast<std::uint32_t>((wait + kBeyondWait).count()));
    await(std::move(read), std::move(wanted), clock_.steady() + wait, std::move(then));
}

void Reads::await(std::shared_ptr<Read> read, std::vector<std::pair<std::size_t, Wish>> wanted, Instant until,
                  std::function<void()> then) {
    auto [stream, wish] = std::move(wanted.back());
    wanted.pop_back();
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(until - clock_.steady());
    watch_.wait(
        stream, std::move(wish), left,
        [this, stream = stream, until, read = std::move(read), wanted = std::move(wanted),
         then = std::move(then)](const WaitOutcome& outcome) {
            switch (outcome.waited) {
                case Waited::satisfied:
                    if (!wanted.empty()) {
                        await(read, wanted, until, then);
                        return;
                    }
                    // What one wait has proven says nothing of the other streams.
                    if (read->others.empty()) read->proven_as_of = outcome.as_of;
                    then();
                    return;
                case Waited::stale:
                    if (read->wishes.lenient) {
                        then();
                        return;
                    }
                    send_problem(read->reply,
                                 {.type = &problems::kStale, .detail = stale_detail(*read, watch_.as_of(stream))},
                                 read->trace);
                    return;
                case Waited::token_unknown:
                    send_problem(read->reply,
                                 {.type = &problems::kTokenUnknown,
                                  .violations = {{std::string(read->token_pointer), "lies beyond the end of the log"}}},
                                 read->trace);
                    return;
                case Waited::crowded:
                    send_problem(read->reply,
                                 {.type = &problems::kOverloaded, .detail = "too many reads are waiting already"},
                                 read->trace);
                    return;
            }
        });
}

void Reads::enter() {
    const std::lock_guard lock(mutex_);
    ++under_way_;
}

void Reads::leave() {
    const std::lock_guard lock(mutex_);  // held while notifying, as the waiter may destroy both
    if (--under_way_ == 0) idle_.notify_all();
}

std::shared_ptr<void> Reads::stay() {
    enter();
    return {this, [](Reads* reads) { reads->leave(); }};
}

bool Reads::query(const pg::Statement& statement, pg::Params params, pg::QueryCallback then) {
    enter();
    const bool taken =
        pool_.submit(statement, std::move(params), [this, then = std::move(then)](pg::QueryResult result) {
            then(std::move(result));
            leave();
        });
    if (!taken) leave();
    return taken;
}

void Reads::wait_idle() {
    std::unique_lock lock(mutex_);
    idle_.wait(lock, [this] { return under_way_ == 0; });
}

void Reads::look(const pg::Statement& statement, const std::function<pg::Params()>& params, const LookCallback& then) {
    run(statement, params, then, kRuns);
}

void Reads::run(const pg::Statement& statement, const std::function<pg::Params()>& params, const LookCallback& then,
                int runs_left) {
    // Copies, as the pool may refuse the call and then the caller must still be answered.
    const auto on_result = [this, &statement, params, then, runs_left](pg::QueryResult result) {
        if (result.error) {
            const bool is_bug = result.error->failure() == pg::Failure::bug;
            if (is_bug) report_bug(statement, *result.error);
            then(is_bug ? &problems::kInternal : &problems::kUnavailable);
            return;
        }
        try {
            auto found = read_look(std::move(result.rows));
            if (found && has_one_generation(*found)) {
                then(*std::move(found));
            } else if (found && runs_left > 1) {
                run(statement, params, then, runs_left - 1);
            } else {
                then(&problems::kUnavailable);
            }
        } catch (const std::logic_error& error) {
            // A column is not what the statement says it is. The reply that `then` holds is dropped, which answers 500.
            report_bug(statement, error);
        }
    };
    if (!query(statement, params(), on_result)) then(&problems::kOverloaded);
}

void Reads::tell(const pg::Statement& statement, pg::Params params, const http::Request& request, http::Reply reply,
                 std::function<std::string(const pg::Rows&)> body) {
    auto read = std::make_shared<Read>();
    read->reply = std::move(reply);
    read->trace = trace_of(request);
    const bool taken =
        query(statement, std::move(params), [this, &statement, read, body = std::move(body)](pg::QueryResult result) {
            if (result.error) {
                const bool is_bug = result.error->failure() == pg::Failure::bug;
                if (is_bug) report_bug(statement, *result.error);
                fail(*read, is_bug ? problems::kInternal : problems::kUnavailable);
                return;
            }
            try {
                read->reply.send(200, "application/json", kNoStore, body(result.rows));
            } catch (const std::logic_error& error) {
                report_bug(statement, error);
                fail(*read, problems::kInternal);
            }
        });
    if (!taken) fail(*read, problems::kOverloaded);
}

void Reads::report_bug(const pg::Statement& statement, const std::exception& error) {
    {
        const std::lock_guard lock(mutex_);
        if (!reported_.insert(statement.name).second) return;
    }
    base::log::error("statement_is_wrong", {{"statement", statement.name}, {"error", error.what()}});
}

void Reads::fail(Read& read, const ProblemType& problem) {
    std::string detail;
    if (&problem == &problems::kUnavailable) detail = "the tables could not be read in time";
    if (&problem == &problems::kOverloaded) detail = "too many reads are under way";
    send_problem(read.reply, {.type = &problem, .detail = std::move(detail)}, read.trace);
}

void Reads::answer(const std::shared_ptr<Read>& read, Question question) {
    when_fresh(read, [this, read, question = std::move(question)] {
        look(question.statement, question.params,
             [this, read, render = question.render](std::variant<Look, const ProblemType*> looked) {
                 if (const auto* problem = std::get_if<const ProblemType*>(&looked)) {
                     fail(*read, **problem);
                     return;
                 }
                 const auto& found = std::get<Look>(looked);
                 const auto answer = render(found, *read);
                 const auto fresh = freshness(*read, found.progress);
                 if (!answer.missing.empty()) {
                     std::string lines;
                     append_freshness(lines, fresh);
                     send_problem(read->reply,
                                  {.type = &problems::kUnknownEntity, .detail = std::string(answer.missing)},
                                  read->trace, lines);
                     return;
                 }
                 if (answer.windows_from) {
                     std::string lines;
                     append_freshness(lines, fresh);
                     send_problem(read->reply,
                                  {.type = &problems::kWindowDropped,
                                   .detail = "windows are kept from " + schemas::format_instant(*answer.windows_from) +
                                             " on: ask for none before"},
                                  read->trace, lines);
                     return;
                 }
                 send(*read, answer.body, make_etag(found.progress.generation, read->media, answer.body), fresh,
                      answer.next_cursor);
             });
    });
}

Freshness Reads::freshness(const Read& read, const Progress& progress) const {
    Freshness fresh;
    auto partition = read.partition;
    fresh.as_of = progress.oldest_as_of();
    if (!read.entity.empty())
        partition = kafka::murmur2_partition(read.entity, static_cast<std::int32_t>(progress.next.size()));
    if (partition) fresh.as_of = progress.as_of.at(static_cast<std::size_t>(*partition));
    fresh.as_of = std::max(fresh.as_of, read.proven_as_of);
    if (const auto log_hash = watch_.log(read.stream).hash(); !log_hash.empty()) {
        progress.append_tokens(fresh.position, schemas::catalogue()[read.stream].name, log_hash, partition);
    }
    return fresh;
}

Freshness Reads::freshness(const Read& read, std::span<const Progress> progress) const {
    auto fresh = freshness(read, progress.front());
    for (std::size_t n = 0; n < read.others.size(); ++n) {
        const auto stream = read.others[n].first;
        fresh.as_of = std::min(fresh.as_of, progress[n + 1].oldest_as_of());  // of one not known nothing is
        const auto log_hash = watch_.log(stream).hash();
        if (log_hash.empty()) continue;
        std::string tokens;
        progress[n + 1].append_tokens(tokens, schemas::catalogue()[stream].name, log_hash);
        if (!tokens.empty()) fresh.position.append(fresh.position.empty() ? "" : ",").append(tokens);
    }
    return fresh;
}

void Reads::append_freshness(std::string& lines, const Freshness& fresh) const {
    if (fresh.as_of) {
        lines.append("Data-As-Of: ");
        schemas::append_instant(lines, *fresh.as_of);
        const auto age = std::chrono::duration_cast<std::chrono::seconds>(clock_.now() - *fresh.as_of).count();
        lines.append("\r\nAge: ");
        schemas::json::append_integer(lines, std::max<std::int64_t>(age, 0));
        lines.append("\r\n");
    }
    if (!fresh.position.empty()) lines.append("Applied-Position: ").append(fresh.position).append("\r\n");
    lines.append("Cache-Control: no-cache\r\n");
}

void Reads::send(Read& read, std::string_view body, std::string_view etag, const Freshness& fresh,
                 std::string_view next_cursor) const {
    std::string lines;
    append_freshness(lines, fresh);
    lines.append("ETag: ").append(etag).append("\r\n");
    if (!read.next_link.empty()) lines.append("Vary: Accept\r\n");
    if (!next_cursor.empty())
        lines.append("Link: <").append(read.next_link).append(next_cursor).append(">; rel=\"next\"\r\n");
    if (!read.if_none_match.empty() && names_etag(read.if_none_match, etag)) {
        read.reply.send(304, {}, lines, {});
        return;
    }
    read.reply.send(200, content_type(read.media), lines, body);
}

}  // namespace tidemark::api
