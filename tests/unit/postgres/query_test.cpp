#include "infra/postgres/query.h"

#include <doctest/doctest.h>

#include <chrono>
#include <limits>
#include <map>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>

using namespace std::chrono_literals;
using tidemark::pg::Array;
using tidemark::pg::Params;
using tidemark::pg::Rows;

namespace {

using Instant = std::chrono::sys_time<std::chrono::microseconds>;

std::string text_of(const Params& params, std::size_t index = 0) {
    const char* text = params.pointers().at(index);
    return text == nullptr ? "(null)" : text;
}

std::string text_of(Array array) {
    Params params;
    params.add(std::move(array));
    return text_of(params);
}

/// A result of one row.
Rows row_of(std::vector<std::optional<std::string>> cells) {
    struct Body final : Rows::Body {
        std::vector<std::optional<std::string>> cells;
        [[nodiscard]] std::size_t rows() const noexcept override { return 1; }
        [[nodiscard]] std::size_t affected() const noexcept override { return 0; }
        [[nodiscard]] std::optional<std::string_view> cell(std::size_t, std::size_t column) const noexcept override {
            return cells[column] ? std::optional<std::string_view>(*cells[column]) : std::nullopt;
        }
    };
    auto body = std::make_unique<Body>();
    body->cells = std::move(cells);
    return Rows(std::move(body));
}

}  // namespace

TEST_CASE("a text with U+0000 is refused everywhere and never cut") {
    using namespace std::string_view_literals;
    CHECK_THROWS_AS(Params().add("a\0b"sv), std::invalid_argument);
    CHECK_THROWS_AS(Params().add(std::string("\0", 1)), std::invalid_argument);
    CHECK_THROWS_AS(Array().add("a\0b"sv), std::invalid_argument);
    CHECK_THROWS_AS(Array().add_numeric("1\0"sv), std::invalid_argument);
}

TEST_CASE("parameters keep their order, their types and NULL") {
    Params params;
    params.add("text").add(std::string("string")).add(std::int64_t{-5}).add(std::int32_t{7}).add(true).add(false);
    params.add_null().add_optional(std::optional<std::int64_t>{}).add_optional(std::optional<std::int64_t>{9}).add("");
    const std::vector<std::string> expected = {"text", "string", "-5", "7", "t", "f", "(null)", "(null)", "9", ""};
    REQUIRE(params.pointers().size() == expected.size());
    for (std::size_t i = 0; i < expected.size(); ++i)
        CHECK(text_of(params, i) == expected[i]);
}

