#pragma once

#include "schemas/json.h"
#include "schemas/result.h"

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace tidemark::schemas::vehicles {

inline constexpr std::string_view kRegistered = "tidemark.vehicle.registered.v1";
inline constexpr std::string_view kStateChanged = "tidemark.vehicle.state_changed.v1";
inline constexpr std::int64_t kMaxId = 9'007'199'254'740'991;
inline constexpr std::size_t kMaxNameBytes = 128;

enum class State : std::uint8_t { quoted, selling, sold };
std::string_view to_string(State state) noexcept;
std::optional<State> parse_state(std::string_view text) noexcept;

struct Registered {
    std::int64_t id = 0;     ///< 1..kMaxId
    std::string_view make;   ///< 1..128 bytes of UTF-8 without U+0000
    std::string_view model;  ///< likewise
};

struct StateChanged {
    std::int64_t id = 0;
    State state = State::quoted;
};

/// Of an event's `data`; violations name members below `at`, a JSON pointer. Views point into the reader.
Result<Registered> read_registered(json::Value data, json::Unknown unknown, std::string_view at = "");
Result<StateChanged> read_state_changed(json::Value data, json::Unknown unknown, std::string_view at = "");

/// A vehicle id as it stands in a path: digits without sign or leading zero, 1..kMaxId.
std::optional<std::int64_t> parse_id(std::string_view text) noexcept;

/// As `data` of an event, compact, members in the order above.
void append(std::string& out, const Registered& event);
void append(std::string& out, const StateChanged& event);

}  // namespace tidemark::schemas::vehicles
