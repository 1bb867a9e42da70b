#include "infra/kafka/partitioner.h"

#include <librdkafka/rdkafka.h>

#include <doctest/doctest.h>

#include <random>
#include <string>

using tidemark::kafka::murmur2_partition;

TEST_CASE("the partition of a key is the one that the client library gives it") {
    std::mt19937 random(7);
    for (int n = 0; n < 20'000; ++n) {
        std::string key(random() % 300, '\0');
        for (auto& byte : key)
            byte = static_cast<char>(random());
        const auto partitions = static_cast<std::int32_t>(1 + random() % 64);
        CAPTURE(key.size());
        REQUIRE(murmur2_partition(key, partitions) ==
                rd_kafka_msg_partitioner_murmur2(nullptr, key.data(), key.size(), partitions, nullptr, nullptr));
    }
    REQUIRE(murmur2_partition("", 12) == rd_kafka_msg_partitioner_murmur2(nullptr, "", 0, 12, nullptr, nullptr));
}

TEST_CASE("the hash is Java's own") {
    // Expected values of Kafka's UtilsTest.testMurmur2, made positive, modulo a prime that keeps them apart.
    constexpr std::int32_t kPrime = 2'147'483'629;
    const auto expected = [](std::int32_t hash) { return (hash & 0x7fffffff) % kPrime; };
    CHECK(murmur2_partition("21", kPrime) == expected(-973932308));
    CHECK(murmur2_partition("foobar", kPrime) == expected(-790332482));
    CHECK(murmur2_partition("a-little-bit-long-string", kPrime) == expected(-985981536));
    CHECK(murmur2_partition("a-little-bit-longer-string", kPrime) == expected(-1486304829));
    CHECK(murmur2_partition("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", kPrime) == expected(-58897971));
    CHECK(murmur2_partition("abc", kPrime) == expected(479470107));
}
