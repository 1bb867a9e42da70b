#pragma once

#include "infra/kafka/record.h"

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <variant>
#include <vector>

namespace tidemark::kafka {

struct Nothing {};
/// The group gave this member these partitions (all it has: assignment is eager). Answer with RecordSource::assign.
struct Assigned {
    std::vector<std::int32_t> partitions;
};
/// The group took these partitions (all of them). Answer with RecordSource::unassign. `lost`: the session is over and
/// another member may already own them, so nothing of theirs may be written any more.
struct Revoked {
    std::vector<std::int32_t> partitions;
    bool lost = false;
};
/// Everything below `offset` of the partition has been returned, gaps included.
struct EndOfPartition {
    std::int32_t partition = 0;
    std::int64_t offset = 0;
};
using Polled = std::variant<Nothing, Record, EndOfPartition, Assigned, Revoked>;

/// One stream's log, read as a member of a consumer group. Everything, rebalances included, comes out of `poll`; one
/// thread owns the source. Reads are uncommitted: a foreign open transaction hides nothing. Offsets rise within a
/// partition and may have gaps. Throws kafka::Error; a fatal one means that the source must be given up.
class RecordSource {
public:
    virtual ~RecordSource() = default;
    /// The next thing that happened, or Nothing after `timeout`. After Assigned or Revoked nothing else comes of those
    /// partitions until it has been answered.
    virtual Polled poll(std::chrono::milliseconds timeout) = 0;
    /// Reads on from exactly these offsets, forgetting whatever was fetched before. Also the way to go back after a
    /// fence: assign again.
    virtual void assign(std::span<const Start> starts) = 0;
    virtual void unassign() = 0;
    /// While paused `poll` keeps the membership alive and returns no records.
    virtual void pause() = 0;
    virtual void resume() = 0;
    /// Tells the broker where this group stands, without waiting: only for tools that show lag; nothing reads it back.
    virtual void report_progress(std::span<const Start> next) noexcept = 0;
};

enum class Persistence : std::uint8_t {
    persisted,           ///< every in-sync replica has it
    not_persisted,       ///< it is in no log and never will be
    possibly_persisted,  ///< it was, or may have been, on the wire when it failed
};

/// What became of one produced record.
struct Delivery {
    std::uint64_t tag = 0;
    Persistence persistence = Persistence::not_persisted;
    std::int32_t partition = -1;
    /// Where it stands. For a record that the broker had already (a duplicate sequence number) a later offset, so that
    /// "up to here" still includes it. -1 unless persisted.
    std::int64_t offset = -1;
    int error = 0;  ///< the client library's code; 0: none
};

enum class Enqueued : std::uint8_t { ok, full, unavailable, too_large };

using TopicIndex = std::uint32_t;

/// Of one record: what tracing and lineage need several times over.
inline constexpr std::size_t kMaxHeaders = 64;

/// One record on its way to the log. The views need only live until `produce` returns.
struct NewRecord {
    TopicIndex topic = 0;
    std::string_view key;  ///< never empty: it names the partition, unless `partition` does
    std::string_view value;
    std::span<const Header> headers{};  ///< at most kMaxHeaders
    std::uint64_t tag = 0;              ///< comes back in its Delivery
    /// A record that has not been handed to the client by then comes back as not_persisted.
    std::chrono::steady_clock::time_point give_up_at = std::chrono::steady_clock::time_point::max();
    /// Exactly this one, which the topic has: for a record that belongs to another one's place. Nullopt: the key's.
    std::optional<std::int32_t> partition{};
};

/// Where records go.
class RecordSink {
public:
    /// Told on the sink's own thread. Neither call may block or throw.
    class Listener {
    public:
        virtual ~Listener() = default;
        virtual void on_deliveries(std::span<const Delivery> deliveries) noexcept = 0;
        /// At least every 20 ms while records are outstanding, every 200 ms otherwise.
        virtual void on_tick() noexcept = 0;
    };

    virtual ~RecordSink() = default;
    /// Any thread, never blocks. Exactly one Delivery with the record's tag follows each `ok`, also when the producer
    /// behind has to be replaced; none follows otherwise.
    virtual Enqueued produce(const NewRecord& record) noexcept = 0;
    /// Whether a broker answered lately; while false, `produce` refuses at once.
    [[nodiscard]] virtual bool available() const noexcept = 0;
};

}  // namespace tidemark::kafka
