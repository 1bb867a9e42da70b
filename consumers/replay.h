#pragma once

#include "consumers/generation.h"
#include "consumers/lanes.h"
#include "infra/base/clock.h"

#include <cstdint>
#include <functional>
#include <string>

namespace tidemark::consumers {

/// How far a replay is.
struct ReplayProgress {
    int generation = 0;
    std::int64_t records = 0;  ///< read since the log's start, by this replay or one that it goes on with
    std::int64_t target = 0;   ///< where the live generation stands
    std::int64_t parked = 0;
    std::int64_t read = 0;  ///< by this process
    double elapsed = 0;     ///< seconds, of this process
    double rate = 0;        ///< records per second, lately
    bool caught_up = false;
};

struct ReplayOptions {
    std::string owner_dsn;
    Lane::Options lane;  ///< of one partition; its `instance` and `partitions` are the replay's own
    std::function<bool()> cancelled = [] { return false; };
    /// Called several times a second.
    std::function<void(const ReplayProgress&)> on_progress = [](const ReplayProgress&) {};
};

/// Whether somebody replays the stream now. Throws pg::Error.
bool is_being_replayed(pg::Connection& connection, const Projection& projection);

/// Folds a stream's log from its start into a new generation beside the live one, with one reader for each partition,
/// until it has caught up with the live one, and leaves it to the consumers then. A replay that was stopped or killed
/// is gone on with. Returns how far it came: caught up, or cancelled. Throws Refused when another replay of the stream
/// is running, when a candidate waits to be promoted or dropped, when the generation is dropped under way, and when the
/// log is not the whole log any more; LogMismatch, kafka::Error, pg::Error.
ReplayProgress replay(const ReplayOptions& options, const Projection& projection, const base::Clock& clock);

}  // namespace tidemark::consumers
