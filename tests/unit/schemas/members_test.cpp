#include "schemas/members.h"

#include "listing.h"

#include <doctest/doctest.h>

#include <array>
#include <string>
#include <string_view>

namespace tidemark::schemas {
namespace {

constexpr std::array<std::string_view, 2> kChoices{"true", "1"};

std::string violations_of(std::string_view body, json::Unknown unknown) {
    json::Reader reader;
    const auto value = reader.parse(body);
    REQUIRE(value.ok());
    Members members(*value, "/data");
    const auto choice = members.one_of("choice", kChoices);
    const auto text = members.text("text", 3);
    const auto number = members.integer("number", -1, 1);
    auto found = members.violations(unknown);
    if (found.empty()) return std::to_string(choice) + std::string(text) + std::to_string(number);
    return listing(found);
}

}  // namespace

TEST_CASE("members are read whatever their order") {
    CHECK(violations_of(R"({"number":-1,"text":"abc","choice":"1"})", json::Unknown::refuse) == "1abc-1");
    CHECK(violations_of(R"({"choice":"true","x":0,"text":"a","number":1})", json::Unknown::ignore) == "0a1");
}

TEST_CASE("a choice is a string, not a literal or a number of the same text") {
    CHECK(violations_of(R"({"number":0,"text":"a","choice":true})", json::Unknown::refuse) ==
          "/data/choice: must be one of true, 1");
    CHECK(violations_of(R"({"number":0,"text":"a","choice":1})", json::Unknown::refuse) ==
          "/data/choice: must be one of true, 1");
}

TEST_CASE("the violations of all members are named together") {
    CHECK(
        violations_of(R"({"number":2,"text":"abcd","x":0})", json::Unknown::refuse) ==
        "/data/choice: is required\n/data/text: must be a string of 1 to 3 bytes\n"
        "/data/number: must be an integer from -1 to 1, written without fraction or exponent\n/data/x: unknown member");
}

TEST_CASE("a flag is true or false, and false where there is none") {
    const auto flag = [](std::string_view body) {
        json::Reader reader;
        const auto value = reader.parse(body);
        REQUIRE(value.ok());
        Members members(*value, "");
        const bool set = members.flag("set");
        const auto found = members.violations(json::Unknown::refuse);
        return found.empty() ? std::string(set ? "yes" : "no") : listing(found);
    };
    CHECK(flag(R"({"set":true})") == "yes");
    CHECK(flag(R"({"set":false})") == "no");
    CHECK(flag(R"({"set":null})") == "no");
    CHECK(flag("{}") == "no");
    for (const auto* body : {R"({"set":"true"})", R"({"set":1})", R"({"set":[]})"})
        CHECK(flag(body) == "/set: must be true or false");
    CHECK(flag(R"({"sets":true})") == "/sets: unknown member");
}

}  // namespace tidemark::schemas
