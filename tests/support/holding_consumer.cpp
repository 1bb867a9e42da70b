// The consumer with a stream whose dead letters hold their entity. Linked with the program's own main, it stands in for
// the registry of the library.

#include "consumers/projections.h"
#include "consumers/vehicles.h"
#include "tests/support/holding_counters.h"

#include <array>

namespace tidemark::consumers {

std::span<const Projection* const> projections() {
    static const tests::HoldingCounters counters;
    static const VehicleProjection vehicles;
    static const std::array<const Projection*, 2> all{&counters, &vehicles};
    return all;
}

}  // namespace tidemark::consumers
