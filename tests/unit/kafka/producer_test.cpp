#include "infra/kafka/producer.h"

#include "infra/kafka/admin.h"
#include "infra/kafka/error.h"
#include "infra/kafka/partitioner.h"
#include "tests/support/kafka.h"
#include "tests/support/mock_cluster.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <ctime>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

using namespace tidemark;
using namespace tidemark::kafka;
using namespace tidemark::tests;

namespace {

/// A mock cluster, one topic, and a producer that is ready.
struct Bench {
    explicit Bench(ProducerOptions changes = {}, int partitions = 1, int brokers = 1) : cluster(brokers) {
        cluster.create_topic("t", partitions);
        for (int partition = 0; partition < partitions; ++partition)
            cluster.set_leader("t", partition, partition % brokers + 1);
        changes.brokers = cluster.brokers();
        if (changes.topics.empty()) changes.topics = {"t"};
        producer = std::make_unique<Producer>(changes, deliveries);
        REQUIRE(eventually([&] { return producer->available(); }));
    }

    /// Each record's value is its tag.
    Enqueued produce(std::uint64_t tag, std::string key = "k",
                     std::chrono::steady_clock::time_point give_up_at = std::chrono::steady_clock::time_point::max()) {
        return producer->produce({0, key, std::to_string(tag), {}, tag, give_up_at});
    }
    /// Waits out the moments in which the producer is being replaced or probed.
    void produce_surely(std::uint64_t tag, std::string key = "k") {
        REQUIRE(eventually([&] { return produce(tag, key) == Enqueued::ok; }));
    }
    /// The first record, acknowledged.
    void begin() {
        produce_surely(0);
        REQUIRE(deliveries.wait_for(1));
    }
    /// A record whose request the broker has, to be answered after `delay`: what follows waits in the producer.
    void put_on_the_wire(std::uint64_t tag, std::chrono::milliseconds delay) {
        cluster.delay_next(1, kProduce, delay);
        REQUIRE(produce(tag) == Enqueued::ok);
        REQUIRE(eventually([&] { return cluster.delays_left(1, kProduce) == 0; }));
    }
    auto log(std::int32_t partitions = 1) { return read_log(cluster.brokers(), "t", partitions); }

    MockCluster cluster;
    Deliveries deliveries;
    std::unique_ptr<Producer> producer;
};

}  // namespace

TEST_CASE("a produced record is reported persisted, at its place in the partition of its key") {
    Bench bench({}, 5);
    for (std::uint64_t tag = 0; tag < 100; ++tag)
        REQUIRE(bench.produce(tag, "key" + std::to_string(tag)) == Enqueued::ok);
    REQUIRE(bench.deliveries.wait_for(100));
    auto log = bench.log(5);
    for (std::uint64_t tag = 0; tag < 100; ++tag) {
        const auto delivery = bench.deliveries.of(tag);
        CHECK(delivery.persistence == Persistence::persisted);
        CHECK(delivery.error == 0);
        CHECK(delivery.partition == murmur2_partition("key" + std::to_string(tag), 5));
        CHECK(log[std::to_string(tag)] ==
              std::vector<std::pair<std::int32_t, std::int64_t>>{{delivery.partition, delivery.offset}});
    }
    CHECK(bench.producer->flush(10s));
    CHECK(bench.producer->counters().persisted == 100);
    CHECK(bench.producer->counters().outstanding == 0);
}

TEST_CASE("a record goes to the partition that it names, whatever its key, and keeps its turn there") {
    Bench bench({}, 5);
    for (std::uint64_t tag = 0; tag < 50; ++tag) {
        kafka::NewRecord record{0, "k", "", {}, tag};
        const auto value = std::to_string(tag);
        record.value = value;
        if (tag % 2 == 0) record.partition = static_cast<std::int32_t>(tag % 5);
        REQUIRE(bench.producer->produce(record) == Enqueued::ok);
    }
    kafka::NewRecord nowhere{0, "k", "v", {}, 50};
    nowhere.partition = 5;
    CHECK(bench.producer->produce(nowhere) == Enqueued::unavailable);
    REQUIRE(bench.deliveries.wait_for(50));
    auto log = bench.log(5);
    std::vector<std::int64_t> last(5, -1);
    for (std::uint64_t tag = 0; tag < 50; ++tag) {
        const auto delivery = bench.deliveries.of(tag);
        const auto wanted = tag % 2 == 0 ? static_cast<std::int32_t>(tag % 5) : murmur2_partition("k", 5);
        CHECK(delivery.persistence == Persistence::persisted);
        CHECK(delivery.partition == wanted);
        CHECK(log[std::to_string(tag)] ==
              std::vector<std::pair<std::int32_t, std::int64_t>>{{wanted, delivery.offset}});
        CHECK(delivery.offset > std::exchange(last[static_cast<std::size_t>(wanted)], delivery.offset));
    }
}

