#include "api/routes.h"

#include "api/request.h"
#include "schemas/json.h"
#include "tests/support/fake_clock.h"
#include "tests/support/fake_sink.h"
#include "tests/unit/api/answers.h"

#include <doctest/doctest.h>

#include <memory>
#include <set>
#include <sstream>
#include <string>
#include <vector>

using namespace tidemark;
using namespace tidemark::api;
using tests::Answers;
using tests::Asked;
namespace json = schemas::json;

namespace {

/// The whole program behind its router, with no broker or database to be found.
struct Fixture {
    Fixture()
        : pool({.dsn = "host=127.0.0.1 port=1", .session = {}, .connections = 1}),
          watch(watch_options(), clock),
          publisher({}, clock,
                    [](kafka::RecordSink::Listener& listener) { return std::make_unique<tests::FakeSink>(listener); }),
          cache({}),
          writer(publisher, watch, clock),
          reads(pool, watch, clock),
          router(make_routes({writer, reads, cache, {publisher, pool, reads}, metrics, {}})) {}

    static ProgressWatchOptions watch_options() {
        ProgressWatchOptions options;
        options.dsn = "host=127.0.0.1 port=1";
        options.brokers = "127.0.0.1:1";
        options.broker_timeout = std::chrono::milliseconds(100);
        return options;
    }

    std::shared_ptr<Answers> ask(Asked& asked) {
        std::vector<std::string> params;
        const auto match = router.match(asked.request.method, asked.request.path, params);
        REQUIRE(match.route != nullptr);
        asked.request.params = params;
        asked.request.route = match.route->path;
        auto answers = std::make_shared<Answers>();
        match.route->handler(asked.request, http::Reply(answers, 0));
        return answers;
    }
    std::shared_ptr<Answers> get(const std::string& target,
                                 std::vector<std::pair<std::string, std::string>> header = {}) {
        Asked asked(http::Method::get, target, std::move(header));
        return ask(asked);
    }
    std::shared_ptr<Answers> send(http::Method method, const std::string& target, const std::string& body,
                                  std::vector<std::pair<std::string, std::string>> header = {}) {
        Asked asked(method, target, std::move(header), body);
        return ask(asked);
    }

    tests::FakeClock clock;
    base::Metrics metrics;
    pg::QueryPool pool;
    ProgressWatch watch;
    producer::EventPublisher publisher;
    VehicleCache cache;
    LogWriter writer;
    Reads reads;
    http::Router router;
};

json::Limits document_limits() {
    json::Limits limits;
    limits.max_depth = 64;
    limits.max_members = 0;
    return limits;
}

/// "pointer pointer ..." of a problem's violations, in order.
std::string pointers(const Answers& answers) {
    json::Reader reader;
    const auto body = reader.parse(answers.body, document_limits());
    REQUIRE(body);
    std::string found;
    if (const auto errors = body->find("errors")) {
        for (const auto error : errors)
            found.append(found.empty() ? "" : " ").append(error.find("pointer").text());
    }
    return found;
}

}  // namespace

TEST_CASE("openapi.json describes exactly the routes that are served") {
    Fixture f;
    std::set<std::string> served;
    for (const auto& route : f.router.routes())
        served.insert(std::string(http::to_string(route.method)) + " " + route.path);

    json::Reader reader;
    const auto document = reader.parse(openapi(), document_limits());
    REQUIRE(document);
    std::set<std::string> described;
    for (const auto path : document->find("paths")) {
        for (const auto operation : path) {
            std::string method(operation.name());
            for (auto& c : method)
                c = static_cast<char>(c - 'a' + 'A');
            described.insert(method + " " + std::string(path.name()));
        }
    }
    CHECK(served == described);
}

