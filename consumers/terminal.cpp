#include "consumers/terminal.h"

#include "schemas/json.h"

#include <algorithm>
#include <string_view>

namespace tidemark::consumers {

std::string shown(const std::string& text, std::size_t most_bytes) {
    std::string cut = text;
    if (cut.size() > most_bytes) {
        auto end = most_bytes;
        while (end > 0 && (static_cast<unsigned char>(cut[end]) & 0xC0) == 0x80)
            --end;  // between characters
        cut = cut.substr(0, end) + "...";
    }
    std::string quoted;
    schemas::json::append_string(quoted, cut);
    std::string out;
    for (std::size_t i = 0; i < quoted.size(); ++i) {
        const auto byte = static_cast<unsigned char>(quoted[i]);
        const auto next = i + 1 < quoted.size() ? static_cast<unsigned char>(quoted[i + 1]) : 0U;
        // Controls beyond ASCII's first 32, which JSON leaves as they are.
        if (byte == 0x7F) {
            out += "\\u007f";
        } else if (byte == 0xC2 && next >= 0x80 && next < 0xA0) {
            constexpr std::string_view kHexDigits = "0123456789abcdef";
            out.append("\\u00").append(1, kHexDigits[next >> 4]).append(1, kHexDigits[next & 0xF]);
            ++i;
        } else {
            out += quoted[i];
        }
    }
    const bool is_plain =
        !cut.empty() && out == '"' + cut + '"' && cut != "null" && cut.find_first_of(" ,=") == std::string::npos;
    return is_plain ? cut : out;
}

std::string shown(const std::optional<std::string>& text) {
    return text ? shown(*text) : "null";
}

std::size_t width_of(std::string_view text) {
    return static_cast<std::size_t>(
        std::count_if(text.begin(), text.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xC0) != 0x80; }));
}

std::string padded(std::string text, std::size_t width) {
    const auto is = width_of(text);
    if (is < width) text.append(width - is, ' ');
    return text;
}

}  // namespace tidemark::consumers
