#pragma once

#include "infra/kafka/record.h"

#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace tidemark::kafka {

struct TopicSpec {
    std::string name{};
    std::int32_t partitions = 4;
    std::int16_t replication = 1;
    std::map<std::string, std::string> settings{};  ///< retention.ms, message.timestamp.type, ...
};

/// A topic as the brokers see it now.
struct TopicState {
    std::int32_t partitions = 0;
    std::int32_t replicas = 0;  ///< of the partition that has the fewest
    std::int32_t in_sync = 0;   ///< likewise
};

struct Watermarks {
    std::int64_t low = 0;   ///< first offset still there
    std::int64_t high = 0;  ///< offset that the next record will get; uncommitted ones counted
};

/// Questions about the log that are not reading or writing a stream. Every call blocks, at most `timeout`, and throws
/// kafka::Error. One thread at a time.
class Admin {
public:
    explicit Admin(std::string brokers, std::map<std::string, std::string> properties = {},
                   std::chrono::milliseconds timeout = std::chrono::seconds(5));
    ~Admin();
    Admin(const Admin&) = delete;
    Admin& operator=(const Admin&) = delete;

    /// False when the topic was there already (its settings are left alone).
    bool create_topic(const TopicSpec& spec);
    /// Nullopt: no such topic.
    std::optional<TopicState> describe(const std::string& topic);
    std::optional<std::int32_t> partition_count(const std::string& topic);
    std::map<std::string, std::string> topic_settings(const std::string& topic);
    /// One entry per partition, by number; asked of the leaders in this call, never from a cache.
    std::vector<Watermarks> watermarks(const std::string& topic, std::int32_t partitions);
    /// High watermarks only, in one round trip: what a linearizable read needs.
    std::vector<std::int64_t> end_offsets(const std::string& topic, std::int32_t partitions);
    /// Of the first record appended at or after the instant; the end where there is none.
    std::vector<std::int64_t> offsets_at(const std::string& topic, std::int32_t partitions, base::Timestamp instant);
    /// The first record at or after `offset`; nullopt when the partition ends before it.
    std::optional<Record> read_at(const std::string& topic, std::int32_t partition, std::int64_t offset);
    /// Appends one record to exactly that partition, acks=all; returns its offset. An empty key is none. A failure that
    /// is not retryable may have left the record behind: look before trying again.
    std::int64_t append(const std::string& topic, std::int32_t partition, std::string_view key, std::string_view value);

private:
    struct State;
    std::unique_ptr<State> state_;
};

}  // namespace tidemark::kafka
