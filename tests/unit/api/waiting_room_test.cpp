#include "api/waiting_room.h"

#include <doctest/doctest.h>

#include <optional>
#include <string>
#include <vector>

using namespace tidemark;
using namespace tidemark::api;
using namespace std::chrono_literals;

namespace {

constexpr schemas::Timestamp kNoon{std::chrono::sys_days{std::chrono::year{2026} / 11 / 20} + 12h};

Progress at(std::vector<std::int64_t> next, schemas::Timestamp as_of = kNoon) {
    Progress progress;
    progress.generation = 1;
    progress.as_of.assign(next.size(), as_of);
    progress.next = std::move(next);
    return progress;
}

/// A room with one stream of two partitions, and what became of the reads in it, by number.
struct Fixture {
    explicit Fixture(std::size_t capacity = 100) : room(1, capacity) {}

    std::size_t wait(Wish wish, std::chrono::milliseconds at_most = 5s) {
        const auto number = outcomes.size();
        outcomes.emplace_back();
        WaitingRoom::Calls calls;
        room.admit(
            0, std::move(wish), now + at_most,
            [this, number](const WaitOutcome& outcome) { outcomes[number] = outcome; }, now, calls);
        make(calls);
        return number;
    }
    void advance(const Progress& progress) {
        WaitingRoom::Calls calls;
        room.advance(0, progress, now, calls);
        make(calls);
    }
    void answer(const WaitingRoom::Question& question, const std::vector<std::int64_t>& ends,
                schemas::Timestamp asked_at = kNoon + 1h) {
        WaitingRoom::Calls calls;
        room.answer(question, asked_at, ends, calls);
        make(calls);
    }
    void expire() {
        WaitingRoom::Calls calls;
        room.expire(now, calls);
        make(calls);
    }
    static void make(WaitingRoom::Calls& calls) {
        for (auto& call : calls)
            call.done(call.outcome);
    }
    std::optional<Waited> waited(std::size_t number) {
        return outcomes.at(number) ? std::optional(outcomes[number]->waited) : std::nullopt;
    }
    bool pokes() { return !room.due_pokes(now).empty(); }

    WaitingRoom room;
    WaitingRoom::Instant now{1h};
    std::vector<std::optional<WaitOutcome>> outcomes;
};

Wish up_to(std::int32_t partition, std::int64_t offset) {
    return {.at_least = {{partition, offset}}};
}

}  // namespace

TEST_CASE("a position is held once the next offset lies beyond it") {
    Fixture f;
    f.advance(at({10, 5}));
    CHECK(f.waited(f.wait(up_to(0, 9))) == Waited::satisfied);
    const auto read = f.wait(up_to(0, 10));
    CHECK(f.waited(read) == std::nullopt);
    f.advance(at({10, 99}));
    CHECK(f.waited(read) == std::nullopt);
    f.advance(at({11, 99}));
    CHECK(f.waited(read) == Waited::satisfied);
    CHECK(f.room.waiting() == 0);
}

TEST_CASE("of several positions all are wanted") {
    Fixture f;
    f.advance(at({10, 5}));
    const auto read = f.wait({.at_least = {{0, 10}, {1, 5}}});
    f.advance(at({11, 5}));
    CHECK(f.waited(read) == std::nullopt);
    f.advance(at({11, 6}));
    CHECK(f.waited(read) == Waited::satisfied);
}

TEST_CASE("before the first look at the tables every wish waits") {
    Fixture f;
    const auto read = f.wait(up_to(0, 3));
    CHECK(f.waited(read) == std::nullopt);
    f.advance(at({4, 0}));
    CHECK(f.waited(read) == Waited::satisfied);
}

TEST_CASE("a wait ends stale at its deadline and not before") {
    Fixture f;
    f.advance(at({0, 0}));
    const auto read = f.wait(up_to(0, 3), 2s);
    f.now += 1'999ms;
    f.expire();
    CHECK(f.waited(read) == std::nullopt);
    f.now += 1ms;
    f.expire();
    CHECK(f.waited(read) == Waited::stale);
}

