#include "infra/kafka/consumer.h"

#include "infra/kafka/admin.h"
#include "infra/kafka/error.h"
#include "tests/support/kafka.h"

#include <unistd.h>

#include <doctest/doctest.h>
#include <librdkafka/rdkafka.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

using namespace tidemark;
using namespace tidemark::kafka;
using namespace tidemark::tests;

namespace {

struct Bench {
    explicit Bench(std::int32_t partition_count) : partitions(partition_count) {
        admin.create_topic({topic, partitions, 1, {{"message.timestamp.type", "LogAppendTime"}}});
    }
    std::unique_ptr<Consumer> join(const std::string& instance_id = {},
                                   std::int64_t queued_max_kbytes = 16 * 1024) const {
        return std::make_unique<Consumer>(ConsumerOptions{.brokers = test_brokers(),
                                                          .topic = topic,
                                                          .group = group,
                                                          .instance_id = instance_id,
                                                          .queued_max_kbytes = queued_max_kbytes});
    }
    /// A reader of its own partitions, no member of the group that it names.
    std::unique_ptr<Consumer> read(std::vector<std::int32_t> its_partitions) const {
        return std::make_unique<Consumer>(ConsumerOptions{
            .brokers = test_brokers(), .topic = topic, .group = group, .partitions = std::move(its_partitions)});
    }
    void fill(std::int32_t partition, int count) {
        ForeignProducer writer(test_brokers());
        for (int n = 0; n < count; ++n)
            writer.produce(topic, partition, "k", "v" + std::to_string(n));
        writer.flush();
    }

