#pragma once

#include <chrono>
#include <functional>
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

/// The same again and again, with the records folded per second since the last time, until it is cancelled;
/// `on_terminal` draws each over the one before. What fails meanwhile is said in its place, and asked again; in
/// JSON as an object with `error`.
void watch_status(const StatusOptions& options, std::chrono::milliseconds interval, bool on_terminal,
                  const std::function<bool(std::chrono::milliseconds)>& cancelled_within, std::ostream& out);

}  // namespace tidemark::consumers
