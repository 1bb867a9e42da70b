#include "infra/http/deadline_wheel.h"

#include <doctest/doctest.h>

#include <array>
#include <chrono>
#include <cstdlib>
#include <vector>

namespace tidemark::http {
namespace {

using namespace std::chrono_literals;

struct Item : DeadlineWheel::Entry {
    DeadlineWheel::TimePoint deadline{};
    int visits = 0;
};

const DeadlineWheel::TimePoint kStart{1h};

template <typename Visit>
void advance(DeadlineWheel& wheel, DeadlineWheel::TimePoint now, Visit visit) {
    wheel.advance(now, [&](DeadlineWheel::Entry& entry) { visit(static_cast<Item&>(entry)); });
}

}  // namespace

TEST_CASE("an entry is visited after its deadline, by at most two resolutions") {
    for (const auto delay : {0ms, 1ms, 9ms, 10ms, 11ms, 995ms, 2'500ms}) {
        CAPTURE(delay.count());
        DeadlineWheel fresh(kStart, 10ms);
        Item item;
        fresh.schedule(item, kStart + delay);
        std::chrono::milliseconds visited{-1};
        for (auto now = 0ms; now < 3'000ms && visited < 0ms; now += 1ms) {
            advance(fresh, kStart + now, [&](Item&) { visited = now; });
        }
        CHECK(visited >= delay);
        CHECK(visited <= delay + 20ms);
    }
}

TEST_CASE("a deadline moves an entry towards the present only, and its owner schedules it again") {
    DeadlineWheel wheel(kStart, 10ms);
    Item item;
    wheel.schedule(item, kStart + 100ms);
    wheel.schedule(item, kStart + 500ms);
    std::vector<std::chrono::milliseconds> visits;
    const auto run = [&](std::chrono::milliseconds until) {
        for (auto now = 0ms; now <= until; now += 10ms) {
            advance(wheel, kStart + now, [&](Item& each) {
                visits.push_back(now);
                if (now < 500ms) wheel.schedule(each, kStart + 500ms);
            });
        }
    };
    wheel.schedule(item, kStart + 50ms);
    run(1'000ms);
    CHECK(visits == std::vector{60ms, 510ms});
}

TEST_CASE("an entry beyond the horizon is visited early and stays until its time") {
    DeadlineWheel wheel(kStart, 1ms);
    Item item;
    item.deadline = kStart + 1'000ms;
    wheel.schedule(item, item.deadline);
    bool done = false;
    auto now = kStart;
    for (; !done && now < kStart + 2s; now += 1ms) {
        advance(wheel, now, [&](Item& each) {
            ++each.visits;
            done = now >= each.deadline;
            if (!done) wheel.schedule(each, each.deadline);
        });
    }
    CHECK(item.visits == 4);
    CHECK(now - item.deadline <= 3ms);
}

TEST_CASE("after a long stop everything is visited in one turn") {
    DeadlineWheel wheel(kStart, 1ms);
    std::array<Item, 300> items;
    for (std::size_t i = 0; i < items.size(); ++i)
        wheel.schedule(items[i], kStart + std::chrono::milliseconds(i));
    advance(wheel, kStart + 1h, [](Item& each) { ++each.visits; });
    for (const auto& item : items)
        CHECK(item.visits == 1);
}

TEST_CASE("entries may be removed and scheduled while others are visited") {
    DeadlineWheel wheel(kStart, 10ms);
    std::array<Item, 4> items;
    for (auto& item : items)
        wheel.schedule(item, kStart + 5ms);
    std::vector<Item*> visited;
    const auto visit = [&](Item& each) {
        visited.push_back(&each);
        for (auto& other : items)
            wheel.remove(other);
        wheel.schedule(each, kStart + 20ms);
    };
    advance(wheel, kStart + 10ms, visit);
    CHECK(visited == std::vector{&items[0]});
    advance(wheel, kStart + 30ms, visit);
    CHECK(visited == std::vector{&items[0], &items[0]});
    wheel.remove(items[0]);
    wheel.remove(items[0]);
}

TEST_CASE("every entry can be visited at once, and those scheduled meanwhile are not visited again") {
    DeadlineWheel wheel(kStart, 10ms);
    std::array<Item, 5> items;
    for (auto& item : items)
        wheel.schedule(item, kStart + 1s);
    wheel.visit_each([&](DeadlineWheel::Entry& entry) {
        auto& item = static_cast<Item&>(entry);
        ++item.visits;
        wheel.schedule(item, kStart + 2s);
    });
    for (auto& item : items) {
        CHECK(item.visits == 1);
        wheel.remove(item);
    }
    wheel.visit_each([](DeadlineWheel::Entry&) { FAIL("nothing is left"); });
}

TEST_CASE("no random schedule loses an entry or visits it much too late") {
    std::srand(7);
    DeadlineWheel wheel(kStart, 5ms);
    std::array<Item, 64> items;
    auto now = kStart;
    for (auto& item : items) {
        item.deadline = now + std::chrono::milliseconds(std::rand() % 4'000);
        wheel.schedule(item, item.deadline);
    }
    for (int step = 0; step < 20'000; ++step) {
        now += std::chrono::milliseconds(std::rand() % 4);
        auto& moved = items[static_cast<std::size_t>(std::rand()) % items.size()];
        moved.deadline = now + std::chrono::milliseconds(std::rand() % 4'000);
        wheel.schedule(moved, moved.deadline);
        advance(wheel, now, [&](Item& each) {
            if (now >= each.deadline) each.deadline = now + std::chrono::milliseconds(std::rand() % 4'000);
            wheel.schedule(each, each.deadline);
        });
        for (const auto& item : items)
            REQUIRE(item.deadline + 15ms > now);
    }
}

}  // namespace tidemark::http
