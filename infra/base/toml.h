#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

/// The part of TOML 1.0 that a settings file needs: comments and `key = value` with basic and literal strings,
/// booleans, decimal numbers. Sections, arrays, dates and multi-line strings are refused by name. (CLI11 2.1.2 reads
/// TOML too, but cuts a quoted text at `#` and knows no escapes: it would change a password without a word.)
namespace tidemark::base::toml {

struct Entry {
    std::string key;
    std::string value;  ///< decoded text of a string; `true` or `false`; a number as written, less its underscores
    std::size_t line = 0;
};

struct Document {
    std::vector<Entry> entries;           ///< in order; keys are distinct
    std::vector<std::string> violations;  ///< each begins with "line N: "; the lines concerned gave no entry
};

Document parse(std::string_view text);

/// `text` as a basic string, quotes included.
std::string quote(std::string_view text);

}  // namespace tidemark::base::toml
