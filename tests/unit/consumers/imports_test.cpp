#include "consumers/imports.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cstdint>
#include <limits>
#include <random>
#include <set>
#include <string>
#include <tuple>
#include <vector>

using tidemark::consumers::Imports;
using namespace std::string_literals;

namespace {

constexpr std::int64_t kMost = std::numeric_limits<std::int64_t>::max();
constexpr const char* kFile = "AAAAAAAAAAAAAAAAAAAAAA";
constexpr const char* kOther = "AAAAAAAAAAAAAAAAAAAAAB";

}  // namespace

TEST_CASE("a line comes once to each partition, whatever the order") {
    Imports imports;
    CHECK(imports.empty());
    for (const std::int64_t number :
         {std::int64_t{7}, std::int64_t{1}, std::int64_t{8'192}, std::int64_t{8'193}, kMost, std::int64_t{2}}) {
        CAPTURE(number);
        CHECK(imports.come(0, {kFile, number}));
        CHECK_FALSE(imports.come(0, {kFile, number}));
        CHECK(imports.come(1, {kFile, number}));
        CHECK(imports.come(0, {kOther, number}));
        CHECK_FALSE(imports.come(0, {kFile, number}));
    }
    CHECK_FALSE(imports.come(1, {kFile, 7}));
    CHECK(imports.come(1, {kFile, 6}));
}

TEST_CASE("a block's bits begin with its first line and end with the last that came") {
    Imports imports;
    CHECK(imports.come(3, {kFile, 1}));
    CHECK(imports.come(3, {kFile, 10}));
    CHECK(imports.come(3, {kFile, 8'193}));
    CHECK(imports.come(3, {kFile, 16'384}));
    const auto& blocks = imports.blocks();
    REQUIRE(blocks.size() == 2);
    CHECK(blocks.at({3, kFile, 0}).bits == "\x01\x02"s);
    CHECK(blocks.at({3, kFile, 1}).bits == "\x01"s + std::string(1'022, '\0') + "\x80"s);
}

TEST_CASE("what is loaded has come, and is written back only if something is new") {
    Imports imports;
    imports.expect(0, {kFile, 3});
    imports.expect(0, {kFile, 4});
    imports.expect(1, {kFile, 3});
    REQUIRE(imports.blocks().size() == 2);
    imports.loaded({0, kFile, 0}, "\x04"s);
    imports.loaded({1, kFile, 0}, "\x04"s);
    CHECK_FALSE(imports.come(0, {kFile, 3}));
    CHECK(imports.come(0, {kFile, 4}));
    CHECK_FALSE(imports.come(1, {kFile, 3}));
    CHECK(imports.blocks().at({0, kFile, 0}).bits == "\x0C"s);
    CHECK(imports.blocks().at({0, kFile, 0}).changed);
    CHECK_FALSE(imports.blocks().at({1, kFile, 0}).changed);
}

TEST_CASE("it says of any sequence, however cut, what a set of lines would say") {
    std::mt19937_64 random(7);
    const auto below = [&](std::int64_t bound) {
        return static_cast<std::int64_t>(random() % static_cast<std::uint64_t>(bound));
    };
    std::set<std::tuple<std::int32_t, std::string, std::int64_t>> seen;
    Imports::Blocks stored;
    for (int batch = 0; batch < 300; ++batch) {
        std::vector<std::tuple<std::int32_t, std::string, std::int64_t>> records;
        for (auto n = below(40); n >= 0; --n) {
            const auto around = below(3) * Imports::kLinesOfBlock;
            records.emplace_back(below(3), below(2) == 0 ? kFile : kOther,
                                 std::max<std::int64_t>(1, around + below(60) - 30));
        }
        Imports imports;
        for (const auto& [partition, file, number] : records)
            imports.expect(partition, {file, number});
        for (const auto& [block, lines] : stored) {
            if (imports.blocks().contains(block)) imports.loaded(block, lines.bits);
        }
        for (const auto& record : records) {
            const auto& [partition, file, number] = record;
            CHECK(imports.come(partition, {file, number}) == seen.insert(record).second);
        }
        for (const auto& [block, lines] : imports.blocks()) {
            if (lines.changed) stored[block] = lines;
        }
    }
    CHECK(seen.size() > 500);
}
