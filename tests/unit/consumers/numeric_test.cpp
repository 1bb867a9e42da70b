#include "consumers/numeric.h"

#include <doctest/doctest.h>

#include <cstdint>
#include <limits>

using tidemark::consumers::Int128;
using tidemark::consumers::to_decimal;

namespace {

Int128 power_of_two(int exponent) {
    Int128 value = 1;
    for (int i = 0; i < exponent; ++i)
        value *= 2;
    return value;
}

}  // namespace

TEST_CASE("a sum is written as decimal digits, whatever its sign and size") {
    const Int128 largest = power_of_two(126) - 1 + power_of_two(126);
    const struct {
        Int128 value;
        const char* text;
    } cases[] = {
        {0, "0"},
        {1, "1"},
        {-1, "-1"},
        {9, "9"},
        {10, "10"},
        {-10, "-10"},
        {100'200'300, "100200300"},
        {std::numeric_limits<std::int64_t>::max(), "9223372036854775807"},
        {std::numeric_limits<std::int64_t>::min(), "-9223372036854775808"},
        {Int128{std::numeric_limits<std::int64_t>::max()} + 1, "9223372036854775808"},
        {Int128{std::numeric_limits<std::int64_t>::min()} - 1, "-9223372036854775809"},
        {power_of_two(100), "1267650600228229401496703205376"},
        {largest, "170141183460469231731687303715884105727"},
        {-largest - 1, "-170141183460469231731687303715884105728"},
    };
    for (const auto& [value, text] : cases) {
        CHECK(to_decimal(value) == text);
    }
}
