#pragma once

#include "infra/http/message.h"
#include "schemas/instant.h"
#include "schemas/position.h"
#include "schemas/result.h"

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

/// What requests say beside their path and body, read once and strictly. Everything here is a function of the request
/// alone; each reader adds what it finds wrong to the `violations` it is given, and the handler answers them all at
/// once.
namespace tidemark::api {

/// The query's parameters. An unknown or repeated one is a violation, and so is one that is not UTF-8.
class Query {
public:
    Query(std::string_view raw, std::span<const std::string_view> known, schemas::Violations& violations);

    [[nodiscard]] std::optional<std::string_view> get(std::string_view name) const noexcept;
    /// An instant, its offset's plus sign read as a space or not.
    std::optional<schemas::Timestamp> instant(std::string_view name, schemas::Violations& violations) const;

private:
    std::vector<std::pair<std::string, std::string>> parameters_;
};

enum class Media : std::uint8_t { json, csv, ndjson };
std::string_view content_type(Media media) noexcept;

/// The values of all fields of that name (lower case), joined with ',': what a list that was sent in several fields
/// means.
std::string joined_fields(const http::Request& request, std::string_view name);

/// What `Accept` asks for among what is offered (in order of our preference), by RFC 9110; empty: anything. Nullopt:
/// none of it (406).
std::optional<Media> choose_media(std::string_view accept, std::span<const Media> offered) noexcept;

/// How fresh the answer must be and how long it may take. Directives that do not parse are ignored, as RFC 9111 and RFC
/// 7240 want; a token that does not parse is a violation.
struct Wishes {
    std::vector<schemas::TokenPart> at_least;  ///< of any stream, as given
    std::optional<std::chrono::seconds> max_age;
    bool no_cache = false;
    std::chrono::seconds wait{5};  ///< clamped at kMaxWait
    bool lenient = false;          ///< take older data rather than none

    [[nodiscard]] bool is_demanding() const noexcept { return !at_least.empty() || max_age || no_cache; }

    static constexpr std::chrono::seconds kMaxWait{30};
};
Wishes read_wishes(const http::Request& request, const Query& query, schemas::Violations& violations);

/// The positions of `stream` among a token's parts, the latest per partition. A token without any is a violation at
/// `pointer`.
std::vector<schemas::TokenPart> parts_of_stream(const std::vector<schemas::TokenPart>& parts, std::string_view stream,
                                                std::string_view pointer, schemas::Violations& violations);

/// Whether a list of entity tags (or `*`) names `etag`, compared weakly.
bool names_etag(std::string_view if_none_match, std::string_view etag) noexcept;

/// One page of a list.
struct Page {
    std::int64_t limit = 50;
    std::optional<std::string> after;  ///< what the cursor holds: the sort key of the last item before this page

    static constexpr std::int64_t kMaxLimit = 1'000;
};
/// `kind` tells the cursors of different lists apart: another list's cursor is a bad one.
Page read_page(const Query& query, char kind, schemas::Violations& violations);
/// The cursor's sort key of a list by instant, which is its microseconds.
std::optional<schemas::Timestamp> read_instant_key(const Page& page, schemas::Violations& violations);
std::string make_instant_key(schemas::Timestamp instant);
std::string make_cursor(char kind, std::string_view sort_key);

/// The first and the last instant that is written with four digits of a year: what Postgres and our texts both know.
inline constexpr schemas::Timestamp kStartOfTime{std::chrono::sys_days{std::chrono::year{1} / 1 / 1}};
inline constexpr schemas::Timestamp kEndOfTime{std::chrono::sys_days{std::chrono::year{9999} / 12 / 31} +
                                               std::chrono::days{1} - std::chrono::microseconds{1}};

/// A half-open range of instants; a reversed one is a violation.
struct InstantRange {
    std::optional<schemas::Timestamp> from;
    std::optional<schemas::Timestamp> to;
};
InstantRange read_range(const Query& query, schemas::Violations& violations);

/// `step` of a list of windows: 10s (the default), 1m, 1h or 1d.
std::chrono::seconds read_step(const Query& query, schemas::Violations& violations);

/// The bins of a list of windows: those that start in [from, to), both multiples of `step` since the epoch.
struct Bins {
    schemas::Timestamp from;
    schemas::Timestamp to;
};
/// The bins that `range` asks for: those with from <= start < to. Without `to` there is no end (an event may lie an
/// hour ahead); without `from` they begin an hour before `to`, or before `log_end` without either.
Bins bins_of(const InstantRange& range, std::chrono::seconds step, schemas::Timestamp log_end) noexcept;

/// How many rows of ten-second windows a page of bins reads: as many as its bins can hold and some more, but about
/// 100,000 at most, so that no range is too long to be answered. When that many are found, the bin of the last one may
/// be incomplete: it belongs to the next page.
std::int64_t rows_of_page(const Page& page, std::chrono::seconds step, std::int64_t rows_per_window) noexcept;
/// The bins that are left behind a page that ended with the bin `after`.
Bins bins_after(const Bins& bins, schemas::Timestamp after, std::chrono::seconds step) noexcept;

/// What every write may carry.
struct WriteHeaders {
    std::optional<std::string_view> idempotency_key;  ///< 1..128 visible ASCII characters
    std::optional<std::string_view> traceparent;
};
WriteHeaders read_write_headers(const http::Request& request, schemas::Violations& violations);

/// The smallest text, in byte order, that is greater than every text with this prefix; nullopt when there is none.
std::optional<std::string> after_prefix(std::string_view prefix);

}  // namespace tidemark::api
