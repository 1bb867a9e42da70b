#include "api/request.h"

#include "tests/unit/api/answers.h"

#include <doctest/doctest.h>

#include <array>
#include <string>

using namespace tidemark;
using namespace tidemark::api;
using namespace std::chrono_literals;
using schemas::Violation;
using schemas::Violations;
using tests::Asked;

namespace {

constexpr std::array<std::string_view, 7> kKnown{"at_least", "limit", "cursor", "from", "to", "step", "at"};

Query query_of(std::string_view raw, Violations& violations) {
    return {raw, kKnown, violations};
}

Wishes wishes_of(std::vector<std::pair<std::string, std::string>> header, std::string query = {}) {
    const Asked asked(http::Method::get, "/x" + (query.empty() ? query : "?" + query), std::move(header));
    Violations violations;
    auto wishes = read_wishes(asked.request, query_of(asked.request.query, violations), violations);
    REQUIRE(violations.empty());
    return wishes;
}

schemas::Timestamp at(const char* text) {
    return *schemas::parse_instant(text);
}

}  // namespace

TEST_CASE("unknown, repeated and broken query parameters are all named") {
    Violations violations;
    const auto query = query_of("limit=5&wat=1&limit=6&%ff=1&from=%ff", violations);
    CHECK(query.get("limit") == "5");
    CHECK(violations == Violations{{"?wat", "unknown parameter"},
                                   {"?limit", "is given more than once"},
                                   {"?", "a parameter's name is not UTF-8"},
                                   {"?from", "is not UTF-8"}});
    violations.clear();
    query_of("limit=%0", violations);
    CHECK(violations == Violations{{"?", "has a broken percent escape or %00"}});
}

TEST_CASE("a hostile query does not buy an answer larger than itself") {
    std::string raw;
    for (int i = 0; i < 500; ++i)
        raw += "a&";
    Violations violations;
    query_of(raw, violations);
    CHECK(violations.size() == 32);
}

TEST_CASE("an instant in a query may have its plus sign read as a space") {
    Violations violations;
    const auto query =
        query_of("from=2022-09-12T01:00:00+02:00&to=2022-09-12T01:00:00%2B02:00&at=yesterday", violations);
    CHECK(query.instant("from", violations) == at("2022-09-11T23:00:00Z"));
    CHECK(query.instant("to", violations) == at("2022-09-11T23:00:00Z"));
    CHECK(violations.empty());
    CHECK(query.instant("at", violations) == std::nullopt);
    REQUIRE(violations.size() == 1);
    CHECK(violations[0].pointer == "?at");
}

TEST_CASE("wishes come from Cache-Control, Prefer and at_least") {
    CHECK_FALSE(wishes_of({}).is_demanding());
    CHECK(wishes_of({}).wait == 5s);
    CHECK(wishes_of({{"Cache-Control", "No-Cache"}}).no_cache);
    CHECK(wishes_of({{"cache-control", "no-store, max-age=7"}}).max_age == 7s);
    CHECK(wishes_of({{"cache-control", "max-age=\"8\""}}).max_age == 8s);
    CHECK(wishes_of({{"cache-control", "max-age=99999999999999999999"}}).max_age == 366 * 24h);
    CHECK(wishes_of({{"prefer", "wait=2, handling=lenient"}}).wait == 2s);
    CHECK(wishes_of({{"prefer", "wait=2, handling=lenient"}}).lenient);
    CHECK(wishes_of({{"prefer", "wait=3"}, {"prefer", "handling=strict"}}).wait == 3s);
    CHECK(wishes_of({{"prefer", "wait=300"}}).wait == 30s);
    CHECK(wishes_of({{"prefer", "wait=0"}}).wait == 0s);
    const auto token = wishes_of({}, "at_least=counters-0a1b2c3d-2-40,vehicles-0a1b2c3d-0-7");
    REQUIRE(token.at_least.size() == 2);
    CHECK(token.is_demanding());
}

