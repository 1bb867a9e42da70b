#include "schemas/instant.h"

#include <doctest/doctest.h>

#include <array>
#include <chrono>
#include <cstdint>
#include <random>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace tidemark::schemas {
namespace {

using std::chrono::microseconds;

/// "none", or the instant as format_instant writes it.
std::string reread(std::string_view text) {
    const auto instant = parse_instant(text);
    return instant ? format_instant(*instant) : "none";
}

std::string reread_query(std::string_view text) {
    const auto instant = parse_query_instant(text);
    return instant ? format_instant(*instant) : "none";
}

Timestamp at(std::int64_t micros) {
    return Timestamp{microseconds{micros}};
}

}  // namespace

TEST_CASE("every accepted form of an instant is the same instant") {
    for (const auto text :
         {"2022-09-19T10:00:00Z", "2022-09-19t10:00:00z", "2022-09-19 10:00:00Z", "2022-09-19 10:00:00+00",
          "2022-09-19T10:00:00+0000", "2022-09-19T10:00:00+00:00", "2022-09-19T10:00:00-00:00",
          "2022-09-19 10:00:00-00", "2022-09-19T10:00:00.0Z", "2022-09-19T10:00:00.000000000Z",
          "2022-09-19T12:00:00+02", "2022-09-19T12:00:00+0200", "2022-09-19T12:00:00+02:00",
          "2022-09-19T04:30:00-05:30", "2022-09-20T09:59:00+23:59", "2022-09-18T10:01:00-23:59"}) {
        CAPTURE(text);
        CHECK(reread(text) == "2022-09-19T10:00:00Z");
    }
    CHECK(parse_instant("1970-01-01T00:00:00Z") == at(0));
    CHECK(parse_instant("2022-09-12T01:00:00+02:00") == parse_instant("2022-09-11T23:00:00Z"));
}

TEST_CASE("what is no instant is refused") {
    for (const std::string_view text : {"",
                                        "last christmas",
                                        "2022-09-19",
                                        "2022-09-19T10:00:00",
                                        "2022-09-19 10:00:00",
                                        "2022-09-19T10:00Z",
                                        "10:00:00Z",
                                        "2022-09-19T10:00:00 Z",
                                        "2022-09-19T10:00:00 +00",
                                        "2022-09-19T10:00:00 00",
                                        "2022-09-19  10:00:00Z",
                                        " 2022-09-19T10:00:00Z",
                                        "2022-09-19T10:00:00Z ",
                                        "2022-09-19T10:00:00ZZ",
                                        "2022-09-19T10:00:00UTC",
                                        "2022-09-19_10:00:00Z",
                                        "2022/09/19T10:00:00Z",
                                        "20220919T100000Z",
                                        "2022-9-19T10:00:00Z",
                                        "2022-09-19T1:00:00Z",
                                        "2022-09-19T10:00:00+2",
                                        "2022-09-19T10:00:00+02:",
                                        "2022-09-19T10:00:00+02:0",
                                        "2022-09-19T10:00:00+020",
                                        "2022-09-19T10:00:00+02000",
                                        "2022-09-19T10:00:00+02:00:00",
                                        "2022-09-19T10:00:00+24:00",
                                        "2022-09-19T10:00:00+00:60",
                                        "2022-09-19T10:00:00-24",
                                        "2022-09-19T10:00:00.Z",
                                        "2022-09-19T10:00:00.1234567890Z",
                                        "2022-09-19T10:00:00,5Z",
                                        "2022-09-19T10:00:00.5.5Z",
                                        "2022-09-19T10:00:60Z",
                                        "2016-12-31T23:59:60Z",
                                        "2022-09-19T10:60:00Z",
                                        "2022-09-19T24:00:00Z",
                                        "2022-09-19T25:00:00Z",
                                        "2022-00-19T10:00:00Z",
                                        "2022-13-19T10:00:00Z",
                                        "2022-09-00T10:00:00Z",
                                        "2022-09-31T10:00:00Z",
                                        "2022-02-29T10:00:00Z",
                                        "2022-02-30T10:00:00Z",
                                        "2024-02-30T10:00:00Z",
                                        "1900-02-29T10:00:00Z",
                                        "2100-02-29T10:00:00Z",
                                        "0000-01-01T00:00:00Z",
                                        "10000-01-01T00:00:00Z",
                                        "-2022-09-19T10:00:00Z",
                                        "+2022-09-19T10:00:00Z",
                                        "2022-09-19T10:00:0xZ",
                                        "2022-09-19T-1:00:00Z",
                                        "٢٠٢٢-09-19T10:00:00Z",
                                        "infinity",
                                        "1663581600"}) {
        CAPTURE(text);
        CHECK(reread(text) == "none");
    }
    CHECK_FALSE(parse_instant(std::string_view("2022-09-19T10:00:00Z\0", 21)).has_value());
}

