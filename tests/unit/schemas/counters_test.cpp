#include "schemas/counters.h"

#include "listing.h"
#include "schemas/members.h"

#include <doctest/doctest.h>

#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace tidemark::schemas::counters {
namespace {

constexpr std::string_view kBadKey = "/key: must be a string of 1 to 256 bytes";
constexpr std::string_view kBadValue =
    "/value: must be an integer from -9007199254740991 to 9007199254740991, written without fraction or exponent";

/// "<key>=<value>" or the violations.
std::string reread(std::string_view body, json::Unknown unknown = json::Unknown::refuse, std::string_view at = "",
                   const json::Limits& limits = {}) {
    json::Reader reader;
    const auto value = reader.parse(body, limits);
    if (!value) return listing(value);
    const auto event = read(*value, unknown, at);
    return event ? std::string(event->key) + "=" + std::to_string(event->value) : listing(event);
}

std::string lines(std::string_view first, std::string_view second) {
    return std::string(first) + "\n" + std::string(second);
}

}  // namespace

TEST_CASE("an increment is a key and an integer") {
    CHECK(reread(R"({"key":"abcdef","value":1})") == "abcdef=1");
    CHECK(reread(R"({"value":-1,"key":"abcdef"})") == "abcdef=-1");
    CHECK(reread(R"({"key":"a","value":0})") == "a=0");
    CHECK(reread(R"({"key":"a","value":-0})") == "a=0");
    CHECK(reread(R"({"key":"a","value":9007199254740991})") == "a=9007199254740991");
    CHECK(reread(R"({"key":"a","value":-9007199254740991})") == "a=-9007199254740991");
    CHECK(reread("{\"key\":\"" + std::string(256, 'k') + "\",\"value\":1}") == std::string(256, 'k') + "=1");
    CHECK(reread(R"({"key":"\"%\/\n😀e\u0301","value":1})") == "\"%/\n😀e\xCC\x81=1");
}

TEST_CASE("every violation of an increment is named") {
    const std::vector<std::pair<std::string, std::string>> cases{
        {"{}", "/key: is required\n/value: is required"},
        {R"({"key":"a"})", "/value: is required"},
        {R"({"value":1})", "/key: is required"},
        {R"({"key":"","value":1})", std::string(kBadKey)},
        {R"({"key":null,"value":null})", lines(kBadKey, kBadValue)},
        {R"({"key":1,"value":"abc"})", lines(kBadKey, kBadValue)},
        {R"({"key":["a"],"value":{}})", lines(kBadKey, kBadValue)},
        {R"({"key":true,"value":false})", lines(kBadKey, kBadValue)},
        {"{\"key\":\"" + std::string(257, 'k') + "\",\"value\":1}", std::string(kBadKey)},
        {"{\"key\":\"" + std::string(256, 'k') + "é\",\"value\":1}", std::string(kBadKey)},
        {R"({"key":"a","value":"1"})", std::string(kBadValue)},
        {R"({"key":"a","value":1.5})", std::string(kBadValue)},
        {R"({"key":"a","value":1.0})", std::string(kBadValue)},
        {R"({"key":"a","value":1e3})", std::string(kBadValue)},
        {R"({"key":"a","value":9007199254740992})", std::string(kBadValue)},
        {R"({"key":"a","value":-9007199254740992})", std::string(kBadValue)},
        {R"({"key":"a","value":9223372036854775808})", std::string(kBadValue)},
        {R"({"key":"a","value":99999999999999999999})", std::string(kBadValue)},
        {R"({"key":"a","value":1,"extra":2})", "/extra: unknown member"},
        {R"({"Key":"a","value":1})", "/key: is required\n/Key: unknown member"},
        {R"({"x/y":1,"value":1.5})", "/key: is required\n" + std::string(kBadValue) + "\n/x~1y: unknown member"},
        {R"({"key":"a","value":1,"value":2})", "/value: duplicate member"},
        {"[]", ": must be an object"},
        {"1", ": must be an object"},
        {"null", ": must be an object"},
        {R"(["key","value"])", ": must be an object"},
        {R"({"key":"a\u0000b","value":1})", "/key: must not hold U+0000"},
    };
    for (const auto& row : cases) {
        CAPTURE(row.first);
        CHECK(reread(row.first) == row.second);
    }
}

TEST_CASE("violations point below the place where the data stands") {
    CHECK(reread("{}", json::Unknown::refuse, "/data") == "/data/key: is required\n/data/value: is required");
    CHECK(reread(R"({"key":"a","value":1,"x":2})", json::Unknown::refuse, "/data") == "/data/x: unknown member");
    CHECK(reread("[]", json::Unknown::refuse, "/data") == "/data: must be an object");
    CHECK(listing(read({}, json::Unknown::ignore, "/data")) == "/data: is required");
}

TEST_CASE("a consumer lets unknown members pass, the edge does not") {
    CHECK(reread(R"({"x":[1],"key":"a","y":null,"value":1})", json::Unknown::ignore) == "a=1");
    CHECK(reread(R"({"x":[1],"key":"a","y":null,"value":1})") == "/x: unknown member\n/y: unknown member");
    CHECK(reread(R"({"x":[1]})", json::Unknown::ignore) == "/key: is required\n/value: is required");
}

TEST_CASE("a key with U+0000 is refused even where the reader allowed it") {
    CHECK(reread(R"({"key":"a\u0000b","value":1})", json::Unknown::refuse, "", {.allow_nul = true}) ==
          "/key: must not hold U+0000");
}

TEST_CASE("unknown members without end are not all named") {
    std::string body = R"({"key":"a")";
    for (int i = 0; i < 1'000; ++i)
        body.append(",\"x").append(std::to_string(i)).append("\":0");
    json::Reader reader;
    const auto value = reader.parse(body + "}", {.max_members = 0});
    REQUIRE(value.ok());
    const auto event = read(*value, json::Unknown::refuse);
    REQUIRE_FALSE(event.ok());
    CHECK(event.violations().size() == json::kMaxViolations);
    CHECK(event.violations().front() == Violation{"/value", "is required"});
}

TEST_CASE("an increment is written as it is read") {
    std::string out;
    append(out, {"a\"b\\c\n\x01é", -9'007'199'254'740'991});
    CHECK(out == R"({"key":"a\"b\\c\n\u0001é","value":-9007199254740991})");
    CHECK(reread(out) == "a\"b\\c\n\x01é=-9007199254740991");
}

}  // namespace tidemark::schemas::counters
