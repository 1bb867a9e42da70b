#include "api/dead_letters.h"

#include "schemas/event.h"
#include "tests/integration/api/served.h"
#include "tests/integration/api/tables.h"

#include <doctest/doctest.h>

#include <string>
#include <utility>
#include <vector>

using namespace tidemark;
using namespace std::chrono_literals;
using test::eventually;
using tests::Pending;
using tests::Served;
using tests::Tables;

namespace {

std::string letter(int partition, int offset, const std::string& reason = "malformed") {
    return "insert into dead_letters (partition, \"offset\", topic, append_time, key, value, header_names, "
           "header_values, "
           "reason, detail) values (" +
           std::to_string(partition) + ", " + std::to_string(offset) +
           ", 'tidemark.counters', '2026-11-20T10:00:03.217Z', 'k', '{', '{}', '{}', '" + reason + "', 'broken');";
}

std::string status(int partition, int offset, const std::string& set) {
    return "update dead_letters set " + set + " where partition = " + std::to_string(partition) +
           " and \"offset\" = " + std::to_string(offset) + ";";
}

std::shared_ptr<Pending> post(Served& f, const std::string& target, const std::string& body = "",
                              std::vector<std::pair<std::string, std::string>> header = {}) {
    return f.ask(target, std::move(header), http::Method::post, body);
}

bool is_answered(const std::shared_ptr<Pending>& pending) {
    return eventually([&] { return pending->status != -1; });
}

/// Until so many decisions are on their way.
void await_sent(Served& f, std::size_t count) {
    REQUIRE(eventually([&] { return f.sink->size() >= count; }));
}

std::string ids(const std::string& body) {
    std::string found;
    for (auto at = body.find(R"("id":")"); at != std::string::npos; at = body.find(R"("id":")", at + 1)) {
        found.append(found.empty() ? "" : " ").append(body.substr(at + 6, body.find('"', at + 6) - at - 6));
    }
    return found;
}

}  // namespace

TEST_CASE("a decision is sent to its letter's partition, and answered when the tables hold it") {
    Tables tables;
    tables.flush("counters", letter(1, 17), 1, 18);
    Served f(tables.dsn());
    const auto answer = post(f, "/dead-letters/counters:1:17/redrive", R"({"edit":"{}"})");
    await_sent(f, 1);
    const auto& record = f.sink->record(0);
    CHECK(record.partition == 1);
    CHECK(record.key == "decision");
    CHECK(record.topic == 0);
    schemas::json::Reader reader;
    const auto event = schemas::read_event(reader, record.value);
    REQUIRE(event);
    CHECK(event->type == "tidemark.dead_letter.redriven.v1");
    CHECK(event->source == "/dead-letters/{id}/redrive");
    CHECK_FALSE(event->idempotency_key);
    std::string data;
    schemas::json::append_value(data, event->data);
    CHECK(data == R"({"offset":17,"attempts":1,"edit":"{}"})");

    f.sink->ack(0, 1, 20);
    tables.flush("counters", "", 1, 20);  // not it yet
    REQUIRE(eventually([&] { return f.watch.progress(0)->holds(1, 19); }));
    CHECK(answer->status == -1);
    tables.flush("counters", status(1, 17, "attempts = 2, detail = 'attempt 2: malformed: x', decided_at = 20"), 1, 21);
    REQUIRE(is_answered(answer));
    CHECK(answer->status == 200);
    CHECK(answer->lines == "Log-Position: counters-0a1b2c3d-1-20\r\n");
    CHECK(answer->body == R"({"id":"counters:1:17","letter":"1:17","decision":"1:20","status":"open",)"
                          R"("detail":"attempt 2: malformed: x","attempts":2,"decisionRefused":false})");
}

TEST_CASE("a decision that another one came before is answered with what that made of the letter") {
    Tables tables;
    tables.flush("counters", letter(0, 1) + letter(0, 2) + letter(0, 3), 0, 5);
    Served f(tables.dsn());
    const auto redrive = post(f, "/dead-letters/counters:0:1/redrive");
    await_sent(f, 1);
    const auto discard = post(f, "/dead-letters/counters:0:2/discard");
    await_sent(f, 2);
    const auto same = post(f, "/dead-letters/counters:0:3/discard");
    await_sent(f, 3);
    for (const int n : {0, 1, 2})
        f.sink->ack(static_cast<std::size_t>(n), 0, 10 + n);
    tables.flush("counters",
                 status(0, 1, "status = 'discarded', decided_at = 9") +
                     status(0, 2, "status = 'redriven', decided_at = 9") +
                     status(0, 3, "status = 'discarded', decided_at = 9"),
                 0, 13);
    REQUIRE(is_answered(redrive));
    REQUIRE(is_answered(discard));
    REQUIRE(is_answered(same));
    CHECK(redrive->status == 409);
    CHECK(redrive->body.find("/problems/not_open") != std::string::npos);
    CHECK(discard->status == 409);
    CHECK(same->status == 200);  // what was wanted is so
}

