#include "tests/unit/consumers/simulated_store.h"

#include <algorithm>
#include <chrono>
#include <string>

namespace tidemark::tests::simulated {

using consumers::Batch;
using consumers::Claim;
using consumers::Dedupe;

namespace {

Dedupe::Id id_of(const kafka::Record& record, const Entry& entry) {
    return {record.partition, std::string(1, entry.identity)};
}

}  // namespace

void Store::check(int number) {
    auto& partition = partitions_[number];
    const auto& row = partition.row;
    if (row.next > log_.end(number)) throw Violation(text("partition ", number, " is past the log's end"));
    for (; partition.checked < row.next; ++partition.checked) {
        const auto offset = partition.checked;
        if (log_.at(number, offset).record && partition.fates[static_cast<std::size_t>(offset)] == Fate::none) {
            throw Violation(
                text("record ", number, "/", offset, " is behind next_offset ", row.next, " and was never written"));
        }
    }
    if (row.applied + row.duplicates + row.parked + row.gaps != row.next) {
        throw Violation(text("partition ", number, ": ", row.applied, " applied + ", row.duplicates, " duplicates + ",
                             row.parked, " parked + ", row.gaps, " gaps are not ", row.next));
    }
    if (row.next > 0 && row.log_time != log_.at(number, row.next - 1).log_time) {
        throw Violation(
            text("partition ", number, ": log time at ", row.next, " is not the greatest append time up to there"));
    }
    if (row.as_of < partition.last_as_of) throw Violation(text("partition ", number, ": as_of went back"));
    partition.last_as_of = row.as_of;
    const auto missing = log_.next_record(number, row.next);
    if (missing < log_.end(number) && wall(log_.at(number, missing).appended) < row.as_of) {
        throw Violation(text("partition ", number, ": as_of is ", (row.as_of - kEpoch).count(), ", but record ",
                             missing, " of ", log_.at(number, missing).appended, " is not in"));
    }
}

bool Store::locked(Mask partitions, int tx) const {
    for (int partition = 0; partition < count_; ++partition) {
        const auto holder = row(partition).holder;
        if ((partitions & bit(partition)) != 0 && holder != -1 && holder != tx) return true;
    }
    return false;
}

std::vector<Claim> Store::claim(Mask partitions) {
    for (int partition = 0; partition < count_; ++partition) {
        if ((partitions & bit(partition)) != 0) partitions_[partition].row.epoch += 1;
    }
    return read(partitions);
}

std::vector<Claim> Store::read(Mask partitions) const {
    std::vector<Claim> rows;
    for (int partition = 0; partition < count_; ++partition) {
        const auto& it = row(partition);
        if ((partitions & bit(partition)) != 0) rows.push_back({partition, it.next, it.epoch, it.log_time});
    }
    return rows;
}

void Store::terminate_holders(Mask partitions) {
    for (int partition = 0; partition < count_; ++partition) {
        const auto holder = row(partition).holder;
        if ((partitions & bit(partition)) == 0 || holder == -1) continue;
        met(Met::owner_terminated);
        if (get(holder).phase == Phase::committing) {
            decide(holder);  // too late to stop it, or just in time
        } else {
            abort(holder);
        }
    }
}

int Store::begin() {
    auto free = std::find_if(transactions_.begin(), transactions_.end(),
                             [](const Transaction& tx) { return tx.phase == Phase::free; });
    if (free == transactions_.end()) free = transactions_.emplace(free);
    *free = {};
    free->phase = Phase::open;
    return static_cast<int>(free - transactions_.begin());
}

bool Store::advance(int tx, const Batch& batch) {
    bool mine = true;
    for (const auto& part : batch.parts) {
        const auto& it = row(part.partition);
        mine = mine && it.epoch == part.epoch;
        if (it.epoch == part.epoch && it.next != part.from && mutation_ != Mutation::drop_fence) {
            throw Violation(text("partition ", part.partition, ": a flush from ", part.from, " to ", part.next,
                                 " repeats what the same owner has moved to ", it.next));
        }
    }
    if (!mine && mutation_ != Mutation::drop_fence) return false;
    for (const auto& part : batch.parts)
        partitions_[part.partition].row.holder = tx;
    return true;
}

void Store::fold(int tx, const Batch& batch) {
    Dedupe dedupe;
    for (const auto& part : batch.parts) {
        for (const auto& record : part.records)
            load(dedupe, record);
    }
    auto& transaction = get(tx);
    for (const auto& part : batch.parts) {
        Write write{part.partition, part.next, part.gaps, part.log_time, part.as_of, {}};
        for (const auto& record : part.records) {
            write.log_time = std::max(write.log_time, record.append_time);
            write.fates.emplace_back(record.offset, judge(dedupe, record, write.log_time));
        }
        transaction.writes.push_back(std::move(write));
    }
    for (const auto& [id, first] : dedupe.to_store())
        transaction.firsts.emplace_back(*id, *first);
}

std::vector<std::pair<std::int32_t, Timestamp>> Store::log_times(int tx) const {
    std::vector<std::pair<std::int32_t, Timestamp>> times;
    for (const auto& write : get(tx).writes)
        times.emplace_back(write.partition, write.log_time);
    return times;
}

void Store::commit(int tx) {
    auto& transaction = get(tx);
    if (!transaction.offsets_moved) move_offsets(tx);
    for (const auto& write : transaction.writes)
        apply(write);
    for (const auto& [id, first] : transaction.firsts)
        partitions_[id.partition].first_sights[id.identity[0]] = first;
    met(Met::commit);
    for (const auto& write : transaction.writes)
        check(write.partition);
    end(tx);
}

void Store::move_offsets(int tx) {
    auto& transaction = get(tx);
    transaction.offsets_moved = true;
    for (const auto& write : transaction.writes) {
        auto& it = partitions_[write.partition].row;
        it.next = write.next;
        it.gaps += write.gaps;
        it.log_time = write.log_time;
        if (write.as_of) it.as_of = std::max(it.as_of, *write.as_of);
        for (const auto& [offset, fate] : write.fates) {
            auto& count = fate == Fate::applied ? it.applied : fate == Fate::duplicate ? it.duplicates : it.parked;
            count += 1;
        }
    }
}

void Store::apply(const Write& write) {
    auto& partition = partitions_[write.partition];
    partition.fates.resize(static_cast<std::size_t>(log_.end(write.partition)));
    for (const auto& [offset, fate] : write.fates) {
        const auto& entry = log_.at(write.partition, offset);
        auto& written = partition.fates[static_cast<std::size_t>(offset)];
        if (written != Fate::none) throw Violation(text("record ", write.partition, "/", offset, " was written twice"));
        if (fate != entry.fate) {
            throw Violation(text("record ", write.partition, "/", offset, " was judged ", to_string(fate),
                                 ", by the log alone it is ", to_string(entry.fate)));
        }
        written = fate;
        if (fate == Fate::applied) sums_[entry.key] += Log::delta(offset, write.partition);
    }
    // Rows that can decide nothing any more may be gone at any time.
    if (!random_.chance(20)) return;
    for (auto& first : partition.first_sights.items) {
        if (first && first->log_time < partition.row.log_time - std::chrono::hours(25)) first.reset();
    }
}

void Store::leave_undecided(int tx, Time at, bool commits) {
    auto& transaction = get(tx);
    transaction.phase = Phase::committing;
    transaction.ends_at = at;
    transaction.commits = commits;
}

void Store::forget(int tx) {
    auto& transaction = get(tx);
    transaction.client = false;
    if (transaction.phase == Phase::ended) transaction.phase = Phase::free;
}

Time Store::next_end() const {
    Time next = kNever;
    for (const auto& transaction : transactions_)
        next = std::min(next, transaction.ends_at);
    return next;
}

void Store::end_due(Time now) {
    for (int tx = 0; tx < static_cast<int>(transactions_.size()); ++tx) {
        if (get(tx).ends_at > now) continue;
        if (get(tx).phase == Phase::open) {
            met(Met::idle_transaction_ended);
            abort(tx);
        } else {
            decide(tx);
        }
    }
}

void Store::end(int tx) {
    for (auto& partition : partitions_.items) {
        if (partition.row.holder == tx) partition.row.holder = -1;
    }
    auto& transaction = get(tx);
    transaction.ends_at = kNever;
    transaction.phase = transaction.client ? Phase::ended : Phase::free;
}

void Store::decide(int tx) {
    if (get(tx).commits) {
        commit(tx);
    } else {
        abort(tx);
    }
}

void Store::load(Dedupe& dedupe, const kafka::Record& record) const {
    const auto& entry = log_.at(record.partition, record.offset);
    if (entry.identity == 0) return;
    const auto& known = partitions_[record.partition].first_sights[entry.identity];
    if (known && mutation_ != Mutation::dedupe_within_batch) {
        dedupe.loaded(id_of(record, entry), *known);
    } else {
        dedupe.loaded_none(id_of(record, entry));
    }
}

Fate Store::judge(Dedupe& dedupe, const kafka::Record& record, Timestamp log_time) const {
    const auto& entry = log_.at(record.partition, record.offset);
    if (entry.identity == 0) return entry.poison ? Fate::poison : Fate::applied;
    const auto id = id_of(record, entry);
    const std::string hash(1, static_cast<char>('0' + entry.data));
    auto fate = Fate::poison;
    if (!entry.poison) {
        switch (dedupe.decide(id, log_time, hash)) {
            case Dedupe::Verdict::first:
                fate = Fate::applied;
                break;
            case Dedupe::Verdict::duplicate:
                fate = Fate::duplicate;
                break;
            case Dedupe::Verdict::conflict:
                fate = Fate::conflict;
                break;
        }
    }
    const bool is_parked = fate == Fate::poison || fate == Fate::conflict;
    if (fate == Fate::applied || (is_parked && mutation_ == Mutation::parked_is_first_sight)) {
        dedupe.applied(id, {record.offset, log_time, hash});
    }
    return fate;
}

}  // namespace tidemark::tests::simulated
