#include "consumers/record_buffer.h"
#include "tests/unit/consumers/records.h"

#include <doctest/doctest.h>

#include <chrono>
#include <cstdint>
#include <map>
#include <random>
#include <vector>

using namespace std::chrono_literals;
using tidemark::consumers::FlushLimits;
using tidemark::consumers::RecordBuffer;
using tidemark::kafka::Start;
using tidemark::tests::record_at;
using Push = RecordBuffer::Push;

namespace {

constexpr RecordBuffer::Instant kNow{100s};

RecordBuffer expecting(std::vector<Start> starts) {
    RecordBuffer buffer;
    buffer.reset(starts);
    return buffer;
}

std::vector<std::int64_t> offsets(const RecordBuffer& buffer, std::int32_t partition) {
    std::vector<std::int64_t> offsets;
    for (const auto& record : buffer.parts().at(partition).records)
        offsets.push_back(record.offset);
    return offsets;
}

}  // namespace

TEST_CASE("a new buffer expects nothing and is empty") {
    RecordBuffer buffer;
    CHECK(buffer.empty());
    CHECK_FALSE(buffer.first());
    CHECK(buffer.push(record_at(0, 0), kNow) == Push::foreign);
    CHECK(buffer.empty());
    CHECK(buffer.records() == 0);
    CHECK(buffer.bytes() == 0);
}

TEST_CASE("records are kept in order of offsets, and offsets without one are counted as gaps") {
    auto buffer = expecting({{0, 10}, {1, 0}});
    CHECK(buffer.push(record_at(0, 10), kNow) == Push::kept);
    CHECK(buffer.push(record_at(0, 13), kNow) == Push::kept);
    CHECK(buffer.push(record_at(1, 5), kNow) == Push::kept);
    const auto& parts = buffer.parts();
    CHECK(parts.at(0).from == 10);
    CHECK(parts.at(0).next == 14);
    CHECK(parts.at(0).gaps() == 2);
    CHECK(offsets(buffer, 0) == std::vector<std::int64_t>{10, 13});
    CHECK(parts.at(1).gaps() == 5);
    CHECK(buffer.records() == 3);
    CHECK(buffer.bytes() == 3 * record_at(0, 0).bytes());
}

TEST_CASE("a record below what is expected is stale") {
    auto buffer = expecting({{0, 10}});
    CHECK(buffer.push(record_at(0, 9), kNow) == Push::stale);
    CHECK(buffer.empty());
    CHECK(buffer.push(record_at(0, 12), kNow) == Push::kept);
    CHECK(buffer.push(record_at(0, 12), kNow) == Push::stale);
    CHECK(buffer.push(record_at(0, 11), kNow) == Push::stale);
    CHECK(buffer.records() == 1);
    CHECK(buffer.parts().at(0).gaps() == 2);
}

TEST_CASE("a record of a partition that is not expected is foreign") {
    auto buffer = expecting({{0, 0}});
    CHECK(buffer.push(record_at(1, 0), kNow) == Push::foreign);
    CHECK(buffer.empty());
    CHECK_FALSE(buffer.parts().contains(1));
}

TEST_CASE("the end of a partition turns what lies before it into a gap") {
    auto buffer = expecting({{0, 10}});
    buffer.push(record_at(0, 10), kNow);
    buffer.reached(0, 15, kNow);
    CHECK(buffer.parts().at(0).next == 15);
    CHECK(buffer.parts().at(0).gaps() == 4);
    CHECK(buffer.push(record_at(0, 14), kNow) == Push::stale);
    CHECK(buffer.push(record_at(0, 15), kNow) == Push::kept);
    CHECK(buffer.parts().at(0).gaps() == 4);
}

TEST_CASE("a gap alone is something to write") {
    auto buffer = expecting({{0, 10}});
    buffer.reached(0, 11, kNow);
    CHECK_FALSE(buffer.empty());
    CHECK(buffer.first() == kNow);
    CHECK(buffer.records() == 0);
}

