#include "infra/http/framing.h"

#include "infra/http/request_parser.h"

#include <doctest/doctest.h>

#include <array>
#include <cstdlib>
#include <string>
#include <vector>

namespace tidemark::http {
namespace {

using namespace std::string_literals;
using namespace std::string_view_literals;

constexpr FramingLimits kLimits;

/// 0: needs more bytes, -1: taken, else the status of the refusal.
constexpr int kTaken = -1;
constexpr int kMore = 0;

/// What the guard makes of a header block that arrives as a whole.
int verdict(std::string_view bytes, Framing& framing, const FramingLimits& limits = kLimits) {
    HeaderScan scan;
    if (!scan.advance(bytes, limits)) return scan.refusal().status;
    RequestLine line;
    std::vector<Field> fields;
    if (const auto refusal = parse_header_block(bytes.substr(scan.begin(), scan.end() - scan.begin()), line, fields)) {
        return refusal.status;
    }
    const auto refusal = judge(line, fields, limits, framing);
    return refusal ? refusal.status : kTaken;
}

int verdict(std::string_view bytes, const FramingLimits& limits = kLimits) {
    Framing framing;
    return verdict(bytes, framing, limits);
}

std::string get_with(std::string_view lines) {
    return "GET / HTTP/1.1\r\nHost: a\r\n" + std::string(lines) + "\r\n";
}

}  // namespace

TEST_CASE("one reading of the body's length, or none") {
    struct Case {
        std::string_view lines;
        int expected;
    };
    const std::array cases = {
        Case{"", kTaken},
        Case{"Content-Length: 0\r\n", kTaken},
        Case{"Content-Length: 5\r\n", kTaken},
        Case{"content-LENGTH:5\r\n", kTaken},
        Case{"Content-Length: \t5 \t\r\n", kTaken},
        Case{"Content-Length: 00005\r\n", kTaken},
        Case{"Transfer-Encoding: chunked\r\n", kTaken},
        Case{"Transfer-Encoding: CHUNKED\r\n", kTaken},
        Case{"Transfer-Encoding:chunked\r\n", kTaken},
        // Each of these some proxy, or the parser behind us, reads in another way.
        Case{"Transfer-Encoding: gzip\r\n", 501},
        Case{"Transfer-Encoding: identity\r\n", 501},
        Case{"Transfer-Encoding: xchunked\r\n", 501},
        Case{"Transfer-Encoding: chunkedx\r\n", 501},
        Case{"Transfer-Encoding: chunked, identity\r\n", 501},
        Case{"Transfer-Encoding: gzip, chunked\r\n", 501},
        Case{"Transfer-Encoding: chunked, chunked\r\n", 501},
        Case{"Transfer-Encoding: chunked;q=1\r\n", 501},
        Case{"Transfer-Encoding: \"chunked\"\r\n", 501},
        Case{"Transfer-Encoding:\r\n", 501},
        Case{"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", 400},
        Case{"Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n", 400},
        Case{"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", 400},
        Case{"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", 400},
        Case{"Content-Length: 5\r\nTransfer-Encoding: xchunked\r\n", 400},
        Case{"Transfer-Encoding: identity\r\nContent-Length: 5\r\n", 400},
        Case{"Transfer-Encoding : chunked\r\n", 400},
        Case{"Transfer-Encoding\r\n", 400},
        Case{"Content-Length: 5\r\nContent-Length: 5\r\n", 400},
        Case{"Content-Length: 5\r\nContent-Length: 6\r\n", 400},
        Case{"Content-Length: 5, 5\r\n", 400},
        Case{"Content-Length: 5,\r\n", 400},
        Case{"Content-Length: +5\r\n", 400},
        Case{"Content-Length: -5\r\n", 400},
        Case{"Content-Length: 5 5\r\n", 400},
        Case{"Content-Length: 0x5\r\n", 400},
        Case{"Content-Length: 5.0\r\n", 400},
        Case{"Content-Length:\r\n", 400},
        Case{"Content-Length: five\r\n", 400},
        Case{"Content-Length: 18446744073709551616\r\n", 400},
        Case{"Content-Length: 99999999999999999999999999\r\n", 400},
        Case{"Content-Length : 5\r\n", 400},
    };
    for (const auto& each : cases) {
        CAPTURE(each.lines);
        CHECK(verdict(get_with(each.lines)) == each.expected);
    }
}

TEST_CASE("what the body's length comes to") {
    Framing framing;
    REQUIRE(verdict(get_with(""), framing) == kTaken);
    CHECK(framing.body == Framing::Body::none);
    REQUIRE(verdict(get_with("Content-Length: 0\r\n"), framing) == kTaken);
    CHECK(framing.body == Framing::Body::none);
    REQUIRE(verdict(get_with("Content-Length: 18446744073709551615\r\n"), framing) == kTaken);
    CHECK(framing.body == Framing::Body::length);
    CHECK(framing.content_length == 18446744073709551615U);
    REQUIRE(verdict(get_with("Transfer-Encoding: Chunked\r\n"), framing) == kTaken);
    CHECK(framing.body == Framing::Body::chunked);
}

TEST_CASE("the length rules hold without the parser's own checks") {
    const RequestLine line{Method::post, "/", Version::http_1_1};
    const auto judged = [&line](std::vector<Field> fields) {
        fields.push_back({"Host", "a"});
        Framing framing;
        return judge(line, fields, kLimits, framing).status;
    };
    CHECK(judged({{"Content-Length", "5, 5"}}) == 400);
    CHECK(judged({{"Content-Length", ""}}) == 400);
    CHECK(judged({{"Content-Length", "5"}, {"content-length", "5"}}) == 400);
    CHECK(judged({{"Content-Length", "5"}, {"Transfer-Encoding", "chunked"}}) == 400);
    CHECK(judged({{"Transfer-Encoding", "chunked"}, {"TRANSFER-ENCODING", "chunked"}}) == 400);
    CHECK(judged({{"Content-Length", "99999999999999999999"}}) == 413);
    CHECK(judged({{"Content-Length", "5"}}) == 0);
}

TEST_CASE("exactly one Host, and it is a host") {
    const auto with = [](std::string_view lines) { return "GET / HTTP/1.1\r\n" + std::string(lines) + "\r\n"; };
    for (const std::string_view good : {"Host: a\r\n", "hOST: example.com:3333\r\n", "Host: 127.0.0.1:80\r\n",
                                        "Host: [::1]:80\r\n", "Host: my_host~x\r\n", "X: y\r\nHost: a\r\nZ: w\r\n"}) {
        CAPTURE(good);
        CHECK(verdict(with(good)) == kTaken);
    }
    for (const std::string_view bad :
         {"", "X-Host: a\r\n", "Host: a\r\nHost: a\r\n", "Host: a\r\nhost: b\r\n", "Host:\r\n", "Host: a b\r\n",
          "Host: a, b\r\n", "Host: user@a\r\n", "Host: a/b\r\n", "Host: a?b\r\n", "Host: a\\b\r\n", "Host: a\x80\r\n",
          "Host : a\r\n"}) {
        CAPTURE(bad);
        CHECK(verdict(with(bad)) == 400);
    }
}

TEST_CASE("HTTP/1.0 keeps its connection when asked, needs no Host and has no chunks") {
    Framing framing;
    REQUIRE(verdict("GET / HTTP/1.0\r\n\r\n", framing) == kTaken);
    CHECK_FALSE(framing.keep_alive);
    REQUIRE(verdict("GET / HTTP/1.0\r\nConnection: x, Keep-Alive\r\n\r\n", framing) == kTaken);
    CHECK(framing.keep_alive);
    REQUIRE(verdict("POST / HTTP/1.0\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n", framing) == kTaken);
    CHECK_FALSE(framing.expects_continue);
    CHECK(verdict("GET / HTTP/1.0\r\nHost: a\r\nHost: a\r\n\r\n") == 400);
    CHECK(verdict("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n") == 400);
    CHECK(verdict("POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n") == 400);
}

TEST_CASE("a connection stays unless someone says close") {
    Framing framing;
    const auto keeps = [&framing](std::string_view lines) {
        REQUIRE(verdict(get_with(lines), framing) == kTaken);
        return framing.keep_alive;
    };
    CHECK(keeps(""));
    CHECK(keeps("Connection: keep-alive\r\n"));
    CHECK(keeps("Connection: closed\r\n"));
    CHECK(keeps("Connection: Upgrade\r\nUpgrade: h2c\r\n"));
    CHECK_FALSE(keeps("Connection: close\r\n"));
    CHECK_FALSE(keeps("Connection: keep-alive, CLOSE\r\n"));
    CHECK_FALSE(keeps("Connection: close \t, keep-alive\r\n"));
    CHECK_FALSE(keeps("Connection: keep-alive\r\nConnection: close\r\n"));
}

TEST_CASE("only 100-continue can be expected") {
    Framing framing;
    REQUIRE(verdict(get_with("Content-Length: 1\r\nExpect: 100-Continue\r\n"), framing) == kTaken);
    CHECK(framing.expects_continue);
    CHECK(verdict(get_with("Expect: 200-ok\r\n")) == 400);
    CHECK(verdict(get_with("Expect: 100-continue, x\r\n")) == 400);
}

TEST_CASE("the request line: a token, an origin-form of printable ASCII, and a version we speak") {
    const auto line = [](std::string_view text) { return std::string(text) + "\r\nHost: a\r\n\r\n"; };
    for (const std::string_view good :
         {"GET / HTTP/1.1", "PATCH / HTTP/1.1", "PURGE / HTTP/1.1", "GET /a?b=c&d=%20e HTTP/1.1", "GET //a HTTP/1.1",
          "GET /a%2Fb HTTP/1.1", "GET /a{b}|\"^`<> HTTP/1.1", "POST /~!$&'()*+,;=:@ HTTP/1.0"}) {
        CAPTURE(good);
        CHECK(verdict(line(good)) == kTaken);
    }
    for (const std::string_view bad : {"GET http://a/ HTTP/1.1",
                                       "GET * HTTP/1.1",
                                       "OPTIONS * HTTP/1.1",
                                       "CONNECT a:80 HTTP/1.1",
                                       "GET a HTTP/1.1",
                                       "GET  / HTTP/1.1",
                                       "GET / HTTP/1.1 ",
                                       " GET / HTTP/1.1",
                                       "GET /a b HTTP/1.1",
                                       "GET /a\tb HTTP/1.1",
                                       "GET /a\x80 HTTP/1.1",
                                       "GET /\xC3\xA4 HTTP/1.1",
                                       "GET /a\x7f HTTP/1.1",
                                       "GET /a#b HTTP/1.1",
                                       "GET /%00 HTTP/1.1",
                                       "GET /a?b=%00 HTTP/1.1",
                                       "GET /",
                                       "GET",
                                       "GET / HTTP/2.0",
                                       "GET / HTTP/0.9",
                                       "GET / HTTP/1.2",
                                       "GET / HTTP/11",
                                       "GET / http/1.1",
                                       "GET / HTTPS/1.1",
                                       "G(T / HTTP/1.1",
                                       "GET\t/ HTTP/1.1"}) {
        CAPTURE(bad);
        CHECK(verdict(line(bad)) == 400);
    }
}

TEST_CASE("lines end in CR LF, hold neither CR nor NUL, and are never folded") {
    const std::array bad = {
        "GET / HTTP/1.1\nHost: a\r\n\r\n"s,
        "GET / HTTP/1.1\r\nHost: a\n\r\n"s,
        "GET / HTTP/1.1\r\nHost: a\n\n"s,
        "GET / HTTP/1.1\r\nHost: a\r\n\n"s,
        "GET / HTTP/1.1\rX\r\nHost: a\r\n\r\n"s,
        "GET / HTTP/1.1\r\nHost: a\r\r\n\r\n"s,
        "GET / HTTP/1.1\r\nHost: a\rb\r\n\r\n"s,
        "GET / HTTP/1.1\r\nHost: a\r\nX: \0\r\n\r\n"s,
        "GET / HTTP/1.1\r\nHost: a\r\n\0: y\r\n\r\n"s,
        "GET /\0 HTTP/1.1\r\nHost: a\r\n\r\n"s,
        "GET / HTTP/1.1\r\nHost: a\r\n X: y\r\n\r\n"s,
        "GET / HTTP/1.1\r\nHost: a\r\nX: y\r\n z\r\n\r\n"s,
        "GET / HTTP/1.1\r\nHost: a\r\nX: y\r\n\tz\r\n\r\n"s,
        "GET / HTTP/1.1\r\nHost: a\r\nX:\r\n \r\n\r\n"s,
        "GET / HTTP/1.1\r\n Host: a\r\n\r\n"s,
        "GET / HTTP/1.1\r\nHost: a\r\n: y\r\n\r\n"s,
        "GET / HTTP/1.1\r\nHost: a\r\nX y\r\n\r\n"s,
        "GET / HTTP/1.1\r\nHost: a\r\nX(y): z\r\n\r\n"s,
        "GET / HTTP/1.1\r\nHost: a\r\nX: \x01\r\n\r\n"s,
        "GET / HTTP/1.1\r\nHost: a\r\nX: \x7f\r\n\r\n"s,
        "\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n"s,
        "\nGET / HTTP/1.1\r\nHost: a\r\n\r\n"s,
    };
    for (const auto& bytes : bad) {
        CAPTURE(bytes);
        CHECK(verdict(bytes) == 400);
    }
    CHECK(verdict("\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n") == kTaken);
    CHECK(verdict("GET / HTTP/1.1\r\nHost: a\r\nX:\r\nY: a\tb \xC3\xA4\r\n\r\n") == kTaken);
    CHECK(verdict("GET / HTTP/1.1\r\nHost: a\r\n") == kMore);
    CHECK(verdict("GET / HTTP/1.1\r\nHost: a\r\n\r") == kMore);
}

TEST_CASE("the limits are met to the byte") {
    const auto block = [](std::size_t bytes) {
        const std::string start = "GET / HTTP/1.1\r\nHost: a\r\nX: ";
        return start + std::string(bytes - start.size() - 4, 'x') + "\r\n\r\n";
    };
    CHECK(verdict(block(kLimits.max_header_bytes)) == kTaken);
    CHECK(verdict(block(kLimits.max_header_bytes + 1)) == 431);
    CHECK(verdict(block(1'000'000)) == 431);
    CHECK(verdict(block(kLimits.max_header_bytes + 1).substr(0, kLimits.max_header_bytes - 1)) == kMore);
    CHECK(verdict(block(kLimits.max_header_bytes + 1).substr(0, kLimits.max_header_bytes)) == 431);

    const auto target = [](std::size_t bytes) {
        return "GET /" + std::string(bytes - 1, 'a') + " HTTP/1.1\r\nHost: a\r\n\r\n";
    };
    CHECK(verdict(target(kLimits.max_target_bytes)) == kTaken);
    CHECK(verdict(target(kLimits.max_target_bytes + 1)) == 414);
    CHECK(verdict(target(7'000)) == 414);
    CHECK(verdict("GET /" + std::string(3'000, 'a')) == 414);

    const auto fields = [](std::size_t count) {
        std::string bytes = "GET / HTTP/1.1\r\nHost: a\r\n";
        for (std::size_t i = 1; i < count; ++i)
            bytes += "X: y\r\n";
        return bytes + "\r\n";
    };
    CHECK(verdict(fields(kLimits.max_header_fields)) == kTaken);
    CHECK(verdict(fields(kLimits.max_header_fields + 1)) == 431);
    CHECK(verdict(fields(1'000)) == 431);
}

TEST_CASE("a header block means the same however it is cut") {
    const std::array blocks = {
        "POST /a?b HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n"s,
        "\r\nGET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"s,
        "GET / HTTP/1.1\r\nHost: a\r\nX: y\r\n z\r\n\r\n"s,
        "GET / HTTP/1.1\nHost: a\r\n\r\n"s,
        "GET / HTTP/1.1\r\nHost: a\rb\r\n\r\n"s,
    };
    for (const auto& block : blocks) {
        CAPTURE(block);
        HeaderScan whole;
        const bool complete = whole.advance(block, kLimits);
        for (std::size_t step = 1; step <= 3; ++step) {
            HeaderScan cut;
            bool done = false;
            for (std::size_t n = step; !done && !cut.refusal(); n += step) {
                done = cut.advance(std::string_view(block).substr(0, n), kLimits);
                if (n >= block.size()) break;
            }
            CHECK(done == complete);
            CHECK(cut.refusal().status == whole.refusal().status);
            if (complete) {
                CHECK(cut.begin() == whole.begin());
                CHECK(cut.end() == whole.end());
            }
        }
    }
}

TEST_CASE("the scan ends a block at its empty line and leaves what follows") {
    const std::string block = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    HeaderScan scan;
    REQUIRE(scan.advance(block + "GET /next HTTP/1.1\r\n", kLimits));
    CHECK(scan.begin() == 0);
    CHECK(scan.end() == block.size());
}

TEST_CASE("a scan that has refused stays with it, whatever comes") {
    HeaderScan scan;
    CHECK_FALSE(scan.advance("GET / HTTP/1.1\n", kLimits));
    CHECK(scan.refusal().status == 400);
    CHECK_FALSE(scan.advance("GET / HTTP/1.1\nHost: a\r\n\r\n", kLimits));
    CHECK(scan.refusal().status == 400);
}

namespace {

struct Decoded {
    ChunkDecoder::State state;
    std::string body;
    std::size_t consumed;
    int status;
};

/// Decodes in place, as a connection does, with the bytes arriving `step` at a time.
Decoded decode(std::string raw, std::size_t step, std::uint64_t limit = 1'000) {
    ChunkDecoder decoder(limit);
    std::size_t at = 0;
    std::size_t decoded = 0;
    for (std::size_t end = 0; end < raw.size() && decoder.state() == ChunkDecoder::State::more;) {
        end = std::min(raw.size(), end + step);
        while (at < end && decoder.state() == ChunkDecoder::State::more) {
            const auto progress = decoder.advance({raw.data() + at, end - at}, raw.data() + decoded);
            at += progress.consumed;
            decoded += progress.decoded;
        }
    }
    return {decoder.state(), raw.substr(0, decoded), at, decoder.refusal().status};
}

}  // namespace

TEST_CASE("a chunked body decodes to the same bytes however it is cut, and not one byte more is taken") {
    struct Case {
        std::string raw;
        std::string body;
    };
    const std::array cases = {
        Case{"0\r\n\r\n", ""},
        Case{"00000000\r\n\r\n", ""},
        Case{"5\r\nhello\r\n0\r\n\r\n", "hello"},
        Case{"1\r\na\r\n2\r\nbc\r\nA\r\n0123456789\r\n0\r\n\r\n", "abc0123456789"},
        Case{"a\r\n0123456789\r\n0\r\n\r\n", "0123456789"},
        Case{"4\r\n\r\n\r\n\r\n0\r\n\r\n", "\r\n\r\n"},
        Case{"3\r\n0\r\n\r\n0\r\n\r\n", "0\r\n"},
    };
    for (const auto& each : cases) {
        const auto& [raw, body] = each;
        for (std::size_t step = 1; step <= raw.size() + 1; ++step) {
            CAPTURE(each.raw);
            CAPTURE(step);
            const auto decoded = decode(raw + "GET /next", step);
            CHECK(decoded.state == ChunkDecoder::State::complete);
            CHECK(decoded.body == body);
            CHECK(decoded.consumed == raw.size());
        }
        for (std::size_t length = 0; length < raw.size(); ++length) {
            CAPTURE(length);
            CHECK(decode(raw.substr(0, length), 3).state == ChunkDecoder::State::more);
        }
    }
}

TEST_CASE("extensions, trailers and loose chunk framing are refused at once") {
    const std::array bad = {
        "5;\r\nhello\r\n0\r\n\r\n"s,
        "5;a=b\r\nhello\r\n0\r\n\r\n"s,
        "5 \r\nhello\r\n0\r\n\r\n"s,
        "0;a=b\r\n\r\n"s,
        "0\r\nAuthorization: Bearer stolen\r\n\r\n"s,
        "0\r\nHost: b\r\n\r\n"s,
        "0\r\nX: y\r\n\r\n"s,
        "\r\n"s,
        "\r\n0\r\n\r\n"s,
        " 5\r\nhello\r\n0\r\n\r\n"s,
        "+5\r\nhello\r\n0\r\n\r\n"s,
        "-5\r\nhello\r\n0\r\n\r\n"s,
        "0x5\r\nhello\r\n0\r\n\r\n"s,
        "5\nhello\r\n0\r\n\r\n"s,
        "5\r\nhello\n0\r\n\r\n"s,
        "5\r\nhello0\r\n\r\n"s,
        "5\r\nhelloX\r\n0\r\n\r\n"s,
        "5\rXhello"s,
        "5\r\nhello\rX"s,
        "0\r\n\rX"s,
        "0\r\n\n"s,
        "g\r\n"s,
        "000000005\r\nhello\r\n0\r\n\r\n"s,
        "FFFFFFFFFFFFFFFFF\r\n"s,
    };
    for (const auto& raw : bad) {
        for (const std::size_t step : {std::size_t{1}, std::size_t{2}, raw.size()}) {
            CAPTURE(raw);
            CAPTURE(step);
            const auto decoded = decode(raw, step);
            CHECK(decoded.state == ChunkDecoder::State::refused);
            CHECK(decoded.status == 400);
        }
    }
    CHECK(decode("5;" + std::string(1'000'000, 'x'), 1'000'002).consumed == 2);
}

TEST_CASE("a chunked body is refused before the byte that would exceed its limit") {
    CHECK(decode("5\r\nhello\r\n5\r\nworld\r\n0\r\n\r\n", 100, 10).body == "helloworld");
    const auto over = decode("5\r\nhello\r\n6\r\nworld!\r\n0\r\n\r\n", 100, 10);
    CHECK(over.status == 413);
    CHECK(over.body == "hello");
    CHECK(decode("FFFFFFFF\r\n", 100, 10).status == 413);
}

TEST_CASE("random bytes never decode differently when they are cut differently") {
    std::srand(1);
    const std::string_view alphabet = "0159afFX;\r\n \t";
    for (int round = 0; round < 20'000; ++round) {
        std::string raw;
        const auto length = std::rand() % 24;
        for (int i = 0; i < length; ++i) {
            raw += alphabet[static_cast<std::size_t>(std::rand()) % alphabet.size()];
            if (std::rand() % 3 == 0) raw += "\r\n";
        }
        const auto whole = decode(raw, raw.size() + 1, 8);
        const auto cut = decode(raw, 1, 8);
        CAPTURE(raw);
        REQUIRE(whole.state == cut.state);
        REQUIRE(whole.body == cut.body);
        REQUIRE(whole.consumed == cut.consumed);
    }
}

}  // namespace tidemark::http
