#include "consumers/recount.h"

#include "infra/kafka/partitioner.h"
#include "schemas/dead_letter.h"
#include "schemas/event.h"
#include "schemas/imported_line.h"

#include <sodium.h>

#include <algorithm>
#include <array>

namespace tidemark::consumers {

namespace {

using Kind = LedgerTable::Kind;
namespace dead_letter = schemas::dead_letter;

// Of a letter that holds its entity: two nodes, and what the allocator adds.
constexpr std::int64_t kBytesOfHolding = 150;

// The common tables, as compared_tables adds them.
enum : std::size_t { kDeadLetters, kDedupe, kImports, kOffsets, kCommon };

std::string in_hex(std::string_view bytes) {
    std::string hex(2 * bytes.size() + 1, '\0');
    sodium_bin2hex(hex.data(), hex.size(), reinterpret_cast<const unsigned char*>(bytes.data()), bytes.size());
    hex.pop_back();
    return hex;
}

std::string in_hex(const std::vector<kafka::Header>& headers) {
    std::string all;
    for (const auto& header : headers)
        all += (all.empty() ? "" : ",") + in_hex(header.name) + ':' + in_hex(header.value);
    return all;
}

std::string sha256(std::string_view bytes) {
    std::array<unsigned char, crypto_hash_sha256_BYTES> digest{};
    crypto_hash_sha256(digest.data(), reinterpret_cast<const unsigned char*>(bytes.data()), bytes.size());
    return in_hex({reinterpret_cast<const char*>(digest.data()), digest.size()});
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
                       {"key", Kind::bytes},
                       {"value", Kind::bytes},
                       {"headers", Kind::headers},
                       {"reason", Kind::text},
                       {"attempts", Kind::number},
                       {"status", Kind::text},
                       {"decided_at", Kind::number},
                       {"note", Kind::text},
                       {"holds", Kind::text}}});
    tables.push_back({"dedupe",
                      {{"partition", Kind::number}, {"identity", Kind::text}},
                      {{"offset", Kind::number}, {"log_time", Kind::instant}, {"data_hash", Kind::bytes}}});
    tables.push_back({"imports",
                      {{"partition", Kind::number}, {"file", Kind::text}, {"block", Kind::number}},
                      {{"lines", Kind::bytes}}});
    tables.push_back({"offsets",
                      {{"partition", Kind::number}},
                      {{"applied", Kind::number},
                       {"duplicates", Kind::number},
                       {"parked", Kind::number},
                       {"gaps", Kind::number},
                       {"digest", Kind::number},
                       {"log_time", Kind::instant}}});
    return tables;
}

Recount::Recount(const Target& target, std::size_t pass, std::size_t passes, std::int64_t windows_from)
    : target_(target),
      ledger_(target.projection->ledger()),
      tables_(compared_tables(*target.projection)),
      common_(tables_.size() - kCommon),
      rows_(tables_, pass, passes, windows_from),
      partitions_(static_cast<std::size_t>(target.partitions)) {}

void Recount::take(const kafka::Record& record) {
    auto& partition = partitions_.at(static_cast<std::size_t>(record.partition));
    partition.tally.log_time = std::max(partition.tally.log_time, microseconds(record.append_time));
    partition.tally.records += 1;
    std::string_view reason;
    switch (judge(record, partition, reason)) {
        case Verdict::applied:
            partition.tally.applied += 1;
            break;
        case Verdict::duplicate:
            partition.tally.duplicates += 1;
            break;
        case Verdict::parked:
            partition.tally.parked += 1;
            park(record, reason);
            break;
    }
}

std::int64_t Recount::remembered_bytes() const {
    constexpr std::int64_t kBytesOfSight = 300;  // two texts, a node, and what the allocator adds
    auto bytes = letter_bytes_ + import_bytes_;
    for (const auto& partition : partitions_)
        bytes += kBytesOfSight * static_cast<std::int64_t>(partition.sights.size());
    return bytes;
}

