#include "schemas/json.h"

#include "listing.h"

#include <doctest/doctest.h>

#include <array>
#include <cstdint>
#include <limits>
#include <random>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

using namespace std::string_literals;
using namespace std::string_view_literals;

namespace tidemark::schemas::json {
namespace {

/// For texts whose numbers, names and depth are not what is tested.
constexpr Limits kWide{.max_depth = 256, .max_members = 0, .max_number_bytes = 0, .allow_nul = true};

std::string compact(Value value) {
    std::string out;
    append_value(out, value);
    return out;
}

/// The compact form of what was read, or the violations.
std::string reread(std::string_view text, const Limits& limits = kWide) {
    Reader reader;
    const auto value = reader.parse(text, limits);
    return value ? compact(*value) : listing(value);
}

std::string repeat(std::string_view text, std::size_t times) {
    std::string out;
    for (std::size_t i = 0; i < times; ++i)
        out.append(text);
    return out;
}

/// An object of `count` members with distinct names.
std::string wide_object(std::size_t count, std::string_view last = "") {
    std::string out = "{";
    for (std::size_t i = 0; i < count; ++i) {
        out.append(i == 0 ? "\"" : ",\"").append("m").append(std::to_string(i)).append("\":0");
    }
    return out.append(last).append("}");
}

struct Random {
    std::mt19937_64 engine;
    std::size_t below(std::size_t bound) { return static_cast<std::size_t>(engine() % bound); }
};

/// White space, or nothing.
std::string gap(Random& random) {
    return std::string(random.below(3), " \t\n\r"[random.below(4)]);
}

struct Written {
    std::string loose;    ///< with white space and needless escapes
    std::string compact;  ///< as append_value writes it
};

Written random_string(Random& random) {
    static constexpr std::array<std::pair<std::string_view, std::string_view>, 12> kPieces{{
        {"a", "a"},
        {"plain text of more than eight bytes", "plain text of more than eight bytes"},
        {R"(\")", R"(\")"},
        {R"(\\)", R"(\\)"},
        {R"(\/)", "/"},
        {R"(\n)", R"(\n)"},
        {R"(\u0001)", R"(\u0001)"},
        {R"(\u00e9)", "é"},
        {"é", "é"},
        {R"(\ud83d\ude00)", "😀"},
        {"😀", "😀"},
        {"\x7F", "\x7F"},
    }};
    Written out{"\"", "\""};
    for (auto pieces = random.below(6); pieces > 0; --pieces) {
        const auto& [loose, plain] = kPieces[random.below(kPieces.size())];
        out.loose.append(loose);
        out.compact.append(plain);
    }
    out.loose.append("\"");
    out.compact.append("\"");
    return out;
}

Written random_value(Random& random, std::size_t depth) {
    static constexpr std::array<std::string_view, 8> kScalars{"null", "true", "false", "0",
                                                              "-0",   "1.50", "1E+2",  "12345678901234567890123"};
    const auto choice = random.below(depth == 0 ? 2 : 4);
    if (choice == 0) {
        const std::string scalar(kScalars[random.below(kScalars.size())]);
        return {scalar, scalar};
    }
    if (choice == 1) return random_string(random);
    const bool object = choice == 2;
    Written out{object ? "{" : "[", object ? "{" : "["};
    const auto size = random.below(5);
    for (std::size_t i = 0; i < size; ++i) {
        const std::string comma = i == 0 ? "" : ",";
        const std::string name = object ? "\"n" + std::to_string(i) + "\"" : "";
        const auto child = random_value(random, depth - 1);
        out.loose.append(comma).append(gap(random)).append(name).append(object ? gap(random) + ":" + gap(random) : "");
        out.loose.append(child.loose).append(gap(random));
        out.compact.append(comma).append(name).append(object ? ":" : "").append(child.compact);
    }
    out.loose.append(object ? "}" : "]");
    out.compact.append(object ? "}" : "]");
    return out;
}

}  // namespace

TEST_CASE("a value of every kind is read and written back compactly, numbers as they stood") {
    const std::vector<std::pair<std::string_view, std::string_view>> cases{
        {"null", "null"},
        {" true\n", "true"},
        {"\tfalse\r", "false"},
        {"0", "0"},
        {"-0", "-0"},
        {"1.0", "1.0"},
        {"1e2", "1e2"},
        {"1E+02", "1E+02"},
        {"-12.50e-07", "-12.50e-07"},
        {"123456789012345678901234567890", "123456789012345678901234567890"},
        {R"("")", R"("")"},
        {"[]", "[]"},
        {"[ ]", "[]"},
        {"{}", "{}"},
        {"{ }", "{}"},
        {R"( { "a" : [ 1 , { "b" : null } , "c" ] , "d" : { } } )", R"({"a":[1,{"b":null},"c"],"d":{}})"},
        {R"("\"\\\/\b\f\n\r\t\u0041\u00e9\u20AC\ud83d\ude00")", "\"\\\"\\\\/\\b\\f\\n\\r\\tAé€😀\""},
        {R"("\u0000\u0001\u001f")", R"("\u0000\u0001\u001f")"},
        {R"({"":1})", R"({"":1})"},
        {R"({"b":1,"a":2})", R"({"b":1,"a":2})"},
    };
    for (const auto& row : cases) {
        CAPTURE(row.first);
        CHECK(reread(row.first) == row.second);
    }
}

