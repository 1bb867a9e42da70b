#pragma once

#include <span>
#include <string_view>

namespace tidemark::schemas {

/// One stream: what every program must know of it before it knows any of its events.
struct Stream {
    std::string_view name;   ///< "counters": of the schema in Postgres, in routes, in metrics and tokens
    std::string_view topic;  ///< "tidemark.counters"
    std::span<const std::string_view> types;  ///< event types that its topic carries
};

/// Every stream, in the order in which they were added.
std::span<const Stream> catalogue() noexcept;

/// Null when there is none of that name.
const Stream* find_stream(std::string_view name) noexcept;

/// The stream whose topic carries events of that type; null when there is none.
const Stream* stream_of_type(std::string_view type) noexcept;

}  // namespace tidemark::schemas