TEST_CASE("a decision that became a letter itself is told, and the letter stays as it was") {
    Tables tables;
    tables.flush("counters", letter(0, 1), 0, 5);
    Served f(tables.dsn());
    const auto answer = post(f, "/dead-letters/counters:0:1/discard", "{}");
    await_sent(f, 1);
    f.sink->ack(0, 0, 7);
    tables.flush("counters", letter(0, 7, "refused_by_database"), 0, 8);
    REQUIRE(is_answered(answer));
    CHECK(answer->status == 200);
    CHECK(answer->body.find(R"("status":"open","detail":"broken","attempts":1,"decisionRefused":true)") !=
          std::string::npos);
}

TEST_CASE("when the wait runs out, or the program ends, the decision holds all the same") {
    Tables tables;
    tables.flush("counters", letter(0, 1) + letter(1, 1), 0, 5);
    Served f(tables.dsn());
    const auto soon = post(f, "/dead-letters/counters:0:1/redrive", "", {{"Prefer", "wait=0"}});
    await_sent(f, 1);
    f.sink->ack(0, 0, 7);
    REQUIRE(is_answered(soon));
    CHECK(soon->status == 202);
    CHECK(soon->lines == "Log-Position: counters-0a1b2c3d-0-7\r\n");
    CHECK(soon->body == R"({"id":"counters:0:1","letter":"0:1","decision":"0:7"})");

    const auto waiting = post(f, "/dead-letters/counters:1:1/redrive");
    await_sent(f, 2);
    f.sink->ack(1, 1, 8);
    REQUIRE(eventually([&] { return f.watch.waiting() == 1; }));
    f.watch.release();
    REQUIRE(is_answered(waiting));
    CHECK(waiting->status == 202);
}

TEST_CASE("what became of a decision that is not in the log is told apart") {
    Tables tables;
    tables.flush("counters", letter(0, 1), 0, 5);
    Served f(tables.dsn());
    const auto lost = post(f, "/dead-letters/counters:0:1/discard");
    await_sent(f, 1);
    f.sink->fail(0, kafka::Persistence::not_persisted);
    CHECK(lost->status == 503);
    CHECK(lost->body.find("/problems/unavailable") != std::string::npos);
    CHECK(lost->body.find("outcome") == std::string::npos);
    const auto unknown = post(f, "/dead-letters/counters:0:1/discard");
    await_sent(f, 2);
    f.sink->send(1);
    f.sink->fail(1, kafka::Persistence::possibly_persisted);
    CHECK(unknown->status == 503);
    CHECK(unknown->body.find(R"("outcome":"unknown")") != std::string::npos);
    f.sink->set_answer(kafka::Enqueued::too_large);
    const auto large = post(f, "/dead-letters/counters:0:1/redrive", R"({"edit":"x"})");
    REQUIRE(is_answered(large));
    CHECK(large->status == 413);
    f.sink->set_answer(kafka::Enqueued::full);
    const auto full = post(f, "/dead-letters/counters:0:1/redrive");
    REQUIRE(is_answered(full));
    CHECK(full->body.find("/problems/overloaded") != std::string::npos);
}

