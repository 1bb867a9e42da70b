#pragma once

#include "schemas/json.h"
#include "schemas/result.h"

#include <cstdint>
#include <string>
#include <string_view>

namespace tidemark::schemas::counters {

inline constexpr std::string_view kIncremented = "tidemark.counter.incremented.v1";

/// Largest magnitude of one increment: what every JSON reader keeps exactly (2^53 - 1).
inline constexpr std::int64_t kMaxValue = 9'007'199'254'740'991;
inline constexpr std::size_t kMaxKeyBytes = 256;

struct Incremented {
    std::string_view key;    ///< 1..256 bytes of UTF-8 without U+0000; points into the reader
    std::int64_t value = 0;  ///< -kMaxValue..kMaxValue
};

/// Reads `data` of the event, or the body of POST /increment; `at` is the JSON pointer of `data` for the violations.
Result<Incremented> read(json::Value data, json::Unknown unknown, std::string_view at = "");

/// Appends {"key":...,"value":...}.
void append(std::string& out, const Incremented& event);

}  // namespace tidemark::schemas::counters
