#include "infra/postgres/session.h"

#include <doctest/doctest.h>

#include <stdexcept>
#include <string>
#include <vector>

using namespace std::chrono_literals;
namespace pg = tidemark::pg;
namespace session = tidemark::pg::session;

namespace {

bool has(const std::string& text, const std::string& part) {
    return text.find(part) != std::string::npos;
}

/// What a session answers that has just what the default options ask for.
std::vector<std::pair<std::string, std::string>> as_asked() {
    return {{"statement_timeout", "2000"},
            {"lock_timeout", "1000"},
            {"idle_in_transaction_session_timeout", "5000"},
            {"synchronous_commit", "on"},
            {"client_encoding", "UTF8"},
            {"TimeZone", "UTC"},
            {"DateStyle", "ISO, MDY"},
            {"bytea_output", "hex"},
            {"search_path", "\"$user\", public"},
            {"default_transaction_isolation", "read committed"},
            {"default_transaction_read_only", "off"}};
}

}  // namespace

TEST_CASE("a URI and keywords both get the session's settings and the limits of a silent peer") {
    for (const char* dsn : {"postgresql://u:p%27w@h:5433/d?options=-c%20work_mem%3D8MB",
                            "user=u password='p\\'w' host=h port=5433 dbname=d options='-c work_mem=8MB'"}) {
        pg::SessionOptions options;
        options.application_name = "tidemark-api";
        options.search_path = "counters, public";
        options.lock_timeout = 1'234ms;
        options.connect_timeout = 4s;
        const auto text = session::connection_string(dsn, options, session::Access::read_write);
        CAPTURE(text);
        for (const char* part : {"host='h'",
                                 "port='5433'",
                                 "dbname='d'",
                                 "user='u'",
                                 "password='p\\'w'",
                                 "application_name='tidemark-api'",
                                 "client_encoding='UTF8'",
                                 "connect_timeout='4'",
                                 "tcp_user_timeout='5000'",
                                 "keepalives='1'",
                                 "keepalives_idle='2'",
                                 "keepalives_interval='1'",
                                 "keepalives_count='3'",
                                 "options='-c work_mem=8MB -c ",
                                 "-c statement_timeout=2000",
                                 "-c lock_timeout=1234",
                                 "-c idle_in_transaction_session_timeout=5000",
                                 "-c synchronous_commit=on",
                                 "-c TimeZone=UTC",
                                 "-c search_path=counters,\\\\ public",
                                 "-c default_transaction_isolation=read\\\\ committed",
                                 "-c default_transaction_read_only=off"}) {
            CAPTURE(part);
            CHECK(has(text, part));
        }
    }
}

TEST_CASE("the session's settings win over those of the DSN") {
    const auto text = session::connection_string(
        "host=h tcp_user_timeout=0 connect_timeout=0 application_name=x "
        "options='-c lock_timeout=0'",
        {}, session::Access::read_only);
    CHECK(has(text, "tcp_user_timeout='5000'"));
    CHECK(has(text, "connect_timeout='3'"));
    CHECK(has(text, "application_name='tidemark'"));
    CHECK(has(text, "default_transaction_read_only=on"));
    CHECK(text.find("lock_timeout=0") < text.find("lock_timeout=1000"));
}

TEST_CASE("a DSN that cannot be parsed is not repeated: it holds a password") {
    try {
        session::connection_string("postgresqll://u:hunter2@h/d", {}, session::Access::read_write);
        FAIL("parsed");
    } catch (const pg::Error& error) {
        CHECK(error.failure() == pg::Failure::bug);
        CHECK_FALSE(has(error.what(), "hunter2"));
        CHECK(has(error.what(), "postgresql://USER"));
    }
}

TEST_CASE("a password that was not encoded is not shown as a host or a port") {
    for (const char* dsn :
         {"postgresql://u:p@hunter2@h/d", "postgresql://u:hunter2/x@h/d", "postgresql://u:p@h:hunter2@h:1/d",
          "postgresql://u:p@hunter2/x@h/d", "postgres://u:12/hunter2@h/d"}) {
        CAPTURE(dsn);
        try {
            session::connection_string(dsn, {}, session::Access::read_write);
            FAIL("taken");
        } catch (const pg::Error& error) {
            CHECK(error.failure() == pg::Failure::bug);
            CHECK_FALSE(has(error.what(), "hunter2"));
        }
    }
    for (const char* dsn : {"host=a,@b port='1, 2' dbname=d@e", "host=/run/pg@16", "postgresql://[::1]:5433/d"}) {
        CAPTURE(dsn);
        CHECK_NOTHROW(session::connection_string(dsn, {}, session::Access::read_write));
    }
}

TEST_CASE("what a DSN leaves open is left to the environment and to the service's file") {
    const auto text = session::connection_string("service=prod", {}, session::Access::read_write);
    for (const char* keyword : {"host=", "port=", "dbname=", "user="}) {
        CAPTURE(keyword);
        CHECK_FALSE(has(text, keyword));
    }
}

TEST_CASE("a session that was not given what was asked for is told by name") {
    CHECK(session::unlike(as_asked(), {}, session::Access::read_write).empty());
    for (std::size_t i = 0; i < as_asked().size(); ++i) {
        auto settings = as_asked();
        if (settings[i].first == "search_path") continue;  // not asked for by default
        settings[i].second = "other";
        CHECK(has(session::unlike(settings, {}, session::Access::read_write), settings[i].first + " is other, not "));
        settings.erase(settings.begin() + static_cast<std::ptrdiff_t>(i));
        CHECK(has(session::unlike(settings, {}, session::Access::read_write), " is unknown, not "));
    }
    pg::SessionOptions options;
    options.search_path = "counters_2";
    CHECK(has(session::unlike(as_asked(), options, session::Access::read_write),
              "search_path is \"$user\", public, not counters_2"));
    CHECK(session::unlike(as_asked(), {}, session::Access::read_only) ==
          "default_transaction_read_only is off, not on");
}

TEST_CASE("a plan is prepared once, gets another name when forgotten, and its name stands for one text") {
    session::Plans plans;
    const pg::Statement one = {"one", "select 1"};
    CHECK(plans.of(one).name == "one");
    CHECK_FALSE(plans.of(one).is_prepared);
    plans.of(one).is_prepared = true;
    CHECK(plans.of({"one", "select 1"}).is_prepared);
    plans.forget(one);
    CHECK(plans.of(one).name == "one#1");
    CHECK_FALSE(plans.of(one).is_prepared);
    plans.forget(one);
    CHECK(plans.of(one).name == "one#2");
    plans.forget({"other", "select 2"});
    CHECK(plans.of({"other", "select 2"}).name == "other");
    CHECK_THROWS_AS(plans.of({"one", "select 2"}), std::logic_error);
}
