#include "schemas/event.h"

#include "listing.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <set>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

namespace tidemark::schemas {
namespace {

constexpr std::string_view kRequired = R"("specversion":"1.0","id":"i","source":"/s","type":"t.v1")";

std::string envelope(std::string_view more) {
    return "{" + std::string(kRequired) + (more.empty() ? "" : ",") + std::string(more) + "}";
}

std::string violations_of(std::string_view bytes, const json::Limits& limits = {}) {
    json::Reader reader;
    return listing(read_event(reader, bytes, limits));
}

std::string hash_of(std::string_view data) {
    json::Reader reader;
    return data_hash(*reader.parse(data));
}

std::string identity_of(std::vector<std::string_view> parts) {
    return idempotency_identity(parts);
}

Timestamp now_at(std::int64_t milliseconds) {
    return Timestamp{std::chrono::milliseconds{milliseconds}};
}

}  // namespace

TEST_CASE("an envelope is read whole") {
    json::Reader reader;
    const auto event = read_event(
        reader,
        R"({"data":{"key":"k"},"traceparent":"00-a-b-01","idempotencykey":"abc","time":"2026-11-20 10:00:03.2175+01",)"
        R"("datacontenttype":"application/json; charset=utf-8","type":"t","source":"s","id":"i","specversion":"1.0"})");
    REQUIRE(listing(event) == "");
    CHECK(event->id == "i");
    CHECK(event->source == "s");
    CHECK(event->type == "t");
    REQUIRE(event->time.has_value());
    CHECK(format_instant(*event->time) == "2026-11-20T09:00:03.217500Z");
    CHECK(event->idempotency_key == "abc");
    CHECK(event->traceparent == "00-a-b-01");
    CHECK(event->data.find("key").text() == "k");
}

TEST_CASE("what an envelope need not have is absent") {
    json::Reader reader;
    const auto event = read_event(reader, envelope(""));
    REQUIRE(listing(event) == "");
    CHECK_FALSE(event->time.has_value());
    CHECK_FALSE(event->idempotency_key.has_value());
    CHECK_FALSE(event->traceparent.has_value());
    CHECK_FALSE(event->data);
}

TEST_CASE("a null attribute is an absent one, null data is data") {
    json::Reader reader;
    const auto event =
        read_event(reader, envelope(R"("time":null,"idempotencykey":null,"traceparent":null,)"
                                    R"("datacontenttype":null,"data_base64":null,"other":null,"data":null)"));
    REQUIRE(listing(event) == "");
    CHECK_FALSE(event->time.has_value());
    CHECK_FALSE(event->idempotency_key.has_value());
    CHECK(event->data.is(json::Kind::null));
    CHECK(violations_of(R"({"specversion":null,"id":null,"source":null,"type":null})") ==
          "/specversion: is required\n/id: is required\n/source: is required\n/type: is required");
}

TEST_CASE("unknown attributes are let through when they are what attributes may be") {
    CHECK(violations_of(envelope(R"("subject":"x","dataschema":"urn:x","partition":-7,"sampled":true,"empty":"")")) ==
          "");
}

TEST_CASE("every violation of an envelope is named") {
    const std::string bad_text = ": must be a string of 1 to 256 bytes";
    const std::string bad_other = ": must be a string, a boolean or an integer, as every attribute";
    const auto too_long = std::string(257, 'x');
    const std::vector<std::pair<std::string, std::string>> cases{
        {"", ": is not JSON: nothing in it at byte 0"},
        {"[]", ": must be an object"},
        {"null", ": must be an object"},
        {R"("event")", ": must be an object"},
        {envelope("") + "{}", ": is not JSON: something after the value at byte 58"},
        {"{}", "/specversion: is required\n/id: is required\n/source: is required\n/type: is required"},
        {R"({"specversion":"0.3","id":"","source":1,"type":[]})",
         "/specversion: must be \"1.0\"\n/id" + bad_text + "\n/source" + bad_text + "\n/type" + bad_text},
        {R"({"specversion":1.0,"id":"i","source":"s","type":"t"})", "/specversion: must be \"1.0\""},
        {R"({"specversion":"1.0","id":")" + too_long + R"(","source":")" + too_long + R"(","type":")" + too_long +
             R"("})",
         "/id" + bad_text + "\n/source" + bad_text + "\n/type" + bad_text},
        {envelope(R"("time":"yesterday")"), "/time: must be an RFC 3339 instant with an offset"},
        {envelope(R"("time":"2026-11-20T10:00:03")"), "/time: must be an RFC 3339 instant with an offset"},
        {envelope(R"("time":1732096803)"), "/time: must be an RFC 3339 instant with an offset"},
        {envelope(R"("data_base64":"AA==")"), "/data_base64: is not supported: data must be JSON"},
        {envelope(R"("datacontenttype":"text/plain")"), "/datacontenttype: must be a JSON media type"},
        {envelope(R"("datacontenttype":"application/xjson")"), "/datacontenttype: must be a JSON media type"},
        {envelope(R"("datacontenttype":"json")"), "/datacontenttype: must be a JSON media type"},
        {envelope(R"("datacontenttype":"")"), "/datacontenttype: must be a JSON media type"},
        {envelope(R"("datacontenttype":true)"), "/datacontenttype: must be a JSON media type"},
        {envelope(R"("idempotencykey":"","traceparent":7)"),
         "/idempotencykey" + bad_text + "\n/traceparent" + bad_text},
        {envelope(R"("idempotencykey":")" + too_long + R"(")"), "/idempotencykey" + bad_text},
        {envelope(R"("a":{},"b":[],"c":1.5,"d":1e3)"),
         "/a" + bad_other + "\n/b" + bad_other + "\n/c" + bad_other + "\n/d" + bad_other},
        {envelope(R"("id":"j")"), "/id: duplicate member"},
        {envelope(R"("data":{"key":"\u0000"})"), "/data/key: must not hold U+0000"},
        {envelope(R"("data":[[[[[[[[1]]]]]]]])"), "/data/0/0/0/0/0/0/0: is nested deeper than 8"},
    };
    for (const auto& row : cases) {
        CAPTURE(row.first);
        CHECK(violations_of(row.first) == row.second);
    }
}

