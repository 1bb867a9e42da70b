#pragma once

#include "infra/kafka/consumer.h"
#include "infra/kafka/ports.h"

#include <librdkafka/rdkafka.h>

#include <doctest/doctest.h>

#include <array>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <random>
#include <stdexcept>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <variant>
#include <vector>

namespace tidemark::tests {

using namespace std::chrono_literals;

// Far beyond what anything takes on a loaded machine under a sanitizer: a test that reaches it has failed.
inline constexpr auto kPatience = 60s;

/// The real broker of the integration tests. Without one they fail: a suite that skips itself shows nothing.
inline std::string test_brokers() {
    const char* brokers = std::getenv("TIDEMARK_TEST_BROKERS");
    if (brokers == nullptr || *brokers == '\0')
        throw std::runtime_error("TIDEMARK_TEST_BROKERS must name a running broker");
    return brokers;
}

/// A name that no other run has used on the same broker.
inline std::string unique_name(std::string_view stem) {
    static std::random_device random;
    std::array<char, 32> text{};
    std::snprintf(text.data(), text.size(), "-%08x%08x", random(), random());
    return std::string(stem) + text.data();
}

/// Looks until it is so; false after `limit`.
inline bool eventually(const std::function<bool()>& so, std::chrono::milliseconds limit = kPatience) {
    const auto until = std::chrono::steady_clock::now() + limit;
    while (!so()) {
        if (std::chrono::steady_clock::now() >= until) return false;
        std::this_thread::sleep_for(2ms);
    }
    return true;
}

/// Keeps every delivery by its tag.
class Deliveries final : public kafka::RecordSink::Listener {
public:
    void on_deliveries(std::span<const kafka::Delivery> deliveries) noexcept override {
        const std::lock_guard lock(mutex_);
        ++calls_;
        for (const auto& delivery : deliveries)
            by_tag_[delivery.tag].push_back(delivery);
        count_ += deliveries.size();
        changed_.notify_all();
    }
    void on_tick() noexcept override {
        const std::lock_guard lock(mutex_);
        ++ticks_;
    }

    /// Until at least `count` in all have come.
    bool wait_for(std::size_t count, std::chrono::milliseconds limit = kPatience) {
        std::unique_lock lock(mutex_);
        return changed_.wait_for(lock, limit, [&] { return count_ >= count; });
    }
    [[nodiscard]] std::size_t count() const {
        const std::lock_guard lock(mutex_);
        return count_;
    }
    [[nodiscard]] std::size_t count(kafka::Persistence persistence) const {
        const std::lock_guard lock(mutex_);
        std::size_t found = 0;
        for (const auto& [tag, deliveries] : by_tag_)
            found += deliveries.at(0).persistence == persistence ? 1 : 0;
        return found;
    }
    /// The one of that tag; fails the test when there is none or more than one.
    [[nodiscard]] kafka::Delivery of(std::uint64_t tag) const {
        const std::lock_guard lock(mutex_);
        const auto found = by_tag_.find(tag);
        REQUIRE(found != by_tag_.end());
        REQUIRE(found->second.size() == 1);
        return found->second.front();
    }
    /// By tag, each checked to be the only one.
    [[nodiscard]] std::map<std::uint64_t, kafka::Delivery> all() const {
        const std::lock_guard lock(mutex_);
        std::map<std::uint64_t, kafka::Delivery> all;
        for (const auto& [tag, deliveries] : by_tag_) {
            REQUIRE(deliveries.size() == 1);
            all.emplace(tag, deliveries.front());
        }
        return all;
    }
    [[nodiscard]] std::size_t calls() const {
        const std::lock_guard lock(mutex_);
        return calls_;
    }
    [[nodiscard]] std::size_t ticks() const {
        const std::lock_guard lock(mutex_);
        return ticks_;
    }

private:
    mutable std::mutex mutex_;  // guards all of it
    std::condition_variable changed_;
    std::map<std::uint64_t, std::vector<kafka::Delivery>> by_tag_;
    std::size_t count_ = 0;
    std::size_t calls_ = 0;
    std::size_t ticks_ = 0;
};

/// Polls until something of that kind comes, passing over nothing and the ends of partitions; what else comes is a
/// failure.
template <typename Kind>
Kind poll_for(kafka::RecordSource& source, std::chrono::milliseconds limit = kPatience) {
    const auto until = std::chrono::steady_clock::now() + limit;
    while (std::chrono::steady_clock::now() < until) {
        auto polled = source.poll(100ms);
        if (auto* wanted = std::get_if<Kind>(&polled)) return std::move(*wanted);
        const bool passed_over =
            std::holds_alternative<kafka::Nothing>(polled) || std::holds_alternative<kafka::EndOfPartition>(polled);
        if (!passed_over) throw std::runtime_error("poll returned another kind: " + std::to_string(polled.index()));
    }
    throw std::runtime_error("nothing of the kind within the time");
}

/// The values of all records of a topic, read to the end by a plain client; offsets by value, for values that are
/// unique.
inline std::map<std::string, std::vector<std::pair<std::int32_t, std::int64_t>>> read_log(const std::string& brokers,
                                                                                          const std::string& topic,
                                                                                          std::int32_t partitions) {
    std::array<char, 256> error{};
    auto* conf = rd_kafka_conf_new();
    const std::map<std::string, std::string> settings{{"bootstrap.servers", brokers},
                                                      {"group.id", "reader"},
                                                      {"enable.partition.eof", "true"},
                                                      {"isolation.level", "read_uncommitted"},
                                                      {"auto.offset.reset", "earliest"}};
    for (const auto& [name, value] : settings) {
        REQUIRE(rd_kafka_conf_set(conf, name.c_str(), value.c_str(), error.data(), error.size()) == RD_KAFKA_CONF_OK);
    }
    const auto destroy = [](rd_kafka_t* client) {
        rd_kafka_destroy_flags(client, RD_KAFKA_DESTROY_F_NO_CONSUMER_CLOSE);
    };
    const std::unique_ptr<rd_kafka_t, decltype(destroy)> client(
        rd_kafka_new(RD_KAFKA_CONSUMER, conf, error.data(), error.size()), destroy);
    REQUIRE(client);
    rd_kafka_poll_set_consumer(client.get());
    auto* list = rd_kafka_topic_partition_list_new(partitions);
    for (std::int32_t partition = 0; partition < partitions; ++partition) {
        rd_kafka_topic_partition_list_add(list, topic.c_str(), partition)->offset = 0;
    }
    REQUIRE(rd_kafka_assign(client.get(), list) == RD_KAFKA_RESP_ERR_NO_ERROR);
    rd_kafka_topic_partition_list_destroy(list);

    std::map<std::string, std::vector<std::pair<std::int32_t, std::int64_t>>> found;
    const auto until = std::chrono::steady_clock::now() + kPatience;
    for (std::int32_t ended = 0; ended < partitions;) {
        REQUIRE(std::chrono::steady_clock::now() < until);
        rd_kafka_message_t* message = rd_kafka_consumer_poll(client.get(), 100);
        if (message == nullptr) continue;
        if (message->err == RD_KAFKA_RESP_ERR__PARTITION_EOF) {
            ++ended;
        } else if (message->err == RD_KAFKA_RESP_ERR_NO_ERROR) {
            found[std::string(static_cast<const char*>(message->payload), message->len)].emplace_back(
                message->partition, message->offset);
        }
        rd_kafka_message_destroy(message);
    }
    return found;
}

/// A plain client of the library, for what the project's own never does: null keys, tombstones, transactions, bad
/// batches.
class ForeignProducer {
public:
    explicit ForeignProducer(const std::string& brokers, const std::map<std::string, std::string>& properties = {}) {
        std::array<char, 256> error{};
        auto* conf = rd_kafka_conf_new();
        set(conf, "bootstrap.servers", brokers);
        set(conf, "linger.ms", "0");
        for (const auto& [name, value] : properties)
            set(conf, name, value);
        client_.reset(rd_kafka_new(RD_KAFKA_PRODUCER, conf, error.data(), error.size()));
        if (!client_) throw std::runtime_error(error.data());
    }