TEST_CASE("every prefix and every single changed character of an instant is read without harm") {
    const std::string whole = "2022-09-19T10:00:00.123456+02:00";
    for (std::size_t i = 0; i < whole.size(); ++i) {
        auto changed = whole;
        changed[i] = 'x';
        CHECK_FALSE(parse_instant(changed).has_value());
    }
    // Cut after the hours or the minutes of its offset it is still one.
    for (std::size_t size = 0; size < whole.size(); ++size) {
        CAPTURE(size);
        CHECK(parse_instant(whole.substr(0, size)).has_value() == (size == whole.size() - 3));
    }
}

TEST_CASE("leap days are those of the Gregorian calendar") {
    CHECK(reread("2024-02-29T00:00:00Z") == "2024-02-29T00:00:00Z");
    CHECK(reread("2000-02-29T00:00:00Z") == "2000-02-29T00:00:00Z");
    CHECK(reread("2024-02-29T23:59:59.999999-01:00") == "2024-03-01T00:59:59.999999Z");
    CHECK(*parse_instant("2024-03-01T00:00:00Z") - *parse_instant("2024-02-28T00:00:00Z") == std::chrono::hours(48));
    CHECK(*parse_instant("1900-03-01T00:00:00Z") - *parse_instant("1900-02-28T00:00:00Z") == std::chrono::hours(24));
}

TEST_CASE("years are 1 to 9999, also after the offset was applied") {
    CHECK(reread("0001-01-01T00:00:00Z") == "0001-01-01T00:00:00Z");
    CHECK(reread("9999-12-31T23:59:59.999999999Z") == "9999-12-31T23:59:59.999999Z");
    CHECK(reread("0001-01-01T00:00:00-01:00") == "0001-01-01T01:00:00Z");
    CHECK(reread("0001-01-01T01:00:00+01:00") == "0001-01-01T00:00:00Z");
    CHECK(reread("0001-01-01T00:59:59.999999+01:00") == "none");
    CHECK(reread("0000-12-31T23:59:59-01:00") == "none");
    CHECK(reread("9999-12-31T22:59:59.999999-01:00") == "9999-12-31T23:59:59.999999Z");
    CHECK(reread("9999-12-31T23:00:00-01:00") == "none");
    CHECK(reread("9999-12-31T23:59:59+00:01") == "9999-12-31T23:58:59Z");
}

TEST_CASE("fraction digits beyond the sixth are cut off, before 1970 too") {
    const std::vector<std::pair<std::string_view, std::string_view>> cases{
        {"2022-09-19T10:00:00.1Z", "2022-09-19T10:00:00.100Z"},
        {"2022-09-19T10:00:00.12Z", "2022-09-19T10:00:00.120Z"},
        {"2022-09-19T10:00:00.120Z", "2022-09-19T10:00:00.120Z"},
        {"2022-09-19T10:00:00.1234Z", "2022-09-19T10:00:00.123400Z"},
        {"2022-09-19T10:00:00.123456Z", "2022-09-19T10:00:00.123456Z"},
        {"2022-09-19T10:00:00.1234567Z", "2022-09-19T10:00:00.123456Z"},
        {"2022-09-19T10:00:00.12345678Z", "2022-09-19T10:00:00.123456Z"},
        {"2022-09-19T10:00:00.123456789Z", "2022-09-19T10:00:00.123456Z"},
        {"2022-09-19T10:00:00.000000999Z", "2022-09-19T10:00:00Z"},
        {"1969-12-31T23:59:59.999999999Z", "1969-12-31T23:59:59.999999Z"},
        {"1969-12-31T23:59:59.000000999Z", "1969-12-31T23:59:59Z"},
        {"0001-01-01T00:00:00.0000019+00", "0001-01-01T00:00:00.000001Z"},
    };
    for (const auto& row : cases) {
        CAPTURE(row.first);
        CHECK(reread(row.first) == row.second);
    }
    CHECK(parse_instant("1969-12-31T23:59:59.9999999Z") == at(-1));
}