bool Recount::is_new_line(const kafka::Record& record, Partition& partition) {
    const auto header = record.header(schemas::ImportedLine::kHeader);
    const auto line = header ? schemas::read_imported_line(*header) : std::nullopt;
    if (!line) return true;
    const auto index = line->number - 1;
    const std::pair row(std::string(line->file), index / kLinesOfRow);
    constexpr std::int64_t kBytesOfRow = 150;  // its name, a node, and what the allocator adds
    const auto [found, is_first] = partition.lines.try_emplace(row);
    auto& bytes = found->second;
    const auto byte = static_cast<std::size_t>(index % kLinesOfRow) / 8;
    const auto before = bytes.capacity();
    if (bytes.size() <= byte) bytes.resize(byte + 1);
    import_bytes_ += (is_first ? kBytesOfRow : 0) + static_cast<std::int64_t>(bytes.capacity() - before);
    const auto bit = static_cast<unsigned char>(1 << index % 8);
    const bool is_new = (static_cast<unsigned char>(bytes[byte]) & bit) == 0;
    bytes[byte] = static_cast<char>(static_cast<unsigned char>(bytes[byte]) | bit);
    // So that the row knows where in the log it comes from.
    if (is_new) {
        rows_.at(common_ + kImports, rows_.key_of(record.partition, row.first, row.second),
                 {record.partition, record.offset});
    }
    return is_new;
}

Recount::Verdict Recount::judge(const kafka::Record& record, Partition& partition, std::string_view& reason) {
    const auto parked = [&](std::string_view why) {
        reason = why;
        return Verdict::parked;
    };
    if (record.value && !is_new_line(record, partition)) return Verdict::duplicate;
    if (is_held(record) && has_entity(record)) return parked(reason::kBehindDeadLetter);
    if (refused_.erase({record.partition, record.offset}) > 0) return parked(reason::kRefusedByDatabase);
    if (!record.value) return parked(reason::kTombstone);
    const auto read = schemas::read_event(reader_, *record.value);
    if (!read) return parked(reason::kMalformed);
    if (read->type == schemas::kLogCreated) {
        const bool is_ours = record.offset == 0 && read->data && read->data.find("uuid") &&
                             read->data.find("uuid").text() == target_.log_uuid;
        return is_ours ? Verdict::applied : parked(reason::kUnexpectedIdentity);
    }
    if (read->type == dead_letter::kRedriven) return redrive(*read, record, partition, reason);
    if (read->type == dead_letter::kDiscarded) return discard(*read, record, partition, reason);
    return enter(*read, record, microseconds(record.append_time), partition, reason);
}

// The event in the record's place; `known_at` is when it first was in the log.
Recount::Verdict Recount::enter(const schemas::Event& event, const kafka::Record& record, std::int64_t known_at,
                                Partition& partition, std::string_view& reason) {
    const auto parked = [&](std::string_view why) {
        reason = why;
        return Verdict::parked;
    };
    const auto& types = target_.projection->stream().types;
    if (std::find(types.begin(), types.end(), event.type) == types.end()) return parked(reason::kUnknownType);
    const LoggedEvent logged{event,
                             {record.partition, record.offset},
                             event.time ? *event.time : schemas::Timestamp(std::chrono::microseconds(known_at)),
                             schemas::Timestamp(std::chrono::microseconds(partition.tally.log_time))};
    std::string_view entity;
    if (!ledger_->read(logged, entity)) return parked(reason::kInvalidData);
    if (record.key != entity) return parked(reason::kKeyMismatch);
    const auto& identity = event.idempotency_key;
    if ((identity || target_.projection->needs_home_partition()) &&
        kafka::murmur2_partition(entity, target_.partitions) != record.partition)
        return parked(reason::kWrongPartition);
    if (logged.occurred_at > record.append_time + schemas::kMaxAhead) return parked(reason::kFromTheFuture);
    if (identity) {
        auto hash = sha256(schemas::data_hash(event.data));
        const auto known = partition.sights.find(std::string(*identity));
        if (known != partition.sights.end() &&
            known->second.log_time + in_microseconds(schemas::kDedupeHorizon) >= partition.tally.log_time) {
            return known->second.data_hash == hash ? Verdict::duplicate : parked(reason::kIdempotencyConflict);
        }
        partition.sights[std::string(*identity)] = {record.offset, partition.tally.log_time, std::move(hash)};
        forget(partition);
    }
    partition.tally.digest += ledger_->digest();
    if (rows_.any()) ledger_->enter(rows_);
    return Verdict::applied;
}