TEST_CASE("what is not JSON is refused with the place where it stops being JSON") {
    const std::vector<std::pair<std::string_view, std::string_view>> cases{
        {"", ": is not JSON: nothing in it at byte 0"},
        {" \n", ": is not JSON: nothing in it at byte 2"},
        {"1 2", ": is not JSON: something after the value at byte 2"},
        {"{}x", ": is not JSON: something after the value at byte 2"},
        {R"({"a":1}})", ": is not JSON: something after the value at byte 7"},
        {"nul", ": is not JSON: no value at byte 3"},
        {"True", ": is not JSON: no value at byte 0"},
        {"[1,]", ": is not JSON: no value at byte 3"},
        {"[,1]", ": is not JSON: no value at byte 1"},
        {"[1", ": is not JSON: no comma or closing bracket after an element at byte 2"},
        {"[1 2]", ": is not JSON: no comma or closing bracket after an element at byte 3"},
        {"[1}", ": is not JSON: no comma or closing bracket after an element at byte 2"},
        {"[", ": is not JSON: no value at byte 1"},
        {"{", ": is not JSON: no member name at byte 1"},
        {"{a:1}", ": is not JSON: no member name at byte 1"},
        {"{'a':1}", ": is not JSON: no member name at byte 1"},
        {R"({"a":1,})", ": is not JSON: no member name at byte 7"},
        {R"({"a"})", ": is not JSON: no colon after a member name at byte 4"},
        {R"({"a":})", ": is not JSON: no value at byte 5"},
        {R"({"a":1)", ": is not JSON: no comma or closing brace after a member at byte 6"},
        {R"({"a":1])", ": is not JSON: no comma or closing brace after a member at byte 6"},
        {R"({"key":"abc","val)", ": is not JSON: a string without end at byte 17"},
        {R"("\x")", ": is not JSON: an unknown escape at byte 1"},
        {R"("\u12g4")", ": is not JSON: a \\u escape without four hex digits at byte 1"},
        {R"("\u12)", ": is not JSON: a \\u escape without four hex digits at byte 1"},
        {R"("\)", ": is not JSON: an unknown escape at byte 1"},
        {R"("\ud800")", ": is not JSON: a lone surrogate at byte 1"},
        {R"("\ud800\n")", ": is not JSON: a lone surrogate at byte 1"},
        {R"("\ud800\u0041")", ": is not JSON: a lone surrogate at byte 1"},
        {"\"a\nb\"", ": is not JSON: a control character that is not escaped at byte 2"},
        {"\"a\x1F\"", ": is not JSON: a control character that is not escaped at byte 2"},
        {"\"plain text of more than eight bytes\x1A\"",
         ": is not JSON: a control character that is not escaped at byte 36"},
        {"\"ab\xC3\xA9\xED\xA0\x80\"", ": is not JSON: broken UTF-8 at byte 5"},
        {"+1", ": is not JSON: no value at byte 0"},
        {"01", ": is not JSON: something after the value at byte 1"},
        {"-", ": is not JSON: no value at byte 1"},
        {".5", ": is not JSON: no value at byte 0"},
        {"1.", ": is not JSON: no digit after a decimal point at byte 2"},
        {"1e", ": is not JSON: no digit in an exponent at byte 2"},
        {"1e400", ": is not JSON: a number beyond the range of a double at byte 0"},
        {"NaN", ": is not JSON: no value at byte 0"},
        {"-Infinity", ": is not JSON: no value at byte 1"},
        {"0x10", ": is not JSON: something after the value at byte 1"},
        {"\xEF\xBB\xBF{}", ": is not JSON: a byte order mark at byte 0"},
        {"{} // no", ": is not JSON: something after the value at byte 3"},
        {"/**/{}", ": is not JSON: no value at byte 0"},
        {"{}\0"sv, ": is not JSON: a NUL byte at byte 2"},
        {"{}\0{}"sv, ": is not JSON: a NUL byte at byte 2"},
        {"\0{}"sv, ": is not JSON: a NUL byte at byte 0"},
        {"[1,\0]"sv, ": is not JSON: a NUL byte at byte 3"},
        {"\"a\0b\""sv, ": is not JSON: a NUL byte at byte 2"},
    };
    for (const auto& row : cases) {
        CAPTURE(row.first);
        CHECK(reread(row.first) == row.second);
    }
}

