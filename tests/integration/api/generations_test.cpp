#include "api/generations.h"

#include "tests/integration/api/served.h"
#include "tests/integration/api/tables.h"

#include <doctest/doctest.h>

#include <string>

using namespace tidemark;
using namespace std::chrono_literals;
using test::eventually;
using tests::Served;
using tests::Tables;

TEST_CASE("a stream's generations are told by number, each with its role and those who were heard of just now") {
    Tables tables;
    tables.make_generation("counters", "counters_10", 10, "building");
    tables.make_generation("counters", "counters_2", 2, "retired");
    const auto beat = [](const std::string& instance, const std::string& stream, int generation, int seconds_ago) {
        return "insert into tidemark.consumers (instance, stream, generation, fingerprint, version, partitions, state, "
               "started_at, heartbeat_at) values ('" +
               instance + "', '" + stream + "', " + std::to_string(generation) +
               ", 'v1', '1', '{0}', 'folding', now(), now() - interval '" + std::to_string(seconds_ago) + " seconds');";
    };
    tables.execute(beat("host-1", "counters", 1, 0) + beat("ho\"st-0", "counters", 1, 1) +
                   beat("gone", "counters", 1, 11) + beat("host-1", "counters", 2, 0) +
                   beat("elsewhere", "vehicles", 10, 0) +
                   "update tidemark.generations set created_at = '2026-11-20T10:00:00Z', "
                   "fingerprint = 'v' || generation, "
                   "retired_at = case when status = 'retired' then timestamptz '2026-11-21T10:00:00.5Z' end");
    Served f(tables.dsn());
    const auto answer = f.get("/generations/counters");
    CHECK(answer->status == 200);
    CHECK(answer->lines == "Cache-Control: no-store\r\n");
    CHECK(answer->body ==
          R"({"stream":"counters","generations":[)"
          R"({"generation":1,"role":"live","fingerprint":"v1","schema":"counters","createdAt":"2026-11-20T10:00:00Z",)"
          R"("foldedBy":["ho\"st-0","host-1"]},)"
          R"({"generation":2,"role":"retired","fingerprint":"v2","schema":"counters_2",)"
          R"("createdAt":"2026-11-20T10:00:00Z","retiredAt":"2026-11-21T10:00:00.500Z","foldedBy":["host-1"]},)"
          R"({"generation":10,"role":"building","fingerprint":"v10","schema":"counters_10",)"
          R"("createdAt":"2026-11-20T10:00:00Z","foldedBy":[]}]})");
}

TEST_CASE("the generations of a stream that there is not are not found, and a cache may not keep that") {
    const Tables tables;
    Served f(tables.dsn());
    for (const std::string name : {"none", "Counters", "tidemark", "%ff", "counters%2F"}) {
        CAPTURE(name);
        const auto answer = f.get("/generations/" + name);
        CHECK(answer->status == 404);
        CHECK(answer->body.find("/problems/unknown_entity") != std::string::npos);
        CHECK(answer->lines.find("Cache-Control: no-store\r\n") != std::string::npos);
    }
}

TEST_CASE("without the registry the generations are not told, and asked for again they are") {
    const Tables tables;
    Served f(tables.dsn());
    tables.execute("alter schema tidemark rename to away");
    const auto answer = f.get("/generations/counters");
    CHECK(answer->status == 503);
    CHECK(answer->body.find("/problems/unavailable") != std::string::npos);
    tables.execute("alter schema away rename to tidemark");
    CHECK(f.get("/generations/counters")->status == 200);
}
