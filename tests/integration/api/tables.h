#pragma once

#include "infra/postgres/connection.h"
#include "infra/postgres/session.h"
#include "schemas/sql.h"
#include "tests/support/postgres.h"

#include <unistd.h>
#include <pqxx/pqxx>

#include <atomic>
#include <string>

namespace tidemark::tests {

/// A database of its own with the tables of every stream, of two partitions each, which the test fills as a consumer
/// would.
class Tables {
public:
    static constexpr const char* kLogHash = "0a1b2c3d";

    Tables() {
        static std::atomic<int> made = 0;
        name_ = "tidemark_api_test_" + std::to_string(getpid()) + "_" + std::to_string(++made);
        pqxx::connection server(test::dsn());
        pqxx::nontransaction(server).exec("create database " + name_ + " template template0");
        execute(std::string(schemas::sql("registry")));
        for (const std::string stream : {"counters", "vehicles"}) {
            execute("insert into tidemark.streams values ('" + stream + "', 'tidemark." + stream + "', 2, 'uuid', '" +
                    kLogHash + "')");
            make_generation(stream, stream, 1, "live");
        }
    }
    ~Tables() {
        try {
            pqxx::connection server(test::dsn());
            pqxx::nontransaction(server).exec("drop database " + name_ + " with (force)");
        } catch (const std::exception&) {
            // A database left behind disturbs nobody: its name is not used again.
        }
    }
    Tables(const Tables&) = delete;
    Tables& operator=(const Tables&) = delete;

    [[nodiscard]] std::string dsn() const {
        return pg::session::connection_string(test::dsn(), {}, pg::session::Access::read_write) + " dbname='" + name_ +
               "'";
    }
    [[nodiscard]] std::string dsn(const test::Network& network) const {
        return network.dsn() + " dbname='" + name_ + "'";
    }

    void make_generation(const std::string& stream, const std::string& schema, int generation,
                         const std::string& status) {
        const auto number = std::to_string(generation);
        execute("create schema " + schema + "; set local search_path to " + schema + "; " +
                std::string(schemas::sql("generation")) + std::string(schemas::sql(stream)) +
                "; insert into offsets (generation, partition, as_of) values (" + number + ", 0, now()), (" + number +
                ", 1, now()); insert into tidemark.generations values ('" + stream + "', " + number + ", '" + schema +
                "', 'v1', '" + status + "')");
    }
    /// One transaction.
    void execute(const std::string& sql) const { pg::Connection(dsn(), {}).run_script(sql); }
    /// As a flush ends: the partition is that far, and everybody is told.
    void flush(const std::string& stream, const std::string& changes, int partition, int next_offset) const {
        execute("set local search_path to " + stream + "; " + changes +
                "; update offsets set as_of = now(), next_offset = " + std::to_string(next_offset) +
                " where partition = " + std::to_string(partition) + "; select pg_notify('tidemark_progress', '" +
                stream + "')");
    }

private:
    std::string name_;
};

}  // namespace tidemark::tests