TEST_CASE("media types of JSON are told by their subtype") {
    for (const std::string type : {"application/json", "text/json", "application/JSON", "application/vnd.x+json",
                                   "application/json;charset=utf-8", "application/json \t; charset=utf-8"}) {
        CAPTURE(type);
        std::string attribute;
        json::append_string(attribute.append("\"datacontenttype\":"), type);
        CHECK(violations_of(envelope(attribute)) == "");
    }
}

TEST_CASE("attributes never hold U+0000, data only where the limits allow it") {
    const json::Limits with_nul{.allow_nul = true};
    CHECK(violations_of(envelope(R"("data":"\u0000")"), with_nul) == "");
    CHECK(violations_of(envelope(R"("subject":"\u0000","traceparent":"\u0000")"), with_nul) ==
          "/subject: must not hold U+0000\n/traceparent: must not hold U+0000");
    CHECK(violations_of(R"({"specversion":"1.0","id":"\u0000","source":"s","type":"t"})", with_nul) ==
          "/id: must not hold U+0000");
}

TEST_CASE("bad attributes without end are not all named") {
    std::string more = R"("a":{})";
    for (int i = 0; i < 1'000; ++i)
        more.append(",\"x").append(std::to_string(i)).append("\":[]");
    json::Reader reader;
    const auto event = read_event(reader, envelope(more), {.max_members = 0});
    REQUIRE_FALSE(event.ok());
    CHECK(event.violations().size() == json::kMaxViolations);
}

TEST_CASE("an envelope is written in one form, which reads as what was written") {
    EventText text{.id = "i\"1",
                   .source = "/increment",
                   .type = "tidemark.counter.incremented.v1",
                   .time = *parse_instant("2026-11-20T10:00:03.217Z"),
                   .idempotency_key = std::nullopt,
                   .traceparent = std::nullopt,
                   .data = R"({"key":"abcdef","value":1})"};
    std::string out;
    append_event(out, text);
    CHECK(out == R"({"specversion":"1.0","id":"i\"1","source":"/increment","type":"tidemark.counter.incremented.v1",)"
                 R"("time":"2026-11-20T10:00:03.217Z","data":{"key":"abcdef","value":1}})");

    text.idempotency_key = "key";
    text.traceparent = "00-trace";
    text.data = "";
    out.clear();
    append_event(out, text);
    CHECK(out == R"({"specversion":"1.0","id":"i\"1","source":"/increment","type":"tidemark.counter.incremented.v1",)"
                 R"("time":"2026-11-20T10:00:03.217Z","idempotencykey":"key","traceparent":"00-trace"})");
    json::Reader reader;
    const auto event = read_event(reader, out);
    REQUIRE(listing(event) == "");
    CHECK(event->id == text.id);
    CHECK(event->time == text.time);
    CHECK(event->idempotency_key == text.idempotency_key);
    CHECK(event->traceparent == text.traceparent);
    CHECK_FALSE(event->data);
}

