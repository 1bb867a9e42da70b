#include "consumers/flush.h"

#include "consumers/dedupe.h"
#include "consumers/imports.h"
#include "infra/base/failpoint.h"
#include "infra/base/log.h"
#include "infra/kafka/partitioner.h"
#include "schemas/dead_letter.h"

#include <sodium.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <deque>
#include <limits>
#include <optional>
#include <set>
#include <utility>

namespace tidemark::consumers {

namespace {

using schemas::Position;
namespace dead_letter = schemas::dead_letter;

constexpr pg::Statement kLoadFirstSights{"dedupe_load", R"(
select d.partition, d.identity, d."offset", (extract(epoch from d.log_time) * 1000000)::bigint, d.data_hash
from unnest($1::integer[], $2::text[]) as w (partition, identity)
join dedupe d on d.partition = w.partition and d.identity = w.identity)"};

constexpr pg::Statement kStoreFirstSights{"dedupe_store", R"(
insert into dedupe (partition, identity, "offset", log_time, data_hash)
select * from unnest($1::integer[], $2::text[], $3::bigint[], $4::timestamptz[], $5::bytea[])
on conflict (partition, identity) do update set
    "offset" = excluded."offset", log_time = excluded.log_time, data_hash = excluded.data_hash)"};

// An hour past the horizon a first sight decides nothing any more. In small bites: a flush stays short.
constexpr pg::Statement kPruneFirstSights{"dedupe_prune", R"(
delete from dedupe d using (
    select e.partition, e.identity
    from unnest($1::integer[], $2::timestamptz[]) as p (partition, log_time)
    join dedupe e on e.partition = p.partition and e.log_time < p.log_time - interval '25 hours'
    limit 1000) old
where d.partition = old.partition and d.identity = old.identity)"};

constexpr pg::Statement kLoadImports{"imports_load", R"(
select i.partition, i.file, i.block, i.lines
from unnest($1::integer[], $2::text[], $3::bigint[]) as w (partition, file, block)
join imports i on i.partition = w.partition and i.file = w.file and i.block = w.block)"};

constexpr pg::Statement kStoreImports{"imports_store", R"(
insert into imports (partition, file, block, lines)
select * from unnest($1::integer[], $2::text[], $3::bigint[], $4::bytea[])
on conflict (partition, file, block) do update set lines = excluded.lines)"};

constexpr pg::Statement kPark{"dead_letters_park", R"(
insert into dead_letters (partition, "offset", topic, append_time, key, value, header_names, header_values, reason, detail,
                          attempts, status, decided_at, note, holds)
values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15))"};

constexpr pg::Statement kLoadLetters{"dead_letters_load", R"(
select d.partition, d."offset", (extract(epoch from d.append_time) * 1000000)::bigint, d.detail, d.attempts, d.status,
       d.holds, case when d.holds then sha256(d.key) else '' end
from unnest($1::integer[], $2::bigint[]) as w (partition, "offset")
join dead_letters d on d.partition = w.partition and d."offset" = w."offset"
where d.status = 'open' or d.holds)"};

// Mostly there is nothing in that index.
constexpr pg::Statement kFindHeld{"dead_letters_find_held", R"(
select w.partition from unnest($1::integer[]) as w (partition)
where exists (select from dead_letters d where d.holds and d.partition = w.partition))"};

constexpr pg::Statement kLoadHeads{"dead_letters_load_heads", R"(
select w.partition, w.entity, h."offset"
from unnest($1::integer[], $2::bytea[]) as w (partition, entity)
cross join lateral (select d."offset" from dead_letters d
                    where d.holds and d.partition = w.partition and sha256(d.key) = w.entity
                    order by d."offset" limit 1) h)"};

constexpr pg::Statement kLoadQueue{"dead_letters_load_queue", R"(
select partition, "offset", (extract(epoch from append_time) * 1000000)::bigint, detail, attempts, status
from dead_letters where holds and partition = $1 and sha256(key) = $2 and "offset" > $3
order by "offset" limit $4)"};

// One at a time: a letter may be a megabyte.
constexpr pg::Statement kLoadRecord{"dead_letters_load_record", R"(
select key is null, coalesce(key, ''), value is null, case when $3 then coalesce(value, '') else '' end
from dead_letters where partition = $1 and "offset" = $2)"};

constexpr pg::Statement kDecide{"dead_letters_decide", R"(
update dead_letters set detail = $3, attempts = $4, status = $5, decided_at = $6, note = $7, holds = $8
where partition = $1 and "offset" = $2)"};

constexpr pg::Statement kNotify{"progress_notify", "select pg_notify('tidemark_progress', $1)"};

constexpr const char* kFenced = "the offset rows are another consumer's";

// Kept in a dead letter's detail; the record itself is kept whole.
constexpr std::size_t kMaxDetailBytes = 2'000;

// Asked of every record: string_view::find stops at each quote of its JSON, which costs five times as much.
bool contains(std::string_view text, std::string_view words) {
    return ::memmem(text.data(), text.size(), words.data(), words.size()) != nullptr;
}

// A foreign text may be anything: what Postgres would refuse as text is shown as '?'.
std::string printable(std::string_view text) {
    std::string out(text.substr(0, kMaxDetailBytes));
    if (!schemas::json::is_utf8(out)) {
        for (auto& byte : out) {
            if (static_cast<unsigned char>(byte) >= 0x80) byte = '?';
        }
    }
    std::replace(out.begin(), out.end(), '\0', '?');
    return out;
}

// The letters that hold one entity, in order. All but the first wait behind it.
struct Queue {
    std::int32_t partition = 0;
    std::string entity;
    std::deque<std::int64_t> offsets;        // as far as they are loaded; some may have left meanwhile
    std::int64_t loaded_to = -1;             // of those in the table
    bool is_whole = false;                   // the table has no more of them
    std::vector<std::int64_t> behind_table;  // of this batch, while it is not whole
};

// What a key is told by, as an index of dead_letters has it.
std::string entity_of(std::string_view key) {
    std::array<unsigned char, crypto_hash_sha256_BYTES> hash{};
    crypto_hash_sha256(hash.data(), reinterpret_cast<const unsigned char*>(key.data()), key.size());
    return {reinterpret_cast<const char*>(hash.data()), hash.size()};
}

// A record that could not be applied: of this batch, or of an earlier one and decided about in this.
struct DeadLetter {
    const kafka::Record* record = nullptr;  // null: it stands in the table
    Timestamp append_time{};
    std::string reason{};
    std::string detail{};
    std::int64_t attempts = 1;
    std::string_view status = "open";
    std::optional<std::int64_t> decided_at{};
    std::optional<std::string> note{};
    Queue* queue = nullptr;  // that it holds its entity in; null: it holds nothing
};

// What is judged, and where it stands: a record, or a dead letter at the place of its redrive.
struct Judged {
    Position position;
    std::optional<std::string_view> key;
    std::optional<std::string_view> value;
    Timestamp append_time{};  // of the place
    Timestamp known_at{};     // when it was appended first: what stands for a time that it does not say
};

template <typename Text>
void add_optional(pg::Params& params, const std::optional<Text>& text) {
    if (text) {
        params.add(*text);
    } else {
        params.add_null();
    }
}

// Steps 2 to 4 of one attempt: everything between the fence and the commit.
class Attempt {
public:
    Attempt(pg::Transaction& tx, const Target& target, const OffsetStore& store, const Batch& batch,
            const WindowsFrom& windows_from, const std::map<Position, std::string>& refused, FlushReport& report)
        : tx_(tx),
          target_(target),
          store_(store),
          batch_(batch),
          windows_from_(windows_from),
          refused_(refused),
          report_(report),
          holding_(target.projection->holding_reasons()),
          fold_(target.projection->begin()) {}

