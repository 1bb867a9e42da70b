#include "infra/base/log.h"

#include "tests/support/process.h"

#include <doctest/doctest.h>
#include <sys/socket.h>

#include <cmath>
#include <limits>
#include <string>
#include <thread>
#include <vector>

namespace base = tidemark::base;
using tidemark::test::CapturedStream;

namespace {

/// What is written, less the time stamp.
std::string written(const std::function<void()>& body) {
    base::log::start("tidemark-test");
    CapturedStream standard_error(stderr);
    body();
    auto text = standard_error.text();
    const std::string start = R"({"ts":"2026-11-21T12:00:00.000Z",)";
    return text.size() < start.size() ? text : "{" + text.substr(start.size());
}

std::string value_of(std::string_view text) {
    const auto line = written([&] { base::log::info("e", {{"t", text}}); });
    const std::string before = R"({"level":"info","program":"tidemark-test","event":"e","t":")";
    REQUIRE(line.substr(0, before.size()) == before);
    return line.substr(before.size(), line.size() - before.size() - 3);
}

}  // namespace

TEST_CASE("a line is one JSON object that begins with ts, level, program and event") {
    CapturedStream standard_error(stderr);
    base::log::start("tidemark-test");
    base::log::warn("flush_failed", {{"stream", "counters"}, {"partition", 3}, {"ms", 1.5}, {"retry", true}});
    const auto line = standard_error.text();
    CHECK(line.substr(0, 7) == R"({"ts":")");
    CHECK(
        line.substr(30) ==
        R"(Z","level":"warn","program":"tidemark-test","event":"flush_failed","stream":"counters","partition":3,"ms":1.5,"retry":true})"
        "\n");
    std::string shape;
    for (const char c : line.substr(7, 24))
        shape += std::isdigit(static_cast<unsigned char>(c)) ? '9' : c;
    CHECK(shape == "9999-99-99T99:99:99.999Z");
}

TEST_CASE("numbers are exact, and what JSON cannot say is null") {
    CHECK(written([] {
              base::log::info("e", {{"min", std::numeric_limits<std::int64_t>::min()},
                                    {"small", std::uint8_t{200}},
                                    {"tenth", 0.1},
                                    {"nan", std::nan("")},
                                    {"infinite", std::numeric_limits<double>::infinity()},
                                    {"no", false}});
          }) == R"({"level":"info","program":"tidemark-test","event":"e","min":-9223372036854775808,)"
                R"("small":200,"tenth":0.1,"nan":null,"infinite":null,"no":false})"
                "\n");
}

TEST_CASE("quotes, line ends and terminal sequences in a value cannot leave their string") {
    CHECK(value_of("a\"b\\c") == R"(a\"b\\c)");
    CHECK(value_of("a\r\n{\"level\":\"error\"}\t") == R"(a\r\n{\"level\":\"error\"}\t)");
    CHECK(value_of("\x1b[31mred\x07\x08\x0c") == R"(\u001b[31mred\u0007\u0008\u000c)");
    CHECK(value_of(std::string_view("a\0b", 3)) == R"(a\u0000b)");
    CHECK(value_of("\x7f\xc2\x9b\xe2\x80\xa8") == R"(\u007f\u009b\u2028)");
    CHECK(written([] {
              base::log::info("e\n", {{"n\"", 1}});
          }) == R"({"level":"info","program":"tidemark-test","event":"e\n","n\"":1})"
                "\n");
}

TEST_CASE("valid UTF-8 passes as it is and each broken byte becomes U+FFFD") {
    CHECK(value_of("caf\xc3\xa9 \xe6\xb0\xb4 \xf0\x9f\x8c\x8a") == "caf\xc3\xa9 \xe6\xb0\xb4 \xf0\x9f\x8c\x8a");
    const std::string bad = "\xef\xbf\xbd";
    CHECK(value_of("\xff") == bad);
    CHECK(value_of("a\xc3") == "a" + bad);
    CHECK(value_of("\x80z") == bad + "z");
    CHECK(value_of("\xc0\xaf") == bad + bad);                      // overlong '/'
    CHECK(value_of("\xed\xa0\x80") == bad + bad + bad);            // surrogate
    CHECK(value_of("\xf4\x90\x80\x80") == bad + bad + bad + bad);  // past U+10FFFF
    CHECK(value_of("\xe6\xb0"
                   "A") == bad + bad + "A");
}

TEST_CASE("a text over 256 bytes is cut between code points and marked") {
    const std::string fits(256, 'x');
    CHECK(value_of(fits) == fits);
    CHECK(value_of(fits + "x") == std::string(253, 'x') + "...");
    CHECK(value_of(std::string(1'000'000, 'x')).size() == 256);
    // 252 bytes and a four-byte character across the cut
    CHECK(value_of(std::string(252, 'x') + "\xf0\x9f\x8c\x8a!") == std::string(252, 'x') + "...");
    CHECK(value_of(std::string(249, 'x') + "\xf0\x9f\x8c\x8a\xf0\x9f\x8c\x8a") ==
          std::string(249, 'x') + "\xf0\x9f\x8c\x8a...");
    // replacements count by what they become
    CHECK(value_of(std::string(200, '\xff')).size() <= 256);
}

TEST_CASE("lines below the level are not written") {
    base::log::start("tidemark-test", base::log::level_of("warn"));
    {
        CapturedStream standard_error(stderr);
        base::log::write(base::log::Level::debug, "d");
        base::log::info("i");
        CHECK(standard_error.text().empty());
        base::log::warn("w");
        base::log::error("e");
        CHECK(standard_error.text().find(R"("event":"w")") != std::string::npos);
        CHECK(standard_error.text().find(R"("event":"e")") != std::string::npos);
    }
    base::log::start("tidemark-test", base::log::level_of("debug"));
    CapturedStream standard_error(stderr);
    base::log::write(base::log::Level::debug, "d");
    CHECK(standard_error.text().find(R"("level":"debug")") != std::string::npos);
}

TEST_CASE("each line leaves in one write, so that lines of several threads and processes cannot mix") {
    int ends[2];
    REQUIRE(socketpair(AF_UNIX, SOCK_DGRAM, 0, ends) == 0);  // each write arrives as a datagram of its own
    base::log::start("tidemark-test");
    constexpr int kThreads = 4;
    constexpr int kLines = 50;
    std::vector<std::string> got;
    const int saved = dup(STDERR_FILENO);
    REQUIRE(dup2(ends[1], STDERR_FILENO) >= 0);
    std::vector<std::thread> threads;
    for (int t = 0; t < kThreads; ++t) {
        threads.emplace_back([] {
            for (int i = 0; i < kLines; ++i)
                base::log::info("e", {{"text", std::string(200, 'y')}});
        });
    }
    while (got.size() < std::size_t{kThreads} * kLines) {
        char datagram[4096];
        const ssize_t size = recv(ends[0], datagram, sizeof datagram, 0);
        if (size <= 0) break;
        got.emplace_back(datagram, static_cast<std::size_t>(size));
    }
    for (auto& thread : threads)
        thread.join();
    dup2(saved, STDERR_FILENO);
    for (const int fd : {saved, ends[0], ends[1]})
        close(fd);
    CHECK(got.size() == std::size_t{kThreads} * kLines);
    for (const auto& line : got) {
        CHECK(line.substr(0, 7) == R"({"ts":")");
        CHECK(line.substr(line.size() - 4) == "y\"}\n");
    }
}