TEST_CASE("of a preference given twice the first counts, of a limit to the age the strictest") {
    const auto preferred = wishes_of({{"prefer", "wait=2, handling=lenient, wait=9"}, {"prefer", "handling=strict"}});
    CHECK(preferred.wait == 2s);
    CHECK(preferred.lenient);
    CHECK_FALSE(wishes_of({{"prefer", "handling=strict, handling=lenient"}}).lenient);
    CHECK(wishes_of({{"cache-control", "max-age=3, max-age=60"}}).max_age == 3s);
    CHECK(wishes_of({{"cache-control", "max-age=60"}, {"cache-control", "max-age=3"}}).max_age == 3s);
}

TEST_CASE("directives that do not parse are ignored, tokens that do not parse are not") {
    for (const auto* value : {"max-age", "max-age=", "max-age=-1", "max-age=1.5", "max-stale=3", "wait=1", ",,;="}) {
        CAPTURE(value);
        CHECK_FALSE(wishes_of({{"cache-control", value}}).is_demanding());
    }
    for (const auto* value : {"wait", "wait=", "wait=x", "waits=1", "handling=other"}) {
        CAPTURE(value);
        CHECK(wishes_of({{"prefer", value}}).wait == 5s);
        CHECK_FALSE(wishes_of({{"prefer", value}}).lenient);
    }
    const Asked asked(http::Method::get, "/x?at_least=nonsense");
    Violations violations;
    read_wishes(asked.request, query_of(asked.request.query, violations), violations);
    CHECK(violations == Violations{{"?at_least", "is not a position token"}});
}

TEST_CASE("of a token the latest position of each partition counts, and parts of other streams do not") {
    Violations violations;
    const auto parts = *schemas::parse_token(
        "counters-0a1b2c3d-2-40,vehicles-0a1b2c3d-0-7,counters-0a1b2c3d-2-41,counters-0a1b2c3d-1-3,counters-0a1b2c3d-2-"
        "39");
    const auto own = parts_of_stream(parts, "counters", "?at_least", violations);
    REQUIRE(own.size() == 2);
    CHECK(own[0].position == schemas::Position{2, 41});
    CHECK(own[1].position == schemas::Position{1, 3});
    CHECK(violations.empty());
    parts_of_stream(parts, "items", "?at_least", violations);
    CHECK(violations == Violations{{"?at_least", "names no position of the stream items"}});
}

TEST_CASE("the media type is the best that Accept names, and ours when it has no preference") {
    constexpr std::array kAll{Media::json, Media::csv, Media::ndjson};
    const auto chosen = [&](std::string_view accept) { return choose_media(accept, kAll); };
    CHECK(chosen("") == Media::json);
    CHECK(chosen("*/*") == Media::json);
    CHECK(chosen("text/csv") == Media::csv);
    CHECK(chosen("TEXT/*") == Media::csv);
    CHECK(chosen("application/x-ndjson, */*;q=0.1") == Media::ndjson);
    CHECK(chosen("application/json;q=0.2, text/csv;q=0.9") == Media::csv);
    CHECK(chosen("application/json;q=0, */*") == Media::csv);
    CHECK(chosen("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8") == Media::json);
    CHECK(chosen("text/csv;header=absent") == Media::csv);
    CHECK(chosen("text/html") == std::nullopt);
    CHECK(chosen("text/csv;q=0") == std::nullopt);
    CHECK(chosen("text/csv;q=2") == std::nullopt);
    // What Java's HttpURLConnection sends unasked.
    CHECK(chosen("text/html, image/gif, image/jpeg, *; q=.2, */*; q=.2") == Media::json);
    CHECK(chosen("text/csv;q=.9, */*;q=.2") == Media::csv);
    CHECK(chosen("text/csv;q=.") == std::nullopt);
    constexpr std::array kJson{Media::json};
    CHECK(choose_media("text/csv", kJson) == std::nullopt);
}

TEST_CASE("If-None-Match compares weakly") {
    CHECK(names_etag("\"abc\"", "\"abc\""));
    CHECK(names_etag("W/\"abc\"", "\"abc\""));
    CHECK(names_etag("\"x\", \"a,b\"", "W/\"a,b\""));
    CHECK(names_etag("*", "\"abc\""));
    CHECK_FALSE(names_etag("\"abcd\"", "\"abc\""));
    CHECK_FALSE(names_etag("", "\"abc\""));
    CHECK_FALSE(names_etag("abc", "\"abc\""));
}

