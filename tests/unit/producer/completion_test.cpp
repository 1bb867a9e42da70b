#include "producer/completion.h"

#include <doctest/doctest.h>

#include <array>
#include <memory>
#include <type_traits>
#include <utility>

using namespace tidemark::producer;

TEST_CASE("a completion calls what it holds once, with the outcome, and lets go of it") {
    auto held = std::make_shared<int>(0);
    std::weak_ptr<int> alive = held;
    Published seen;
    Completion completion([held = std::move(held), &seen](const Published& published) noexcept {
        ++*held;
        CHECK(*held == 1);
        seen = published;
    });
    CHECK(completion);
    completion({Outcome::accepted, 3, 41});
    CHECK_FALSE(completion);
    CHECK(seen.outcome == Outcome::accepted);
    CHECK(seen.partition == 3);
    CHECK(seen.offset == 41);
    CHECK(alive.expired());
}

TEST_CASE("a moved completion leaves the old one empty and its captures live once") {
    auto held = std::make_shared<int>(7);
    std::weak_ptr<int> alive = held;
    int sum = 0;
    Completion first([held = std::move(held), &sum](const Published&) noexcept { sum += *held; });
    Completion second(std::move(first));
    CHECK_FALSE(first);
    Completion third;
    third = std::move(second);
    CHECK_FALSE(second);
    CHECK(alive.use_count() == 1);
    third({});
    CHECK(sum == 7);
    CHECK(alive.expired());
}

TEST_CASE("a completion that is dropped or assigned over destroys its captures without calling") {
    auto held = std::make_shared<int>(0);
    std::weak_ptr<int> alive = held;
    bool called = false;
    {
        Completion dropped([held, &called](const Published&) noexcept { called = true; });
        Completion over([held = std::move(held), &called](const Published&) noexcept { called = true; });
        over = Completion([](const Published&) noexcept {});
        CHECK(alive.use_count() == 1);
    }
    CHECK(alive.expired());
    CHECK_FALSE(called);
}

TEST_CASE("a completion holds 64 bytes and may empty itself into its own successor while it runs") {
    std::array<char, 56> bytes{};
    bytes[55] = 'x';
    Completion next;
    Completion* into = nullptr;
    auto body = [bytes, into = &next](const Published&) noexcept {
        if (bytes[55] == 'x') *into = Completion([](const Published&) noexcept {});
    };
    static_assert(sizeof(body) == Completion::kCapacity);
    into = &next;
    *into = Completion(body);
    (*into)({});
    CHECK(next);
    static_assert(!std::is_copy_constructible_v<Completion>);
    static_assert(std::is_nothrow_move_constructible_v<Completion>);
}
