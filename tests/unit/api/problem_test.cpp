#include "api/problem.h"

#include "schemas/json.h"
#include "tests/unit/api/answers.h"

#include <doctest/doctest.h>

#include <set>
#include <string>

using namespace tidemark;
using namespace tidemark::api;
using tests::Answers;
using tests::Asked;
namespace json = schemas::json;

namespace {

constexpr TraceId kTrace{0x4b, 0xf9, 0x2f, 0x35, 0x77, 0xb3, 0x4d, 0xa6,
                         0xa3, 0xce, 0x92, 0x9d, 0x0e, 0x0e, 0x47, 0x36};
const std::string kTraceText = "4bf92f3577b34da6a3ce929d0e0e4736";
const std::string kTraceparent = "00-" + kTraceText + "-00f067aa0ba902b7-01";

std::shared_ptr<Answers> send(const Problem& problem) {
    auto answers = std::make_shared<Answers>();
    http::Reply reply(answers, 0);
    send_problem(reply, problem, kTrace, "X: y\r\n");
    return answers;
}

}  // namespace

TEST_CASE("a problem names every violation and repeats its detail as `error`") {
    const auto sent = send({.type = &problems::kInvalidRequest,
                            .violations = {{"/key", "is required"}, {"?limit", "must be \"a\" number"}}});
    CHECK(sent->status == 400);
    CHECK(sent->content_type == "application/problem+json");
    CHECK(sent->lines == "X: y\r\n");
    CHECK(
        sent->body ==
        R"({"type":"/problems/invalid_request","title":"The request is not valid","status":400,)"
        R"("detail":"/key: is required; ?limit: must be \"a\" number",)"
        R"("errors":[{"pointer":"/key","detail":"is required"},{"pointer":"?limit","detail":"must be \"a\" number"}],)"
        R"("trace_id":"4bf92f3577b34da6a3ce929d0e0e4736","error":"/key: is required; ?limit: must be \"a\" number"})");
}

TEST_CASE("every 503 says when to come back, and only an unknown outcome says so") {
    const auto unavailable = send({.type = &problems::kUnavailable});
    CHECK(unavailable->lines == "X: y\r\nRetry-After: 1\r\n");
    CHECK(unavailable->body.find("outcome") == std::string::npos);
    const auto unknown = send({.type = &problems::kOutcomeUnknown, .event_id = "019aa5"});
    CHECK(unknown->status == 503);
    CHECK(unknown->body.find(R"("outcome":"unknown","eventId":"019aa5")") != std::string::npos);
}

TEST_CASE("every problem's body is JSON, and its type resolves") {
    json::Reader reader;
    std::set<std::string_view> names;
    for (const auto* type : problem_types()) {
        CAPTURE(type->name);
        CHECK(names.insert(type->name).second);
        CHECK(find_problem_type(type->name) == type);
        const auto sent = send({.type = type});
        CHECK(sent->status == type->status);
        json::Limits limits;
        limits.max_depth = 8;
        const auto body = reader.parse(sent->body, limits);
        REQUIRE(body);
        CHECK(body->find("detail").text() == type->title);
        CHECK(body->find("error").text() == type->title);
        CHECK(body->find("type").text() == "/problems/" + std::string(type->name));
    }
    CHECK(find_problem_type("nothing") == nullptr);
}

TEST_CASE("a valid traceparent is taken: any other is as good as none") {
    const auto taken = [](std::string value) {
        const Asked asked(http::Method::get, "/", {{"TraceParent", std::move(value)}});
        return traceparent_of(asked.request).has_value();
    };
    CHECK(taken(kTraceparent));
    for (const auto* bad : {"", "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
                            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
                            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
                            "01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
                            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0",
                            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x",
                            "00_4bf92f3577b34da6a3ce929d0e0e4736_00f067aa0ba902b7_01"}) {
        CAPTURE(bad);
        CHECK_FALSE(taken(bad));
    }
    const Asked with(http::Method::get, "/", {{"traceparent", kTraceparent}});
    CHECK(trace_of(with.request) == kTrace);
    const Asked without(http::Method::get, "/");
    CHECK(trace_of(without.request) != trace_of(without.request));
}

TEST_CASE("the server's own answers are problems too") {
    const Asked read(http::Method::get, "/counters/a");
    const Asked write(http::Method::post, "/increment");
    const auto not_found = server_problem(404, "no such route", &read.request);
    CHECK(not_found.status == 404);
    CHECK(not_found.body.find(R"("error":"Not Found")") != std::string::npos);
    CHECK(server_problem(400, "two Host fields", nullptr).body.find("two Host fields") != std::string::npos);
    CHECK(server_problem(500, "secret", &read.request).body.find("secret") == std::string::npos);
    for (const int status : {400, 404, 405, 408, 413, 414, 415, 431, 500, 501, 503}) {
        CHECK(server_problem(status, "d", nullptr).status == status);
    }
}

TEST_CASE("a write that the server gave up waiting for may be in the log, a read or a connection may not") {
    const Asked read(http::Method::get, "/counters/a");
    const Asked write(http::Method::post, "/increment");
    CHECK(server_problem(503, "no answer in time", &write.request).body.find(R"("outcome":"unknown")") !=
          std::string::npos);
    CHECK(server_problem(503, "no answer in time", &read.request).body.find("outcome") == std::string::npos);
    CHECK(server_problem(503, "too many connections", nullptr).body.find("outcome") == std::string::npos);
}
