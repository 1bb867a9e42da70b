#pragma once

#include "infra/postgres/error.h"
#include "infra/postgres/query.h"

#include <chrono>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace tidemark::pg {

/// What every session is given when it connects. The time-outs keep a stopped process from holding locks against its
/// successor.
struct SessionOptions {
    std::string application_name = "tidemark";
    std::string search_path;                             ///< empty: the server's
    std::chrono::milliseconds statement_timeout{2'000};  ///< 0: none
    std::chrono::milliseconds lock_timeout{1'000};
    std::chrono::milliseconds idle_in_transaction_timeout{5'000};
    std::chrono::seconds connect_timeout{3};
};

struct Notification {
    std::string channel;
    std::string payload;
};

class Transaction;

/// One session, belonging to one thread at a time. Once broken it stays broken: it never reconnects behind its owner's
/// back, who makes a new object. Every call throws pg::Error.
class Connection {
public:
    Connection(const std::string& dsn, const SessionOptions& options);
    ~Connection();
    Connection(Connection&&) noexcept;
    Connection& operator=(Connection&&) noexcept;

    /// One at a time; READ COMMITTED, read-write, or REPEATABLE READ, READ ONLY for a consistent look at several
    /// tables.
    [[nodiscard]] Transaction begin();
    [[nodiscard]] Transaction begin_snapshot();
    /// One statement in a transaction of its own.
    Rows run(const Statement& statement, const Params& params = {});
    /// SQL text of a migration: several statements, unprepared, in one transaction of its own. Never with foreign
    /// values in it.
    void run_script(const std::string& sql);

    void listen(const std::string& channel);
    /// Those that came; waits for the first at most `timeout`. Not while a transaction is open.
    std::vector<Notification> notifications(std::chrono::milliseconds timeout);

    [[nodiscard]] int backend_pid() const noexcept;
    [[nodiscard]] bool is_broken() const noexcept;

private:
    friend class Transaction;
    struct State;
    std::unique_ptr<State> state_;
};

/// Rolls back unless committed. Must not outlive its connection.
class Transaction {
public:
    Transaction(Transaction&&) noexcept;
    Transaction& operator=(Transaction&&) = delete;
    ~Transaction();

    Rows run(const Statement& statement, const Params& params = {});
    /// Unprepared text, for DDL. Never with foreign values in it.
    Rows run_script(const std::string& sql);
    /// Throws Failure::in_doubt when the connection broke under way: then only reading back tells.
    void commit();

private:
    friend class Connection;
    struct State;
    explicit Transaction(std::unique_ptr<State> state) noexcept;
    std::unique_ptr<State> state_;
};

/// `name` as a quoted identifier, for the few places (DDL of generations) where a parameter cannot stand.
std::string quote_identifier(std::string_view name);
/// `schema`.`name`, both quoted.
std::string quote_identifier(std::string_view schema, std::string_view name);

}  // namespace tidemark::pg
