#include "infra/base/backoff.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <vector>

using namespace std::chrono_literals;
using tidemark::base::Backoff;

namespace {

std::vector<std::chrono::milliseconds> take(Backoff backoff, int count) {
    std::vector<std::chrono::milliseconds> delays;
    for (int i = 0; i < count; ++i)
        delays.push_back(backoff.next());
    return delays;
}

}  // namespace

TEST_CASE("each delay lies in the upper half of a doubling step, up to the cap") {
    for (std::uint64_t seed = 0; seed < 200; ++seed) {
        const auto delays = take(Backoff(100ms, 3'000ms, seed), 12);
        auto whole = 100ms;
        for (const auto delay : delays) {
            CAPTURE(seed);
            CHECK(delay >= whole / 2);
            CHECK(delay <= whole);
            whole = std::min<std::chrono::milliseconds>(whole * 2, 3'000ms);
        }
    }
}

TEST_CASE("the same seed gives the same delays, another seed others") {
    CHECK(take(Backoff(100ms, 10s, 7), 20) == take(Backoff(100ms, 10s, 7), 20));
    CHECK(take(Backoff(100ms, 10s, 7), 20) != take(Backoff(100ms, 10s, 8), 20));
}

TEST_CASE("the sequence of a seed is fixed, so that a failing simulation can be repeated") {
    std::vector<std::int64_t> delays;
    for (const auto delay : take(Backoff(100ms, 1'000ms, 42), 6))
        delays.push_back(delay.count());
    CHECK(delays == std::vector<std::int64_t>{63, 163, 233, 504, 723, 941});
}

TEST_CASE("reset starts again at the first delay") {
    Backoff backoff(100ms, 60s, 1);
    for (int i = 0; i < 8; ++i)
        backoff.next();
    backoff.reset();
    CHECK(backoff.next() <= 100ms);
}

TEST_CASE("extreme limits neither overflow nor stall") {
    constexpr auto kLongest = std::chrono::milliseconds::max();
    Backoff long_lived(1ms, kLongest, 3);
    std::chrono::milliseconds last{0};
    for (int i = 0; i < 100; ++i)
        last = long_lived.next();
    CHECK(last >= kLongest / 2);
    CHECK(take(Backoff(0ms, 10ms, 3), 50).back() >= 5ms);
    CHECK(take(Backoff(10ms, 0ms, 3), 3).back() == 0ms);
    CHECK(take(Backoff(5s, 1s, 3), 1).back() <= 1s);
}
