#pragma once

#include "consumers/digest.h"
#include "infra/postgres/connection.h"
#include "schemas/catalogue.h"
#include "schemas/event.h"
#include "schemas/position.h"

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace tidemark::consumers {

/// Why a record became a dead letter. Reasons are API: stable, never reworded.
namespace reason {
inline constexpr std::string_view kTombstone = "tombstone";             ///< no value
inline constexpr std::string_view kMalformed = "malformed";             ///< not an event at all
inline constexpr std::string_view kUnknownType = "unknown_type";        ///< an event, but none of this stream's
inline constexpr std::string_view kInvalidData = "invalid_data";        ///< `data` breaks the type's schema
inline constexpr std::string_view kKeyMismatch = "key_mismatch";        ///< the record's key is not the entity
inline constexpr std::string_view kWrongPartition = "wrong_partition";  ///< not where its key belongs
inline constexpr std::string_view kFromTheFuture =
    "from_the_future";  ///< its time is over an hour past its append time
inline constexpr std::string_view kIdempotencyConflict =
    "idempotency_conflict";  ///< same identity, other data; the first won
inline constexpr std::string_view kUnexpectedIdentity =
    "unexpected_identity";  ///< a log.created that is not this log's first record
inline constexpr std::string_view kRefusedByDatabase = "refused_by_database";  ///< its values were refused on writing
inline constexpr std::string_view kBehindDeadLetter = "behind_dead_letter";  ///< an earlier record of its entity waits
}  // namespace reason

struct Parked {
    std::string_view reason;
    std::string detail;
};

/// One event with what the log knows of it. Views are valid during the call that gets it.
struct LoggedEvent {
    const schemas::Event& event;
    schemas::Position position;
    schemas::Timestamp occurred_at;  ///< the event's time, or its append time when it has none
    schemas::Timestamp log_time;     ///< running maximum of append times up to here
};

/// Where the windows of a generation begin, by partition: what retention has dropped, or is about to, starts earlier.
class WindowsFrom {
public:
    void begin(std::int32_t partition, schemas::Timestamp from) { from_[partition] = from; }
    [[nodiscard]] bool has_dropped(std::int32_t partition, schemas::Timestamp window_start) const {
        const auto found = from_.find(partition);
        return found != from_.end() && window_start < found->second;
    }

private:
    std::map<std::int32_t, schemas::Timestamp> from_;  // a partition that is not in it keeps all
};

/// What Fold::write did.
struct Written {
    std::size_t rows = 0;
    std::int64_t late = 0;  ///< events that came after their window had been dropped
};

/// One flush's worth of one stream, folded in memory and then written once. Made by the projection, used by one thread,
/// thrown away after the flush, whatever became of it.
class Fold {
public:
    virtual ~Fold() = default;
    /// Decodes the event's data; nothing is folded yet. Returns why it cannot be, or sets `entity` to what the record's
    /// key has to be (valid until the next call).
    virtual std::optional<Parked> read(const LoggedEvent& event, std::string_view& entity) = 0;
    /// Folds in the event read last.
    virtual void keep() = 0;
    /// Writes what was kept, one sorted statement per table, but for windows that were dropped. Throws pg::Error.
    virtual Written write(pg::Transaction& tx, const WindowsFrom& windows_from) = 0;
    /// What the kept events of a partition add to its digest: the sum over totals or history of their changes, as the
    /// stream's view `audit` takes it from the tables. After write().
    [[nodiscard]] virtual Digest digest(std::int32_t partition) const = 0;
    /// Distinct entities kept so far.
    [[nodiscard]] virtual std::size_t entities() const noexcept = 0;
};

class Ledger;

/// How a stream's log becomes tables: a deterministic function of the log's prefix. No wall clock, no randomness, no
/// I/O but the given transaction; neither the cut of batches nor the interleaving of partitions may show. Stateless and
/// shared by threads. Adding a stream means one of these and a line in projections.cpp.
class Projection {
public:
    virtual ~Projection() = default;
    [[nodiscard]] virtual const schemas::Stream& stream() const noexcept = 0;
    /// Version and every setting that changes the fold. A consumer writes only generations of its own fingerprint.
    [[nodiscard]] virtual std::string fingerprint() const = 0;
    /// The script that makes its tables and views, in whatever schema comes first in the search path.
    [[nodiscard]] virtual std::string_view sql() const = 0;
    /// Whether an event is only valid in the partition of its key, because its order matters. Deduplicated ones always
    /// are.
    [[nodiscard]] virtual bool needs_home_partition() const noexcept = 0;
    [[nodiscard]] virtual std::unique_ptr<Fold> begin() const = 0;
    /// The same function of the log, written a second time (ledger.h): what `verify` holds the tables against.
    [[nodiscard]] virtual std::unique_ptr<Ledger> ledger() const = 0;
    /// Reasons for which a dead letter holds its entity, i.e. its record's key within the partition: what comes later
    /// under that key is parked behind it, unread, until it is redriven or discarded; then they are judged in order,
    /// all at the position of that decision: such a projection keys nothing by position alone, and where two events are
    /// equally new the one kept later is. None: nothing waits, and nothing is asked of the database for it.
    [[nodiscard]] virtual std::span<const std::string_view> holding_reasons() const noexcept { return {}; }
    /// Deletes rows of windows of the partitions $1 (integer[]) that start before $2 (timestamptz), $3 (bigint) of them
    /// at most. Null: a stream without windows.
    [[nodiscard]] virtual const pg::Statement* drop_windows() const noexcept { return nullptr; }
};

}  // namespace tidemark::consumers
