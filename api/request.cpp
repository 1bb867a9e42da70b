#include "api/request.h"

#include "api/problem.h"
#include "infra/http/ascii.h"
#include "schemas/json.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <limits>
#include <utility>

namespace tidemark::api {
namespace {

using schemas::Violations;

constexpr std::size_t kMaxIdempotencyKey = 128;

std::string_view trim(std::string_view text) noexcept {
    while (!text.empty() && (text.front() == ' ' || text.front() == '\t'))
        text.remove_prefix(1);
    while (!text.empty() && (text.back() == ' ' || text.back() == '\t'))
        text.remove_suffix(1);
    return text;
}

/// Takes what stands before `separator` off the front of `rest`, trimmed. A quoted string keeps its separators.
std::string_view take(std::string_view& rest, char separator) noexcept {
    bool quoted = false;
    std::size_t at = 0;
    for (; at < rest.size(); ++at) {
        if (rest[at] == '"') quoted = !quoted;
        if (rest[at] == '\\' && quoted) ++at;
        if (at < rest.size() && rest[at] == separator && !quoted) break;
    }
    at = std::min(at, rest.size());
    const auto head = trim(rest.substr(0, at));
    rest.remove_prefix(std::min(at + 1, rest.size()));
    return head;
}

/// "name=value" or "name"; a quoted value without its quotes.
std::pair<std::string_view, std::string_view> split_directive(std::string_view directive) noexcept {
    const auto at = directive.find('=');
    if (at == std::string_view::npos) return {directive, {}};
    auto value = trim(directive.substr(at + 1));
    if (value.size() >= 2 && value.front() == '"' && value.back() == '"') value = value.substr(1, value.size() - 2);
    return {trim(directive.substr(0, at)), value};
}

/// Digits only. More than fits is the largest there is, as RFC 9111 wants for ages.
std::optional<std::int64_t> read_digits(std::string_view text) noexcept {
    if (text.empty() || !std::all_of(text.begin(), text.end(), [](char c) { return c >= '0' && c <= '9'; }))
        return std::nullopt;
    std::int64_t value = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    return error == std::errc::result_out_of_range ? std::numeric_limits<std::int64_t>::max() : value;
}

void violate(Violations& violations, std::string pointer, std::string detail) {
    if (violations.size() < schemas::json::kMaxViolations)
        violations.push_back({std::move(pointer), std::move(detail)});
}

/// A quality in thousandths; nullopt when malformed. Java's HttpURLConnection writes ".2" into each of its requests.
std::optional<int> read_quality(std::string_view text) noexcept {
    const std::size_t point = text.starts_with('.') ? 0 : 1;
    if (text.empty() || text == "." || text.size() > point + 4) return std::nullopt;
    if (point > 0 && text[0] != '0' && text[0] != '1') return std::nullopt;
    if (text.size() > point && text[point] != '.') return std::nullopt;
    int quality = point > 0 ? (text[0] - '0') * 1000 : 0;
    int scale = 100;
    for (const char c : text.substr(std::min(point + 1, text.size()))) {
        if (c < '0' || c > '9') return std::nullopt;
        quality += (c - '0') * scale;
        scale /= 10;
    }
    return quality <= 1000 ? std::optional(quality) : std::nullopt;
}

/// How exactly `range` names `type`: 3 fully, 2 by its first half, 1 as */*, 0 not at all.
int specificity(std::string_view range, std::string_view type) noexcept {
    if (http::equal_ignoring_case(range, type)) return 3;
    if (range == "*/*") return 1;
    const auto slash = type.find('/') + 1;
    return range.size() == slash + 1 && range.ends_with("/*") &&
                   http::equal_ignoring_case(range.substr(0, slash), type.substr(0, slash))
               ? 2
               : 0;
}

std::string_view bare_type(Media media) noexcept {
    const auto type = content_type(media);
    return type.substr(0, type.find(';'));
}

void append_hex_text(std::string& out, std::string_view text) {
    append_hex(out, std::span(reinterpret_cast<const std::uint8_t*>(text.data()), text.size()));
}

std::optional<std::string> read_hex(std::string_view digits) {
    if (digits.size() % 2 != 0) return std::nullopt;
    std::string bytes;
    bytes.reserve(digits.size() / 2);
    for (std::size_t i = 0; i < digits.size(); i += 2) {
        unsigned byte = 0;
        const auto [end, error] = std::from_chars(digits.data() + i, digits.data() + i + 2, byte, 16);
        if (error != std::errc{} || end != digits.data() + i + 2) return std::nullopt;
        bytes.push_back(static_cast<char>(byte));
    }
    return bytes;
}

/// The first multiple of `step` since the epoch at or after `instant`, kept within the instants that there are.
schemas::Timestamp ceil_to_step(schemas::Timestamp instant, std::chrono::seconds step) noexcept {
    const std::chrono::microseconds length = step;
    const auto into = instant.time_since_epoch() % length;
    const auto up = into > into.zero() ? length - into : -into;
    return std::clamp(instant + up, kStartOfTime, kEndOfTime);
}

}  // namespace

Query::Query(std::string_view raw, std::span<const std::string_view> known, Violations& violations) {
    if (raw.empty()) return;
    auto parsed = http::parse_query(raw);
    if (!parsed) {
        violate(violations, "?", "has a broken percent escape or %00");
        return;
    }
    for (auto& [name, value] : *parsed) {
        if (!schemas::json::is_utf8(name)) {
            violate(violations, "?", "a parameter's name is not UTF-8");
        } else if (std::find(known.begin(), known.end(), name) == known.end()) {
            violate(violations, "?" + name, "unknown parameter");
        } else if (get(name)) {
            violate(violations, "?" + name, "is given more than once");
        } else if (!schemas::json::is_utf8(value)) {
            violate(violations, "?" + name, "is not UTF-8");
        } else {
            parameters_.emplace_back(std::move(name), std::move(value));
        }
    }
}

std::optional<std::string_view> Query::get(std::string_view name) const noexcept {
    for (const auto& [known, value] : parameters_) {
        if (known == name) return value;
    }
    return std::nullopt;
}

std::optional<schemas::Timestamp> Query::instant(std::string_view name, Violations& violations) const {
    const auto text = get(name);
    if (!text) return std::nullopt;
    const auto instant = schemas::parse_query_instant(*text);
    if (!instant) {
        violate(violations, "?" + std::string(name),
                "must be an instant with an offset, like 2026-11-20T10:00:03.217Z");
    }
    return instant;
}

std::string_view content_type(Media media) noexcept {
    switch (media) {
        case Media::csv:
            return "text/csv; charset=utf-8; header=present";
        case Media::ndjson:
            return "application/x-ndjson";
        case Media::json:
            break;
    }
    return "application/json";
}

std::string joined_fields(const http::Request& request, std::string_view name) {
    std::string joined;
    for (const auto& field : request.fields) {
        if (!http::equal_ignoring_case(field.name, name)) continue;
        if (!joined.empty()) joined.push_back(',');
        joined.append(field.value);
    }
    return joined;
}

std::optional<Media> choose_media(std::string_view accept, std::span<const Media> offered) noexcept {
    if (trim(accept).empty()) return offered.front();
    std::optional<Media> best;
    int best_quality = 0;
    for (const auto media : offered) {
        int quality = 0;
        int exactness = 0;
        for (auto rest = accept; !rest.empty();) {
            auto parameters = take(rest, ',');
            const auto exact = specificity(take(parameters, ';'), bare_type(media));
            int range_quality = 1000;
            while (!parameters.empty()) {
                const auto [name, value] = split_directive(take(parameters, ';'));
                if (http::equal_ignoring_case(name, "q")) range_quality = read_quality(value).value_or(0);
            }
            if (exact <= exactness) continue;
            exactness = exact;
            quality = range_quality;
        }
        if (quality <= best_quality) continue;
        best = media;
        best_quality = quality;
    }
    return best;
}

Wishes read_wishes(const http::Request& request, const Query& query, Violations& violations) {
    Wishes wishes;
    bool has_wait = false;
    bool has_handling = false;
    for (const auto& [name, value] : request.fields) {
        if (http::equal_ignoring_case(name, "cache-control")) {
            for (auto rest = value; !rest.empty();) {
                const auto [directive, argument] = split_directive(take(rest, ','));
                if (http::equal_ignoring_case(directive, "no-cache")) wishes.no_cache = true;
                if (!http::equal_ignoring_case(directive, "max-age")) continue;
                // A year is older than any answer, and stays far from where instants overflow.
                constexpr std::int64_t kYear = 366LL * 24 * 3600;
                if (const auto seconds = read_digits(argument)) {
                    const std::chrono::seconds age(std::min(*seconds, kYear));
                    wishes.max_age = std::min(wishes.max_age.value_or(age), age);
                }
            }
        } else if (http::equal_ignoring_case(name, "prefer")) {
            for (auto rest = value; !rest.empty();) {
                auto preference = take(rest, ',');
                const auto [token, argument] = split_directive(take(preference, ';'));
                // Of a preference that is given twice the first one counts (RFC 7240).
                if (http::equal_ignoring_case(token, "handling") && !std::exchange(has_handling, true))
                    wishes.lenient = http::equal_ignoring_case(argument, "lenient");
                if (!http::equal_ignoring_case(token, "wait") || std::exchange(has_wait, true)) continue;
                if (const auto seconds = read_digits(argument)) {
                    wishes.wait = std::chrono::seconds(std::min<std::int64_t>(*seconds, Wishes::kMaxWait.count()));
                }
            }
        }
    }
    if (const auto token = query.get("at_least")) {
        if (auto parts = schemas::parse_token(*token)) {
            wishes.at_least = *std::move(parts);
        } else {
            violate(violations, "?at_least", "is not a position token");
        }
    }
    return wishes;
}

std::vector<schemas::TokenPart> parts_of_stream(const std::vector<schemas::TokenPart>& parts, std::string_view stream,
                                                std::string_view pointer, Violations& violations) {
    std::vector<schemas::TokenPart> found;
    for (const auto& part : parts) {
        if (part.stream != stream) continue;
        const auto same = std::find_if(found.begin(), found.end(), [&](const auto& other) {
            return other.position.partition == part.position.partition && other.log_hash == part.log_hash;
        });
        if (same == found.end()) {
            found.push_back(part);
        } else {
            same->position.offset = std::max(same->position.offset, part.position.offset);
        }
    }
    if (found.empty())
        violate(violations, std::string(pointer), "names no position of the stream " + std::string(stream));
    return found;
}

bool names_etag(std::string_view if_none_match, std::string_view etag) noexcept {
    const auto opaque = [](std::string_view tag) { return tag.starts_with("W/") ? tag.substr(2) : tag; };
    while (!if_none_match.empty()) {
        const auto tag = take(if_none_match, ',');
        if (tag == "*" || (!tag.empty() && opaque(tag) == opaque(etag))) return true;
    }
    return false;
}

Page read_page(const Query& query, char kind, Violations& violations) {
    Page page;
    if (const auto text = query.get("limit")) {
        const auto limit = read_digits(*text);
        if (!limit || *limit == 0) {
            violate(violations, "?limit", "must be a number from 1 on; more than 1000 is taken as 1000");
        } else {
            page.limit = std::min(*limit, Page::kMaxLimit);
        }
    }
    if (const auto text = query.get("cursor")) {
        if (!text->empty() && text->front() == kind) page.after = read_hex(text->substr(1));
        // It came out of a sort key, so one that is empty or no UTF-8 was never ours.
        if (page.after && (page.after->empty() || !schemas::json::is_utf8(*page.after) ||
                           page.after->find('\0') != std::string::npos)) {
            page.after.reset();
        }
        if (!page.after) violate(violations, "?cursor", "is not a cursor of this list");
    }
    return page;
}

std::optional<schemas::Timestamp> read_instant_key(const Page& page, Violations& violations) {
    if (!page.after) return std::nullopt;
    std::int64_t microseconds = 0;
    const char* const end = page.after->data() + page.after->size();
    const auto read = std::from_chars(page.after->data(), end, microseconds);
    const schemas::Timestamp instant{std::chrono::microseconds(microseconds)};
    if (read.ec == std::errc{} && read.ptr == end && instant >= kStartOfTime && instant <= kEndOfTime) return instant;
    violate(violations, "?cursor", "is not a cursor of this list");
    return std::nullopt;
}

std::string make_instant_key(schemas::Timestamp instant) {
    return std::to_string(instant.time_since_epoch().count());
}

std::string make_cursor(char kind, std::string_view sort_key) {
    std::string cursor(1, kind);
    append_hex_text(cursor, sort_key);
    return cursor;
}

InstantRange read_range(const Query& query, Violations& violations) {
    const InstantRange range{query.instant("from", violations), query.instant("to", violations)};
    if (range.from && range.to && *range.from > *range.to) violate(violations, "?from", "lies after ?to");
    return range;
}

std::chrono::seconds read_step(const Query& query, Violations& violations) {
    constexpr std::array<std::pair<std::string_view, std::int64_t>, 4> kSteps{
        {{"10s", 10}, {"1m", 60}, {"1h", 3'600}, {"1d", 86'400}}};
    const auto text = query.get("step");
    if (!text) return schemas::kWindowLength;
    for (const auto& [name, seconds] : kSteps) {
        if (*text == name) return std::chrono::seconds(seconds);
    }
    violate(violations, "?step", "must be one of 10s, 1m, 1h, 1d");
    return schemas::kWindowLength;
}

Bins bins_of(const InstantRange& range, std::chrono::seconds step, schemas::Timestamp log_end) noexcept {
    constexpr std::chrono::hours kDefaultLength{1};
    return {ceil_to_step(range.from.value_or(range.to.value_or(log_end) - kDefaultLength), step),
            ceil_to_step(range.to.value_or(kEndOfTime), step)};
}

std::int64_t rows_of_page(const Page& page, std::chrono::seconds step, std::int64_t rows_per_window) noexcept {
    constexpr std::int64_t kMostRows = 100'000;  // 0.1 s of the database, far below the query's time-out
    // Nobody knows how many partitions there are until the log is known.
    const auto rows_per_bin = step / schemas::kWindowLength * std::max<std::int64_t>(rows_per_window, 1);
    // A cursor may stand within its bin, which then yields nothing more. And each page must get on by one bin.
    return std::max(std::min((page.limit + 2) * rows_per_bin, kMostRows), 2 * rows_per_bin + 1);
}

Bins bins_after(const Bins& bins, schemas::Timestamp after, std::chrono::seconds step) noexcept {
    return {std::max(bins.from, ceil_to_step(after + std::chrono::microseconds(1), step)), bins.to};
}

WriteHeaders read_write_headers(const http::Request& request, Violations& violations) {
    WriteHeaders headers;
    headers.traceparent = traceparent_of(request);
    for (const auto& [name, value] : request.fields) {
        if (!http::equal_ignoring_case(name, "idempotency-key")) continue;
        const bool valid = !value.empty() && value.size() <= kMaxIdempotencyKey &&
                           std::all_of(value.begin(), value.end(), [](char c) { return c > ' ' && c < '\x7f'; });
        if (headers.idempotency_key) {
            violate(violations, "Idempotency-Key", "is given more than once");
        } else if (!valid) {
            violate(violations, "Idempotency-Key", "must be 1 to 128 visible ASCII characters");
        } else {
            headers.idempotency_key = value;
        }
    }
    return headers;
}

std::optional<std::string> after_prefix(std::string_view prefix) {
    std::string bound(prefix);
    while (!bound.empty()) {
        // The last character, as a code point; byte order of UTF-8 is the order of code points.
        std::size_t start = bound.size() - 1;
        while (start > 0 && (static_cast<unsigned char>(bound[start]) & 0xC0U) == 0x80U)
            --start;
        const auto lead = static_cast<unsigned char>(bound[start]);
        std::uint32_t point = lead < 0x80 ? lead : lead & (lead >= 0xF0 ? 0x07U : lead >= 0xE0 ? 0x0FU : 0x1FU);
        for (std::size_t i = start + 1; i < bound.size(); ++i) {
            point = (point << 6U) | (static_cast<unsigned char>(bound[i]) & 0x3FU);
        }
        bound.resize(start);
        if (point == 0x10FFFF) continue;
        point = point == 0xD7FF ? 0xE000 : point + 1;  // surrogates are no characters
        const auto tail = [&](unsigned shift) {
            bound.push_back(static_cast<char>(0x80U | ((point >> shift) & 0x3FU)));
        };
        if (point < 0x80) {
            bound.push_back(static_cast<char>(point));
        } else if (point < 0x800) {
            bound.push_back(static_cast<char>(0xC0U | (point >> 6U)));
            tail(0);
        } else if (point < 0x10000) {
            bound.push_back(static_cast<char>(0xE0U | (point >> 12U)));
            tail(6);
            tail(0);
        } else {
            bound.push_back(static_cast<char>(0xF0U | (point >> 18U)));
            tail(12);
            tail(6);
            tail(0);
        }
        return bound;
    }
    return std::nullopt;
}

}  // namespace tidemark::api