TEST_CASE("a byte that may not stand in a string is found at every place of a plain run") {
    Reader reader;
    for (unsigned byte = 0; byte < 0x100; ++byte) {
        const bool fits = byte >= 0x20 && byte < 0x80 && byte != '"' && byte != '\\';
        for (std::size_t place = 0; place < 24; ++place) {
            for (const auto* opening : {"[\"", "[\"\\n"}) {
                auto text = opening + std::string(24, 'x') + "\"]";
                text[std::string_view(opening).size() + place] = static_cast<char>(byte);
                if (reader.parse(text).ok() != fits)
                    FAIL("byte " << byte << " at place " << place << " of " << opening);
            }
        }
    }
}

TEST_CASE("a text ends where it is said to end, whatever stands behind it in memory") {
    const auto text = R"({"a":12345678})"sv;
    for (std::size_t size = 0; size < text.size(); ++size) {
        CAPTURE(size);
        CHECK_FALSE(Reader().parse(text.substr(0, size)).ok());
    }
    CHECK(reread(text) == text);
}

TEST_CASE("broken UTF-8 is refused in values and in names, whole UTF-8 is kept byte for byte") {
    const std::vector<std::string_view> broken{"\x80",
                                               "\xBF",
                                               "\xC0\x80",
                                               "\xC0\xAF",
                                               "\xC1\xBF",
                                               "\xC2",
                                               "\xC2\x41",
                                               "\xE0\x80\x80",
                                               "\xE0\x9F\xBF",
                                               "\xE2\x82",
                                               "\xE2\x82\x41",
                                               "\xED\xA0\x80",
                                               "\xED\xAF\xBF",
                                               "\xED\xB0\x80",
                                               "\xED\xBF\xBF",
                                               "\xF0\x80\x80\x80",
                                               "\xF0\x8F\xBF\xBF",
                                               "\xF0\x9F\x98",
                                               "\xF0\x9F",
                                               "\xF0",
                                               "\xF4\x90\x80\x80",
                                               "\xF5\x80\x80\x80",
                                               "\xF8\x88\x80\x80\x80",
                                               "\xFC",
                                               "\xFE",
                                               "\xFF",
                                               "\xC3\xA9\xC3",
                                               "long plain run\xE2\x82"};
    for (const auto bytes : broken) {
        CAPTURE(bytes);
        CHECK_FALSE(is_utf8(bytes));
        CHECK_FALSE(Reader().parse("\"" + std::string(bytes) + "\"").ok());
        CHECK_FALSE(Reader().parse("{\"" + std::string(bytes) + "\":1}").ok());
        CHECK_FALSE(Reader().parse("\"" + std::string(bytes)).ok());
        CHECK_FALSE(Reader().parse("\"\\n" + std::string(bytes) + "\"").ok());
    }
    const std::vector<std::string_view> whole{"\x7F",
                                              "\xC2\x80",
                                              "\xDF\xBF",
                                              "\xE0\xA0\x80",
                                              "\xED\x9F\xBF",
                                              "\xEE\x80\x80",
                                              "\xEF\xBF\xBF",
                                              "\xEF\xBB\xBF",
                                              "\xF0\x90\x80\x80",
                                              "\xF4\x8F\xBF\xBF",
                                              "e\xCC\x81",
                                              "ascii, é, €, 😀 and more ascii"};
    for (const auto bytes : whole) {
        CAPTURE(bytes);
        CHECK(is_utf8(bytes));
        CHECK(reread("\"" + std::string(bytes) + "\"") == "\"" + std::string(bytes) + "\"");
    }
}

