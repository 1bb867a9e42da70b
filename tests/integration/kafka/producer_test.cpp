#include "infra/kafka/producer.h"

#include "infra/kafka/admin.h"
#include "infra/kafka/partitioner.h"
#include "tests/support/kafka.h"

#include <doctest/doctest.h>

#include <chrono>
#include <random>
#include <set>
#include <string>
#include <vector>

using namespace tidemark;
using namespace tidemark::kafka;
using namespace tidemark::tests;

namespace {

struct Bench {
    explicit Bench(std::int32_t partitions) {
        admin.create_topic({topic, partitions, 1, {{"message.timestamp.type", "LogAppendTime"}}});
        producer =
            std::make_unique<Producer>(ProducerOptions{.brokers = test_brokers(), .topics = {topic}}, deliveries);
        REQUIRE(eventually([&] { return producer->available(); }));
    }
    Admin admin{test_brokers()};
    std::string topic = unique_name("produced");
    Deliveries deliveries;
    std::unique_ptr<Producer> producer;
};

}  // namespace

TEST_CASE("every record stands where its report says, in the partition that its key's murmur2 hash names") {
    Bench bench(7);
    std::mt19937 random(3);
    constexpr std::uint64_t kRecords = 5'000;
    std::vector<std::string> keys;
    for (std::uint64_t tag = 0; tag < kRecords; ++tag) {
        std::string key(1 + random() % 256, '\0');
        for (auto& byte : key)
            byte = static_cast<char>(random());
        REQUIRE(bench.producer->produce({0, key, std::to_string(tag), {}, tag}) == Enqueued::ok);
        keys.push_back(key);
    }
    REQUIRE(bench.deliveries.wait_for(kRecords));
    const auto log = read_log(test_brokers(), bench.topic, 7);
    const auto all = bench.deliveries.all();
    for (const auto& [tag, delivery] : all) {
        REQUIRE(delivery.persistence == Persistence::persisted);
        REQUIRE(delivery.partition == murmur2_partition(keys[tag], 7));
        REQUIRE(log.at(std::to_string(tag)) ==
                std::vector<std::pair<std::int32_t, std::int64_t>>{{delivery.partition, delivery.offset}});
    }
}

TEST_CASE("records of one key stand in the order in which they were produced") {
    Bench bench(3);
    constexpr std::uint64_t kRecords = 3'000;
    for (std::uint64_t tag = 0; tag < kRecords; ++tag)
        REQUIRE(bench.producer->produce({0, "one", std::to_string(tag), {}, tag}) == Enqueued::ok);
    REQUIRE(bench.deliveries.wait_for(kRecords));
    for (std::uint64_t tag = 1; tag < kRecords; ++tag) {
        REQUIRE(bench.deliveries.of(tag).offset == bench.deliveries.of(tag - 1).offset + 1);
    }
}

TEST_CASE("headers and bytes arrive as they were given, an empty value as empty") {
    using namespace std::string_view_literals;
    Bench bench(1);
    const std::array<Header, 2> headers{
        {{"content-type", "application/cloudevents+json"}, {"traceparent", "\0\xff"sv}}};
    REQUIRE(bench.producer->produce({0, "a\0b"sv, "\xff\0"sv, headers, 1}) == Enqueued::ok);
    REQUIRE(bench.producer->produce({0, "k", "", {}, 2}) == Enqueued::ok);
    REQUIRE(bench.producer->produce({0, "k", {}, {}, 3}) == Enqueued::ok);
    REQUIRE(bench.deliveries.wait_for(3));
    const auto first = bench.admin.read_at(bench.topic, 0, 0);
    REQUIRE(first);
    CHECK(first->key == "a\0b"sv);
    CHECK(first->value == "\xff\0"sv);
    const auto found = first->headers();
    REQUIRE(found.size() == 2);
    CHECK(found[0].name == "content-type");
    CHECK(found[0].value == "application/cloudevents+json");
    CHECK(found[1].name == "traceparent");
    CHECK(found[1].value == "\0\xff"sv);
    for (const std::int64_t offset : {1, 2}) {
        const auto empty = bench.admin.read_at(bench.topic, 0, offset);
        REQUIRE(empty);
        CHECK(empty->value == "");
        CHECK(empty->headers().empty());
    }
}

TEST_CASE("the first record of a producer that says it is ready is not late") {
    // A client that must first ask for the topic's metadata waits a second.
    for (int round = 0; round < 3; ++round) {
        Bench bench(4);
        const auto begin = std::chrono::steady_clock::now();
        REQUIRE(bench.producer->produce({0, "k", "v", {}, 1}) == Enqueued::ok);
        REQUIRE(bench.deliveries.wait_for(1));
        CHECK(std::chrono::steady_clock::now() - begin < 900ms);
    }
}

TEST_CASE("the client's queue drains by itself: many times what it holds passes through") {
    Bench bench(4);
    constexpr std::uint64_t kRecords = 100'000;
    for (std::uint64_t tag = 0; tag < kRecords; ++tag) {
        REQUIRE(eventually([&] {
            const auto enqueued = bench.producer->produce({0, std::to_string(tag % 1'000), "v", {}, tag});
            REQUIRE((enqueued == Enqueued::ok || enqueued == Enqueued::full));
            return enqueued == Enqueued::ok;
        }));
    }
    REQUIRE(bench.deliveries.wait_for(kRecords));
    CHECK(bench.deliveries.count(Persistence::persisted) == kRecords);
    const auto ends = bench.admin.end_offsets(bench.topic, 4);
    CHECK(ends[0] + ends[1] + ends[2] + ends[3] == static_cast<std::int64_t>(kRecords));
}
