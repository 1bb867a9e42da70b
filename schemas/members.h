#pragma once

#include "schemas/json.h"
#include "schemas/result.h"

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

namespace tidemark::schemas {

/// Reads the members of one object, each named once, and gathers every violation on the way; what is missing or wrong
/// reads as an empty text or 0: use nothing before `violations` came back empty. Allocates nothing unless something is
/// wrong. Lives on the stack of the function that decodes one event or body; `at` is the object's own JSON pointer.
///
///     Members members(data, at);
///     const Incremented event{members.text("key", kMaxKeyBytes), members.integer("value", -kMaxValue, kMaxValue)};
///     if (auto found = members.violations(unknown); !found.empty()) return found;
///     return event;
class Members {
public:
    Members(json::Value object, std::string_view at);

    /// A required string of 1 to `max_bytes` bytes without U+0000 (libpqxx would cut a text parameter there).
    std::string_view text(std::string_view name, std::size_t max_bytes);

    /// Likewise, where it is there; a null one is not.
    std::optional<std::string_view> optional_text(std::string_view name, std::size_t max_bytes);

    /// A boolean, false where it is not there; a null one is not.
    bool flag(std::string_view name);

    /// A required integer within [min, max], written without fraction or exponent.
    std::int64_t integer(std::string_view name, std::int64_t min, std::int64_t max);

    /// Likewise, where it is there; a null one is not.
    std::optional<std::int64_t> optional_integer(std::string_view name, std::int64_t min, std::int64_t max);

    /// A required string that is one of `choices`: its index there.
    std::size_t one_of(std::string_view name, std::span<const std::string_view> choices);

    /// Everything that is wrong, members that nobody asked for included when they are to be refused. Call it last,
    /// once.
    Violations violations(json::Unknown unknown);

private:
    /// More than any event has; one more is a bug of the caller.
    static constexpr std::size_t kMaxNames = 16;

    json::Value find(std::string_view name);
    json::Value take(std::string_view name);
    std::int64_t read_integer(json::Value value, std::string_view name, std::int64_t min, std::int64_t max);
    std::string_view read_text(json::Value value, std::string_view name, std::size_t max_bytes);
    void violate(std::string_view name, std::string_view detail);

    json::Value object_;
    std::string_view at_;
    std::array<std::string_view, kMaxNames> asked_;
    std::size_t asked_count_ = 0;
    std::size_t found_count_ = 0;
    Violations violations_;
};

}  // namespace tidemark::schemas
