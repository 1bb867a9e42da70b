#include "producer/line.h"

#include "schemas/base64.h"

#include "tests/support/fake_log.h"

#include <doctest/doctest.h>

#include <chrono>
#include <optional>
#include <string>
#include <utility>
#include <vector>

using namespace tidemark;
using namespace tidemark::producer;
using namespace std::chrono_literals;

namespace {

constexpr schemas::Timestamp kNow{1'800'000'000s};

const std::string kEvent = R"({"specversion":"1.0", "id":"1","source":"s","type":"tidemark.counter.incremented.v1",)"
                           R"("data":{"value":1, "key":"k1"},"mine":"\u0041"})";

std::string line_of(std::optional<std::string> key, std::optional<std::string> value, bool* is_envelope = nullptr,
                    std::vector<std::pair<std::string, std::string>> headers = {}) {
    const auto record = tests::FakeSource::record_of(
        0, tests::FakeLog::Entry{1, {}, std::move(key), std::move(value), std::move(headers)});
    schemas::json::Reader reader;
    std::string line;
    const bool envelope = append_line(line, reader, *schemas::find_stream("counters"), record);
    if (is_envelope != nullptr) *is_envelope = envelope;
    CHECK(line.find('\n') == std::string::npos);
    return line;
}

schemas::Result<Line> read(const std::string& text) {
    schemas::json::Reader reader;
    return read_line(text, reader, kNow);
}

}  // namespace

TEST_CASE("an event under its entity's key is its own line, byte for byte, and comes back with that key") {
    bool is_envelope = true;
    CHECK(line_of("k1", kEvent, &is_envelope) == kEvent);
    CHECK_FALSE(is_envelope);
    const auto line = read(kEvent);
    REQUIRE(line);
    CHECK(line->value == kEvent);
    CHECK(line->destination.key == "k1");
    CHECK(line->destination.topic == 0);
}

TEST_CASE("what is no event, or under another key, or of another stream, or on several lines comes back as it was") {
    const std::string several = kEvent.substr(0, kEvent.size() - 1) + "\n}";
    const std::string vehicle = R"({"specversion":"1.0","id":"1","source":"s","type":"tidemark.vehicle.registered.v1",)"
                                R"("data":{"id":7,"make":"a","model":"b"}})";
    const struct {
        const char* what;
        std::string key;
        std::string value;
    } cases[] = {{"no event", "k1", "{"},
                 {"another key", "k2", kEvent},
                 {"several lines", "k1", several},
                 {"another stream", "7", vehicle},
                 {"any bytes", std::string("\0\xff", 2), std::string("\n\0\xff\"", 4)}};
    for (const auto& one : cases) {
        CAPTURE(one.what);
        bool is_envelope = false;
        const auto text = line_of(one.key, one.value, &is_envelope);
        CHECK(is_envelope);
        const auto line = read(text);
        REQUIRE(line);
        CHECK(line->value == one.value);
        CHECK(line->destination.key == one.key);
        CHECK(line->destination.topic == 0);
    }
}

TEST_CASE("an envelope says all that the record had, and null for what it had not") {
    CHECK(line_of(std::nullopt, std::nullopt, nullptr, {{"traceparent", "00"}}) ==
          R"({"record":"counters","key":null,"value":null,"headers":[{"name":"traceparent","value":"MDA="}]})");
}

TEST_CASE("what headers an event has does not make it an envelope, but for which line of an import it was") {
    bool is_envelope = true;
    const std::string lineage = std::string(22, 'f') + ":12";
    const auto named = R"({"name":"import","value":")" + tidemark::schemas::to_base64(lineage) + R"("})";
    CHECK(line_of("k1", kEvent, &is_envelope,
                  {{"content-type", "application/cloudevents+json"}, {"traceparent", "00"}, {"import", "mine"}}) ==
          kEvent);
    CHECK_FALSE(is_envelope);
    const auto line = line_of("k1", kEvent, &is_envelope, {{"import", lineage}});
    CHECK(is_envelope);
    CHECK(line.find(named) != std::string::npos);
    CHECK(line_of("k1", "{", nullptr, {{"a", "1"}, {"import", lineage}, {"\xFF", "2"}}) ==
          R"({"record":"counters","key":"azE=","value":"ew==","headers":[{"name":"a","value":"MQ=="},)" + named +
              R"(,{"name_base64":"/w==","value":"Mg=="}]})");
    CHECK(read(line)->is_imported);
    CHECK_FALSE(read(line_of("k1", "{", nullptr, {{"import", "mine"}}))->is_imported);
}

TEST_CASE("an envelope's headers that a record cannot have are named, each with everything that is wrong") {
    const auto violations = [](const std::string& headers) {
        const auto line = read(R"({"record":"counters","key":"azE=","value":"e30=","headers":)" + headers + "}");
        return line ? std::string() : describe(line.violations());
    };
    CHECK(violations("7") == "/headers: is not an array");
    CHECK(violations(R"([{"name":"a","value":"MQ=="},7,{"name":1,"value":"?"},{"name":"a"}])") ==
          "/headers/1: is not an object; /headers/2/name: is no text, and there is no name_base64 instead; "
          "/headers/2/value: is neither base64 nor null; /headers/3/value: is neither base64 nor null");
    CHECK(violations(R"([{"name":"a","name_base64":"YQ==","value":null}])").find("/headers/0/name") == 0);
    const auto many = [](std::size_t count) {
        std::string all = "[";
        for (std::size_t n = 0; n < count; ++n)
            all += std::string(n == 0 ? "" : ",") + R"({"name":"a","value":"MQ=="})";
        return all + "]";
    };
    CHECK(violations(many(kMostEnvelopeHeaders)).empty());
    CHECK(violations(many(kMostEnvelopeHeaders + 1)).find("/headers: are more than 60") == 0);
}

TEST_CASE("an envelope that cannot be put on the log says why") {
    for (const auto* text :
         {R"({"record":"nonsense","key":"azE=","value":"e30=","headers":[]})",
          R"({"record":"counters","key":null,"value":"e30=","headers":[]})",
          R"({"record":"counters","key":"azE=","value":null,"headers":[]})",
          R"({"record":"counters","key":"","value":"e30=","headers":[]})",
          R"({"record":"counters","key":"azE","value":"e30=","headers":[]})",
          R"({"record":"counters","value":"e30=","headers":[]})", R"({"record":7})", R"({"record":"counters")"}) {
        CAPTURE(text);
        const auto line = read(text);
        REQUIRE_FALSE(line);
        CHECK_FALSE(line.violations().empty());
    }
}

TEST_CASE("an event that is too far ahead is no line to be imported, though it may have been exported") {
    const auto late = kEvent.substr(0, kEvent.size() - 1) + R"(,"time":"2999-01-01T00:00:00Z"})";
    CHECK(line_of("k1", late) == late);
    CHECK_FALSE(read(late));
}

TEST_CASE("a record with its place is an envelope that comes back as the record alone") {
    using namespace std::chrono;
    const auto record = tests::FakeSource::record_of(
        3, tests::FakeLog::Entry{117, schemas::Timestamp(1'800'000'000'123ms), "k1", kEvent, {{"a", "1"}}});
    std::string text;
    append_placed_line(text, *schemas::find_stream("counters"), record, 4);
    CHECK(text.find(R"({"record":"counters","position":"3:117","partitions":4,"appended":"2027-01-15T08:00:00.123Z",)"
                    R"("key":"azE=","value":")") == 0);
    const auto line = read(text);
    REQUIRE(line);
    CHECK(line->value == kEvent);
    CHECK(line->destination.key == "k1");
    CHECK(line->is_envelope);
    CHECK(line->headers.size() == 1);
}

TEST_CASE("what is another log's own is not put on this one") {
    const auto placed = [](std::int64_t offset, const std::string& value) {
        const auto record = tests::FakeSource::record_of(0, tests::FakeLog::Entry{offset, {}, "k1", value, {}});
        std::string text;
        append_placed_line(text, *schemas::find_stream("counters"), record, 4);
        const auto line = read(text);
        REQUIRE(line);
        return line->is_another_logs;
    };
    const std::string begin = R"({"specversion":"1.0","id":"1","source":"s","type":"tidemark.)";
    const auto identity = begin + R"(log.created.v1","data":{"uuid":"u"}})";
    CHECK(placed(0, identity));
    // Anywhere else it was a dead letter, and is one again.
    CHECK_FALSE(placed(1, identity));
    const auto decision = begin + R"(dead_letter.discarded.v1","data":{"offset":0}})";
    CHECK(placed(1, decision));
    CHECK(placed(0, decision));
    CHECK_FALSE(placed(1, kEvent));
    // Likewise as a line of its own.
    const auto line = read(decision);
    REQUIRE(line);
    CHECK(line->is_another_logs);
}
