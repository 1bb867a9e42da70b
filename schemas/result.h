#pragma once

#include <string>
#include <utility>
#include <variant>
#include <vector>

namespace tidemark::schemas {

/// One thing that is wrong with a caller's input. `pointer` is an RFC 6901 JSON pointer into the body ("" = the whole
/// body), or the name of a query parameter or path segment prefixed by `?` or `/`.
struct Violation {
    std::string pointer;
    std::string detail;

    friend bool operator==(const Violation&, const Violation&) = default;
};

using Violations = std::vector<Violation>;

/// "/data/key: is missing; /data/value: is missing": for logs and dead letters.
inline std::string describe(const Violations& violations) {
    std::string text;
    for (const auto& violation : violations) {
        if (!text.empty()) text += "; ";
        if (!violation.pointer.empty()) text += violation.pointer + ": ";
        text += violation.detail;
    }
    return text;
}

/// A value, or every violation that kept it from being one. For a caller's input only: the world's failures are
/// exceptions.
template <typename T>
class [[nodiscard]] Result {
public:
    // NOLINTBEGIN(google-explicit-constructor): a function returns the one or the other as it is
    Result(T value) : held_(std::in_place_index<0>, std::move(value)) {}
    Result(Violations violations) : held_(std::in_place_index<1>, std::move(violations)) {}
    // NOLINTEND(google-explicit-constructor)

    [[nodiscard]] bool ok() const noexcept { return held_.index() == 0; }
    explicit operator bool() const noexcept { return ok(); }

    /// Precondition: ok().
    T& operator*() & { return std::get<0>(held_); }
    const T& operator*() const& { return std::get<0>(held_); }
    T&& operator*() && { return std::get<0>(std::move(held_)); }
    T* operator->() { return &std::get<0>(held_); }
    const T* operator->() const { return &std::get<0>(held_); }

    /// Precondition: !ok().
    [[nodiscard]] const Violations& violations() const { return std::get<1>(held_); }

private:
    std::variant<T, Violations> held_;
};

}  // namespace tidemark::schemas
