#pragma once

#include "consumers/projection.h"

#include <span>

namespace tidemark::consumers {

/// Every projection, in the catalogue's order: the one registry.
std::span<const Projection* const> projections();

/// Null when no stream of that name is folded.
const Projection* find_projection(std::string_view stream);

}  // namespace tidemark::consumers