    void run() {
        load_imports();
        load(wanted_identities());
        load_heads();
        load_letters(wanted_letters());
        for (const auto& part : batch_.parts)
            fold_part(part);
        FAILPOINT("c2_folded");
        report_.entities = fold_->entities();
        const auto written = fold_->write(tx_, windows_from_);
        report_.rows = written.rows;
        report_.late = written.late;
        park();
        store_first_sights();
        for (auto& tally : tallies_)
            tally.digest = fold_->digest(tally.partition);
        store_imports();
        store_.tally(tx_, tallies_);
        FAILPOINT("c5_aggregates");
    }

private:
    // Most events carry no identity, and those that do say the attribute's name in plain: one scan tells them apart
    // without parsing. A name that is spelt with escapes is met while folding, and loaded then.
    std::vector<Dedupe::Id> wanted_identities() {
        constexpr std::string_view kAttribute = "\"idempotencykey\"";
        std::vector<Dedupe::Id> wanted;
        for (const auto& part : batch_.parts) {
            for (const auto& record : part.records) {
                if (!record.value || !contains(*record.value, kAttribute)) continue;
                const auto event = schemas::read_event(reader_, *record.value);
                if (event && event->idempotency_key) {
                    wanted.push_back({record.partition, std::string(*event->idempotency_key)});
                }
            }
        }
        return wanted;
    }

