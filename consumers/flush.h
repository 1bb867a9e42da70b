#pragma once

#include "consumers/generation.h"
#include "consumers/offset_store.h"
#include "consumers/projection.h"
#include "consumers/stream_state.h"

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace tidemark::consumers {

/// What one flush did, for the log line and the metrics.
struct FlushReport {
    Flushed outcome = Flushed::failed;
    std::string error;  ///< why it is not committed
    bool connection_lost = false;
    std::size_t records = 0;
    std::size_t entities = 0;
    std::size_t rows = 0;
    std::int64_t applied = 0;
    std::int64_t duplicates = 0;
    std::int64_t gaps = 0;
    std::int64_t late = 0;                            ///< applied after their windows had been dropped
    std::map<std::string_view, std::int64_t> parked;  ///< by reason
    std::map<std::int32_t, Timestamp> log_times;      ///< by partition, after it
    Timestamp oldest{};                               ///< append time of the oldest record in it; epoch without records
};

/// Writes one batch as one transaction. In this order, and this holds if the next step fails:
///   1. fence: the offset rows move on iff they are still ours    -> nothing is visible; 0 rows: another owns them
///   2. load the first sights of the batch's identities, which imported lines have come, the letters that decisions are
///      about, and which entities dead letters hold, of a stream that asks for it
///   3. decide every record in offset order, folding in memory    -> pure: the same records again say the same
///   4. write the fold, dead letters, first sights, imported lines, tallies                  -> still invisible
///   5. notify readers, commit                                    -> all of it or none; broken under way: in doubt
/// A value that the database refuses is located by bisection, and then the whole batch is done again with that record
/// parked, so that its neighbours are judged as if it had never been there.
/// Throws pg::Error of Failure::bug (statement, rights or schema are wrong): the consumer must stop, not park
/// everything.
FlushReport flush(pg::Connection& connection, const Target& target, const OffsetStore& store, const Batch& batch);

}  // namespace tidemark::consumers
