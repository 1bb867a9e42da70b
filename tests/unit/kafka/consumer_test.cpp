#include "infra/kafka/consumer.h"

#include "infra/kafka/error.h"
#include "tests/support/kafka.h"
#include "tests/support/mock_cluster.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <doctest/doctest.h>

#include <chrono>
#include <string>
#include <vector>

using namespace tidemark;
using namespace tidemark::kafka;
using namespace tidemark::tests;

namespace {

struct Bench {
    explicit Bench(std::int32_t partition_count = 2, ConsumerOptions changes = {}) : partitions(partition_count) {
        cluster.create_topic("t", partitions);
        writer = std::make_unique<ForeignProducer>(cluster.brokers());
        changes.brokers = cluster.brokers();
        changes.topic = "t";
        changes.group = "g";
        options = changes;
    }

    Consumer& start() {
        consumer = std::make_unique<Consumer>(options);
        return *consumer;
    }
    /// Joins and reads every partition from its start.
    Consumer& start_reading() {
        start();
        const auto assigned = poll_for<Assigned>(*consumer);
        REQUIRE(assigned.partitions.size() == static_cast<std::size_t>(partitions));
        consumer->assign(starts(0));
        return *consumer;
    }
    [[nodiscard]] std::vector<Start> starts(std::int64_t offset) const {
        std::vector<Start> all;
        for (std::int32_t partition = 0; partition < partitions; ++partition)
            all.push_back({partition, offset});
        return all;
    }
    void fill(std::int32_t partition, int count) {
        for (int n = 0; n < count; ++n)
            writer->produce("t", partition, "k", "v" + std::to_string(n));
        writer->flush();
    }

