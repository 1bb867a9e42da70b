#pragma once

#include <string>

namespace tidemark::consumers {

__extension__ using Int128 = __int128;

/// Decimal digits with a leading minus where there is one.
inline std::string to_decimal(Int128 value) {
    if (value == 0) return "0";
    const bool negative = value < 0;
    std::string digits;
    for (auto rest = value; rest != 0; rest /= 10) {
        const auto digit = static_cast<int>(rest % 10);
        digits.insert(digits.begin(), static_cast<char>('0' + (digit < 0 ? -digit : digit)));
    }
    return negative ? "-" + digits : digits;
}

}  // namespace tidemark::consumers
