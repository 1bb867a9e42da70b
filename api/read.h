#pragma once

#include "api/problem.h"
#include "api/progress.h"
#include "api/progress_watch.h"
#include "api/request.h"
#include "infra/base/clock.h"
#include "infra/http/message.h"
#include "infra/http/router.h"
#include "infra/postgres/query.h"
#include "infra/postgres/query_pool.h"
#include "schemas/catalogue.h"

#include <array>
#include <condition_variable>
#include <cstddef>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace tidemark::api {

/// One read on its way: what its answer needs of the request, whose own memory may be gone by then.
struct Read {
    http::Reply reply;
    TraceId trace{};
    std::size_t stream = 0;
    Wishes wishes;
    std::string if_none_match;
    Wish wish;  ///< of its stream
    /// Further streams that the answer is made from, behind that one in the catalogue, and what is wanted of each.
    std::vector<std::pair<std::size_t, Wish>> others;
    std::string_view token_pointer;  ///< where the wish's positions came from
    Media media = Media::json;
    std::string entity;  ///< the record key whose partition's freshness the answer has; empty: all partitions'
    std::optional<std::int32_t> partition;           ///< likewise, where the entity's is known by its number
    std::string next_link;                           ///< target of the next page up to the cursor's value
    std::optional<schemas::Timestamp> proven_as_of;  ///< by the wait: see WaitOutcome
};

/// What a handler makes of the rows: a body, or the 404 or 410 that they come to.
struct Found {
    std::string body{};
    std::string next_cursor{};                         ///< of a list with more pages
    std::string_view missing{};                        ///< not empty: there is no such thing, and this says so
    std::optional<schemas::Timestamp> windows_from{};  ///< windows before it were asked for, and are dropped
};

/// How fresh an answer is, as its headers say it.
struct Freshness {
    std::optional<schemas::Timestamp> as_of;
    std::string position;  ///< tokens; empty while nothing was applied
};

/// What all reads have in common: freshness, waiting, conditional requests, media types, lists. One for the program;
/// any thread. What it is made of must outlive it, and it every read.
///
/// Every statement ends with a row of `part` 0 out of the stream's api_progress and names only relations of one live
/// schema; its rows start with (part, generation). A statement over two relations may meet a swap of generations
/// between their names being looked up: then the generations differ, and it is run again.
class Reads {
public:
    Reads(pg::QueryPool& pool, ProgressWatch& watch, const base::Clock& clock) noexcept
        : pool_(pool), watch_(watch), clock_(clock) {}
    ~Reads() { wait_idle(); }
    Reads(const Reads&) = delete;
    Reads& operator=(const Reads&) = delete;

    static constexpr std::string_view kAtLeast = "at_least";

    /// Takes what all reads take of a request. Null when it was answered already: with `violations`, whoever found
    /// them, or because no offered media type is acceptable.
    std::shared_ptr<Read> begin(const http::Request& request, http::Reply reply, const Query& query,
                                const schemas::Stream& stream, std::span<const Media> offered,
                                schemas::Violations violations) {
        return begin(request, std::move(reply), query, std::span(&stream, 1), offered, std::move(violations));
    }
    /// Likewise, of several streams: a part of the catalogue.
    std::shared_ptr<Read> begin(const http::Request& request, http::Reply reply, const Query& query,
                                std::span<const schemas::Stream> streams, std::span<const Media> offered,
                                schemas::Violations violations);

    /// Adds a token's parts, all of the read's streams, to what the read waits for. False when it was answered instead:
    /// the parts are of another log. `pointer`, a literal, names where they came from.
    bool demand(Read& read, const std::vector<schemas::TokenPart>& parts, std::string_view pointer) const;

    /// Calls `then` when the read's wish holds, or when it takes older data; answers it otherwise.
    void when_fresh(std::shared_ptr<Read> read, std::function<void()> then);

    /// A statement of any shape; see QueryPool::submit. False: the pool is full.
    bool query(const pg::Statement& statement, pg::Params params, pg::QueryCallback then);
    /// The whole of a read of what operators ask for: no freshness, never cached. `body` makes JSON of the rows.
    void tell(const pg::Statement& statement, pg::Params params, const http::Request& request, http::Reply reply,
              std::function<std::string(const pg::Rows&)> body);
    /// For who works on between queries, as while an event is on its way to the log: counts as one until it is let go.
    [[nodiscard]] std::shared_ptr<void> stay();
    /// Waits until no query is under way: before the handlers that they come back to are gone. For when the server has
    /// drained and the watch lets nobody wait any more. As long as the pool's query time-out, and the publisher's.
    void wait_idle();