    static std::optional<schemas::ImportedLine> imported_line(const kafka::Record& record) {
        if (!record.value) return std::nullopt;
        const auto header = record.header(schemas::ImportedLine::kHeader);
        return header ? schemas::read_imported_line(*header) : std::nullopt;
    }

    void load_imports() {
        for (const auto& part : batch_.parts) {
            for (const auto& record : part.records) {
                if (const auto line = imported_line(record)) imports_.expect(record.partition, *line);
            }
        }
        if (imports_.empty()) return;
        pg::Array partitions;
        pg::Array files;
        pg::Array numbers;
        for (const auto& [block, lines] : imports_.blocks()) {
            partitions.add(block.partition);
            files.add(block.file);
            numbers.add(block.number);
        }
        pg::Params params;
        params.add(std::move(partitions)).add(std::move(files)).add(std::move(numbers));
        const auto rows = tx_.run(kLoadImports, params);
        for (std::size_t row = 0; row < rows.size(); ++row) {
            imports_.loaded(
                {static_cast<std::int32_t>(rows.integer(row, 0)), std::string(rows.text(row, 1)), rows.integer(row, 2)},
                rows.bytes(row, 3));
        }
    }

    // An imported line is judged once, whatever became of it: also what is a dead letter is one the first time only.
    bool has_come(const kafka::Record& record) {
        if (imports_.empty()) return false;
        const auto line = imported_line(record);
        return line && !imports_.come(record.partition, *line);
    }

    void load(std::vector<Dedupe::Id> ids) {
        if (ids.empty()) return;
        pg::Array partitions;
        pg::Array identities;
        for (const auto& id : ids) {
            partitions.add(std::int64_t{id.partition});
            identities.add(std::string_view(id.identity));
        }
        pg::Params params;
        params.add(std::move(partitions)).add(std::move(identities));
        const auto rows = tx_.run(kLoadFirstSights, params);
        for (std::size_t row = 0; row < rows.size(); ++row) {
            dedupe_.loaded({static_cast<std::int32_t>(rows.integer(row, 0)), std::string(rows.text(row, 1))},
                           {rows.integer(row, 2), rows.instant(row, 3), rows.bytes(row, 4)});
        }
        for (auto& id : ids)
            dedupe_.loaded_none(std::move(id));
    }

    void fold_part(const Batch::Part& part) {
        from_ = part.from;
        OffsetStore::Tally tally{part.partition, 0, 0, 0, part.gaps, 0, part.log_time};
        for (const auto& record : part.records) {
            tally.log_time = std::max(tally.log_time, record.append_time);
            if (report_.oldest == Timestamp{} || record.append_time < report_.oldest)
                report_.oldest = record.append_time;
            bool duplicate = false;
            if (auto parked = judge(record, tally.log_time, duplicate)) {
                tally.parked += 1;
                report_.parked[parked->reason] += 1;
                auto& letter = letters_[{record.partition, record.offset}].emplace();
                letter.record = &record;
                letter.append_time = record.append_time;
                letter.reason = parked->reason;
                letter.detail = printable(parked->detail);
                letter.queue = begin_to_hold(record, parked->reason);
            } else if (duplicate) {
                tally.duplicates += 1;
            } else {
                tally.applied += 1;
            }
        }
        report_.records += part.records.size();
        report_.applied += tally.applied;
        report_.duplicates += tally.duplicates;
        report_.gaps += tally.gaps;
        report_.log_times[part.partition] = tally.log_time;
        tallies_.push_back(tally);
    }

    // Folds the record in, or says why not. A duplicate is neither.
    std::optional<Parked> judge(const kafka::Record& record, Timestamp log_time, bool& duplicate) {
        const Position position{record.partition, record.offset};
        if (has_come(record)) {
            duplicate = true;
            return std::nullopt;
        }
        if (auto waiting = wait_behind(record)) return waiting;
        if (const auto refused = refused_.find(position); refused != refused_.end()) {
            return Parked{reason::kRefusedByDatabase, refused->second};
        }
        if (!record.value) return tombstone();
        const auto event = schemas::read_event(reader_, *record.value);
        if (!event) return Parked{reason::kMalformed, describe(event.violations())};
        if (event->type == schemas::kLogCreated) return judge_identity(*event, record);
        if (event->type == dead_letter::kRedriven) return redrive(*event, record, log_time);
        if (event->type == dead_letter::kDiscarded) return discard(*event, record, log_time);
        return judge(*event, {position, record.key, record.value, record.append_time, record.append_time}, log_time,
                     duplicate);
    }

