#include "schemas/catalogue.h"

#include "schemas/counters.h"
#include "schemas/vehicles.h"

#include <algorithm>
#include <array>

namespace tidemark::schemas {
namespace {

constexpr std::array kCounterTypes{counters::kIncremented};
constexpr std::array kVehicleTypes{vehicles::kRegistered, vehicles::kStateChanged};

constexpr std::array kStreams{
    Stream{"counters", "tidemark.counters", kCounterTypes},
    Stream{"vehicles", "tidemark.vehicles", kVehicleTypes},
};

template <typename Predicate>
const Stream* find(Predicate matches) noexcept {
    const auto found = std::find_if(kStreams.begin(), kStreams.end(), matches);
    return found == kStreams.end() ? nullptr : &*found;
}

}  // namespace

std::span<const Stream> catalogue() noexcept {
    return kStreams;
}

const Stream* find_stream(std::string_view name) noexcept {
    return find([name](const Stream& stream) { return stream.name == name; });
}

const Stream* stream_of_type(std::string_view type) noexcept {
    return find([type](const Stream& stream) {
        return std::find(stream.types.begin(), stream.types.end(), type) != stream.types.end();
    });
}

}  // namespace tidemark::schemas
