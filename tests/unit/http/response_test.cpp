#include "infra/http/response.h"

#include <doctest/doctest.h>

#include <time.h>

#include <string>

namespace tidemark::http {
namespace {

/// The bytes of an answer, with its date replaced by a D.
std::string rendered(AnswerShape shape, int status, std::string_view type, std::string_view lines,
                     std::string_view body) {
    std::string out = "before|";
    append_response(out, shape, status, type, lines, body);
    const auto date = out.find("Date: ") + 6;
    return out.replace(date, out.find("\r\n", date) - date, "D");
}

}  // namespace

TEST_CASE("an answer has its length, its date and nothing that was not asked for") {
    CHECK(rendered({}, 202, {}, {}, {}) ==
          "before|HTTP/1.1 202 Accepted\r\nServer: tidemark\r\nDate: D\r\nContent-Length: 0\r\n\r\n");
    CHECK(rendered({}, 200, "text/plain", "A: b\r\nC: d\r\n", "hello") ==
          "before|HTTP/1.1 200 OK\r\nServer: tidemark\r\nDate: D\r\nContent-Length: 5\r\nContent-Type: text/plain\r\n"
          "A: b\r\nC: d\r\n\r\nhello");
}

TEST_CASE("the date is now, as HTTP writes it") {
    std::string out;
    append_response(out, {}, 200, {}, {}, {});
    const auto date = out.substr(out.find("Date: ") + 6, 29);
    tm parts{};
    const char* end = ::strptime(date.c_str(), "%a, %d %b %Y %H:%M:%S GMT", &parts);
    REQUIRE(end == date.c_str() + date.size());
    const auto difference = ::time(nullptr) - ::timegm(&parts);
    CHECK(difference >= 0);
    CHECK(difference <= 2);
    CHECK(out.substr(out.find(date) + date.size(), 2) == "\r\n");
}

TEST_CASE("HEAD tells the length of the body it leaves out") {
    CHECK(rendered({.omit_body = true, .close = false, .confirm_keep_alive = false}, 200, "text/plain", {}, "hello") ==
          "before|HTTP/1.1 200 OK\r\nServer: tidemark\r\nDate: D\r\nContent-Length: 5\r\nContent-Type: "
          "text/plain\r\n\r\n");
}

TEST_CASE("204 and 304 have neither body nor length") {
    for (const int status : {204, 304}) {
        const auto text = rendered({}, status, "text/plain", {}, "hello");
        CHECK(text.find("Content-Length") == std::string::npos);
        CHECK(text.find("Content-Type") == std::string::npos);
        CHECK(text.substr(text.size() - 4) == "\r\n\r\n");
    }
}

TEST_CASE("the connection's fate is told") {
    CHECK(rendered({.omit_body = false, .close = true, .confirm_keep_alive = false}, 200, {}, {}, {})
              .find("\r\nConnection: close\r\n") != std::string::npos);
    CHECK(rendered({.omit_body = false, .close = false, .confirm_keep_alive = true}, 200, {}, {}, {})
              .find("\r\nConnection: keep-alive\r\n") != std::string::npos);
}

TEST_CASE("the longest head fits") {
    std::string out;
    append_response(out, {}, 431, "application/problem+json", {}, std::string(100'000, 'x'));
    CHECK(out.size() > 100'000);
    append_response(out, {}, 999, {}, {}, {});
}

}  // namespace tidemark::http