TEST_CASE("the reader and is_utf8 agree on every lead byte with every kind of tail") {
    constexpr std::array<unsigned char, 6> kTails{0x41, 0x7F, 0x80, 0x8F, 0xBF, 0xC0};
    Reader reader;
    std::size_t accepted = 0;
    for (unsigned lead = 0x80; lead < 0x100; ++lead) {
        for (unsigned second = 0x80; second < 0x100; ++second) {
            for (const auto third : kTails) {
                for (const auto fourth : kTails) {
                    const std::string bytes{static_cast<char>(lead), static_cast<char>(second),
                                            static_cast<char>(third), static_cast<char>(fourth)};
                    const bool ok = reader.parse("\"" + bytes + "\"").ok();
                    accepted += ok ? 1 : 0;
                    if (ok != is_utf8(bytes))
                        FAIL("they differ on " << lead << ' ' << second << ' ' << third << ' ' << fourth);
                }
            }
        }
    }
    // Of two bytes and two of ASCII, of three and one, of four: lead and second byte pairs times the tails that fit.
    CHECK(accepted == 30 * 64 * 4 + (13 * 64 + 32 + 32 + 64) * 6 + (3 * 64 + 48 + 16) * 9);
}

TEST_CASE("an escape that leaves a lone low surrogate is refused, which RapidJSON would let pass") {
    CHECK(reread(R"("\udc00")") == ": must not hold a lone surrogate");
    CHECK(reread(R"(["ok","\udfff"])") == "/1: must not hold a lone surrogate");
    CHECK(reread(R"({"a":{"x\udc00":1}})") == "/a: must not have a member whose name holds a lone surrogate");
    CHECK(reread(R"("\ud83d\ude00\ude00")") == ": must not hold a lone surrogate");
}

TEST_CASE("a pointer never passes through a name that must not be sent back") {
    CHECK(reread(R"({"a":{"x\udc00":{"b":1,"b":2}}})") ==
          "/a: must not have a member whose name holds a lone surrogate\n/a/b: duplicate member");
    const auto name = std::string(512, 'n');
    CHECK(reread("{\"a\":{\"" + name + "\":1,\"" + name + "\":2}}") == "/a: duplicate member");
    CHECK(reread("{\"" + name.substr(1) + "\":1,\"" + name.substr(1) + "\":2}") ==
          "/" + name.substr(1) + ": duplicate member");
}

TEST_CASE("U+0000 is refused in values and names unless it is allowed") {
    CHECK(reread(R"({"a":["x\u0000"]})", {}) == "/a/0: must not hold U+0000");
    CHECK(reread(R"({"a":{"\u0000":1}})", {}) == "/a: must not have a member whose name holds U+0000");
    CHECK(reread(R"({"\u0000":"\u0000"})", {.allow_nul = true}) == R"({"\u0000":"\u0000"})");
    CHECK(reread(R"("\\u0000")", {}) == R"("\\u0000")");
}

TEST_CASE("duplicate names are refused at every level, each with its pointer") {
    CHECK(reread(R"({"a":1,"b":2,"a":3})") == "/a: duplicate member");
    CHECK(reread(R"({"a":1,"a":2,"a":3})") == "/a: duplicate member\n/a: duplicate member");
    CHECK(reread(R"({"a":1,"\u0061":2})") == "/a: duplicate member");
    CHECK(reread(R"({"":1,"":2})") == "/: duplicate member");
    CHECK(reread(R"([{"a/b":{"~":1,"~":2}},{"x":1,"x":1}])") == "/0/a~1b/~0: duplicate member\n/1/x: duplicate member");
    CHECK(reread(R"({"a":{"a":{"a":1}},"b":[{"a":1},{"a":1}]})") == R"({"a":{"a":{"a":1}},"b":[{"a":1},{"a":1}]})");
    CHECK(reread(R"({"a":1,"a":2,"b":nul})") == ": is not JSON: no value at byte 20");
}

