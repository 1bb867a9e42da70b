#include "producer/csv.h"

#include <doctest/doctest.h>

#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

using tidemark::producer::CsvRows;

namespace {

using Row = std::vector<std::string>;

// "line: fields in brackets", or what is wrong, for each row.
std::vector<std::string> rows(const std::string& text) {
    std::istringstream in(text);
    CsvRows csv(in);
    std::vector<std::string> all;
    while (csv.next()) {
        auto row = std::to_string(csv.line()) + ": ";
        for (const auto& field : csv.fields())
            row += '<' + field + '>';
        all.push_back(csv.wrong().empty() ? row : std::to_string(csv.line()) + " " + csv.wrong());
    }
    CHECK_FALSE(csv.next());
    return all;
}

}  // namespace

TEST_CASE("rows are read as RFC 4180 has them") {
    CHECK(rows("").empty());
    CHECK(rows("a") == Row{"1: <a>"});
    CHECK(rows("a,b\n1,2\n") == Row{"1: <a><b>", "2: <1><2>"});
    CHECK(rows("a,b\r\n1,2\r\n") == Row{"1: <a><b>", "2: <1><2>"});
    CHECK(rows("a,\n,\n") == Row{"1: <a><>", "2: <><>"});
    CHECK(rows(" a , b ") == Row{"1: < a >< b >"});
    CHECK(rows(R"("a","b,c",d)") == Row{"1: <a><b,c><d>"});
    CHECK(rows(R"("say ""x""","""",""
)") == Row{"1: <say \"x\"><\"><>"});
    CHECK(rows("\"two\nlines\",b\nc,d\n\"\r\n\",e\nf,g") ==
          Row{"1: <two\nlines><b>", "3: <c><d>", "4: <\r\n><e>", "6: <f><g>"});
    CHECK(rows(std::string("a\0b,\xFF\n", 6)) == Row{std::string("1: <a\0b><\xFF>", 11)});
}

TEST_CASE("blank lines and a byte order mark are passed over, an empty quoted field is not") {
    CHECK(rows("\n\na,b\n\r\n\n1,2\n\n") == Row{"3: <a><b>", "6: <1><2>"});
    CHECK(rows("\"\"\n") == Row{"1: <>"});
    CHECK(rows("\xEF\xBB\xBF\"a\",b\n") == Row{"1: <a><b>"});
    CHECK(rows("\xEF\xBC\xA1,b") == Row{"1: <\xEF\xBC\xA1><b>"});
    CHECK(rows("\xEF") == Row{"1: <\xEF>"});
    CHECK(rows("\xEF\xBB\xBF").empty());
}

TEST_CASE("a row that is written wrong is named, and those behind it are read") {
    CHECK(rows("a\"b,c\nd,e") == Row{"1 a quote stands within a field that is not in quotes", "2: <d><e>"});
    CHECK(rows("\"a\"b,c\nd,e") == Row{"1 something stands behind a closing quote", "2: <d><e>"});
    CHECK(rows("\"a\"\rb\nd,e") == Row{"1 something stands behind a closing quote", "2: <d><e>"});
    CHECK(rows("a,b\nc,\"d\ne,f\n") == Row{"1: <a><b>", "2 a quoted field does not end"});
    CHECK(rows("a\rb,c\r") == Row{"1: <a\rb><c>"});
}

TEST_CASE("a row without end, and a file that cannot be read, stop it") {
    std::istringstream in("a,b\n\"" + std::string(CsvRows::kMostBytes, 'x'));
    CsvRows csv(in);
    REQUIRE(csv.next());
    CHECK_THROWS_WITH_AS(csv.next(), "line 2: a row of more than 1 MiB begins there: is a quote missing?",
                         std::runtime_error);
    std::istringstream broken("a,b\n");
    broken.setstate(std::ios::badbit);
    CsvRows none(broken);
    CHECK_THROWS_AS(none.next(), std::runtime_error);
}