TEST_CASE("an identity is fixed for ever, and the cut between its parts belongs to it") {
    CHECK(identity_of({}) == "47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU");
    CHECK(identity_of({"alice", "/increment", "abcdef", "key-1"}) == "wigr3m7PXk8Tvo1wO9hV1F-HtoexSSeIgBVhwjRXhPw");
    CHECK(identity_of({"a", "bc"}) != identity_of({"ab", "c"}));
    CHECK(identity_of({"a", ""}) != identity_of({"", "a"}));
    CHECK(identity_of({"a"}) != identity_of({"a", ""}));
    CHECK(identity_of({"a", "b"}).size() == 43);
}

TEST_CASE("equal data has an equal hash whatever its white space, other data another") {
    const auto hash = hash_of(R"({"key":"é","value":1})");
    CHECK(hash.size() == 16);
    CHECK(hash ==
          "\x8F"
          "\x07"
          "\xDE"
          "\x7F"
          "\x11"
          "\xE7"
          "\x0C"
          "\x18"
          "\xDC"
          "\xC1"
          "\x26"
          "\x6F"
          "\x35"
          "\xF3"
          "\x8A"
          "\x5A");
    CHECK(hash_of("{ \"key\" : \"\\u00e9\" ,\n\"value\":1 }") == hash);
    CHECK(hash_of(R"({"key":"é","value":2})") != hash);
    CHECK(hash_of(R"({"key":"é","value":1.0})") != hash);
    CHECK(hash_of(R"({"value":1,"key":"é"})") != hash);
    CHECK(data_hash({}).size() == 16);
    CHECK(data_hash({}) != hash_of("null"));
}

TEST_CASE("a UUIDv7 has its version, its variant and the clock's milliseconds") {
    const auto uuid = make_uuid7(now_at(0x019A'A5F0'1234));
    CHECK(uuid.size() == 36);
    CHECK(uuid.substr(0, 15) == "019aa5f0-1234-7");
    CHECK(std::string_view("89ab").find(uuid[19]) != std::string_view::npos);
    for (std::size_t i = 0; i < uuid.size(); ++i) {
        const bool dash = i == 8 || i == 13 || i == 18 || i == 23;
        CHECK((dash ? uuid[i] == '-' : std::string_view("0123456789abcdef").find(uuid[i]) != std::string_view::npos));
    }
}

TEST_CASE("UUIDs of one process rise, also within a millisecond and when the clock steps back") {
    auto last = make_uuid7(now_at(0x019A'A600'0000));
    for (int i = 0; i < 5'000; ++i) {
        const auto next = make_uuid7(now_at(0x019A'A600'0000 + i / 100 - i % 7));
        REQUIRE(last < next);
        last = next;
    }
    CHECK(make_uuid7(now_at(-1)) > last);
}

TEST_CASE("UUIDs of one millisecond keep its time") {
    for (int i = 0; i < 1'000; ++i)
        REQUIRE(make_uuid7(now_at(0x019A'A680'0000)).starts_with("019aa680-0000-7"));
}

TEST_CASE("UUIDs drawn by several threads are all different and rise in each") {
    std::array<std::vector<std::string>, 4> drawn;
    {
        std::vector<std::thread> threads;
        for (auto& mine : drawn) {
            threads.emplace_back([&mine] {
                for (int i = 0; i < 2'000; ++i)
                    mine.push_back(make_uuid7(now_at(0x019A'A700'0000)));
            });
        }
        for (auto& thread : threads)
            thread.join();
    }
    std::set<std::string> all;
    for (const auto& mine : drawn) {
        CHECK(std::is_sorted(mine.begin(), mine.end()));
        all.insert(mine.begin(), mine.end());
    }
    CHECK(all.size() == 8'000);
}

}  // namespace tidemark::schemas
