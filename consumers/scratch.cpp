#include "consumers/scratch.h"

#include "consumers/case_file.h"
#include "consumers/diff.h"
#include "consumers/flush.h"
#include "consumers/swap.h"
#include "infra/base/backoff.h"
#include "infra/base/log.h"

#include <array>
#include <chrono>
#include <functional>
#include <map>
#include <numeric>
#include <optional>
#include <stdexcept>
#include <thread>
#include <utility>
#include <vector>

namespace tidemark::consumers {

using std::chrono::milliseconds;

namespace {

// Of a flush that failed for what may pass, a deadlock or a time-out, with some pauses between: seconds.
constexpr int kMostTries = 8;

constexpr pg::Statement kBegin{"scratch_begin", R"(
update offsets set first_offset = $3, next_offset = $3 where generation = $1 and partition = $2)"};

pg::SessionOptions session(const std::string& schema = {}) {
    pg::SessionOptions options;
    options.application_name = "tidemark-consumer replay --from-file";
    if (!schema.empty()) options.search_path = pg::quote_identifier(schema);
    options.statement_timeout = std::chrono::minutes(5);
    options.lock_timeout = std::chrono::seconds(10);
    options.idle_in_transaction_timeout = std::chrono::minutes(1);
    return options;
}

Generation make_scratch(const std::string& dsn, const Projection& projection, std::int32_t partitions) {
    Generation made;
    made.target.projection = &projection;
    made.target.topic = projection.stream().topic;
    made.target.partitions = partitions;
    made.role = Role::scratch;
    pg::Connection connection(dsn, session());
    auto tx = connection.begin();
    made.target.generation = next_generation(tx, projection);
    made.schema = std::string(projection.stream().name) + "_" + std::to_string(made.target.generation);
    try {
        create_generation(tx, projection, made.target.generation, made.schema, partitions, made.role);
    } catch (const pg::Error& error) {
        constexpr auto kCheckViolation = "23514";
        if (error.sqlstate() != kCheckViolation) throw;
        throw Refused(
            "an earlier version made the registry of this database, which knows no scratch: run "
            "`tidemark-consumer migrate` first");
    }
    tx.commit();
    return made;
}

// The tables of one scratch, for as long as they are folded, and then either kept or dropped.
class Scratch {
public:
    Scratch(const ScratchOptions& options, const Projection& projection, std::int32_t partitions)
        : options_(options),
          generation_(make_scratch(options.owner_dsn, projection, partitions)),
          store_(generation_.target.generation, "scratch") {
        try {
            connection_.emplace(options.owner_dsn, session(generation_.schema));
        } catch (...) {
            drop();
            throw;
        }
    }
    ~Scratch() {
        if (!kept_) drop();
    }
    Scratch(const Scratch&) = delete;
    Scratch& operator=(const Scratch&) = delete;

    void keep() noexcept { kept_ = true; }
    [[nodiscard]] const Generation& generation() const noexcept { return generation_; }
    [[nodiscard]] bool is_full() const noexcept { return records_ >= options_.records || bytes_ >= options_.bytes; }

    // `bytes`: what it takes in memory, about.
    void take(kafka::Record record, std::size_t bytes) {
        const auto [found, is_new] = parts_.try_emplace(record.partition);
        auto& part = found->second;
        if (is_new) begin(part, record.partition, record.offset);
        records_ += 1;
        bytes_ += bytes;
        part.records.push_back(std::move(record));
    }

    // Writes what was taken. `log_uuid` is the log's identity, as far as it is known.
    void write(const std::string& log_uuid, ScratchReport& report) {
        generation_.target.log_uuid = log_uuid;
        Batch batch;
        for (const auto& [partition, part] : parts_) {
            if (part.records.empty()) continue;
            const auto& claim = part.claim;
            const auto next = part.records.back().offset + 1;
            const auto gaps = next - claim.next_offset - static_cast<std::int64_t>(part.records.size());
            batch.parts.push_back(
                {partition, claim.epoch, claim.next_offset, next, gaps, claim.log_time, std::nullopt, part.records});
        }
        if (batch.parts.empty()) return;
        const auto flushed = flush_once(batch);
        for (const auto& one : batch.parts) {
            auto& part = parts_.at(one.partition);
            part.claim.next_offset = one.next;
            part.claim.log_time = flushed.log_times.at(one.partition);
            part.records.clear();
        }
        records_ = 0;
        bytes_ = 0;
        report.records += static_cast<std::int64_t>(flushed.records);
        report.applied += flushed.applied;
        report.duplicates += flushed.duplicates;
        for (const auto& [reason, count] : flushed.parked)
            report.parked[std::string(reason)] += count;
    }

