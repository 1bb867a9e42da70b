#include "infra/base/toml.h"

#include <doctest/doctest.h>

#include <string>
#include <vector>

namespace toml = tidemark::base::toml;

namespace {

/// "key=value" of each entry, then the violations.
std::vector<std::string> read(std::string_view text) {
    std::vector<std::string> all;
    const auto document = toml::parse(text);
    for (const auto& entry : document.entries)
        all.push_back(entry.key + "=" + entry.value);
    for (const auto& violation : document.violations)
        all.push_back(violation);
    return all;
}

using Lines = std::vector<std::string>;

}  // namespace

TEST_CASE("strings, numbers, booleans and comments are read") {
    CHECK(read("# a comment\n"
               "\n"
               "brokers = \"a:9092\"   # another\n"
               "  depth=12\n"
               "minus\t=\t-3\n"
               "plus = +1_000\r\n"
               "half = 0.5\n"
               "on = true\n"
               "off = false#x\n"
               "'quoted key' = 'literal \\n \"x\" # y'\n"
               "last = \"\"") == Lines{"brokers=a:9092", "depth=12", "minus=-3", "plus=1000", "half=0.5", "on=true",
                                       "off=false", "quoted key=literal \\n \"x\" # y", "last="});
}

TEST_CASE("a hash, a comma and a blank inside quotes belong to the text") {
    CHECK(read("dsn = \"postgresql://u:p#w, x@h/db\" # c") == Lines{"dsn=postgresql://u:p#w, x@h/db"});
}

TEST_CASE("escapes are decoded") {
    CHECK(read(R"(a = "\t\n\r\b\f\"\\\u00e9\u6c34\U0001F30A")") ==
          Lines{"a=\t\n\r\b\f\"\\\xc3\xa9\xe6\xb0\xb4\xf0\x9f\x8c\x8a"});
}

TEST_CASE("what is not understood is refused with its line, and the other lines are read") {
    const auto refused = [](const std::string& line) {
        CAPTURE(line);
        const auto document = toml::parse("first = 1\n" + line + "\nlast = 2\n");
        REQUIRE(document.violations.size() == 1);
        CHECK(document.violations[0].rfind("line 2: ", 0) == 0);
        CHECK(document.entries.size() == 2);
    };
    for (const char* line : {"[section]",
                             "[[array]]",
                             "a.b = 1",
                             "a = [1, 2]",
                             "a = {b = 1}",
                             "a = \"\"\"x\"\"\"",
                             "a = '''x'''",
                             "a",
                             "a =",
                             "= 1",
                             "a = 1s",
                             "a = hello",
                             "a = \"x",
                             "a = 'x",
                             "a = \"x\" y",
                             "a = 1 2",
                             "a = \"\\x\"",
                             "a = \"\\",
                             "a = \"\\u12\"",
                             "a = \"\\u00g0\"",
                             "a = \"\\u0000\"",
                             "a = \"\\ud800\"",
                             "a = \"\\U00110000\"",
                             "a = \"\x01\"",
                             "a = -",
                             "a = 1-2",
                             "first = 3",
                             "a b = 1"}) {
        refused(line);
    }
}

TEST_CASE("a refusal does not repeat the value, which may be a password without its quotes") {
    for (const char* line : {"password = hunter2", "password = \"hunter2", "password = 'hunter2' 'hunter2'",
                             "password hunter2", "password = \"hunter2\\q\""}) {
        CAPTURE(line);
        const auto document = toml::parse(line);
        REQUIRE(document.violations.size() == 1);
        CHECK(document.violations[0].find("hunter2") == std::string::npos);
    }
}

TEST_CASE("quote and parse are inverse for every text without NUL") {
    std::string all;
    for (int c = 1; c < 256; ++c)
        all += static_cast<char>(c);
    CHECK(read("a = " + toml::quote(all)) == Lines{"a=" + all});
    CHECK(toml::quote("a\"\\\n\x7f") == R"("a\"\\\u000A\u007F")");
}
