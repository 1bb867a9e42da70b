#include "infra/postgres/query_pool.h"

#include "tests/support/postgres.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <optional>
#include <random>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

using namespace std::chrono_literals;
namespace pg = tidemark::pg;
using pg::Failure;
using tidemark::test::dsn;
using tidemark::test::eventually;
using tidemark::test::Network;
using tidemark::test::Schema;

namespace {

constexpr pg::Statement kEcho = {"echo", "select $1::bigint"};
constexpr pg::Statement kSleep = {"sleep", "select $1::bigint, pg_sleep($2::float8)"};
constexpr pg::Statement kSuicide = {"suicide", "select pg_terminate_backend(pg_backend_pid())"};

struct Answer {
    int times = 0;
    std::string value;  ///< the first cell
    std::optional<Failure> failure;
    std::string sqlstate;
    std::string what;
    std::chrono::steady_clock::time_point at;
};

/// The answers to a number of queries, and the wait for them. Late callbacks outlive it.
class Answers {
public:
    pg::QueryCallback take(std::size_t index) {
        {
            const std::lock_guard lock(body_->mutex);
            if (body_->answers.size() <= index) body_->answers.resize(index + 1);
        }
        return [body = body_, index](const pg::QueryResult& result) {
            const std::lock_guard lock(body->mutex);
            auto& answer = body->answers[index];
            ++answer.times;
            answer.at = std::chrono::steady_clock::now();
            if (result.error) {
                answer.failure = result.error->failure();
                answer.sqlstate = result.error->sqlstate();
                answer.what = result.error->what();
            } else if (!result.rows.empty()) {
                answer.value = result.rows.cell(0, 0).value_or("(null)");
            }
            body->order.push_back(index);
            body->changed.notify_all();
        };
    }
    /// All of them, at the latest after 20 s.
    std::vector<Answer> wait() {
        std::unique_lock lock(body_->mutex);
        body_->changed.wait_for(lock, 20s, [this] {
            return std::all_of(body_->answers.begin(), body_->answers.end(),
                               [](const Answer& answer) { return answer.times > 0; });
        });
        return body_->answers;
    }
    std::size_t arrived() { return order().size(); }
    std::vector<std::size_t> order() {
        const std::lock_guard lock(body_->mutex);
        return body_->order;
    }

private:
    struct Body {
        std::mutex mutex;
        std::condition_variable changed;
        std::vector<Answer> answers;
        std::vector<std::size_t> order;
    };
    std::shared_ptr<Body> body_ = std::make_shared<Body>();
};

pg::QueryPoolOptions options(const Schema& schema, unsigned connections = 1) {
    pg::QueryPoolOptions options;
    options.dsn = dsn();
    options.session = schema.options();
    options.connections = connections;
    return options;
}

pg::Params params(std::int64_t number) {
    return pg::Params().add(number);
}

pg::Params params(std::int64_t number, const char* seconds) {
    return pg::Params().add(number).add(seconds);
}

Answer ask(pg::QueryPool& pool, const pg::Statement& statement, pg::Params parameters = {}) {
    Answers answers;
    REQUIRE(pool.submit(statement, std::move(parameters), answers.take(0)));
    return answers.wait().front();
}

/// The process ids of the pool's sessions.
std::vector<int> backends(Schema& schema) {
    std::istringstream listed(
        schema.ask("select coalesce(string_agg(pid::text, ' '), '') from pg_stat_activity where application_name = '" +
                   schema.name() + "'"));
    std::vector<int> pids;
    for (int pid = 0; listed >> pid;)
        pids.push_back(pid);
    return pids;
}

}  // namespace

TEST_CASE("each query gets its own answer, in order on one connection") {
    Schema schema;
    pg::QueryPool pool(options(schema));
    Answers answers;
    constexpr std::size_t kQueries = 500;
    for (std::size_t i = 0; i < kQueries; ++i)
        REQUIRE(pool.submit(kEcho, params(static_cast<std::int64_t>(i)), answers.take(i)));
    const auto got = answers.wait();
    for (std::size_t i = 0; i < kQueries; ++i) {
        CHECK(got[i].times == 1);
        CHECK(got[i].value == std::to_string(i));
    }
    const auto order = answers.order();
    CHECK(std::is_sorted(order.begin(), order.end()));
    CHECK(pool.connected());
    CHECK(pool.queued() == 0);
}