Recount::Verdict Recount::redrive(const schemas::Event& event, const kafka::Record& record, Partition& partition,
                                  std::string_view& reason) {
    const auto decision = dead_letter::read_redriven(event.data, schemas::json::Unknown::ignore);
    if (!decision) {
        reason = reason::kInvalidData;
        return Verdict::parked;
    }
    const schemas::Position position{record.partition, decision->offset};
    const auto found = open_.find(position);
    if (found == open_.end() || found->second.is_quarantined) return Verdict::applied;
    if (decision->attempts && found->second.attempts != *decision->attempts) return Verdict::applied;
    const bool held = found->second.holds;
    if (held && !is_first(position, found->second)) return Verdict::applied;
    const auto key = found->second.key;
    judge_again(position, decision->edit ? std::optional(std::string(*decision->edit)) : std::nullopt, record,
                partition);
    const auto left = open_.find(position);
    if (held && (left == open_.end() || !left->second.holds)) release(*key, record, partition);
    return Verdict::applied;
}

// The letter in the decision's place, once.
void Recount::judge_again(schemas::Position position, const std::optional<std::string>& edit,
                          const kafka::Record& decision, Partition& partition) {
    auto& letter = open_.at(position);
    const auto& value = edit ? edit : letter.value;
    kafka::Record again;
    again.partition = decision.partition;
    again.offset = decision.offset;
    again.append_time = decision.append_time;
    if (letter.key) again.key = *letter.key;
    auto verdict = Verdict::parked;
    std::string_view why = value ? reason::kMalformed : reason::kTombstone;
    if (value) {
        const auto read = schemas::read_event(reader_, *value);
        if (read) verdict = enter(*read, again, letter.append_time, partition, why);
    }
    if (verdict != Verdict::parked) {
        decide(position, decision.offset, "status", std::string("redriven"));
        decide(position, decision.offset, "holds", std::string("false"));
        close(position);
        return;
    }
    letter.attempts += 1;
    decide(position, decision.offset, "attempts", Int128{letter.attempts});
    if (letter.holds && !asks_to_hold(why)) let_go(position, letter);
    if (!letter.holds) decide(position, decision.offset, "holds", std::string("false"));
    if (letter.attempts < dead_letter::kMostAttempts) return;
    decide(position, decision.offset, "status", std::string("quarantined"));
    if (letter.holds) {
        letter.is_quarantined = true;
    } else {
        close(position);
    }
}

Recount::Verdict Recount::discard(const schemas::Event& event, const kafka::Record& record, Partition& partition,
                                  std::string_view& reason) {
    const auto decision = dead_letter::read_discarded(event.data, schemas::json::Unknown::ignore);
    if (!decision) {
        reason = reason::kInvalidData;
        return Verdict::parked;
    }
    const schemas::Position position{record.partition, decision->offset};
    const auto found = open_.find(position);
    if (found == open_.end()) return Verdict::applied;
    decide(position, record.offset, "status", std::string("discarded"));
    decide(position, record.offset, "holds", std::string("false"));
    if (decision->note) decide(position, record.offset, "note", std::string(*decision->note));
    const bool lets_others_go = found->second.holds && is_first(position, found->second);
    const auto key = found->second.key;
    close(position);
    if (lets_others_go) release(*key, record, partition);
    return Verdict::applied;
}

bool Recount::asks_to_hold(std::string_view reason) const {
    const auto reasons = target_.projection->holding_reasons();
    return std::find(reasons.begin(), reasons.end(), reason) != reasons.end();
}

bool Recount::is_held(const kafka::Record& record) const {
    return record.key && !held_.empty() && held_.contains({record.partition, std::string(*record.key)});
}

// What is no event has the one that its key says.
bool Recount::has_entity(const kafka::Record& record) {
    if (!record.value) return true;
    const auto read = schemas::read_event(reader_, *record.value);
    return !read || !(read->type == schemas::kLogCreated || dead_letter::is_decision(read->type));
}

bool Recount::is_first(schemas::Position position, const Letter& letter) const {
    return *held_.at({position.partition, *letter.key}).begin() == position.offset;
}

void Recount::hold(schemas::Position position, Letter& letter) {
    letter.holds = true;
    auto& queue = held_[{position.partition, *letter.key}];
    letter_bytes_ += kBytesOfHolding + (queue.empty() ? std::ssize(*letter.key) : 0);
    queue.insert(position.offset);
}

void Recount::let_go(schemas::Position position, Letter& letter) {
    letter.holds = false;
    const auto queue = held_.find({position.partition, *letter.key});
    queue->second.erase(position.offset);
    letter_bytes_ -= kBytesOfHolding + (queue->second.empty() ? std::ssize(*letter.key) : 0);
    if (queue->second.empty()) held_.erase(queue);
}

