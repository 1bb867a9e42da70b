#include "infra/base/stop.h"

#include <doctest/doctest.h>

#include <thread>

using namespace std::chrono_literals;
using tidemark::base::Stop;

TEST_CASE("a request to stop ends the wait that it meets and every later one") {
    Stop stop;
    CHECK_FALSE(stop.requested());
    CHECK_FALSE(stop.wait_for(1ms));
    std::thread other([&] { stop.request(); });
    CHECK(stop.wait_for(1min));
    other.join();
    CHECK(stop.requested());
    CHECK(stop.wait_for(1min));
}
