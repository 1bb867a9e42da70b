#include "schemas/position.h"

#include "schemas/json.h"

#include <sodium.h>

#include <algorithm>
#include <array>
#include <limits>
#include <utility>

namespace tidemark::schemas {
namespace {

constexpr std::size_t kHashDigits = 8;
constexpr std::size_t kMaxParts = 1'024;
constexpr std::size_t kMaxStreamBytes = 63;  // of a Postgres identifier: a stream's name is its schema's

bool is_stream_character(char c) noexcept {
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_';
}

bool is_hex_digit(char c) noexcept {
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f');
}

/// A decimal without sign or leading zero, so that one position has one text.
template <typename Integer>
bool read_decimal(std::string_view text, Integer& value) noexcept {
    const auto number = json::to_integer(text, 0, std::numeric_limits<Integer>::max());
    if (!number || text.front() == '-') return false;
    value = static_cast<Integer>(*number);
    return true;
}

/// What stands before the next `separator`, which is eaten too; all of the rest when there is none.
std::string_view cut(std::string_view& rest, char separator) noexcept {
    const auto at = std::min(rest.find(separator), rest.size());
    const auto head = rest.substr(0, at);
    rest.remove_prefix(std::min(at + 1, rest.size()));
    return head;
}

std::optional<TokenPart> parse_part(std::string_view text) {
    const auto stream = cut(text, '-');
    const auto hash = cut(text, '-');
    const auto partition = cut(text, '-');
    Position position;
    if (stream.empty() || stream.size() > kMaxStreamBytes ||
        !std::all_of(stream.begin(), stream.end(), is_stream_character)) {
        return std::nullopt;
    }
    if (hash.size() != kHashDigits || !std::all_of(hash.begin(), hash.end(), is_hex_digit)) return std::nullopt;
    if (!read_decimal(partition, position.partition) || !read_decimal(text, position.offset)) return std::nullopt;
    return TokenPart{std::string(stream), std::string(hash), position};
}

}  // namespace

std::string to_string(const Position& position) {
    return std::to_string(position.partition) + ':' + std::to_string(position.offset);
}

std::optional<Position> parse_position(std::string_view text) {
    const auto partition = cut(text, ':');
    Position position;
    if (!read_decimal(partition, position.partition) || !read_decimal(text, position.offset)) return std::nullopt;
    return position;
}

std::string log_hash(std::string_view uuid) {
    std::array<unsigned char, crypto_hash_sha256_BYTES> digest;
    crypto_hash_sha256(digest.data(), reinterpret_cast<const unsigned char*>(uuid.data()), uuid.size());
    std::array<char, kHashDigits + 1> hex;
    sodium_bin2hex(hex.data(), hex.size(), digest.data(), kHashDigits / 2);
    return {hex.data(), kHashDigits};
}

void append_token(std::string& out, std::string_view stream, std::string_view log_hash, Position position) {
    out.append(stream).append(1, '-').append(log_hash).append(1, '-');
    json::append_integer(out, position.partition);
    out.append(1, '-');
    json::append_integer(out, position.offset);
}

std::optional<std::vector<TokenPart>> parse_token(std::string_view token) {
    std::vector<TokenPart> parts;
    for (bool more = true; more;) {
        more = token.find(',') != std::string_view::npos;
        auto part = parse_part(cut(token, ','));
        if (!part || parts.size() == kMaxParts) return std::nullopt;
        parts.push_back(*std::move(part));
    }
    return parts;
}

}  // namespace tidemark::schemas