TEST_CASE("openapi.json names the query parameters that a route takes, and refers only to what is there") {
    Fixture f;
    json::Reader reader;
    const auto document = reader.parse(openapi(), document_limits());
    REQUIRE(document);
    const auto resolve = [&](std::string_view reference) {
        auto at = *document;
        REQUIRE(reference.starts_with("#/"));
        std::istringstream steps{std::string(reference.substr(2))};
        for (std::string step; std::getline(steps, step, '/');) {
            at = at.find(step);
            CAPTURE(reference);
            REQUIRE(at);
        }
        return at;
    };
    const auto visit = [&](const auto& self, json::Value value) -> void {
        if (value.is(json::Kind::string) && value.name() == "$ref") resolve(value.text());
        if (value.is(json::Kind::object) || value.is(json::Kind::array)) {
            for (const auto child : value)
                self(self, child);
        }
    };
    visit(visit, *document);

    for (const auto path : document->find("paths")) {
        const auto get = path.find("get");
        if (!get || !get.find("parameters") || path.name().starts_with("/problems")) continue;
        CAPTURE(path.name());
        std::string target(path.name());
        for (auto open = target.find('{'); open != std::string::npos; open = target.find('{')) {
            target.replace(open, target.find('}') - open + 1,
                           "%ff");  // wrong as a key, an id and an instant: each answer is a 400
        }
        std::string separator = "?";
        for (const auto parameter : get.find("parameters")) {
            const auto whole = parameter.find("$ref") ? resolve(parameter.find("$ref").text()) : parameter;
            if (whole.find("in").text() != "query") continue;
            target.append(separator).append(whole.find("name").text()).append("=%ff");
            separator = "&";
        }
        if (separator == "?") continue;
        const auto answer = f.get(target);
        CHECK(answer->status == 400);
        CHECK(answer->body.find("unknown parameter") == std::string::npos);
        CHECK(f.get(target + "&none=1")->body.find("unknown parameter") != std::string::npos);
    }
}

TEST_CASE("every violation of a write is named at once") {
    Fixture f;
    const auto bad = f.send(http::Method::post, "/increment?x=1", R"({"key":"","value":1.5,"other":1})",
                            {{"Idempotency-Key", "a b"}});
    CHECK(bad->status == 400);
    CHECK(pointers(*bad) == "/key /value /other Idempotency-Key ?x");
    const auto state =
        f.send(http::Method::post, "/vehicles/x/states", R"({"state":"lost","occurredAt":"soon","foo":1})");
    CHECK(state->status == 400);
    CHECK(pointers(*state) == "/id /occurredAt /state /foo");
    const auto vehicle = f.send(http::Method::put, "/vehicles/01", R"({"make":""})");
    CHECK(vehicle->status == 400);
    CHECK(pointers(*vehicle) == "/id /make /model");
    CHECK(f.send(http::Method::put, "/vehicles/1", "[")->status == 400);
    const auto redrive = f.send(http::Method::post, "/dead-letters/x/redrive?x=1", R"({"edit":"","note":"a"})",
                                {{"Idempotency-Key", "a b"}});
    CHECK(pointers(*redrive) == "/id /edit /note Idempotency-Key ?x");
    const auto discard = f.send(http::Method::post, "/dead-letters/counters:01:1/discard", R"({"edit":"a","note":1})");
    CHECK(pointers(*discard) == "/id /note /edit");
    const auto many =
        f.send(http::Method::post, "/dead-letters/redrive?x=1", R"({"stream":"x","reason":"","dryRun":0})");
    CHECK(pointers(*many) == "/reason /dryRun /stream ?x");
    CHECK(pointers(*f.send(http::Method::post, "/dead-letters/redrive", "{}")) == "/stream");
}

TEST_CASE("a body that the contract refuses is a 400") {
    Fixture f;
    for (const auto* body :
         {"", "{}", R"({"key":"a"})", R"({"value":1})", R"({"key":"a","value":1)", R"({"key":"","value":1})",
          R"({"key":"a","value":"abc"})", R"({"key":"a","value":1.5})", R"({"key":"a","value":1e3})",
          R"({"key":"a","value":9007199254740992})", R"({"key":"a","value":1,"value":1})",
          R"({"key":"a","value":1,"x":1})", R"({"key":"a\u0000b","value":1})", R"([])", R"(null)",
          R"({"key":1,"value":1})", "{\"key\":\"\xff\",\"value\":1}"}) {
        CAPTURE(body);
        const auto answer = f.send(http::Method::post, "/increment", body);
        CHECK(answer->status == 400);
        CHECK(answer->count == 1);
    }
}

