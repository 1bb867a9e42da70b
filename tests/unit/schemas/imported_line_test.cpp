#include "schemas/imported_line.h"

#include <doctest/doctest.h>

#include <limits>
#include <string>

using tidemark::schemas::append_imported_line;
using tidemark::schemas::read_imported_line;

TEST_CASE("an imported line is written and read as its file and its number") {
    for (const std::int64_t number : {std::int64_t{1}, std::int64_t{10}, std::numeric_limits<std::int64_t>::max()}) {
        std::string header;
        append_imported_line(header, {"AZaz09-_AZaz09-_AZaz09", number});
        CHECK(header == "AZaz09-_AZaz09-_AZaz09:" + std::to_string(number));
        const auto read = read_imported_line(header);
        REQUIRE(read);
        CHECK(read->file == "AZaz09-_AZaz09-_AZaz09");
        CHECK(read->number == number);
    }
}

TEST_CASE("what is not written exactly so is some other header") {
    const std::string file(22, 'f');
    for (const auto& header : {std::string(),
                               std::string(":"),
                               file,
                               file + ":",
                               file + ":0",
                               file + ":-1",
                               file + ":+1",
                               file + ":01",
                               file + ":1 ",
                               file + ": 1",
                               file + ":1x",
                               file + ":9223372036854775808",
                               file + ";1",
                               file.substr(1) + ":1",
                               file + "f:1",
                               file.substr(1) + "=:1",
                               file.substr(1) + "/:1",
                               " " + file + ":1",
                               file.substr(1) + std::string(1, '\0') + ":1",
                               file + ":1" + std::string(1, '\0'),
                               file.substr(2) + "\xC3\xA9:1"}) {
        CAPTURE(header);
        CHECK_FALSE(read_imported_line(header));
    }
}
