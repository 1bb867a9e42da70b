#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>

// The client library's types, named here so that its header stays in the sources.
struct rd_kafka_s;
struct rd_kafka_conf_s;
struct rd_kafka_topic_s;
struct rd_kafka_queue_s;
struct rd_kafka_op_s;
struct rd_kafka_error_s;
struct rd_kafka_message_s;
struct rd_kafka_headers_s;
struct rd_kafka_topic_partition_list_s;

/// Internal to infra/kafka: what producer, consumer and admin share.
namespace tidemark::kafka {

struct ClientDeleter {
    void operator()(rd_kafka_s* client) const noexcept;
};
struct ConfDeleter {
    void operator()(rd_kafka_conf_s* conf) const noexcept;
};
struct TopicDeleter {
    void operator()(rd_kafka_topic_s* topic) const noexcept;
};
struct QueueDeleter {
    void operator()(rd_kafka_queue_s* queue) const noexcept;
};
struct EventDeleter {
    void operator()(rd_kafka_op_s* event) const noexcept;
};
struct ErrorDeleter {
    void operator()(rd_kafka_error_s* error) const noexcept;
};
struct MessageDeleter {
    void operator()(rd_kafka_message_s* message) const noexcept;
};
struct HeadersDeleter {
    void operator()(rd_kafka_headers_s* headers) const noexcept;
};
struct PartitionsDeleter {
    void operator()(rd_kafka_topic_partition_list_s* partitions) const noexcept;
};

/// Destroying it waits for the client's threads; a consumer does not leave its group by it.
using Client = std::unique_ptr<rd_kafka_s, ClientDeleter>;
using Topic = std::unique_ptr<rd_kafka_topic_s, TopicDeleter>;
using Queue = std::unique_ptr<rd_kafka_queue_s, QueueDeleter>;
using Event = std::unique_ptr<rd_kafka_op_s, EventDeleter>;
using ClientError = std::unique_ptr<rd_kafka_error_s, ErrorDeleter>;
using Message = std::unique_ptr<rd_kafka_message_s, MessageDeleter>;
using Headers = std::unique_ptr<rd_kafka_headers_s, HeadersDeleter>;
using Partitions = std::unique_ptr<rd_kafka_topic_partition_list_s, PartitionsDeleter>;

using Properties = std::map<std::string, std::string>;

/// The settings of one client, checked as they are made: an unknown name or an impossible value throws kafka::Error,
/// and so does a property that would change what Tidemark decided, under any of the setting's names. Log lines go to
/// base::log.
class ClientConf {
public:
    /// With what every client has: addresses, name, and how it connects.
    ClientConf(const std::string& brokers, const std::string& client_id);

    void set(const char* name, const std::string& value);
    void set(const char* name, std::int64_t value) { set(name, std::to_string(value)); }
    /// Nobody may change the client's default.
    void keep(const char* name);
    /// What is in force, as the client writes it.
    [[nodiscard]] std::string value_of(const char* name) const;
    /// The user's own; after every `set`.
    void apply(const Properties& properties);
    /// For callbacks and events, which have setters of their own.
    [[nodiscard]] rd_kafka_conf_s* get() const noexcept { return conf_.get(); }

    /// Both use the settings up.
    Client make_producer() &&;
    Client make_consumer() &&;

private:
    std::unique_ptr<rd_kafka_conf_s, ConfDeleter> conf_;
    Properties decided_;
};

Topic make_topic(rd_kafka_s* client, const std::string& name);

/// Whether the same call may succeed later without anybody changing anything.
bool is_retryable(int code) noexcept;
/// The code's symbol and text, and, where there is one, what to change.
std::string describe(int code);
/// Throws kafka::Error "<what>: <describe(code)>".
[[noreturn]] void fail(const std::string& what, int code);
[[noreturn]] void fail_fatally(const std::string& what, rd_kafka_s* client);

}  // namespace tidemark::kafka