TEST_CASE("a query submitted while the worker goes to sleep wakes it") {
    Schema schema;
    std::atomic<bool> is_answered = false;
    pg::QueryPool pool(options(schema));
    constexpr int kTimes = 10'000;
    int answered = 0;
    for (int i = 0; i < kTimes; ++i) {
        is_answered = false;
        REQUIRE(pool.submit(kEcho, params(i), [&](const pg::QueryResult&) { is_answered = true; }));
        // Spinning, and then a little longer each time, so that the next one meets every step on the way to sleep.
        const auto deadline = std::chrono::steady_clock::now() + 20s;
        while (!is_answered && std::chrono::steady_clock::now() < deadline) {
        }
        REQUIRE(is_answered);
        ++answered;
        const auto pause = std::chrono::steady_clock::now() + std::chrono::nanoseconds{i % 100 * 100};
        while (std::chrono::steady_clock::now() < pause) {
        }
    }
    CHECK(answered == kTimes);
}

TEST_CASE("waiting queries share one round trip") {
    Schema schema;
    Network network;
    auto slow = options(schema);
    slow.dsn = network.dsn();
    slow.query_timeout = 10s;
    pg::QueryPool pool(slow);
    CHECK(ask(pool, kEcho, params(0)).value == "0");  // connected and prepared
    network.delay(20ms);
    Answers answers;
    const auto start = std::chrono::steady_clock::now();
    for (std::size_t i = 0; i < 128; ++i)
        REQUIRE(pool.submit(kEcho, params(static_cast<std::int64_t>(i)), answers.take(i)));
    for (const auto& answer : answers.wait())
        CHECK(answer.times == 1);
    // One at a time would take 128 x 40 ms.
    CHECK(std::chrono::steady_clock::now() - start < 2s);
}

TEST_CASE("a query that fails takes none of its neighbours along") {
    Schema schema;
    pg::QueryPool pool(options(schema));
    const pg::Statement divide = {"divide", "select 100 / $1::bigint"};
    Answers answers;
    for (std::size_t i = 0; i < 60; ++i) {
        REQUIRE(pool.submit(divide, params(static_cast<std::int64_t>(i % 3)), answers.take(i)));
    }
    const auto got = answers.wait();
    for (std::size_t i = 0; i < got.size(); ++i) {
        CHECK(got[i].times == 1);
        if (i % 3 == 0) {
            CHECK(got[i].failure == Failure::data);
            CHECK(got[i].sqlstate == "22012");
            CHECK(got[i].what == "divide: division by zero");
        } else {
            CHECK(got[i].value == std::to_string(100 / (i % 3)));
        }
    }
}

TEST_CASE("the pool's sessions cannot write, and have their time-outs") {
    Schema schema;
    schema.execute("create table t (a int)");
    auto quick = options(schema);
    quick.session.statement_timeout = 200ms;
    pg::QueryPool pool(quick);
    CHECK(ask(pool, {"write", "insert into t values (1) returning a"}).sqlstate == "25006");
    CHECK(ask(pool, {"zone", "select current_setting('TimeZone') || current_setting('client_encoding')"}).value ==
          "UTCUTF8");
    const auto slow = ask(pool, kSleep, params(1, "30"));
    CHECK(slow.failure == Failure::retryable);
    CHECK(slow.sqlstate == "57014");
    const auto empty = ask(pool, {"nothing", "set local work_mem to '8MB'"});
    CHECK(empty.failure == Failure::bug);
    CHECK(ask(pool, kEcho, params(3)).value == "3");
}