    Admin admin{test_brokers()};
    std::int32_t partitions;
    std::string topic = unique_name("consumed");
    std::string group = unique_name("group");
};

std::vector<Start> all_from(const Assigned& assigned, std::int64_t offset) {
    std::vector<Start> starts;
    for (const auto partition : assigned.partitions)
        starts.push_back({partition, offset});
    return starts;
}

/// Polls both, answering what comes, until the condition holds.
struct Member {
    explicit Member(std::unique_ptr<Consumer> its_consumer) : consumer(std::move(its_consumer)) {}
    void step() {
        auto polled = consumer->poll(5ms);
        if (auto* assigned = std::get_if<Assigned>(&polled)) {
            owned.insert(assigned->partitions.begin(), assigned->partitions.end());
            consumer->assign(all_from(*assigned, 0));
        } else if (std::holds_alternative<Revoked>(polled)) {
            owned.clear();
            consumer->unassign();
        } else if (const auto* record = std::get_if<Record>(&polled)) {
            CHECK(owned.contains(record->partition));
        }
    }
    std::unique_ptr<Consumer> consumer;
    std::set<std::int32_t> owned;
};

long resident_bytes() {
    long pages = 0;
    FILE* file = std::fopen("/proc/self/statm", "r");
    REQUIRE(file != nullptr);
    REQUIRE(std::fscanf(file, "%*d %ld", &pages) == 1);
    std::fclose(file);
    return pages * ::sysconf(_SC_PAGESIZE);
}

/// What the broker has been told of partition 0 in the group's name; negative: nothing.
std::int64_t committed_offset(const std::string& topic, const std::string& group) {
    auto* settings = rd_kafka_conf_new();
    for (const auto& [name, value] : {std::pair{"bootstrap.servers", test_brokers()}, {"group.id", group}})
        REQUIRE(rd_kafka_conf_set(settings, name, value.c_str(), nullptr, 0) == RD_KAFKA_CONF_OK);
    const std::unique_ptr<rd_kafka_t, decltype(&rd_kafka_destroy)> client(
        rd_kafka_new(RD_KAFKA_CONSUMER, settings, nullptr, 0), &rd_kafka_destroy);
    REQUIRE(client);
    const std::unique_ptr<rd_kafka_topic_partition_list_t, decltype(&rd_kafka_topic_partition_list_destroy)> asked(
        rd_kafka_topic_partition_list_new(1), &rd_kafka_topic_partition_list_destroy);
    rd_kafka_topic_partition_list_add(asked.get(), topic.c_str(), 0);
    REQUIRE(rd_kafka_committed(client.get(), asked.get(), 10'000) == RD_KAFKA_RESP_ERR_NO_ERROR);
    return asked->elems[0].offset;
}

}  // namespace

TEST_CASE("two members share the partitions, and one that is closed hands its over without waiting for the session") {
    Bench bench(4);
    for (std::int32_t partition = 0; partition < 4; ++partition)
        bench.fill(partition, 10);
    Member one(bench.join());
    REQUIRE(eventually([&] {
        one.step();
        return one.owned.size() == 4;
    }));
    Member two(bench.join());
    REQUIRE(eventually([&] {
        one.step();
        two.step();
        return one.owned.size() == 2 && two.owned.size() == 2;
    }));
    CHECK(*one.owned.rbegin() - *one.owned.begin() == 1);  // range: neighbours stay together
    const auto begin = std::chrono::steady_clock::now();
    two.consumer.reset();
    REQUIRE(eventually([&] {
        one.step();
        return one.owned.size() == 4;
    }));
    CHECK(std::chrono::steady_clock::now() - begin < 5s);  // the session is six
    CHECK(one.consumer->counters().lost == 0);
}

TEST_CASE("a member that has no partition is told so") {
    Bench bench(1);
    Member one(bench.join());
    REQUIRE(eventually([&] {
        one.step();
        return one.owned.size() == 1;
    }));
    Member two(bench.join());
    REQUIRE(eventually([&] {
        one.step();
        two.step();
        return two.consumer->counters().assigned == 1 && one.consumer->counters().assigned == 2;
    }));
    CHECK(one.owned.size() + two.owned.size() == 1);
}

TEST_CASE("a static member that comes back within its session has its partitions without a rebalance of the others") {
    Bench bench(2);
    {
        auto first = bench.join("slot-0");
        first->assign(all_from(poll_for<Assigned>(*first), 0));
    }
    const auto begin = std::chrono::steady_clock::now();
    auto again = bench.join("slot-0");
    CHECK(poll_for<Assigned>(*again).partitions.size() == 2);
    CHECK(std::chrono::steady_clock::now() - begin < 5s);
}

TEST_CASE("a member whose instance id another one took is told that it is over") {
    Bench bench(1);
    auto first = bench.join("slot-0");
    first->assign(all_from(poll_for<Assigned>(*first), 0));
    auto twin = bench.join("slot-0");
    std::optional<Error> thrown;
    REQUIRE(eventually([&] {
        static_cast<void>(twin->poll(5ms));
        try {
            static_cast<void>(first->poll(5ms));
        } catch (const Error& error) {
            thrown = error;
        }
        return thrown.has_value();
    }));
    CHECK(thrown->is_fatal());
    CHECK_FALSE(thrown->is_retryable());
    CHECK(std::string(thrown->what()).find("group.instance.id") != std::string::npos);
}

TEST_CASE("a member whose instance id another one took is told so whatever partitions it has") {
    // The client gives such an error the number of a partition, 0, whether the member has that one or not.
    Bench bench(2);
    Member one(bench.join("slot-0"));
    Member two(bench.join("slot-1"));
    REQUIRE(eventually([&] {
        one.step();
        two.step();
        return one.owned.size() == 1 && two.owned.size() == 1;
    }));
    const bool one_has_it = one.owned.contains(0);
    Member& other = one_has_it ? two : one;
    Member& stays = one_has_it ? one : two;
    Member twin(bench.join(one_has_it ? "slot-1" : "slot-0"));
    std::optional<Error> thrown;
    REQUIRE(eventually([&] {
        twin.step();
        stays.step();
        try {
            other.step();
        } catch (const Error& error) {
            thrown = error;
        }
        return thrown.has_value();
    }));
    CHECK(thrown->is_fatal());
}

TEST_CASE("a foreign transaction, open or aborted, hides no record, and the end of the partition includes its marker") {
    Bench bench(1);
    ForeignProducer foreign(test_brokers(), {{"transactional.id", unique_name("tx")}});
    foreign.begin();
    foreign.produce(bench.topic, 0, "k", "uncommitted");
    foreign.flush();
    bench.admin.append(bench.topic, 0, "k", "acknowledged");
    auto consumer = bench.join();
    consumer->assign(all_from(poll_for<Assigned>(*consumer), 0));
    CHECK(poll_for<Record>(*consumer).value == "uncommitted");
    CHECK(poll_for<Record>(*consumer).value == "acknowledged");
    CHECK(poll_for<EndOfPartition>(*consumer).offset == 2);
    foreign.abort();
    CHECK(poll_for<EndOfPartition>(*consumer).offset == 3);
    bench.admin.append(bench.topic, 0, "k", "after");
    CHECK(poll_for<Record>(*consumer).offset == 3);
}

TEST_CASE("on a real broker too each new assignment starts at exactly the record asked for") {
    Bench bench(2);
    bench.fill(0, 20'000);
    bench.fill(1, 20'000);
    auto consumer = bench.join();
    poll_for<Assigned>(*consumer);
    std::uint32_t random = 5;
    const auto next_random = [&random](std::uint32_t below) {
        random = random * 1'664'525 + 1'013'904'223;
        return static_cast<std::int64_t>((random >> 8) % below);
    };
    for (int round = 0; round < 100; ++round) {
        std::vector<Start> starts{{0, next_random(19'000)}, {1, next_random(19'000)}};
        consumer->assign(starts);
        for (std::int64_t n = next_random(300); n >= 0; --n) {
            const auto record = poll_for<Record>(*consumer);
            REQUIRE(record.offset == starts[static_cast<std::size_t>(record.partition)].offset++);
        }
    }
}

TEST_CASE("a start that was deleted from the log is an error, not a jump") {
    Bench bench(1);
    bench.fill(0, 10);
    auto consumer = bench.join();
    poll_for<Assigned>(*consumer);
    const Start beyond{0, 11};
    consumer->assign({&beyond, 1});
    CHECK_THROWS_AS(poll_for<Record>(*consumer), Error);
}

TEST_CASE("what a consumer fetches ahead of its reader is bounded") {
    Bench bench(1);
    {
        ForeignProducer writer(test_brokers());
        for (int n = 0; n < 10'000; ++n)
            writer.produce(bench.topic, 0, "k", std::string(10'000, 'x'));  // 100 MB
        writer.flush();
    }
    auto consumer = bench.join({}, 8 * 1024);
    consumer->assign(all_from(poll_for<Assigned>(*consumer), 0));
    const long before = resident_bytes();
    REQUIRE(poll_for<Record>(*consumer).offset == 0);
    long most = 0;
    for (int n = 0; n < 200; ++n) {
        most = std::max(most, resident_bytes());
        std::this_thread::sleep_for(10ms);
    }
    CHECK(most - before < 40L << 20);  // 8 MiB, and one fetch that may overshoot it; the default would hold 64 MiB
}

TEST_CASE("a reader of its own partitions is told so first, and reads just these from where it is told to") {
    Bench bench(3);
    for (std::int32_t partition = 0; partition < 3; ++partition)
        bench.fill(partition, 10);
    auto reader = bench.read({0, 2});
    auto first = reader->poll(0ms);
    REQUIRE(std::holds_alternative<Assigned>(first));
    CHECK(std::get<Assigned>(first).partitions == std::vector<std::int32_t>{0, 2});
    CHECK(std::holds_alternative<Nothing>(reader->poll(200ms)));  // nothing comes before it has been answered
    std::vector<Start> starts{{0, 7}, {2, 4}};
    reader->assign(starts);
    std::map<std::int32_t, std::int64_t> ends;
    while (ends.size() < 2) {
        auto polled = reader->poll(5s);
        REQUIRE_FALSE(std::holds_alternative<Nothing>(polled));
        if (const auto* end = std::get_if<EndOfPartition>(&polled)) {
            ends[end->partition] = end->offset;
            continue;
        }
        const auto& record = std::get<Record>(polled);
        REQUIRE(record.partition != 1);
        CHECK(record.offset == starts[record.partition == 0 ? 0 : 1].offset++);
    }
    CHECK(ends == std::map<std::int32_t, std::int64_t>{{0, 10}, {2, 10}});
    CHECK(starts == std::vector<Start>{{0, 10}, {2, 10}});
    reader->assign({{{0, 9}}});
    CHECK(poll_for<Record>(*reader).offset == 9);
    reader->pause();
    bench.fill(0, 1);
    CHECK_THROWS(poll_for<Record>(*reader, 500ms));
    reader->resume();
    CHECK(poll_for<Record>(*reader).offset == 10);
    reader->unassign();
    bench.fill(0, 1);
    CHECK_THROWS(poll_for<Record>(*reader, 500ms));
}

TEST_CASE("readers of their own partitions disturb neither each other nor the members of the group they name") {
    Bench bench(2);
    bench.fill(0, 10);
    bench.fill(1, 10);
    Member member(bench.join());
    REQUIRE(eventually([&] {
        member.step();
        return member.owned.size() == 2;
    }));
    std::vector<std::unique_ptr<Consumer>> readers;
    for (int n = 0; n < 2; ++n) {
        readers.push_back(bench.read({0, 1}));
        readers.back()->assign(all_from(poll_for<Assigned>(*readers.back()), 0));
    }
    // Longer than it takes a member to hear, with a heartbeat, that the group has changed.
    std::vector<int> read(readers.size());
    const auto until = std::chrono::steady_clock::now() + 3s;
    while (std::chrono::steady_clock::now() < until) {
        member.step();
        for (std::size_t n = 0; n < readers.size(); ++n) {
            const auto polled = readers[n]->poll(1ms);
            CHECK_FALSE(std::holds_alternative<Assigned>(polled));
            CHECK_FALSE(std::holds_alternative<Revoked>(polled));
            if (std::holds_alternative<Record>(polled)) read[n] += 1;
        }
    }
    CHECK(read == std::vector<int>{20, 20});
    readers.clear();
    member.step();
    CHECK(member.owned.size() == 2);
    CHECK(member.consumer->counters().assigned == 1);
    CHECK(member.consumer->counters().revoked == 0);
    CHECK(member.consumer->counters().lost == 0);
}

TEST_CASE("a reader of its own partitions reports no progress to the broker") {
    Bench bench(1);
    bench.fill(0, 10);
    const Start progress{0, 5};
    {
        auto reader = bench.read({0});
        reader->assign(all_from(poll_for<Assigned>(*reader), 0));
        poll_for<Record>(*reader);
        reader->report_progress({&progress, 1});
        while (!std::holds_alternative<EndOfPartition>(reader->poll(5s))) {
        }
    }
    CHECK(committed_offset(bench.topic, bench.group) < 0);
    {
        auto member = bench.join();  // whose report is seen, or the above shows nothing
        member->assign(all_from(poll_for<Assigned>(*member), 0));
        poll_for<Record>(*member);
        member->report_progress({&progress, 1});
        CHECK(eventually([&] { return committed_offset(bench.topic, bench.group) == 5; }));
    }
}
