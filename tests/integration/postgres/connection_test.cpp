#include "infra/postgres/connection.h"

#include "tests/support/postgres.h"

#include <doctest/doctest.h>

#include <chrono>
#include <limits>
#include <map>
#include <optional>
#include <string>
#include <thread>

using namespace std::chrono_literals;
namespace pg = tidemark::pg;
using pg::Failure;
using tidemark::test::dsn;
using tidemark::test::eventually;
using tidemark::test::Network;
using tidemark::test::Schema;

namespace {

struct Outcome {
    std::optional<Failure> failure;  ///< none: it did not throw
    std::string sqlstate;
    std::string what;
};

template <typename Action>
Outcome outcome(const Action& action) {
    try {
        action();
        return {};
    } catch (const pg::Error& error) {
        return {error.failure(), error.sqlstate(), error.what()};
    }
}

constexpr pg::Statement kInsert = {"insert", "insert into notes (id, note) values ($1, $2)"};
constexpr pg::Statement kCount = {"count", "select count(*) from notes"};
constexpr pg::Statement kOne = {"one", "select 1"};

/// A schema with a table `notes`.
struct Notes : Schema {
    Notes() { execute("create table notes (id bigint primary key, note text)"); }
    std::string count() { return ask("select count(*) from notes"); }
};

pg::Params note(std::int64_t id, const std::string& text = "x") {
    pg::Params params;
    params.add(id).add(text);
    return params;
}

}  // namespace

TEST_CASE("each session has its time-outs and formats, whatever the DSN says") {
    pg::SessionOptions options;
    options.application_name = "tidemark-test";
    options.search_path = "pg_catalog, public";
    options.statement_timeout = 1'500ms;
    options.lock_timeout = 700ms;
    options.idle_in_transaction_timeout = 4s;
    const Network network;  // its DSN is in keywords
    for (const auto& way :
         {dsn(), network.dsn() + " options='-c bytea_output=escape -c lock_timeout=0 -c synchronous_commit=off "
                                 "-c default_transaction_isolation=serializable'"}) {
        pg::Connection connection(way, options);
        const pg::Statement ask = {"ask", "select setting from pg_settings where name = $1"};
        for (const auto& setting : std::map<std::string, std::string>{
                 {"application_name", "tidemark-test"},
                 {"statement_timeout", "1500"},
                 {"lock_timeout", "700"},
                 {"idle_in_transaction_session_timeout", "4000"},
                 {"synchronous_commit", "on"},
                 {"client_encoding", "UTF8"},
                 {"TimeZone", "UTC"},
                 {"bytea_output", "hex"},
                 {"search_path", "pg_catalog, public"},
                 {"default_transaction_isolation", "read committed"},
             }) {
            CAPTURE(setting.first);
            CHECK(connection.run(ask, pg::Params().add(setting.first)).text(0, 0) == setting.second);
        }
        CHECK(connection.backend_pid() ==
              std::stoi(std::string(connection.run({"pid", "select pg_backend_pid()"}).text(0, 0))));
        CHECK_FALSE(connection.is_broken());
    }
}

TEST_CASE("a session that was not given its settings is refused") {
    Network network;
    network.alter("lock_timeout=1000", "lock_timeout=9000");
    const auto refused = outcome([&] { pg::Connection(network.dsn(), {}); });
    CHECK(refused.failure == Failure::bug);
    CHECK(refused.what.find("lock_timeout is 9000, not 1000") != std::string::npos);
}

TEST_CASE("a database that cannot be reached is a lost connection, told without the password") {
    for (const char* unreachable :
         {"postgresql://u:hunter2@127.0.0.1:1/d", "host=127.0.0.1 port=1 user=u password=hunter2"}) {
        const auto failed = outcome([&] { pg::Connection(unreachable, {}); });
        CHECK(failed.failure == Failure::connection_lost);
        CHECK(failed.what.find("hunter2") == std::string::npos);
        CHECK(failed.what.find("127.0.0.1") != std::string::npos);
    }
}

TEST_CASE("a server that takes the connection and says nothing is given up after the connect timeout") {
    Network network;
    network.fall_silent();
    pg::SessionOptions options;
    options.connect_timeout = 2s;  // the least that libpq honours
    const auto start = std::chrono::steady_clock::now();
    CHECK(outcome([&] { pg::Connection(network.dsn(), options); }).failure == Failure::connection_lost);
    CHECK(std::chrono::steady_clock::now() - start < 5s);
}

