#include "schemas/imported_line.h"

#include <algorithm>
#include <charconv>

namespace tidemark::schemas {

namespace {

constexpr std::size_t kFileCharacters = 22;

bool is_base64url(char c) {
    return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-' || c == '_';
}

}  // namespace

std::optional<ImportedLine> read_imported_line(std::string_view header) {
    if (header.size() < kFileCharacters + 2 || header[kFileCharacters] != ':') return std::nullopt;
    const auto file = header.substr(0, kFileCharacters);
    const auto digits = header.substr(kFileCharacters + 1);
    if (!std::all_of(file.begin(), file.end(), is_base64url)) return std::nullopt;
    // One way to write each: neither a sign nor a leading zero.
    if (digits.front() < '1' || digits.front() > '9') return std::nullopt;
    std::int64_t number = 0;
    const auto* end = digits.data() + digits.size();
    const auto read = std::from_chars(digits.data(), end, number);
    if (read.ec != std::errc{} || read.ptr != end) return std::nullopt;
    return ImportedLine{file, number};
}

void append_imported_line(std::string& out, const ImportedLine& line) {
    out.append(line.file).append(1, ':').append(std::to_string(line.number));
}

}  // namespace tidemark::schemas