    /// The rows but the last, which is `progress`.
    struct Look {
        pg::Rows rows;
        std::size_t items = 0;
        Progress progress;

        /// Of a page of bins, whose statement says so in `column` of the progress: the bin that may be incomplete.
        [[nodiscard]] std::optional<schemas::Timestamp> cut_off(std::size_t column) const {
            return rows.cell(items, column) ? std::optional(rows.instant(items, column)) : std::nullopt;
        }
        /// Of a list of windows, whose statement says so in `column` of the progress: those before it are dropped.
        [[nodiscard]] std::optional<schemas::Timestamp> windows_from(std::size_t column) const {
            return rows.cell(items, column) ? std::optional(rows.instant(items, column)) : std::nullopt;
        }
        /// How many of the first `bins` rows are complete; `column` has their starts.
        [[nodiscard]] std::size_t complete(std::size_t bins, std::size_t column,
                                           const std::optional<schemas::Timestamp>& cut_off) const {
            while (cut_off && bins > 0 && rows.instant(bins - 1, column) >= *cut_off)
                --bins;
            return bins;
        }
    };
    using LookCallback = std::function<void(std::variant<Look, const ProblemType*>)>;
    /// Runs a statement as described above. `then` is called once, maybe before this returns, and must not block.
    void look(const pg::Statement& statement, const std::function<pg::Params()>& params, const LookCallback& then);

    /// Answers a read whose look came to nothing.
    static void fail(Read& read, const ProblemType& problem);

    struct Question {
        const pg::Statement& statement;
        std::function<pg::Params()> params;  ///< called again for each run
        std::function<Found(const Look&, const Read&)> render;
    };
    /// The whole of a plain read: when_fresh, look, render, send.
    void answer(const std::shared_ptr<Read>& read, Question question);

    [[nodiscard]] Freshness freshness(const Read& read, const Progress& progress) const;
    /// Of the read's stream and the others, in their order.
    [[nodiscard]] Freshness freshness(const Read& read, std::span<const Progress> progress) const;
    /// Data-As-Of, Age and Applied-Position; and Cache-Control, as a cache must not keep what it cannot see grow old.
    void append_freshness(std::string& header_lines, const Freshness& freshness) const;
    /// Answers 200 or 304 with `etag` (quoted, maybe weak).
    void send(Read& read, std::string_view body, std::string_view etag, const Freshness& freshness,
              std::string_view next_cursor = {}) const;

    /// Logs that a statement or its rows are not what the program was written for; once for each statement.
    void report_bug(const pg::Statement& statement, const std::exception& error);

    [[nodiscard]] ProgressWatch& watch() const noexcept { return watch_; }
    [[nodiscard]] const base::Clock& clock() const noexcept { return clock_; }

private:
    using Instant = std::chrono::steady_clock::time_point;

    /// Waits for each of `wanted` in turn, until then; they are left in reverse order.
    void await(std::shared_ptr<Read> read, std::vector<std::pair<std::size_t, Wish>> wanted, Instant until,
               std::function<void()> then);
    void run(const pg::Statement& statement, const std::function<pg::Params()>& params, const LookCallback& then,
             int runs_left);
    void enter();
    void leave();

    pg::QueryPool& pool_;
    ProgressWatch& watch_;
    const base::Clock& clock_;
    std::mutex mutex_;                     // guards the next two
    std::set<std::string_view> reported_;  // statements that report_bug has named
    std::size_t under_way_ = 0;            // queries whose callback has not returned
    std::condition_variable idle_;
};

/// Adds a GET route whose handler works with `reads`, which must outlive the router.
void add_read(http::Router& router, std::string path, Reads& reads,
              void (*handler)(Reads&, const http::Request&, http::Reply));

/// What reads answer with: one entity, or a list of them.
inline constexpr std::array kEntityMedia{Media::json};
inline constexpr std::array kListMedia{Media::json, Media::csv, Media::ndjson};

/// A strong entity tag over everything that makes two representations differ.
std::string make_etag(std::int32_t generation, Media media, std::string_view body);
/// A weak one over a part of the body that says all that matters.
std::string make_weak_etag(std::string_view text);

}  // namespace tidemark::api
