#include "consumers/projections.h"

#include "consumers/counters.h"
#include "consumers/vehicles.h"

#include <array>

namespace tidemark::consumers {

std::span<const Projection* const> projections() {
    static const CounterProjection counters;
    static const VehicleProjection vehicles;
    static const std::array<const Projection*, 2> all{&counters, &vehicles};
    return all;
}

const Projection* find_projection(std::string_view stream) {
    for (const auto* projection : projections()) {
        if (projection->stream().name == stream) return projection;
    }
    return nullptr;
}

}  // namespace tidemark::consumers
