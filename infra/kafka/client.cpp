#include "infra/kafka/client.h"

#include "infra/base/log.h"
#include "infra/kafka/error.h"

#include <librdkafka/rdkafka.h>

#include <array>
#include <cstring>

namespace tidemark::kafka {

namespace {

std::string read_back(rd_kafka_conf_t* conf, const char* name) {
    std::size_t size = 0;
    rd_kafka_conf_res_t result = rd_kafka_conf_get(conf, name, nullptr, &size);
    std::string value(size, '\0');
    if (result == RD_KAFKA_CONF_OK) result = rd_kafka_conf_get(conf, name, value.data(), &size);
    if (result != RD_KAFKA_CONF_OK) {
        throw Error("Kafka client setting " + std::string(name) + " cannot be read back",
                    RD_KAFKA_RESP_ERR__INVALID_ARG, false, false);
    }
    return value;
}

// Syslog levels: 0 emergency .. 7 debug. Lost connections come as 3; the client repairs them itself.
base::log::Level level_of(int syslog) noexcept {
    if (syslog <= 2) return base::log::Level::error;
    if (syslog <= 4) return base::log::Level::warn;
    return syslog <= 6 ? base::log::Level::info : base::log::Level::debug;
}

void log_line(const rd_kafka_t* client, int syslog, const char* facility, const char* text) noexcept {
    // A producer heeds the first of these, a consumer's, and is told in vain that it would not. The second is said to
    // be experimental; producer.cpp says why it is set.
    const bool decided = std::strstr(text, "allow.auto.create.topics") != nullptr ||
                         std::strstr(text, "enable.gapless.guarantee") != nullptr;
    if (decided && std::strcmp(facility, "CONFWARN") == 0) return;
    base::log::write(
        level_of(syslog), "kafka_client",
        {{"client", client != nullptr ? rd_kafka_name(client) : ""}, {"facility", facility}, {"detail", text}});
}

Client make(rd_kafka_type_t type, rd_kafka_conf_t* conf) {
    std::array<char, 512> error{};
    rd_kafka_t* client = rd_kafka_new(type, conf, error.data(), error.size());
    if (client == nullptr) {
        throw Error("the Kafka client does not start: " + std::string(error.data()), rd_kafka_last_error(), false,
                    false);
    }
    return Client(client);
}

const char* what_to_change(int code) noexcept {
    switch (code) {
        case RD_KAFKA_RESP_ERR__TRANSPORT:
        case RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN:
        case RD_KAFKA_RESP_ERR__RESOLVE:
        case RD_KAFKA_RESP_ERR__TIMED_OUT:
            return "; check that the broker runs and that `brokers` names it";
        case RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART:
        case RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC:
        case RD_KAFKA_RESP_ERR__UNKNOWN_PARTITION:
            return "; create the topic with its partitions first (migrate)";
        case RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED:
        case RD_KAFKA_RESP_ERR_GROUP_AUTHORIZATION_FAILED:
        case RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED:
            return "; grant this client's principal the right";
        case RD_KAFKA_RESP_ERR_FENCED_INSTANCE_ID:
            return "; another member took this one's group.instance.id: of two processes that use it, give each its "
                   "own";
        default:
            return "";
    }
}

}  // namespace

void ClientDeleter::operator()(rd_kafka_t* client) const noexcept {
    rd_kafka_destroy_flags(client, RD_KAFKA_DESTROY_F_NO_CONSUMER_CLOSE);
}
void ConfDeleter::operator()(rd_kafka_conf_t* conf) const noexcept {
    rd_kafka_conf_destroy(conf);
}
void TopicDeleter::operator()(rd_kafka_topic_t* topic) const noexcept {
    rd_kafka_topic_destroy(topic);
}
void QueueDeleter::operator()(rd_kafka_queue_t* queue) const noexcept {
    rd_kafka_queue_destroy(queue);
}
void EventDeleter::operator()(rd_kafka_event_t* event) const noexcept {
    rd_kafka_event_destroy(event);
}
void ErrorDeleter::operator()(rd_kafka_error_t* error) const noexcept {
    rd_kafka_error_destroy(error);
}
void MessageDeleter::operator()(rd_kafka_message_t* message) const noexcept {
    rd_kafka_message_destroy(message);
}
void HeadersDeleter::operator()(rd_kafka_headers_t* headers) const noexcept {
    rd_kafka_headers_destroy(headers);
}
void PartitionsDeleter::operator()(rd_kafka_topic_partition_list_t* partitions) const noexcept {
    rd_kafka_topic_partition_list_destroy(partitions);
}

ClientConf::ClientConf(const std::string& brokers, const std::string& client_id) : conf_(rd_kafka_conf_new()) {
    rd_kafka_conf_set_log_cb(conf_.get(), log_line);
    set("bootstrap.servers", brokers);
    set("client.id", client_id);
    // Nagle's algorithm holds small requests back until the last one is acknowledged: up to 40 ms each.
    set("socket.nagle.disable", "true");
    set("socket.keepalive.enable", "true");
    // The default of ten seconds would be the time to recover after a short outage of the broker.
    set("reconnect.backoff.ms", "50");
    set("reconnect.backoff.max.ms", "1000");
    // A topic that a typing mistake creates has the wrong partitions, retention and timestamps.
    set("allow.auto.create.topics", "false");
}

void ClientConf::set(const char* name, const std::string& value) {
    std::array<char, 512> error{};
    if (rd_kafka_conf_set(conf_.get(), name, value.c_str(), error.data(), error.size()) != RD_KAFKA_CONF_OK) {
        throw Error("Kafka client setting " + std::string(name) + "=" + value + ": " + error.data(),
                    RD_KAFKA_RESP_ERR__INVALID_ARG, false, false);
    }
    decided_[name] = value_of(name);
}

void ClientConf::keep(const char* name) {
    decided_[name] = value_of(name);
}

std::string ClientConf::value_of(const char* name) const {
    return read_back(conf_.get(), name);
}

void ClientConf::apply(const Properties& properties) {
    const Properties decided = decided_;
    for (const auto& [name, value] : properties) {
        std::array<char, 512> error{};
        if (rd_kafka_conf_set(conf_.get(), name.c_str(), value.c_str(), error.data(), error.size()) !=
            RD_KAFKA_CONF_OK) {
            // The value may be a password.
            throw Error("Kafka client setting " + name + ": " + error.data(), RD_KAFKA_RESP_ERR__INVALID_ARG, false,
                        false);
        }
        for (const auto& [ours, wanted] : decided) {
            if (value_of(ours.c_str()) != wanted) {
                throw Error("Kafka client setting " + name + " would change " + ours + ", which must stay " + wanted +
                                ": leave it out",
                            RD_KAFKA_RESP_ERR__INVALID_ARG, false, false);
            }
        }
    }
}

Client ClientConf::make_producer() && {
    Client client = make(RD_KAFKA_PRODUCER, conf_.get());
    static_cast<void>(conf_.release());  // the client owns it, but only once it exists
    return client;
}

Client ClientConf::make_consumer() && {
    Client client = make(RD_KAFKA_CONSUMER, conf_.get());
    static_cast<void>(conf_.release());
    return client;
}

Topic make_topic(rd_kafka_t* client, const std::string& name) {
    Topic topic(rd_kafka_topic_new(client, name.c_str(), nullptr));
    if (!topic) fail("topic " + name, rd_kafka_last_error());
    return topic;
}

bool is_retryable(int code) noexcept {
    switch (code) {
        case RD_KAFKA_RESP_ERR__TRANSPORT:
        case RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN:
        case RD_KAFKA_RESP_ERR__RESOLVE:
        case RD_KAFKA_RESP_ERR__TIMED_OUT:
        case RD_KAFKA_RESP_ERR__TIMED_OUT_QUEUE:
        case RD_KAFKA_RESP_ERR__MSG_TIMED_OUT:
        case RD_KAFKA_RESP_ERR__WAIT_COORD:
        case RD_KAFKA_RESP_ERR__WAIT_CACHE:
        case RD_KAFKA_RESP_ERR__IN_PROGRESS:
        case RD_KAFKA_RESP_ERR__PREV_IN_PROGRESS:
        case RD_KAFKA_RESP_ERR__RETRY:
        case RD_KAFKA_RESP_ERR__MAX_POLL_EXCEEDED:
        case RD_KAFKA_RESP_ERR__PURGE_QUEUE:
        case RD_KAFKA_RESP_ERR__QUEUE_FULL:
        case RD_KAFKA_RESP_ERR_UNKNOWN:
        case RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART:
        case RD_KAFKA_RESP_ERR_LEADER_NOT_AVAILABLE:
        case RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION:
        case RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT:
        case RD_KAFKA_RESP_ERR_BROKER_NOT_AVAILABLE:
        case RD_KAFKA_RESP_ERR_REPLICA_NOT_AVAILABLE:
        case RD_KAFKA_RESP_ERR_NETWORK_EXCEPTION:
        case RD_KAFKA_RESP_ERR_COORDINATOR_LOAD_IN_PROGRESS:
        case RD_KAFKA_RESP_ERR_COORDINATOR_NOT_AVAILABLE:
        case RD_KAFKA_RESP_ERR_NOT_COORDINATOR:
        case RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS:
        case RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS_AFTER_APPEND:
        case RD_KAFKA_RESP_ERR_ILLEGAL_GENERATION:
        case RD_KAFKA_RESP_ERR_UNKNOWN_MEMBER_ID:
        case RD_KAFKA_RESP_ERR_REBALANCE_IN_PROGRESS:
        case RD_KAFKA_RESP_ERR_NOT_CONTROLLER:
        case RD_KAFKA_RESP_ERR_KAFKA_STORAGE_ERROR:
        case RD_KAFKA_RESP_ERR_OFFSET_NOT_AVAILABLE:
        case RD_KAFKA_RESP_ERR_FENCED_LEADER_EPOCH:
        case RD_KAFKA_RESP_ERR_UNKNOWN_LEADER_EPOCH:
        case RD_KAFKA_RESP_ERR_PREFERRED_LEADER_NOT_AVAILABLE:
        case RD_KAFKA_RESP_ERR_THROTTLING_QUOTA_EXCEEDED:
            return true;
        default:
            return false;
    }
}

std::string describe(int code) {
    const auto err = static_cast<rd_kafka_resp_err_t>(code);
    return std::string(rd_kafka_err2name(err)) + " (" + rd_kafka_err2str(err) + ")" + what_to_change(code);
}

void fail(const std::string& what, int code) {
    throw Error(what + ": " + describe(code), code, is_retryable(code), false);
}

void fail_fatally(const std::string& what, rd_kafka_t* client) {
    std::array<char, 512> text{};
    const auto code = rd_kafka_fatal_error(client, text.data(), text.size());
    throw Error(what + ": " + text.data() + what_to_change(code), code, false, true);
}

}  // namespace tidemark::kafka
