#include "schemas/position.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cstdint>
#include <limits>
#include <string>
#include <string_view>

namespace tidemark::schemas {
namespace {

constexpr auto kMaxPartition = std::numeric_limits<std::int32_t>::max();
constexpr auto kMaxOffset = std::numeric_limits<std::int64_t>::max();

/// What was read, written again; "none" when nothing was.
std::string reread(std::string_view token) {
    const auto parts = parse_token(token);
    if (!parts) return "none";
    std::string out;
    for (const auto& part : *parts) {
        if (!out.empty()) out.append(",");
        append_token(out, part.stream, part.log_hash, part.position);
    }
    return out;
}

std::string joined(std::size_t parts) {
    std::string out;
    for (std::size_t i = 0; i < parts; ++i) {
        if (i > 0) out.append(",");
        append_token(out, "counters", "0a1b2c3d", {static_cast<std::int32_t>(i), 7});
    }
    return out;
}

}  // namespace

TEST_CASE("a log's hash is the start of its uuid's SHA-256") {
    CHECK(log_hash("01234567-89ab-7def-8123-456789abcdef") == "228fbbc6");
    CHECK(log_hash("") == "e3b0c442");
}

TEST_CASE("a token names stream, log, partition and offset and needs no escaping in a URL") {
    std::string token;
    append_token(token, "counters", "0a1b2c3d", {3, 4'711});
    append_token(token.append(","), "vehicle_states", "ffffffff", {kMaxPartition, kMaxOffset});
    CHECK(token == "counters-0a1b2c3d-3-4711,vehicle_states-ffffffff-2147483647-9223372036854775807");
    CHECK(std::all_of(token.begin(), token.end(), [](char c) {
        return std::string_view("abcdefghijklmnopqrstuvwxyz0123456789-_,").find(c) != std::string_view::npos;
    }));

    const auto parts = parse_token(token);
    REQUIRE(parts.has_value());
    REQUIRE(parts->size() == 2);
    CHECK((*parts)[0].stream == "counters");
    CHECK((*parts)[0].log_hash == "0a1b2c3d");
    CHECK((*parts)[0].position == Position{3, 4'711});
    CHECK((*parts)[1].stream == "vehicle_states");
    CHECK((*parts)[1].position == Position{kMaxPartition, kMaxOffset});
}

TEST_CASE("what is read is what was written, or nothing") {
    for (const std::string_view token : {"counters-0a1b2c3d-0-0", "c-00000000-0-1,c-00000000-0-1,b-00000000-9-9",
                                         "a_1-99999999-2147483647-9223372036854775807"}) {
        CHECK(reread(token) == token);
    }
    for (const std::string_view token : {"",
                                         ",",
                                         "counters",
                                         "counters-0a1b2c3d",
                                         "counters-0a1b2c3d-3",
                                         "counters-0a1b2c3d-3-",
                                         "counters-0a1b2c3d--1",
                                         "-0a1b2c3d-3-1",
                                         "counters--3-1",
                                         "counters-0a1b2c3-3-1",
                                         "counters-0a1b2c3d4-3-1",
                                         "counters-0A1B2C3D-3-1",
                                         "counters-0a1b2c3g-3-1",
                                         "Counters-0a1b2c3d-3-1",
                                         "count ers-0a1b2c3d-3-1",
                                         "counters-0a1b2c3d-3-1-1",
                                         "counters-0a1b2c3d-03-1",
                                         "counters-0a1b2c3d-3-01",
                                         "counters-0a1b2c3d-+3-1",
                                         "counters-0a1b2c3d-3--1",
                                         "counters-0a1b2c3d-2147483648-1",
                                         "counters-0a1b2c3d-3-9223372036854775808",
                                         "counters-0a1b2c3d-3-1,",
                                         ",counters-0a1b2c3d-3-1",
                                         "counters-0a1b2c3d-3-1,,counters-0a1b2c3d-3-1",
                                         "counters-0a1b2c3d-3-1 ",
                                         "counters-0a1b2c3d-3-1;counters-0a1b2c3d-3-1",
                                         "counters-0a1b2c3d-3-1e3",
                                         "counters-0a1b2c3d-x-1",
                                         "counters-0a1b2c3d-3--0"}) {
        CAPTURE(token);
        CHECK(reread(token) == "none");
    }
    CHECK(reread(std::string(63, 's') + "-0a1b2c3d-3-1") == std::string(63, 's') + "-0a1b2c3d-3-1");
    CHECK(reread(std::string(64, 's') + "-0a1b2c3d-3-1") == "none");
}

TEST_CASE("a position has one text") {
    CHECK(to_string(Position{2, 1834}) == "2:1834");
    CHECK(parse_position("2:1834") == Position{2, 1834});
    CHECK(parse_position("2147483647:9223372036854775807") == Position{2147483647, 9223372036854775807});
    for (const std::string_view text : {"", ":", "2", "2:", ":1", "02:1", "2:01", "+2:1", "-2:1", "-0:1", "2:-1",
                                        "2: 1", "2:1:1", "2:1x", "x:1", "2147483648:1", "2:9223372036854775808"}) {
        CAPTURE(text);
        CHECK_FALSE(parse_position(text).has_value());
    }
}

TEST_CASE("a token has at most 1,024 parts") {
    CHECK(parse_token(joined(1'024))->size() == 1'024);
    CHECK_FALSE(parse_token(joined(1'025)).has_value());
}

TEST_CASE("positions order by partition, then offset") {
    CHECK(Position{0, 9} < Position{1, 0});
    CHECK(Position{1, 0} < Position{1, 1});
}

}  // namespace tidemark::schemas
