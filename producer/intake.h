#pragma once

#include "infra/kafka/ports.h"
#include "schemas/event.h"
#include "schemas/result.h"

#include <string>
#include <vector>

namespace tidemark::producer {

/// Where an event that somebody brought whole belongs.
struct Destination {
    kafka::TopicIndex topic = 0;  ///< index into topics()
    std::string key;              ///< the entity's id as text
};

/// Checks a whole event as strictly as the edge does (every violation reported, pointing into the envelope): a type of
/// the catalogue, `data` of that type's schema without unknown members, a time at most kMaxAhead past `now`.
schemas::Result<Destination> find_destination(const schemas::Event& event, schemas::Timestamp now);

/// The topic of every stream, in the catalogue's order: what a producer is opened with.
std::vector<std::string> topics();

}  // namespace tidemark::producer