TEST_CASE("a duplicate among a hundred thousand members is found without comparing all pairs") {
    CHECK(reread(wide_object(100'000)).size() == wide_object(100'000).size());
    CHECK(reread(wide_object(100'000, R"(,"m4711":1,"m3":1)")) == "/m3: duplicate member\n/m4711: duplicate member");
}

TEST_CASE("every limit is reported with its pointer and does not end the search") {
    CHECK(reread(wide_object(16), {}) == wide_object(16));
    CHECK(reread(wide_object(17), {}) == ": must not have more than 16 members");
    CHECK(reread("{\"a\":[" + wide_object(40) + "]}", {}) == "/a/0: must not have more than 16 members");
    CHECK(reread("[12345678901234567890,-1234567890123456789]", {}) == "[12345678901234567890,-1234567890123456789]");
    CHECK(reread(R"({"n":123456789012345678901,"m":0.12345678901234567890,"n":"\u0000"})", {}) ==
          "/n: must not be a number of more than 20 characters\n/m: must not be a number of more than 20 characters\n"
          "/n: must not hold U+0000\n/n: duplicate member");
    CHECK(reread(wide_object(17, R"(,"m1":"\u0000")"), {}) ==
          ": must not have more than 16 members\n/m1: must not hold U+0000\n/m1: duplicate member");
}

TEST_CASE("depth counts arrays and objects, and one too many ends the search") {
    CHECK(reread("[[[[[[[[1]]]]]]]]", {}) == "[[[[[[[[1]]]]]]]]");
    CHECK(reread("[[[[[[[[[]]]]]]]]]", {}) == "/0/0/0/0/0/0/0/0: is nested deeper than 8");
    CHECK(reread(R"({"a":{"b":[0,{}]}})", {.max_depth = 3}) == "/a/b/1: is nested deeper than 3");
    CHECK(reread("[]", {.max_depth = 0}) == ": is nested deeper than 0");
    CHECK(reread("1", {.max_depth = 0}) == "1");
    CHECK(reread(R"([{"a":1,"a":2},[[]],{"b":1,"b":2}])", {.max_depth = 2}) ==
          "/0/a: duplicate member\n/1/0: is nested deeper than 2");
    const auto deep = repeat("[", 256) + repeat("]", 256);
    CHECK(reread(deep) == deep);
}

TEST_CASE("a million opening brackets are refused at the first one too many") {
    Reader reader;
    const auto brackets = repeat("[", 1'000'000);
    CHECK(listing(reader.parse(brackets)) == "/0/0/0/0/0/0/0/0: is nested deeper than 8");
    CHECK(listing(reader.parse(repeat(R"({"a":)", 200'000))) == "/a/a/a/a/a/a/a/a: is nested deeper than 8");
    CHECK(listing(reader.parse("[" + brackets)) == "/0/0/0/0/0/0/0/0: is nested deeper than 8");
}

TEST_CASE("the numbers that kill RapidJSON's own conversion stay text") {
    const auto underflow = "1." + std::string(400, '0') + "1e-2147483639";
    CHECK(reread(underflow) == underflow);
    CHECK(reread(R"({"key":"a","value":)" + underflow + "}", {}) ==
          "/value: must not be a number of more than 20 characters");
    const auto cached_power = "128.74836467836484838364836483643636483648e-336"s;
    CHECK(reread(cached_power) == cached_power);
    CHECK(reread(cached_power, {}) == ": must not be a number of more than 20 characters");
    CHECK(reread("1e-99999999999999999999") == "1e-99999999999999999999");
    const auto no_double = "184467440737095516159." + std::string(5'000, '9');
    CHECK(reread(no_double) == no_double);
}

TEST_CASE("a hostile text buys no more than 32 violations") {
    Reader reader;
    const auto numbers = "[" + repeat("123456789012345678901,", 1'000) + "0]";
    CHECK(reader.parse(numbers).violations().size() == kMaxViolations);
    const auto names = "{" + repeat(R"("a":0,)", 1'000) + R"("a":0})";
    CHECK(reader.parse(names).violations().size() == kMaxViolations);
}

TEST_CASE("a text beyond the longest one is refused unread") {
    CHECK(listing(Reader().parse(std::string(kMaxTextBytes + 1, ' '))) == ": must not be longer than 16777216 bytes");
    CHECK(listing(Reader().parse(std::string(kMaxTextBytes, ' '))) == ": is not JSON: nothing in it at byte 16777216");
}

TEST_CASE("members and elements are found and walked in order") {
    Reader reader;
    const auto value = reader.parse(R"({"a":[1,[2,3],{"x":4}],"b":{"a":"inner"},"c":true})");
    REQUIRE(value.ok());
    CHECK(value->is(Kind::object));
    CHECK(value->size() == 3);
    CHECK(value->find("b").find("a").text() == "inner");
    CHECK(value->find("c").kind() == Kind::boolean);
    CHECK(value->find("c").name() == "c");
    CHECK_FALSE(value->find("x"));
    CHECK_FALSE(value->find("c").find("x"));
    CHECK_FALSE(Value().find("x"));
    CHECK_FALSE(Value().is(Kind::null));
    std::string walked;
    for (const auto element : value->find("a"))
        walked.append(compact(element)).append(";");
    CHECK(walked == R"(1;[2,3];{"x":4};)");
    CHECK(value->find("a").size() == 3);
    for ([[maybe_unused]] const auto child : value->find("c"))
        FAIL("a scalar has no children");
}

TEST_CASE("a reader reads many texts after one another, changes none of them and can be moved") {
    Reader reader;
    const auto escaped = R"({"k\u0065y":"v\u0061l"})"s;
    const auto before = escaped;
    CHECK(compact(*reader.parse(escaped)) == R"({"key":"val"})");
    CHECK(escaped == before);
    CHECK_FALSE(reader.parse("{").ok());
    CHECK_FALSE(reader.parse(R"({"a":1,"a":1})").ok());
    const auto giant = "[" + repeat("0,", 1'000'000) + "0]";
    CHECK(reader.parse(giant)->size() == 1'000'001);
    CHECK(compact(*reader.parse("[1]")) == "[1]");
    Reader other = std::move(reader);
    CHECK(compact(*other.parse("[2]")) == "[2]");
    reader = std::move(other);
    const auto value = reader.parse(R"("still here")");
    Reader third(std::move(reader));
    CHECK(value->text() == "still here");
}

TEST_CASE("any value survives white space and needless escapes") {
    Random random{std::mt19937_64(20'261'120)};
    Reader reader;
    for (int i = 0; i < 3'000; ++i) {
        const auto written = random_value(random, 6);
        const auto value = reader.parse(gap(random) + written.loose + gap(random), kWide);
        CAPTURE(written.loose);
        REQUIRE(listing(value) == "");
        REQUIRE(compact(*value) == written.compact);
    }
}

TEST_CASE("any string that is UTF-8 comes back byte for byte") {
    Random random{std::mt19937_64(42)};
    Reader reader;
    for (int i = 0; i < 3'000; ++i) {
        std::string text;
        while (text.size() < random.below(60)) {
            text.push_back(static_cast<char>(random.below(0x80)));
            if (random.below(4) == 0) text.append("é").append("\xF4\x8F\xBF\xBF");
        }
        std::string json;
        append_string(json, text);
        const auto value = reader.parse(json, kWide);
        REQUIRE(listing(value) == "");
        REQUIRE(value->text() == text);
    }
}

TEST_CASE("an integer is digits with perhaps a minus, within its bounds") {
    constexpr auto kMin = std::numeric_limits<std::int64_t>::min();
    constexpr auto kMax = std::numeric_limits<std::int64_t>::max();
    CHECK(to_integer("0", kMin, kMax) == 0);
    CHECK(to_integer("-0", kMin, kMax) == 0);
    CHECK(to_integer("42", 42, 42) == 42);
    CHECK(to_integer("9223372036854775807", kMin, kMax) == kMax);
    CHECK(to_integer("-9223372036854775808", kMin, kMax) == kMin);
    for (const auto text : {"", "-", "+1", "01", "-01", "00", "1.0", "1e3", "1 ", " 1", "a", "0x1",
                            "9223372036854775808", "-9223372036854775809", "--1", "1-"}) {
        CAPTURE(text);
        CHECK_FALSE(to_integer(text, kMin, kMax).has_value());
    }
    CHECK_FALSE(to_integer("41", 42, 50).has_value());
    CHECK_FALSE(to_integer("51", 42, 50).has_value());

    std::string out;
    append_integer(out, kMin);
    append_integer(out, kMax);
    CHECK(out == "-92233720368547758089223372036854775807");
}

TEST_CASE("a child pointer escapes tilde and slash and does not repeat a long name") {
    CHECK(child_pointer("", "key") == "/key");
    CHECK(child_pointer("/data", "a/b~c") == "/data/a~1b~0c");
    CHECK(child_pointer("/data", "") == "/data/");
    CHECK(child_pointer("/data", std::string(506, 'x')) == "/data/" + std::string(506, 'x'));
    CHECK(child_pointer("/data", std::string(507, 'x')) == "/data");
    CHECK(child_pointer("/data", "\xFF") == "/data");
}

}  // namespace tidemark::schemas::json