TEST_CASE("many reports are handed over in one call") {
    Bench bench({.linger = 50ms});
    for (std::uint64_t tag = 0; tag < 1'000; ++tag)
        REQUIRE(bench.produce(tag) == Enqueued::ok);
    REQUIRE(bench.deliveries.wait_for(1'000));
    CHECK(bench.deliveries.calls() < 100);
}

TEST_CASE("an unknown setting, and one that would undo what the guarantees stand on, is refused by name") {
    MockCluster cluster;
    Deliveries deliveries;
    const auto refused = [&](const std::string& name, const std::string& value) {
        try {
            Producer producer({.brokers = cluster.brokers(), .topics = {"t"}, .properties = {{name, value}}},
                              deliveries);
        } catch (const Error& error) {
            CHECK_FALSE(error.is_retryable());
            return std::string(error.what()).find(name) != std::string::npos;
        }
        return false;
    };
    CHECK(refused("no.such.setting", "1"));
    CHECK(refused("acks", "1"));
    CHECK(refused("request.required.acks", "1"));
    CHECK(refused("enable.idempotence", "false"));
    CHECK(refused("partitioner", "consistent"));
    CHECK(refused("enable.gapless.guarantee", "false"));
    CHECK(refused("delivery.timeout.ms", "1000"));
    CHECK(refused("retries", "1"));
    CHECK(refused("allow.auto.create.topics", "true"));
    CHECK(refused("socket.nagle.disable", "false"));
    CHECK(refused("linger.ms", "nonsense"));
    Producer fine({.brokers = cluster.brokers(), .topics = {"t"}, .properties = {{"statistics.interval.ms", "0"}}},
                  deliveries);
}

TEST_CASE("a producer is neither ready nor available before all its topics are there, and creates none of them") {
    MockCluster cluster;
    cluster.set_versions(kMetadata, 0, 4);  // from version 4 on a client can say that it wants no topic to be created
    cluster.create_topic("t", 1);
    Deliveries deliveries;
    Producer producer({.brokers = cluster.brokers(), .topics = {"t", "later"}}, deliveries);
    CHECK(producer.produce({0, "k", "v", {}, 1}) == Enqueued::unavailable);
    CHECK_FALSE(eventually([&] { return producer.ready() || producer.available(); }, 500ms));
    CHECK(Admin(cluster.brokers()).partition_count("later") == std::nullopt);
    cluster.create_topic("later", 7);
    REQUIRE(eventually([&] { return producer.available(); }));
    CHECK(producer.ready());
    CHECK(Admin(cluster.brokers()).partition_count("later") == 7);
    CHECK(producer.produce({1, "k", "v", {}, 2}) == Enqueued::ok);
    REQUIRE(deliveries.wait_for(1));
}

TEST_CASE("a record that is too large for the client is refused as such, and takes no room") {
    Bench bench;
    const std::string value(1'100'000, 'x');
    CHECK(bench.producer->produce({0, "k", value, {}, 1}) == Enqueued::too_large);
    CHECK(bench.producer->counters().outstanding == 0);
    CHECK(bench.producer->flush(0ms));
}

TEST_CASE("more than the queue holds is refused as full, and everything that was taken arrives once") {
    Bench bench({.queue_records = 100});
    bench.cluster.delay_next(1, kProduce, 1s);
    std::size_t taken = 0;
    for (std::uint64_t tag = 0; tag < 500; ++tag) {
        const auto enqueued = bench.produce(tag);
        CHECK((enqueued == Enqueued::ok || enqueued == Enqueued::full));
        taken += enqueued == Enqueued::ok ? 1U : 0U;
    }
    CHECK(taken >= 100);
    CHECK(taken < 200);  // the queue, and what was acknowledged while the loop ran
    REQUIRE(bench.deliveries.wait_for(taken));
    CHECK(bench.deliveries.all().size() == taken);
    CHECK(bench.log().size() == taken);
}

TEST_CASE("a record that is not sent by its time is given back, and then never comes into the log") {
    Bench bench;
    bench.begin();
    bench.put_on_the_wire(1, 2s);
    // Behind one that is on the wire, these are still here.
    const auto soon = std::chrono::steady_clock::now() + 100ms;
    for (std::uint64_t tag = 10; tag < 60; ++tag)
        REQUIRE(bench.produce(tag, "k", soon) == Enqueued::ok);
    REQUIRE(bench.produce(60) == Enqueued::ok);
    REQUIRE(bench.deliveries.wait_for(51));
    CHECK(std::chrono::steady_clock::now() >= soon);
    for (std::uint64_t tag = 10; tag < 60; ++tag)
        CHECK(bench.deliveries.of(tag).persistence == Persistence::not_persisted);
    REQUIRE(bench.deliveries.wait_for(53));
    CHECK(bench.deliveries.of(1).persistence == Persistence::persisted);
    CHECK(bench.deliveries.of(60).persistence == Persistence::persisted);
    const auto log = bench.log();
    CHECK(log.size() == 3);
    CHECK(log.contains("0"));
    CHECK(log.contains("1"));
    CHECK(log.contains("60"));
}

TEST_CASE("while one partition waits for its broker the others go on") {
    Bench bench({}, 2, 2);
    const int slow = murmur2_partition("k", 2) + 1;
    std::string other = "a";
    while (murmur2_partition(other, 2) == murmur2_partition("k", 2))
        other += "a";
    bench.cluster.delay_next(slow, kProduce, 2s);
    REQUIRE(bench.produce(1) == Enqueued::ok);
    REQUIRE(eventually([&] { return bench.cluster.delays_left(slow, kProduce) == 0; }));
    REQUIRE(bench.produce(2, other) == Enqueued::ok);
    REQUIRE(bench.deliveries.wait_for(1));
    CHECK(bench.deliveries.of(2).persistence == Persistence::persisted);
    REQUIRE(bench.deliveries.wait_for(2));
}

TEST_CASE("records that come while others are with the broker go together in few requests") {
    Bench bench;
    bench.begin();
    bench.put_on_the_wire(1, 500ms);
    // A delay for each record, of which each request uses up one: more than one request on a busy machine, where the
    // client sends while it is still being given records.
    for (std::uint64_t tag = 2; tag < 200; ++tag)
        bench.cluster.delay_next(1, kProduce, 0ms);
    for (std::uint64_t tag = 2; tag < 200; ++tag)
        REQUIRE(bench.produce(tag) == Enqueued::ok);
    REQUIRE(bench.deliveries.wait_for(200));
    CHECK(bench.cluster.delays_left(1, kProduce) >= 198 - 10);
}

TEST_CASE("a producer that refuses sleeps, also when records were about to be handed to the client") {
    Bench bench({.linger = 1s}, 2, 2);
    std::string other = "a";
    while (murmur2_partition(other, 2) == murmur2_partition("k", 2))
        other += "a";
    bench.cluster.set_delay(1, 60s);
    bench.cluster.set_delay(2, 60s);
    REQUIRE(bench.produce(1) == Enqueued::ok);
    const auto ticks = bench.deliveries.ticks();
    REQUIRE(eventually([&] { return bench.deliveries.ticks() > ticks + 1; }));
    REQUIRE(bench.produce(2, other) == Enqueued::ok);  // lingers behind the first
    bench.cluster.down(1);
    bench.cluster.down(2);
    REQUIRE(eventually([&] { return !bench.producer->available(); }));
    // By now the linger is over, whenever it began.
    const auto until = std::chrono::steady_clock::now() + 1s;
    REQUIRE(eventually([&] { return std::chrono::steady_clock::now() >= until; }));
    const auto used = std::clock();
    const auto later = bench.deliveries.ticks() + 100;
    REQUIRE(eventually([&] { return bench.deliveries.ticks() >= later; }));  // a second
    CHECK(static_cast<double>(std::clock() - used) / CLOCKS_PER_SEC < 0.3);
}

TEST_CASE("of a backlog only what one request takes goes to the client, and the rest can still be given back") {
    Bench bench;
    bench.begin();
    bench.put_on_the_wire(1, 2s);
    constexpr std::uint64_t kBacklog = 5'000;
    const auto later = std::chrono::steady_clock::now() + 4s;
    for (std::uint64_t n = 0; n < kBacklog; ++n)
        REQUIRE(bench.produce(10 + n, "k", later) == Enqueued::ok);
    for (int n = 0; n < 10; ++n)
        bench.cluster.delay_next(1, kProduce, 60s);
    REQUIRE(bench.deliveries.wait_for(2));  // now the others are at hand, and the broker stands still
    CHECK(bench.deliveries.of(1).persistence == Persistence::persisted);
    constexpr std::uint64_t kMost = 1'024;
    REQUIRE(bench.deliveries.wait_for(2 + kBacklog - kMost));
    CHECK(std::chrono::steady_clock::now() >= later);
    CHECK(bench.deliveries.count(Persistence::not_persisted) == kBacklog - kMost);
    CHECK(bench.deliveries.of(10 + kMost).persistence == Persistence::not_persisted);
}

TEST_CASE("what nobody answers for the time that a message may take is given up for good, and others are taken again") {
    Bench bench({.message_timeout = 1s});
    bench.begin();
    bench.cluster.delay_next(1, kProduce, 60s);
    REQUIRE(bench.produce(1) == Enqueued::ok);
    REQUIRE(bench.deliveries.wait_for(2));
    CHECK(bench.deliveries.of(1).persistence == Persistence::possibly_persisted);
    CHECK(bench.producer->counters().fatal == 1);
    bench.produce_surely(2);
    REQUIRE(bench.deliveries.wait_for(3));
    CHECK(bench.deliveries.of(2).persistence == Persistence::persisted);
}

TEST_CASE("a record whose time is over when its turn comes is given back and never sent") {
    // As after a stop of the whole process: nobody waits for it any more.
    Bench bench;
    bench.begin();
    const auto past = std::chrono::steady_clock::now() - 1s;
    for (std::uint64_t tag = 1; tag <= 20; ++tag) {
        REQUIRE(bench.produce(tag, "k", past) == Enqueued::ok);
        REQUIRE(bench.deliveries.wait_for(1 + tag));
        CHECK(bench.deliveries.of(tag).persistence == Persistence::not_persisted);
    }
    CHECK(bench.log().size() == 1);
    CHECK(bench.producer->flush(0ms));
}

TEST_CASE("a record that a former leader refused after storing it is perhaps persisted when it is given up") {
    // A leader that is replaced while it waits for its replicas answers NOT_LEADER_FOR_PARTITION for what its successor
    // may have. The client takes it for proof that nothing was stored.
    Bench bench({.message_timeout = 1s});
    bench.begin();
    bench.cluster.fail_next(kProduce, std::vector(1'000, RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION));
    REQUIRE(bench.produce(1) == Enqueued::ok);
    REQUIRE(bench.deliveries.wait_for(2));
    CHECK(bench.deliveries.of(1).persistence == Persistence::possibly_persisted);
}

TEST_CASE("with no broker up a producer refuses at once, and takes records again by itself") {
    Bench bench;
    bench.produce_surely(1);
    REQUIRE(bench.deliveries.wait_for(1));
    bench.cluster.down(1);
    REQUIRE(eventually([&] { return !bench.producer->available(); }));
    CHECK(bench.produce(2) == Enqueued::unavailable);
    bench.cluster.up(1);
    REQUIRE(eventually([&] { return bench.producer->available(); }));
    REQUIRE(bench.produce(3) == Enqueued::ok);
    REQUIRE(bench.deliveries.wait_for(2));
    CHECK(bench.deliveries.of(3).persistence == Persistence::persisted);
}

TEST_CASE(
    "with a broker that is connected and silent a producer refuses after five seconds, until the broker answers") {
    Bench bench;
    bench.produce_surely(1);
    REQUIRE(bench.deliveries.wait_for(1));
    bench.cluster.set_delay(1, 60s);
    REQUIRE(bench.produce(2) == Enqueued::ok);
    const auto sent = std::chrono::steady_clock::now();
    REQUIRE(eventually([&] { return !bench.producer->available(); }));
    CHECK(std::chrono::steady_clock::now() - sent >= 4'900ms);
    // The socket time-out ends the waiting connection; a new one is answered.
    bench.cluster.set_delay(1, 0ms);
    REQUIRE(eventually([&] { return bench.producer->available(); }));
    bench.produce_surely(3);
    REQUIRE(bench.deliveries.wait_for(3));
}

TEST_CASE("the listener is called at least every 20 ms while records are outstanding, also without any report") {
    Bench bench;
    bench.cluster.set_delay(1, 60s);
    REQUIRE(eventually([&] { return bench.deliveries.ticks() > 0; }));
    REQUIRE(bench.produce(1) == Enqueued::ok);
    const auto before = bench.deliveries.ticks();
    // Twice the promise, for the machine may be busy.
    CHECK(eventually([&] { return bench.deliveries.ticks() >= before + 50; }, 2s));
}

TEST_CASE("a fatally failed producer answers what it holds, each once, and is replaced while the process lives") {
    Bench bench;
    bench.begin();
    bench.cluster.fail_next(kProduce, {RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER});
    REQUIRE(bench.produce(1) == Enqueued::ok);
    REQUIRE(bench.deliveries.wait_for(2));
    CHECK(bench.deliveries.of(1).persistence == Persistence::possibly_persisted);
    REQUIRE(eventually([&] { return bench.producer->counters().fatal == 1; }));
    REQUIRE(eventually([&] { return bench.producer->available(); }));
    CHECK(bench.producer->ready());
    REQUIRE(bench.produce(2) == Enqueued::ok);
    REQUIRE(bench.deliveries.wait_for(3));
    CHECK(bench.deliveries.of(2).persistence == Persistence::persisted);
    CHECK(bench.producer->flush(0ms));
}

TEST_CASE("a time-out followed by an out-of-order sequence number, which is fatal in this client, is outlived") {
    Bench bench({.socket_timeout = 1s});
    bench.begin();
    bench.cluster.delay_next(1, kProduce, 3s);
    bench.cluster.delay_next(1, kProduce, 0ms, RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER);
    for (std::uint64_t tag = 1; tag <= 60; ++tag) {
        bench.produce_surely(tag);
        // The first request is on the wire, with one record, so that it is only one; the others follow behind it.
        if (tag == 1) REQUIRE(eventually([&] { return bench.cluster.delays_left(1, kProduce) == 1; }));
    }
    REQUIRE(bench.deliveries.wait_for(61));
    CHECK(bench.producer->counters().fatal >= 1);
    const auto all = bench.deliveries.all();
    CHECK(all.size() == 61);
    const auto log = bench.log();
    for (const auto& each : all) {
        const auto& [tag, delivery] = each;
        CAPTURE(each.first);
        if (delivery.persistence == Persistence::persisted) CHECK(log.contains(std::to_string(tag)));
        if (delivery.persistence == Persistence::not_persisted) CHECK_FALSE(log.contains(std::to_string(tag)));
    }
    REQUIRE(eventually([&] { return bench.producer->available(); }));
    REQUIRE(bench.produce(100) == Enqueued::ok);
    REQUIRE(bench.deliveries.wait_for(62));
    CHECK(bench.deliveries.of(100).persistence == Persistence::persisted);
}

TEST_CASE("while producers are replaced under fire every accepted record is reported exactly once, and truly") {
    Bench bench({}, 4);
    constexpr int kThreads = 3;
    std::atomic<std::uint64_t> next_tag{0};
    std::atomic<bool> stop{false};
    std::array<std::vector<std::uint64_t>, kThreads> accepted;
    std::vector<std::thread> threads;
    for (auto& mine : accepted) {
        threads.emplace_back([&] {
            while (!stop) {
                const auto tag = next_tag++;
                if (bench.produce(tag, std::to_string(tag % 64)) == Enqueued::ok) {
                    mine.push_back(tag);
                } else {
                    std::this_thread::sleep_for(1ms);
                }
            }
        });
    }
    // Not each of these is fatal: the client retries a request that failed behind another one.
    bool all_came = true;
    for (std::uint64_t round = 1; round <= 5; ++round) {
        const auto before = bench.producer->counters().persisted;
        all_came = all_came && eventually([&] { return bench.producer->counters().persisted > before + 100; });
        all_came = all_came && eventually([&] {
                       bench.cluster.fail_next(kProduce, {RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER});
                       return eventually([&] { return bench.producer->counters().fatal >= round; }, 100ms);
                   });
    }
    stop = true;
    for (auto& thread : threads)
        thread.join();
    CHECK(all_came);
    CHECK(bench.producer->flush(30s));

    std::set<std::uint64_t> taken;
    for (const auto& mine : accepted)
        taken.insert(mine.begin(), mine.end());
    const auto all = bench.deliveries.all();  // each tag once
    CHECK(all.size() == taken.size());
    CHECK(std::all_of(all.begin(), all.end(), [&](const auto& one) { return taken.contains(one.first); }));
    const auto log = bench.log(4);
    for (const auto& each : all) {
        const auto& [tag, delivery] = each;
        CAPTURE(each.first);
        const auto found = log.find(std::to_string(tag));
        if (delivery.persistence == Persistence::persisted) {
            REQUIRE(found != log.end());
            REQUIRE(found->second.size() == 1);
            REQUIRE(found->second.front() == std::pair(delivery.partition, delivery.offset));
        } else if (delivery.persistence == Persistence::not_persisted) {
            REQUIRE(found == log.end());
        }
    }
    const auto counters = bench.producer->counters();
    CHECK(counters.persisted + counters.not_persisted + counters.possibly_persisted == taken.size());
}

TEST_CASE("after each error that a broker can answer a produce request with, the record is reported once and truly") {
    const std::vector<rd_kafka_resp_err_t> errors{
        RD_KAFKA_RESP_ERR_UNKNOWN,
        RD_KAFKA_RESP_ERR_INVALID_MSG,
        RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART,
        RD_KAFKA_RESP_ERR_LEADER_NOT_AVAILABLE,
        RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION,
        RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT,
        RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE,
        RD_KAFKA_RESP_ERR_NETWORK_EXCEPTION,
        RD_KAFKA_RESP_ERR_RECORD_LIST_TOO_LARGE,
        RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS,
        RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS_AFTER_APPEND,
        RD_KAFKA_RESP_ERR_INVALID_REQUIRED_ACKS,
        RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED,
        RD_KAFKA_RESP_ERR_INVALID_TIMESTAMP,
        RD_KAFKA_RESP_ERR_UNSUPPORTED_FOR_MESSAGE_FORMAT,
        RD_KAFKA_RESP_ERR_POLICY_VIOLATION,
        RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER,
        RD_KAFKA_RESP_ERR_INVALID_PRODUCER_EPOCH,
        RD_KAFKA_RESP_ERR_KAFKA_STORAGE_ERROR,
        RD_KAFKA_RESP_ERR_UNKNOWN_PRODUCER_ID,
        RD_KAFKA_RESP_ERR_FENCED_LEADER_EPOCH,
        RD_KAFKA_RESP_ERR_INVALID_RECORD,
        RD_KAFKA_RESP_ERR_THROTTLING_QUOTA_EXCEEDED,
        RD_KAFKA_RESP_ERR_PRODUCER_FENCED,
        RD_KAFKA_RESP_ERR__TRANSPORT,
    };
    Bench bench;
    std::uint64_t tag = 0;
    for (const auto error : errors) {
        CAPTURE(std::string(rd_kafka_err2name(error)));
        bench.cluster.fail_next(kProduce, {error});
        bench.produce_surely(++tag);
        REQUIRE(bench.deliveries.wait_for(tag));
        const auto log = bench.log();
        const auto found = log.find(std::to_string(tag));
        const auto delivery = bench.deliveries.of(tag);
        // The mock stores nothing of a request that it fails; what is there was retried, and stands there once.
        if (found != log.end()) CHECK(found->second.size() == 1);
        if (delivery.persistence == Persistence::persisted) CHECK(found != log.end());
        if (delivery.persistence == Persistence::not_persisted) CHECK(found == log.end());
    }
    bench.produce_surely(1'000);
    REQUIRE(bench.deliveries.wait_for(tag + 1));
    CHECK(bench.deliveries.of(1'000).persistence == Persistence::persisted);
}

TEST_CASE("a topic that the producer may not write to fails its records and, when it may again, takes them") {
    Bench bench;
    bench.cluster.fail_next(kProduce, {RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED});
    REQUIRE(bench.produce(1) == Enqueued::ok);
    REQUIRE(bench.deliveries.wait_for(1));
    CHECK(bench.deliveries.of(1).persistence == Persistence::not_persisted);
    bench.produce_surely(2);
    REQUIRE(bench.deliveries.wait_for(2));
}

TEST_CASE(
    "a record that was sent before its topic vanished is perhaps persisted, and when the topic is back others are") {
    Bench bench;
    bench.begin();
    bench.cluster.fail_next(kProduce, std::vector(3, RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART));
    bench.cluster.set_topic_error("t", RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART);
    REQUIRE(bench.produce(1) == Enqueued::ok);
    REQUIRE(bench.deliveries.wait_for(2));
    CHECK(bench.deliveries.of(1).persistence == Persistence::possibly_persisted);
    bench.produce_surely(2);  // the client knows by now that there is no such topic, and takes nothing
    REQUIRE(bench.deliveries.wait_for(3));
    CHECK(bench.deliveries.of(2).persistence == Persistence::not_persisted);
    CHECK(bench.producer->flush(0ms));

    bench.cluster.set_topic_error("t", RD_KAFKA_RESP_ERR_NO_ERROR);
    std::uint64_t tag = 2;
    REQUIRE(eventually([&] {
        bench.produce_surely(++tag);
        REQUIRE(bench.deliveries.wait_for(tag + 1));
        return bench.deliveries.of(tag).persistence == Persistence::persisted;
    }));
}

TEST_CASE("a record that the broker had already is persisted, with a place that is not before its own") {
    Bench bench;
    for (std::uint64_t tag = 0; tag < 10; ++tag)
        bench.produce_surely(tag);
    REQUIRE(bench.deliveries.wait_for(10));
    bench.cluster.fail_next(kProduce, {RD_KAFKA_RESP_ERR_DUPLICATE_SEQUENCE_NUMBER});
    bench.produce_surely(10);
    REQUIRE(bench.deliveries.wait_for(11));
    const auto delivery = bench.deliveries.of(10);
    CHECK(delivery.persistence == Persistence::persisted);
    CHECK(delivery.partition == 0);
    CHECK(delivery.offset == 9);  // the log's last: a real broker would have the record at or before it
}

TEST_CASE("records of a batch that the broker had already are never given the log's first offsets") {
    // The client counts the offsets of a batch upwards from the -1 that stands in the broker's error.
    Bench bench({.compression = "none"});
    for (std::uint64_t tag = 0; tag < 9; ++tag)
        bench.produce_surely(tag);
    REQUIRE(bench.deliveries.wait_for(9));
    bench.cluster.delay_next(1, kProduce, 500ms);
    bench.produce_surely(9);
    REQUIRE(eventually([&] { return bench.cluster.delays_left(1, kProduce) == 0; }));
    bench.cluster.fail_next(kProduce, {RD_KAFKA_RESP_ERR_DUPLICATE_SEQUENCE_NUMBER});
    for (std::uint64_t tag = 10; tag < 4'010; ++tag)
        bench.produce_surely(tag);
    REQUIRE(bench.deliveries.wait_for(4'010));
    for (std::uint64_t tag = 10; tag < 4'010; ++tag) {
        const auto delivery = bench.deliveries.of(tag);
        REQUIRE(delivery.persistence == Persistence::persisted);
        REQUIRE(delivery.offset >= 9);
    }
}

TEST_CASE(
    "records that only a later success acknowledges, their own answer being lost, are given a place that includes "
    "them") {
    Bench bench({.socket_timeout = 1s});
    for (std::uint64_t tag = 0; tag < 10; ++tag)
        bench.produce_surely(tag);
    REQUIRE(bench.deliveries.wait_for(10));
    // The first request ends without saying whether it was stored, the second, sent meanwhile, succeeds: so the first
    // was.
    bench.cluster.delay_next(1, kProduce, 500ms, RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT);
    REQUIRE(bench.produce(10) == Enqueued::ok);
    REQUIRE(eventually([&] { return bench.cluster.delays_left(1, kProduce) == 0; }));
    REQUIRE(bench.produce(11) == Enqueued::ok);
    REQUIRE(bench.deliveries.wait_for(12));
    CHECK(bench.deliveries.of(10).persistence == Persistence::persisted);
    CHECK(bench.deliveries.of(10).offset >= 9);
    CHECK(bench.deliveries.of(11).offset >= 9);
}

TEST_CASE("a stored record whose place cannot be asked for is perhaps persisted, not persisted nowhere") {
    Bench bench;
    bench.begin();
    bench.cluster.fail_next(kListOffsets, std::vector(20, RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED));
    bench.cluster.fail_next(kProduce, {RD_KAFKA_RESP_ERR_DUPLICATE_SEQUENCE_NUMBER});
    bench.produce_surely(1);
    REQUIRE(bench.deliveries.wait_for(2));
    CHECK(bench.deliveries.of(1).persistence == Persistence::possibly_persisted);
    CHECK(bench.deliveries.of(1).offset == -1);
}

TEST_CASE("a producer that is destroyed before the broker answers reports everything first") {
    Bench bench({.linger = 50ms});
    bench.cluster.set_delay(1, 60s);
    for (std::uint64_t tag = 0; tag < 20; ++tag)
        REQUIRE(bench.produce(tag) == Enqueued::ok);
    const auto begin = std::chrono::steady_clock::now();
    bench.producer.reset();
    CHECK(std::chrono::steady_clock::now() - begin < 20s);
    CHECK(bench.deliveries.all().size() == 20);
    CHECK(bench.deliveries.count(Persistence::persisted) == 0);
}

TEST_CASE("a producer that is destroyed while no broker is there gives back as not persisted what it never sent") {
    Bench bench({.message_timeout = 1s});
    bench.begin();
    bench.put_on_the_wire(1, 60s);
    for (std::uint64_t tag = 2; tag < 10; ++tag)
        REQUIRE(bench.produce(tag) == Enqueued::ok);
    bench.cluster.down(1);
    REQUIRE(bench.deliveries.wait_for(2));                                     // given up, and with it the client
    CHECK_FALSE(eventually([&] { return bench.producer->available(); }, 2s));  // nor does its successor reach any
    bench.producer.reset();
    CHECK(bench.deliveries.of(1).persistence == Persistence::possibly_persisted);
    for (std::uint64_t tag = 2; tag < 10; ++tag)
        CHECK(bench.deliveries.of(tag).persistence == Persistence::not_persisted);
}

TEST_CASE("a producer that is destroyed with records that the broker takes waits for them") {
    Bench bench({.linger = 100ms});
    bench.cluster.set_delay(1, 200ms);
    for (std::uint64_t tag = 0; tag < 20; ++tag)
        REQUIRE(bench.produce(tag) == Enqueued::ok);
    bench.producer.reset();
    CHECK(bench.deliveries.all().size() == 20);
    CHECK(bench.deliveries.count(Persistence::persisted) == 20);
}

TEST_CASE("flush waits for what is outstanding, at most the limit") {
    Bench bench;
    bench.cluster.delay_next(1, kProduce, 500ms);
    REQUIRE(bench.produce(1) == Enqueued::ok);
    CHECK_FALSE(bench.producer->flush(1ms));
    CHECK(bench.producer->flush(kPatience));
    CHECK(bench.deliveries.count() == 1);
}