TEST_CASE("an event more than an hour ahead is refused, one of an hour is not") {
    Fixture f;
    const auto at = [&](std::chrono::microseconds ahead) {
        return f.send(http::Method::post, "/vehicles/1/states",
                      R"({"state":"sold","occurredAt":")" + schemas::format_instant(f.clock.now() + ahead) + "\"}");
    };
    const auto refused = at(std::chrono::hours(1) + std::chrono::microseconds(1));
    CHECK(refused->status == 422);
    CHECK(refused->body.find("/problems/from_the_future") != std::string::npos);
    CHECK(at(std::chrono::hours(1))->status == 503);  // it got as far as the log, which is not there
}

TEST_CASE("while the log is not known nothing is published, and reads that want a position are not served") {
    Fixture f;
    const auto write = f.send(http::Method::post, "/increment", R"({"key":"a","value":1})");
    CHECK(write->status == 503);
    CHECK(write->lines == "Retry-After: 1\r\n");
    CHECK(write->body.find("outcome") == std::string::npos);
    CHECK(f.publisher.counters().accepted == 0);
    CHECK(f.publisher.counters().in_flight == 0);
    CHECK(f.get("/counters/a?at_least=counters-0a1b2c3d-0-1")->status == 503);
    CHECK(f.get("/counters/a", {{"Cache-Control", "no-cache"}})->status == 503);
    CHECK(f.get("/events/counters-0a1b2c3d-0-1")->status == 503);
}

TEST_CASE("every violation of a read is named at once") {
    Fixture f;
    const auto list = f.get("/counters?limit=0&cursor=x&at_least=y&z=1");
    CHECK(list->status == 400);
    CHECK(pointers(*list) == "?z ?limit ?cursor ?at_least");
    CHECK(pointers(*f.get("/vehicles/0?at=now&known_at=now")) == "/id ?at ?known_at");
    CHECK(pointers(*f.get("/vehicles?state=new&at=x&known_at=vehicles-0a1b2c3d-0-1")) == "?known_at ?state ?at");
    CHECK(pointers(*f.get("/vehicles/windows?step=2s&from=x&to=y")) == "?from ?to ?step");
    CHECK(pointers(*f.get("/vehicles/-1/states?from=2026-01-02T00:00:00Z&to=2026-01-01T00:00:00Z")) == "/id ?from");
    CHECK(pointers(*f.get("/vehicles/abc/timestamp/last%20christmas")) == "/id /timestamp");
    CHECK(pointers(*f.get("/vehicles/3/timestamp/")) == "/timestamp");
    CHECK(pointers(*f.get("/vehicles/abc/timestamp/?at=1")) == "?at /id /timestamp");
    CHECK(pointers(*f.get("/counters/%ff/windows?cursor=w6162")) == "/key ?cursor");
    CHECK(pointers(*f.get("/counters/" + std::string(257, 'a'))) == "/key");
    CHECK(pointers(*f.get("/dead-letters?stream=x&status=x&reason=&limit=0&cursor=x&at_least=y&z=1")) ==
          "?z ?stream ?status ?reason ?limit ?cursor ?at_least");
    CHECK(pointers(*f.get("/dead-letters/reasons?stream=x&status=x&reason=y")) == "?reason ?stream ?status");
    CHECK(pointers(*f.get("/dead-letters/0:1?stream=counters")) == "?stream /id");
    CHECK(pointers(*f.get("/events/counters-0a1b2c3d-0?x=1")) == "?x /token");
    CHECK(pointers(*f.get("/events/counters-0a1b2c3d-0-1,counters-0a1b2c3d-1-1")) == "/token");
    CHECK(pointers(*f.get("/events/nothing-0a1b2c3d-0-1")) == "/token");
    for (const auto* path :
         {"/status", "/generations/counters", "/health", "/version", "/livez", "/readyz", "/startupz", "/metrics"})
        CHECK(pointers(*f.get(std::string(path) + "?x=1")) == "?x");
    CHECK(f.get("/counters/a", {{"Accept", "text/csv"}})->status == 406);
    CHECK(f.get("/counters", {{"Accept", "text/html"}})->status == 406);
}

