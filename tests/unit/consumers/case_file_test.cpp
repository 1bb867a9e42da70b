#include "consumers/case_file.h"

#include "consumers/generation.h"
#include "consumers/projections.h"
#include "schemas/base64.h"

#include <doctest/doctest.h>

#include <chrono>
#include <optional>
#include <sstream>
#include <string>
#include <vector>

using namespace tidemark;
using namespace tidemark::consumers;
using namespace std::chrono_literals;

namespace {

std::string event(const std::string& type, const std::string& data, const std::string& time = {}) {
    return R"({"specversion":"1.0","id":"1","source":"s","type":"tidemark.)" + type + R"(","data":)" + data +
           (time.empty() ? "" : R"(,"time":")" + time + "\"") + "}";
}

std::string increment(const std::string& key, const std::string& time = {}) {
    return event("counter.incremented.v1", R"({"key":")" + key + R"(","value":1})", time);
}

const std::string kDecision = event("dead_letter.discarded.v1", R"({"offset":3})");
const std::string kVehicle = event("vehicle.registered.v1", R"({"id":7,"make":"a","model":"b"})");

std::string envelope(const std::string& value, const std::string& place = {}, const std::string& stream = "counters") {
    return R"({"record":")" + stream + R"(",)" + place + R"("key":null,"value":")" + schemas::to_base64(value) +
           R"(","headers":[{"name":"a","value":"MQ=="},{"name":"a","value":"Mg=="},{"name":"b","value":null}]})";
}

std::string placed(const std::string& position, const std::string& value = "{", const std::string& partitions = "2") {
    return envelope(value, R"("position":")" + position + R"(","partitions":)" + partitions +
                               R"(,"appended":"1970-01-01T00:00:01.5Z",)");
}

struct Read {
    std::int32_t partition = 0;
    std::int64_t offset = 0;
    schemas::Timestamp append_time{};
    std::optional<std::string> key;
    std::optional<std::string> value;
};

// All of a file of counters, read to its end.
struct All {
    explicit All(const std::vector<std::string>& lines) {
        std::string text;
        for (const auto& line : lines)
            text += line + "\n";
        std::istringstream in(text);
        CaseFile file(in, *find_projection("counters"));
        while (auto record = file.next()) {
            records.push_back({record->partition, record->offset, record->append_time, {}, {}});
            if (record->key) records.back().key = *record->key;
            if (record->value) records.back().value = *record->value;
        }
        CHECK_FALSE(file.failed());
        partitions = file.partitions();
        uuid = file.log_uuid();
        skipped = file.skipped();
    }
    std::vector<Read> records;
    std::int32_t partitions = 0;
    std::string uuid;
    CaseFile::Skipped skipped;
};

std::string refusal(const std::vector<std::string>& lines) {
    try {
        All{lines};
    } catch (const Refused& refused) {
        return refused.what();
    }
    return {};
}

}  // namespace

