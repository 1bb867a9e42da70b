#include "producer/intake.h"

#include "schemas/catalogue.h"
#include "schemas/counters.h"
#include "schemas/vehicles.h"

namespace tidemark::producer {

using schemas::Result;
using schemas::Violations;

namespace {

constexpr auto kRefuse = schemas::json::Unknown::refuse;

// The entity that an event is about, as text; or what is wrong with its data.
Result<std::string> read_entity(const schemas::Event& event) {
    if (event.type == schemas::counters::kIncremented) {
        auto read = schemas::counters::read(event.data, kRefuse, "/data");
        if (!read) return read.violations();
        return std::string(read->key);
    }
    if (event.type == schemas::vehicles::kRegistered) {
        auto read = schemas::vehicles::read_registered(event.data, kRefuse, "/data");
        if (!read) return read.violations();
        return std::to_string(read->id);
    }
    if (event.type == schemas::vehicles::kStateChanged) {
        auto read = schemas::vehicles::read_state_changed(event.data, kRefuse, "/data");
        if (!read) return read.violations();
        return std::to_string(read->id);
    }
    return Violations{{"/type", "is not a type that is taken here"}};
}

}  // namespace

Result<Destination> find_destination(const schemas::Event& event, schemas::Timestamp now) {
    Violations violations;
    auto entity = read_entity(event);
    if (!entity) violations = entity.violations();
    if (event.time && *event.time - now > schemas::kMaxAhead) {
        violations.push_back({"/time", "is more than one hour ahead"});
    }
    if (!violations.empty()) return violations;
    const auto* stream = schemas::stream_of_type(event.type);
    const auto index = stream - schemas::catalogue().data();
    return Destination{static_cast<kafka::TopicIndex>(index), std::move(*entity)};
}

std::vector<std::string> topics() {
    std::vector<std::string> names;
    for (const auto& stream : schemas::catalogue())
        names.emplace_back(stream.topic);
    return names;
}

}  // namespace tidemark::producer
