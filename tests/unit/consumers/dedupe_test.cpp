#include "consumers/dedupe.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <map>
#include <random>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

using namespace std::chrono_literals;
using tidemark::consumers::Dedupe;
using tidemark::schemas::kDedupeHorizon;
using tidemark::schemas::Timestamp;
using Verdict = Dedupe::Verdict;

namespace {

constexpr Timestamp kStart{1'700'000'000s};

Dedupe knowing(const Dedupe::Id& id, const Dedupe::First& first) {
    Dedupe dedupe;
    dedupe.loaded(id, first);
    return dedupe;
}

struct Sight {
    Dedupe::Id id;
    Timestamp log_time;
    std::string hash;
};

struct Outcome {
    std::vector<Verdict> verdicts;
    std::map<std::pair<std::int32_t, std::string>, std::pair<std::int64_t, std::string>> rows;  // offset and hash by id

    friend bool operator==(const Outcome& a, const Outcome& b) { return a.verdicts == b.verdicts && a.rows == b.rows; }
};

}  // namespace

TEST_CASE("a repeat within the horizon of log time is a duplicate, one beyond it is a first sight again") {
    const Dedupe::Id id{0, "a"};
    const auto dedupe = knowing(id, {7, kStart, "hash"});
    const struct {
        std::chrono::microseconds after;
        Verdict verdict;
    } cases[] = {
        {0us, Verdict::duplicate},
        {1us, Verdict::duplicate},
        {kDedupeHorizon - 1us, Verdict::duplicate},
        {kDedupeHorizon, Verdict::duplicate},
        {kDedupeHorizon + 1us, Verdict::first},
        {2 * kDedupeHorizon, Verdict::first},
    };
    for (const auto& repeat : cases) {
        CAPTURE(repeat.after.count());
        CHECK(dedupe.decide(id, kStart + repeat.after, "hash") == repeat.verdict);
    }
}

TEST_CASE("a repeat with other data is a conflict within the horizon only") {
    const Dedupe::Id id{0, "a"};
    const auto dedupe = knowing(id, {7, kStart, "hash"});
    CHECK(dedupe.decide(id, kStart + kDedupeHorizon, "other") == Verdict::conflict);
    CHECK(dedupe.decide(id, kStart + kDedupeHorizon + 1us, "other") == Verdict::first);
}

TEST_CASE("an identity that was asked for and not found is new") {
    Dedupe dedupe;
    CHECK_FALSE(dedupe.knows({0, "a"}));
    dedupe.loaded_none({0, "a"});
    CHECK(dedupe.knows({0, "a"}));
    CHECK(dedupe.decide({0, "a"}, kStart, "hash") == Verdict::first);
    CHECK(dedupe.decide({0, "a"}, Timestamp{}, "") == Verdict::first);
    CHECK(dedupe.to_store().empty());
}

TEST_CASE("deciding an identity that was never asked for is a bug and says so") {
    const Dedupe dedupe;
    CHECK_THROWS_AS(static_cast<void>(dedupe.decide({0, "a"}, kStart, "hash")), std::out_of_range);
}

TEST_CASE("asking for an identity again forgets nothing of it") {
    const Dedupe::Id id{0, "a"};
    auto dedupe = knowing(id, {7, kStart, "hash"});
    dedupe.loaded_none(id);
    CHECK(dedupe.decide(id, kStart, "hash") == Verdict::duplicate);
}

TEST_CASE("partitions do not know each other's identities") {
    auto dedupe = knowing({0, "a"}, {7, kStart, "hash"});
    CHECK_FALSE(dedupe.knows({1, "a"}));
    dedupe.loaded_none({1, "a"});
    CHECK(dedupe.decide({1, "a"}, kStart, "hash") == Verdict::first);
}

TEST_CASE("a verdict alone changes nothing: only what was applied is a first sight") {
    const Dedupe::Id id{0, "a"};
    Dedupe dedupe;
    dedupe.loaded_none(id);
    CHECK(dedupe.decide(id, kStart, "parked") == Verdict::first);
    CHECK(dedupe.decide(id, kStart, "applied") == Verdict::first);
    dedupe.applied(id, {2, kStart, "applied"});
    CHECK(dedupe.decide(id, kStart, "applied") == Verdict::duplicate);
    CHECK(dedupe.decide(id, kStart, "parked") == Verdict::conflict);
}

TEST_CASE("a first sight beyond the horizon replaces the old one") {
    const Dedupe::Id id{0, "a"};
    auto dedupe = knowing(id, {7, kStart, "old"});
    const auto later = kStart + kDedupeHorizon + 1us;
    dedupe.applied(id, {8, later, "new"});
    CHECK(dedupe.decide(id, later + kDedupeHorizon, "new") == Verdict::duplicate);
    CHECK(dedupe.decide(id, later, "old") == Verdict::conflict);
    const auto rows = dedupe.to_store();
    REQUIRE(rows.size() == 1);
    CHECK(*rows[0].first == id);
    CHECK(rows[0].second->offset == 8);
    CHECK(rows[0].second->log_time == later);
    CHECK(rows[0].second->data_hash == "new");
}

TEST_CASE("what is stored is what is new, sorted by partition and identity") {
    Dedupe dedupe;
    dedupe.loaded({0, "known"}, {1, kStart, "hash"});
    for (const Dedupe::Id& id : {Dedupe::Id{2, "b"}, Dedupe::Id{10, "a"}, Dedupe::Id{2, "a"}, Dedupe::Id{0, "z"}}) {
        dedupe.loaded_none(id);
        dedupe.applied(id, {5, kStart, "hash"});
    }
    std::vector<Dedupe::Id> stored;
    for (const auto& [id, first] : dedupe.to_store())
        stored.push_back(*id);
    CHECK(stored == std::vector<Dedupe::Id>{{0, "z"}, {2, "a"}, {2, "b"}, {10, "a"}});
}

TEST_CASE("any cut of a log into batches gives the same verdicts and the same first sights") {
    const auto fold = [](const std::vector<Sight>& log, const std::vector<std::size_t>& cuts) {
        std::map<std::pair<std::int32_t, std::string>, Dedupe::First> table;
        Outcome outcome;
        std::size_t from = 0;
        for (const auto to : cuts) {
            Dedupe dedupe;
            for (auto at = from; at < to; ++at) {
                const auto& id = log[at].id;
                if (const auto row = table.find({id.partition, id.identity}); row != table.end()) {
                    dedupe.loaded(id, row->second);
                } else {
                    dedupe.loaded_none(id);
                }
            }
            for (; from < to; ++from) {
                const auto& sight = log[from];
                const auto verdict = dedupe.decide(sight.id, sight.log_time, sight.hash);
                outcome.verdicts.push_back(verdict);
                if (verdict != Verdict::first) continue;
                dedupe.applied(sight.id, {static_cast<std::int64_t>(from), sight.log_time, sight.hash});
            }
            for (const auto& [id, first] : dedupe.to_store())
                table.insert_or_assign({id->partition, id->identity}, *first);
        }
        for (const auto& [id, first] : table)
            outcome.rows[id] = {first.offset, first.data_hash};
        return outcome;
    };
    std::mt19937_64 random(1);
    const auto below = [&random](std::uint64_t bound) { return random() % bound; };
    for (int round = 0; round < 500; ++round) {
        std::vector<Sight> log;
        auto log_time = kStart;
        for (auto left = 1 + below(40); left > 0; --left) {
            log_time += std::chrono::hours(below(10));
            log.push_back({{static_cast<std::int32_t>(below(2)), std::string(1, static_cast<char>('a' + below(4)))},
                           log_time,
                           below(4) == 0 ? "other" : "hash"});
        }
        std::vector<std::size_t> cuts;
        for (std::size_t at = 1; at < log.size(); ++at) {
            if (below(3) == 0) cuts.push_back(at);
        }
        cuts.push_back(log.size());
        CAPTURE(round);
        REQUIRE(fold(log, cuts) == fold(log, {log.size()}));
    }
}
