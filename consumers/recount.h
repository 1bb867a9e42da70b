#pragma once

#include "consumers/generation.h"
#include "consumers/ledger.h"
#include "infra/kafka/record.h"

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

namespace tidemark::consumers {

/// What is compared of a generation: the projection's tables, then those that every generation has.
std::vector<LedgerTable> compared_tables(const Projection& projection);

/// Counts a log again, record by record: which ones apply, repeat others or are dead letters, and what every table has
/// to hold because of it. Shared with the fold that writes the tables is only how events and decisions are read, an
/// entity's weights, a key's partition, and for which reasons a letter holds.
/// Keeps the identities of the last day of log time in memory, a bit for each imported line, and dead letters that are
/// open or hold their entity. One thread.
class Recount {
public:
    /// The share `pass` of `passes` of all rows, without windows that start before `windows_from`, in microseconds
    /// since the epoch; of no passes none at all, only what the partitions came to.
    Recount(const Target& target, std::size_t pass, std::size_t passes, std::int64_t windows_from);

    /// As compared_tables says.
    [[nodiscard]] const std::vector<LedgerTable>& tables() const noexcept { return tables_; }

    /// Only the database knows which values it refuses: dead letters of that reason are taken as given, and said before
    /// the record is taken.
    /// False: it was known.
    bool refused(schemas::Position position) { return refused_.insert(position).second; }
    /// The next record of its partition.
    void take(const kafka::Record& record);
    /// What a partition's records came to so far.
    struct Tally {
        std::int64_t log_time = 0;  ///< microseconds since the epoch
        std::int64_t records = 0;
        std::int64_t applied = 0;
        std::int64_t duplicates = 0;
        std::int64_t parked = 0;
        Digest digest = 0;
    };
    [[nodiscard]] const Tally& tally(std::size_t partition) const { return partitions_.at(partition).tally; }
    /// What it keeps of open dead letters, in every pass.
    [[nodiscard]] std::int64_t letter_bytes() const noexcept { return letter_bytes_; }
    /// About what it keeps beside rows: of open dead letters, the identities of a day, and imported lines.
    [[nodiscard]] std::int64_t remembered_bytes() const;
    /// What it keeps of imported lines, in every pass.
    [[nodiscard]] std::int64_t import_bytes() const noexcept { return import_bytes_; }
    /// How many rows it holds so far.
    [[nodiscard]] std::int64_t size() const noexcept { return rows_.size(); }
    /// All rows, each partition having been taken from its `first` offset up to its `next`. To be called once.
    LedgerRows& finish(const std::vector<std::int64_t>& first, const std::vector<std::int64_t>& next);

private:
    static constexpr std::int64_t kLinesOfRow = 8'192;
    struct Sight {
        std::int64_t offset = 0;
        std::int64_t log_time = 0;
        std::string data_hash;
    };
    struct Partition {
        Tally tally;
        std::unordered_map<std::string, Sight> sights;
        std::int64_t forgotten_at = 0;  // log time
        // By file and block of so many lines a bit for each, as the table has them.
        std::map<std::pair<std::string, std::int64_t>, std::string> lines;
    };
    struct Letter {
        std::optional<std::string> key;
        std::optional<std::string> value;
        std::int64_t append_time = 0;
        std::int64_t attempts = 1;
        bool is_quarantined = false;  // and holds its entity still
        bool holds = false;
        [[nodiscard]] std::int64_t bytes() const {
            return static_cast<std::int64_t>((key ? key->size() : 0) + (value ? value->size() : 0));
        }
    };
    enum class Verdict : std::uint8_t { applied, duplicate, parked };

    bool is_new_line(const kafka::Record& record, Partition& partition);
    Verdict judge(const kafka::Record& record, Partition& partition, std::string_view& reason);
    Verdict enter(const schemas::Event& event, const kafka::Record& record, std::int64_t known_at, Partition& partition,
                  std::string_view& reason);
    Verdict redrive(const schemas::Event& event, const kafka::Record& record, Partition& partition,
                    std::string_view& reason);
    Verdict discard(const schemas::Event& event, const kafka::Record& record, Partition& partition,
                    std::string_view& reason);
    void judge_again(schemas::Position letter, const std::optional<std::string>& edit, const kafka::Record& decision,
                     Partition& partition);
    bool is_first(schemas::Position position, const Letter& letter) const;
    bool is_held(const kafka::Record& record) const;
    bool has_entity(const kafka::Record& record);
    bool asks_to_hold(std::string_view reason) const;
    void hold(schemas::Position position, Letter& letter);
    void let_go(schemas::Position position, Letter& letter);
    void release(const std::string& key, const kafka::Record& decision, Partition& partition);
    static void forget(Partition& partition);
    void park(const kafka::Record& record, std::string_view reason);
    void close(schemas::Position position);
    void decide(schemas::Position letter, std::int64_t decided_at, std::string_view column, Value value);

    const Target& target_;
    std::unique_ptr<Ledger> ledger_;
    std::vector<LedgerTable> tables_;
    std::size_t common_;  // index of the first table that every generation has
    LedgerRows rows_;
    std::vector<Partition> partitions_;
    std::set<schemas::Position> refused_;
    std::map<schemas::Position, Letter> open_;
    // By partition and key the offsets of the letters that hold it.
    std::map<std::pair<std::int32_t, std::string>, std::set<std::int64_t>> held_;
    std::int64_t letter_bytes_ = 0;
    std::int64_t import_bytes_ = 0;
    schemas::json::Reader reader_;
};

}  // namespace tidemark::consumers