TEST_CASE("every value comes back as it went, byte for byte") {
    pg::Connection connection(dsn(), {});
    const pg::Statement echo = {"echo",
                                "select $1::text, $2::bigint, $3::boolean, $4::bytea, "
                                "(extract(epoch from $5::timestamptz) * 1000000)::bigint, $6::text"};
    std::string bytes;
    for (int c = 0; c < 256; ++c)
        bytes += static_cast<char>(c);
    const auto instant = std::chrono::sys_time<std::chrono::microseconds>{1'662'805'434'123'456us};
    for (const std::string text : {"", "NULL", "a'b\"c\\d", "100% /x?&", "line\nbreak\ttab\r", "{\"a\",b}",
                                   "caf\xc3\xa9 cafe\xcc\x81 \xf0\x9f\x8c\x8a \xef\xbf\xbf", "\x01\x7f"}) {
        CAPTURE(text);
        pg::Params params;
        params.add(text)
            .add(std::numeric_limits<std::int64_t>::min())
            .add(true)
            .add_bytes(bytes)
            .add(instant)
            .add_null();
        const auto rows = connection.run(echo, params);
        CHECK(rows.text(0, 0) == text);
        CHECK(rows.integer(0, 1) == std::numeric_limits<std::int64_t>::min());
        CHECK(rows.boolean(0, 2));
        CHECK(rows.bytes(0, 3) == bytes);
        CHECK(rows.instant(0, 4) == instant);
        CHECK_FALSE(rows.cell(0, 5).has_value());
    }
}

TEST_CASE("arrays arrive element by element") {
    pg::Connection connection(dsn(), {});
    pg::Array texts;
    pg::Array numbers;
    pg::Array flags;
    pg::Array instants;
    pg::Array blobs;
    pg::Array sums;
    const std::vector<std::string> expected = {"", "NULL", "a,b", "{x}", "q\"q\\", "\n", "\xf0\x9f\x8c\x8a"};
    for (std::size_t i = 0; i < expected.size(); ++i) {
        texts.add(expected[i]);
        numbers.add(static_cast<std::int64_t>(i) - 3);
        flags.add(i % 2 == 0);
        instants.add(std::chrono::sys_time<std::chrono::microseconds>{std::chrono::microseconds{i}});
        blobs.add_bytes(std::string(i, '\0'));
        sums.add_numeric("12345678901234567890123456789" + std::to_string(i));
    }
    texts.add_null();
    pg::Params params;
    params.add(texts).add(numbers).add(flags).add(instants).add(blobs).add(sums);
    const auto rows = connection.run(
        {"unnest",
         "select a, b, c, (extract(epoch from d) * 1000000)::bigint, e, f "
         "from unnest($1::text[], $2::bigint[], $3::boolean[], $4::timestamptz[], $5::bytea[], $6::numeric[]) "
         "as t(a, b, c, d, e, f)"},
        params);
    REQUIRE(rows.size() == expected.size() + 1);
    for (std::size_t i = 0; i < expected.size(); ++i) {
        CHECK(rows.text(i, 0) == expected[i]);
        CHECK(rows.integer(i, 1) == static_cast<std::int64_t>(i) - 3);
        CHECK(rows.boolean(i, 2) == (i % 2 == 0));
        CHECK(rows.integer(i, 3) == static_cast<std::int64_t>(i));
        CHECK(rows.bytes(i, 4) == std::string(i, '\0'));
        CHECK(rows.text(i, 5) == "12345678901234567890123456789" + std::to_string(i));
    }
    CHECK_FALSE(rows.cell(expected.size(), 0).has_value());
}

TEST_CASE("a transaction is rolled back unless committed, and writes once when it is") {
    Notes notes;
    pg::Connection connection(dsn(), notes.options());
    {
        auto transaction = connection.begin();
        CHECK(transaction.run(kInsert, note(1)).affected() == 1);
    }
    CHECK(notes.count() == "0");
    auto transaction = connection.begin();
    transaction.run(kInsert, note(1));
    auto moved = std::move(transaction);
    moved.run(kInsert, note(2));
    moved.commit();
    CHECK(notes.count() == "2");
    CHECK(outcome([&] { moved.run(kCount); }).failure == Failure::bug);
    CHECK(outcome([&] { moved.run_script("select 1"); }).failure == Failure::bug);
    CHECK(outcome([&] { moved.commit(); }).failure == Failure::bug);
    CHECK(connection.run(kCount).integer(0, 0) == 2);
}

TEST_CASE("there is one transaction at a time, and none while waiting for notifications") {
    Notes notes;
    pg::Connection connection(dsn(), notes.options());
    auto transaction = connection.begin();
    CHECK(outcome([&] { static_cast<void>(connection.begin()); }).failure == Failure::bug);
    CHECK(outcome([&] { connection.listen("x"); }).failure == Failure::bug);
    CHECK(outcome([&] { connection.notifications(0ms); }).failure == Failure::bug);
    transaction.run(kInsert, note(1));
    transaction.commit();
    CHECK(notes.count() == "1");
    CHECK_FALSE(connection.is_broken());
}

TEST_CASE("a commit after a failed statement is an error: the server would roll back and call it done") {
    Notes notes;
    pg::Connection connection(dsn(), notes.options());
    auto transaction = connection.begin();
    transaction.run(kInsert, note(1));
    CHECK(outcome([&] { transaction.run(kInsert, note(1)); }).sqlstate == "23505");
    const auto committed = outcome([&] { transaction.commit(); });
    CHECK(committed.failure == Failure::bug);
    CHECK(committed.what.find("nothing was written") != std::string::npos);
    CHECK(notes.count() == "0");
    connection.run(kInsert, note(1));  // the connection is as good as before
    CHECK(notes.count() == "1");
}

TEST_CASE("a refusal at the commit itself keeps its meaning, and the connection") {
    Notes notes;
    notes.execute("create table later (id int unique deferrable initially deferred)");
    pg::Connection connection(dsn(), notes.options());
    auto transaction = connection.begin();
    transaction.run_script("insert into later values (1), (1)");
    const auto committed = outcome([&] { transaction.commit(); });
    CHECK(committed.failure == Failure::data);
    CHECK(committed.sqlstate == "23505");
    CHECK_FALSE(connection.is_broken());
    CHECK(connection.run(kCount).integer(0, 0) == 0);
}

TEST_CASE("each class of failure is told by its SQLSTATE, also those that libpqxx forgets") {
    pg::Connection connection(dsn(), {});
    for (const auto& each : std::map<std::string, Failure>{{"40001", Failure::retryable},
                                                           {"40P01", Failure::retryable},
                                                           {"40003", Failure::retryable},
                                                           {"40000", Failure::retryable},
                                                           {"55P03", Failure::retryable},
                                                           {"57014", Failure::retryable},
                                                           {"53100", Failure::retryable},
                                                           {"53200", Failure::retryable},
                                                           {"53300", Failure::retryable},
                                                           {"53400", Failure::retryable},
                                                           {"22003", Failure::data},
                                                           {"22P02", Failure::data},
                                                           {"23502", Failure::data},
                                                           {"23505", Failure::data},
                                                           {"23P01", Failure::data},
                                                           {"54000", Failure::data},
                                                           {"0A000", Failure::schema_changed},
                                                           {"42703", Failure::schema_changed},
                                                           {"42P01", Failure::schema_changed},
                                                           {"26000", Failure::schema_changed},
                                                           {"42501", Failure::bug},
                                                           {"42601", Failure::bug},
                                                           {"58030", Failure::bug},
                                                           {"P0001", Failure::bug},
                                                           {"XX000", Failure::bug}}) {
        const auto& [code, expected] = each;
        CAPTURE(each.first);
        auto transaction = connection.begin();
        const auto failed = outcome([&, errcode = each.first] {
            transaction.run_script("do $$ begin raise exception using errcode = '" + errcode + "'; end $$");
        });
        CHECK(failed.failure == expected);
        CHECK(failed.sqlstate == code);
        CHECK_FALSE(connection.is_broken());
    }
}

TEST_CASE("values that the server refuses are the data's fault, and the statement is named") {
    Notes notes;
    notes.execute("create index on notes (note)");
    pg::Connection connection(dsn(), notes.options());
    std::string random;  // incompressible, too long for an index row
    for (std::uint32_t i = 0, x = 1; i < 10'000; ++i)
        random += static_cast<char>('!' + (x = x * 1'103'515'245 + 12'345, (x >> 16) % 90));
    CHECK(outcome([&] { connection.run(kInsert, note(1, random)); }).sqlstate == "54000");
    CHECK(outcome([&] { connection.run(kInsert, note(1, "\xff")); }).sqlstate == "22021");
    const auto overflow = outcome([&] {
        connection.run({"add", "select $1::bigint + 1"}, pg::Params().add(std::numeric_limits<std::int64_t>::max()));
    });
    CHECK(overflow.failure == Failure::data);
    CHECK(overflow.what.rfind("add: ", 0) == 0);
}

TEST_CASE("a lock that is not given in time is retryable, and so is a statement that takes too long") {
    Notes notes;
    auto options = notes.options();
    options.lock_timeout = 50ms;
    options.statement_timeout = 300ms;
    pg::Connection holder(dsn(), notes.options());
    pg::Connection waiter(dsn(), options);
    auto holding = holder.begin();
    holding.run_script("lock table notes");
    const auto blocked = outcome([&] { waiter.run(kCount); });
    CHECK(blocked.failure == Failure::retryable);
    CHECK(blocked.sqlstate == "55P03");
    CHECK(outcome([&] { waiter.run({"sleep", "select pg_sleep(30)"}); }).sqlstate == "57014");
    CHECK_FALSE(waiter.is_broken());
}

TEST_CASE("a deadlock and a lost race of snapshots are retryable") {
    Notes notes;
    notes.execute("insert into notes values (1, 'a'), (2, 'b')");
    auto options = notes.options();
    options.lock_timeout = 10s;
    options.statement_timeout = 10s;
    pg::Connection one(dsn(), options);
    pg::Connection two(dsn(), options);
    {
        auto first = one.begin();
        auto second = two.begin();
        first.run_script("update notes set note = 'x' where id = 1");
        second.run_script("update notes set note = 'y' where id = 2");
        Outcome of_first;
        std::thread crossing(
            [&] { of_first = outcome([&] { first.run_script("update notes set note = 'x' where id = 2"); }); });
        const auto of_second = outcome([&] { second.run_script("update notes set note = 'y' where id = 1"); });
        crossing.join();
        CHECK(of_first.failure.has_value() != of_second.failure.has_value());
        CHECK(of_first.sqlstate + of_second.sqlstate == "40P01");
        CHECK((of_first.failure ? of_first.failure : of_second.failure) == Failure::retryable);
    }
    auto snapshot = one.begin();
    snapshot.run_script("set transaction isolation level repeatable read; select 1 from notes");
    two.run_script("update notes set note = 'z'");
    CHECK(outcome([&] { snapshot.run_script("update notes set note = 'w'"); }).sqlstate == "40001");
}

TEST_CASE("a snapshot sees one moment in all tables and cannot write") {
    Notes notes;
    pg::Connection reader(dsn(), notes.options());
    auto snapshot = reader.begin_snapshot();
    CHECK(snapshot.run(kCount).integer(0, 0) == 0);
    notes.execute("insert into notes values (1, 'a')");
    CHECK(snapshot.run(kCount).integer(0, 0) == 0);
    CHECK(outcome([&] { snapshot.run(kInsert, note(2)); }).sqlstate == "25006");
    // An ordinary transaction looks anew in each statement.
    pg::Connection other(dsn(), notes.options());
    auto plain = other.begin();
    CHECK(plain.run(kCount).integer(0, 0) == 1);
    notes.execute("insert into notes values (2, 'b')");
    CHECK(plain.run(kCount).integer(0, 0) == 2);
}

TEST_CASE("a statement is prepared once per connection") {
    Notes notes;
    pg::Connection connection(dsn(), notes.options());
    for (int i = 0; i < 5; ++i)
        connection.run(kInsert, note(i));
    const pg::Statement prepared = {"prepared", "select count(*) from pg_prepared_statements where name = 'insert'"};
    CHECK(connection.run(prepared).integer(0, 0) == 1);
}

TEST_CASE("after the tables changed a statement fails once as schema_changed and is then planned anew") {
    Notes notes;
    pg::Connection connection(dsn(), notes.options());
    const pg::Statement all = {"all", "select * from notes"};
    connection.run(all);
    notes.execute("alter table notes alter column note type bigint using 7");
    const auto stale = outcome([&] { connection.run(all); });
    CHECK(stale.failure == Failure::schema_changed);
    CHECK(stale.sqlstate == "0A000");
    CHECK(connection.run(all).empty());
    notes.execute("drop table notes");
    CHECK(outcome([&] { connection.run(all); }).sqlstate == "42P01");
    CHECK(outcome([&] { connection.run(all); }).sqlstate == "42P01");
    notes.execute("create table notes (id bigint, note text, more text)");
    CHECK(connection.run(all).empty());
    connection.run_script("deallocate all");
    CHECK(outcome([&] { connection.run(all); }).sqlstate == "26000");
    CHECK(connection.run(all).empty());
}

TEST_CASE("a script is all or nothing") {
    Notes notes;
    pg::Connection connection(dsn(), notes.options());
    CHECK(outcome([&] {
              connection.run_script("insert into notes values (1, 'a'); insert into notes values (1, 'b');");
          }).failure == Failure::data);
    CHECK(notes.count() == "0");
    connection.run_script("insert into notes values (1, 'a'); insert into notes values (2, 'b');");
    CHECK(notes.count() == "2");
}

TEST_CASE("a broken connection stays broken and never becomes another session") {
    Notes notes;
    pg::Connection connection(dsn(), notes.options());
    connection.run(kOne);
    const int backend = connection.backend_pid();
    notes.terminate(backend);
    const auto first = outcome([&] { connection.run(kOne); });
    CHECK(first.failure == Failure::connection_lost);
    CHECK(connection.is_broken());
    for (int i = 0; i < 3; ++i) {
        CHECK(outcome([&] { connection.run(kOne); }).failure == Failure::connection_lost);
        CHECK(outcome([&] { static_cast<void>(connection.begin()); }).failure == Failure::connection_lost);
        CHECK(outcome([&] { connection.run_script("select 1"); }).failure == Failure::connection_lost);
        CHECK(outcome([&] { connection.listen("x"); }).failure == Failure::connection_lost);
        CHECK(outcome([&] { connection.notifications(0ms); }).failure == Failure::connection_lost);
    }
    CHECK(connection.is_broken());
    CHECK(notes.sessions() == 0);
    connection = pg::Connection(dsn(), notes.options());
    CHECK(connection.run(kOne).integer(0, 0) == 1);
    CHECK(connection.backend_pid() != backend);
}

TEST_CASE("a listener whose session is gone is told so at once") {
    Notes notes;
    pg::Connection connection(dsn(), notes.options());
    notes.terminate(connection.backend_pid());
    CHECK(outcome([&] { connection.listen("x"); }).failure == Failure::connection_lost);
    CHECK(connection.is_broken());
    CHECK(notes.sessions() == 0);
}

TEST_CASE("a connection that breaks inside a transaction loses it whole") {
    Notes notes;
    pg::Connection connection(dsn(), notes.options());
    auto transaction = connection.begin();
    transaction.run(kInsert, note(1));
    notes.terminate(connection.backend_pid());
    CHECK(outcome([&] { transaction.run(kInsert, note(2)); }).failure == Failure::connection_lost);
    CHECK(outcome([&] { transaction.run(kInsert, note(3)); }).failure == Failure::connection_lost);
    // The loss was known before: nothing can have been committed.
    CHECK(outcome([&] { transaction.commit(); }).failure == Failure::connection_lost);
    CHECK(notes.count() == "0");
    CHECK(notes.sessions() == 0);
}

TEST_CASE("a commit on a session that was ended under it is in doubt") {
    Notes notes;
    pg::Connection connection(dsn(), notes.options());
    auto transaction = connection.begin();
    transaction.run(kInsert, note(1));
    notes.terminate(connection.backend_pid());
    CHECK(outcome([&] { transaction.commit(); }).failure == Failure::in_doubt);
    CHECK(connection.is_broken());
    CHECK(notes.count() == "0");
}

TEST_CASE("a commit whose answer is lost is in doubt, whether it happened or not") {
    Notes notes;
    for (const bool happens : {true, false}) {
        CAPTURE(happens);
        Network network;
        pg::Connection connection(network.dsn(), notes.options());
        auto transaction = connection.begin();
        transaction.run(kInsert, note(happens ? 1 : 2));
        if (happens) {
            network.lose_answer_to("COMMIT");
        } else {
            network.lose("COMMIT");
        }
        CHECK(outcome([&] { transaction.commit(); }).failure == Failure::in_doubt);
        CHECK(connection.is_broken());
        CHECK(outcome([&] { connection.run(kOne); }).failure == Failure::connection_lost);
    }
    CHECK(notes.ask("select string_agg(id::text, ',') from notes") == "1");
}

TEST_CASE("a network that goes away before the commit loses the transaction, not the knowledge of it") {
    Notes notes;
    Network network;
    pg::Connection connection(network.dsn(), notes.options());
    auto transaction = connection.begin();
    transaction.run(kInsert, note(1));
    network.cut();
    CHECK(outcome([&] { transaction.run(kCount); }).failure == Failure::connection_lost);
    CHECK(outcome([&] { transaction.commit(); }).failure == Failure::connection_lost);
    CHECK(eventually([&] { return notes.sessions() == 0; }));
    CHECK(notes.count() == "0");
}

TEST_CASE("a transaction left open is ended by the server, and its locks are free") {
    Notes notes;
    auto options = notes.options();
    options.idle_in_transaction_timeout = 100ms;
    pg::Connection sleeper(dsn(), options);
    auto transaction = sleeper.begin();
    transaction.run_script("lock table notes");
    pg::Connection successor(dsn(), notes.options());
    const auto start = std::chrono::steady_clock::now();
    CHECK(successor.run(kCount).integer(0, 0) == 0);  // waits for the lock, at most 1 s
    CHECK(std::chrono::steady_clock::now() - start < 1s);
    CHECK(outcome([&] { transaction.run(kCount); }).failure == Failure::connection_lost);
    CHECK(sleeper.is_broken());
}

TEST_CASE("notifications arrive in order, and a wait without one lasts its time") {
    Schema schema;
    pg::Connection listener(dsn(), schema.options());
    listener.listen(schema.name());
    listener.listen("Odd \"name\"");
    CHECK(listener.notifications(0ms).empty());
    const auto start = std::chrono::steady_clock::now();
    CHECK(listener.notifications(30ms).empty());
    CHECK(std::chrono::steady_clock::now() - start >= 30ms);
    pg::Connection sender(dsn(), schema.options());
    const pg::Statement notify = {"notify", "select pg_notify($1, $2)"};
    sender.run(notify, pg::Params().add(schema.name()).add("first"));
    sender.run(notify, pg::Params().add(schema.name()).add("caf\xc3\xa9 'x'"));
    sender.run(notify, pg::Params().add("other").add("not for us"));
    sender.run(notify, pg::Params().add("Odd \"name\"").add("third"));
    std::vector<std::string> got;
    CHECK(eventually([&] {
        for (const auto& notification : listener.notifications(1s)) {
            got.push_back(notification.channel == schema.name() ? notification.payload : notification.channel);
        }
        return got.size() >= 3;
    }));
    CHECK(got == std::vector<std::string>{"first", "caf\xc3\xa9 'x'", "Odd \"name\""});
    CHECK(listener.notifications(20ms).empty());
}

TEST_CASE("a wait for notifications ends when one comes, and throws when the connection breaks") {
    Schema schema;
    pg::Connection listener(dsn(), schema.options());
    listener.listen(schema.name());
    std::thread sender([&] { schema.execute("select pg_notify('" + schema.name() + "', 'now')"); });
    const auto start = std::chrono::steady_clock::now();
    CHECK(listener.notifications(30s).size() == 1);
    CHECK(std::chrono::steady_clock::now() - start < 30s);
    sender.join();
    std::thread killer([&] { schema.terminate(listener.backend_pid()); });
    CHECK(outcome([&] { listener.notifications(30s); }).failure == Failure::connection_lost);
    killer.join();
    CHECK(listener.is_broken());
}

TEST_CASE("a quoted identifier names what it says, and one that the server would cut is refused") {
    Schema schema;
    pg::Connection connection(dsn(), schema.options());
    const std::string odd = "Odd \"na.me\"; drop";
    connection.run_script("create table " + pg::quote_identifier(odd) + " ()");
    CHECK(schema.ask("select count(*) from pg_tables where tablename = 'Odd \"na.me\"; drop'") == "1");
    CHECK(pg::quote_identifier(std::string(63, 'x')).size() == 65);
    CHECK_THROWS_AS(pg::quote_identifier(std::string(64, 'x')), std::invalid_argument);
    CHECK_THROWS_AS(pg::quote_identifier(""), std::invalid_argument);
    CHECK_THROWS_AS(pg::quote_identifier(std::string("a\0b", 3)), std::invalid_argument);
}