TEST_CASE("copies and moved parameters hold what the original held") {
    auto original = std::make_unique<Params>();
    original->add("short").add(std::string(1'000, 'x')).add_null();
    const Params copy = *original;
    const Params moved = std::move(*original);
    original.reset();
    for (const auto* params : {&copy, &moved}) {
        CHECK(text_of(*params, 0) == "short");
        CHECK(text_of(*params, 1) == std::string(1'000, 'x'));
        CHECK(text_of(*params, 2) == "(null)");
    }
}

TEST_CASE("integers reach both ends of 64 bits") {
    CHECK(text_of(Params().add(std::numeric_limits<std::int64_t>::min())) == "-9223372036854775808");
    CHECK(
        text_of(Array().add(std::numeric_limits<std::int64_t>::min()).add(std::numeric_limits<std::int64_t>::max())) ==
        "{-9223372036854775808,9223372036854775807}");
}

TEST_CASE("instants are written in UTC with microseconds, and only in the years 1 to 9999") {
    const auto text = [](std::int64_t microseconds) {
        return text_of(Params().add(Instant{std::chrono::microseconds{microseconds}}));
    };
    CHECK(text(0) == "1970-01-01 00:00:00.000000+00");
    CHECK(text(-1) == "1969-12-31 23:59:59.999999+00");
    CHECK(text(1'662'805'434'000'001) == "2022-09-10 10:23:54.000001+00");
    const auto first = Instant{std::chrono::sys_days{std::chrono::year{1} / 1 / 1}};
    const auto end = Instant{std::chrono::sys_days{std::chrono::year{10'000} / 1 / 1}};
    CHECK(text_of(Params().add(first)) == "0001-01-01 00:00:00.000000+00");
    CHECK(text_of(Array().add(end - 1us)) == "{\"9999-12-31 23:59:59.999999+00\"}");
    CHECK_THROWS_AS(Params().add(first - 1us), std::invalid_argument);
    CHECK_THROWS_AS(Params().add(end), std::invalid_argument);
    CHECK_THROWS_AS(Params().add(Instant::max()), std::invalid_argument);
    CHECK_THROWS_AS(Array().add(Instant::min()), std::invalid_argument);
}

TEST_CASE("array elements are quoted so that each stays one element") {
    CHECK(text_of(Array()) == "{}");
    CHECK(text_of(Array().add("a").add(std::string("b")).add(std::string_view("c"))) == R"({"a","b","c"})");
    CHECK(text_of(Array().add("").add("NULL").add_null()) == R"({"","NULL",NULL})");
    CHECK(text_of(Array().add("a,b").add("{x}").add("q\"q").add("b\\b").add(" s ")) ==
          R"({"a,b","{x}","q\"q","b\\b"," s "})");
    CHECK(text_of(Array().add(true).add(false)) == "{t,f}");
    CHECK(text_of(Array().add(std::int32_t{1}).add(std::int64_t{-2})) == "{1,-2}");
    CHECK(text_of(Array().add_numeric("123456789012345678901234567890")) == R"({"123456789012345678901234567890"})");
    CHECK(text_of(Array().add_bytes(std::string_view("\0\xff", 2))) == R"({"\\x00ff"})");
    CHECK(Array().add("a").add_null().size() == 2);
}

TEST_CASE("bytes are written in hex") {
    CHECK(text_of(Params().add_bytes(std::string_view("\0a\xff", 3))) == "\\x0061ff");
    CHECK(text_of(Params().add_bytes("")) == "\\x");
}

TEST_CASE("typed cells are read exactly") {
    const auto rows = row_of({"-9223372036854775808", "t", "f", "\\x0061FF", "1662805434000001", "\\x", "caf\xc3\xa9"});
    CHECK(rows.integer(0, 0) == std::numeric_limits<std::int64_t>::min());
    CHECK(rows.boolean(0, 1));
    CHECK_FALSE(rows.boolean(0, 2));
    CHECK(rows.bytes(0, 3) == std::string("\0a\xff", 3));
    CHECK(rows.instant(0, 4) == Instant{1'662'805'434'000'001us});
    CHECK(rows.bytes(0, 5).empty());
    CHECK(rows.text(0, 6) == "caf\xc3\xa9");
}

TEST_CASE("NULL, another type or a missing row is a bug, not a value") {
    const auto rows = row_of({std::nullopt, "12.5", "yes", "\\x1", "\\xzz", "", "9223372036854775808", " 1"});
    CHECK_FALSE(rows.cell(0, 0).has_value());
    CHECK_THROWS_AS(static_cast<void>(rows.text(0, 0)), std::logic_error);
    CHECK_THROWS_AS(static_cast<void>(rows.integer(0, 0)), std::logic_error);
    CHECK_THROWS_AS(static_cast<void>(rows.integer(0, 1)), std::logic_error);
    CHECK_THROWS_AS(static_cast<void>(rows.boolean(0, 2)), std::logic_error);
    CHECK_THROWS_AS(static_cast<void>(rows.bytes(0, 3)), std::logic_error);
    CHECK_THROWS_AS(static_cast<void>(rows.bytes(0, 4)), std::logic_error);
    CHECK_THROWS_AS(static_cast<void>(rows.integer(0, 5)), std::logic_error);
    CHECK_THROWS_AS(static_cast<void>(rows.integer(0, 6)), std::logic_error);
    CHECK_THROWS_AS(static_cast<void>(rows.instant(0, 7)), std::logic_error);
    CHECK_THROWS_AS(static_cast<void>(rows.text(1, 0)), std::logic_error);
    CHECK_THROWS_AS(static_cast<void>(Rows().text(0, 0)), std::logic_error);
    CHECK(Rows().empty());
    CHECK(Rows().affected() == 0);
}
