#include "infra/postgres/query_pool.h"

#include "infra/base/backoff.h"
#include "infra/base/log.h"
#include "infra/postgres/session.h"

#include <libpq-fe.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <deque>
#include <mutex>
#include <optional>
#include <stdexcept>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

namespace tidemark::pg {

namespace {

using Clock = std::chrono::steady_clock;

/// Queries of one pipeline: enough that the round trip no longer counts (16 to 128 measured alike), few enough that the
/// last one's answer does not wait long behind the others.
constexpr std::size_t kMaxPipelined = 64;
constexpr std::chrono::milliseconds kFirstReconnect{50};
constexpr std::chrono::milliseconds kLongestReconnect{2'000};

struct ConnectionCloser {
    void operator()(PGconn* connection) const noexcept { PQfinish(connection); }
};
using ConnectionHandle = std::unique_ptr<PGconn, ConnectionCloser>;

struct ResultCleaner {
    void operator()(PGresult* result) const noexcept { PQclear(result); }
};
using ResultHandle = std::unique_ptr<PGresult, ResultCleaner>;

class ResultBody final : public Rows::Body {
public:
    explicit ResultBody(ResultHandle result) noexcept : result_(std::move(result)) {}

    [[nodiscard]] std::size_t rows() const noexcept override {
        return static_cast<std::size_t>(PQntuples(result_.get()));
    }
    [[nodiscard]] std::size_t affected() const noexcept override { return 0; }  // reads affect nothing
    [[nodiscard]] std::optional<std::string_view> cell(std::size_t row, std::size_t column) const noexcept override {
        const int r = static_cast<int>(row);
        const int c = static_cast<int>(column);
        if (PQgetisnull(result_.get(), r, c) != 0) return std::nullopt;
        return std::string_view(PQgetvalue(result_.get(), r, c),
                                static_cast<std::size_t>(PQgetlength(result_.get(), r, c)));
    }

private:
    ResultHandle result_;
};

struct Query {
    Statement statement;
    Params params;
    QueryCallback callback;
    Clock::time_point deadline;
    bool was_lost = false;       ///< sent once on a connection that broke
    bool was_replanned = false;  ///< sent once with a plan that no longer fitted
    bool needs_replanning = false;
    bool is_answered = false;  ///< its deadline passed while the server worked on it

    void answer(Rows rows) noexcept {
        is_answered = true;
        callback({std::move(rows), nullptr});
    }
    void fail(const std::string& why, const std::string& sqlstate, Failure failure) noexcept {
        is_answered = true;
        callback({{}, std::make_unique<Error>(std::string(statement.name) + ": " + why, sqlstate, failure)});
    }
};

class Worker;

/// What the workers share.
struct Shared {
    QueryPoolOptions options;
    std::string connection_string;
    std::mutex mutex;  // guards the three below
    std::deque<Query> queue;
    std::vector<Worker*> idle;  ///< connected, and to be woken by a new query
    bool is_stopping = false;
    std::atomic<unsigned> connected = 0;
};

/// One connection and the thread that owns it: connect -> (wait for queries -> pipeline -> answers)* -> connection lost
/// -> back off -> connect. Whatever it waits for, it also answers the queries whose time is over.
class Worker {
public:
    Worker(Shared& shared, unsigned number)
        : shared_(shared),
          backoff_(kFirstReconnect, kLongestReconnect, number),
          wake_fd_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
        if (wake_fd_ < 0) throw std::system_error(errno, std::generic_category(), "eventfd");
    }
    ~Worker() {
        if (thread_.joinable()) thread_.join();
        close(wake_fd_);
    }
    Worker(const Worker&) = delete;
    Worker& operator=(const Worker&) = delete;

    void start() {
        thread_ = std::thread([this] { run(); });
    }
    void wake() const noexcept {
        const std::uint64_t one = 1;
        [[maybe_unused]] const auto written = write(wake_fd_, &one, sizeof one);  // at its limit it is readable anyway
    }

private:
    enum class Event { ready, other };
    /// Whether a new query is a reason to stop waiting.
    enum class Idle { yes, no };

    void run() noexcept;
    bool connect();
    std::string verify(Clock::time_point deadline);
    bool finish_connecting(Clock::time_point deadline, std::string& why);
    void disconnected(const std::string& why);
    void report_loss(const std::string& why);

    Event wait(int fd, short events, Clock::time_point until, Idle idle = Idle::no);
    [[nodiscard]] bool is_stopping();
    void answer_overdue();
    void refuse_rest();

    std::vector<Query> take();
    void wait_for_work();
    void execute();
    bool send(const Query& query);
    bool receive();
    bool handle(ResultHandle result);
    void pass_on();

    Shared& shared_;
    base::Backoff backoff_;
    const int wake_fd_;
    ConnectionHandle connection_;
    bool is_up_ = false;
    bool reported_loss_ = false;
    std::string last_failure_ = "not connected yet";
    session::Plans plans_;
    std::deque<Query> in_flight_;  ///< sent, in order
    std::deque<Query> again_;      ///< to be sent once more, before all others
    Clock::time_point last_progress_;
    bool was_separator_ = false;  ///< the last thing received was the end of a command's results
    std::thread thread_;
};

std::string message_of(const PGconn* connection) {
    // The first line: those after it guess at reasons.
    std::string text = PQerrorMessage(connection);
    text = text.substr(0, text.find('\n'));
    return text.empty() ? "the connection was lost" : text;
}

std::string field_of(const PGresult* result, int field) {
    const char* text = PQresultErrorField(result, field);
    return text == nullptr ? std::string{} : std::string(text);
}

void ignore_notice(void*, const PGresult*) noexcept {}

void Worker::run() noexcept {
    while (!is_stopping()) {
        if (!is_up_ && !connect()) {
            const auto until = Clock::now() + backoff_.next();
            while (!is_stopping() && Clock::now() < until)
                wait(-1, 0, until);
            continue;
        }
        for (auto& query : take())
            in_flight_.push_back(std::move(query));
        if (in_flight_.empty()) {
            wait_for_work();
        } else {
            execute();
        }
    }
    refuse_rest();
    if (is_up_) --shared_.connected;
    connection_.reset();
}

bool Worker::is_stopping() {
    const std::lock_guard lock(shared_.mutex);
    return shared_.is_stopping;
}

/// Waits for `events` on `fd` (-1: for none), the pool's end, or `until`; at most until a query has to be given up. Not
/// idle, it looks again after the time of one query at the latest, so that one submitted meanwhile is not overlooked.
Worker::Event Worker::wait(int fd, short events, Clock::time_point until, Idle idle) {
    answer_overdue();
    {
        const std::lock_guard lock(shared_.mutex);
        if (shared_.is_stopping) return Event::other;
        if (idle == Idle::yes) {
            if (!shared_.queue.empty()) return Event::other;
            shared_.idle.push_back(this);
        } else {
            until = std::min(until, Clock::now() + shared_.options.query_timeout);
            if (!shared_.queue.empty()) until = std::min(until, shared_.queue.front().deadline);
        }
    }
    for (const auto* queries : {&again_, &in_flight_}) {
        for (const auto& query : *queries) {
            if (!query.is_answered) until = std::min(until, query.deadline);
        }
    }
    pollfd ready[2] = {{wake_fd_, POLLIN, 0}, {fd, events, 0}};
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(until - Clock::now()).count();
    const int count = poll(ready, 2, static_cast<int>(std::clamp<std::int64_t>(left, 0, 60'000)));
    if (idle == Idle::yes) {
        const std::lock_guard lock(shared_.mutex);
        shared_.idle.erase(std::remove(shared_.idle.begin(), shared_.idle.end(), this), shared_.idle.end());
    }
    std::uint64_t wakes = 0;
    [[maybe_unused]] const auto drained = read(wake_fd_, &wakes, sizeof wakes);
    return count > 0 && fd >= 0 && ready[1].revents != 0 ? Event::ready : Event::other;
}

/// Ends with an error what has waited too long: in the queue, for a second try, or for the server.
void Worker::answer_overdue() {
    const auto now = Clock::now();
    std::deque<Query> overdue;
    {
        const std::lock_guard lock(shared_.mutex);
        while (!shared_.queue.empty() && shared_.queue.front().deadline <= now) {
            overdue.push_back(std::move(shared_.queue.front()));
            shared_.queue.pop_front();
        }
    }
    for (auto& query : again_) {
        if (query.deadline <= now) overdue.push_back(std::move(query));
    }
    std::erase_if(again_, [&](const Query& query) { return query.deadline <= now; });
    const auto limit = std::to_string(shared_.options.query_timeout.count()) + " ms";
    for (auto& query : overdue) {
        if (shared_.connected > 0) {
            query.fail("not answered within " + limit, {}, Failure::retryable);
        } else {
            query.fail("no connection within " + limit + ": " + last_failure_, {}, Failure::connection_lost);
        }
    }
    for (auto& query : in_flight_) {
        if (!query.is_answered && query.deadline <= now) {
            query.fail("not answered within " + limit, {}, Failure::retryable);
        }
    }
}

void Worker::refuse_rest() {
    std::deque<Query> rest;
    {
        const std::lock_guard lock(shared_.mutex);
        rest.swap(shared_.queue);
    }
    for (auto* queries : {&in_flight_, &again_, &rest}) {
        for (auto& query : *queries) {
            if (!query.is_answered) query.fail("the query pool is shutting down", {}, Failure::connection_lost);
        }
        queries->clear();
    }
}

bool Worker::connect() {
    const auto deadline = Clock::now() + shared_.options.session.connect_timeout;
    connection_.reset(PQconnectStart(shared_.connection_string.c_str()));
    std::string why;
    if (!connection_ || PQstatus(connection_.get()) == CONNECTION_BAD) {
        why = message_of(connection_.get());
    } else {
        PQsetNoticeReceiver(connection_.get(), ignore_notice, nullptr);
        if (finish_connecting(deadline, why)) why = verify(deadline);
    }
    if (why.empty() && PQenterPipelineMode(connection_.get()) != 1) why = message_of(connection_.get());
    if (!why.empty()) {
        connection_.reset();
        report_loss(why);
        return false;
    }
    is_up_ = true;
    ++shared_.connected;
    backoff_.reset();
    plans_ = {};
    was_separator_ = false;
    if (std::exchange(reported_loss_, false)) {
        base::log::info("query_connection_restored", {{"backend", PQbackendPID(connection_.get())}});
    }
    return true;
}

bool Worker::finish_connecting(Clock::time_point deadline, std::string& why) {
    // As libpq wants it: before the first step the socket counts as waiting for a write.
    PostgresPollingStatusType step = PGRES_POLLING_WRITING;
    while (step != PGRES_POLLING_OK) {
        const short events = step == PGRES_POLLING_READING ? POLLIN : POLLOUT;
        const auto event = wait(PQsocket(connection_.get()), events, deadline);
        if (is_stopping()) {
            why = "shutting down";
        } else if (Clock::now() >= deadline) {
            why = "no answer within the connect timeout";
        }
        if (!why.empty()) return false;
        if (event != Event::ready) continue;
        step = PQconnectPoll(connection_.get());
        if (step == PGRES_POLLING_FAILED) {
            why = message_of(connection_.get());
            return false;
        }
    }
    if (PQsetnonblocking(connection_.get(), 1) != 0) why = message_of(connection_.get());
    return why.empty();
}

/// Asks the session for its settings; empty when they are ours.
std::string Worker::verify(Clock::time_point deadline) {
    auto* connection = connection_.get();
    if (PQsendQuery(connection, session::kQuestion) != 1) return message_of(connection);
    std::vector<std::pair<std::string, std::string>> settings;
    for (;;) {
        while (PQisBusy(connection) != 0) {
            const int unsent = PQflush(connection);
            if (unsent < 0) return message_of(connection);
            const auto event =
                wait(PQsocket(connection), static_cast<short>(POLLIN | (unsent > 0 ? POLLOUT : 0)), deadline);
            if (is_stopping()) return "shutting down";
            if (Clock::now() >= deadline) return "no answer within the connect timeout";
            if (event == Event::ready && PQconsumeInput(connection) != 1) return message_of(connection);
        }
        const ResultHandle result(PQgetResult(connection));
        if (!result) break;
        if (PQresultStatus(result.get()) != PGRES_TUPLES_OK) return message_of(connection);
        for (int row = 0; row < PQntuples(result.get()); ++row) {
            settings.emplace_back(PQgetvalue(result.get(), row, 0), PQgetvalue(result.get(), row, 1));
        }
    }
    return session::unlike(settings, shared_.options.session, session::Access::read_only);
}

void Worker::report_loss(const std::string& why) {
    if (is_stopping()) return;
    last_failure_ = why;
    if (!std::exchange(reported_loss_, true)) base::log::warn("query_connection_lost", {{"reason", why}});
}

/// The connection is gone. What it carried is tried again on the next one, once.
void Worker::disconnected(const std::string& why) {
    connection_.reset();
    if (std::exchange(is_up_, false)) --shared_.connected;
    report_loss(why);
    std::deque<Query> retried;
    for (auto& query : in_flight_) {
        if (query.is_answered) continue;
        if (query.was_lost) {
            query.fail("the connection was lost twice: " + why, {}, Failure::connection_lost);
        } else {
            query.was_lost = true;
            retried.push_back(std::move(query));
        }
    }
    in_flight_.clear();
    for (auto query = retried.rbegin(); query != retried.rend(); ++query)
        again_.push_front(std::move(*query));
    pass_on();
}

/// Wakes another worker for what this one was woken for.
void Worker::pass_on() {
    Worker* other = nullptr;
    {
        const std::lock_guard lock(shared_.mutex);
        if (shared_.queue.empty() || shared_.idle.empty()) return;
        other = shared_.idle.back();
        shared_.idle.pop_back();
    }
    other->wake();
}

std::vector<Query> Worker::take() {
    std::vector<Query> taken;
    while (!again_.empty() && taken.size() < kMaxPipelined) {
        taken.push_back(std::move(again_.front()));
        again_.pop_front();
    }
    const std::lock_guard lock(shared_.mutex);
    while (!shared_.queue.empty() && taken.size() < kMaxPipelined) {
        taken.push_back(std::move(shared_.queue.front()));
        shared_.queue.pop_front();
    }
    return taken;
}

/// Idle, it watches its socket too: a server that leaves is noticed before the next query pays for it.
void Worker::wait_for_work() {
    constexpr std::chrono::hours kUntilWoken{1};
    if (wait(PQsocket(connection_.get()), POLLIN, Clock::now() + kUntilWoken, Idle::yes) != Event::ready) return;
    if (PQconsumeInput(connection_.get()) != 1) return disconnected(message_of(connection_.get()));
    // Out of a pipeline the server speaks unasked only to say good-bye (or a notice, which libpq gives to the
    // receiver).
    while (PQisBusy(connection_.get()) == 0) {
        const ResultHandle result(PQgetResult(connection_.get()));
        if (!result) break;
        if (PQresultStatus(result.get()) == PGRES_FATAL_ERROR) return disconnected(PQresultErrorMessage(result.get()));
    }
    if (PQstatus(connection_.get()) != CONNECTION_OK) disconnected(message_of(connection_.get()));
}

/// Sends all of `in_flight_` and answers each as its result comes.
void Worker::execute() {
    for (const auto& query : in_flight_) {
        if (!send(query)) return disconnected(message_of(connection_.get()));
    }
    last_progress_ = Clock::now();
    while (!in_flight_.empty()) {
        const int unsent = PQflush(connection_.get());
        if (unsent < 0) return disconnected(message_of(connection_.get()));
        const auto stalled_at = last_progress_ + shared_.options.query_timeout;
        const auto event =
            wait(PQsocket(connection_.get()), static_cast<short>(POLLIN | (unsent > 0 ? POLLOUT : 0)), stalled_at);
        if (is_stopping()) return;
        if (event == Event::ready && PQconsumeInput(connection_.get()) != 1) {
            return disconnected(message_of(connection_.get()));
        }
        if (!receive()) return;
        // The session's statement_timeout ends a slow statement; a server that says nothing at all is stopped or cut
        // off.
        if (!in_flight_.empty() && Clock::now() >= last_progress_ + shared_.options.query_timeout) {
            return disconnected("the server stopped answering");
        }
    }
}

bool Worker::send(const Query& query) {
    auto* connection = connection_.get();
    auto& plan = plans_.of(query.statement);
    if (!plan.is_prepared && PQsendPrepare(connection, plan.name.c_str(), query.statement.sql, 0, nullptr) != 1) {
        return false;
    }
    plan.is_prepared = true;
    const auto values = query.params.pointers();
    return PQsendQueryPrepared(connection, plan.name.c_str(), static_cast<int>(values.size()), values.data(), nullptr,
                               nullptr, 0) == 1 &&
           PQpipelineSync(connection) == 1;
}

/// Takes in what has arrived. False: the connection is gone.
bool Worker::receive() {
    while (!in_flight_.empty() && PQisBusy(connection_.get()) == 0) {
        ResultHandle result(PQgetResult(connection_.get()));
        if (!result) {
            if (PQstatus(connection_.get()) != CONNECTION_OK) {
                disconnected(message_of(connection_.get()));
                return false;
            }
            // The end of one command's results. Two in a row would be a pipeline that has ended without us.
            if (std::exchange(was_separator_, true)) {
                disconnected("the pipeline is out of step");
                return false;
            }
            continue;
        }
        was_separator_ = false;
        last_progress_ = Clock::now();
        if (!handle(std::move(result))) return false;
    }
    return true;
}

/// One result of the query at the front: of its preparation, of its execution, or the Sync that ends it.
bool Worker::handle(ResultHandle result) {
    auto& query = in_flight_.front();
    switch (PQresultStatus(result.get())) {
        case PGRES_PIPELINE_SYNC:
            if (!query.is_answered && std::exchange(query.needs_replanning, false)) {
                query.was_replanned = true;
                again_.push_back(std::move(query));
            } else if (!query.is_answered) {
                query.fail("the statement returns no rows", {}, Failure::bug);
            }
            in_flight_.pop_front();
            return true;
        case PGRES_TUPLES_OK:
            if (!query.is_answered) query.answer(Rows(std::make_unique<ResultBody>(std::move(result))));
            return true;
        case PGRES_COMMAND_OK:
        case PGRES_PIPELINE_ABORTED:
            return true;
        default:
            break;
    }
    const auto sqlstate = field_of(result.get(), PG_DIAG_SQLSTATE);
    const auto severity = field_of(result.get(), PG_DIAG_SEVERITY_NONLOCALIZED);
    std::string why = field_of(result.get(), PG_DIAG_MESSAGE_PRIMARY);
    if (why.empty()) why = message_of(connection_.get());
    const auto failure = classify(sqlstate);
    if (failure == Failure::connection_lost || severity == "FATAL" || severity == "PANIC") {
        disconnected(why);
        return false;
    }
    if (failure == Failure::schema_changed) plans_.forget(query.statement);
    if (failure == Failure::schema_changed && !query.was_replanned) {
        query.needs_replanning = true;
    } else if (!query.is_answered) {
        query.fail(why, sqlstate, failure);
    }
    return true;
}

}  // namespace

struct QueryPool::State : Shared {
    std::vector<std::unique_ptr<Worker>> workers;
};

QueryPool::QueryPool(QueryPoolOptions options) : state_(std::make_unique<State>()) {
    if (options.connections == 0) throw std::invalid_argument("a query pool has at least one connection");
    state_->connection_string = session::connection_string(options.dsn, options.session, session::Access::read_only);
    state_->options = std::move(options);
    for (unsigned i = 0; i < state_->options.connections; ++i) {
        state_->workers.push_back(std::make_unique<Worker>(*state_, i));
    }
    for (auto& worker : state_->workers)
        worker->start();
}

QueryPool::~QueryPool() {
    {
        const std::lock_guard lock(state_->mutex);
        state_->is_stopping = true;
    }
    for (const auto& worker : state_->workers)
        worker->wake();
    state_->workers.clear();
}

bool QueryPool::submit(const Statement& statement, Params params, QueryCallback callback) {
    const Worker* woken = nullptr;
    {
        const std::lock_guard lock(state_->mutex);
        if (state_->is_stopping || state_->queue.size() >= state_->options.max_queued) return false;
        Query query;
        query.statement = statement;
        query.params = std::move(params);
        query.callback = std::move(callback);
        query.deadline = Clock::now() + state_->options.query_timeout;
        state_->queue.push_back(std::move(query));
        if (!state_->idle.empty()) {
            woken = state_->idle.back();
            state_->idle.pop_back();
        }
    }
    if (woken != nullptr) woken->wake();
    return true;
}

bool QueryPool::connected() const noexcept {
    return state_->connected > 0;
}

std::size_t QueryPool::queued() const noexcept {
    const std::lock_guard lock(state_->mutex);
    return state_->queue.size();
}

}  // namespace tidemark::pg
