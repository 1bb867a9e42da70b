#include "api/items.h"

#include <doctest/doctest.h>

#include <array>

using namespace tidemark;
using namespace tidemark::api;

namespace {

constexpr std::array<std::string_view, 3> kColumns{"key", "value", "at"};

std::string list(Media media, std::string_view next) {
    Items items(media, kColumns);
    items.text("a,\"b\"\n");
    items.number("123456789012345678901234567890");
    items.instant(*schemas::parse_instant("2026-11-20T10:00:03.217Z"));
    items.text("");
    items.number("-1");
    items.null();
    return items.finish(next);
}

}  // namespace

TEST_CASE("a list is written in each of its media types") {
    CHECK(list(Media::json, "c61") ==
          R"({"items":[{"key":"a,\"b\"\n","value":123456789012345678901234567890,"at":"2026-11-20T10:00:03.217Z"},)"
          R"({"key":"","value":-1,"at":null}],"next":"c61"})");
    CHECK(list(Media::ndjson, "c61") ==
          "{\"key\":\"a,\\\"b\\\"\\n\",\"value\":123456789012345678901234567890,\"at\":\"2026-11-20T10:00:03.217Z\"}\n"
          "{\"key\":\"\",\"value\":-1,\"at\":null}\n");
    CHECK(list(Media::csv, "c61") ==
          "key,value,at\r\n\"a,\"\"b\"\"\n\",123456789012345678901234567890,2026-11-20T10:00:03.217Z\r\n\"\",-1,\r\n");
}

TEST_CASE("a member that a row does not have is left out, but in CSV") {
    const auto list = [](Media media) {
        Items items(media, kColumns);
        items.absent();
        items.number("1");
        items.absent();
        items.text("a");
        items.absent();
        items.null();
        for (int n = 0; n < 3; ++n)
            items.absent();
        return items.finish("");
    };
    CHECK(list(Media::json) == R"({"items":[{"value":1},{"key":"a","at":null},{}]})");
    CHECK(list(Media::ndjson) == "{\"value\":1}\n{\"key\":\"a\",\"at\":null}\n{}\n");
    CHECK(list(Media::csv) == "key,value,at\r\n,1,\r\na,,\r\n,,\r\n");
}

TEST_CASE("an empty list is a list") {
    CHECK(Items(Media::json, kColumns).finish("") == R"({"items":[]})");
    CHECK(Items(Media::ndjson, kColumns).finish("").empty());
    CHECK(Items(Media::csv, kColumns).finish("") == "key,value,at\r\n");
}

TEST_CASE("one item is an object") {
    CHECK(Item().text("key", "\xC3\xA9").number("value", "7").null("state").finish() ==
          "{\"key\":\"\xC3\xA9\",\"value\":7,\"state\":null}");
}
