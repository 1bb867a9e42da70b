#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace tidemark::schemas {

/// A place in a stream's log: the record at `offset` of `partition`.
struct Position {
    std::int32_t partition = 0;
    std::int64_t offset = 0;

    friend auto operator<=>(const Position&, const Position&) = default;
};

/// "2:1834": partition 2, offset 1834. One spelling only, so that a position has one text.
std::string to_string(const Position& position);
/// Nullopt: not such a text.
std::optional<Position> parse_position(std::string_view text);

/// The short form of a log's identity that tokens carry: the first 8 hex digits of the uuid's SHA-256.
std::string log_hash(std::string_view uuid);

/// One part of a token: "<stream>-<log hash>-<partition>-<offset>" of characters that need no escaping in a URL;
/// several are joined with ','. As a lower bound it means: everything up to and including this offset.
struct TokenPart {
    std::string stream;
    std::string log_hash;
    Position position;
};

/// One part; the caller writes the ',' between several.
void append_token(std::string& out, std::string_view stream, std::string_view log_hash, Position position);

/// All parts, in order. Nullopt when a part is malformed, or there are none or more than 1,024 of them.
std::optional<std::vector<TokenPart>> parse_token(std::string_view token);

}  // namespace tidemark::schemas
