#include "schemas/base64.h"

#include <doctest/doctest.h>

#include <optional>
#include <string>
#include <string_view>

using tidemark::schemas::append_bytes;
using tidemark::schemas::from_base64;
using tidemark::schemas::to_base64;

TEST_CASE("bytes and their base64 are those of RFC 4648") {
    constexpr struct {
        std::string_view bytes;
        std::string_view text;
    } kVectors[] = {{"", ""},
                    {"f", "Zg=="},
                    {"fo", "Zm8="},
                    {"foo", "Zm9v"},
                    {"foob", "Zm9vYg=="},
                    {"fooba", "Zm9vYmE="},
                    {"foobar", "Zm9vYmFy"}};
    for (const auto& vector : kVectors) {
        CAPTURE(vector.bytes);
        CHECK(to_base64(vector.bytes) == vector.text);
        CHECK(from_base64(vector.text) == std::string(vector.bytes));
    }
}

TEST_CASE("every byte comes back from base64") {
    std::string all;
    for (int byte = 0; byte < 256; ++byte)
        all.push_back(static_cast<char>(byte));
    CHECK(from_base64(to_base64(all)) == all);
}

TEST_CASE("what is no base64 is refused") {
    for (const std::string_view text :
         {"Zg", "Zg=", "Zg==Zg==", "Z", "Zm8", "Zm9v\n", " Zm9v", "Zm9_", "Zm9-", "Zm9!"}) {
        CAPTURE(text);
        CHECK_FALSE(from_base64(text));
    }
}

TEST_CASE("bytes stand in JSON as text, as base64 when they are none, and as null when there are none") {
    const auto member = [](const std::optional<std::string>& bytes) {
        std::string json;
        append_bytes(json, "key", bytes);
        return json;
    };
    CHECK(member("a\"\n\xC3\xA9") == "\"key\":\"a\\\"\\n\xC3\xA9\"");
    CHECK(member(std::string("a\0b", 3)) == R"("key":"a\u0000b")");
    CHECK(member("") == R"("key":"")");
    CHECK(member("\xFF") == R"("keyBase64":"/w==")");
    CHECK(member(std::nullopt) == R"("key":null)");
}