    std::string digest() {
        std::string digest;
        guarded([&] {
            auto tx = connection_->begin_snapshot();
            tx.run_script("set local statement_timeout = 0");
            // Nobody drops it under way: there would be nothing left to be summed up.
            tx.run_script("lock table offsets in access share mode");
            digest = digest_of(tx, generation_);
        });
        return digest;
    }

private:
    struct Part {
        Claim claim;
        std::vector<kafka::Record> records;
    };

    // A partition begins where its first record stood: what came before it is not missing.
    void begin(Part& part, std::int32_t partition, std::int64_t offset) {
        pg::Params params;
        params.add(std::int64_t{generation_.target.generation}).add(partition).add(offset);
        guarded([&] {
            connection_->run(kBegin, params);
            const auto claims = store_.claim(*connection_, std::array{partition});
            if (claims.empty()) refuse_dropped();
            part.claim = claims.front();
        });
    }

    FlushReport flush_once(const Batch& batch) {
        base::Backoff pause(milliseconds(50), milliseconds(1'000), 1);
        for (int tries = 1;; ++tries) {
            FlushReport report;
            guarded([&] { report = flush(*connection_, generation_.target, store_, batch); });
            if (report.outcome == Flushed::committed) return report;
            if (!report.connection_lost) check_is_there();
            if (report.outcome != Flushed::failed || report.connection_lost || tries >= kMostTries ||
                options_.cancelled())
                throw std::runtime_error("the fold of the file failed: " + report.error);
            std::this_thread::sleep_for(pause.next());
        }
    }

    void guarded(const std::function<void()>& work) {
        try {
            work();
        } catch (const pg::Error& error) {
            if (tables_moved(error)) check_is_there();
            throw;
        }
    }
    void check_is_there() {
        if (!find_place(*connection_, *generation_.target.projection, generation_.target.generation)) refuse_dropped();
    }
    [[noreturn]] void refuse_dropped() const {
        throw Refused("generation " + std::to_string(generation_.target.generation) +
                      " was dropped meanwhile: fold the file again");
    }

    void drop() noexcept {
        const auto number = generation_.target.generation;
        const auto& projection = *generation_.target.projection;
        try {
            connection_.reset();  // it may hold what is to be dropped
            drop_generation(options_.owner_dsn, projection, number);
        } catch (const Refused&) {
            // Somebody else has dropped it.
        } catch (const std::exception& error) {
            base::log::error("scratch_left",
                             {{"stream", projection.stream().name},
                              {"generation", number},
                              {"error", error.what()},
                              {"hint", "tidemark-consumer drop " + std::string(projection.stream().name) + " " +
                                           std::to_string(number)}});
        }
    }

    const ScratchOptions& options_;
    Generation generation_;
    OffsetStore store_;
    std::optional<pg::Connection> connection_;
    std::map<std::int32_t, Part> parts_;
    std::size_t records_ = 0;
    std::size_t bytes_ = 0;
    bool kept_ = false;
};

void check_is_readable(const CaseFile& file, const ScratchOptions& options) {
    // Reading ends with the program, too.
    if (file.failed() && !options.cancelled())
        throw std::runtime_error("the file could not be read to its end: see that it is whole, and fold it again");
}

}  // namespace

std::int64_t ScratchReport::all_parked() const {
    return std::accumulate(parked.begin(), parked.end(), std::int64_t{0},
                           [](std::int64_t sum, const auto& one) { return sum + one.second; });
}

ScratchReport fold_file(const ScratchOptions& options, const Projection& projection, std::istream& lines) {
    CaseFile file(lines, projection);
    ScratchReport report;
    auto record = file.next();
    check_is_readable(file, options);
    Scratch scratch(options, projection, file.partitions());
    report.generation = scratch.generation().target.generation;
    report.schema = scratch.generation().schema;
    const auto write = [&] {
        scratch.write(file.log_uuid(), report);
        report.of_other_streams = file.skipped().of_other_streams;
        report.decisions = file.skipped().decisions;
        options.on_progress(report);
    };
    for (; record && !options.cancelled(); record = file.next()) {
        const auto bytes = record->bytes() + file.line_bytes();
        scratch.take(*std::move(record), bytes);
        if (scratch.is_full()) write();
    }
    check_is_readable(file, options);
    if (!options.cancelled()) write();
    if (options.cancelled()) return report;
    const auto digest = scratch.digest();
    if (options.cancelled()) return report;
    report.digest = std::to_string(report.applied) + "-" + std::to_string(report.duplicates) + "-" +
                    std::to_string(report.all_parked()) + "-" + digest;
    report.complete = true;
    if (options.keep) scratch.keep();
    return report;
}

}  // namespace tidemark::consumers
