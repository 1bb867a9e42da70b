#include "infra/base/failpoint.h"

#include "tests/support/process.h"

#include <doctest/doctest.h>
#include <sys/stat.h>

#include <chrono>
#include <csignal>
#include <fstream>
#include <sstream>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

using tidemark::test::Child;
using tidemark::test::TemporaryFolder;

#ifdef TIDEMARK_FAILPOINTS

namespace {

constexpr int kReached = 7;

/// Passes C4 `times` times in a process of its own whose plan is `plan`.
int passes(const std::string& plan, int times = 1) {
    Child child([&] {
        setenv("TIDEMARK_FAILPOINT", plan.c_str(), 1);
        for (int i = 0; i < times; ++i)
            FAILPOINT("C4");
        return kReached;
    });
    return child.wait();
}

bool ended_with(int status, int code) {
    return WIFEXITED(status) && WEXITSTATUS(status) == code;
}

std::string content(const std::string& path) {
    std::ostringstream text;
    text << std::ifstream(path).rdbuf();
    return text.str();
}

}  // namespace

TEST_CASE("a failpoint without a plan, or with a plan for others, does nothing") {
    Child child([] {
        unsetenv("TIDEMARK_FAILPOINT");
        FAILPOINT("C4");
        return kReached;
    });
    CHECK(ended_with(child.wait(), kReached));
    CHECK(ended_with(passes("C5=kill;C44=kill;C=kill"), kReached));
}

TEST_CASE("kill ends the process by SIGKILL") {
    const int status = passes("C4=kill");
    CHECK(WIFSIGNALED(status));
    CHECK(WTERMSIG(status) == SIGKILL);
}

TEST_CASE("term sends SIGTERM") {
    const int status = passes("P1=kill;C4=term");
    CHECK(WIFSIGNALED(status));
    CHECK(WTERMSIG(status) == SIGTERM);
}

TEST_CASE("stop stops the process, which goes on when it is continued") {
    Child child([] {
        setenv("TIDEMARK_FAILPOINT", "C4=stop", 1);
        FAILPOINT("C4");
        return kReached;
    });
    CHECK(WIFSTOPPED(child.wait_stopped()));
    ::kill(child.pid(), SIGCONT);
    CHECK(ended_with(child.wait(), kReached));
}

TEST_CASE("throw throws std::runtime_error once") {
    Child child([] {
        setenv("TIDEMARK_FAILPOINT", "C4=throw", 1);
        try {
            FAILPOINT("C4");
            return 1;
        } catch (const std::runtime_error& error) {
            if (std::string(error.what()) != "failpoint C4") return 2;
        }
        FAILPOINT("C4");
        return kReached;
    });
    CHECK(ended_with(child.wait(), kReached));
}

TEST_CASE("sleep stalls that pass alone") {
    Child child([] {
        setenv("TIDEMARK_FAILPOINT", "C4=sleep:80@2", 1);
        const auto elapsed = [] {
            const auto start = std::chrono::steady_clock::now();
            FAILPOINT("C4");
            return std::chrono::steady_clock::now() - start;
        };
        // The first pass may be slow on a busy machine, so only the lower bound is checked where it matters.
        elapsed();
        return elapsed() >= std::chrono::milliseconds{80} ? kReached : 1;
    });
    CHECK(ended_with(child.wait(), kReached));
}

TEST_CASE("@n acts on the n-th pass and on no other") {
    CHECK(ended_with(passes("C4=kill@3", 2), kReached));
    CHECK(WIFSIGNALED(passes("C4=kill@3", 3)));
    Child child([] {
        setenv("TIDEMARK_FAILPOINT", "C4=throw@2", 1);
        int thrown = 0;
        for (int i = 0; i < 10; ++i) {
            try {
                FAILPOINT("C4");
            } catch (const std::runtime_error&) {
                thrown = thrown * 100 + i;
            }
        }
        return thrown == 1 ? kReached : 1;
    });
    CHECK(ended_with(child.wait(), kReached));
}

TEST_CASE("passes of several threads are counted together") {
    Child child([] {
        setenv("TIDEMARK_FAILPOINT", "C4=kill@4000", 1);
        std::vector<std::thread> threads;
        for (int t = 0; t < 4; ++t) {
            threads.emplace_back([] {
                for (int i = 0; i < 1'000; ++i)
                    FAILPOINT("C4");
            });
        }
        for (auto& thread : threads)
            thread.join();
        return kReached;
    });
    CHECK(WIFSIGNALED(child.wait()));
}

TEST_CASE("a plan that cannot be read ends the process instead of testing nothing") {
    const tidemark::test::CapturedStream quiet(stderr);
    for (const char* plan : {"C4", "C4=explode", "=kill", "C4=kill@0", "C4=kill@x", "C4=sleep:", "C4=sleep:5s"}) {
        CAPTURE(plan);
        const int status = passes(plan);
        CHECK(WIFSIGNALED(status));
        CHECK(WTERMSIG(status) == SIGABRT);
    }
    CHECK(quiet.text().find("failpoint_plan_refused") != std::string::npos);
}

TEST_CASE("a plan file is read again when it changes, and each firing is on record before it acts") {
    TemporaryFolder folder;
    const auto plan = folder.file("plan");
    const auto fired = folder.file("plan.fired");
    int to_child[2];
    int to_parent[2];
    REQUIRE(pipe(to_child) == 0);
    REQUIRE(pipe(to_parent) == 0);
    Child child([&] {
        setenv("TIDEMARK_FAILPOINT_FILE", plan.c_str(), 1);
        char word = 0;
        while (read(to_child[0], &word, 1) == 1) {
            char answer = 'p';
            try {
                FAILPOINT("C4");
            } catch (const std::runtime_error&) {
                answer = 't';
            }
            if (write(to_parent[1], &answer, 1) != 1) return 1;
        }
        return kReached;
    });
    const auto pass = [&] {
        char answer = 0;
        REQUIRE(write(to_child[1], "x", 1) == 1);
        REQUIRE(read(to_parent[0], &answer, 1) == 1);
        return answer;
    };
    CHECK(pass() == 'p');  // no file yet
    CHECK(content(fired).empty());
    folder.file("plan", "C4=throw\n");
    CHECK(pass() == 't');
    CHECK(content(fired) == "C4\n");
    CHECK(pass() == 'p');  // once
    folder.file("plan", "C4=throw@2\n");
    CHECK(pass() == 'p');
    CHECK(pass() == 't');
    CHECK(content(fired) == "C4\nC4\n");
    folder.file("plan", "C4=kill\n");
    REQUIRE(write(to_child[1], "x", 1) == 1);
    CHECK(WIFSIGNALED(child.wait()));
    CHECK(content(fired) == "C4\nC4\nC4\n");
    for (const int fd : {to_child[0], to_child[1], to_parent[0], to_parent[1]})
        close(fd);
}

#else

TEST_CASE("a build without kill points carries nothing of them") {
    const Child child([] {
        setenv("TIDEMARK_FAILPOINT", "C4=kill", 1);
        FAILPOINT("C4");
        return 7;
    });
}

#endif