TEST_CASE("records that say where they stood stand there again") {
    const auto identity = event("log.created.v1", R"({"uuid":"u1"})");
    const All all({placed("1:0", identity), placed("1:7"), "", placed("0:3", kDecision)});
    REQUIRE(all.records.size() == 3);
    CHECK(all.partitions == 2);
    CHECK(all.uuid == "u1");
    CHECK(all.records[1].partition == 1);
    CHECK(all.records[1].offset == 7);
    CHECK(all.records[1].append_time == schemas::Timestamp(1'500ms));
    CHECK(all.records[1].value == "{");
    CHECK_FALSE(all.records[1].key);
    CHECK(all.records[2].partition == 0);
    CHECK(all.records[2].offset == 3);
    CHECK(all.skipped.decisions == 0);
}

TEST_CASE("only the first record of a partition says the log's identity") {
    const auto of = [](const std::string& uuid) { return event("log.created.v1", R"({"uuid":")" + uuid + R"("})"); };
    CHECK(All({placed("0:1", of("u1"))}).uuid.empty());
    CHECK(All({placed("0:0", of("u1")), placed("1:0", of("u2"))}).uuid == "u1");
    CHECK(All({placed("0:0", event("log.created.v1", "7"))}).uuid.empty());
}

TEST_CASE("records that do not say where they stood follow each other, under their entities' keys, in their own time") {
    const All all({increment("a", "1970-01-01T00:00:05Z"), increment("b", "1970-01-01T00:00:03Z"), increment("c"),
                   envelope("{"), increment("d", "2999-01-01T00:00:00Z"),
                   envelope(increment("e", "3000-01-01T00:00:00Z"))});
    REQUIRE(all.records.size() == 6);
    CHECK(all.partitions == 1);
    for (std::size_t n = 0; n < all.records.size(); ++n) {
        CHECK(all.records[n].partition == 0);
        CHECK(all.records[n].offset == static_cast<std::int64_t>(n));
    }
    CHECK(all.records[0].key == "a");
    CHECK(all.records[0].value == increment("a", "1970-01-01T00:00:05Z"));
    CHECK(all.records[1].append_time == schemas::Timestamp(5s));
    CHECK(all.records[2].append_time == schemas::Timestamp(5s));
    CHECK(all.records[3].append_time == schemas::Timestamp(5s));
    CHECK_FALSE(all.records[3].key);
    CHECK(all.records[4].append_time == *schemas::parse_instant("2999-01-01T00:00:00Z"));
    CHECK(all.records[5].append_time == *schemas::parse_instant("3000-01-01T00:00:00Z"));
}

TEST_CASE("an event whose entity cannot be known has no key") {
    const All all({event("counter.incremented.v1", R"({"key":"a"})"), event("of.nobody.v1", "{}")});
    REQUIRE(all.records.size() == 2);
    CHECK_FALSE(all.records[0].key);
    CHECK_FALSE(all.records[1].key);
}

TEST_CASE("what is of another stream is skipped, and decisions that name offsets nobody knows") {
    const All all({kVehicle, envelope("{", {}, "vehicles"), increment("a"), kDecision, envelope(kDecision)});
    CHECK(all.records.size() == 1);
    CHECK(all.skipped.of_other_streams == 2);
    CHECK(all.skipped.decisions == 2);
    // Neither has anything to do with where records stood.
    CHECK(All({kVehicle, placed("0:1")}).records.size() == 1);
}

TEST_CASE("headers are the record's, and of several the last one counts") {
    std::istringstream in(envelope("{"));
    CaseFile file(in, *find_projection("counters"));
    const auto record = file.next();
    REQUIRE(record);
    REQUIRE(record->headers().size() == 3);
    CHECK(record->headers()[0].value == "1");
    CHECK(record->headers()[2].value.data() == nullptr);
    CHECK(record->header("a") == "2");
    CHECK_FALSE(record->header("c"));
}

TEST_CASE("a line that cannot be read, or stands where it cannot, is refused by its number") {
    CHECK(refusal({increment("a"), "", "{"}).find("line 3: ") == 0);
    CHECK(refusal({R"({"record":"counters"})"}).find("line 1: /key: is neither base64 nor null") == 0);
    CHECK(refusal({placed("0:5"), placed("1:2"), placed("0:5")}) ==
          "line 3: /position: the lines before it are already at offset 5 of partition 0: offsets rise");
    CHECK(refusal({placed("0:5"), placed("0:4")}).find("line 2: /position: ") == 0);
    CHECK(refusal({placed("0:5"), placed("0:6", "{", "3")}).find("line 2: /partitions: 3 are not the 2") == 0);
    CHECK(refusal({placed("2:5")}).find("line 1: /position: is in none of the log's 2 partitions") == 0);
    CHECK(refusal({placed("0:5"), increment("a")}).find("line 2: /position: is missing") == 0);
    CHECK(refusal({placed("0:5"), envelope("{")}).find("line 2: /position: is missing") == 0);
    CHECK(refusal({increment("a"), placed("0:5")}) == "line 2: /position: the lines before it say none");
}

TEST_CASE("a file that cannot be read to its end is not at its end") {
    std::istringstream in(increment("a") + "\n");
    CaseFile file(in, *find_projection("counters"));
    in.setstate(std::ios::badbit);
    CHECK_FALSE(file.next());
    CHECK(file.failed());
}
