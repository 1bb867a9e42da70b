#include "infra/base/shutdown.h"

#include "tests/support/process.h"

#include <doctest/doctest.h>

#include <chrono>
#include <csignal>
#include <thread>

using namespace std::chrono_literals;
using tidemark::base::Shutdown;
using tidemark::test::Child;

namespace {

constexpr int kDrained = 7;
constexpr auto kLongAgo = 30s;  // a wait that is meant to be cut short

}  // namespace

TEST_CASE("nothing is requested at first, and a wait lasts its time") {
    const Shutdown shutdown;
    CHECK_FALSE(shutdown.requested());
    const auto start = std::chrono::steady_clock::now();
    CHECK_FALSE(shutdown.wait_for(20ms));
    CHECK(std::chrono::steady_clock::now() - start >= 20ms);
    CHECK_FALSE(shutdown.wait_for(0ms));
    CHECK_FALSE(shutdown.wait_for(-5ms));
}

TEST_CASE("SIGTERM and SIGINT each end a wait under way") {
    for (const int signal : {SIGTERM, SIGINT}) {
        CAPTURE(signal);
        const Shutdown shutdown;
        std::thread sender([signal] { ::kill(getpid(), signal); });
        const auto start = std::chrono::steady_clock::now();
        CHECK(shutdown.wait_for(kLongAgo));
        CHECK(std::chrono::steady_clock::now() - start < kLongAgo);
        sender.join();
        CHECK(shutdown.requested());
        CHECK(shutdown.wait_for(0ms));
    }
}

TEST_CASE("a signal ends the waits of all threads") {
    const Shutdown shutdown;
    std::thread first([&] { CHECK(shutdown.wait_for(kLongAgo)); });
    std::thread second([&] { CHECK(shutdown.wait_for(std::chrono::milliseconds::max())); });
    ::kill(getpid(), SIGTERM);
    first.join();
    second.join();
    CHECK(shutdown.requested());
}

TEST_CASE("a second signal while draining ends the process with status 1") {
    int ready[2];
    REQUIRE(pipe(ready) == 0);
    Child child([&] {
        const Shutdown shutdown;
        if (write(ready[1], "x", 1) != 1 || !shutdown.wait_for(kLongAgo) || write(ready[1], "y", 1) != 1) return 2;
        std::this_thread::sleep_for(kLongAgo);  // a drain that hangs
        return kDrained;
    });
    char word = 0;
    REQUIRE(read(ready[0], &word, 1) == 1);
    ::kill(child.pid(), SIGTERM);
    REQUIRE(read(ready[0], &word, 1) == 1);
    ::kill(child.pid(), SIGINT);
    const int status = child.wait();
    CHECK(WIFEXITED(status));
    CHECK(WEXITSTATUS(status) == 1);
    close(ready[0]);
    close(ready[1]);
}

TEST_CASE("writing to a peer that left is an error, not the end of the process") {
    Child child([] {
        const Shutdown shutdown;
        int ends[2];
        if (pipe(ends) != 0) return 2;
        close(ends[0]);
        return write(ends[1], "x", 1) == -1 && errno == EPIPE ? kDrained : 3;
    });
    const int status = child.wait();
    CHECK(WIFEXITED(status));
    CHECK(WEXITSTATUS(status) == kDrained);
}

TEST_CASE("without a Shutdown the signals mean what they meant before") {
    Child child([] {
        { const Shutdown shutdown; }
        raise(SIGTERM);
        return kDrained;
    });
    const int status = child.wait();
    CHECK(WIFSIGNALED(status));
    CHECK(WTERMSIG(status) == SIGTERM);
}