    // A dead letter's record, at the place where it is judged again.
    std::optional<Parked> judge(const Judged& again, Timestamp log_time, bool& duplicate) {
        if (!again.value) return tombstone();
        const auto event = schemas::read_event(reader_, *again.value);
        if (!event) return Parked{reason::kMalformed, describe(event.violations())};
        return judge(*event, again, log_time, duplicate);
    }

    static Parked tombstone() { return {reason::kTombstone, "the record has no value"}; }

    std::optional<Parked> judge(const schemas::Event& event, const Judged& record, Timestamp log_time,
                                bool& duplicate) {
        const auto position = record.position;
        const auto& types = target_.projection->stream().types;
        if (std::find(types.begin(), types.end(), event.type) == types.end()) {
            return Parked{reason::kUnknownType, "type " + std::string(event.type)};
        }
        const LoggedEvent logged{event, position, event.time.value_or(record.known_at), log_time};
        std::string_view entity;
        if (auto parked = fold_->read(logged, entity)) return parked;
        if (!record.key || *record.key != entity) {
            return Parked{reason::kKeyMismatch, record.key
                                                    ? "the record's key is " + std::string(*record.key) +
                                                          ", the entity " + std::string(entity)
                                                    : "the record has no key, the entity is " + std::string(entity)};
        }
        const bool at_home = kafka::murmur2_partition(*record.key, target_.partitions) == position.partition;
        if (!at_home && (event.idempotency_key || target_.projection->needs_home_partition())) {
            return Parked{reason::kWrongPartition,
                          "its key belongs to partition " +
                              std::to_string(kafka::murmur2_partition(*record.key, target_.partitions))};
        }
        if (logged.occurred_at - record.append_time > schemas::kMaxAhead) {
            return Parked{reason::kFromTheFuture, "its time is " + schemas::format_instant(logged.occurred_at) +
                                                      ", it was appended at " +
                                                      schemas::format_instant(record.append_time)};
        }
        if (event.idempotency_key) {
            Dedupe::Id id{position.partition, std::string(*event.idempotency_key)};
            if (!dedupe_.knows(id)) load({id});
            auto hash = schemas::data_hash(event.data);
            switch (dedupe_.decide(id, log_time, hash)) {
                case Dedupe::Verdict::duplicate:
                    duplicate = true;
                    return std::nullopt;
                case Dedupe::Verdict::conflict:
                    return Parked{reason::kIdempotencyConflict, "an earlier event of this identity has other data"};
                case Dedupe::Verdict::first:
                    dedupe_.applied(id, {position.offset, log_time, std::move(hash)});
                    break;
            }
        }
        fold_->keep();
        return std::nullopt;
    }

    // The log's own first record. Anywhere else, or of another log, it is a stranger's.
    std::optional<Parked> judge_identity(const schemas::Event& event, const kafka::Record& record) const {
        const auto uuid = event.data ? event.data.find("uuid") : schemas::json::Value{};
        if (record.offset == 0 && uuid && uuid.text() == target_.log_uuid) return std::nullopt;
        return Parked{reason::kUnexpectedIdentity, "a log.created that is not the first record of this log"};
    }

    // An operator's decision stands for the letter's own record: the letter is judged again here, the decision itself
    // applies whatever comes of that. A letter that is not open any more, or never was one, is left alone.
    std::optional<Parked> redrive(const schemas::Event& event, const kafka::Record& record, Timestamp log_time) {
        const auto read = dead_letter::read_redriven(event.data, schemas::json::Unknown::ignore, "/data");
        if (!read) return Parked{reason::kInvalidData, describe(read.violations())};
        const auto edit = read->edit ? std::optional(std::string(*read->edit)) : std::nullopt;
        auto* letter = undecided(record, read->offset);
        if (letter == nullptr || letter->status != "open") return std::nullopt;
        if (read->attempts && *read->attempts != letter->attempts) return std::nullopt;
        auto* const queue = letter->queue;
        if (queue != nullptr && head(*queue) != read->offset) return std::nullopt;  // not its turn
        judge_again(*letter, read->offset, edit, record, log_time);
        if (queue != nullptr && letter->queue == nullptr) release(*queue, record, log_time);
        return std::nullopt;
    }