TEST_CASE("an end that says nothing new, or of another partition, changes nothing") {
    auto buffer = expecting({{0, 10}});
    buffer.reached(0, 10, kNow);
    buffer.reached(0, 3, kNow);
    buffer.reached(1, 30, kNow);
    CHECK(buffer.empty());
    CHECK(buffer.parts().at(0).next == 10);
    CHECK(buffer.parts().at(0).gaps() == 0);
    CHECK(buffer.parts().size() == 1);
}

TEST_CASE("the oldest moment is that of the first thing that came") {
    auto buffer = expecting({{0, 0}});
    buffer.push(record_at(0, 0), kNow);
    buffer.push(record_at(0, 1), kNow + 1s);
    buffer.reached(0, 5, kNow + 2s);
    CHECK(buffer.first() == kNow);
}

TEST_CASE("what was committed is dropped, what came later stays with its gaps") {
    auto buffer = expecting({{0, 0}, {1, 0}});
    for (const std::int64_t offset : {0, 2, 5, 6})
        buffer.push(record_at(0, offset), kNow);
    buffer.push(record_at(1, 3), kNow);
    buffer.reached(0, 9, kNow);
    buffer.committed(std::vector<Start>{{0, 4}}, kNow + 1s);
    CHECK(offsets(buffer, 0) == std::vector<std::int64_t>{5, 6});
    CHECK(buffer.parts().at(0).from == 4);
    CHECK(buffer.parts().at(0).next == 9);
    CHECK(buffer.parts().at(0).gaps() == 3);
    CHECK(buffer.parts().at(1).from == 0);
    CHECK(buffer.records() == 3);
    CHECK(buffer.bytes() == 3 * record_at(0, 0).bytes());
    CHECK(buffer.first() == kNow + 1s);
}

TEST_CASE("what is cut off is forgotten with its gaps, and expected again from there") {
    auto buffer = expecting({{0, 0}, {1, 0}});
    for (const std::int64_t offset : {0, 2, 5, 6})
        buffer.push(record_at(0, offset), kNow);
    buffer.push(record_at(1, 0), kNow);
    buffer.cut(0, 4);
    CHECK(offsets(buffer, 0) == std::vector<std::int64_t>{0, 2});
    CHECK(buffer.parts().at(0).next == 4);
    CHECK(buffer.parts().at(0).gaps() == 2);
    CHECK(buffer.records() == 3);
    CHECK(buffer.push(record_at(0, 5), kNow) == RecordBuffer::Push::kept);
    CHECK(buffer.parts().at(0).gaps() == 3);
    buffer.cut(0, 99);  // beyond what it holds
    buffer.cut(7, 0);   // of a partition that is not there
    CHECK(buffer.records() == 4);
    buffer.cut(0, 0);
    CHECK(buffer.first());
    buffer.cut(1, 0);
    CHECK(buffer.empty());
    CHECK(buffer.records() == 0);
    CHECK(buffer.bytes() == 0);
}

TEST_CASE("the record at the offset committed is the first that stays") {
    auto buffer = expecting({{0, 0}});
    for (const std::int64_t offset : {0, 1, 2})
        buffer.push(record_at(0, offset), kNow);
    buffer.committed(std::vector<Start>{{0, 1}}, kNow);
    CHECK(offsets(buffer, 0) == std::vector<std::int64_t>{1, 2});
}

TEST_CASE("with everything committed the buffer is empty and goes on from there") {
    auto buffer = expecting({{0, 0}});
    buffer.push(record_at(0, 0), kNow);
    buffer.committed(std::vector<Start>{{0, 1}}, kNow);
    CHECK(buffer.empty());
    CHECK(buffer.records() == 0);
    CHECK(buffer.bytes() == 0);
    CHECK(buffer.push(record_at(0, 1), kNow) == Push::kept);
    CHECK(buffer.parts().at(0).gaps() == 0);
}

