#pragma once

#include "consumers/diff.h"
#include "consumers/generation.h"
#include "infra/kafka/ports.h"

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <string>

namespace tidemark::consumers {

struct VerifyProgress {
    std::int64_t records = 0;  ///< offsets read so far, in all passes
    std::int64_t total = 0;    ///< to be read; grows with the log
};

struct VerifyOptions {
    std::string dsn;
    std::string brokers;
    std::map<std::string, std::string> kafka_properties;
    std::size_t top = 10;  ///< samples of each table at most
    /// About how much of what the tables have to hold stands in memory at once. The log is read as often as it takes.
    std::int64_t memory = std::int64_t{1} << 30;
    /// More is refused; 0: any number.
    std::size_t most_passes = 0;
    std::chrono::milliseconds timeout{30'000};  ///< without a record that is still to be read
    std::function<bool()> cancelled = [] { return false; };
    std::function<void(const VerifyProgress&)> on_progress = [](const VerifyProgress&) {};
};

/// Reads the log of a generation of this program's again, from its start to where the tables are, counts it a second
/// way (recount.h) and compares every row. The tables go on meanwhile and nobody waits. No snapshot is held but to read
/// them, and for half a second, under load up to 20 s, while the last records before it are fetched. Throws Refused
/// when the log cannot be read as a whole or the generation is not this program's or was swapped away, kafka::Error,
/// pg::Error, std::runtime_error when cancelled or nothing comes for `timeout`.
Diff verify(const VerifyOptions& options, const Generation& generation);
/// The same with somebody's reader of all of the log's partitions, to which they have just been given.
Diff verify(const VerifyOptions& options, const Generation& generation, kafka::RecordSource& log);

}  // namespace tidemark::consumers