    // A dead letter where the decision about it stands, or about the one that it waited behind.
    void judge_again(DeadLetter& letter, std::int64_t offset, const std::optional<std::string>& edit,
                     const kafka::Record& decision, Timestamp log_time) {
        letter.decided_at = decision.offset;
        Judged again{{decision.partition, decision.offset}, {}, {}, decision.append_time, letter.append_time};
        std::string key;
        std::string value;
        if (letter.record != nullptr) {
            again.key = letter.record->key;
            again.value = letter.record->value;
        } else {
            pg::Params params;
            params.add(decision.partition).add(offset).add(!edit);
            const auto row = tx_.run(kLoadRecord, params);
            if (!row.boolean(0, 0)) again.key = key = row.bytes(0, 1);
            if (!row.boolean(0, 2)) again.value = value = row.bytes(0, 3);
        }
        if (edit) again.value = *edit;
        bool duplicate = false;  // its effect is there
        if (auto parked = judge(again, log_time, duplicate)) {
            letter.attempts += 1;
            letter.detail = printable("attempt " + std::to_string(letter.attempts) + ": " +
                                      std::string(parked->reason) + ": " + parked->detail);
            if (letter.attempts >= dead_letter::kMostAttempts) letter.status = "quarantined";
            if (!is_holding(parked->reason)) letter.queue = nullptr;
        } else {
            letter.status = "redriven";
            letter.queue = nullptr;
        }
    }

    // The head of the queue has left it: those behind it are judged until one stays.
    void release(Queue& queue, const kafka::Record& decision, Timestamp log_time) {
        for (std::int64_t released = 0; released < dead_letter::kMostReleased; ++released) {
            const auto next = head(queue);
            if (!next) return;
            auto& letter = *undecided(decision, *next);
            judge_again(letter, *next, {}, decision, log_time);
            if (letter.queue != nullptr) return;
        }
    }

    std::optional<Parked> discard(const schemas::Event& event, const kafka::Record& record, Timestamp log_time) {
        const auto read = dead_letter::read_discarded(event.data, schemas::json::Unknown::ignore, "/data");
        if (!read) return Parked{reason::kInvalidData, describe(read.violations())};
        const auto note = read->note ? std::optional(std::string(*read->note)) : std::nullopt;
        auto* letter = undecided(record, read->offset);
        if (letter == nullptr) return std::nullopt;
        auto* const queue = letter->queue;
        const bool releases = queue != nullptr && head(*queue) == read->offset;
        letter->decided_at = record.offset;
        letter->status = "discarded";
        letter->note = note;
        letter->queue = nullptr;
        if (releases) release(*queue, record, log_time);
        return std::nullopt;
    }

    // A letter that is open, or that holds its entity although it is quarantined: only to discard it helps then. Null
    // when there is none that a decision at this record could be about.
    DeadLetter* undecided(const kafka::Record& record, std::int64_t offset) {
        const Position position{record.partition, offset};
        if (!letters_.contains(position)) {
            // Those of this batch stand in letters_, and one that is still to come is not meant.
            if (offset >= from_) return nullptr;
            load_letters({position});
        }
        auto& letter = letters_.at(position);
        return letter && (letter->status == "open" || letter->queue != nullptr) ? &*letter : nullptr;
    }

    [[nodiscard]] bool is_holding(std::string_view reason) const {
        return std::find(holding_.begin(), holding_.end(), reason) != holding_.end();
    }

    // Not so what an operator decides, and what says which log this is.
    bool is_of_an_entity(const kafka::Record& record) {
        if (!record.value) return true;
        const auto event = schemas::read_event(reader_, *record.value);
        return !event || (event->type != schemas::kLogCreated && !dead_letter::is_decision(event->type));
    }

    // Why a record that would be judged now is parked instead, whatever is in it.
    std::optional<Parked> wait_behind(const kafka::Record& record) {
        if (held_.empty() || !record.key) return std::nullopt;
        const auto held = held_.find({record.partition, entity_of(*record.key)});
        if (held == held_.end()) return std::nullopt;
        const auto first = head(held->second);
        if (!first || !is_of_an_entity(record)) return std::nullopt;
        return Parked{reason::kBehindDeadLetter, "came while " + std::to_string(record.partition) + ':' +
                                                     std::to_string(*first) + " held its key"};
    }

    // The queue that a record which was parked stands in from now on; null: none.
    Queue* begin_to_hold(const kafka::Record& record, std::string_view reason) {
        if (reason != reason::kBehindDeadLetter && (!is_holding(reason) || !record.key || !is_of_an_entity(record)))
            return nullptr;
        // load_heads has seen that the table holds nothing of an entity that is not in held_.
        const std::pair place(record.partition, entity_of(*record.key));
        const bool is_new = !held_.contains(place);
        auto& queue = queue_of(place.first, place.second);
        if (is_new) queue.is_whole = true;
        if (queue.is_whole) {
            queue.offsets.push_back(record.offset);
        } else {
            queue.behind_table.push_back(record.offset);
        }
        return &queue;
    }

    Queue& queue_of(std::int32_t partition, const std::string& entity) {
        auto& queue = held_[{partition, entity}];
        queue.partition = partition;
        queue.entity = entity;
        return queue;
    }

