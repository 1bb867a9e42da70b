#include "schemas/line.h"

#include <doctest/doctest.h>

#include <chrono>
#include <string>

using namespace tidemark::schemas;
using namespace std::chrono_literals;

namespace {

// An envelope's line of which only these members are said.
std::string line_of(const std::string& members) {
    return R"({"record":"counters",)" + members + R"("key":"azE=","value":"e30=","headers":[]})";
}

std::string violations_of(const std::string& line) {
    json::Reader reader;
    const auto read = read_envelope(reader, line);
    return read ? std::string() : describe(read.violations());
}

}  // namespace

TEST_CASE("an envelope without a place has its record's bytes") {
    json::Reader reader;
    const auto read = read_envelope(
        reader,
        R"({"record":"vehicles","key":null,"value":"","headers":[{"name":"a","value":null},{"name_base64":"/w==","value":"MQ=="}]})");
    REQUIRE(read);
    CHECK(read->stream == find_stream("vehicles"));
    CHECK_FALSE(read->place);
    CHECK_FALSE(read->key);
    CHECK(read->value == std::string());
    REQUIRE(read->headers.size() == 2);
    CHECK(read->headers[0].name == "a");
    CHECK_FALSE(read->headers[0].value);
    CHECK(read->headers[1].name == "\xff");
    CHECK(read->headers[1].value == "1");
}

TEST_CASE("an envelope with a place says where and when its record stood") {
    json::Reader reader;
    const auto read = read_envelope(
        reader, line_of(R"("position":"3:9223372036854775806","partitions":4,"appended":"1970-01-01T00:00:01.234Z",)"));
    REQUIRE(read);
    REQUIRE(read->place);
    CHECK(read->place->position == Position{3, 9223372036854775806});
    CHECK(read->place->partitions == 4);
    CHECK(read->place->appended == Timestamp(1'234ms));
    CHECK(read->key == "k1");
    CHECK(read->value == "{}");
}

TEST_CASE("a place that is none, or only a part of one, is named with everything that is wrong") {
    const std::string position = R"("position":"0:1",)";
    const std::string partitions = R"("partitions":4,)";
    const std::string appended = R"("appended":"2026-11-22T05:00:00Z",)";
    REQUIRE(violations_of(line_of(position + partitions + appended)).empty());
    const struct {
        std::string members;
        const char* wrong;
    } cases[] = {{partitions + appended, "/position: is not"},
                 {position + appended, "/partitions: is not"},
                 {position + partitions, "/appended: is no instant"},
                 {R"("position":7,)" + partitions + appended, "/position: is not"},
                 {R"("position":"7",)" + partitions + appended, "/position: is not"},
                 {R"("position":"-1:7",)" + partitions + appended, "/position: is not"},
                 {R"("position":"1:-7",)" + partitions + appended, "/position: is not"},
                 {R"("position":"0:9223372036854775807",)" + partitions + appended, "/position: is not"},
                 {R"("position":"0:1:2",)" + partitions + appended, "/position: is not"},
                 {R"("position":"4:1",)" + partitions + appended, "/position: is in none of the log's 4 partitions"},
                 {position + R"("partitions":0,)" + appended, "/partitions: is not"},
                 {position + R"("partitions":10001,)" + appended, "/partitions: is not"},
                 {position + R"("partitions":"4",)" + appended, "/partitions: is not"},
                 {position + partitions + R"("appended":"today",)", "/appended: is no instant"},
                 {position + partitions + R"("appended":5,)", "/appended: is no instant"}};
    for (const auto& one : cases) {
        CAPTURE(one.members);
        CHECK(violations_of(line_of(one.members)).find(one.wrong) == 0);
    }
    CHECK(violations_of(R"({"record":"nonsense","position":"0","key":1,"headers":7})") ==
          "/record: is not a stream; /position: is not PARTITION:OFFSET, e.g. \"2:1834\"; "
          "/partitions: is not the number of the log's partitions, 1 to 10000; "
          "/appended: is no instant, e.g. \"2026-11-20T10:00:00.123Z\"; /headers: is not an array; "
          "/key: is neither base64 nor null; /value: is neither base64 nor null");
}

TEST_CASE("what begins as an envelope does is one, whatever follows") {
    CHECK(is_envelope(R"({"record":7)"));
    CHECK_FALSE(is_envelope(R"({"specversion":"1.0","record":"counters"})"));
}