TEST_CASE("a session that was not given its settings is not used") {
    Schema schema;
    Network network;
    network.alter("DateStyle=ISO", "DateStyle=SQL");
    auto altered = options(schema);
    altered.dsn = network.dsn();
    altered.query_timeout = 500ms;
    pg::QueryPool pool(altered);
    const auto answer = ask(pool, kEcho, params(1));
    CHECK(answer.failure == Failure::connection_lost);
    CHECK(answer.what.find("DateStyle is SQL, MDY, not ISO, MDY") != std::string::npos);
}

TEST_CASE("a full queue refuses, and calls back for none of the refused") {
    Schema schema;
    auto small = options(schema);
    small.max_queued = 3;
    small.dsn = "postgresql://127.0.0.1:1/d";  // nobody listens: nothing leaves the queue
    small.query_timeout = 300ms;
    pg::QueryPool pool(small);
    Answers answers;
    for (std::size_t i = 0; i < 3; ++i)
        CHECK(pool.submit(kEcho, params(1), answers.take(i)));
    bool called = false;
    CHECK_FALSE(pool.submit(kEcho, params(1), [&](const pg::QueryResult&) { called = true; }));
    CHECK(pool.queued() == 3);
    for (const auto& answer : answers.wait()) {
        CHECK(answer.failure == Failure::connection_lost);
        CHECK(answer.what.find("no connection within 300 ms") != std::string::npos);
        CHECK(answer.what.find("127.0.0.1") != std::string::npos);
    }
    CHECK_FALSE(called);
    CHECK_FALSE(pool.connected());
}

TEST_CASE("without a database each query fails at its deadline, not later") {
    Schema schema;
    auto lost = options(schema);
    lost.dsn = "postgresql://127.0.0.1:1/d";
    lost.query_timeout = 150ms;
    pg::QueryPool pool(lost);
    // Long enough for the back-off to have grown past the deadline of a query.
    for (int i = 0; i < 20; ++i) {
        const auto start = std::chrono::steady_clock::now();
        const auto answer = ask(pool, kEcho, params(1));
        CHECK(answer.failure == Failure::connection_lost);
        CHECK(answer.at - start >= 150ms);
        CHECK(answer.at - start < 1s);
    }
}

TEST_CASE("a lost connection shows as latency, not as an error: the queries go out once more") {
    Schema schema;
    pg::QueryPool pool(options(schema));
    CHECK(ask(pool, kEcho, params(1)).value == "1");
    SUBCASE("idle") {
        schema.terminate(backends(schema).at(0));
        CHECK(ask(pool, kEcho, params(2)).value == "2");
    }
    SUBCASE("with queries under way") {
        Answers answers;
        REQUIRE(pool.submit(kSleep, params(7, "0.3"), answers.take(0)));
        for (std::size_t i = 1; i < 20; ++i)
            REQUIRE(pool.submit(kEcho, params(static_cast<std::int64_t>(i)), answers.take(i)));
        CHECK(eventually([&] {
            return schema.ask("select count(*) from pg_stat_activity where application_name = '" + schema.name() +
                              "' and query like '%pg_sleep%'") == "1";
        }));
        schema.terminate(backends(schema).at(0));
        const auto got = answers.wait();
        CHECK(got[0].value == "7");
        for (std::size_t i = 1; i < got.size(); ++i) {
            CHECK(got[i].times == 1);
            CHECK(got[i].value == std::to_string(i));
        }
    }
    CHECK(backends(schema).size() == 1);
}

TEST_CASE("a query whose connection is lost twice is given up") {
    Schema schema;
    pg::QueryPool pool(options(schema));
    const auto answer = ask(pool, kSuicide);
    CHECK(answer.times == 1);
    CHECK(answer.failure == Failure::connection_lost);
    CHECK(answer.what.find("lost twice") != std::string::npos);
    CHECK(ask(pool, kEcho, params(1)).value == "1");
}