TEST_CASE("a full room takes nobody who would have to wait") {
    Fixture f(1);
    f.advance(at({10, 5}));
    const auto first = f.wait(up_to(0, 10));
    CHECK(f.waited(f.wait(up_to(0, 10))) == Waited::crowded);
    CHECK(f.waited(f.wait(up_to(0, 9))) == Waited::satisfied);
    f.advance(at({11, 5}));
    CHECK(f.waited(first) == Waited::satisfied);
    f.wait(up_to(0, 11));
    CHECK(f.room.waiting() == 1);
}

TEST_CASE("a position beyond the log's end is refused, not waited for") {
    Fixture f;
    f.advance(at({10, 5}));
    const auto read = f.wait(up_to(0, 12));
    const auto question = f.room.take_question();
    REQUIRE(question);
    f.answer(*question, {12, 5});
    CHECK(f.waited(read) == Waited::token_unknown);
}

TEST_CASE("a position within the log is waited for without asking again") {
    Fixture f;
    f.advance(at({10, 5}));
    const auto read = f.wait(up_to(0, 12));
    f.answer(*f.room.take_question(), {13, 6});
    CHECK(f.waited(read) == std::nullopt);
    f.wait(up_to(0, 11));
    CHECK_FALSE(f.room.take_question());
    f.advance(at({13, 5}));
    CHECK(f.waited(read) == Waited::satisfied);
    CHECK_FALSE(
        f.outcomes[read]->as_of);  // the tables hold what it asked for, but not the log up to the end that was told
}

TEST_CASE("a position in a partition that the log has not is refused") {
    Fixture f;
    f.advance(at({10, 5}));
    const auto read = f.wait(up_to(2, 0));
    f.answer(*f.room.take_question(), {10, 5});
    CHECK(f.waited(read) == Waited::token_unknown);
}

TEST_CASE("everything acknowledged means: up to the log's end as asked for after the read came") {
    Fixture f;
    f.advance(at({10, 5}));
    const auto early = f.wait({.everything_acknowledged = true});
    const auto question = f.room.take_question();
    const auto late = f.wait({.everything_acknowledged = true});
    f.answer(*question, {10, 5}, kNoon + 1s);
    CHECK(f.waited(early) == Waited::satisfied);
    CHECK(f.outcomes[early]->as_of == kNoon + 1s);
    CHECK(f.waited(late) == std::nullopt);
    const auto again = f.room.take_question();
    REQUIRE(again);
    f.answer(*again, {10, 6}, kNoon + 2s);
    CHECK(f.waited(late) == std::nullopt);
    f.advance(at({10, 6}));
    CHECK(f.waited(late) == Waited::satisfied);
    CHECK(f.outcomes[late]->as_of == kNoon + 2s);
}

TEST_CASE("a later question does not move what an earlier read waits for") {
    Fixture f;
    f.advance(at({10, 5}));
    const auto read = f.wait({.everything_acknowledged = true});
    f.answer(*f.room.take_question(), {11, 5});
    f.wait({.everything_acknowledged = true});
    f.answer(*f.room.take_question(), {20, 5});
    f.advance(at({11, 5}));
    CHECK(f.waited(read) == Waited::satisfied);
}

TEST_CASE("an age is satisfied by the tables' own instant, or by the log's end") {
    Fixture f;
    f.advance(at({10, 5}, kNoon));
    CHECK(f.waited(f.wait({.as_of = kNoon})) == Waited::satisfied);
    const auto by_instant = f.wait({.as_of = kNoon + 1s});
    f.advance(at({10, 5}, kNoon + 1s));
    CHECK(f.waited(by_instant) == Waited::satisfied);
    CHECK_FALSE(f.outcomes[by_instant]->as_of);
    const auto by_end = f.wait({.as_of = kNoon + 2s});
    f.answer(*f.room.take_question(), {10, 5}, kNoon + 3s);
    CHECK(f.waited(by_end) == Waited::satisfied);
    CHECK(f.outcomes[by_end]->as_of == kNoon + 3s);
}