    void produce(const std::string& topic, std::int32_t partition, std::optional<std::string_view> key,
                 std::optional<std::string_view> value, std::string_view header_name = {},
                 std::string_view header_value = {}) {
        rd_kafka_headers_t* headers = rd_kafka_headers_new(1);
        if (!header_name.empty()) {
            rd_kafka_header_add(headers, header_name.data(), static_cast<ssize_t>(header_name.size()),
                                header_value.data(), static_cast<ssize_t>(header_value.size()));
        }
        void* key_bytes = key ? const_cast<char*>(key->data()) : nullptr;
        const std::size_t key_size = key ? key->size() : 0;
        void* value_bytes = value ? const_cast<char*>(value->data()) : nullptr;
        const std::size_t value_size = value ? value->size() : 0;
        const auto code =
            rd_kafka_producev(client_.get(), RD_KAFKA_V_TOPIC(topic.c_str()), RD_KAFKA_V_PARTITION(partition),
                              RD_KAFKA_V_KEY(key_bytes, key_size), RD_KAFKA_V_VALUE(value_bytes, value_size),
                              RD_KAFKA_V_MSGFLAGS(RD_KAFKA_MSG_F_COPY), RD_KAFKA_V_HEADERS(headers), RD_KAFKA_V_END);
        REQUIRE(code == RD_KAFKA_RESP_ERR_NO_ERROR);
    }
    void flush() { REQUIRE(rd_kafka_flush(client_.get(), 60'000) == RD_KAFKA_RESP_ERR_NO_ERROR); }

    void begin() {
        if (!std::exchange(initialised_, true)) check(rd_kafka_init_transactions(client_.get(), 60'000));
        check(rd_kafka_begin_transaction(client_.get()));
    }
    void commit() { check(rd_kafka_commit_transaction(client_.get(), 60'000)); }
    void abort() { check(rd_kafka_abort_transaction(client_.get(), 60'000)); }

private:
    struct Destroy {
        void operator()(rd_kafka_t* client) const noexcept { rd_kafka_destroy(client); }
    };
    static void set(rd_kafka_conf_t* conf, const std::string& name, const std::string& value) {
        std::array<char, 256> error{};
        REQUIRE(rd_kafka_conf_set(conf, name.c_str(), value.c_str(), error.data(), error.size()) == RD_KAFKA_CONF_OK);
    }
    static void check(rd_kafka_error_t* error) {
        if (error == nullptr) return;
        const std::string text = rd_kafka_error_string(error);
        rd_kafka_error_destroy(error);
        throw std::runtime_error(text);
    }

    std::unique_ptr<rd_kafka_t, Destroy> client_;
    bool initialised_ = false;
};

}  // namespace tidemark::tests
