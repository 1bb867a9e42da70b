#include "infra/http/message.h"

#include <doctest/doctest.h>

#include <array>
#include <string>
#include <utility>
#include <vector>

namespace tidemark::http {
namespace {

struct RecordingTarget final : Reply::Target {
    struct Call {
        std::uint64_t ticket;
        int status;
        std::string header_lines;
        std::string body;
    };
    std::vector<Call> calls;
    std::vector<std::uint32_t> extensions;

    bool complete(std::uint64_t ticket, int status, std::string_view, std::string_view header_lines,
                  std::string_view body) noexcept override {
        calls.push_back({ticket, status, std::string(header_lines), std::string(body)});
        return calls.size() == 1;
    }
    void extend(std::uint64_t, std::uint32_t milliseconds) noexcept override { extensions.push_back(milliseconds); }
};

}  // namespace

TEST_CASE("percent escapes are decoded once, and a plus only where it means a space") {
    struct Case {
        std::string_view text;
        bool plus_is_space;
        std::optional<std::string> expected;
    };
    const std::array cases = {
        Case{"", false, ""},
        Case{"abc", false, "abc"},
        Case{"a%2Fb", false, "a/b"},
        Case{"a%2fb", false, "a/b"},
        Case{"%252F", false, "%2F"},
        Case{"a+b", false, "a+b"},
        Case{"a+b", true, "a b"},
        Case{"a%2Bb", true, "a+b"},
        Case{"%F0%9F%98%80", false, "\xF0\x9F\x98\x80"},
        Case{"%", false, std::nullopt},
        Case{"%4", false, std::nullopt},
        Case{"abc%4", false, std::nullopt},
        Case{"%4g", false, std::nullopt},
        Case{"%g4", false, std::nullopt},
        Case{"%-1", false, std::nullopt},
        Case{"%00", false, std::nullopt},
        Case{"a%00b", true, std::nullopt},
        Case{"%%30", false, std::nullopt},
    };
    for (const auto& each : cases) {
        CAPTURE(each.text);
        CHECK(percent_decode(each.text, each.plus_is_space) == each.expected);
    }
}

TEST_CASE("query parameters keep their order, repetitions and empty names") {
    using Parameters = std::vector<std::pair<std::string, std::string>>;
    CHECK(parse_query("") == Parameters{});
    CHECK(parse_query("a=1&b=2&a=3") == Parameters{{"a", "1"}, {"b", "2"}, {"a", "3"}});
    CHECK(parse_query("a") == Parameters{{"a", ""}});
    CHECK(parse_query("a=") == Parameters{{"a", ""}});
    CHECK(parse_query("=x") == Parameters{{"", "x"}});
    CHECK(parse_query("a=b=c") == Parameters{{"a", "b=c"}});
    CHECK(parse_query("&a=1&&b=2&") == Parameters{{"a", "1"}, {"b", "2"}});
    CHECK(parse_query("at=2022-09-12+10%3A00&x=%26") == Parameters{{"at", "2022-09-12 10:00"}, {"x", "&"}});
    CHECK(parse_query("a=%zz") == std::nullopt);
    CHECK(parse_query("%00=1") == std::nullopt);
    CHECK(parse_query("good=1&bad=%4") == std::nullopt);
}

TEST_CASE("a field is found without regard to case, and the first one wins") {
    const std::array<Field, 3> fields = {Field{"Host", "a"}, Field{"ACCEPT", "x"}, Field{"accept", "y"}};
    Request request;
    request.fields = fields;
    CHECK(request.field("host") == "a");
    CHECK(request.field("Accept") == "x");
    CHECK(request.field("acc") == std::nullopt);
}

TEST_CASE("a reply sends once, also after being moved") {
    const auto target = std::make_shared<RecordingTarget>();
    Reply reply(target, 7);
    Reply moved = std::move(reply);
    CHECK_FALSE(reply);
    CHECK(moved.send(202, {}, "A: b\r\n", "body"));
    CHECK_FALSE(moved.send(500, {}, {}, {}));
    CHECK_FALSE(moved);
    REQUIRE(target->calls.size() == 1);
    CHECK(target->calls[0].ticket == 7);
    CHECK(target->calls[0].status == 202);
    CHECK(target->calls[0].header_lines == "A: b\r\n");
    CHECK(target->calls[0].body == "body");
}

TEST_CASE("a dropped or overwritten reply says so to its target") {
    const auto target = std::make_shared<RecordingTarget>();
    { const Reply dropped(target, 1); }
    Reply overwritten(target, 2);
    overwritten = Reply(target, 3);
    REQUIRE(target->calls.size() == 2);
    CHECK(target->calls[0].status == Reply::kDropped);
    CHECK(target->calls[1].ticket == 2);
    CHECK(target->calls[1].status == Reply::kDropped);
    overwritten.send(200, {}, {}, {});
    CHECK(target->calls[2].ticket == 3);
}

TEST_CASE("a reply's deadline can be extended until it is sent") {
    const auto target = std::make_shared<RecordingTarget>();
    Reply reply(target, 1);
    reply.extend_deadline(30'000);
    reply.send(200, {}, {}, {});
    reply.extend_deadline(1);
    CHECK(target->extensions == std::vector<std::uint32_t>{30'000});
}

TEST_CASE("a header value cannot start a header line of its own") {
    Response response;
    response.headers.emplace_back("Location", "/a\r\nSet-Cookie: stolen=1");
    std::string lines;
    append_header_lines(response, lines);
    CHECK(lines == "Location: /a  Set-Cookie: stolen=1\r\n");
}

}  // namespace tidemark::http
