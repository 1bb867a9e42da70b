#include "schemas/dead_letter.h"
#include "listing.h"

#include <doctest/doctest.h>

#include <optional>
#include <string>
#include <string_view>

namespace tidemark::schemas::dead_letter {
namespace {

json::Value parsed(json::Reader& reader, std::string_view text) {
    auto value = reader.parse(text);
    REQUIRE(value);
    return *value;
}

}  // namespace

TEST_CASE("a decision about a dead letter names every violation") {
    json::Reader reader;
    const auto redriven = [&](std::string_view text) {
        return listing(read_redriven(parsed(reader, text), json::Unknown::refuse, "/data"));
    };
    CHECK(redriven(R"({"offset":0})") == "");
    CHECK(redriven(R"({"offset":9223372036854775807,"edit":"x"})") == "");
    CHECK(redriven(R"({"offset":0,"edit":null,"attempts":null})") == "");
    CHECK(redriven(R"({"offset":0,"attempts":1})") == "");
    for (const auto* wrong :
         {"{}", R"({"offset":-1})", R"({"offset":1.0})", R"({"offset":"1"})", R"({"offset":9223372036854775808})",
          R"({"offset":1,"edit":""})", R"({"offset":1,"edit":{}})", R"({"offset":1,"more":1})",
          R"({"offset":1,"attempts":0})", R"({"offset":1,"attempts":"1"})", "[]"}) {
        CAPTURE(wrong);
        CHECK(redriven(wrong) != "");
    }
    const std::string longest = R"({"offset":1,"note":")" + std::string(kMaxNoteBytes, 'n') + "\"}";
    const std::string too_long = R"({"offset":1,"note":")" + std::string(kMaxNoteBytes + 1, 'n') + "\"}";
    CHECK(listing(read_discarded(parsed(reader, longest), json::Unknown::refuse, "/data")) == "");
    CHECK(listing(read_discarded(parsed(reader, too_long), json::Unknown::refuse, "/data")) != "");
}

TEST_CASE("what is written of a decision is read again") {
    const std::string edit = "{\"a\":\"\xC3\xA9\\u0001\\n\\\\\"}";
    for (const auto& text : {std::optional<std::string_view>(), std::optional<std::string_view>(edit)}) {
        std::string redriven;
        append(redriven, Redriven{42, text, text ? std::optional<std::int64_t>(5) : std::nullopt});
        std::string discarded;
        append(discarded, Discarded{43, text});
        json::Reader reader;
        const auto first = read_redriven(parsed(reader, redriven), json::Unknown::refuse);
        CHECK(first->offset == 42);
        CHECK(first->edit == text);
        CHECK(first->attempts == (text ? std::optional<std::int64_t>(5) : std::nullopt));
        const auto second = read_discarded(parsed(reader, discarded), json::Unknown::refuse);
        CHECK(second->offset == 43);
        CHECK(second->note == text);
    }
}

}  // namespace tidemark::schemas::dead_letter
