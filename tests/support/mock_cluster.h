#pragma once

#include "infra/kafka/record.h"

#include <librdkafka/rdkafka.h>
#include <librdkafka/rdkafka_mock.h>

#include <doctest/doctest.h>

#include <array>
#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace tidemark::tests {

/// The request types that errors are injected into, by the protocol's numbers.
enum Request : std::int16_t {
    kProduce = 0,
    kFetch = 1,
    kListOffsets = 2,
    kMetadata = 3,
    kFindCoordinator = 10,
    kHeartbeat = 12
};

/// The client library's in-process Kafka cluster: real sockets and real requests, no disk, and errors and delays on
/// demand. It stores what it is sent, does not check sequence numbers and knows no transactions.
class MockCluster {
public:
    explicit MockCluster(int brokers = 1)
        : client_(make_client()), cluster_(rd_kafka_mock_cluster_new(client_.get(), brokers)) {
        if (!cluster_) throw std::runtime_error("no mock cluster");
    }

    [[nodiscard]] std::string brokers() const { return rd_kafka_mock_cluster_bootstraps(cluster_.get()); }

    void create_topic(const std::string& name, int partitions = 1) {
        REQUIRE(rd_kafka_mock_topic_create(cluster_.get(), name.c_str(), partitions, 1) == RD_KAFKA_RESP_ERR_NO_ERROR);
    }

    /// What requests about the topic are answered with from now on.
    void set_topic_error(const std::string& name, rd_kafka_resp_err_t error) {
        rd_kafka_mock_topic_set_error(cluster_.get(), name.c_str(), error);
    }
    /// The versions of that request that the brokers say they speak.
    void set_versions(Request request, std::int16_t least, std::int16_t most) {
        REQUIRE(rd_kafka_mock_set_apiversion(cluster_.get(), request, least, most) == RD_KAFKA_RESP_ERR_NO_ERROR);
    }

    /// The next requests of that kind fail with these, one each; RD_KAFKA_RESP_ERR__TRANSPORT cuts the connection.
    void fail_next(Request request, const std::vector<rd_kafka_resp_err_t>& errors) {
        rd_kafka_mock_push_request_errors_array(cluster_.get(), request, errors.size(), errors.data());
    }
    /// The next request of that kind to that broker is answered `delay` late, with `error`.
    void delay_next(int broker, Request request, std::chrono::milliseconds delay,
                    rd_kafka_resp_err_t error = RD_KAFKA_RESP_ERR_NO_ERROR) {
        REQUIRE(rd_kafka_mock_broker_push_request_error_rtts(cluster_.get(), broker, request, 1, error,
                                                             static_cast<int>(delay.count())) ==
                RD_KAFKA_RESP_ERR_NO_ERROR);
    }
    /// How many of the `delay_next` still wait for their request.
    [[nodiscard]] std::size_t delays_left(int broker, Request request) const {
        std::size_t left = 0;
        REQUIRE(rd_kafka_mock_broker_error_stack_cnt(cluster_.get(), broker, request, &left) ==
                RD_KAFKA_RESP_ERR_NO_ERROR);
        return left;
    }
    /// Every answer of that broker is that late.
    void set_delay(int broker, std::chrono::milliseconds delay) {
        REQUIRE(rd_kafka_mock_broker_set_rtt(cluster_.get(), broker, static_cast<int>(delay.count())) ==
                RD_KAFKA_RESP_ERR_NO_ERROR);
    }
    void set_leader(const std::string& topic, std::int32_t partition, int broker) {
        REQUIRE(rd_kafka_mock_partition_set_leader(cluster_.get(), topic.c_str(), partition, broker) ==
                RD_KAFKA_RESP_ERR_NO_ERROR);
    }
    void down(int broker) {
        REQUIRE(rd_kafka_mock_broker_set_down(cluster_.get(), broker) == RD_KAFKA_RESP_ERR_NO_ERROR);
    }
    void up(int broker) { REQUIRE(rd_kafka_mock_broker_set_up(cluster_.get(), broker) == RD_KAFKA_RESP_ERR_NO_ERROR); }

private:
    struct DestroyClient {
        void operator()(rd_kafka_t* client) const noexcept { rd_kafka_destroy(client); }
    };
    struct DestroyCluster {
        void operator()(rd_kafka_mock_cluster_t* cluster) const noexcept { rd_kafka_mock_cluster_destroy(cluster); }
    };

    static rd_kafka_t* make_client() {
        std::array<char, 256> error{};
        auto* conf = rd_kafka_conf_new();
        rd_kafka_conf_set_log_cb(conf, nullptr);
        rd_kafka_t* client = rd_kafka_new(RD_KAFKA_PRODUCER, conf, error.data(), error.size());
        if (client == nullptr) throw std::runtime_error(error.data());
        return client;
    }

    std::unique_ptr<rd_kafka_t, DestroyClient> client_;
    std::unique_ptr<rd_kafka_mock_cluster_t, DestroyCluster> cluster_;
};

}  // namespace tidemark::tests
