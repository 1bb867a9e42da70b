#include "infra/http/connection.h"

#include "tests/unit/http/allocations.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

namespace tidemark::http {
namespace {

using namespace std::chrono_literals;
using Next = Connection::Next;

Response plain(int, std::string_view detail, const Request* request) {
    return {.status = 0,
            .content_type = "text/plain",
            .headers = {},
            .body = std::string(detail) + (request == nullptr ? " (no request)" : "")};
}

/// Plays the owner of a connection: its socket, its clock and its handlers.
class Peer {
public:
    explicit Peer(ServerOptions given = {}) : options(std::move(given)) {
        const auto add = [this](Method method, std::string path, std::size_t max, std::vector<std::string> types) {
            router.add({method, std::move(path), [](const Request&, Reply) {}, max, std::move(types)});
        };
        add(Method::get, "/item/{id}", 16, {});
        add(Method::put, "/item/{id}", 16, {});
        add(Method::post, "/echo", 100'000, {"application/json", "text/plain"});
        add(Method::post, "/small", 10, {});
        add(Method::post, "/wait", 1'000, {});
    }

    void feed(std::string_view bytes, std::size_t step = 1'000'000) {
        while (!bytes.empty() && next == Next::read) {
            const auto space = connection.space();
            REQUIRE(!space.empty());
            const auto n = std::min({bytes.size(), space.size(), step});
            std::memcpy(space.data(), bytes.data(), n);
            connection.received(n);
            bytes.remove_prefix(n);
            drive();
        }
        unread += bytes.size();
    }

    void drive() {
        while (true) {
            next = connection.advance(now);
            switch (next) {
                case Next::handle:
                    handle();
                    break;
                case Next::write:
                    if (full) {
                        connection.blocked(now);
                        return;
                    }
                    ++writes;
                    sent += connection.output();
                    connection.sent(connection.output().size());
                    break;
                case Next::linger:
                    lingers = true;
                    break;
                case Next::close:
                    closed = true;
                    return;
                case Next::read:
                case Next::wait:
                    return;
            }
        }
    }

    void pass(std::chrono::milliseconds time) {
        now += time;
        if (now >= connection.deadline()) connection.expire(now);
        drive();
    }

    /// Status codes of all answers so far, in order.
    [[nodiscard]] std::vector<int> statuses() const {
        std::vector<int> found;
        for (auto at = sent.find("HTTP/1.1 "); at != std::string::npos; at = sent.find("HTTP/1.1 ", at + 1)) {
            found.push_back(std::stoi(sent.substr(at + 9, 3)));
        }
        return found;
    }
    [[nodiscard]] bool says(std::string_view text) const { return sent.find(text) != std::string::npos; }

    ServerOptions options;
    Router router;
    ErrorBody error_body = plain;
    SharedCounters counters;
    std::vector<Finished> finished;
    std::array<char, 512> discard{};
    ConnectionContext context{options, router, error_body, counters, &finished, discard};
    Connection connection{context, "192.0.2.1"};
    TimePoint now{1h};
    Next next = Next::read;
    bool full = false;
    bool lingers = false;
    bool closed = false;
    bool remember = true;
    std::size_t writes = 0;
    std::size_t unread = 0;
    std::string sent;
    std::vector<std::string> handled;

private:
    void handle() {
        const auto& request = connection.request();
        if (remember) {
            std::string text = std::string(to_string(request.method)) + " " + std::string(request.path);
            if (!request.query.empty()) text += " ?" + std::string(request.query);
            for (const auto& param : request.params)
                text += " {" + param + "}";
            if (const auto tag = request.field("X-Tag")) text += " <" + std::string(*tag) + ">";
            handled.push_back(text + (request.body.empty() ? "" : " " + std::string(request.body)));
            CHECK(request.route == connection.route().path);
            CHECK(request.peer_address == "192.0.2.1");
        }
        if (request.path != "/wait") connection.answer(200, "text/plain", {}, "ok");
    }
};

std::string request(std::string_view line, std::string_view body = {}, std::string_view lines = {}) {
    auto text = std::string(line) + " HTTP/1.1\r\nHost: a\r\n" + std::string(lines);
    if (!body.empty()) text += "Content-Type: text/plain\r\nContent-Length: " + std::to_string(body.size()) + "\r\n";
    return text + "\r\n" + std::string(body);
}

std::string chunked(std::string_view line, std::string_view body, std::size_t chunk) {
    auto text =
        std::string(line) + " HTTP/1.1\r\nHost: a\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n";
    while (!body.empty()) {
        const auto piece = body.substr(0, chunk);
        std::array<char, 20> size{};
        std::snprintf(size.data(), size.size(), "%zx\r\n", piece.size());
        text += size.data() + std::string(piece) + "\r\n";
        body.remove_prefix(piece.size());
    }
    return text + "0\r\n\r\n";
}

}  // namespace

TEST_CASE("requests mean the same however their bytes are cut") {
    const auto bytes = request("GET /item/1?a=b") + request("POST /echo", "hello", "X-Tag: t\r\n") + "\r\n" +
                       chunked("POST /echo", "chunks of three", 3) + request("PUT /item/a%2Fb", "x") +
                       request("HEAD /item/2");
    const std::vector<std::string> expected = {"GET /item/1 ?a=b {1}", "POST /echo <t> hello",
                                               "POST /echo chunks of three", "PUT /item/a%2Fb {a/b} x",
                                               "HEAD /item/2 {2}"};
    for (std::size_t step = 1; step <= bytes.size(); step += step < 40 ? 1 : 17) {
        CAPTURE(step);
        Peer peer;
        peer.feed(bytes, step);
        CHECK(peer.handled == expected);
        CHECK(peer.statuses() == std::vector{200, 200, 200, 200, 200});
        CHECK(peer.connection.idle());
        CHECK(peer.finished.size() == 5);
        CHECK_FALSE(peer.closed);
    }
}

TEST_CASE("requests that arrive together are answered in one write") {
    Peer peer;
    std::string bytes;
    for (int i = 0; i < 10; ++i)
        bytes += request("GET /item/" + std::to_string(i));
    peer.feed(bytes);
    CHECK(peer.handled.size() == 10);
    CHECK(peer.handled[9] == "GET /item/9 {9}");
    CHECK(peer.writes == 1);
}

TEST_CASE("while an answer is outstanding nothing more is handled, and then all of it is") {
    Peer peer;
    peer.feed(request("GET /item/1") + request("POST /wait", "x") + request("GET /item/2") +
              request("POST /wait", "y"));
    CHECK(peer.handled.size() == 2);
    CHECK(peer.next == Next::wait);
    CHECK(peer.statuses() == std::vector{200});
    peer.connection.answer(202, {}, {}, {});
    peer.drive();
    CHECK(peer.handled.size() == 4);
    CHECK(peer.statuses() == std::vector{200, 202, 200});
    std::string rendered;
    append_response(rendered, peer.connection.shape(), 201, {}, {}, "late");
    peer.connection.answer_rendered(rendered, 201, false);
    CHECK(rendered.empty());
    peer.drive();
    CHECK(peer.statuses() == std::vector{200, 202, 200, 201});
    CHECK(peer.connection.idle());
}

TEST_CASE("a body up to its limit arrives whole, whatever buffer it needs") {
    for (const std::size_t size : {1U, 1'900U, 2'048U, 5'000U, 16'384U, 99'999U, 100'000U}) {
        for (const std::size_t step : {100U, 1'000'000U}) {
            CAPTURE(size);
            CAPTURE(step);
            std::string body(size, 'b');
            for (std::size_t i = 0; i < size; i += 7)
                body[i] = static_cast<char>('a' + i % 26);
            Peer peer;
            peer.feed(request("GET /item/0") + request("POST /echo", body, "X-Tag: one\r\n") +
                          chunked("POST /echo", body, 1'000) + request("GET /item/1"),
                      step);
            REQUIRE(peer.handled.size() == 4);
            CHECK(peer.handled[1] == "POST /echo <one> " + body);
            CHECK(peer.handled[2] == "POST /echo " + body);
            CHECK(peer.handled[3] == "GET /item/1 {1}");
        }
    }
}

TEST_CASE("a body over its limit is 413 before it is read, and the connection ends") {
    for (const auto& bytes : {request("POST /small", "eleven byte"), chunked("POST /small", "eleven byte", 4)}) {
        Peer peer;
        peer.feed(bytes + request("GET /item/1"));
        CHECK(peer.statuses() == std::vector{413});
        CHECK(peer.says("at most 10 bytes"));
        CHECK(peer.says("Connection: close"));
        CHECK(peer.handled.empty());
        CHECK(peer.lingers);
    }
    Peer declared;
    declared.feed(request("POST /small", std::string(11, 'x')).substr(0, 100), 1);
    CHECK(declared.statuses() == std::vector{413});
    Peer huge;
    huge.feed(
        "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Type: text/plain\r\nContent-Length: 18446744073709551615\r\n\r\n");
    CHECK(huge.statuses() == std::vector{413});
    Peer exact;
    exact.feed(request("POST /small", "ten bytes.") + chunked("POST /small", "ten bytes.", 3));
    CHECK(exact.statuses() == std::vector{200, 200});
}

TEST_CASE("the server answers by itself what no route takes, reads the body, and goes on") {
    struct Case {
        std::string bytes;
        int status;
        std::string_view says;
    };
    const std::array cases = {
        Case{request("GET /nowhere"), 404, "Not Found"},
        Case{request("POST /nowhere", "body"), 404, "Not Found"},
        Case{chunked("POST /nowhere", "body", 1), 404, "Not Found"},
        Case{request("DELETE /item/1"), 405, "\r\nAllow: GET, HEAD, PUT, OPTIONS\r\n"},
        Case{request("PURGE /item/1"), 405, "\r\nAllow: GET, HEAD, PUT, OPTIONS\r\n"},
        Case{request("HEAD /echo"), 405, "\r\nAllow: POST, OPTIONS\r\n"},
        Case{request("OPTIONS /echo"), 204, "\r\nAllow: POST, OPTIONS\r\n"},
        Case{request("OPTIONS /nowhere"), 404, "Not Found"},
        Case{request("GET /item/%zz"), 400, "hexadecimal"},
        Case{"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}", 415, "Content-Type"},
        Case{"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Type: text/html\r\nContent-Length: 2\r\n\r\n{}", 415,
             "Content-Type"},
        Case{"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Type: text/plainer\r\nContent-Length: 2\r\n\r\n{}", 415,
             "Content-Type"},
    };
    for (const auto& each : cases) {
        const auto& [bytes, status, says] = each;
        CAPTURE(each.bytes);
        Peer peer;
        peer.feed(bytes + request("GET /item/1"));
        CHECK(peer.statuses() == std::vector{status, 200});
        if (bytes.rfind("HEAD", 0) != 0) CHECK(peer.says(says));
        CHECK_FALSE(peer.closed);
        CHECK(peer.counters.malformed == 0);
    }
}

TEST_CASE("a media type is compared without case and parameters, and only when there is a body") {
    for (const std::string_view type :
         {"application/json", "Application/JSON", "text/plain;charset=utf-8", "text/plain ; x=y"}) {
        Peer peer;
        peer.feed("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nContent-Type: " + std::string(type) +
                  "\r\n\r\n{}");
        CHECK(peer.statuses() == std::vector{200});
    }
    Peer without_body;
    without_body.feed(request("POST /echo"));
    CHECK(without_body.statuses() == std::vector{200});
    Peer any;
    any.feed("POST /small HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}");
    CHECK(any.statuses() == std::vector{200});
}

TEST_CASE("HEAD is the GET without its body") {
    Peer peer;
    peer.feed(request("HEAD /item/1") + request("HEAD /nowhere"));
    CHECK(peer.handled == std::vector<std::string>{"HEAD /item/1 {1}"});
    CHECK(peer.says("Content-Length: 2\r\n"));
    CHECK_FALSE(peer.says("ok"));
    CHECK_FALSE(peer.says("Not Found\r\n\r\nNot"));
}

TEST_CASE("nothing behind a refused request is ever parsed") {
    const std::string hidden = request("GET /item/666");
    const std::array prefixes = {
        std::string("POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n"),
        std::string("POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity\r\n\r\n"),
        std::string("POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\nContent-Length: 0\r\n\r\n"),
        std::string("POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n"),
        std::string("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nContent-Length: 5\r\n\r\n"),
        std::string("POST /small HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nAuthorization: Bearer "
                    "stolen\r\n\r\n"),
        std::string("POST /small HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nHost: b\r\n\r\n"),
        std::string("POST /small HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0;x=y\r\n\r\n"),
        std::string("GET /item/1 HTTP/1.1\r\nHost: a\r\nX: y\r\n z\r\n\r\n"),
        std::string("GET /item/1 HTTP/1.1\nHost: a\n\n"),
        std::string("GET /item/1 HTTP/1.1\r\n\r\n"),
    };
    for (const auto& prefix : prefixes) {
        for (const std::size_t step : {std::size_t{1}, std::size_t{1'000'000}}) {
            CAPTURE(prefix);
            Peer peer;
            peer.feed(prefix + hidden + hidden, step);
            CHECK(peer.handled.empty());
            CHECK(peer.statuses().size() == 1);
            CHECK(peer.statuses()[0] >= 400);
            CHECK(peer.says("Connection: close"));
            CHECK(peer.lingers);
            CHECK(peer.counters.malformed == 1);
            peer.connection.peer_closed();
            peer.drive();
            CHECK(peer.closed);
        }
    }
}

TEST_CASE("good requests before a bad one are answered, in order") {
    Peer peer;
    peer.feed(request("GET /item/1") + request("POST /wait", "x") + "BAD\r\n\r\n" + request("GET /item/2"));
    peer.connection.answer(202, {}, {}, {});
    peer.drive();
    CHECK(peer.statuses() == std::vector{200, 202, 400});
    CHECK(peer.handled.size() == 2);
}

TEST_CASE("100-continue is said when the body is wanted and not yet there") {
    const auto head = [](std::string_view path, std::size_t length) {
        return "POST " + std::string(path) +
               " HTTP/1.1\r\nHost: a\r\nContent-Type: text/plain\r\nExpect: 100-continue\r\nContent-Length: " +
               std::to_string(length) + "\r\n\r\n";
    };
    Peer wanted;
    wanted.feed(head("/echo", 5));
    CHECK(wanted.statuses() == std::vector{100});
    wanted.feed("hello");
    CHECK(wanted.statuses() == std::vector{100, 200});
    CHECK(wanted.handled == std::vector<std::string>{"POST /echo hello"});

    Peer here;
    here.feed(head("/echo", 5) + "hello");
    CHECK(here.statuses() == std::vector{200});

    for (const auto& [path, length, status] :
         {std::tuple{"/nowhere", 5, 404}, std::tuple{"/small", 11, 413}, std::tuple{"/item/1", 5, 405}}) {
        Peer refused;
        refused.feed(head(path, static_cast<std::size_t>(length)));
        CHECK(refused.statuses() == std::vector{status});
        CHECK(refused.says("Connection: close"));
    }
}

TEST_CASE("HTTP/1.0 closes unless asked to stay") {
    Peer closes;
    closes.feed("GET /item/1 HTTP/1.0\r\n\r\n");
    CHECK(closes.says("Connection: close"));
    CHECK(closes.lingers);
    Peer stays;
    stays.feed("GET /item/1 HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    CHECK(stays.says("Connection: keep-alive"));
    CHECK(stays.connection.idle());
}

TEST_CASE("Connection: close and the request cap end a connection after the answer") {
    Peer asked;
    asked.feed(request("GET /item/1", {}, "Connection: close\r\n") + request("GET /item/2"));
    CHECK(asked.statuses() == std::vector{200});
    CHECK(asked.says("Connection: close"));

    Peer capped(ServerOptions{.max_requests_per_connection = 3});
    capped.feed(request("GET /item/1") + request("GET /item/2") + request("GET /item/3") + request("GET /item/4"));
    CHECK(capped.statuses() == std::vector{200, 200, 200});
    CHECK(capped.sent.find("Connection: close") > capped.sent.rfind("HTTP/1.1"));
    CHECK(capped.lingers);
}

TEST_CASE("each phase has one deadline for all of it, however the bytes drip") {
    Peer header;
    const auto bytes = request("POST /echo", "hello");
    for (int second = 0; second < 20 && !header.closed; ++second) {
        header.feed(bytes.substr(static_cast<std::size_t>(second), 1));
        header.pass(1s);
        if (second == 3) CHECK(header.statuses().empty());
        if (second == 4) CHECK(header.statuses() == std::vector{408});
    }
    CHECK(header.closed);
    CHECK(header.counters.deadline == 1);

    Peer body;
    body.feed(bytes.substr(0, bytes.size() - 5));
    for (int i = 0; i < 4; ++i) {
        body.feed("h");
        body.pass(1s);
    }
    CHECK(body.statuses().empty());
    body.pass(1s);
    CHECK(body.statuses() == std::vector{408});
    CHECK(body.handled.empty());

    Peer idle;
    idle.drive();
    idle.pass(29s);
    CHECK_FALSE(idle.closed);
    idle.pass(1s);
    CHECK(idle.closed);
    CHECK(idle.sent.empty());
    CHECK(idle.counters.deadline == 0);
}

TEST_CASE("a handler past its deadline is answered for, and what it looks at is left alone") {
    Peer peer;
    peer.feed(request("POST /wait", "precious", "X-Tag: kept\r\n"));
    const auto view = peer.connection.request();
    peer.pass(5'999ms);
    CHECK(peer.sent.empty());
    peer.pass(1ms);
    CHECK(peer.statuses() == std::vector{503});
    CHECK(peer.says("Retry-After: 1\r\n"));
    CHECK(peer.says("Connection: close"));
    CHECK(peer.lingers);
    peer.feed(std::string(3'000, 'z'));
    CHECK(view.body == "precious");
    CHECK(view.field("X-Tag") == "kept");
    CHECK(peer.connection.request().route == "/wait");
}

TEST_CASE("the deadline of an outstanding answer can be moved") {
    Peer peer;
    peer.feed(request("POST /wait", "x"));
    peer.connection.postpone(peer.now + 30s);
    peer.pass(29s);
    CHECK(peer.sent.empty());
    peer.pass(1s);
    CHECK(peer.statuses() == std::vector{503});
}

TEST_CASE("a peer that does not read is not read from, and is cut at the write deadline") {
    Peer peer;
    peer.full = true;
    std::string bytes;
    for (int i = 0; i < 2'000; ++i)
        bytes += request("GET /item/" + std::to_string(i));
    peer.feed(bytes);
    CHECK(peer.handled.size() < 100);
    CHECK(peer.next == Next::write);
    CHECK(peer.unread > 0);
    peer.pass(9'999ms);
    CHECK_FALSE(peer.closed);
    peer.pass(1ms);
    CHECK(peer.closed);
    CHECK(peer.connection.reset_on_close());
    CHECK(peer.counters.deadline == 1);
}

TEST_CASE("output is bounded by what is handed over at once") {
    Peer peer;
    std::string bytes;
    for (int i = 0; i < 1'000; ++i)
        bytes += request("GET /item/" + std::to_string(i));
    peer.feed(bytes);
    CHECK(peer.handled.size() == 1'000);
    peer.full = true;
    peer.feed(bytes);
    CHECK(peer.connection.output().size() < 66'000);
}

TEST_CASE("the write deadline counts for an answer in waiting, too") {
    Peer peer;
    peer.full = true;
    peer.feed(request("GET /item/1") + request("POST /wait", "x"));
    peer.connection.postpone(peer.now + 60s);
    CHECK(peer.connection.deadline() <= peer.now + 60s);
    peer.full = false;
    peer.drive();
    CHECK(peer.statuses() == std::vector{200});
    peer.full = true;
    peer.connection.answer(202, {}, {}, {});
    peer.drive();
    CHECK(peer.connection.deadline() == peer.now + 10s);
}

TEST_CASE("a peer that leaves in the middle of a request is told, one between requests is not") {
    Peer between;
    between.feed(request("GET /item/1"));
    between.connection.peer_closed();
    between.drive();
    CHECK(between.closed);
    CHECK(between.statuses() == std::vector{200});

    const auto bytes = request("POST /echo", "hello");
    for (std::size_t length = 1; length < bytes.size(); ++length) {
        Peer within;
        within.feed(bytes.substr(0, length));
        within.connection.peer_closed();
        within.drive();
        CHECK(within.statuses() == std::vector{400});
        CHECK(within.handled.empty());
    }
}

TEST_CASE("draining ends an idle connection, and a busy one after its answer") {
    Peer idle;
    idle.feed(request("GET /item/1"));
    idle.connection.drain();
    idle.drive();
    CHECK(idle.closed);

    Peer waiting;
    waiting.feed(request("POST /wait", "x") + request("GET /item/1"));
    waiting.connection.drain();
    waiting.drive();
    CHECK(waiting.next == Next::wait);
    waiting.connection.answer(202, {}, {}, {});
    waiting.drive();
    CHECK(waiting.statuses() == std::vector{202});
    CHECK(waiting.says("Connection: close"));
    CHECK(waiting.lingers);

    Peer partial;
    partial.feed(request("GET /item/1").substr(0, 10));
    partial.connection.drain();
    partial.drive();
    CHECK_FALSE(partial.closed);
    partial.feed(request("GET /item/1").substr(10));
    CHECK(partial.statuses() == std::vector{200});
    CHECK(partial.says("Connection: close"));

    Peer stuck;
    stuck.full = true;
    stuck.feed(request("GET /item/1"));
    stuck.connection.drain();
    stuck.drive();
    CHECK_FALSE(stuck.closed);
    stuck.full = false;
    stuck.drive();
    CHECK(stuck.statuses() == std::vector{200});
    CHECK(stuck.lingers);
}

TEST_CASE("lingering ends with the peer, with time, or with too many bytes") {
    const auto refused = [] {
        auto peer = std::make_unique<Peer>();
        peer->feed("BAD\r\n\r\n");
        CHECK(peer->lingers);
        return peer;
    };
    auto left = refused();
    left->connection.peer_closed();
    left->drive();
    CHECK(left->closed);
    auto late = refused();
    late->pass(1s);
    CHECK(late->closed);
    auto flood = refused();
    flood->feed(std::string(1'000'000, 'x'));
    CHECK(flood->closed);
    CHECK(flood->unread > 700'000);
}

TEST_CASE("a shed connection hears 503 before it has said anything") {
    Peer peer;
    peer.connection.shed("too many connections");
    peer.drive();
    CHECK(peer.statuses() == std::vector{503});
    CHECK(peer.says("Retry-After: 1\r\n"));
    CHECK(peer.lingers);
}

TEST_CASE("a dropped reply is answered 500") {
    Peer peer;
    peer.feed(request("POST /wait", "x"));
    peer.connection.answer_error(500, "lost");
    peer.drive();
    CHECK(peer.statuses() == std::vector{500});
    CHECK(peer.connection.idle());
}

TEST_CASE("ErrorBody's own Retry-After is not said twice") {
    Peer peer;
    peer.error_body = [](int, std::string_view, const Request*) {
        return Response{.status = 503, .content_type = {}, .headers = {{"retry-after", "7"}}, .body = {}};
    };
    peer.connection.shed("x");
    peer.drive();
    CHECK(peer.says("retry-after: 7"));
    CHECK_FALSE(peer.says("Retry-After: 1"));
}

TEST_CASE("an exchange is reported with its template and when its request was complete") {
    Peer peer;
    peer.feed(request("GET /item/1") + request("GET /nowhere"));
    peer.feed(request("POST /wait", "x").substr(0, 20));
    peer.now += 1s;
    peer.feed(request("POST /wait", "x").substr(20));
    peer.now += 2s;
    peer.connection.answer(202, {}, {}, {});
    peer.feed("BAD\r\n\r\n");
    peer.drive();
    REQUIRE(peer.finished.size() >= 3);
    CHECK(peer.finished[0].route == "/item/{id}");
    CHECK(peer.finished[0].method == Method::get);
    CHECK(peer.finished[0].status == 200);
    CHECK(peer.finished[1].route.empty());
    CHECK(peer.finished[1].status == 404);
    CHECK(peer.finished[2].route == "/wait");
    CHECK(peer.finished[2].since == peer.now - 2s);
}

TEST_CASE("a busy connection allocates nothing per request") {
    Peer peer;
    peer.remember = false;
    const auto one = request("POST /echo", R"({"key":"abcdef","value":1})", "User-Agent: x\r\nAccept: */*\r\n");
    const auto get = request("GET /item/short");
    peer.sent.reserve(10'000'000);
    peer.finished.reserve(100'000);
    for (int i = 0; i < 10; ++i)
        peer.feed(one + get);
    const auto before = tests::allocations();
    for (int i = 0; i < 1'000; ++i) {
        peer.feed(one);
        peer.feed(get);
    }
    CHECK(tests::allocations() == before);
    CHECK(peer.statuses().size() == 2'020);
}

TEST_CASE("what a connection allocated is given back when it is idle") {
    Peer peer;
    peer.feed(request("POST /echo", std::string(50'000, 'x')));
    peer.feed(request("GET /item/1"));
    REQUIRE(peer.connection.idle());
    peer.feed(request("POST /echo", std::string(3'000, 'x')));
    CHECK(peer.connection.owns_block());
    peer.connection.trim();
    CHECK_FALSE(peer.connection.owns_block());
    peer.feed(request("GET /item/1") + request("POST /echo", std::string(3'000, 'x'), "X-Tag: again\r\n"));
    CHECK(peer.handled.back() == "POST /echo <again> " + std::string(3'000, 'x'));
}

TEST_CASE("any mix of requests, cut anywhere, is handled in order and completely") {
    std::srand(42);
    for (int round = 0; round < 300; ++round) {
        std::string bytes;
        std::vector<std::string> expected;
        std::size_t waits = 0;
        for (int i = 0; i < 30; ++i) {
            const auto n = static_cast<std::size_t>(std::rand());
            const std::string body(1 + n % (n % 7 == 0 ? 9'000 : 40), static_cast<char>('a' + n % 26));
            switch (n % 4) {
                case 0:
                    bytes += request("GET /item/" + std::to_string(i));
                    expected.push_back("GET /item/" + std::to_string(i) + " {" + std::to_string(i) + "}");
                    break;
                case 1:
                    bytes += request("POST /echo", body);
                    expected.push_back("POST /echo " + body);
                    break;
                case 2:
                    bytes += chunked("POST /echo", body, 1 + n % 100);
                    expected.push_back("POST /echo " + body);
                    break;
                default:
                    bytes += request("POST /wait", body.substr(0, 900));
                    expected.push_back("POST /wait " + body.substr(0, 900));
                    ++waits;
            }
        }
        Peer peer;
        std::string_view rest = bytes;
        while (!rest.empty() || peer.next == Next::wait) {
            if (peer.next == Next::wait) {
                peer.connection.answer(202, {}, {}, {});
                peer.drive();
                continue;
            }
            const auto n = std::min<std::size_t>(rest.size(), 1 + static_cast<std::size_t>(std::rand()) % 3'000);
            const auto unread = peer.unread;
            peer.feed(rest.substr(0, n));
            rest.remove_prefix(n - (peer.unread - unread));
        }
        REQUIRE(peer.handled == expected);
        const auto statuses = peer.statuses();
        REQUIRE(static_cast<std::size_t>(std::count(statuses.begin(), statuses.end(), 202)) == waits);
        REQUIRE(statuses.size() == expected.size());
        REQUIRE(peer.connection.idle());
    }
}

}  // namespace tidemark::http
