#pragma once

#include "consumers/flush.h"
#include "consumers/generation.h"
#include "consumers/offset_store.h"
#include "consumers/projection.h"
#include "consumers/stream_state.h"
#include "infra/postgres/connection.h"
#include "infra/postgres/session.h"
#include "schemas/sql.h"
#include "tests/support/fake_log.h"
#include "tests/support/postgres.h"

#include <pqxx/pqxx>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <limits>
#include <map>
#include <optional>
#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace tidemark::tests {

inline constexpr std::string_view kLogUuid = "01890a5d-ac96-774b-bcce-b302099a8057";

/// A database of its own with the registry in it, dropped in the end.
class ScratchDatabase {
public:
    ScratchDatabase() {
        static std::atomic<int> made = 0;
        name_ = "tidemark_test_" + std::to_string(getpid()) + "_" + std::to_string(++made);
        pqxx::connection server(test::dsn());
        pqxx::nontransaction(server).exec("create database " + name_ + " template template0");
        pg::Connection connection(dsn(), {});
        for (const char* role : {"tidemark_consumer", "tidemark_api"}) {
            connection.run_script("do $$ begin create role " + std::string(role) +
                                  " login; exception when duplicate_object or unique_violation then null; end $$");
        }
        connection.run_script(std::string(schemas::sql("registry")));
    }
    ~ScratchDatabase() {
        try {
            pqxx::connection server(test::dsn());
            pqxx::nontransaction(server).exec("drop database " + name_ + " with (force)");
        } catch (const std::exception&) {
            // A database left behind disturbs nobody: its name is not used again.
        }
    }
    ScratchDatabase(const ScratchDatabase&) = delete;
    ScratchDatabase& operator=(const ScratchDatabase&) = delete;

    [[nodiscard]] std::string dsn() const { return in_it(test::dsn()); }
    /// The same by way of a network. Later keywords win.
    [[nodiscard]] std::string dsn(const test::Network& network) const {
        return network.dsn() + " dbname='" + name_ + "'";
    }

    /// The tables of a new generation, folded from nothing yet.
    consumers::Target make_generation(const consumers::Projection& projection, std::int32_t partitions,
                                      consumers::Role role = consumers::Role::candidate) {
        consumers::Target target;
        target.projection = &projection;
        target.generation = ++generations_;
        const std::string stream(projection.stream().name);
        const auto schema = role == consumers::Role::live ? stream : stream + "_" + std::to_string(target.generation);
        target.topic = projection.stream().topic;
        target.partitions = partitions;
        target.log_uuid = kLogUuid;
        pg::Connection connection(dsn(), {});
        auto tx = connection.begin();
        tx.run_script("insert into tidemark.streams values ('" + std::string(projection.stream().name) + "', '" +
                      target.topic + "', " + std::to_string(partitions) + ", '" + target.log_uuid +
                      "', '') on conflict do nothing");
        consumers::create_generation(tx, projection, target.generation, schema, partitions, role);
        tx.commit();
        return target;
    }

private:
    [[nodiscard]] std::string in_it(const std::string& dsn) const {
        return pg::session::connection_string(dsn, {}, pg::session::Access::read_write) + " dbname='" + name_ + "'";
    }

    std::string name_;
    int generations_ = 0;
};

/// Of the tables as they stand now.
inline pg::SessionOptions session_options(const std::string& dsn, const consumers::Target& target) {
    pg::Connection connection(dsn, {});
    const auto place = consumers::find_place(connection, *target.projection, target.generation);
    if (!place) throw std::logic_error("the generation was dropped");
    pg::SessionOptions options;
    options.search_path = place->schema;
    options.application_name = place->schema;
    return options;
}

/// A session of its own that looks into a generation's tables, and meddles with them.
class Tables {
public:
    Tables(const ScratchDatabase& database, const consumers::Target& target)
        : target_(target), connection_(database.dsn(), session_options(database.dsn(), target)) {}

    void execute(const std::string& sql) { connection_.run_script(sql); }
    /// The only cell of the answer.
    std::string ask(const std::string& sql) { return std::string(connection_.begin().run_script(sql).text(0, 0)); }

    /// Everything that is a function of the log, as text, by table. Not in it: who wrote it when, and first sights that
    /// can decide nothing any more, which a flush may delete or leave.
    std::map<std::string, std::string> all() {
        std::map<std::string, std::string> sources{
            {"offsets",
             "(select partition, first_offset, next_offset, log_time, applied, duplicates, parked, gaps from offsets)"},
            {"dedupe",
             "(select d.* from dedupe d join offsets o using (partition) where o.log_time - d.log_time <= '24 hours')"},
            {"dead_letters", "dead_letters"},
            {"imports", "imports"}};
        const bool counters = target_.projection->stream().name == "counters";
        for (const char* table :
             counters ? std::vector{"totals", "windows"} : std::vector{"history", "vehicles", "transitions"}) {
            sources[table] = table;
        }
        std::map<std::string, std::string> texts;
        for (const auto& [table, source] : sources) {
            texts[table] =
                ask("select coalesce(string_agg(t::text, e'\\n' order by t::text), '') from " + source + " t");
        }
        return texts;
    }

