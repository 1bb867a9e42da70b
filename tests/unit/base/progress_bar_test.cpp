#include "infra/base/progress.h"

#include <doctest/doctest.h>

#include <chrono>
#include <sstream>
#include <string>

using namespace std::chrono_literals;
using tidemark::base::ProgressBar;
using tidemark::base::with_commas;
using Style = ProgressBar::Style;

namespace {

constexpr std::chrono::steady_clock::time_point kStart{1'000s};

std::size_t count(const std::string& text, const std::string& part) {
    std::size_t found = 0;
    for (auto at = text.find(part); at != std::string::npos; at = text.find(part, at + 1))
        ++found;
    return found;
}

}  // namespace

TEST_CASE("a bar is drawn over itself ten times a second and ends its line") {
    std::ostringstream out;
    {
        ProgressBar bar(out, Style::bar, "replay counters", "records");
        for (int ms = 0; ms < 1'000; ++ms)
            bar.show({.done = ms, .total = 1'000, .rate = 1'000}, kStart + std::chrono::milliseconds(ms));
        CHECK(count(out.str(), "\r") == 10);
        CHECK(count(out.str(), "\n") == 0);
    }
    CHECK(count(out.str(), "\r") == 11);
    CHECK(out.str().find("\rreplay counters  [") == 0);
    CHECK(count(out.str(), "\n") == 1);
    CHECK(out.str().back() == '\n');
}

TEST_CASE("what was shown last is drawn in the end") {
    for (const auto style : {Style::bar, Style::lines, Style::json}) {
        std::ostringstream out;
        {
            ProgressBar bar(out, style, "verify counters", "records");
            bar.show({.done = 2, .total = 5, .rate = 25, .counts = {{"parked", 1}}}, kStart);
            bar.show({.done = 5, .total = 5, .rate = 25}, kStart + 1ms);
        }
        CAPTURE(out.str());
        const bool is_last = out.str().find(style == Style::json ? R"("done":5,"total":5)"
                                                                 : "100.0 %  5 of 5 records") != std::string::npos;
        CHECK(is_last);
        CHECK(count(out.str(), "verify counters") == 2);
    }
}

TEST_CASE("a bar that was shown nothing writes nothing") {
    std::ostringstream out;
    { const ProgressBar bar(out, Style::bar, "what", "records"); }
    CHECK(out.str().empty());
}

TEST_CASE("lines and JSON say how long it takes, as far as that can be said") {
    std::ostringstream out;
    {
        ProgressBar lines(out, Style::lines, "replay counters", "records");
        lines.show({.done = 1'000, .total = 8'201'000, .rate = 1'000, .counts = {{"parked", 3}, {"refused", 0}}},
                   kStart);
        lines.show({.done = 1'000, .total = 4'000, .rate = 0, .counts = {{"stored", 1'000}, {"refused", 1}}},
                   kStart + 5s);
        lines.show({.done = 1'000, .total = 64'000, .rate = 1'000}, kStart + 10s);
    }
    CHECK(out.str() ==
          "replay counters    0.0 %  1,000 of 8,201,000 records  1,000/s  2h16m left  3 parked\n"
          "replay counters   25.0 %  1,000 of 4,000 records  0/s  1,000 stored, 1 refused\n"
          "replay counters    1.6 %  1,000 of 64,000 records  1,000/s  1m03s left\n");
    out.str("");
    {
        ProgressBar json(out, Style::json, "import \"a\\b\"", "bytes");
        json.show({.done = 1, .total = 3, .rate = 0}, kStart);
        json.show({.done = 3, .total = 3, .rate = 2.6, .counts = {{"stored", 2'000}, {"refused", 0}}}, kStart + 1s);
    }
    CHECK(out.str() == R"({"progress":"import \"a\\b\"","done":1,"total":3,"rate":0,"secondsLeft":null})"
                       "\n"
                       R"({"progress":"import \"a\\b\"","done":3,"total":3,"rate":3,"secondsLeft":0,"stored":2000,)"
                       R"("refused":0})"
                       "\n");
}

TEST_CASE("digits stand in groups") {
    CHECK(with_commas(0) == "0");
    CHECK(with_commas(999) == "999");
    CHECK(with_commas(-1'000) == "-1,000");
    CHECK(with_commas(1'234'567) == "1,234,567");
}

TEST_CASE("of what nobody knows the end, a bar says what is done and how fast") {
    for (const auto style : {Style::bar, Style::lines, Style::json}) {
        std::ostringstream out;
        { ProgressBar(out, style, "import -", "bytes").show({.done = 2'000, .total = -1, .rate = 25}, kStart); }
        CAPTURE(out.str());
        CHECK(count(out.str(), "%") == 0);
        CHECK(count(out.str(), "left") == 0);
        CHECK(count(out.str(), style == Style::json ? R"("done":2000,"total":null,"rate":25,"secondsLeft":null)"
                                                    : "import -  2,000 bytes  25/s") == 1);
    }
}

TEST_CASE("a bar makes room for what is written between, and comes again") {
    std::ostringstream out;
    ProgressBar bar(out, Style::bar, "import f", "bytes");
    bar.clear();
    CHECK(out.str().empty());
    bar.show({.done = 1, .total = 2}, kStart);
    bar.clear();
    CHECK(out.str().ends_with("\r\x1b[K"));
    bar.show({.done = 1, .total = 2}, kStart + 1ms);
    CHECK(count(out.str(), "50.0 %") == 2);
}

TEST_CASE("lines stand where they are, and come no oftener for what is written between") {
    std::ostringstream out;
    ProgressBar lines(out, Style::lines, "import f", "bytes");
    for (int i = 0; i < 100; ++i) {
        lines.show({.done = i, .total = 100}, kStart);
        lines.clear();
    }
    CHECK(count(out.str(), "\n") == 1);
}
