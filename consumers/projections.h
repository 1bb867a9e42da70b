#pragma once

#include "consumers/projection.h"

#include <span>
#include <string_view>

namespace tidemark::consumers {

/// Every projection, in the catalogue's order: the one registry.
std::span<const Projection* const> projections();

/// Null when no stream of that name is folded.
inline const Projection* find_projection(std::string_view stream) {
    for (const auto* projection : projections()) {
        if (projection->stream().name == stream) return projection;
    }
    return nullptr;
}

}  // namespace tidemark::consumers
