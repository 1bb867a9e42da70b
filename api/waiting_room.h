#pragma once

#include "api/progress.h"
#include "schemas/position.h"

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

namespace tidemark::api {

/// What a demanding read wants of its stream before it looks; all of it must hold.
struct Wish {
    std::vector<schemas::Position> at_least{};  ///< everything up to and including these is in the tables
    std::optional<schemas::Timestamp> as_of{};  ///< everything appended before this instant is
    bool everything_acknowledged = false;       ///< everything acknowledged before the read came is
    /// The positions of at_least need not be in the tables, only in the log; nothing else is wished for then.
    bool only_in_log = false;

    explicit operator bool() const noexcept { return !at_least.empty() || as_of || everything_acknowledged; }
};

enum class Waited : std::uint8_t {
    satisfied,
    stale,          ///< the deadline came first
    token_unknown,  ///< a position beyond the end of the log
    crowded,        ///< too many are waiting already
};

struct WaitOutcome {
    Waited waited = Waited::satisfied;
    /// When the tables hold the log up to an end that was asked for on the way: the instant before that question,
    /// before which everything appended is in.
    std::optional<schemas::Timestamp> as_of{};
};

/// Decides when waiting reads may go on, which streams' owners to ask for an early flush, and which logs' ends to ask
/// the broker for. Free of I/O, clocks and locks: its owner brings what happened, makes the calls it is handed back and
/// does not let two threads in at once.
///
/// A read joins only a question for the log's end that is sent after it arrived: an answer under way may be older than
/// a write that was acknowledged in between.
class WaitingRoom {
public:
    using Instant = std::chrono::steady_clock::time_point;
    using Done = std::function<void(const WaitOutcome&)>;
    /// A reader that goes on; called by the owner when it holds no lock.
    struct Call {
        Done done;
        WaitOutcome outcome;
    };
    using Calls = std::vector<Call>;

    /// Early flushes of one stream are at least this far apart, as each costs the owner a transaction.
    static constexpr std::chrono::milliseconds kPokeInterval{50};
    /// While asking does not help (the owner is gone, or starting), it gets rarer, down to once in this time.
    static constexpr std::chrono::milliseconds kPokeIntervalMax{1'000};

    WaitingRoom(std::size_t streams, std::size_t capacity);

    /// A read comes: goes on at once, or is parked until `deadline`.
    void admit(std::size_t stream, Wish wish, Instant deadline, Done done, Instant now, Calls& calls);
    /// The tables of a stream are this far.
    void advance(std::size_t stream, const Progress& progress, Instant now, Calls& calls);

    /// The next stream whose log's end must be asked for, now; the answer belongs to `question`.
    struct Question {
        std::size_t stream = 0;
        std::uint64_t number = 0;
    };
    std::optional<Question> take_question() noexcept;
    /// The answer: `ends` by partition, asked at `asked_at`.
    void answer(const Question& question, schemas::Timestamp asked_at, const std::vector<std::int64_t>& ends,
                Calls& calls);
    /// There was none: whoever still waits for it wants it asked again.
    void no_answer(const Question& question) noexcept;

    /// Streams whose owners should flush now; they count as asked.
    std::vector<std::size_t> due_pokes(Instant now);
    /// Lets go whose deadline has come.
    void expire(Instant now, Calls& calls);
    /// Lets all go, as stale: the program is about to leave.
    void release(Calls& calls);
    /// When due_pokes or expire will next have something to do; Instant::max() when never.
    [[nodiscard]] Instant next_due() const noexcept;

    [[nodiscard]] std::size_t waiting() const noexcept { return waiting_; }

private:
    struct Waiter {
        Wish wish;
        Instant deadline;
        Done done;
        std::uint64_t arrival;             // questions with a higher number were sent after it came
        std::vector<std::int64_t> ends{};  // of the first such question; empty before the answer
        std::optional<schemas::Timestamp> asked_at{};
    };
    struct Stream {
        std::optional<Progress> progress;
        std::vector<std::int64_t> known_ends;  // by partition: the log was at least this long
        std::vector<Waiter> waiters;
        bool question_wanted = false;
        Instant poke_due = Instant::max();
        Instant last_poke = Instant::min();
        std::chrono::milliseconds poke_interval = kPokeInterval;
    };

    [[nodiscard]] static bool has_reached_ends(const Waiter& waiter, const Stream& stream) noexcept;
    [[nodiscard]] static bool is_satisfied(const Waiter& waiter, const Stream& stream) noexcept;
    [[nodiscard]] static bool needs_ends(const Waiter& waiter, const Stream& stream) noexcept;
    [[nodiscard]] static bool wants_only_log(const Waiter& waiter) noexcept;
    [[nodiscard]] static bool is_beyond(const Waiter& waiter) noexcept;
    static void want_poke(Stream& stream, Instant now) noexcept;
    /// Takes every waiter of which `decide` gives an outcome out of the room.
    template <typename Decide>
    void let_go(Stream& stream, Calls& calls, Decide decide);

    std::vector<Stream> streams_;
    std::size_t capacity_;
    std::size_t waiting_ = 0;
    std::uint64_t questions_ = 0;  // taken so far
};

}  // namespace tidemark::api
