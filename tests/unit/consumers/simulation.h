#pragma once

#include <array>
#include <cstdint>
#include <iosfwd>
#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace tidemark::tests {

/// A rule broken on purpose, in the harness around the state machine. Each has to be caught, or the simulation shows
/// nothing.
enum class Mutation : std::uint8_t {
    none,
    drop_fence,                 ///< a flush is taken whoever owns the rows
    offsets_before_apply,       ///< offsets are committed first, what they stand for in a transaction after it
    keep_buffer_on_loss,        ///< partitions that are lost are treated like revoked ones
    in_doubt_is_committed,      ///< without reading the rows
    in_doubt_is_not_committed,  ///< likewise: done again blindly
    dedupe_within_batch,        ///< first sights of earlier flushes are not loaded
    parked_is_first_sight,      ///< an identity is recorded though its event was parked
    as_of_of_newest_end,        ///< the newest answer about the log's end is claimed before its records are in
    forget_log_time,            ///< the running maximum of append times starts again with every claim's
    stale_end_of_partition,     ///< the source tells, after an assignment, of an end that it reached before it
    follower_ignores_leader,    ///< it is not told how far the live generation is
    look_without_place,         ///< it takes for the live generation what has its name, be it itself since a swap
    moved_goes_on_blindly,      ///< after a swap the buffer is written wherever the tables stand
};

struct MutationName {
    Mutation mutation;
    std::string_view name;
};
/// Every mutation but `none`.
std::span<const MutationName> mutations() noexcept;

/// What a run met. A fault that never happens proves nothing, so each has to be seen.
enum class Met : std::uint8_t {
    commit,
    instant_alone,  ///< a flush without records, for its as-of instant
    failed_flush,
    fenced_flush,
    zombie_refused,  ///< fenced after a freeze, with records of before it
    in_doubt_committed,
    in_doubt_not_committed,
    in_doubt_undecided,  ///< still under way when the rows were first to be read
    crash_in_transaction,
    crash_in_commit,
    idle_transaction_ended,  ///< by the server, while its client was frozen or dead
    owner_terminated,        ///< by the next claimer, who met its locks
    claim_answer_lost,
    foreign_claim,  ///< as promote does: all epochs + 1
    outage,
    lost_with_records,
    revoked_with_records,
    two_owners,  ///< the group gave a partition away before its last owner answered
    stopped_with_records,
    duplicate,
    conflict,
    poison,
    beyond_horizon,  ///< a repeat so late that it is a first sight again
    gap,
    redelivered,      ///< a record that came before comes again
    clock_back,       ///< an append time before the one of the record before
    follower_waited,  ///< with records that the live generation does not have
    swapped,
    standstill_late,     ///< given up: the follower did not come up in time
    moved_with_records,  ///< a swap heard of with records in the buffer
    moved_in_doubt,
    narrowed,  ///< what its leader does not have took the room of what it has
    went_on,   ///< the buffer was kept over a swap
};
inline constexpr std::size_t kMetKinds = 33;
std::string_view to_string(Met met) noexcept;

struct Run {
    std::optional<std::string> violation;  ///< the first rule broken, and when; no value when all held
    std::array<std::uint64_t, kMetKinds> met{};
    std::uint64_t steps = 0;
};

/// One run of two or three consumers, each a real StreamState with real Dedupe decisions, over a log that grows, a
/// group that gives and takes, and a database that fails, stalls, answers in doubt and remembers row locks; consumers
/// freeze, crash, leave and come back. In half of the runs one or two more fold a generation that follows the live one,
/// is never ahead of it, and is swapped with it under way. Time is simulated. After the faults everything has to drain,
/// and all tables have to say what a plain fold of the log says. A function of its arguments alone. `trace`: where to
/// tell what happens; may be null.
Run simulate(std::uint64_t seed, Mutation mutation = Mutation::none, std::ostream* trace = nullptr);

}  // namespace tidemark::tests