TEST_CASE("a hundred decisions are sent at a time, and some that are lost make the whole unknown") {
    Tables tables;
    std::string letters;
    for (int n = 0; n < 150; ++n)
        letters += letter(n % 2, n);
    tables.flush("counters", letters + letter(0, 1000, "tombstone"), 0, 1001);
    Served f(tables.dsn());
    const auto answer = post(f, "/dead-letters/redrive", R"({"stream":"counters","reason":"malformed"})");
    await_sent(f, 100);
    CHECK(f.sink->size() == 100);
    for (std::size_t n = 0; n < 100; ++n)
        f.sink->ack(n, f.sink->record(n).partition.value(), static_cast<std::int64_t>(2'000 + n));
    tables.flush("counters", "", 0, 2'100);
    tables.flush("counters", "", 1, 2'100);
    await_sent(f, 150);
    CHECK(answer->status == -1);
    for (std::size_t n = 100; n < 149; ++n)
        f.sink->ack(n, f.sink->record(n).partition.value(), static_cast<std::int64_t>(2'000 + n));
    CHECK(answer->status == -1);
    f.sink->fail(149, kafka::Persistence::not_persisted);
    CHECK(answer->status == 503);
    CHECK(answer->body.find(R"("outcome":"unknown")") != std::string::npos);
    CHECK(answer->body.find("149 decisions are on the log and hold") != std::string::npos);
}

TEST_CASE("a page of letters goes on behind the last one, across streams of one append time") {
    Tables tables;
    for (const std::string stream : {"counters", "vehicles"})
        tables.flush(stream, letter(0, 1) + letter(1, 1) + letter(0, 2), 0, 3);
    Served f(tables.dsn());
    const std::string all =
        "vehicles:1:1 vehicles:0:2 vehicles:0:1 counters:1:1 counters:0:2 counters:0:1";  // the last one first
    CHECK(ids(f.get("/dead-letters")->body) == all);
    CHECK(ids(f.get("/dead-letters?status=all&reason=malformed")->body) == all);
    for (const std::string query : {"", "&status=all", "&reason=malformed", "&status=all&reason=malformed"}) {
        for (const int limit : {1, 2, 4, 5, 6}) {
            CAPTURE(limit);
            std::string found;
            for (std::string cursor;;) {
                const auto page = f.get("/dead-letters?limit=" + std::to_string(limit) + query + cursor);
                REQUIRE(page->status == 200);
                found.append(found.empty() ? "" : " ").append(ids(page->body));
                const auto next = page->body.find(R"("next":")");
                if (next == std::string::npos) break;
                cursor = "&cursor=" + page->body.substr(next + 8, page->body.find('"', next + 8) - next - 8);
            }
            CHECK(found == all);
        }
    }
}

TEST_CASE("a list of all streams waits for each of them") {
    Tables tables;
    tables.flush("counters", letter(0, 1), 0, 2);
    Served f(tables.dsn());
    const auto both =
        f.ask("/dead-letters?at_least=vehicles-0a1b2c3d-1-4,counters-0a1b2c3d-0-4", {{"Prefer", "wait=20"}});
    REQUIRE(eventually([&] { return f.watch.waiting() == 1; }));
    tables.flush("vehicles", letter(1, 4), 1, 5);
    REQUIRE(eventually([&] { return f.watch.progress(1)->holds(1, 4); }));
    CHECK(both->status == -1);
    tables.flush("counters", "", 0, 5);
    REQUIRE(is_answered(both));
    CHECK(both->status == 200);
    CHECK(ids(both->body) == "vehicles:1:4 counters:0:1");
    CHECK(both->lines.find("Applied-Position: counters-0a1b2c3d-0-4,vehicles-0a1b2c3d-1-4\r\n") != std::string::npos);

    const std::string far = "/dead-letters?at_least=counters-0a1b2c3d-0-4,vehicles-0a1b2c3d-0-9";
    CHECK(f.get(far, {{"Prefer", "wait=0"}})->body.find("/problems/stale") != std::string::npos);
    CHECK(f.get(far, {{"Prefer", "wait=0, handling=lenient"}})->status == 200);
    CHECK(f.get("/dead-letters?at_least=vehicles-0a1b2c3d-7-0")->body.find("/problems/token_unknown") !=
          std::string::npos);
    // What is not known of one stream is not known of the whole.
    tables.execute("update vehicles.offsets set as_of = null where partition = 0");
    CHECK(f.get("/dead-letters")->lines.find("Data-As-Of") == std::string::npos);
    CHECK(f.get("/dead-letters?stream=counters")->lines.find("Data-As-Of") != std::string::npos);
}

TEST_CASE("an answer about letters does not mix two generations") {
    Tables tables;
    tables.flush("counters", letter(0, 1), 0, 2);
    Served f(tables.dsn());
    CHECK(f.get("/dead-letters")->status == 200);
    // As a statement would see it that a swap came upon halfway.
    tables.execute(
        "create or replace view counters.api_dead_letters as select d.partition, d.\"offset\", d.topic, d.append_time, "
        "d.key, d.value, d.header_names, d.header_values, d.reason, d.detail, d.attempts, d.status, d.decided_at, "
        "d.note, d.holds, null::bigint as behind, "
        "p.generation + 1 as generation, p.applied, p.as_of from counters.dead_letters d cross join counters.progress "
        "p");
    for (const std::string path : {"/dead-letters", "/dead-letters/reasons", "/dead-letters/counters:0:1"})
        CHECK(f.get(path)->body.find("/problems/unavailable") != std::string::npos);
    const auto decision = post(f, "/dead-letters/counters:0:1/redrive");
    REQUIRE(is_answered(decision));
    CHECK(decision->status == 503);
    CHECK(f.sink->size() == 0);
    CHECK(f.get("/dead-letters?stream=vehicles")->status == 200);
}