TEST_CASE("an id of a letter has one spelling") {
    Fixture f;
    for (const auto* id : {"0:1", "counters:0", ":0:1", "counters:-1:0", "counters:0:-0", "counters:+0:1",
                           "counters:00:1", "counters:0:01", "counters::1", "counters:0:", "counters:0:1x",
                           "counters:2147483648:0", "counters:0:9223372036854775808"}) {
        CAPTURE(id);
        CHECK(pointers(*f.get("/dead-letters/" + std::string(id))) == "/id");
    }
    // Of no stream, it is as unknown as one of no record.
    for (const auto* id : {"nothing:0:1", "counters:0:1:2"}) {
        CHECK(f.get("/dead-letters/" + std::string(id))->status == 404);
        CHECK(f.send(http::Method::post, "/dead-letters/" + std::string(id) + "/redrive", "")->status == 404);
    }
}

TEST_CASE("a cursor with a sort key that its list cannot have is a bad one") {
    Fixture f;
    const auto cursor = [](char kind, const char* sort_key) { return "cursor=" + make_cursor(kind, sort_key); };
    for (const auto& target :
         {"/counters?" + cursor('c', ""), "/vehicles?" + cursor('v', "0"), "/vehicles?" + cursor('v', "-1"),
          "/vehicles/3/states?" + cursor('s', "1"), "/vehicles/3/states?" + cursor('s', "1.-5"),
          "/vehicles/3/states?" + cursor('s', "1.5.5"), "/vehicles/windows?" + cursor('t', "1"),
          "/vehicles/windows?" + cursor('t', "1.zzz"), "/dead-letters?" + cursor('d', "1"),
          "/dead-letters?" + cursor('d', "1.counters:0"), "/dead-letters?" + cursor('d', "1.nothing:0:1"),
          "/dead-letters?" + cursor('d', "x.counters:0:1"), "/dead-letters?" + cursor('d', "1.counters:0:01"),
          "/counters/a/windows?" + cursor('w', "1.sold")}) {
        CAPTURE(target);
        CHECK(pointers(*f.get(target)) == "?cursor");
    }
}

TEST_CASE("a body in a coding that nobody decodes is not taken for what it would decode to") {
    Fixture f;
    const auto coded = [&](const char* coding) {
        return f.send(http::Method::post, "/increment", R"({"key":"a","value":1})", {{"Content-Encoding", coding}});
    };
    CHECK(coded("gzip")->status == 415);
    CHECK(coded("gzip")->lines == "Accept-Encoding: identity\r\n");
    CHECK(coded("identity, br")->status == 415);
    CHECK(coded("Identity")->status == 503);  // it got as far as the log, which is not there
}

TEST_CASE("what needs neither broker nor database is served without them") {
    Fixture f;
    CHECK(f.get("/health")->body == R"({"status":"ok"})");
    CHECK(f.get("/livez")->status == 200);
    CHECK(f.get("/version")->status == 200);
    CHECK(f.get("/openapi.json")->body == openapi());
    CHECK(f.get("/problems/stale")->status == 200);
    CHECK(f.get("/problems/nothing")->status == 404);
    CHECK(f.get("/")->body == f.get("/docs")->body);
    CHECK(f.get("/docs")->body.find("/vehicles/{id}/timestamp/{timestamp}") != std::string::npos);
    const auto not_ready = f.get("/readyz");
    CHECK(not_ready->status == 503);
    CHECK(not_ready->body.find("/problems/not_ready") != std::string::npos);
    CHECK(f.get("/startupz")->status == 503);
}