    // The first letter that still holds the entity.
    std::optional<std::int64_t> head(Queue& queue) {
        while (true) {
            while (!queue.offsets.empty()) {
                const auto letter = letters_.find({queue.partition, queue.offsets.front()});
                if (letter == letters_.end() || letter->second->queue != nullptr) return queue.offsets.front();
                queue.offsets.pop_front();
            }
            if (queue.is_whole) return std::nullopt;
            load_queue(queue);
        }
    }

    // The entities of this batch that are held. A stream that does not ask for it asks nothing here.
    void load_heads() {
        if (holding_.empty()) return;
        pg::Array all;
        for (const auto& part : batch_.parts)
            all.add(part.partition);
        pg::Params params;
        params.add(std::move(all));
        const auto found = tx_.run(kFindHeld, params);
        if (found.empty()) return;
        std::set<std::int32_t> partitions;
        for (std::size_t row = 0; row < found.size(); ++row)
            partitions.insert(static_cast<std::int32_t>(found.integer(row, 0)));
        std::set<std::pair<std::int32_t, std::string>> wanted;
        for (const auto& part : batch_.parts) {
            if (!partitions.contains(part.partition)) continue;
            for (const auto& record : part.records) {
                if (record.key) wanted.emplace(part.partition, entity_of(*record.key));
            }
        }
        pg::Array of;
        pg::Array entities;
        for (const auto& [partition, entity] : wanted) {
            of.add(partition);
            entities.add_bytes(entity);
        }
        pg::Params heads;
        heads.add(std::move(of)).add(std::move(entities));
        const auto rows = tx_.run(kLoadHeads, heads);
        for (std::size_t row = 0; row < rows.size(); ++row) {
            auto& queue = queue_of(static_cast<std::int32_t>(rows.integer(row, 0)), rows.bytes(row, 1));
            queue.loaded_to = rows.integer(row, 2);
            queue.offsets.push_back(queue.loaded_to);
        }
    }

    // As with identities: what says so in plain is loaded at once, the rest when it is met.
    std::set<Position> wanted_letters() {
        constexpr std::string_view kType = "\"tidemark.dead_letter.";
        std::set<Position> wanted;
        for (const auto& part : batch_.parts) {
            for (const auto& record : part.records) {
                if (!record.value || !contains(*record.value, kType)) continue;
                const auto event = schemas::read_event(reader_, *record.value);
                if (!event || !dead_letter::is_decision(event->type)) continue;
                if (!event->data || !event->data.is(schemas::json::Kind::object)) continue;
                const auto offset = event->data.find("offset");
                if (!offset || !offset.is(schemas::json::Kind::number)) continue;
                constexpr auto kMax = std::numeric_limits<std::int64_t>::max();
                const auto number = schemas::json::to_integer(offset.text(), 0, kMax);
                if (number && *number < part.from) wanted.insert({record.partition, *number});
            }
        }
        return wanted;
    }

    void load_letters(const std::set<Position>& positions) {
        if (positions.empty()) return;
        pg::Array partitions;
        pg::Array offsets;
        for (const auto& position : positions) {
            partitions.add(std::int64_t{position.partition});
            offsets.add(position.offset);
        }
        pg::Params params;
        params.add(std::move(partitions)).add(std::move(offsets));
        const auto rows = tx_.run(kLoadLetters, params);
        for (std::size_t row = 0; row < rows.size(); ++row) {
            const auto partition = static_cast<std::int32_t>(rows.integer(row, 0));
            take_letter(rows, row, rows.boolean(row, 6) ? &queue_of(partition, rows.bytes(row, 7)) : nullptr);
        }
        for (const auto& position : positions)
            letters_.try_emplace(position);
    }

    void take_letter(const pg::Rows& rows, std::size_t row, Queue* queue) {
        const Position position{static_cast<std::int32_t>(rows.integer(row, 0)), rows.integer(row, 1)};
        const auto [at, is_new] = letters_.try_emplace(position);
        if (!is_new) return;  // it may have been decided about since
        auto& letter = at->second.emplace();
        letter.append_time = rows.instant(row, 2);
        letter.detail = rows.text(row, 3);
        letter.attempts = rows.integer(row, 4);
        letter.status = rows.text(row, 5) == "open" ? "open" : "quarantined";
        letter.queue = queue;
    }

