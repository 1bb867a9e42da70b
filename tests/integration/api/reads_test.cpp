#include "api/read.h"

#include "tests/integration/api/served.h"
#include "tests/integration/api/tables.h"

#include <doctest/doctest.h>

#include <array>
#include <atomic>
#include <future>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

using namespace tidemark;
using namespace std::chrono_literals;
using test::eventually;
using tests::Pending;
using tests::Served;
using tests::Tables;

namespace {

/// Every row of a list as CSV, by its links; the number of pages goes to `pages`.
std::vector<std::string> read_all(Served& f, std::string target, int& pages) {
    std::vector<std::string> found;
    for (pages = 0; !target.empty(); ++pages) {
        REQUIRE(pages < 1'000);
        const auto page = f.get(target, {{"Accept", "text/csv"}});
        REQUIRE(page->status == 200);
        const auto& body = page->body;
        for (auto at = body.find('\n') + 1; at < body.size(); at = body.find('\n', at) + 1)
            found.push_back(body.substr(at, body.find('\r', at) - at));
        const auto link = page->lines.find("Link: <");
        target = link == std::string::npos ? "" : page->lines.substr(link + 7, page->lines.find('>', link) - link - 7);
    }
    return found;
}

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
    int pages = 0;
    for (const auto& row : read_all(f, "/counters?prefix=k&limit=4", pages))
        seen += row.substr(0, row.find(',')) + " ";
    CHECK(pages == 7);
    CHECK(seen == "k% k1 k10 k11 k12 k13 k14 k15 k16 k17 k18 k19 k2 k20 k21 k22 k23 k24 k25 k3 k4 k5 k6 k7 k8 k9 ");
}

TEST_CASE("windows are summed and paged by any step and limit without a gap or a repeat") {
    const Tables tables;
    Served f(tables.dsn());
    std::mt19937 random(1);  // NOLINT(cert-msc32-c,cert-msc51-cpp): the same windows in each run
    std::set<std::tuple<std::int64_t, std::string, int>> windows;
    while (windows.size() < 150) {
        const std::array<std::string, 3> states{"quoted", "selling", "sold"};
        // Three days on both sides of the epoch, most of it in their first hour.
        const auto length = random() % 4 == 0 ? 6 * 8'640 : 360;
        windows.emplace(10 * (static_cast<std::int64_t>(random() % length) - 3 * 8'640), states[random() % 3],
                        static_cast<int>(random() % 2));
    }
    std::string counted;
    std::string moved;
    for (const auto& [start, state, partition] : windows) {
        const auto place = "to_timestamp(" + std::to_string(start) + "), ";
        const auto rest = std::to_string(partition) + ", ";
        counted += "insert into windows values ('" + state + "', " + place + rest + "2, 1, 0, 0);";
        moved += "insert into transitions values (" + place + "'" + state + "', " + rest + "1, 0, 0);";
    }
    counted += "insert into totals select key, sum(value), sum(count), now() from windows group by key";
    tables.flush("counters", counted, 0, 9);
    tables.flush("vehicles", moved, 0, 9);

    const std::string from = "windows?from=0001-01-01T00:00:00Z&step=";
    for (const auto& [name, length] :
         std::vector<std::pair<std::string, std::int64_t>>{{"10s", 10}, {"1m", 60}, {"1h", 3'600}, {"1d", 86'400}}) {
        std::map<std::pair<std::int64_t, std::string>, int> bins;
        for (const auto& [start, state, partition] : windows)
            ++bins[{(start + 10 * 86'400) / length * length - 10 * 86'400, state}];
        std::vector<std::string> sold;
        std::vector<std::string> all;
        std::vector<std::string> sold_transitions;
        for (const auto& [bin, count] : bins) {
            const auto start = schemas::format_instant(schemas::Timestamp(std::chrono::seconds(bin.first)));
            const auto number = std::to_string(count);
            all.push_back(start + "," + bin.second + "," + number);
            if (bin.second != "sold") continue;
            sold.push_back(start + "," + std::to_string(2 * count) + "," + number);
            sold_transitions.push_back(all.back());
        }
        for (const std::string limit : {"1", "7", "1000"}) {
            CAPTURE(name);
            CAPTURE(limit);
            int pages = 0;
            const auto end = name + "&limit=" + limit;
            CHECK(read_all(f, "/counters/sold/" + from + end, pages) == sold);
            CHECK(read_all(f, "/vehicles/" + from + end, pages) == all);
            CHECK(read_all(f, "/vehicles/" + from + end + "&state=sold", pages) == sold_transitions);
        }
    }
}

TEST_CASE("a page of windows reads about as much as it shows, however long the range is") {
    const Tables tables;
    Served f(tables.dsn());
    constexpr int kDays = 20;
    const auto dense = "generate_series(0, " + std::to_string(kDays * 8'640 - 1) + ") n";
    const std::string start = "timestamptz '2026-01-01Z' + n * interval '10 s'";
    tables.flush("counters", "insert into windows select 'a', " + start + ", 0, 1, 1, 0, 0 from " + dense + ";" + kOne,
                 0, 9);
    tables.flush("vehicles", "insert into transitions select " + start + ", 'sold', 0, 1, 0, 0 from " + dense, 0, 9);

    for (const std::string list : {"/counters/a/windows", "/vehicles/windows", "/vehicles/windows?state=quoted"}) {
        CAPTURE(list);
        int pages = 0;
        const auto separator = list.find('?') == std::string::npos ? "?" : "&";
        const auto found = read_all(f, list + separator + "from=2026-01-01T00:00:00Z&step=1d&limit=1000", pages);
        CHECK(found.size() == (list.ends_with("quoted") ? 0 : kDays));
        for (const auto& bin : found)
            CHECK(bin.find(",8640") != std::string::npos);
        CHECK(pages > 1);
    }
}

TEST_CASE("windows that are dropped are gone for whoever asks for them, and only for them") {
    const Tables tables;
    Served f(tables.dsn());
    const std::string starts =
        "(values (timestamptz '2026-11-18T23:59:50Z'), ('2026-11-19T00:00:00Z'), ('2026-11-19T12:00:00Z'), "
        "('2026-11-20T10:00:00Z')) v (start)";
    // Nothing is deleted yet, and only one of the partitions is that far.
    const std::string cut = "update offsets set windows_from = '2026-11-19T12:00:00Z' where partition = 1;";
    tables.flush("counters", "insert into windows select 'a', start, 0, 1, 1, 0, 0 from " + starts + ";" + cut + kOne,
                 0, 9);
    tables.flush("vehicles", "insert into transitions select start, 'sold', 0, 1, 0, 0 from " + starts + ";" + cut, 0,
                 9);

    for (const std::string list : {"/counters/a/windows", "/vehicles/windows"}) {
        CAPTURE(list);
        const auto asked = [&](const std::string& query) {
            return f.get(list + "?" + query, {{"Accept", "text/csv"}});
        };
        for (const char* query : {"from=2026-11-19T11:59:50Z", "from=0001-01-01T00:00:00Z&to=0001-01-02T00:00:00Z",
                                  "to=2026-11-19T12:30:00Z", "from=2026-11-18T00:00:01Z&step=1d"}) {
            CAPTURE(query);
            const auto gone = asked(query);
            CHECK(gone->status == 410);
            CHECK(gone->body.starts_with(R"({"type":"/problems/window_dropped",)"));
            CHECK(gone->body.find("from 2026-11-19T12:00:00Z on") != std::string::npos);
            CHECK(gone->lines.find("Applied-Position") != std::string::npos);
        }
        const auto lines = [&](const std::string& query) {
            const auto found = asked(query);
            CHECK(found->status == 200);
            return std::count(found->body.begin(), found->body.end(), '\n') - 1;
        };
        CHECK(lines("from=2026-11-19T12:00:00Z") == 2);
        // No window that starts there is gone.
        CHECK(lines("from=2026-11-19T11:59:50.000001Z") == 2);
        CHECK(lines("from=2026-11-19T12:00:00Z&step=1h") == 2);
        CHECK(lines("from=2026-11-19T12:00:00Z&step=1d") == 1);
        // Nobody has asked for what is gone.
        CHECK(lines("step=1h") == 0);
        int pages = 0;
        CHECK(read_all(f, list + "?from=2026-11-19T12:00:00Z&limit=1", pages).size() == 2);
        CHECK(pages == 2);
    }
    CHECK(f.get("/counters/b/windows?from=0001-01-01T00:00:00Z")->status == 404);
}

TEST_CASE("by default windows are shown from where they are whole") {
    const Tables tables;
    Served f(tables.dsn());
    // The tables are as of a moment ago; retention is half an hour behind, in the middle of some bin.
    const std::string windows = "date_bin('10 s', now() - n * interval '10 s', timestamptz 'epoch')";
    tables.flush(
        "counters",
        "insert into windows select 'a', " + windows +
            ", 0, 1, 1, 0, 0 from generate_series(0, 300) n;"
            "update offsets set windows_from = date_bin('1 m', now(), timestamptz 'epoch') - interval '1790 s';" +
            kOne,
        0, 9);
    int pages = 0;
    for (const auto& bin : read_all(f, "/counters/a/windows?step=1m&limit=7", pages)) {
        CAPTURE(bin);
        const bool is_whole = bin.ends_with(",6,6");
        const auto now = schemas::format_instant(f.clock.now());
        // The last two may be of the minute that has not ended.
        CHECK((is_whole || bin.substr(0, 16) >= schemas::format_instant(f.clock.now() - 2min).substr(0, 16)));
    }
    CHECK(pages == 5);
}

TEST_CASE("windows of tables that an earlier version made are read, too") {
    const Tables tables;
    Served f(tables.dsn());
    tables.flush("counters",
                 "drop view api_progress; create view api_progress as select p.generation, p.applied, p.as_of, "
                 "0::bigint as open_dead_letters from progress p;"
                 "insert into windows values ('a', '2026-11-20T10:00:00Z', 0, 1, 1, 0, 0);" +
                     kOne,
                 0, 9);
    CHECK(f.get("/counters/a/windows?from=2026-11-20T00:00:00Z")->body ==
          R"({"items":[{"start":"2026-11-20T10:00:00Z","value":1,"count":1}]})");
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

TEST_CASE("an answer that was kept before a swap of generations is not given after it") {
    Tables tables;
    tables.make_generation("vehicles", "vehicles_2", 2, "candidate");
    for (const std::string schema : {"vehicles", "vehicles_2"}) {
        tables.execute(
            "set local search_path to " + schema +
            "; insert into vehicles (id, make, model, registered_at, registered_offset, applied_at) values (3, 'VW', "
            "'" +
            (schema == "vehicles" ? "GULF" : "GOLF") +
            "', '2022-01-01Z', 0, now()); insert into history (vehicle_id, kind, occurred_at, \"offset\", partition, "
            "make, model, recorded_at) select id, 'registered', registered_at, 0, 0, make, model, now() from vehicles;"
            "insert into history (vehicle_id, kind, occurred_at, \"offset\", partition, state, recorded_at)"
            " values (3, 'state_changed', '2022-09-11T09:11:45Z', 1, 0, 'quoted', now());"
            "update offsets set next_offset = 2");
    }
    Served f(tables.dsn());
    REQUIRE(eventually([&] { return f.watch.as_of(1).has_value(); }));
    const std::string target = "/vehicles/3/timestamp/2022-10-01T00:00:00Z";
    const auto answer = [](const std::string& cached, const std::string& model) {
        return R"({"fromCache":)" + cached + R"(,"data":{"vehicle":{"id":3,"make":"VW","model":")" + model +
               R"(","state":"quoted"}}})";
    };
    CHECK(f.get(target)->body == answer("false", "GULF"));
    CHECK(f.get(target)->body == answer("true", "GULF"));

    const auto swap = [&](const std::string& old_one, int next) {
        tables.execute("alter schema vehicles rename to " + old_one + "; alter schema vehicles_" +
                       std::to_string(next) + " rename to vehicles; select pg_notify('tidemark_progress', 'vehicles')");
        REQUIRE(eventually([&] { return f.watch.progress(1)->generation == next; }));
    };
    swap("vehicles_1", 2);
    const std::string seen_before = "?at_least=vehicles-0a1b2c3d-0-1";
    CHECK(f.get(target + seen_before)->body == answer("false", "GOLF"));
    CHECK(f.get(target)->body == answer("true", "GOLF"));
    swap("vehicles_2", 1);
    CHECK(f.get(target)->body.find("GULF") != std::string::npos);
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
