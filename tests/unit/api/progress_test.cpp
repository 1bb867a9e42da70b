#include "api/progress.h"

#include <doctest/doctest.h>

#include <stdexcept>
#include <string>

using namespace tidemark;
using namespace tidemark::api;

TEST_CASE("progress is read from the views' lists") {
    const auto progress = Progress::read(3, "12,0,7", "1700000000000001,0,1700000000000000");
    CHECK(progress.generation == 3);
    CHECK(progress.next == std::vector<std::int64_t>{12, 0, 7});
    CHECK(progress.as_of[0] == schemas::Timestamp(std::chrono::microseconds(1'700'000'000'000'001)));
    CHECK_FALSE(progress.as_of[1]);
    CHECK_FALSE(progress.oldest_as_of());
    CHECK(Progress::read(3, "1,2", "5,4").oldest_as_of() == schemas::Timestamp(std::chrono::microseconds(4)));
}

TEST_CASE("anything but such lists is a bug") {
    for (const auto* bad : {"", "1,", ",1", "1;2", "a", "1,2,x"}) {
        CAPTURE(bad);
        CHECK_THROWS_AS(Progress::read(1, bad, "1"), std::logic_error);
    }
    CHECK_THROWS_AS(Progress::read(1, "1,2", "1"), std::logic_error);
}

TEST_CASE("tokens name the last applied offset of each partition that has one") {
    const auto progress = Progress::read(1, "12,0,7", "0,0,0");
    std::string tokens;
    progress.append_tokens(tokens, "counters", "0a1b2c3d");
    CHECK(tokens == "counters-0a1b2c3d-0-11,counters-0a1b2c3d-2-6");
    tokens.clear();
    progress.append_tokens(tokens, "counters", "0a1b2c3d", 2);
    CHECK(tokens == "counters-0a1b2c3d-2-6");
    tokens.clear();
    progress.append_tokens(tokens, "counters", "0a1b2c3d", 1);
    CHECK(tokens.empty());
    CHECK(progress.holds(0, 11));
    CHECK_FALSE(progress.holds(0, 12));
    CHECK_FALSE(progress.holds(1, 0));
    CHECK_FALSE(progress.holds(3, 0));
    CHECK_FALSE(progress.holds(-1, 0));
}
