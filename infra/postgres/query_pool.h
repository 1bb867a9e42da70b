#pragma once

#include "infra/postgres/connection.h"

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

namespace tidemark::pg {

struct QueryPoolOptions {
    std::string dsn;
    SessionOptions session;
    unsigned connections = 2;  ///< each with a thread; queries are pipelined, so few suffice
    std::size_t max_queued = 4'096;
    std::chrono::milliseconds query_timeout{3'000};  ///< from submit to answer
};

/// What came of a query: rows, or the error.
struct QueryResult {
    Rows rows;
    std::unique_ptr<Error> error;  ///< null when rows hold the answer
};
using QueryCallback = std::function<void(QueryResult)>;

/// Read-only statements, answered off the caller's thread: all that is queued goes out in one pipeline per connection,
/// each with a Sync of its own. Reads are retried once on a fresh connection or a fresh plan, so a restart of the
/// database or a swap of generations shows as latency, not as an error. Callbacks run on a pool thread, exactly once,
/// and must not block or throw. The destructor answers what is left with an error and joins.
class QueryPool {
public:
    explicit QueryPool(QueryPoolOptions options);
    ~QueryPool();
    QueryPool(const QueryPool&) = delete;
    QueryPool& operator=(const QueryPool&) = delete;

    /// Any thread. False: the queue is full and the callback will not be called.
    bool submit(const Statement& statement, Params params, QueryCallback callback);
    /// Whether any connection is up now.
    [[nodiscard]] bool connected() const noexcept;
    [[nodiscard]] std::size_t queued() const noexcept;

private:
    struct State;
    std::unique_ptr<State> state_;
};

}  // namespace tidemark::pg
