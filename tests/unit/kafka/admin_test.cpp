#include "infra/kafka/admin.h"

#include "infra/kafka/error.h"
#include "tests/support/mock_cluster.h"

#include <doctest/doctest.h>

#include <vector>

using namespace tidemark;
using namespace tidemark::kafka;
using namespace tidemark::tests;

TEST_CASE("a broker that is not the leader yet is asked for offsets again") {
    MockCluster cluster;
    cluster.create_topic("t", 2);
    Admin admin(cluster.brokers());
    cluster.fail_next(kListOffsets, std::vector(3, RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION));
    CHECK(admin.end_offsets("t", 2) == std::vector<std::int64_t>{0, 0});
}

TEST_CASE("a topic that the client does not know for the moment is asked for offsets again") {
    MockCluster cluster;
    cluster.create_topic("t", 2);
    Admin admin(cluster.brokers());
    cluster.set_topic_error("t", RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART);
    CHECK_THROWS_AS(admin.end_offsets("t", 2), Error);  // the client remembers that there is no such topic
    cluster.set_topic_error("t", RD_KAFKA_RESP_ERR_NO_ERROR);
    CHECK(admin.end_offsets("t", 2) == std::vector<std::int64_t>{0, 0});
}

TEST_CASE("an error that will not pass by itself is told at once") {
    MockCluster cluster;
    cluster.create_topic("t", 2);
    Admin admin(cluster.brokers());
    cluster.fail_next(kListOffsets, {RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED});
    CHECK_THROWS_AS(admin.end_offsets("t", 2), Error);  // the next answer would be a good one
    CHECK(admin.end_offsets("t", 2) == std::vector<std::int64_t>{0, 0});
}
