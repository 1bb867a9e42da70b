#pragma once

#include "consumers/generation.h"
#include "schemas/position.h"

#include <cstdint>
#include <optional>
#include <ostream>
#include <string>

namespace tidemark::consumers {

struct DeadLetterOptions {
    std::string dsn;                            ///< of the consumer role
    std::optional<schemas::Position> letter{};  ///< only this one, whole
    std::string reason{};                       ///< empty: any
    std::int64_t limit = 20;                    ///< of the newest
    bool json = false;
};

/// Writes what of a stream's log the live tables could not take: how many for which reason, and the newest ones; or one
/// of them whole. Bytes that are no UTF-8 are shown as base64. As JSON:
///   {"stream":"counters","generation":1,"count":2,
///    "reasons":[{"reason":"malformed","status":"open","count":2,"oldest":"...","newest":"..."}],
///    "letters":[{"letter":"0:17","appendTime":"...","reason":"malformed","detail":"...","status":"open","attempts":1,
///                "key":"abc","size":3}]}
/// One of them has no "size", but "topic", "headers":[{"name":"...","value":"..."}] and "value"; key, value and a
/// header's parts may be null, and have "Base64" behind their name where they are that.
/// Throws Refused when there is no such letter, pg::Error.
void write_dead_letters(const DeadLetterOptions& options, const Generation& live, std::ostream& out);

/// "2:1834": partition 2, offset 1834. Nullopt: no such thing.
std::optional<schemas::Position> parse_letter(const std::string& text);

}  // namespace tidemark::consumers
