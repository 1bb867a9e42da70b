#include "api/events.h"

#include "tests/integration/api/served.h"
#include "tests/integration/api/tables.h"

#include <doctest/doctest.h>

#include <string>

using namespace tidemark;
using namespace std::chrono_literals;
using test::eventually;
using tests::Served;
using tests::Tables;

namespace {

std::string letter(int offset, const std::string& status) {
    return "insert into dead_letters (partition, \"offset\", topic, append_time, header_names, header_values, reason, "
           "detail, status) values (1, " +
           std::to_string(offset) + ", 'tidemark.counters', now(), '{}', '{}', 'tombstone', 'none', '" + status + "');";
}

}  // namespace

TEST_CASE("what became of an event is told by its position") {
    Tables tables;
    tables.flush("counters", letter(3, "open") + letter(4, "redriven") + letter(5, "discarded"), 1, 8);
    Served f(tables.dsn());
    const auto body = [&](int offset) { return f.get("/events/counters-0a1b2c3d-1-" + std::to_string(offset))->body; };
    CHECK(body(7) == R"({"state":"applied"})");
    CHECK(body(3) == R"({"state":"parked","reason":"tombstone","deadLetterId":"counters:1:3"})");
    CHECK(body(4) == R"({"state":"applied","reason":"tombstone","deadLetterId":"counters:1:4"})");
    CHECK(body(5) == R"({"state":"parked","reason":"tombstone","deadLetterId":"counters:1:5"})");
    const auto answer = f.get("/events/counters-0a1b2c3d-1-7");
    CHECK(answer->status == 200);
    CHECK(answer->lines.find("Applied-Position: counters-0a1b2c3d-1-7\r\n") != std::string::npos);
}

TEST_CASE("a position that can be of no event of the log is unknown") {
    const Tables tables;
    Served f(tables.dsn());
    for (const std::string token : {"counters-00000000-0-1", "counters-0a1b2c3d-2-0", "vehicles-0a1b2c3c-0-1"}) {
        const auto answer = f.get("/events/" + token);
        CHECK(answer->status == 400);
        CHECK(answer->body.find("/problems/token_unknown") != std::string::npos);
    }
}

TEST_CASE("while nobody knows where the log ends an event ahead of the tables is not told of") {
    Tables tables;
    Served f(tables.dsn());  // its broker does not answer
    const auto asked = f.ask("/events/counters-0a1b2c3d-1-7");
    REQUIRE(eventually([&] { return f.watch.waiting() == 1; }));
    const auto waited = f.ask("/events/counters-0a1b2c3d-1-7?at_least=counters-0a1b2c3d-1-7", {{"Prefer", "wait=20"}});
    REQUIRE(eventually([&] { return f.watch.waiting() == 2; }));
    REQUIRE(eventually([&] { return asked->status != -1; }));
    CHECK(asked->status == 503);
    CHECK(asked->body.find("/problems/unavailable") != std::string::npos);
    tables.flush("counters", "", 1, 8);
    REQUIRE(eventually([&] { return waited->status != -1; }));
    CHECK(waited->body == R"({"state":"applied"})");
}
