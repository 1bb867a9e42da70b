#include "consumers/recount.h"

#include "infra/kafka/partitioner.h"
#include "schemas/event.h"

#include <sodium.h>

#include <algorithm>
#include <array>

namespace tidemark::consumers {

namespace {

using Kind = LedgerTable::Kind;

// The common tables, as compared_tables adds them.
enum : std::size_t { kDeadLetters, kDedupe, kOffsets, kCommon };

std::string sha256(std::string_view bytes) {
    std::array<unsigned char, crypto_hash_sha256_BYTES> digest{};
    crypto_hash_sha256(digest.data(), reinterpret_cast<const unsigned char*>(bytes.data()), bytes.size());
    std::string hex(2 * digest.size() + 1, '\0');
    sodium_bin2hex(hex.data(), hex.size(), digest.data(), digest.size());
    hex.pop_back();
    return hex;
}

std::int64_t in_microseconds(std::chrono::hours hours) {
    return std::chrono::microseconds(hours).count();
}

}  // namespace

std::vector<LedgerTable> compared_tables(const Projection& projection) {
    auto tables = projection.ledger()->tables();
    tables.push_back({"dead_letters",
                      {{"partition", Kind::number}, {"offset", Kind::number}},
                      {{"topic", Kind::text},
                       {"append_time", Kind::instant},
                       {"reason", Kind::text},
                       {"key", Kind::bytes},
                       {"value", Kind::bytes}}});
    tables.push_back({"dedupe",
                      {{"partition", Kind::number}, {"identity", Kind::text}},
                      {{"offset", Kind::number}, {"log_time", Kind::instant}, {"data_hash", Kind::bytes}}});
    tables.push_back({"offsets",
                      {{"partition", Kind::number}},
                      {{"applied", Kind::number},
                       {"duplicates", Kind::number},
                       {"parked", Kind::number},
                       {"gaps", Kind::number},
                       {"log_time", Kind::instant}}});
    return tables;
}

Recount::Recount(const Target& target, std::size_t pass, std::size_t passes)
    : target_(target),
      ledger_(target.projection->ledger()),
      tables_(compared_tables(*target.projection)),
      common_(tables_.size() - kCommon),
      rows_(tables_, pass, passes),
      partitions_(static_cast<std::size_t>(target.partitions)) {}

void Recount::take(const kafka::Record& record) {
    auto& partition = partitions_.at(static_cast<std::size_t>(record.partition));
    partition.log_time = std::max(partition.log_time, microseconds(record.append_time));
    partition.records += 1;
    std::string_view reason;
    switch (judge(record, partition, reason)) {
        case Verdict::applied:
            partition.applied += 1;
            break;
        case Verdict::duplicate:
            partition.duplicates += 1;
            break;
        case Verdict::parked:
            partition.parked += 1;
            park(record, reason);
            break;
    }
}

Recount::Verdict Recount::judge(const kafka::Record& record, Partition& partition, std::string_view& reason) {
    const schemas::Position position{record.partition, record.offset};
    const auto parked = [&](std::string_view why) {
        reason = why;
        return Verdict::parked;
    };
    if (refused_.erase(position) > 0) return parked(reason::kRefusedByDatabase);
    if (!record.value) return parked(reason::kTombstone);
    const auto read = schemas::read_event(reader_, *record.value);
    if (!read) return parked(reason::kMalformed);
    const auto& event = *read;
    if (event.type == schemas::kLogCreated) {
        const bool is_ours = record.offset == 0 && event.data && event.data.find("uuid") &&
                             event.data.find("uuid").text() == target_.log_uuid;
        return is_ours ? Verdict::applied : parked(reason::kUnexpectedIdentity);
    }
    const auto& types = target_.projection->stream().types;
    if (std::find(types.begin(), types.end(), event.type) == types.end()) return parked(reason::kUnknownType);
    const LoggedEvent logged{event, position, event.time ? *event.time : record.append_time,
                             schemas::Timestamp(std::chrono::microseconds(partition.log_time))};
    return enter(record, logged, partition, reason);
}

Recount::Verdict Recount::enter(const kafka::Record& record, const LoggedEvent& logged, Partition& partition,
                                std::string_view& reason) {
    const auto parked = [&](std::string_view why) {
        reason = why;
        return Verdict::parked;
    };
    std::string_view entity;
    if (!ledger_->read(logged, entity)) return parked(reason::kInvalidData);
    if (record.key != entity) return parked(reason::kKeyMismatch);
    const auto& identity = logged.event.idempotency_key;
    if ((identity || target_.projection->needs_home_partition()) &&
        kafka::murmur2_partition(entity, target_.partitions) != record.partition)
        return parked(reason::kWrongPartition);
    if (logged.occurred_at > record.append_time + schemas::kMaxAhead) return parked(reason::kFromTheFuture);
    if (identity) {
        auto hash = sha256(schemas::data_hash(logged.event.data));
        const auto known = partition.sights.find(std::string(*identity));
        if (known != partition.sights.end() &&
            known->second.log_time + in_microseconds(schemas::kDedupeHorizon) >= partition.log_time) {
            return known->second.data_hash == hash ? Verdict::duplicate : parked(reason::kIdempotencyConflict);
        }
        partition.sights[std::string(*identity)] = {record.offset, partition.log_time, std::move(hash)};
        forget(partition);
    }
    ledger_->enter(rows_);
    return Verdict::applied;
}

// What can decide nothing any more, now and then.
void Recount::forget(Partition& partition) {
    const auto horizon = in_microseconds(schemas::kDedupeHorizon);
    if (partition.log_time - partition.forgotten_at < horizon / 24) return;
    partition.forgotten_at = partition.log_time;
    std::erase_if(partition.sights,
                  [&](const auto& sight) { return sight.second.log_time + horizon < partition.log_time; });
}

void Recount::park(const kafka::Record& record, std::string_view reason) {
    auto* row = rows_.at(common_ + kDeadLetters, rows_.key_of(record.partition, record.offset),
                         {record.partition, record.offset});
    if (row == nullptr) return;
    row->columns[0] = target_.topic;
    row->columns[1] = Int128{microseconds(record.append_time)};
    row->columns[2] = std::string(reason);
    if (record.key) row->columns[3] = sha256(*record.key);
    if (record.value) row->columns[4] = sha256(*record.value);
}

LedgerRows& Recount::finish(const std::vector<std::int64_t>& first, const std::vector<std::int64_t>& next) {
    for (std::size_t n = 0; n < partitions_.size(); ++n) {
        const auto number = static_cast<std::int32_t>(n);
        const auto& partition = partitions_[n];
        if (auto* row = rows_.at(common_ + kOffsets, rows_.key_of(number), {number, next[n] - 1})) {
            row->columns[0] = Int128{partition.applied};
            row->columns[1] = Int128{partition.duplicates};
            row->columns[2] = Int128{partition.parked};
            row->columns[3] = Int128{next[n] - first[n] - partition.records};
            row->columns[4] = Int128{partition.log_time};
        }
        for (const auto& [identity, sight] : partition.sights) {
            if (sight.log_time + in_microseconds(schemas::kDedupeHorizon) < partition.log_time) continue;
            auto* row = rows_.at(common_ + kDedupe, rows_.key_of(number, identity), {number, sight.offset});
            if (row == nullptr) continue;
            row->columns[0] = Int128{sight.offset};
            row->columns[1] = Int128{sight.log_time};
            row->columns[2] = sight.data_hash;
        }
    }
    return rows_;
}

}  // namespace tidemark::consumers
