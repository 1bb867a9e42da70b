#include "api/write.h"

#include "schemas/event.h"
#include "tests/integration/api/served.h"
#include "tests/integration/api/tables.h"

#include <doctest/doctest.h>

#include <array>
#include <string>
#include <vector>

using namespace tidemark;
using tests::Pending;
using tests::Served;
using tests::Tables;

namespace {

const std::string kTraceparent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
const std::string kIncrement = R"({"key":"a/b","value":-3})";

std::shared_ptr<Pending> increment(Served& f, std::vector<std::pair<std::string, std::string>> header = {}) {
    return f.ask("/increment", std::move(header), http::Method::post, kIncrement);
}

std::string header_of(const tests::FakeSink::Produced& record, const std::string& name) {
    for (const auto& [header, value] : record.headers) {
        if (header == name) return value;
    }
    return "none";
}

}  // namespace

TEST_CASE("a write is answered when the log has it, and not before, with its position") {
    const Tables tables;
    Served f(tables.dsn());
    const auto answer = increment(f);
    REQUIRE(f.sink->size() == 1);
    f.sink->send_all();
    CHECK(answer->status == -1);
    f.sink->ack(0, 1, 41);
    CHECK(answer->status == 202);
    CHECK(answer->lines == "Log-Position: counters-0a1b2c3d-1-41\r\n");
    CHECK(answer->body.empty());

    const auto& record = f.sink->record(0);
    CHECK(record.topic == 0);
    CHECK(record.key == "a/b");
    schemas::json::Reader reader;
    const auto event = schemas::read_event(reader, record.value);
    REQUIRE(event);
    CHECK(event->type == "tidemark.counter.incremented.v1");
    CHECK(event->source == "/increment");
    CHECK_FALSE(event->idempotency_key);
    std::string data;
    schemas::json::append_value(data, event->data);
    CHECK(data == kIncrement);
}

TEST_CASE("a traceparent travels into the record: one that is made carries the event's id") {
    const Tables tables;
    Served f(tables.dsn());
    increment(f, {{"traceparent", kTraceparent}});
    increment(f);
    increment(f, {{"traceparent", "broken"}});
    CHECK(header_of(f.sink->record(0), "traceparent") == kTraceparent);
    for (const std::size_t n : {1U, 2U}) {
        schemas::json::Reader reader;
        const auto event = schemas::read_event(reader, f.sink->record(n).value);
        REQUIRE(event);
        std::string id(event->id);
        std::erase(id, '-');
        CHECK(header_of(f.sink->record(n), "traceparent") == "00-" + id + "-" + id.substr(16) + "-00");
    }
}

TEST_CASE("the identity of a keyed write is that of caller, route, entity and key") {
    const Tables tables;
    Served f(tables.dsn());
    increment(f, {{"Idempotency-Key", "k"}});
    f.ask("/vehicles/7", {{"Idempotency-Key", "k"}}, http::Method::put, R"({"make":"VW","model":"GOLF"})");
    f.ask("/vehicles/7/states", {{"Idempotency-Key", "k"}}, http::Method::post,
          R"({"state":"sold","occurredAt":"2022-09-12T12:41:41Z"})");
    const std::array<std::array<std::string_view, 4>, 3> parts{
        {{"", "/increment", "a/b", "k"}, {"", "/vehicles/{id}", "7", "k"}, {"", "/vehicles/{id}/states", "7", "k"}}};
    for (std::size_t n = 0; n < parts.size(); ++n) {
        schemas::json::Reader reader;
        const auto event = schemas::read_event(reader, f.sink->record(n).value);
        REQUIRE(event);
        CHECK(event->idempotency_key == schemas::idempotency_identity(parts[n]));
        CHECK(event->source == parts[n][1]);
    }
    schemas::json::Reader reader;
    CHECK(schemas::read_event(reader, f.sink->record(2).value)->time == schemas::parse_instant("2022-09-12T12:41:41Z"));
    CHECK(f.sink->record(2).topic == 1);
    CHECK(f.sink->record(2).key == "7");
}

TEST_CASE("what became of a write that is not in the log is told apart") {
    const Tables tables;
    Served f(tables.dsn());
    const auto lost = increment(f);
    f.sink->fail(0, kafka::Persistence::not_persisted);
    CHECK(lost->status == 503);
    CHECK(lost->lines == "Retry-After: 1\r\n");
    CHECK(lost->body.find("/problems/unavailable") != std::string::npos);
    CHECK(lost->body.find("outcome") == std::string::npos);

    const auto unknown = increment(f, {{"traceparent", kTraceparent}});
    f.sink->send(1);
    f.sink->fail(1, kafka::Persistence::possibly_persisted);
    schemas::json::Reader reader;
    const auto event = schemas::read_event(reader, f.sink->record(1).value);
    REQUIRE(event);
    CHECK(unknown->status == 503);
    CHECK(unknown->body.find(R"("outcome":"unknown","eventId":")" + std::string(event->id) + "\"") !=
          std::string::npos);
    CHECK(unknown->body.find(R"("trace_id":"4bf92f3577b34da6a3ce929d0e0e4736")") != std::string::npos);

    f.sink->set_answer(kafka::Enqueued::full);
    CHECK(increment(f)->body.find("/problems/overloaded") != std::string::npos);
    f.sink->set_answer(kafka::Enqueued::too_large);
    CHECK(increment(f)->status == 413);
    f.sink->set_available(false);
    CHECK(increment(f)->body.find("/problems/unavailable") != std::string::npos);
}
