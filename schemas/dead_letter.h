#pragma once

#include "schemas/json.h"
#include "schemas/result.h"

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace tidemark::schemas::dead_letter {

/// An operator's decisions about a dead letter: events of any stream, on the partition of the letter, so that a replay
/// makes the same of it. A letter that is not open then is left alone.
inline constexpr std::string_view kRedriven = "tidemark.dead_letter.redriven.v1";
inline constexpr std::string_view kDiscarded = "tidemark.dead_letter.discarded.v1";

/// The key of their records, which says nothing: they stand where the letter does, whatever partition a key has.
inline constexpr std::string_view kKey = "decision";

inline bool is_decision(std::string_view type) noexcept {
    return type == kRedriven || type == kDiscarded;
}

inline constexpr std::size_t kMaxNoteBytes = 2'000;
inline constexpr std::size_t kMaxEditBytes = 1 << 20;

/// The longest edit that is sent: more would not fit into a record, with what JSON makes of it.
inline constexpr std::size_t kMaxSentEditBytes = 500'000;

/// So many times a letter is tried, the first included; then it is quarantined.
inline constexpr std::int64_t kMostAttempts = 6;

/// So many letters that wait behind another are judged at most when that one goes: what one decision may cost a flush.
inline constexpr std::int64_t kMostReleased = 1'000;

/// Judge the letter again, as if its record stood where this event stands.
struct Redriven {
    std::int64_t offset = 0;               ///< of the letter, in the partition of this event
    std::optional<std::string_view> edit;  ///< what to judge in place of its value; its key stays
    /// Only if it has been tried so often by then: so a decision that is sent twice is one attempt.
    std::optional<std::int64_t> attempts{};
};
/// Leave it be for good.
struct Discarded {
    std::int64_t offset = 0;
    std::optional<std::string_view> note;
};

/// Views point into the reader.
Result<Redriven> read_redriven(json::Value data, json::Unknown unknown, std::string_view at = "");
Result<Discarded> read_discarded(json::Value data, json::Unknown unknown, std::string_view at = "");

void append(std::string& out, const Redriven& event);
void append(std::string& out, const Discarded& event);

}  // namespace tidemark::schemas::dead_letter