    MockCluster cluster;
    std::int32_t partitions;
    ConsumerOptions options;
    std::unique_ptr<ForeignProducer> writer;
    std::unique_ptr<Consumer> consumer;
};

void put(std::string& bytes, std::uint64_t value, int size) {
    for (int n = size - 1; n >= 0; --n)
        bytes.push_back(static_cast<char>(value >> (8 * n)));
}

std::uint32_t crc32c(std::string_view bytes) {
    std::uint32_t crc = 0xFFFFFFFF;
    for (const char byte : bytes) {
        crc ^= static_cast<unsigned char>(byte);
        for (int bit = 0; bit < 8; ++bit)
            crc = (crc >> 1) ^ ((crc & 1) != 0 ? 0x82F63B78 : 0);
    }
    return ~crc;
}

/// Stores a batch of one record with these headers, as the protocol writes them. `is_whole`: else its checksum is
/// wrong, as a broken disk would hand it out.
void store_batch(const std::string& brokers, const std::string& topic, std::string_view headers, bool is_whole) {
    std::string record;
    record += '\0';                          // attributes
    record += '\0';                          // timestamp delta
    record += '\0';                          // offset delta
    record += std::string("\x02k\x02v", 4);  // key and value, their lengths zigzagged
    record += headers;
    std::string batch;
    put(batch, 0, 2);      // attributes
    put(batch, 0, 4);      // last offset delta
    put(batch, 0, 8);      // base timestamp
    put(batch, 0, 8);      // max timestamp
    put(batch, ~0ULL, 8);  // producer id
    put(batch, ~0ULL, 2);  // producer epoch
    put(batch, ~0ULL, 4);  // base sequence
    put(batch, 1, 4);      // records
    put(batch, record.size() << 1, 1);
    batch += record;
    std::string set;
    put(set, 0, 8);
    put(set, batch.size() + 9, 4);
    put(set, 0, 4);  // partition leader epoch
    put(set, 2, 1);  // magic
    put(set, is_whole ? crc32c(batch) : 0xdeadbeef, 4);
    set += batch;

    std::string body;
    put(body, 0, 2);      // Produce
    put(body, 3, 2);      // version 3
    put(body, 1, 4);      // correlation id
    put(body, ~0ULL, 2);  // no client id
    put(body, ~0ULL, 2);  // no transaction
    put(body, ~0ULL, 2);  // acks=all
    put(body, 10'000, 4);
    put(body, 1, 4);
    put(body, topic.size(), 2);
    body += topic;
    put(body, 1, 4);
    put(body, 0, 4);  // partition 0
    put(body, set.size(), 4);
    body += set;
    std::string request;
    put(request, body.size(), 4);
    request += body;

    const int connection = ::socket(AF_INET, SOCK_STREAM, 0);
    REQUIRE(connection >= 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<std::uint16_t>(std::stoi(brokers.substr(brokers.rfind(':') + 1))));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    REQUIRE(::connect(connection, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0);
    REQUIRE(::send(connection, request.data(), request.size(), 0) == static_cast<ssize_t>(request.size()));
    char answer[64];
    REQUIRE(::recv(connection, answer, sizeof answer, 0) > 0);
    ::close(connection);
}

}  // namespace

TEST_CASE("a member is given its partitions, reads them from where it says, and is told where each ends") {
    Bench bench;
    bench.fill(0, 3);
    bench.fill(1, 2);
    Consumer& consumer = bench.start();
    const auto assigned = poll_for<Assigned>(consumer);
    CHECK(assigned.partitions == std::vector<std::int32_t>{0, 1});
    const std::vector<Start> starts{{0, 1}, {1, 0}};
    consumer.assign(starts);
    std::vector<std::vector<std::int64_t>> offsets(2);
    std::vector<std::int64_t> ends(2, -1);
    REQUIRE(eventually([&] {
        auto polled = consumer.poll(10ms);
        if (const auto* record = std::get_if<Record>(&polled)) {
            CHECK(record->key == "k");
            CHECK(record->value == "v" + std::to_string(record->offset));
            offsets[static_cast<std::size_t>(record->partition)].push_back(record->offset);
        } else if (const auto* end = std::get_if<EndOfPartition>(&polled)) {
            ends[static_cast<std::size_t>(end->partition)] = end->offset;
        }
        return ends[0] >= 0 && ends[1] >= 0;
    }));
    CHECK(offsets == std::vector<std::vector<std::int64_t>>{{1, 2}, {0, 1}});
    CHECK(ends == std::vector<std::int64_t>{3, 2});
    CHECK(consumer.counters().assigned == 1);
}

TEST_CASE("partitions that are given up within moments of an assignment do not end the process") {
    // The client asserts that it sees one stop of a partition before it is told of the next.
    Bench bench(8);
    Consumer& consumer = bench.start_reading();
    for (int round = 0; round < 50; ++round) {
        consumer.assign(bench.starts(0));
        consumer.assign(bench.starts(0));
        consumer.unassign();
        consumer.assign(bench.starts(0));
        consumer.unassign();
    }
    bench.fill(7, 1);
    consumer.assign(bench.starts(0));
    CHECK(poll_for<Record>(consumer).partition == 7);
}

TEST_CASE("headers that cannot be read are none, and the record comes all the same") {
    Bench bench(1);
    // One header, whose name is -64 bytes long; then one that is "import", of one byte.
    store_batch(bench.cluster.brokers(), "t", "\x02\x7F", true);
    store_batch(bench.cluster.brokers(), "t", "\x02\x0Cimport\x02x", true);
    Consumer& consumer = bench.start_reading();
    const auto broken = poll_for<Record>(consumer);
    CHECK(broken.value == "v");
    CHECK(broken.header("import") == std::nullopt);
    CHECK(broken.headers().empty());
    CHECK(poll_for<Record>(consumer).header("import") == "x");
}

TEST_CASE("a record keeps its bytes: no key, no value, empty ones, NULs and headers are told apart") {
    Bench bench(1);
    using namespace std::string_view_literals;
    bench.writer->produce("t", 0, std::nullopt, "v");
    bench.writer->produce("t", 0, "k", std::nullopt);
    bench.writer->produce("t", 0, "", "");
    bench.writer->produce("t", 0, "a\0b"sv, "\0"sv, "name", "\0x"sv);
    bench.writer->flush();
    Consumer& consumer = bench.start_reading();
    std::vector<Record> records;
    for (int n = 0; n < 4; ++n)
        records.push_back(poll_for<Record>(consumer));
    CHECK(records[0].key == std::nullopt);
    CHECK(records[0].value == "v");
    CHECK(records[0].headers().empty());
    CHECK(records[1].key == "k");
    CHECK(records[1].value == std::nullopt);
    CHECK(records[2].key == "");
    CHECK(records[2].value == "");
    CHECK(records[3].key == "a\0b"sv);
    CHECK(records[3].value == "\0"sv);
    const auto headers = records[3].headers();
    REQUIRE(headers.size() == 1);
    CHECK(headers[0].name == "name");
    CHECK(headers[0].value == "\0x"sv);
    CHECK(records[3].header("name") == "\0x"sv);
    CHECK(records[3].header("nam") == std::nullopt);
    CHECK(records[3].header("name2") == std::nullopt);
    CHECK(records[0].header("name") == std::nullopt);
    CHECK(records[3].append_time.time_since_epoch() > std::chrono::hours(24));
}

TEST_CASE("a rebalance is returned by poll, and nothing is read before the assignment has been answered") {
    Bench bench(1);
    bench.fill(0, 100);
    Consumer& consumer = bench.start();
    poll_for<Assigned>(consumer);
    for (int n = 0; n < 20; ++n)
        CHECK(std::holds_alternative<Nothing>(consumer.poll(10ms)));
    consumer.assign(bench.starts(0));
    CHECK(poll_for<Record>(consumer).offset == 0);
}

TEST_CASE("after a revocation nothing of the partitions comes any more, until they are assigned again") {
    Bench bench(1);
    bench.fill(0, 1'000);
    Consumer& consumer = bench.start_reading();
    CHECK(poll_for<Record>(consumer).offset == 0);
    bench.cluster.fail_next(kHeartbeat, {RD_KAFKA_RESP_ERR_REBALANCE_IN_PROGRESS});
    // What was fetched before may come until the revocation is returned, not after.
    REQUIRE(eventually([&] {
        auto polled = consumer.poll(10ms);
        const auto* revoked = std::get_if<Revoked>(&polled);
        if (revoked == nullptr) return false;
        CHECK(revoked->partitions == std::vector<std::int32_t>{0});
        CHECK_FALSE(revoked->lost);
        return true;
    }));
    for (int n = 0; n < 20; ++n)
        REQUIRE(std::holds_alternative<Nothing>(consumer.poll(10ms)));
    consumer.unassign();
    poll_for<Assigned>(consumer);
    consumer.assign(bench.starts(500));
    CHECK(poll_for<Record>(consumer).offset == 500);
    CHECK(consumer.counters().revoked == 1);
    CHECK(consumer.counters().lost == 0);
}

TEST_CASE("partitions that the group gave away meanwhile are revoked as lost") {
    Bench bench(1);
    bench.fill(0, 10);
    Consumer& consumer = bench.start_reading();
    CHECK(poll_for<Record>(consumer).offset == 0);
    bench.cluster.fail_next(kHeartbeat, {RD_KAFKA_RESP_ERR_UNKNOWN_MEMBER_ID});
    REQUIRE(eventually([&] {
        auto polled = consumer.poll(10ms);
        const auto* revoked = std::get_if<Revoked>(&polled);
        if (revoked != nullptr) CHECK(revoked->lost);
        return revoked != nullptr;
    }));
    CHECK(consumer.counters().lost == 1);
    consumer.unassign();
    poll_for<Assigned>(consumer);
}

TEST_CASE("after each new assignment the first record is the one asked for, whatever was fetched before") {
    Bench bench(1);
    bench.fill(0, 5'000);
    Consumer& consumer = bench.start_reading();
    std::uint32_t random = 1;
    for (int round = 0; round < 50; ++round) {
        random = random * 1'664'525 + 1'013'904'223;
        const std::int64_t from = (random >> 8) % 4'000;
        const Start start{0, from};
        consumer.assign({&start, 1});
        for (std::int64_t n = 0; n < 1 + (random >> 20) % 50; ++n)
            REQUIRE(poll_for<Record>(consumer).offset == from + n);
    }
}

TEST_CASE("a place that is none is refused: the client would take -1 for the end of the log and skip everything") {
    Bench bench(1);
    bench.fill(0, 3);
    Consumer& consumer = bench.start();
    poll_for<Assigned>(consumer);
    for (const std::int64_t odd : {-1, -2, -1000, -1001}) {
        const Start start{0, odd};
        CHECK_THROWS_AS(consumer.assign({&start, 1}), Error);
    }
    consumer.assign(bench.starts(0));
    CHECK(poll_for<Record>(consumer).offset == 0);
}

TEST_CASE("a start outside the log is an error that names the place, never a jump to either end") {
    Bench bench(2);
    bench.fill(0, 3);
    bench.fill(1, 3);
    Consumer& consumer = bench.start();
    poll_for<Assigned>(consumer);
    const std::vector<Start> starts{{0, 0}, {1, 77}};
    consumer.assign(starts);
    std::optional<Error> thrown;
    REQUIRE(eventually([&] {
        try {
            const auto polled = consumer.poll(10ms);
            if (const auto* record = std::get_if<Record>(&polled)) CHECK(record->partition == 0);
        } catch (const Error& error) {
            thrown = error;
        }
        return thrown.has_value();
    }));
    CHECK_FALSE(thrown->is_retryable());
    CHECK_FALSE(thrown->is_fatal());
    const std::string what = thrown->what();
    CAPTURE(what);
    CHECK(what.find("topic t") != std::string::npos);
    CHECK(what.find("partition 1") != std::string::npos);
    CHECK(what.find("offset 77") != std::string::npos);
}

TEST_CASE("a batch whose checksum is wrong is an error that names the place, for the client goes on behind it") {
    Bench bench(1);
    bench.fill(0, 3);
    store_batch(bench.cluster.brokers(), "t", std::string_view("\0", 1), false);
    bench.fill(0, 3);
    Consumer& consumer = bench.start_reading();
    for (std::int64_t offset = 0; offset < 3; ++offset)
        CHECK(poll_for<Record>(consumer).offset == offset);
    try {
        poll_for<Record>(consumer);
        FAIL("the broken batch was skipped");
    } catch (const Error& error) {
        const std::string what = error.what();
        CAPTURE(what);
        CHECK_FALSE(error.is_retryable());
        CHECK(what.find("partition 0, offset 3") != std::string::npos);
    }
}

TEST_CASE("errors that pass are counted and survived") {
    Bench bench(1);
    Consumer& consumer = bench.start_reading();
    bench.cluster.fail_next(kFetch, {RD_KAFKA_RESP_ERR_UNKNOWN, RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION,
                                     RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT, RD_KAFKA_RESP_ERR_KAFKA_STORAGE_ERROR,
                                     RD_KAFKA_RESP_ERR__TRANSPORT});
    bench.fill(0, 3);
    for (std::int64_t offset = 0; offset < 3; ++offset)
        CHECK(poll_for<Record>(consumer).offset == offset);
    CHECK(consumer.counters().errors > 0);
}

TEST_CASE("the right to read, once denied, is an error to stop for") {
    Bench bench(1);
    bench.fill(0, 3);
    bench.cluster.fail_next(kFetch, {RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED});
    Consumer& consumer = bench.start_reading();
    CHECK_THROWS_AS(poll_for<Record>(consumer), Error);
}

TEST_CASE("while paused nothing is read and the membership lives: afterwards not one record is missing") {
    Bench bench(1, {.session_timeout = 6s, .max_poll_interval = 6s});
    bench.fill(0, 5'000);
    Consumer& consumer = bench.start_reading();
    std::int64_t next = 0;
    for (int round = 0; round < 20; ++round) {
        for (int n = 0; n < 37; ++n)
            REQUIRE(poll_for<Record>(consumer).offset == next++);
        consumer.pause();
        for (int n = 0; n < 5; ++n)
            REQUIRE(std::holds_alternative<Nothing>(consumer.poll(5ms)));
        consumer.resume();
    }
    // Also when it is assigned anew meanwhile.
    consumer.pause();
    consumer.assign(bench.starts(100));
    for (int n = 0; n < 20; ++n)
        REQUIRE(std::holds_alternative<Nothing>(consumer.poll(10ms)));
    consumer.resume();
    CHECK(poll_for<Record>(consumer).offset == 100);
    CHECK(consumer.counters().revoked + consumer.counters().lost == 0);
}

TEST_CASE("an unknown setting, and one that would undo what the guarantees stand on, is refused by name") {
    MockCluster cluster;
    const auto refused = [&](const std::string& name, const std::string& value) {
        try {
            Consumer consumer(
                {.brokers = cluster.brokers(), .topic = "t", .group = "g", .properties = {{name, value}}});
        } catch (const Error& error) {
            return std::string(error.what()).find(name) != std::string::npos;
        }
        return false;
    };
    CHECK(refused("no.such.setting", "1"));
    CHECK(refused("auto.offset.reset", "latest"));
    CHECK(refused("enable.auto.commit", "true"));
    CHECK(refused("enable.auto.offset.store", "true"));
    CHECK(refused("isolation.level", "read_committed"));
    CHECK(refused("partition.assignment.strategy", "cooperative-sticky"));
    CHECK(refused("enable.partition.eof", "false"));
    CHECK(refused("check.crcs", "false"));
    CHECK(refused("allow.auto.create.topics", "true"));
    CHECK(refused("queued.min.messages", "100000"));
    CHECK(refused("queued.max.messages.kbytes", "1"));
}

TEST_CASE("closing a consumer ends within its deadline also when no broker answers") {
    Bench bench(1);
    bench.fill(0, 3);
    Consumer& consumer = bench.start_reading();
    CHECK(poll_for<Record>(consumer).offset == 0);
    bench.cluster.set_delay(1, 60s);
    const auto begin = std::chrono::steady_clock::now();
    bench.consumer.reset();
    CHECK(std::chrono::steady_clock::now() - begin < 4s);
}

TEST_CASE("records that outlive their consumer keep their bytes") {
    Bench bench(1);
    bench.fill(0, 3);
    std::optional<Record> kept = poll_for<Record>(bench.start_reading());
    bench.consumer.reset();
    CHECK(kept->key == "k");
    CHECK(kept->value == "v0");
    kept.reset();
}

TEST_CASE("progress is told to the broker and read back by nobody") {
    Bench bench(1);
    bench.fill(0, 10);
    Consumer& consumer = bench.start_reading();
    CHECK(poll_for<Record>(consumer).offset == 0);
    const Start at{0, 7};
    consumer.report_progress({&at, 1});
    CHECK(poll_for<Record>(consumer).offset == 1);
    consumer.assign(bench.starts(0));
    CHECK(poll_for<Record>(consumer).offset == 0);
}
