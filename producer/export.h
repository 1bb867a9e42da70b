#pragma once

#include "infra/kafka/properties.h"
#include "schemas/catalogue.h"
#include "schemas/instant.h"

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <ostream>
#include <string>
#include <variant>

namespace tidemark::producer {

/// An end of a range of the log: an offset, or the first record appended at or after an instant. Nothing: the log's
/// own.
using Bound = std::variant<std::monostate, std::int64_t, schemas::Timestamp>;

struct ExportOptions {
    std::string brokers;
    std::map<std::string, std::string> properties;
    const schemas::Stream* stream = nullptr;
    std::optional<std::int32_t> partition;  ///< nullopt: all, one after the other
    Bound from;
    Bound to;  ///< the first that is left out
    /// Every record says where and when it stood, also the log's own: what is folded from them again is the same.
    bool positions = false;
    std::function<bool()> cancelled = [] { return false; };
    /// Records read so far and in all.
    std::function<void(std::int64_t, std::int64_t)> on_progress = [](std::int64_t, std::int64_t) {};
};

struct ExportReport {
    std::int64_t lines = 0;
    std::int64_t envelopes = 0;  ///< among them: records that are no event, or not under their entity's key; or all
    std::int64_t left_out = 0;   ///< records that are the log's own: its identity, decisions about dead letters
    bool complete = false;
};

/// Writes a stream's records up to where the log ends now, one line each (see producer/line.h), each partition's in
/// order. Throws kafka::Error; std::runtime_error when `out` fails, or there is no such topic or partition.
ExportReport export_events(const ExportOptions& options, std::ostream& out);

}  // namespace tidemark::producer
