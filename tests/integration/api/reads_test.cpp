#include "api/read.h"

#include "tests/integration/api/served.h"
#include "tests/integration/api/tables.h"

#include <doctest/doctest.h>

#include <atomic>
#include <future>
#include <memory>
#include <string>
#include <vector>

using namespace tidemark;
using namespace std::chrono_literals;
using test::eventually;
using tests::Pending;
using tests::Served;
using tests::Tables;

namespace {

const std::string kOne = "insert into totals values ('a', 1, 1, '2026-11-20T10:00:00Z') on conflict do nothing";

}  // namespace

TEST_CASE("a read waits for its write and goes on at the flush that brings it") {
    const Tables tables;
    Served f(tables.dsn());
    const auto read = f.ask("/counters/a?at_least=counters-0a1b2c3d-0-6");
    REQUIRE(eventually([&] { return f.watch.waiting() == 1; }));
    tables.flush("counters", "select 1", 0, 6);
    REQUIRE(eventually([&] { return f.watch.progress(0)->next[0] == 6; }));
    CHECK(read->status == -1);
    tables.flush("counters", kOne, 0, 7);
    REQUIRE(eventually([&] { return read->status != -1; }));
    CHECK(read->status == 200);
    CHECK(read->body == R"({"key":"a","value":1,"count":1,"updatedAt":"2026-11-20T10:00:00Z"})");
    CHECK(f.watch.waiting() == 0);
}

TEST_CASE("a waiting read has the stream's owner asked to flush") {
    const Tables tables;
    Served f(tables.dsn());
    pg::Connection owner(tables.dsn(), {});
    owner.listen("tidemark_wanted");
    const auto read = f.ask("/vehicles/1?at_least=vehicles-0a1b2c3d-1-0");
    std::vector<pg::Notification> asked;
    REQUIRE(eventually([&] {
        for (auto& one : owner.notifications(100ms))
            asked.push_back(std::move(one));
        return !asked.empty();
    }));
    CHECK(asked.front().payload == "vehicles");
    f.watch.release();
    CHECK(read->status == 503);
}

TEST_CASE("a read that waited in vain is stale, or takes the older data when it may") {
    const Tables tables;
    Served f(tables.dsn());
    tables.flush("counters", kOne, 0, 3);
    REQUIRE(eventually([&] { return f.watch.progress(0)->next[0] == 3; }));
    const auto stale = f.get("/counters/a?at_least=counters-0a1b2c3d-0-3", {{"Prefer", "wait=0"}});
    CHECK(stale->status == 503);
    CHECK(stale->body.find("/problems/stale") != std::string::npos);
    CHECK(f.get("/counters/a?at_least=counters-0a1b2c3d-0-3", {{"Prefer", "wait=0, handling=lenient"}})->status == 200);
    CHECK(f.get("/counters/a?at_least=counters-0a1b2c3e-0-0")->body.find("/problems/token_unknown") !=
          std::string::npos);
    CHECK(f.get("/counters/a?at_least=counters-0a1b2c3d-2-0")->body.find("/problems/token_unknown") !=
          std::string::npos);
}

TEST_CASE("the watch finds its way back when its session ends, and hears of flushes again") {
    const Tables tables;
    test::Network network;
    Served f(tables.dsn(network));
    network.cut();
    REQUIRE(eventually([&] { return f.watch.trouble().has_value(); }));
    REQUIRE(eventually([&] { return !f.watch.trouble(); }));
    const auto read = f.ask("/counters/a?at_least=counters-0a1b2c3d-1-0");
    tables.flush("counters", kOne, 1, 1);
    REQUIRE(eventually([&] { return read->status != -1; }));
    CHECK(read->status == 200);
}

