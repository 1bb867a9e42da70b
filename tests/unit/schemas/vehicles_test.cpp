#include "schemas/vehicles.h"

#include "listing.h"

#include <doctest/doctest.h>

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace tidemark::schemas::vehicles {
namespace {

constexpr std::string_view kBadId =
    "/id: must be an integer from 1 to 9007199254740991, written without fraction or exponent";
constexpr std::string_view kBadState = "/state: must be one of quoted, selling, sold";

template <typename Event>
std::string rewrite(const Result<Event>& event) {
    if (!event) return listing(event);
    std::string out;
    append(out, *event);
    return out;
}

std::string reread_registered(std::string_view body, json::Unknown unknown = json::Unknown::refuse) {
    json::Reader reader;
    const auto value = reader.parse(body);
    return value ? rewrite(read_registered(*value, unknown)) : listing(value);
}

std::string reread_state_changed(std::string_view body, json::Unknown unknown = json::Unknown::refuse) {
    json::Reader reader;
    const auto value = reader.parse(body);
    return value ? rewrite(read_state_changed(*value, unknown)) : listing(value);
}

std::string bad_name(std::string_view name) {
    return "/" + std::string(name) + ": must be a string of 1 to 128 bytes";
}

}  // namespace

TEST_CASE("a registration is an id, a make and a model") {
    CHECK(reread_registered(R"({"id":1,"make":"BMW","model":"X1"})") == R"({"id":1,"make":"BMW","model":"X1"})");
    CHECK(reread_registered(R"({"model":"Citro\u00ebn \"C3\"","make":"é","id":9007199254740991})") ==
          R"({"id":9007199254740991,"make":"é","model":"Citroën \"C3\""})");
    const auto longest = std::string(128, 'm');
    CHECK(reread_registered(R"({"id":1,"make":")" + longest + R"(","model":"x"})") ==
          R"({"id":1,"make":")" + longest + R"(","model":"x"})");
}

TEST_CASE("every violation of a registration is named") {
    const std::vector<std::pair<std::string, std::string>> cases{
        {"{}", "/id: is required\n/make: is required\n/model: is required"},
        {R"({"id":0,"make":"","model":1})", std::string(kBadId) + "\n" + bad_name("make") + "\n" + bad_name("model")},
        {R"({"id":-1,"make":"a","model":"b"})", std::string(kBadId)},
        {R"({"id":"1","make":"a","model":"b"})", std::string(kBadId)},
        {R"({"id":9007199254740992,"make":"a","model":"b"})", std::string(kBadId)},
        {R"({"id":1,"make":")" + std::string(129, 'm') + R"(","model":"b"})", bad_name("make")},
        {R"({"id":1,"make":"a","model":"b\u0000"})", "/model: must not hold U+0000"},
        {R"({"id":1,"make":"a","model":"b","state":"sold"})", "/state: unknown member"},
        {"[1]", ": must be an object"},
    };
    for (const auto& row : cases) {
        CAPTURE(row.first);
        CHECK(reread_registered(row.first) == row.second);
    }
    CHECK(reread_registered(R"({"id":1,"make":"a","model":"b","state":"sold"})", json::Unknown::ignore) ==
          R"({"id":1,"make":"a","model":"b"})");
    CHECK(listing(read_registered({}, json::Unknown::refuse, "/data")) == "/data: is required");
}

TEST_CASE("a change of state is an id and one of three states") {
    for (const auto state : {State::quoted, State::selling, State::sold}) {
        std::string out;
        append(out, StateChanged{7, state});
        CHECK(out == R"({"id":7,"state":")" + std::string(to_string(state)) + R"("})");
        CHECK(reread_state_changed(out) == out);
        CHECK(parse_state(to_string(state)) == state);
    }
    CHECK(to_string(State::quoted) == "quoted");
    CHECK(to_string(State::selling) == "selling");
    CHECK(to_string(State::sold) == "sold");
    for (const auto text : {"", "Sold", "sold ", "bought", "null"})
        CHECK_FALSE(parse_state(text).has_value());
}

TEST_CASE("every violation of a change of state is named") {
    const std::vector<std::pair<std::string, std::string>> cases{
        {"{}", "/id: is required\n/state: is required"},
        {R"({"id":1.5,"state":"parked"})", std::string(kBadId) + "\n" + std::string(kBadState)},
        {R"({"id":1,"state":""})", std::string(kBadState)},
        {R"({"id":1,"state":null})", std::string(kBadState)},
        {R"({"id":1,"state":1})", std::string(kBadState)},
        {R"({"id":1,"state":["sold"]})", std::string(kBadState)},
        {R"({"id":1,"state":"SOLD"})", std::string(kBadState)},
        {R"({"id":1,"state":"sold","occurredAt":"2022-09-12T12:41:41Z"})", "/occurredAt: unknown member"},
        {R"("sold")", ": must be an object"},
    };
    for (const auto& row : cases) {
        CAPTURE(row.first);
        CHECK(reread_state_changed(row.first) == row.second);
    }
    CHECK(reread_state_changed(R"({"id":1,"state":"sold","note":"x"})", json::Unknown::ignore) ==
          R"({"id":1,"state":"sold"})");
}

TEST_CASE("an id in a path is its digits and nothing else") {
    CHECK(parse_id("1") == 1);
    CHECK(parse_id("9007199254740991") == kMaxId);
    for (const auto text : {"", "0", "-1", "-0", "+1", "01", "1.0", "1e3", "abc", "1a", " 1", "1 ", "9007199254740992",
                            "99999999999999999999", "0x1"}) {
        CAPTURE(text);
        CHECK_FALSE(parse_id(text).has_value());
    }
}

}  // namespace tidemark::schemas::vehicles