TEST_CASE("in a query the space that was a plus before the offset reads as one") {
    CHECK(reread_query("2022-09-12T10:00:00 02:00") == "2022-09-12T08:00:00Z");
    CHECK(reread_query("2022-09-12 10:00:00 00") == "2022-09-12T10:00:00Z");
    CHECK(reread_query("2022-09-12 10:00:00.5 0130") == "2022-09-12T08:30:00.500Z");
    CHECK(reread_query("2022-09-12T10:00:00+02:00") == "2022-09-12T08:00:00Z");
    CHECK(reread_query("2022-09-12T10:00:00-02:00") == "2022-09-12T12:00:00Z");
    CHECK(reread_query("2022-09-12T10:00:00Z") == "2022-09-12T10:00:00Z");
    for (const auto text : {"2022-09-12T10:00:00", "2022-09-12T10:00:00 ", "2022-09-12T10:00:00  02:00",
                            "2022-09-12T10:00:00 Z", "2022-09-12T10:00:00 +02:00", "2022-09-12T10:00:00 -02:00"}) {
        CAPTURE(text);
        CHECK(reread_query(text) == "none");
    }
}

TEST_CASE("an instant is written with 0, 3 or 6 fraction digits") {
    CHECK(format_instant(at(0)) == "1970-01-01T00:00:00Z");
    CHECK(format_instant(at(1)) == "1970-01-01T00:00:00.000001Z");
    CHECK(format_instant(at(1'000)) == "1970-01-01T00:00:00.001Z");
    CHECK(format_instant(at(999'000)) == "1970-01-01T00:00:00.999Z");
    CHECK(format_instant(at(-1)) == "1969-12-31T23:59:59.999999Z");
    CHECK(format_instant(at(1'795'168'803'217'000)) == "2026-11-20T10:00:03.217Z");
    std::string out = "at ";
    append_instant(out, at(1'000'000));
    CHECK(out == "at 1970-01-01T00:00:01Z");
}

TEST_CASE("any instant of the years 1 to 9999 survives being written and read") {
    const auto first = parse_instant("0001-01-01T00:00:00Z")->time_since_epoch().count();
    const auto last = parse_instant("9999-12-31T23:59:59.999999Z")->time_since_epoch().count();
    std::mt19937_64 engine(1);
    std::uniform_int_distribution<std::int64_t> any(first, last);
    constexpr std::array<std::int64_t, 4> kGrains{1, 1'000, 1'000'000, 86'400'000'000};
    for (int i = 0; i < 20'000; ++i) {
        const auto grain = kGrains[static_cast<std::size_t>(i) % kGrains.size()];
        const auto instant = at(any(engine) / grain * grain);
        const auto text = format_instant(instant);
        CAPTURE(text);
        REQUIRE(parse_instant(text) == instant);
        auto shifted = text;
        shifted.replace(shifted.size() - 1, 1, "-00:00");
        REQUIRE(parse_instant(shifted) == instant);
    }
    CHECK(parse_instant(format_instant(at(first))) == at(first));
    CHECK(parse_instant(format_instant(at(last))) == at(last));
}

TEST_CASE("windows are ten seconds, aligned to the epoch and half-open") {
    constexpr std::int64_t kSecond = 1'000'000;
    CHECK(window_start(at(0)) == at(0));
    CHECK(window_start(at(1)) == at(0));
    CHECK(window_start(at(10 * kSecond - 1)) == at(0));
    CHECK(window_start(at(10 * kSecond)) == at(10 * kSecond));
    CHECK(window_start(at(-1)) == at(-10 * kSecond));
    CHECK(window_start(at(-10 * kSecond)) == at(-10 * kSecond));
    CHECK(format_instant(window_start(*parse_instant("2026-11-20T10:00:03.217Z"))) == "2026-11-20T10:00:00Z");
    std::mt19937_64 engine(2);
    for (int i = 0; i < 1'000; ++i) {
        const auto instant = at(static_cast<std::int64_t>(engine() % 4'000'000'000'000'000) - 2'000'000'000'000'000);
        const auto start = window_start(instant);
        REQUIRE(start.time_since_epoch() % kWindowLength == microseconds{0});
        REQUIRE(start <= instant);
        REQUIRE(instant < start + kWindowLength);
    }
}

}  // namespace tidemark::schemas
