#pragma once

#include "schemas/instant.h"

#include <cstdint>
#include <functional>
#include <optional>
#include <ostream>
#include <string>

namespace tidemark::producer {

struct ConvertReport {
    std::int64_t rows = 0;
    std::int64_t events = 0;
    std::int64_t refused = 0;  ///< rows: named on `errors`, with every violation; no event is written of them
    bool complete = false;
};

/// Where the data of a service that is to be replaced stand: CSV files with a header line, or a PostgreSQL database.
struct ConvertOptions {
    /// CSV: id,make,model,state and vehicleId,state,timestamp. Empty both: the tables vehicles and "stateLogs".
    std::string vehicles;
    std::string state_logs;
    /// CSV: key,value. Empty: `table`.
    std::string counters;
    std::string dsn;
    std::string table;
    std::string key_column = "key";
    std::string value_column = "value";
    /// When counters stood so; when a vehicle without any state log was registered.
    std::optional<schemas::Timestamp> time;
    schemas::Timestamp now{};  ///< what is far ahead of it is refused, as an import does
    std::function<bool()> cancelled = [] { return false; };
    /// Now and then, and in the end, with the report so far.
    std::function<void(const ConvertReport&)> on_progress = [](const ConvertReport&) {};
};

/// Writes a service's data as events, one per line, as an import takes them. The same data make the same bytes: ids are
/// derived, instants are the data's or `time`, a database's rows come sorted out of one snapshot. So an import of it
/// may be repeated. Both throw std::runtime_error for what is no such table, and when `out` fails; pg::Error.
///
/// Vehicles: a registration each, at its first state's time, then every state log. A vehicle's own state has to be what
/// its logs end with; of one that has none it is a state log of `time`. In memory: 100 bytes or so for each vehicle.
ConvertReport convert_vehicles(const ConvertOptions& options, std::ostream& out, std::ostream& errors);
/// Counters: one increment each, by its value.
ConvertReport convert_counters(const ConvertOptions& options, std::ostream& out, std::ostream& errors);

}  // namespace tidemark::producer
