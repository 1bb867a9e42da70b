#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>

namespace tidemark::consumers {

/// `text`, which is UTF-8, for a line on a terminal: what would move its cursor, or could be taken for something else,
/// stands in quotes as JSON has it; more than `most_bytes` is cut between characters.
std::string shown(const std::string& text, std::size_t most_bytes = 120);
/// Likewise; nullopt is "null".
std::string shown(const std::optional<std::string>& text);

/// How many columns it takes, as far as characters take one each.
std::size_t width_of(std::string_view text);
/// With blanks behind it up to that width.
std::string padded(std::string text, std::size_t width);

}  // namespace tidemark::consumers
