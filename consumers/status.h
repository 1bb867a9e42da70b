#pragma once

#include <map>
#include <ostream>
#include <string>

namespace tidemark::consumers {

struct StatusOptions {
    std::string brokers;
    std::string dsn;  ///< of the consumer role
    std::map<std::string, std::string> kafka_properties;
    bool json = false;
};

/// Writes, per stream and partition: owner, next offset, the log's end, lag in records and seconds, generation, open
/// dead letters; one line each, or one JSON object. Returns true when every partition is caught up (nothing between the
/// tables and the log's end when asked). Throws pg::Error and kafka::Error.
bool write_status(const StatusOptions& options, std::ostream& out);

}  // namespace tidemark::consumers
