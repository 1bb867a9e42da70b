#pragma once

#include <array>
#include <cstddef>
#include <string_view>

namespace tidemark::http {

/// A set of bytes, made at compile time: `contains` costs one load.
class ByteSet {
public:
    template <typename Predicate>
    explicit constexpr ByteSet(Predicate belongs) {
        for (std::size_t i = 0; i < members_.size(); ++i)
            members_[i] = belongs(static_cast<char>(i));
    }

    [[nodiscard]] constexpr bool contains(char c) const noexcept { return members_[static_cast<unsigned char>(c)]; }
    [[nodiscard]] constexpr bool contains_all(std::string_view text) const noexcept {
        for (const char c : text) {
            if (!contains(c)) return false;
        }
        return true;
    }

private:
    std::array<bool, 256> members_{};
};

/// HTTP compares names and tokens without regard to ASCII case, whatever the process's locale says.
constexpr char to_lower(char c) noexcept {
    return c >= 'A' && c <= 'Z' ? static_cast<char>(c + ('a' - 'A')) : c;
}

constexpr bool equal_ignoring_case(std::string_view a, std::string_view b) noexcept {
    if (a == b) return true;  // the common spelling, and a memcmp
    if (a.size() != b.size()) return false;
    for (std::size_t i = 0; i < a.size(); ++i) {
        if (to_lower(a[i]) != to_lower(b[i])) return false;
    }
    return true;
}

}  // namespace tidemark::http
