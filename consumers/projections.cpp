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

}  // namespace tidemark::consumers