    // Some more of it: one may be as long as the log.
    void load_queue(Queue& queue) {
        pg::Params params;
        params.add(queue.partition).add_bytes(queue.entity).add(queue.loaded_to).add(dead_letter::kMostReleased);
        const auto rows = tx_.run(kLoadQueue, params);
        for (std::size_t row = 0; row < rows.size(); ++row) {
            take_letter(rows, row, &queue);
            queue.loaded_to = rows.integer(row, 1);
            queue.offsets.push_back(queue.loaded_to);
        }
        if (static_cast<std::int64_t>(rows.size()) == dead_letter::kMostReleased) return;
        queue.is_whole = true;
        queue.offsets.insert(queue.offsets.end(), queue.behind_table.begin(), queue.behind_table.end());
        queue.behind_table.clear();
    }

    void park() {
        for (const auto& [position, letter] : letters_) {
            if (letter && letter->record != nullptr) {
                insert(*letter);
            } else if (letter && letter->decided_at) {
                pg::Params params;
                params.add(position.partition).add(position.offset).add(letter->detail);
                params.add(letter->attempts).add(letter->status).add(*letter->decided_at);
                add_optional(params, letter->note);
                params.add(letter->queue != nullptr);
                tx_.run(kDecide, params);
            }
        }
    }

    void insert(const DeadLetter& letter) {
        const auto& record = *letter.record;
        pg::Array names;
        pg::Array values;
        for (const auto& header : record.headers()) {
            names.add_bytes(header.name);
            values.add_bytes(header.value);
        }
        pg::Params params;
        params.add(record.partition).add(record.offset).add(target_.topic).add(record.append_time);
        for (const auto& bytes : {record.key, record.value}) {
            if (bytes) {
                params.add_bytes(*bytes);
            } else {
                params.add_null();
            }
        }
        params.add(std::move(names)).add(std::move(values)).add(letter.reason).add(letter.detail);
        params.add(letter.attempts).add(letter.status);
        add_optional(params, letter.decided_at);
        add_optional(params, letter.note);
        params.add(letter.queue != nullptr);
        tx_.run(kPark, params);
    }

    void store_first_sights() {
        const auto rows = dedupe_.to_store();
        if (rows.empty()) return;
        pg::Array partitions;
        pg::Array identities;
        pg::Array offsets;
        pg::Array log_times;
        pg::Array hashes;
        for (const auto& [id, first] : rows) {
            partitions.add(std::int64_t{id->partition});
            identities.add(std::string_view(id->identity));
            offsets.add(first->offset);
            log_times.add(first->log_time);
            hashes.add_bytes(first->data_hash);
        }
        pg::Params params;
        params.add(std::move(partitions)).add(std::move(identities)).add(std::move(offsets));
        params.add(std::move(log_times)).add(std::move(hashes));
        tx_.run(kStoreFirstSights, params);
        pg::Array pruned;
        pg::Array until;
        for (const auto& tally : tallies_) {
            pruned.add(std::int64_t{tally.partition});
            until.add(tally.log_time);
        }
        pg::Params prune;
        prune.add(std::move(pruned)).add(std::move(until));
        tx_.run(kPruneFirstSights, prune);
    }

    void store_imports() {
        pg::Array partitions;
        pg::Array files;
        pg::Array numbers;
        pg::Array bits;
        for (const auto& [block, lines] : imports_.blocks()) {
            if (!lines.changed) continue;
            partitions.add(block.partition);
            files.add(block.file);
            numbers.add(block.number);
            bits.add_bytes(lines.bits);
        }
        if (partitions.size() == 0) return;
        pg::Params params;
        params.add(std::move(partitions)).add(std::move(files)).add(std::move(numbers)).add(std::move(bits));
        tx_.run(kStoreImports, params);
    }

