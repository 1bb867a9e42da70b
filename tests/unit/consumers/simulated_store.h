#pragma once

#include "consumers/dedupe.h"
#include "consumers/stream_state.h"
#include "tests/unit/consumers/simulated_log.h"
#include "tests/unit/consumers/simulation.h"

#include <cstdint>
#include <deque>
#include <optional>
#include <utility>
#include <vector>

namespace tidemark::tests::simulated {

/// Tables behind transactions that lock the offset rows they move, judged with the product's own Dedupe. Checks after
/// every commit that the tables are what the log's fold says of a prefix.
class Store {
public:
    struct Row {
        std::int64_t next = 0;
        std::int64_t epoch = 0;
        Timestamp log_time{};
        Timestamp as_of{};
        std::int64_t applied = 0;
        std::int64_t duplicates = 0;
        std::int64_t parked = 0;
        std::int64_t gaps = 0;
        int holder = -1;  // the transaction that locks it
    };

    Store(const Log& log, int partitions, Mutation mutation, Random& random, Run& run)
        : log_(log), count_(partitions), mutation_(mutation), random_(random), run_(run) {}

    [[nodiscard]] const Row& row(int partition) const { return partitions_[partition].row; }
    [[nodiscard]] const Table<std::int64_t, kKeys>& sums() const { return sums_; }
    /// That the rows of a partition are what the log's fold says of [0, next_offset). Throws Violation.
    void check(int partition);

    /// Whether a row of these is locked by a transaction other than `tx`.
    [[nodiscard]] bool locked(Mask partitions, int tx = -1) const;
    /// A claim of these rows, which are not locked.
    std::vector<consumers::Claim> claim(Mask partitions);
    [[nodiscard]] std::vector<consumers::Claim> read(Mask partitions) const;
    /// Ends the sessions that hold locks on these rows.
    void terminate_holders(Mask partitions);

    // One flush, step by step. A transaction may end in between without its client's doing.
    int begin();
    [[nodiscard]] bool is_open(int tx) const { return get(tx).phase == Phase::open; }
    /// The fence, with the rows not locked: READ COMMITTED has the waiter look again at what is there by then.
    bool advance(int tx, const consumers::Batch& batch);
    /// Judges the batch's records with the first sights that are committed now.
    void fold(int tx, const consumers::Batch& batch);
    /// Log times after the transaction, by partition.
    [[nodiscard]] std::vector<std::pair<std::int32_t, Timestamp>> log_times(int tx) const;
    void commit(int tx);
    void abort(int tx) { end(tx); }
    /// The first half of a commit that is done in two, as a mutation wants it.
    void move_offsets(int tx);

    /// COMMIT is with the server, which will say yes or no by itself at some time.
    void leave_undecided(int tx, Time at, bool commits);
    /// With nothing heard of the client until `at` the server rolls back.
    void idle_until(int tx, Time at) { get(tx).ends_at = at; }
    /// The client will not ask about it any more.
    void forget(int tx);
    /// When the server next ends a transaction by itself.
    [[nodiscard]] Time next_end() const;
    void end_due(Time now);

private:
    enum class Phase : std::uint8_t { free, open, committing, ended };
    struct Write {
        int partition = 0;
        std::int64_t next = 0;
        std::int64_t gaps = 0;
        Timestamp log_time{};
        std::optional<Timestamp> as_of;
        std::vector<std::pair<std::int64_t, Fate>> fates;
    };
    struct Transaction {
        Phase phase = Phase::free;
        bool client = true;
        bool offsets_moved = false;
        bool commits = false;
        Time ends_at = kNever;
        std::vector<Write> writes;
        std::vector<std::pair<consumers::Dedupe::Id, consumers::Dedupe::First>> firsts;
    };
    struct Partition {
        Row row;
        std::vector<Fate> fates;  // by offset
        Table<std::optional<consumers::Dedupe::First>, kIdentities + 1> first_sights;
        std::int64_t checked = 0;
        Timestamp last_as_of{};
    };

    [[nodiscard]] const Transaction& get(int tx) const { return transactions_[static_cast<std::size_t>(tx)]; }
    Transaction& get(int tx) { return transactions_[static_cast<std::size_t>(tx)]; }
    void met(Met what) { run_.met[static_cast<std::size_t>(what)] += 1; }
    void apply(const Write& write);
    void end(int tx);
    void decide(int tx);
    void load(consumers::Dedupe& dedupe, const kafka::Record& record) const;
    Fate judge(consumers::Dedupe& dedupe, const kafka::Record& record, Timestamp log_time) const;

    const Log& log_;
    int count_;
    Mutation mutation_;
    Random& random_;
    Run& run_;
    Table<Partition, kMaxPartitions> partitions_;
    std::deque<Transaction> transactions_;
    Table<std::int64_t, kKeys> sums_;
};

}  // namespace tidemark::tests::simulated