TEST_CASE("a network that breaks in the middle of answers repeats none and loses none") {
    Schema schema;
    Network network;
    auto far = options(schema, 2);
    far.dsn = network.dsn();
    far.query_timeout = 10s;
    pg::QueryPool pool(far);
    Answers answers;
    for (std::size_t i = 0; i < 400; ++i) {
        REQUIRE(pool.submit(kSleep, params(static_cast<std::int64_t>(i), "0.001"), answers.take(i)));
        if (i == 200) network.cut();
    }
    const auto got = answers.wait();
    for (std::size_t i = 0; i < got.size(); ++i) {
        CHECK(got[i].times == 1);
        CHECK(got[i].value == std::to_string(i));
    }
}

TEST_CASE("after a swap of tables the statement is planned anew, unnoticed by the caller") {
    Schema schema;
    schema.execute("create schema " + schema.name() +
                   "_b; create table t (a int); insert into t values (1); create view v as select a from t");
    pg::QueryPool pool(options(schema));
    const pg::Statement read = {"read", "select * from v"};
    CHECK(ask(pool, read).value == "1");
    SUBCASE("another type of column") {
        schema.execute(
            "drop view v; alter table t alter column a type text using 'one'; create view v as select a from t");
        Answers answers;
        for (std::size_t i = 0; i < 10; ++i)
            REQUIRE(pool.submit(read, {}, answers.take(i)));
        for (const auto& answer : answers.wait())
            CHECK(answer.value == "one");
    }
    SUBCASE("another schema of the name") {
        schema.execute("create table " + schema.name() + "_b.t (a text); insert into " + schema.name() +
                       "_b.t values ('two'); drop view v; create view v as select a from " + schema.name() + "_b.t");
        CHECK(ask(pool, read).value == "two");
    }
    SUBCASE("the plans are forgotten by the server") {
        // As a pooler's reset would do; the pool is read-only, which DEALLOCATE does not mind.
        static_cast<void>(ask(pool, {"forget", "deallocate all"}));
        CHECK(ask(pool, read).value == "1");
    }
    SUBCASE("gone for good is an error, told once it was tried again") {
        schema.execute("drop view v");
        const auto gone = ask(pool, read);
        CHECK(gone.failure == Failure::schema_changed);
        CHECK(gone.sqlstate == "42P01");
        schema.execute("create view v as select 5 as a");
        CHECK(ask(pool, read).value == "5");
    }
    schema.execute("drop schema " + schema.name() + "_b cascade");
}

TEST_CASE("a query that outlasts its deadline is answered at the deadline, and its late result harms nobody") {
    Schema schema;
    auto impatient = options(schema);
    impatient.query_timeout = 200ms;
    pg::QueryPool pool(impatient);
    // Connecting may take longer than that, on a busy machine.
    REQUIRE(eventually([&] { return ask(pool, kEcho, params(0)).value == "0"; }));
    Answers answers;
    const auto start = std::chrono::steady_clock::now();
    REQUIRE(pool.submit(kSleep, params(1, "0.1"), answers.take(0)));
    REQUIRE(pool.submit(kSleep, params(2, "0.15"), answers.take(1)));
    REQUIRE(pool.submit(kSleep, params(3, "0.01"), answers.take(2)));
    const auto got = answers.wait();
    CHECK(got[0].value == "1");
    for (const auto* late : {&got[1], &got[2]}) {
        CHECK(late->failure == Failure::retryable);
        CHECK(late->what.find("not answered within 200 ms") != std::string::npos);
        CHECK(late->at - start >= 200ms);
        CHECK(late->at - start < 1s);
    }
    CHECK(eventually([&] { return ask(pool, kEcho, params(9)).value == "9"; }));
    for (const auto& answer : answers.wait())
        CHECK(answer.times == 1);
}