// Those that waited for the first to go, up to the next that stays first.
void Recount::release(const std::string& key, const kafka::Record& decision, Partition& partition) {
    for (std::int64_t n = 0; n < dead_letter::kMostReleased; ++n) {
        const auto queue = held_.find({decision.partition, key});
        if (queue == held_.end()) return;
        const schemas::Position next{decision.partition, *queue->second.begin()};
        judge_again(next, std::nullopt, decision, partition);
        const auto left = open_.find(next);
        if (left != open_.end() && left->second.holds) return;
    }
}

// What can decide nothing any more, now and then.
void Recount::forget(Partition& partition) {
    const auto horizon = in_microseconds(schemas::kDedupeHorizon);
    if (partition.tally.log_time - partition.forgotten_at < horizon / 24) return;
    partition.forgotten_at = partition.tally.log_time;
    std::erase_if(partition.sights,
                  [&](const auto& sight) { return sight.second.log_time + horizon < partition.tally.log_time; });
}

void Recount::park(const kafka::Record& record, std::string_view reason) {
    const schemas::Position position{record.partition, record.offset};
    auto& letter = open_[position];
    if (record.key) letter.key = *record.key;
    if (record.value) letter.value = *record.value;
    letter.append_time = microseconds(record.append_time);
    letter_bytes_ += letter.bytes();
    if (reason == reason::kBehindDeadLetter || (asks_to_hold(reason) && record.key && has_entity(record)))
        hold(position, letter);
    auto* row = rows_.at(common_ + kDeadLetters, rows_.key_of(record.partition, record.offset), position);
    if (row == nullptr) return;
    row->columns[0] = target_.topic;
    row->columns[1] = Int128{microseconds(record.append_time)};
    if (record.key) row->columns[2] = sha256(*record.key);
    if (record.value) row->columns[3] = sha256(*record.value);
    row->columns[4] = in_hex(record.headers());
    row->columns[5] = std::string(reason);
    row->columns[6] = Int128{1};
    row->columns[7] = std::string("open");
    row->columns[10] = std::string(letter.holds ? "true" : "false");
}

void Recount::close(schemas::Position position) {
    const auto found = open_.find(position);
    if (found->second.holds) let_go(position, found->second);
    letter_bytes_ -= found->second.bytes();
    open_.erase(found);
}

void Recount::decide(schemas::Position letter, std::int64_t decided_at, std::string_view column, Value value) {
    auto* row =
        rows_.at(common_ + kDeadLetters, rows_.key_of(letter.partition, letter.offset), {letter.partition, decided_at});
    if (row == nullptr) return;
    const auto& columns = tables_[common_ + kDeadLetters].columns;
    for (std::size_t n = 0; n < columns.size(); ++n) {
        if (columns[n].name == column) row->columns[n] = std::move(value);
        if (columns[n].name == "decided_at") row->columns[n] = Int128{decided_at};
    }
}

LedgerRows& Recount::finish(const std::vector<std::int64_t>& first, const std::vector<std::int64_t>& next) {
    for (std::size_t n = 0; n < partitions_.size(); ++n) {
        const auto number = static_cast<std::int32_t>(n);
        const auto& partition = partitions_[n];
        if (next[n] > first[n]) rows_.at(common_ + kOffsets, rows_.key_of(number), {number, first[n]});
        if (auto* row = rows_.at(common_ + kOffsets, rows_.key_of(number), {number, next[n] - 1})) {
            row->columns[0] = Int128{partition.tally.applied};
            row->columns[1] = Int128{partition.tally.duplicates};
            row->columns[2] = Int128{partition.tally.parked};
            row->columns[3] = Int128{next[n] - first[n] - partition.tally.records};
            row->columns[4] = Int128{partition.tally.digest};
            row->columns[5] = Int128{partition.tally.log_time};
        }
        for (const auto& [identity, sight] : partition.sights) {
            if (sight.log_time + in_microseconds(schemas::kDedupeHorizon) < partition.tally.log_time) continue;
            auto* row = rows_.at(common_ + kDedupe, rows_.key_of(number, identity), {number, sight.offset});
            if (row == nullptr) continue;
            row->columns[0] = Int128{sight.offset};
            row->columns[1] = Int128{sight.log_time};
            row->columns[2] = sight.data_hash;
        }
        for (const auto& [place, lines] : partition.lines) {
            const auto key = rows_.key_of(number, place.first, place.second);
            if (!rows_.is_mine(common_ + kImports, key)) continue;
            rows_.of(common_ + kImports).at(key).columns[0] = sha256(lines);
        }
    }
    return rows_;
}

}  // namespace tidemark::consumers
