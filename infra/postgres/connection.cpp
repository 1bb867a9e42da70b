#include "infra/postgres/connection.h"

#include "infra/postgres/session.h"

#include <poll.h>
#include <pqxx/pqxx>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <exception>
#include <stdexcept>
#include <utility>

#if defined(__SANITIZE_ADDRESS__) && PQXX_VERSION_MAJOR < 7
/// libpqxx 6 loses the server's last result when a connection breaks: about 2 KiB each time, by the library's hand
/// alone.
extern "C" const char* __lsan_default_suppressions();
extern "C" const char* __lsan_default_suppressions() {
    return "leak:libpqxx-6";
}
#endif

namespace tidemark::pg {

namespace {

#if PQXX_VERSION_MAJOR >= 7
using ReadWrite = pqxx::work;
using Snapshot = pqxx::transaction<pqxx::isolation_level::repeatable_read, pqxx::write_policy::read_only>;
#else
using ReadWrite = pqxx::work;
using Snapshot = pqxx::transaction<pqxx::repeatable_read, pqxx::read_only>;
#endif

/// libpqxx 6 reconnects by itself when the server has closed the session, and goes on without our settings, LISTENs and
/// locks.
void forbid_reconnecting([[maybe_unused]] pqxx::connection& session) {
#if PQXX_VERSION_MAJOR < 7
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"
    session.inhibit_reactivation(true);
#pragma GCC diagnostic pop
#endif
}

/// What libpqxx knows of the SQLSTATE. Version 6 throws some classes without the code that chose the class.
std::string sqlstate_of(const std::exception& error) {
    if (dynamic_cast<const pqxx::serialization_failure*>(&error) != nullptr) return "40001";
    if (dynamic_cast<const pqxx::deadlock_detected*>(&error) != nullptr) return "40P01";
    if (dynamic_cast<const pqxx::statement_completion_unknown*>(&error) != nullptr) return "40003";
    if (dynamic_cast<const pqxx::too_many_connections*>(&error) != nullptr) return "53300";
    const auto* sql = dynamic_cast<const pqxx::sql_error*>(&error);
    if (sql != nullptr && !sql->sqlstate().empty()) return sql->sqlstate();
    if (dynamic_cast<const pqxx::transaction_rollback*>(&error) != nullptr) return "40000";
    if (dynamic_cast<const pqxx::insufficient_privilege*>(&error) != nullptr) return "42501";
    return {};
}

std::string trimmed(std::string text) {
    while (!text.empty() && (text.back() == '\n' || text.back() == ' '))
        text.pop_back();
    return text;
}

class ResultBody final : public Rows::Body {
public:
    explicit ResultBody(const pqxx::result& result) : result_(result) {}  // shares the rows

    [[nodiscard]] std::size_t rows() const noexcept override { return static_cast<std::size_t>(result_.size()); }
    [[nodiscard]] std::size_t affected() const noexcept override {
        return static_cast<std::size_t>(result_.affected_rows());
    }
    [[nodiscard]] std::optional<std::string_view> cell(std::size_t row, std::size_t column) const noexcept override {
        const auto field =
            result_[static_cast<pqxx::result::size_type>(row)][static_cast<pqxx::row::size_type>(column)];
        if (field.is_null()) return std::nullopt;
        return std::string_view(field.c_str(), static_cast<std::size_t>(field.size()));
    }

private:
    pqxx::result result_;
};

Rows to_rows(const pqxx::result& result) {
    return Rows(std::make_unique<ResultBody>(result));
}

/// Collects what comes in on one channel.
class Receiver final : public pqxx::notification_receiver {
public:
    Receiver(pqxx::connection& session, const std::string& channel, std::vector<Notification>& arrived)
        : notification_receiver(session, channel), arrived_(arrived) {}

    void operator()(const std::string& payload, int) override { arrived_.push_back({channel(), payload}); }

private:
    std::vector<Notification>& arrived_;
};

}  // namespace

struct Connection::State {
    State(const std::string& dsn, const SessionOptions& options)
        : session(session::connection_string(dsn, options, session::Access::read_write)) {
        forbid_reconnecting(session);
    }