TEST_CASE("tables of which one partition's instant is not known are of no age") {
    Fixture f;
    auto progress = at({10, 5});
    progress.as_of[1].reset();
    f.advance(progress);
    CHECK(f.waited(f.wait({.as_of = kNoon - 1h})) == std::nullopt);
}

TEST_CASE("a question without an answer is asked again while somebody waits for it") {
    Fixture f;
    f.advance(at({10, 5}));
    f.wait({.everything_acknowledged = true}, 1s);
    const auto question = f.room.take_question();
    f.room.no_answer(*question);
    CHECK(f.room.take_question());
    f.now += 1s;
    f.expire();
    f.room.no_answer(*question);
    CHECK_FALSE(f.room.take_question());
}

TEST_CASE("whoever waits has the owner asked to flush, early flushes 50 ms apart") {
    Fixture f;
    f.advance(at({10, 5}));
    CHECK_FALSE(f.pokes());
    f.wait(up_to(0, 10));
    CHECK(f.pokes());
    CHECK_FALSE(f.pokes());
    f.now += 10ms;
    f.wait(up_to(0, 10));
    CHECK_FALSE(f.pokes());
    CHECK(f.room.next_due() == f.now + 40ms);
    f.now += 40ms;
    CHECK(f.pokes());
    f.now += 10ms;
    f.advance(at({10, 6}));  // a flush, but not of the record waited for
    f.now += 40ms;
    CHECK(f.pokes());
}

TEST_CASE("asking that does not help gets rarer, and ends with the last who waits") {
    Fixture f;
    f.advance(at({10, 5}));
    f.wait(up_to(0, 10), 60s);
    int pokes = 0;
    for (int i = 0; i < 10'000; ++i, f.now += 1ms)
        pokes += f.pokes() ? 1 : 0;
    CHECK(pokes >= 10);
    CHECK(pokes <= 15);
    f.advance(at({11, 5}));
    CHECK(f.room.next_due() == WaitingRoom::Instant::max());
    f.now += 60s;
    CHECK_FALSE(f.pokes());
}

TEST_CASE("release lets everybody go as stale") {
    Fixture f;
    f.advance(at({10, 5}));
    const auto first = f.wait(up_to(0, 10));
    const auto second = f.wait({.everything_acknowledged = true});
    WaitingRoom::Calls calls;
    f.room.release(calls);
    Fixture::make(calls);
    CHECK(f.waited(first) == Waited::stale);
    CHECK(f.waited(second) == Waited::stale);
    CHECK(f.room.waiting() == 0);
}

TEST_CASE("a wish for the log alone holds once its end is known to lie beyond, and nobody is asked to flush for it") {
    Fixture f;
    CHECK(f.waited(f.wait({.at_least = {{0, 3}}, .only_in_log = true}, 0ms)) == std::nullopt);
    CHECK_FALSE(f.pokes());
    f.advance(at({10, 5}));
    CHECK(f.waited(0) == Waited::satisfied);
    CHECK(f.waited(f.wait({.at_least = {{0, 9}}, .only_in_log = true})) == Waited::satisfied);
    const auto in_log = f.wait({.at_least = {{0, 19}}, .only_in_log = true});
    const auto beyond = f.wait({.at_least = {{0, 20}}, .only_in_log = true});
    f.advance(at({11, 5}));
    CHECK_FALSE(f.pokes());
    const auto question = f.room.take_question();
    REQUIRE(question);
    f.answer(*question, {20, 5});
    CHECK(f.waited(in_log) == Waited::satisfied);
    CHECK(f.waited(beyond) == Waited::token_unknown);
    CHECK(f.waited(f.wait({.at_least = {{0, 15}}, .only_in_log = true})) == Waited::satisfied);
    const auto unanswered = f.wait({.at_least = {{1, 9}}, .only_in_log = true}, 2s);
    f.now += 2s;
    f.expire();
    CHECK(f.waited(unanswered) == Waited::stale);
    CHECK(f.room.waiting() == 0);
}