TEST_CASE("a cursor comes back as the sort key it was made of, in its own list only") {
    const std::string key = "a/%\"\n\xF0\x9F\x98\x80";
    Violations violations;
    auto raw = "cursor=" + make_cursor('c', key) + "&limit=7";
    const auto page = read_page(query_of(raw, violations), 'c', violations);
    CHECK(violations.empty());
    CHECK(page.after == key);
    CHECK(page.limit == 7);
    read_page(query_of(raw, violations), 'v', violations);
    CHECK(violations == Violations{{"?cursor", "is not a cursor of this list"}});
    for (const auto* bad : {"c6", "cxx", "c+1", "", "c", "cff", "c00"}) {
        CAPTURE(bad);
        violations.clear();
        const auto text = "cursor=" + std::string(bad);
        CHECK(read_page(query_of(text, violations), 'c', violations).after == std::nullopt);
        CHECK(violations.size() == 1);
    }
}

TEST_CASE("limit is clamped above and refused below") {
    const auto limit = [](const std::string& text) {
        Violations violations;
        const auto page = read_page(query_of("limit=" + text, violations), 'c', violations);
        return violations.empty() ? page.limit : -1;
    };
    CHECK(limit("1") == 1);
    CHECK(limit("1000") == 1'000);
    CHECK(limit("1001") == 1'000);
    CHECK(limit("99999999999999999999") == 1'000);
    for (const auto* bad : {"0", "-1", "", "ten", "1.5", "%2B1"}) {
        CAPTURE(bad);
        CHECK(limit(bad) == -1);
    }
    Violations violations;
    CHECK(read_page(query_of("", violations), 'c', violations).limit == 50);
}

TEST_CASE("a cursor by instant must be one") {
    Violations violations;
    Page page;
    CHECK(read_instant_key(page, violations) == std::nullopt);
    page.after = "-62135596800000000";
    CHECK(read_instant_key(page, violations) == at("0001-01-01T00:00:00Z"));
    CHECK(violations.empty());
    for (const auto* bad : {"-62135596800000001", "253402300800000000", "1.5", "", "99999999999999999999"}) {
        CAPTURE(bad);
        violations.clear();
        page.after = bad;
        read_instant_key(page, violations);
        CHECK(violations.size() == 1);
    }
}

TEST_CASE("a range is half-open and runs forward") {
    Violations violations;
    const auto same = read_range(query_of("from=2026-01-01T00:00:00Z&to=2026-01-01T00:00:00Z", violations), violations);
    CHECK(violations.empty());
    CHECK(same.from == same.to);
    read_range(query_of("from=2026-01-01T00:00:01Z&to=2026-01-01T00:00:00Z", violations), violations);
    CHECK(violations == Violations{{"?from", "lies after ?to"}});
}

TEST_CASE("bins start at multiples of the step, from the first bound on and before the second") {
    const auto bins = [](const char* from, const char* to, std::chrono::seconds step) {
        const auto made = bins_of({at(from), at(to)}, step, {});
        return schemas::format_instant(made.from) + " " + schemas::format_instant(made.to);
    };
    CHECK(bins("2026-01-01T00:00:00Z", "2026-01-01T00:00:20Z", 10s) == "2026-01-01T00:00:00Z 2026-01-01T00:00:20Z");
    CHECK(bins("2026-01-01T00:00:00.000001Z", "2026-01-01T00:00:20.000001Z", 10s) ==
          "2026-01-01T00:00:10Z 2026-01-01T00:00:30Z");
    CHECK(bins("2026-01-01T00:30:00Z", "2026-01-01T02:30:00Z", 1h) == "2026-01-01T01:00:00Z 2026-01-01T03:00:00Z");
    CHECK(bins("1969-12-31T23:59:51Z", "1969-12-31T23:59:55Z", 10s) == "1970-01-01T00:00:00Z 1970-01-01T00:00:00Z");
    CHECK(bins("1969-12-30T12:00:00Z", "9999-12-31T23:59:59Z", 24h) ==
          "1969-12-31T00:00:00Z 9999-12-31T23:59:59.999999Z");
}

TEST_CASE("without a range the bins are those of the log's last hour and whatever lies ahead") {
    const auto end = at("2026-01-01T12:00:03Z");
    CHECK(bins_of({}, 10s, end).from == at("2026-01-01T11:00:10Z"));
    CHECK(bins_of({}, 10s, end).to == at("9999-12-31T23:59:59.999999Z"));
    CHECK(bins_of({std::nullopt, at("2025-01-01T10:00:00Z")}, 10s, end).from == at("2025-01-01T09:00:00Z"));
    CHECK(bins_of({at("2020-01-01T00:00:00Z"), std::nullopt}, 10s, end).from == at("2020-01-01T00:00:00Z"));
    CHECK(bins_of({std::nullopt, at("0001-01-01T00:00:00Z")}, 10s, end).from == at("0001-01-01T00:00:00Z"));
}

TEST_CASE("a page of bins reads what its bins can hold, and no range is too long for it") {
    CHECK(rows_of_page({.limit = 50, .after = {}}, 10s, 4) == 208);
    CHECK(rows_of_page({.limit = 50, .after = {}}, 1min, 4) == 1'248);
    CHECK(rows_of_page({.limit = 1'000, .after = {}}, 1h, 12) == 100'000);
    CHECK(rows_of_page({.limit = 1, .after = {}}, 24h, 12) == 207'361);  // or it would not get on
    CHECK(rows_of_page({.limit = 50, .after = {}}, 10s, 0) == 52);
    const Bins bins{at("2026-01-01T00:00:00Z"), at("2026-01-02T00:00:00Z")};
    CHECK(bins_after(bins, at("2026-01-01T02:00:00Z"), 1h).from == at("2026-01-01T03:00:00Z"));
    CHECK(bins_after(bins, at("2026-01-01T02:59:59.999999Z"), 1h).from == at("2026-01-01T03:00:00Z"));
    CHECK(bins_after(bins, at("2025-01-01T02:00:00Z"), 1h).from == bins.from);
    CHECK(bins_after(bins, kEndOfTime, 1h).from == kEndOfTime);
    CHECK(bins_after(bins, kEndOfTime, 1h).to == bins.to);
}

TEST_CASE("an Idempotency-Key is 1 to 128 visible ASCII characters, once") {
    const auto key = [](std::vector<std::pair<std::string, std::string>> header) {
        const Asked asked(http::Method::post, "/increment", std::move(header));
        Violations violations;
        const auto headers = read_write_headers(asked.request, violations);
        return violations.empty() ? std::string(headers.idempotency_key.value_or("none")) : violations[0].detail;
    };
    CHECK(key({}) == "none");
    CHECK(key({{"idempotency-KEY", "a!~"}}) == "a!~");
    CHECK(key({{"Idempotency-Key", std::string(128, 'x')}}) == std::string(128, 'x'));
    const std::string refused = "must be 1 to 128 visible ASCII characters";
    for (const auto& bad :
         {std::string(), std::string(129, 'x'), std::string("a b"), std::string("\xc3\xa9"), std::string("\x7f")}) {
        CHECK(key({{"Idempotency-Key", bad}}) == refused);
    }
    CHECK(key({{"Idempotency-Key", "a"}, {"idempotency-key", "a"}}) == "is given more than once");
}

TEST_CASE("the bound after a prefix is greater than all that have it and no greater than the next text that has not") {
    CHECK(after_prefix("") == std::nullopt);
    CHECK(after_prefix("a") == "b");
    CHECK(after_prefix("ab\x7f") == "ab\xC2\x80");
    CHECK(after_prefix("\xDF\xBF") == "\xE0\xA0\x80");
    CHECK(after_prefix("\xED\x9F\xBF") == "\xEE\x80\x80");  // around the surrogates
    CHECK(after_prefix("\xEF\xBF\xBF") == "\xF0\x90\x80\x80");
    CHECK(after_prefix("a\xF4\x8F\xBF\xBF") == "b");  // the last character there is
    CHECK(after_prefix("\xF4\x8F\xBF\xBF") == std::nullopt);
}