    /// Runs `action`, which talks to the server, and translates what it throws.
    template <typename Action>
    auto attempt(const char* what, const Action& action) {
        if (broken) {
            throw Error(std::string(what) + ": the connection broke earlier; make a new one", {},
                        Failure::connection_lost);
        }
        try {
            return action();
        } catch (const Error&) {
            throw;
        } catch (const std::exception& error) {
            throw translated(what, error);
        }
    }

    Error translated(const char* what, const std::exception& error) {
        const auto sqlstate = sqlstate_of(error);
        auto failure = dynamic_cast<const std::logic_error*>(&error) != nullptr ? Failure::bug : classify(sqlstate);
        // Whatever was said last: when the session is gone, only a new connection helps.
        if (!session.is_open()) failure = Failure::connection_lost;
        if (failure != Failure::connection_lost) {
            return Error(std::string(what) + ": " + trimmed(error.what()), sqlstate, failure);
        }
        // libpqxx 6 drops what the server said last and complains of what it tried next.
        broken = true;
        return Error(std::string(what) + ": the connection was lost (" + trimmed(error.what()) + ")", sqlstate,
                     failure);
    }

    Rows run(pqxx::transaction_base& transaction, const Statement& statement, const Params& params) {
        return attempt(statement.name, [&] {
            auto& plan = plans.of(statement);
            try {
                if (!plan.is_prepared) session.prepare(plan.name, statement.sql);
                plan.is_prepared = true;
                return to_rows(
                    transaction.exec_prepared(plan.name, pqxx::prepare::make_dynamic_params(params.pointers())));
            } catch (const std::exception& error) {
                if (classify(sqlstate_of(error)) == Failure::schema_changed) plans.forget(statement);
                throw;
            }
        });
    }

    pqxx::connection session;
    bool broken = false;
    bool in_transaction = false;
    session::Plans plans;
    std::vector<Notification> arrived;
    std::vector<std::unique_ptr<Receiver>> receivers;  // after `session` and `arrived`, which they use to the end
};

struct Transaction::State {
    State(Connection::State& owner, std::unique_ptr<pqxx::transaction_base> begun)
        : connection(owner), transaction(std::move(begun)) {
        connection.in_transaction = true;
    }
    ~State() { finish(); }
    State(const State&) = delete;
    State& operator=(const State&) = delete;

    /// Rolls back what was not committed.
    void finish() noexcept {
        if (transaction) connection.in_transaction = false;
        transaction.reset();
    }