TEST_CASE("no answer mixes two generations while they are swapped under it") {
    Tables tables;
    tables.make_generation("counters", "counters_2", 2, "candidate");
    for (const std::string schema : {"counters", "counters_2"}) {
        const std::string value = schema == "counters" ? "1" : "2";
        // Each generation's total, windows and offsets say which it is.
        tables.execute("set local search_path to " + schema + "; insert into totals values ('a', " + value +
                       ", 1, now());" + "insert into windows values ('a', '2026-11-20T10:00:00Z', 0, " + value +
                       ", 1, 0, 0);" + "update offsets set next_offset = " + value + "0");
    }
    Served f(tables.dsn());
    std::atomic<bool> stop = false;
    auto swapping = std::async(std::launch::async, [&] {
        pg::Connection connection(tables.dsn(), {});
        int swaps = 0;
        while (!stop) {
            connection.run_script(
                "alter schema counters rename to counters_away; alter schema counters_2 rename to counters;"
                "alter schema counters_away rename to counters_2");
            ++swaps;
        }
        return swaps;
    });
    int answers[3] = {0, 0, 0};
    for (int i = 0; i < 600; ++i) {
        const bool windows = i % 2 == 0;
        const auto answer = f.get(windows ? "/counters/a/windows?from=2026-11-20T00:00:00Z" : "/counters/a");
        if (answer->status == 503) continue;  // swapped three times during one read
        REQUIRE(answer->status == 200);
        const bool first = answer->body.find(R"("value":1,)") != std::string::npos;
        CHECK(answer->lines.find(first ? "-9\r\n" : "-19\r\n") != std::string::npos);
        ++answers[first ? 1 : 2];
    }
    stop = true;
    CHECK(swapping.get() > 10);
    CHECK(answers[1] > 0);
    CHECK(answers[2] > 0);
}

TEST_CASE("a list is paged without a gap or a repeat, and by prefix") {
    const Tables tables;
    Served f(tables.dsn());
    tables.flush("counters",
                 "insert into totals select 'k' || n, n, 1, now() from generate_series(1, 25) n;"
                 "insert into totals values ('j', 0, 1, now()), ('l', 0, 1, now()), ('k%', 0, 1, now())",
                 0, 9);
    std::string seen;
    std::string target = "/counters?prefix=k&limit=4";
    int pages = 0;
    for (; !target.empty() && pages < 20; ++pages) {
        const auto page = f.get(target, {{"Accept", "text/csv"}});
        REQUIRE(page->status == 200);
        for (auto at = page->body.find('\n') + 1; at < page->body.size(); at = page->body.find('\n', at) + 1) {
            seen += page->body.substr(at, page->body.find(',', at) - at) + " ";
        }
        const auto link = page->lines.find("Link: <");
        target = link == std::string::npos ? "" : page->lines.substr(link + 7, page->lines.find('>', link) - link - 7);
    }
    CHECK(pages == 7);
    CHECK(seen == "k% k1 k10 k11 k12 k13 k14 k15 k16 k17 k18 k19 k2 k20 k21 k22 k23 k24 k25 k3 k4 k5 k6 k7 k8 k9 ");
}