    /// Whether applied + duplicates + parked + gaps = next_offset - first_offset everywhere.
    bool conserved() {
        return ask("select bool_and(applied + duplicates + parked + gaps = next_offset - first_offset)::text from "
                   "offsets") == "true";
    }

    /// Other sessions in this database that are in such a state.
    int sessions(const std::string& condition) {
        return std::stoi(
            ask("select count(*) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid() "
                "and " +
                condition));
    }

    /// As promote does: whoever had the partition has it no more.
    void claim(std::int32_t partition) {
        execute("update offsets set epoch = epoch + 1 where partition = " + std::to_string(partition));
    }

private:
    consumers::Target target_;
    pg::Connection connection_;
};

/// The first row in which tables differ, after and before; empty when they are equal.
inline std::string difference(const std::map<std::string, std::string>& before,
                              const std::map<std::string, std::string>& after) {
    for (const auto& [table, rows] : before) {
        std::istringstream left(rows);
        std::istringstream right(after.at(table));
        while (left || right) {
            std::string was;
            std::string is;
            std::getline(left, was);
            std::getline(right, is);
            if (was != is) return table + ": " + is + " was " + was;
        }
    }
    return {};
}

/// One consumer's life after the other over a log that is there: a real StreamState and real flushes, and what
/// StreamProcessor does between them, at moments that the test chooses.
class Folding {
public:
    Folding(std::string dsn, consumers::Target target, const FakeLog& log)
        : dsn_(std::move(dsn)), target_(std::move(target)), log_(log), store_(target_.generation, "test") {
        restart();
    }

    /// As after a crash: nothing is remembered, everything is claimed.
    void restart() {
        state_.emplace(consumers::StreamState::Options{});
        kafka::Assigned assigned;
        for (std::int32_t partition = 0; partition < target_.partitions; ++partition)
            assigned.partitions.push_back(partition);
        state_->polled(assigned, now_);
        connect();
        claim();
    }
    void connect() { connection_.emplace(dsn_, session_options(dsn_, target_)); }
    void claim() {
        positions_.clear();
        for (const auto& start : state_->claimed(store_.claim(*connection_, state_->partitions()), now_)) {
            positions_[start.partition] = start.offset;
        }
    }

    /// Takes up to `count` records of the partition, or learns that there are no more.
    void take(std::int32_t partition, int count) {
        auto& position = positions_.at(partition);
        for (; count > 0; --count) {
            const auto* entry = log_.find(partition, position);
            if (entry == nullptr) {
                position = log_.end(partition);
                state_->polled(kafka::EndOfPartition{partition, position}, now_);
                return;
            }
            position = entry->offset + 1;
            state_->polled(FakeSource::record_of(partition, *entry), now_);
        }
    }
    void take_all() {
        for (const auto& [partition, position] : positions_)
            take(partition, std::numeric_limits<int>::max());
    }
    [[nodiscard]] bool has_taken_all() const {
        return std::all_of(positions_.begin(), positions_.end(),
                           [this](const auto& entry) { return entry.second == log_.end(entry.first); });
    }

    /// Writes what was taken.
    consumers::FlushReport flush() {
        const auto batch = state_->batch();
        if (batch.parts.empty()) return {};
        auto report = consumers::flush(*connection_, target_, store_, batch);
        state_->flushed(report.outcome, now_, now_);
        if (report.outcome == consumers::Flushed::committed) {
            for (const auto& [partition, log_time] : report.log_times)
                state_->log_time(partition, log_time);
        }
        return report;
    }
    /// After a commit in doubt.
    void resolve() { state_->resolved(store_.read(*connection_, state_->partitions()), now_); }

    [[nodiscard]] consumers::StreamState& state() { return *state_; }
    [[nodiscard]] pg::Connection& connection() { return *connection_; }
    [[nodiscard]] const consumers::OffsetStore& store() const { return store_; }
    [[nodiscard]] const consumers::Target& target() const { return target_; }

private:
    std::string dsn_;
    consumers::Target target_;
    const FakeLog& log_;
    consumers::OffsetStore store_;
    std::optional<consumers::StreamState> state_;
    std::optional<pg::Connection> connection_;
    std::map<std::int32_t, std::int64_t> positions_;
    consumers::StreamState::Instant now_{std::chrono::seconds(1'000)};
};

}  // namespace tidemark::tests