    pg::Transaction& tx_;
    const Target& target_;
    const OffsetStore& store_;
    const Batch& batch_;
    const WindowsFrom& windows_from_;
    const std::map<Position, std::string>& refused_;
    FlushReport& report_;
    std::span<const std::string_view> holding_;
    std::unique_ptr<Fold> fold_;
    schemas::json::Reader reader_;
    Dedupe dedupe_;
    Imports imports_;
    std::map<Position, std::optional<DeadLetter>> letters_;       // nullopt: none that is open, or holds
    std::map<std::pair<std::int32_t, std::string>, Queue> held_;  // by partition and entity
    std::vector<OffsetStore::Tally> tallies_;
    std::int64_t from_ = 0;  // of the part being folded
};

// One whole transaction. Throws pg::Error; `commit_began` tells an error of the commit from an earlier one.
FlushReport attempt(pg::Connection& connection, const Target& target, const OffsetStore& store, const Batch& batch,
                    const std::map<Position, std::string>& refused, bool probe_only) {
    FlushReport report;
    FAILPOINT("c3_begin");
    auto tx = connection.begin();
    const auto windows_from = store.advance(tx, batch);
    if (!windows_from) {
        report.outcome = Flushed::fenced;
        report.error = kFenced;
        return report;
    }
    FAILPOINT("c4_fenced");
    Attempt(tx, target, store, batch, *windows_from, refused, report).run();
    if (probe_only) return report;  // rolled back: it was only to see whether the database takes the values
    if (report.records > 0) {
        pg::Params channel;
        channel.add(target.projection->stream().name);
        tx.run(kNotify, channel);
    }
    FAILPOINT("c6_commit");
    tx.commit();
    FAILPOINT("c7_committed");
    report.outcome = Flushed::committed;
    return report;
}

// The batch with only the first `count` of its records, counted over all parts in order.
Batch prefix(const Batch& batch, std::size_t count) {
    Batch cut;
    for (const auto& part : batch.parts) {
        const auto taken = std::min(count, part.records.size());
        cut.parts.push_back(part);
        cut.parts.back().records = part.records.subspan(0, taken);
        count -= taken;
    }
    return cut;
}

const kafka::Record& record_at(const Batch& batch, std::size_t index) {
    auto part = batch.parts.begin();
    for (; index >= part->records.size(); ++part)
        index -= part->records.size();
    return part->records[index];
}

// What looking for a refused record came to.
struct Located {
    bool fenced = false;             // the rows were taken from us meanwhile
    bool accepted = false;           // the database takes the whole batch now
    std::optional<Position> record;  // nullopt: no record is to blame
    std::string sqlstate;
    std::string error;
};

// Finds the record with which the database begins to refuse the batch. Every probe has what comes before it, as it
// would in any other cut: what a record means may depend on that.
Located locate(pg::Connection& connection, const Target& target, const OffsetStore& store, const Batch& batch,
               const std::map<Position, std::string>& refused) {
    Located located;
    const auto is_refused = [&](std::size_t count) {
        try {
            const auto report = attempt(connection, target, store, prefix(batch, count), refused, true);
            located.fenced = located.fenced || report.outcome == Flushed::fenced;
            return false;
        } catch (const pg::Error& error) {
            if (error.failure() != pg::Failure::data) throw;
            located.sqlstate = error.sqlstate();
            located.error = error.what();
            return true;
        }
    };
    std::size_t accepted = 0;
    std::size_t refused_at = batch.records();
    while (refused_at - accepted > 1 && !located.fenced) {
        const auto middle = accepted + (refused_at - accepted) / 2;
        (is_refused(middle) ? refused_at : accepted) = middle;
    }
    if (refused_at == 0 || located.fenced || (accepted == 0 && is_refused(0))) return located;
    if (!is_refused(refused_at)) {
        located.accepted = true;
        return located;
    }
    const auto& bad = record_at(batch, refused_at - 1);
    located.record = Position{bad.partition, bad.offset};
    return located;
}

}  // namespace

FlushReport flush(pg::Connection& connection, const Target& target, const OffsetStore& store, const Batch& batch) {
    std::map<Position, std::string> refused;
    while (true) {
        try {
            return attempt(connection, target, store, batch, refused, false);
        } catch (const pg::Error& error) {
            FlushReport report;
            report.error = error.what();
            report.connection_lost = connection.is_broken();
            switch (error.failure()) {
                case pg::Failure::in_doubt:
                    report.outcome = Flushed::in_doubt;
                    return report;
                case pg::Failure::connection_lost:
                case pg::Failure::retryable:
                case pg::Failure::schema_changed:
                    return report;
                case pg::Failure::bug:
                    throw;
                case pg::Failure::data:
                    break;
            }
            Located located;
            try {
                located = locate(connection, target, store, batch, refused);
            } catch (const pg::Error& while_locating) {
                if (while_locating.failure() == pg::Failure::bug) throw;
                report.error = while_locating.what();
                report.connection_lost = connection.is_broken();
                return report;
            }
            if (located.fenced) {
                report.outcome = Flushed::fenced;
                report.error = kFenced;
                return report;
            }
            if (located.accepted) return report;  // to be done again
            if (!located.record) throw;           // refused without any record: not a poison record but a bug
            base::log::warn("record_refused_by_database", {{"topic", target.topic},
                                                           {"partition", located.record->partition},
                                                           {"offset", located.record->offset},
                                                           {"sqlstate", located.sqlstate},
                                                           {"error", located.error}});
            // The message itself may name what else was in the batch or the table, and the cut would show.
            refused[*located.record] = "the database refused its values with SQLSTATE " + located.sqlstate;
        }
    }
}

}  // namespace tidemark::consumers
