#include "infra/kafka/admin.h"

#include "infra/kafka/error.h"
#include "tests/support/kafka.h"

#include <doctest/doctest.h>

#include <string>
#include <vector>

using namespace tidemark;
using namespace tidemark::kafka;
using namespace tidemark::tests;

namespace {

TopicSpec spec_of(const std::string& name, std::int32_t partitions) {
    return {name, partitions, 1, {{"message.timestamp.type", "LogAppendTime"}, {"retention.ms", "-1"}}};
}

}  // namespace

TEST_CASE("a topic is created once, with its partitions and settings, and can be used at once") {
    Admin admin(test_brokers());
    for (int round = 0; round < 5; ++round) {
        const auto topic = unique_name("created");
        CHECK(admin.partition_count(topic) == std::nullopt);
        CHECK(admin.create_topic(spec_of(topic, 12)));
        CHECK(admin.partition_count(topic) == 12);
        CHECK(admin.end_offsets(topic, 12) == std::vector<std::int64_t>(12, 0));
        CHECK_FALSE(admin.create_topic(spec_of(topic, 3)));
        CHECK(admin.partition_count(topic) == 12);
        const auto settings = admin.topic_settings(topic);
        CHECK(settings.at("message.timestamp.type") == "LogAppendTime");
        CHECK(settings.at("retention.ms") == "-1");
    }
}

TEST_CASE("what the broker refuses to create is an error that says why") {
    Admin admin(test_brokers());
    try {
        admin.create_topic({unique_name("bad"), 1, 1, {{"retention.ms", "soon"}}});
        FAIL("created");
    } catch (const Error& error) {
        CHECK_FALSE(error.is_retryable());
        CHECK(std::string(error.what()).find("retention.ms") != std::string::npos);
    }
    CHECK_THROWS_AS(admin.create_topic(spec_of("no/slash", 1)), Error);
    CHECK_THROWS_AS(static_cast<void>(admin.topic_settings(unique_name("none"))), Error);
    CHECK_THROWS_AS(static_cast<void>(admin.end_offsets(unique_name("none"), 1)), Error);
}

TEST_CASE("records are appended to exactly the partition named, and read back where they stand") {
    using namespace std::string_view_literals;
    Admin admin(test_brokers());
    const auto topic = unique_name("appended");
    admin.create_topic(spec_of(topic, 3));
    CHECK(admin.append(topic, 2, "", "first") == 0);
    CHECK(admin.append(topic, 2, "key", "a\0b"sv) == 1);
    CHECK(admin.end_offsets(topic, 3) == std::vector<std::int64_t>{0, 0, 2});

    const auto first = admin.read_at(topic, 2, 0);
    REQUIRE(first);
    CHECK(first->offset == 0);
    CHECK(first->key == std::nullopt);
    CHECK(first->value == "first");
    CHECK(first->append_time.time_since_epoch() > std::chrono::hours(24 * 365 * 50));
    const auto second = admin.read_at(topic, 2, 1);
    REQUIRE(second);
    CHECK(second->key == "key");
    CHECK(second->value == "a\0b"sv);
    CHECK_FALSE(admin.read_at(topic, 2, 2));
    CHECK_FALSE(admin.read_at(topic, 2, 100));
    CHECK_FALSE(admin.read_at(topic, 0, 0));
}

TEST_CASE("the end of a partition counts records of a foreign transaction that is still open") {
    Admin admin(test_brokers());
    const auto topic = unique_name("open");
    admin.create_topic(spec_of(topic, 2));
    ForeignProducer foreign(test_brokers(), {{"transactional.id", unique_name("tx")}});
    foreign.begin();
    foreign.produce(topic, 0, "k", "uncommitted");
    foreign.flush();
    CHECK(admin.append(topic, 0, "k", "acknowledged") == 1);
    CHECK(admin.end_offsets(topic, 2) == std::vector<std::int64_t>{2, 0});
    const auto marks = admin.watermarks(topic, 2);
    REQUIRE(marks.size() == 2);
    CHECK(marks[0].low == 0);
    CHECK(marks[0].high == 2);
    CHECK(admin.read_at(topic, 0, 1)->value == "acknowledged");
    foreign.abort();
    // The marker takes an offset and is no record.
    REQUIRE(eventually([&] { return admin.end_offsets(topic, 2)[0] == 3; }));
    CHECK_FALSE(admin.read_at(topic, 0, 2));
    CHECK(admin.append(topic, 0, "k", "after") == 3);
    CHECK(admin.read_at(topic, 0, 2)->offset == 3);
}

TEST_CASE("a broker that is not there is a retryable error within the time-out, and says what to check") {
    Admin admin("127.0.0.1:1", {}, 500ms);
    const auto begin = std::chrono::steady_clock::now();
    const auto refused = [&](auto&& call) {
        try {
            call();
        } catch (const Error& error) {
            return error.is_retryable() &&
                   std::string(error.what()).find("check that the broker runs") != std::string::npos;
        }
        return false;
    };
    CHECK(refused([&] { static_cast<void>(admin.partition_count("t")); }));
    CHECK(refused([&] { static_cast<void>(admin.end_offsets("t", 1)); }));
    CHECK(refused([&] { static_cast<void>(admin.watermarks("t", 1)); }));
    CHECK(refused([&] { admin.create_topic(spec_of("t", 1)); }));
    CHECK_THROWS_AS(admin.append("t", 0, "k", "v"), Error);
    CHECK(std::chrono::steady_clock::now() - begin < 20s);
}