TEST_CASE("a server that falls silent costs its queries their deadline, and the pool recovers") {
    Schema schema;
    Network network;
    auto far = options(schema);
    far.dsn = network.dsn();
    far.query_timeout = 300ms;
    far.session.connect_timeout = 1s;
    pg::QueryPool pool(far);
    CHECK(ask(pool, kEcho, params(1)).value == "1");
    network.fall_silent();
    const auto start = std::chrono::steady_clock::now();
    const auto answer = ask(pool, kEcho, params(2));
    CHECK(answer.failure.has_value());
    CHECK(answer.at - start >= 300ms);
    CHECK(answer.at - start < 1'500ms);
    CHECK(eventually([&] { return !pool.connected(); }));
    network.speak_again();
    CHECK(eventually([&] { return ask(pool, kEcho, params(3)).value == "3"; }));
}

TEST_CASE("large parameters and large results pass") {
    Schema schema;
    pg::QueryPool pool(options(schema));
    const pg::Statement repeat = {"repeat", "select $1::text || $1::text"};
    const std::string half(3'000'000, 'x');
    Answers answers;
    for (std::size_t i = 0; i < 6; ++i)
        REQUIRE(pool.submit(repeat, pg::Params().add(half), answers.take(i)));
    for (const auto& answer : answers.wait())
        CHECK(answer.value.size() == 6'000'000);
}

TEST_CASE("the destructor answers everything that is left, each once") {
    Schema schema;
    Answers answers;
    {
        pg::QueryPool pool(options(schema, 2));
        CHECK(ask(pool, kEcho, params(1)).value == "1");
        for (std::size_t i = 0; i < 300; ++i)
            REQUIRE(pool.submit(kSleep, params(1, "1"), answers.take(i)));
    }
    for (const auto& answer : answers.wait()) {
        CHECK(answer.times == 1);
        CHECK(answer.failure == Failure::connection_lost);
        CHECK(answer.what.find("shutting down") != std::string::npos);
    }
    CHECK(eventually([&] { return schema.sessions() == 0; }));
}

TEST_CASE("a pool can be destroyed while it has no connection, or before it has one") {
    Schema schema;
    auto lost = options(schema, 3);
    lost.dsn = "postgresql://127.0.0.1:1/d";
    const auto start = std::chrono::steady_clock::now();
    { const pg::QueryPool pool(lost); }
    {
        const pg::QueryPool pool(lost);
        std::this_thread::sleep_for(50ms);  // into the back-off
    }
    Network network;
    network.fall_silent();
    lost.dsn = network.dsn();
    { const pg::QueryPool pool(lost); }
    CHECK(std::chrono::steady_clock::now() - start < 2s);
}

TEST_CASE("many threads, sessions killed at random: one right answer to each query") {
    Schema schema;
    auto busy = options(schema, 3);
    busy.query_timeout = 15s;
    busy.max_queued = 1'000'000;
    pg::QueryPool pool(busy);
    CHECK(eventually([&] { return backends(schema).size() == 3; }));
    constexpr std::size_t kThreads = 4;
    constexpr std::size_t kEach = 1'500;
    Answers answers;
    for (std::size_t i = 0; i < kThreads * kEach; ++i)
        static_cast<void>(answers.take(i));
    std::atomic<std::size_t> submitted = 0;
    std::vector<std::thread> threads;
    for (std::size_t t = 0; t < kThreads; ++t) {
        threads.emplace_back([&, t] {
            for (std::size_t i = t * kEach; i < (t + 1) * kEach; ++i) {
                if (!pool.submit(kEcho, params(static_cast<std::int64_t>(i)), answers.take(i))) std::abort();
                ++submitted;
                if (i % 50 == 0) std::this_thread::sleep_for(2ms);  // so that the kills fall between them
            }
        });
    }
    // A query is sent twice at most: what the last kill met has to be answered before the next.
    std::mt19937 random(1);
    for (int i = 0; i < 6; ++i) {
        const auto pids = backends(schema);
        if (!pids.empty()) schema.terminate(pids[random() % pids.size()]);
        CHECK(eventually([&] { return backends(schema).size() == 3; }));
        const std::size_t so_far = submitted;
        CHECK(eventually([&] { return answers.arrived() >= so_far; }));
    }
    for (auto& thread : threads)
        thread.join();
    const auto got = answers.wait();
    std::size_t right = 0;
    for (std::size_t i = 0; i < got.size(); ++i) {
        CHECK(got[i].times == 1);
        if (got[i].value == std::to_string(i)) ++right;
    }
    CHECK(right == got.size());
}
