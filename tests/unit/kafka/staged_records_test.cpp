#include "infra/kafka/staged_records.h"

#include <doctest/doctest.h>

#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

using namespace tidemark::kafka;
using namespace std::chrono_literals;

namespace {

using TimePoint = StagedRecords::TimePoint;

constexpr TimePoint at(std::chrono::milliseconds since_start) {
    return TimePoint(since_start);
}

std::vector<std::uint64_t> tags_of(const StagedRecords& records) {
    std::vector<std::uint64_t> tags;
    records.for_each([&](auto, auto, auto, std::uint64_t tag) { tags.push_back(tag); });
    return tags;
}

}  // namespace

TEST_CASE("staged records come back in order, byte for byte, with their headers") {
    StagedRecords records;
    const std::vector<Header> headers{{"content-type", "text"}, {"empty", ""}, {"none", {}}};
    records.add("k", std::string_view("a\0b", 3), headers, 1, at(0ms));
    records.add("key", "", {}, 2, at(0ms));
    REQUIRE(records.size() == 2);
    std::vector<std::string> seen;
    records.for_each([&](std::string_view key, std::string_view value, std::span<const Header> with, std::uint64_t) {
        seen.emplace_back(key);
        seen.emplace_back(value);
        for (const auto& header : with)
            seen.push_back(std::string(header.name) +
                           (header.value.data() == nullptr ? "" : "=" + std::string(header.value)));
    });
    CHECK(seen ==
          std::vector<std::string>{"k", std::string("a\0b", 3), "content-type=text", "empty=", "none", "key", ""});
}

TEST_CASE("a staged record may have as many headers as any") {
    StagedRecords records;
    const std::vector<Header> headers(tidemark::kafka::kMaxHeaders, Header{"name", "value"});
    records.add("k", "v", headers, 1, at(0ms));
    std::size_t seen = 0;
    records.for_each([&](auto, auto, std::span<const Header> with, std::uint64_t) {
        for (const auto& header : with)
            seen += header.name == "name" && header.value == "value" ? 1 : 0;
    });
    CHECK(seen == tidemark::kafka::kMaxHeaders);
}

TEST_CASE("overdue records are dropped from the oldest on, up to the first that may wait longer") {
    StagedRecords records;
    records.add("k", "12", {}, 1, at(10ms));
    records.add("k", "1", {}, 2, at(30ms));
    records.add("k", "1", {}, 3, at(20ms));
    std::vector<std::pair<std::uint64_t, std::size_t>> dropped;
    const auto note = [&](std::uint64_t tag, std::size_t bytes) { dropped.emplace_back(tag, bytes); };
    records.drop_overdue(at(9ms), note);
    CHECK(dropped.empty());
    records.drop_overdue(at(20ms), note);
    CHECK(dropped == std::vector<std::pair<std::uint64_t, std::size_t>>{{1, 3}});
    CHECK(tags_of(records) == std::vector<std::uint64_t>{2, 3});
    records.drop_overdue(at(30ms), note);
    CHECK(records.empty());
    CHECK(dropped.size() == 3);
}

TEST_CASE("what is dropped gives its memory back while others still wait") {
    // A partition whose broker is away for a minute: records come and run out of time behind each other, so that there
    // never is a moment at which none waits.
    StagedRecords records;
    const std::string value(1'000, 'x');
    const std::vector<Header> headers{{"content-type", "text"}};
    constexpr int kWaiting = 500;
    for (int n = 0; n < 100'000; ++n) {
        records.add("key", value, headers, static_cast<std::uint64_t>(n), at(std::chrono::milliseconds(n + kWaiting)));
        records.drop_overdue(at(std::chrono::milliseconds(n)), [](auto, auto) {});
        REQUIRE(records.size() <= kWaiting);
    }
    CHECK(records.memory() < 8 * kWaiting * value.size());
    std::uint64_t next = 100'000 - kWaiting;
    records.for_each([&](std::string_view key, std::string_view its_value, auto, std::uint64_t tag) {
        REQUIRE(key == "key");
        REQUIRE(its_value == value);
        REQUIRE(tag == next++);
    });
    CHECK(next == 100'000);
}

TEST_CASE("what a burst took is given back, what usual traffic needs is kept") {
    StagedRecords records;
    const std::string value(1'000, 'x');
    for (std::uint64_t n = 0; n < 10'000; ++n)
        records.add("key", value, {}, n, at(0ms));
    CHECK(records.memory() >= 10'000 * value.size());
    records.clear();
    CHECK(records.memory() <= 2 * StagedRecords::kKeptBytes);

    for (std::uint64_t n = 0; n < 100; ++n)
        records.add("key", value, {}, n, at(0ms));
    const auto usual = records.memory();
    records.clear();
    CHECK(records.memory() == usual);
}

TEST_CASE("the oldest are taken, as many as are within the limits but one at least, and the others stay as they were") {
    StagedRecords records;
    const std::vector<Header> headers{{"n", "v"}};
    const auto fill = [&] {
        records.clear();
        for (std::uint64_t tag = 1; tag <= 5; ++tag)
            records.add("k", std::string(9, 'x'), headers, tag, at(std::chrono::milliseconds(tag)));
    };
    struct Case {
        std::size_t most_records = 0;
        std::size_t most_bytes = 0;
        std::vector<std::uint64_t> taken;
        std::vector<std::uint64_t> left;
    };
    const std::vector<Case> cases{
        {2, 1'000, {1, 2}, {3, 4, 5}},  {5, 1'000, {1, 2, 3, 4, 5}, {}},    {9, 1'000, {1, 2, 3, 4, 5}, {}},
        {9, 3 * 20, {1, 2, 3}, {4, 5}}, {9, 3 * 20 - 1, {1, 2}, {3, 4, 5}}, {4, 1'000, {1, 2, 3, 4}, {5}},
        {9, 1, {1}, {2, 3, 4, 5}},
    };
    for (const auto& each : cases) {
        CAPTURE(each.most_records);
        CAPTURE(each.most_bytes);
        fill();
        StagedRecords to;
        records.take(to, each.most_records, each.most_bytes);
        CHECK(tags_of(to) == each.taken);
        CHECK(tags_of(records) == each.left);
        records.add("k", "another", {}, 6, at(6ms));
        std::string values;
        records.for_each([&](auto, std::string_view value, auto, auto) { values = value; });
        CHECK(values == "another");
    }
}