TEST_CASE("a commit beyond what was seen moves the buffer on, one of a foreign partition does nothing") {
    auto buffer = expecting({{0, 0}});
    buffer.push(record_at(0, 0), kNow);
    buffer.committed(std::vector<Start>{{0, 7}, {5, 2}}, kNow);
    CHECK(buffer.empty());
    CHECK(buffer.parts().at(0).next == 7);
    CHECK(buffer.push(record_at(0, 6), kNow) == Push::stale);
    CHECK_FALSE(buffer.parts().contains(5));
}

TEST_CASE("starting anew forgets what was buffered") {
    auto buffer = expecting({{0, 0}});
    buffer.push(record_at(0, 4), kNow);
    buffer.reset(std::vector<Start>{{1, 20}});
    CHECK(buffer.empty());
    CHECK(buffer.records() == 0);
    CHECK(buffer.bytes() == 0);
    CHECK(buffer.push(record_at(0, 5), kNow) == Push::foreign);
    CHECK(buffer.push(record_at(1, 20), kNow) == Push::kept);
    buffer.clear();
    CHECK(buffer.parts().empty());
    CHECK(buffer.empty());
}

TEST_CASE("a buffer is full by records or by bytes, whichever comes first") {
    const auto one = record_at(0, 0).bytes();
    const struct {
        std::size_t records;
        std::size_t bytes;
        std::int64_t full_with;
    } cases[] = {{3, 1'000 * one, 3}, {1'000, 2 * one, 2}, {1'000, 2 * one + 1, 3}, {1, one, 1}};
    for (const auto& [records, bytes, full_with] : cases) {
        FlushLimits limits;
        limits.records = records;
        limits.bytes = bytes;
        auto buffer = expecting({{0, 0}});
        for (std::int64_t offset = 0; offset < full_with; ++offset) {
            CHECK_FALSE(buffer.full(limits));
            buffer.push(record_at(0, offset), kNow);
        }
        CHECK(buffer.full(limits));
    }
}

TEST_CASE("whatever is told in whatever order, every offset is a record or a gap and the sums are right") {
    std::mt19937_64 random(2);
    const auto below = [&random](std::int64_t bound) {
        return static_cast<std::int64_t>(random() % static_cast<std::uint64_t>(bound));
    };
    for (int round = 0; round < 300; ++round) {
        auto buffer = expecting({{0, below(5)}, {1, below(5)}});
        for (int step = 0; step < 40; ++step) {
            const auto partition = static_cast<std::int32_t>(below(3));
            const auto offset = below(60);
            switch (below(4)) {
                case 0:
                    buffer.reached(partition, offset, kNow);
                    break;
                case 1: {
                    const auto part = buffer.parts().find(partition);
                    if (part == buffer.parts().end()) break;
                    const auto& [from, next] = std::pair(part->second.from, part->second.next);
                    buffer.committed(std::vector<Start>{{partition, from + below(next - from + 1)}}, kNow);
                    break;
                }
                default:
                    buffer.push(record_at(partition, offset), kNow);
            }
            std::size_t records = 0;
            std::size_t bytes = 0;
            bool something = false;
            for (const auto& [number, part] : buffer.parts()) {
                CAPTURE(round);
                CAPTURE(step);
                REQUIRE(part.gaps() >= 0);
                REQUIRE(part.gaps() + static_cast<std::int64_t>(part.records.size()) == part.next - part.from);
                auto last = part.from - 1;
                for (const auto& record : part.records) {
                    REQUIRE(record.offset > last);
                    REQUIRE(record.offset < part.next);
                    last = record.offset;
                    bytes += record.bytes();
                }
                records += part.records.size();
                something = something || part.next != part.from;
            }
            REQUIRE(buffer.records() == records);
            REQUIRE(buffer.bytes() == bytes);
            REQUIRE(buffer.empty() == !something);
        }
    }
}
