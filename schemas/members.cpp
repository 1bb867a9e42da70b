#include "schemas/members.h"

#include <algorithm>
#include <cassert>
#include <optional>
#include <string>
#include <utility>

namespace tidemark::schemas {

Members::Members(json::Value object, std::string_view at) : object_(object), at_(at) {
    if (object_.is(json::Kind::object)) return;
    violations_.push_back({std::string(at_), object_ ? "must be an object" : "is required"});
    object_ = {};
}

json::Value Members::find(std::string_view name) {
    assert(asked_count_ < kMaxNames);
    asked_[asked_count_++] = name;
    const auto value = object_.find(name);
    if (value) ++found_count_;
    return value;
}

json::Value Members::take(std::string_view name) {
    const auto value = find(name);
    if (!value && object_) violate(name, "is required");
    return value;
}

std::string_view Members::text(std::string_view name, std::size_t max_bytes) {
    const auto value = take(name);
    return value ? read_text(value, name, max_bytes) : std::string_view{};
}

std::optional<std::string_view> Members::optional_text(std::string_view name, std::size_t max_bytes) {
    const auto value = find(name);
    if (!value || value.is(json::Kind::null)) return std::nullopt;
    return read_text(value, name, max_bytes);
}

std::string_view Members::read_text(json::Value value, std::string_view name, std::size_t max_bytes) {
    const auto fits = [max_bytes](std::string_view text) { return !text.empty() && text.size() <= max_bytes; };
    if (!value.is(json::Kind::string) || !fits(value.text())) {
        violate(name, "must be a string of 1 to " + std::to_string(max_bytes) + " bytes");
        return {};
    }
    if (value.text().find('\0') != std::string_view::npos) {
        violate(name, "must not hold U+0000");
        return {};
    }
    return value.text();
}

bool Members::flag(std::string_view name) {
    const auto value = find(name);
    if (!value || value.is(json::Kind::null)) return false;
    if (!value.is(json::Kind::boolean)) violate(name, "must be true or false");
    return value.is(json::Kind::boolean) && value.text() == "true";
}

std::int64_t Members::integer(std::string_view name, std::int64_t min, std::int64_t max) {
    const auto value = take(name);
    return value ? read_integer(value, name, min, max) : 0;
}

std::optional<std::int64_t> Members::optional_integer(std::string_view name, std::int64_t min, std::int64_t max) {
    const auto value = find(name);
    if (!value || value.is(json::Kind::null)) return std::nullopt;
    return read_integer(value, name, min, max);
}

std::int64_t Members::read_integer(json::Value value, std::string_view name, std::int64_t min, std::int64_t max) {
    const auto number = value.is(json::Kind::number) ? json::to_integer(value.text(), min, max) : std::nullopt;
    if (!number) {
        violate(name, "must be an integer from " + std::to_string(min) + " to " + std::to_string(max) +
                          ", written without fraction or exponent");
    }
    return number.value_or(0);
}

std::size_t Members::one_of(std::string_view name, std::span<const std::string_view> choices) {
    const auto value = take(name);
    if (!value) return 0;
    const auto chosen =
        value.is(json::Kind::string) ? std::find(choices.begin(), choices.end(), value.text()) : choices.end();
    if (chosen != choices.end()) return static_cast<std::size_t>(chosen - choices.begin());
    std::string detail = "must be one of";
    for (const auto choice : choices)
        detail.append(choice == choices.front() ? " " : ", ").append(choice);
    violate(name, detail);
    return 0;
}

void Members::violate(std::string_view name, std::string_view detail) {
    violations_.push_back({json::child_pointer(at_, name), std::string(detail)});
}

Violations Members::violations(json::Unknown unknown) {
    if (unknown == json::Unknown::ignore || !object_ || found_count_ == object_.size()) return std::move(violations_);
    const auto asked_end = asked_.begin() + static_cast<std::ptrdiff_t>(asked_count_);
    for (const auto member : object_) {
        if (violations_.size() == json::kMaxViolations) break;
        if (std::find(asked_.begin(), asked_end, member.name()) == asked_end) {
            violations_.push_back({json::child_pointer(at_, member.name()), "unknown member"});
        }
    }
    return std::move(violations_);
}

}  // namespace tidemark::schemas