TEST_CASE("a list at an instant goes on behind the vehicles that it looked at in vain") {
    const Tables tables;
    Served f(tables.dsn());
    // 10,050 vehicles, of which only the last was sold by then.
    tables.flush("vehicles",
                 "insert into vehicles (id, make, model, registered_at, registered_offset, applied_at)"
                 " select n, 'm', 'n', '2026-01-01Z', n, now() from generate_series(1, 10050) n;"
                 "insert into history (vehicle_id, kind, occurred_at, \"offset\", partition, make, model, recorded_at)"
                 " select n, 'registered', '2026-01-01Z', n, 0, 'm', 'n', now() from generate_series(1, 10050) n;"
                 "insert into history (vehicle_id, kind, occurred_at, \"offset\", partition, state, recorded_at)"
                 " values (10050, 'state_changed', '2026-01-02Z', 20000, 0, 'sold', now())",
                 0, 20'001);
    const auto first = f.get("/vehicles?at=2026-01-03T00:00:00Z&state=sold");
    CHECK(first->status == 200);
    CHECK(first->body.starts_with(R"({"items":[],"next":")"));
    const auto cursor = first->body.substr(20, first->body.rfind('"') - 20);
    const auto second = f.get("/vehicles?at=2026-01-03T00:00:00Z&state=sold&cursor=" + cursor);
    CHECK(second->body.starts_with(R"({"items":[{"id":10050,)"));
    CHECK(second->body.find("next") == std::string::npos);
}

TEST_CASE("a burst of equal questions about a moment makes one query, and the answer is kept") {
    const Tables tables;
    Served f(tables.dsn());
    tables.flush("vehicles",
                 "insert into vehicles (id, make, model, registered_at, registered_offset, applied_at) values (3, "
                 "'VW', 'GOLF', '2022-01-01Z', 0, now());"
                 "insert into history (vehicle_id, kind, occurred_at, \"offset\", partition, make, model, recorded_at)"
                 " values (3, 'registered', '2022-01-01Z', 0, 0, 'VW', 'GOLF', now());"
                 "insert into history (vehicle_id, kind, occurred_at, \"offset\", partition, state, recorded_at)"
                 " values (3, 'state_changed', '2022-09-11T09:11:45Z', 1, 0, 'quoted', now())",
                 0, 2);
    REQUIRE(eventually([&] { return f.watch.as_of(1).has_value(); }));
    std::vector<std::shared_ptr<Pending>> burst;
    for (int i = 0; i < 50; ++i)
        burst.push_back(f.ask("/vehicles/3/timestamp/2022-09-11T09:11:45Z"));
    for (const auto& one : burst) {
        REQUIRE(eventually([&] { return one->status != -1; }));
        CHECK(one->status == 200);
        CHECK(one->body.find(R"("state":"quoted")") != std::string::npos);
    }
    const auto counters = f.cache.counters();
    CHECK(counters.misses - counters.joins == 1);
    CHECK(f.get("/vehicles/3/timestamp/2022-09-11%2011:11:45+02")->body.starts_with(R"({"fromCache":true,)"));
    // What is not there is asked for anew each time.
    CHECK(f.get("/vehicles/3/timestamp/2022-09-11T09:11:44Z")->status == 404);
    CHECK(f.get("/vehicles/9/timestamp/2022-09-11T09:11:44Z")->status == 404);
    CHECK(f.cache.counters().entries == 1);
}

TEST_CASE("a kept answer does not serve a read that wants more than it holds") {
    const Tables tables;
    Served f(tables.dsn());
    tables.flush("vehicles",
                 "insert into vehicles (id, make, model, registered_at, registered_offset, applied_at) values (3, "
                 "'VW', 'GOLF', '2022-01-01Z', 0, now());"
                 "insert into history (vehicle_id, kind, occurred_at, \"offset\", partition, make, model, recorded_at)"
                 " values (3, 'registered', '2022-01-01Z', 0, 0, 'VW', 'GOLF', now());"
                 "insert into history (vehicle_id, kind, occurred_at, \"offset\", partition, state, recorded_at)"
                 " values (3, 'state_changed', '2022-09-11T09:11:45Z', 1, 0, 'quoted', now())",
                 0, 2);
    const std::string target = "/vehicles/3/timestamp/2022-10-01T00:00:00Z";
    REQUIRE(eventually([&] { return f.get(target)->body.starts_with(R"({"fromCache":true,)"); }));
    CHECK(f.get(target + "?at_least=vehicles-0a1b2c3d-0-1")->body.starts_with(R"({"fromCache":true,)"));
    const auto later = f.ask(target + "?at_least=vehicles-0a1b2c3d-0-2");
    REQUIRE(eventually([&] { return f.watch.waiting() == 1; }));
    tables.flush("vehicles",
                 "insert into history (vehicle_id, kind, occurred_at, \"offset\", partition, state, recorded_at)"
                 " values (3, 'state_changed', '2022-09-12T12:41:41Z', 2, 0, 'sold', now())",
                 0, 3);
    REQUIRE(eventually([&] { return later->status != -1; }));
    CHECK(later->body ==
          R"({"fromCache":false,"data":{"vehicle":{"id":3,"make":"VW","model":"GOLF","state":"sold"}}})");
    CHECK(f.get(target)->body ==
          R"({"fromCache":true,"data":{"vehicle":{"id":3,"make":"VW","model":"GOLF","state":"sold"}}})");
}

TEST_CASE("while the tables lag, answers about a moment are not kept") {
    const Tables tables;
    tables.execute(
        "insert into vehicles.vehicles (id, make, model, registered_at, registered_offset, applied_at) values (3, "
        "'VW', 'GOLF', "
        "'2022-01-01Z', 0, now()); insert into vehicles.history (vehicle_id, kind, occurred_at, \"offset\", partition, "
        "make, model, "
        "recorded_at) values (3, 'registered', '2022-01-01Z', 0, 0, 'VW', 'GOLF', now()); insert into vehicles.history "
        "(vehicle_id, "
        "kind, occurred_at, \"offset\", partition, state, recorded_at) values (3, 'state_changed', "
        "'2022-09-11T09:11:45Z', 1, 0, "
        "'quoted', now()); update vehicles.offsets set next_offset = 2, as_of = now() - interval '11 seconds'");
    Served f(tables.dsn());
    for (int i = 0; i < 3; ++i) {
        CHECK(f.get("/vehicles/3/timestamp/2022-10-01T00:00:00Z")->body.starts_with(R"({"fromCache":false,)"));
    }
    CHECK(f.cache.counters().entries == 0);
}
