#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace tidemark::schemas {

/// Microseconds since the Unix epoch, UTC: the precision that Postgres keeps and that every table and event has.
using Timestamp = std::chrono::sys_time<std::chrono::microseconds>;

/// Parses RFC 3339 and the Postgres habit: `T`, `t` or a space between date and time; `Z`, `z`, `+hh`, `+hhmm`,
/// `+hh:mm` (or `-`) at the end, always present; up to 9 fraction digits, those beyond 6 cut off. Nullopt for anything
/// else: no offset, `:60`, `24:00`, a day the month has not, a year outside 1..9999 (after the offset was applied,
/// too).
std::optional<Timestamp> parse_instant(std::string_view text) noexcept;

/// As parse_instant, but of a query or form value in which `+` was decoded as a space: "2022-09-12T10:00:00 02:00".
std::optional<Timestamp> parse_query_instant(std::string_view text) noexcept;

/// "2026-11-20T10:00:03.217Z": UTC, with 0, 3 or 6 fraction digits, whichever is the shortest that loses nothing.
/// Precondition: a year of 1..9999, as everything that parse_instant gives has.
std::string format_instant(Timestamp instant);

/// Appends format_instant's text without allocating beyond `out`'s growth.
void append_instant(std::string& out, Timestamp instant);

/// The start of the 10-second window, aligned to the epoch, that holds `instant`: start <= instant < start + 10 s.
inline constexpr std::chrono::seconds kWindowLength{10};
Timestamp window_start(Timestamp instant) noexcept;

}  // namespace tidemark::schemas