    Connection::State& connection;
    std::unique_ptr<pqxx::transaction_base> transaction;
    bool failed = false;
};

Connection::Connection(const std::string& dsn, const SessionOptions& options) try
    : state_(std::make_unique<State>(dsn, options)) {
    auto settings =
        state_->attempt("connect", [this] { return pqxx::nontransaction(state_->session).exec(session::kQuestion); });
    std::vector<std::pair<std::string, std::string>> found;
    for (const auto& row : settings)
        found.emplace_back(row[0].c_str(), row[1].c_str());
    const auto differences = session::unlike(found, options, session::Access::read_write);
    if (!differences.empty()) {
        throw Error("connect: the session was not given its settings: " + differences +
                        "; connect to the server itself, not through a pooler that drops them",
                    {}, Failure::bug);
    }
} catch (const Error&) {
    throw;
} catch (const std::exception& error) {
    throw Error("connect: " + trimmed(error.what()), sqlstate_of(error), Failure::connection_lost);
}

Connection::~Connection() = default;
Connection::Connection(Connection&&) noexcept = default;
Connection& Connection::operator=(Connection&&) noexcept = default;

Transaction Connection::begin() {
    return state_->attempt("begin", [this] {
        return Transaction(std::make_unique<Transaction::State>(*state_, std::make_unique<ReadWrite>(state_->session)));
    });
}

Transaction Connection::begin_snapshot() {
    return state_->attempt("begin", [this] {
        return Transaction(std::make_unique<Transaction::State>(*state_, std::make_unique<Snapshot>(state_->session)));
    });
}

Rows Connection::run(const Statement& statement, const Params& params) {
    auto transaction = begin();
    auto rows = transaction.run(statement, params);
    transaction.commit();
    return rows;
}

void Connection::run_script(const std::string& sql) {
    auto transaction = begin();
    transaction.run_script(sql);
    transaction.commit();
}

void Connection::listen(const std::string& channel) {
    state_->attempt("listen", [&] {
        if (state_->in_transaction) throw std::logic_error("not while a transaction is open");
        state_->receivers.push_back(std::make_unique<Receiver>(state_->session, channel, state_->arrived));
        // libpqxx keeps a loss of the connection to itself here.
        if (!state_->session.is_open()) throw pqxx::broken_connection("the connection was lost");
    });
}

std::vector<Notification> Connection::notifications(std::chrono::milliseconds timeout) {
    return state_->attempt("notifications", [&] {
        if (state_->in_transaction) throw std::logic_error("not while a transaction is open");
        const auto deadline = std::chrono::steady_clock::now() + timeout;
        for (;;) {
            state_->session.get_notifs();
            if (!state_->session.is_open()) throw pqxx::broken_connection("the connection was lost");
            if (!state_->arrived.empty()) return std::exchange(state_->arrived, {});
            const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now());
            if (left.count() <= 0) return std::vector<Notification>{};
            pollfd socket = {state_->session.sock(), POLLIN, 0};
            if (poll(&socket, 1, static_cast<int>(std::min<std::int64_t>(left.count(), 60'000))) < 0 &&
                errno != EINTR) {
                throw std::runtime_error(std::string("poll: ") + std::strerror(errno));
            }
        }
    });
}

int Connection::backend_pid() const noexcept {
    return state_->session.backendpid();
}

bool Connection::is_broken() const noexcept {
    return state_->broken || !state_->session.is_open();
}

Transaction::Transaction(std::unique_ptr<State> state) noexcept : state_(std::move(state)) {}
Transaction::Transaction(Transaction&&) noexcept = default;
Transaction::~Transaction() = default;

Rows Transaction::run(const Statement& statement, const Params& params) {
    if (!state_->transaction) throw Error(std::string(statement.name) + ": the transaction is over", {}, Failure::bug);
    try {
        return state_->connection.run(*state_->transaction, statement, params);
    } catch (const Error&) {
        state_->failed = true;
        throw;
    }
}

Rows Transaction::run_script(const std::string& sql) {
    if (!state_->transaction) throw Error("script: the transaction is over", {}, Failure::bug);
    try {
        return state_->connection.attempt("script", [&] { return to_rows(state_->transaction->exec(sql)); });
    } catch (const Error&) {
        state_->failed = true;
        throw;
    }
}

void Transaction::commit() {
    auto& connection = state_->connection;
    if (!state_->transaction) throw Error("commit: the transaction is over", {}, Failure::bug);
    // The server answers COMMIT after a failed statement with a rollback and no error: taken for a success, writes
    // would be lost.
    if (state_->failed) {
        state_->finish();
        throw Error("commit: a statement of this transaction failed, so nothing was written", {},
                    connection.broken ? Failure::connection_lost : Failure::bug);
    }
    try {
        state_->transaction->commit();
    } catch (const std::exception& error) {
        // An SQLSTATE from a session that still stands is the server's refusal. All else leaves open what became of it.
        const auto sqlstate = sqlstate_of(error);
        const bool is_refused = connection.session.is_open() && !sqlstate.empty() &&
                                classify(sqlstate) != Failure::connection_lost &&
                                dynamic_cast<const pqxx::in_doubt_error*>(&error) == nullptr;
        connection.broken = connection.broken || !is_refused;
        state_->finish();
        throw Error("commit: " + trimmed(error.what()), sqlstate, is_refused ? classify(sqlstate) : Failure::in_doubt);
    }
    state_->finish();
}

std::string quote_identifier(std::string_view name) {
    // The server cuts a longer name at 63 bytes without an error, and two of them would become one.
    constexpr std::size_t kMaxIdentifierBytes = 63;
    if (name.empty() || name.size() > kMaxIdentifierBytes || name.find('\0') != std::string_view::npos) {
        throw std::invalid_argument("an identifier has 1 to 63 bytes and no U+0000");
    }
    std::string quoted = "\"";
    for (const char c : name) {
        if (c == '"') quoted += '"';
        quoted += c;
    }
    return quoted + "\"";
}

std::string quote_identifier(std::string_view schema, std::string_view name) {
    return quote_identifier(schema) + '.' + quote_identifier(name);
}

}  // namespace tidemark::pg
