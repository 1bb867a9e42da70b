#include "infra/kafka/admin.h"

#include "infra/base/backoff.h"
#include "infra/kafka/client.h"
#include "infra/kafka/error.h"

#include <librdkafka/rdkafka.h>

#include <algorithm>
#include <array>
#include <span>
#include <thread>
#include <utility>

namespace tidemark::kafka {

namespace {

using Clock = std::chrono::steady_clock;
using namespace std::chrono_literals;

/// Owns copies, so that the record may outlive the Admin.
class CopiedBody final : public Record::Body {
public:
    explicit CopiedBody(const rd_kafka_message_t& message) {
        if (message.key != nullptr) key_.emplace(static_cast<const char*>(message.key), message.key_len);
        if (message.payload != nullptr) value_.emplace(static_cast<const char*>(message.payload), message.len);
        rd_kafka_headers_t* headers = nullptr;
        const auto code = rd_kafka_message_headers(&message, &headers);
        if (code == RD_KAFKA_RESP_ERR__NOENT) return;
        if (code != RD_KAFKA_RESP_ERR_NO_ERROR) {
            fail("headers of partition " + std::to_string(message.partition) + ", offset " +
                     std::to_string(message.offset),
                 code);
        }
        const char* name = nullptr;
        const void* value = nullptr;
        std::size_t size = 0;
        while (rd_kafka_header_get_all(headers, headers_.size(), &name, &value, &size) == RD_KAFKA_RESP_ERR_NO_ERROR) {
            headers_.emplace_back(name, std::string(static_cast<const char*>(value), size));
        }
    }

    [[nodiscard]] std::vector<Header> headers() const override {
        std::vector<Header> all;
        for (const auto& [name, value] : headers_)
            all.push_back({name, value});
        return all;
    }
    [[nodiscard]] std::optional<std::string_view> header(const char* name) const override {
        const auto found =
            std::find_if(headers_.rbegin(), headers_.rend(), [&](const auto& one) { return one.first == name; });
        return found == headers_.rend() ? std::nullopt : std::optional<std::string_view>(found->second);
    }
    [[nodiscard]] const std::optional<std::string>& key() const noexcept { return key_; }
    [[nodiscard]] const std::optional<std::string>& value() const noexcept { return value_; }

private:
    std::optional<std::string> key_;
    std::optional<std::string> value_;
    std::vector<std::pair<std::string, std::string>> headers_;
};

Record copy_of(const rd_kafka_message_t& message) {
    auto body = std::make_unique<CopiedBody>(message);
    Record record;
    record.partition = message.partition;
    record.offset = message.offset;
    rd_kafka_timestamp_type_t kind{};
    record.append_time = base::Timestamp(std::chrono::milliseconds(rd_kafka_message_timestamp(&message, &kind)));
    if (body->key()) record.key = *body->key();
    if (body->value()) record.value = *body->value();
    record.own(std::move(body));
    return record;
}

std::string place(const std::string& topic, std::int32_t partition) {
    return "topic " + topic + ", partition " + std::to_string(partition);
}

struct NewTopicDeleter {
    void operator()(rd_kafka_NewTopic_t* topic) const noexcept { rd_kafka_NewTopic_destroy(topic); }
};
struct ResourceDeleter {
    void operator()(rd_kafka_ConfigResource_t* resource) const noexcept { rd_kafka_ConfigResource_destroy(resource); }
};
struct MetadataDeleter {
    void operator()(const rd_kafka_metadata_t* metadata) const noexcept { rd_kafka_metadata_destroy(metadata); }
};

/// Reads one partition for as long as it lives.
class Reading {
public:
    Reading(rd_kafka_t* client, const std::string& topic, std::int32_t partition, std::int64_t offset)
        : topic_(make_topic(client, topic)), partition_(partition) {
        if (rd_kafka_consume_start(topic_.get(), partition, offset) != 0)
            fail(place(topic, partition), rd_kafka_last_error());
    }
    ~Reading() { static_cast<void>(rd_kafka_consume_stop(topic_.get(), partition_)); }  // fails only when never started
    Reading(const Reading&) = delete;
    Reading& operator=(const Reading&) = delete;

    Message next(std::chrono::milliseconds wait) {
        return Message(rd_kafka_consume(topic_.get(), partition_, static_cast<int>(wait.count())));
    }

private:
    Topic topic_;
    std::int32_t partition_;
};

}  // namespace

struct Admin::State {
    State(std::string its_brokers, std::map<std::string, std::string> its_properties,
          std::chrono::milliseconds its_timeout)
        : brokers(std::move(its_brokers)), properties(std::move(its_properties)), timeout(its_timeout) {
        // A consumer without a group: producers ask for the end of committed records only, and let the broker create
        // topics.
        ClientConf conf(brokers, "tidemark-admin");
        conf.set("isolation.level", "read_uncommitted");
        conf.set("enable.auto.commit", "false");
        conf.set("auto.offset.reset", "error");
        conf.set("enable.partition.eof", "true");
        conf.set("fetch.wait.max.ms", 10);
        conf.apply(properties);
        client = std::move(conf).make_consumer();
    }

    [[nodiscard]] int milliseconds() const noexcept { return static_cast<int>(timeout.count()); }

    /// Runs one admin request and returns its result event.
    template <typename Request>
    Event ask(rd_kafka_admin_op_t operation, const std::string& what, Request request) {
        const std::unique_ptr<rd_kafka_AdminOptions_t, decltype(&rd_kafka_AdminOptions_destroy)> admin_options(
            rd_kafka_AdminOptions_new(client.get(), operation), rd_kafka_AdminOptions_destroy);
        std::array<char, 256> error{};
        auto set =
            rd_kafka_AdminOptions_set_request_timeout(admin_options.get(), milliseconds(), error.data(), error.size());
        if (set == RD_KAFKA_RESP_ERR_NO_ERROR && operation == RD_KAFKA_ADMIN_OP_CREATETOPICS) {
            set = rd_kafka_AdminOptions_set_operation_timeout(admin_options.get(), milliseconds(), error.data(),
                                                              error.size());
        }
        if (set != RD_KAFKA_RESP_ERR_NO_ERROR) fail(what + ": " + error.data(), set);
        const Queue queue(rd_kafka_queue_new(client.get()));
        request(admin_options.get(), queue.get());
        Event event(rd_kafka_queue_poll(
            queue.get(), milliseconds() + 1'000));  // a second for the request's own time-out to come through
        if (!event) fail(what, RD_KAFKA_RESP_ERR__TIMED_OUT);
        if (const auto code = rd_kafka_event_error(event.get()); code != RD_KAFKA_RESP_ERR_NO_ERROR) fail(what, code);
        return event;
    }

    /// Attempts until it succeeds or fails in a way that will not pass, at most `timeout`.
    template <typename Attempt, typename MayPass>
    auto insist(const Attempt& attempt, const MayPass& may_pass) {
        const auto until = Clock::now() + timeout;
        base::Backoff backoff(10ms, 200ms, 1);
        while (true) {
            try {
                return attempt();
            } catch (const Error& error) {
                if (Clock::now() >= until || !may_pass(error)) throw;
            }
            std::this_thread::sleep_for(backoff.next());
        }
    }

    /// What the leaders say for the special timestamp `which`, by partition. Asked again are a leader that changes,
    /// that of a new topic of which not every broker has heard, and any while the client has forgotten the topic, as it
    /// does when a broker was away; a topic that is not there is looked for once more.
    std::vector<std::int64_t> offsets(const std::string& topic, std::int32_t partitions, std::int64_t which) {
        return insist([&] { return ask_offsets(topic, partitions, which); },
                      [&](const Error& error) {
                          const bool forgotten = error.code() == RD_KAFKA_RESP_ERR__UNKNOWN_PARTITION ||
                                                 error.code() == RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC;
                          // Asking for the count renews what the client remembers.
                          if (forgotten) return partition_count(topic).value_or(0) >= partitions;
                          return error.is_retryable();
                      });
    }

    /// Negative where there is no record of that time or later.
    std::vector<std::int64_t> ask_offsets(const std::string& topic, std::int32_t partitions, std::int64_t which) {
        const Partitions list(rd_kafka_topic_partition_list_new(partitions));
        for (std::int32_t partition = 0; partition < partitions; ++partition) {
            rd_kafka_topic_partition_list_add(list.get(), topic.c_str(), partition)->offset = which;
        }
        const auto code = rd_kafka_offsets_for_times(client.get(), list.get(), milliseconds());
        if (code != RD_KAFKA_RESP_ERR_NO_ERROR) fail("offsets of topic " + topic, code);
        std::vector<std::int64_t> answers;
        for (const auto& one : std::span(list->elems, static_cast<std::size_t>(list->cnt))) {
            if (one.err != RD_KAFKA_RESP_ERR_NO_ERROR) fail("offsets of " + place(topic, one.partition), one.err);
            // Unanswered, it would still be the question.
            if (one.offset < 0 && which < 0)
                fail("offsets of " + place(topic, one.partition), RD_KAFKA_RESP_ERR__NO_OFFSET);
            answers.push_back(one.offset);
        }
        return answers;
    }

    std::optional<std::int32_t> partition_count(const std::string& topic) {
        const auto state = describe(topic);
        return state ? std::optional(state->partitions) : std::nullopt;
    }

    std::optional<TopicState> describe(const std::string& topic) {
        const auto handle = make_topic(client.get(), topic);
        const rd_kafka_metadata_t* raw = nullptr;
        const auto code = rd_kafka_metadata(client.get(), 0, handle.get(), &raw, milliseconds());
        if (code != RD_KAFKA_RESP_ERR_NO_ERROR) fail("topic " + topic, code);
        const std::unique_ptr<const rd_kafka_metadata_t, MetadataDeleter> metadata(raw);
        if (metadata->topic_cnt != 1) return std::nullopt;
        if (metadata->topics[0].err == RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART) return std::nullopt;
        if (metadata->topics[0].err != RD_KAFKA_RESP_ERR_NO_ERROR) fail("topic " + topic, metadata->topics[0].err);
        TopicState state{metadata->topics[0].partition_cnt, INT32_MAX, INT32_MAX};
        for (const auto& one : std::span(metadata->topics[0].partitions, static_cast<std::size_t>(state.partitions))) {
            state.replicas = std::min(state.replicas, one.replica_cnt);
            state.in_sync = std::min(state.in_sync, one.isr_cnt);
        }
        return state;
    }

    /// Until the brokers know the new topic's leaders: a client that comes earlier is told that there is no such topic,
    /// or that it has fewer partitions, and remembers it. Asking for the count renews what the client remembers.
    void wait_for_leaders(const TopicSpec& spec) {
        insist(
            [&] {
                if (partition_count(spec.name) != spec.partitions)
                    fail("partitions of topic " + spec.name, RD_KAFKA_RESP_ERR_LEADER_NOT_AVAILABLE);
                static_cast<void>(ask_offsets(spec.name, spec.partitions, RD_KAFKA_OFFSET_END));
            },
            [](const Error& error) {
                return error.is_retryable() || error.code() == RD_KAFKA_RESP_ERR__UNKNOWN_PARTITION;
            });
    }

    rd_kafka_t* appender() {
        if (!append_client) {
            ClientConf conf(brokers, "tidemark-admin");
            conf.set("enable.idempotence", "true");
            conf.set("acks", "all");
            conf.set("message.timeout.ms", timeout.count());
            conf.set("socket.timeout.ms", timeout.count());
            conf.set("queue.buffering.max.ms", 0);
            conf.apply(properties);
            rd_kafka_conf_set_events(conf.get(), RD_KAFKA_EVENT_DR | RD_KAFKA_EVENT_ERROR);
            append_client = std::move(conf).make_producer();
        }
        return append_client.get();
    }

    /// Nullopt: nobody knows whether it was stored, or where.
    std::optional<std::int64_t> append(const std::string& what, const std::string& topic, std::int32_t partition,
                                       std::string_view key, std::string_view value) {
        rd_kafka_t* producer = appender();
        const auto handle = make_topic(producer, topic);
        const Queue queue(rd_kafka_queue_get_main(producer));
        const auto produced = rd_kafka_producev(
            producer, RD_KAFKA_V_RKT(handle.get()), RD_KAFKA_V_PARTITION(partition),
            RD_KAFKA_V_KEY(key.empty() ? nullptr : const_cast<char*>(key.data()), key.size()),
            RD_KAFKA_V_VALUE(const_cast<char*>(value.data() != nullptr ? value.data() : ""), value.size()),
            RD_KAFKA_V_MSGFLAGS(RD_KAFKA_MSG_F_COPY), RD_KAFKA_V_END);
        if (produced != RD_KAFKA_RESP_ERR_NO_ERROR) fail(what, produced);

        const auto until = Clock::now() + timeout + 1s;  // the client gives the record up at `timeout` by itself
        while (true) {
            const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(until - Clock::now());
            const Event event(left > 0ms ? rd_kafka_queue_poll(queue.get(), static_cast<int>(left.count())) : nullptr);
            if (!event) return std::nullopt;
            if (rd_kafka_event_type(event.get()) != RD_KAFKA_EVENT_DR) continue;
            const auto* report = rd_kafka_event_message_next(event.get());
            const auto status = rd_kafka_message_status(report);
            if (status == RD_KAFKA_MSG_STATUS_NOT_PERSISTED) fail(what, report->err);
            if (status == RD_KAFKA_MSG_STATUS_PERSISTED && report->offset >= 0) return report->offset;
            return std::nullopt;
        }
    }

    const std::string brokers;
    const std::map<std::string, std::string> properties;
    const std::chrono::milliseconds timeout;
    Client client;
    Client append_client;  // made by the first append
};

Admin::Admin(std::string brokers, std::map<std::string, std::string> properties, std::chrono::milliseconds timeout)
    : state_(std::make_unique<State>(std::move(brokers), std::move(properties), timeout)) {}
Admin::~Admin() = default;

bool Admin::create_topic(const TopicSpec& spec) {
    const std::string what = "creation of topic " + spec.name;
    std::array<char, 512> error{};
    const std::unique_ptr<rd_kafka_NewTopic_t, NewTopicDeleter> topic(
        rd_kafka_NewTopic_new(spec.name.c_str(), spec.partitions, spec.replication, error.data(), error.size()));
    if (!topic) fail(what + ": " + error.data(), RD_KAFKA_RESP_ERR__INVALID_ARG);
    for (const auto& [name, value] : spec.settings) {
        const auto code = rd_kafka_NewTopic_set_config(topic.get(), name.c_str(), value.c_str());
        if (code != RD_KAFKA_RESP_ERR_NO_ERROR) fail(what + ", setting " + name, code);
    }
    const auto event = state_->ask(RD_KAFKA_ADMIN_OP_CREATETOPICS, what, [&](const auto* options, auto* queue) {
        std::array<rd_kafka_NewTopic_t*, 1> topics{topic.get()};
        rd_kafka_CreateTopics(state_->client.get(), topics.data(), topics.size(), options, queue);
    });
    std::size_t count = 0;
    const auto* const* results =
        rd_kafka_CreateTopics_result_topics(rd_kafka_event_CreateTopics_result(event.get()), &count);
    for (const auto* result : std::span(results, count)) {
        const auto code = rd_kafka_topic_result_error(result);
        if (code == RD_KAFKA_RESP_ERR_TOPIC_ALREADY_EXISTS) return false;
        if (code != RD_KAFKA_RESP_ERR_NO_ERROR) {
            const char* detail = rd_kafka_topic_result_error_string(result);
            fail(what + (detail != nullptr ? std::string(": ") + detail : ""), code);
        }
    }
    state_->wait_for_leaders(spec);
    return true;
}

std::optional<TopicState> Admin::describe(const std::string& topic) {
    return state_->describe(topic);
}

std::optional<std::int32_t> Admin::partition_count(const std::string& topic) {
    return state_->partition_count(topic);
}

std::map<std::string, std::string> Admin::topic_settings(const std::string& topic) {
    const std::string what = "settings of topic " + topic;
    const std::unique_ptr<rd_kafka_ConfigResource_t, ResourceDeleter> resource(
        rd_kafka_ConfigResource_new(RD_KAFKA_RESOURCE_TOPIC, topic.c_str()));
    if (!resource) fail(what, RD_KAFKA_RESP_ERR__INVALID_ARG);
    const auto event = state_->ask(RD_KAFKA_ADMIN_OP_DESCRIBECONFIGS, what, [&](const auto* options, auto* queue) {
        std::array<rd_kafka_ConfigResource_t*, 1> resources{resource.get()};
        rd_kafka_DescribeConfigs(state_->client.get(), resources.data(), resources.size(), options, queue);
    });
    std::size_t count = 0;
    const auto* const* results =
        rd_kafka_DescribeConfigs_result_resources(rd_kafka_event_DescribeConfigs_result(event.get()), &count);
    std::map<std::string, std::string> settings;
    for (const auto* result : std::span(results, count)) {
        const auto code = rd_kafka_ConfigResource_error(result);
        if (code != RD_KAFKA_RESP_ERR_NO_ERROR) fail(what, code);
        std::size_t entries_count = 0;
        const auto* const* entries = rd_kafka_ConfigResource_configs(result, &entries_count);
        for (const auto* entry : std::span(entries, entries_count)) {
            const char* value = rd_kafka_ConfigEntry_value(entry);
            settings[rd_kafka_ConfigEntry_name(entry)] = value != nullptr ? value : "";
        }
    }
    return settings;
}

std::vector<Watermarks> Admin::watermarks(const std::string& topic, std::int32_t partitions) {
    const auto low = state_->offsets(topic, partitions, RD_KAFKA_OFFSET_BEGINNING);
    const auto high = state_->offsets(topic, partitions, RD_KAFKA_OFFSET_END);
    std::vector<Watermarks> all;
    for (std::size_t n = 0; n < low.size(); ++n)
        all.push_back({low[n], high[n]});
    return all;
}

std::vector<std::int64_t> Admin::end_offsets(const std::string& topic, std::int32_t partitions) {
    return state_->offsets(topic, partitions, RD_KAFKA_OFFSET_END);
}

std::vector<std::int64_t> Admin::offsets_at(const std::string& topic, std::int32_t partitions,
                                            base::Timestamp instant) {
    const auto at = std::chrono::ceil<std::chrono::milliseconds>(instant).time_since_epoch().count();
    auto found = state_->offsets(topic, partitions, std::max<std::int64_t>(at, 0));
    const auto ends = end_offsets(topic, partitions);
    for (std::size_t n = 0; n < found.size(); ++n) {
        if (found[n] < 0) found[n] = ends[n];
    }
    return found;
}

std::optional<Record> Admin::read_at(const std::string& topic, std::int32_t partition, std::int64_t offset) {
    const auto marks = watermarks(topic, partition + 1).back();
    const auto from = std::max(offset, marks.low);
    if (from >= marks.high) return std::nullopt;
    const auto until = Clock::now() + state_->timeout;
    Reading reading(state_->client.get(), topic, partition, from);
    while (true) {
        const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(until - Clock::now());
        const auto message = left > 0ms ? reading.next(left) : Message();
        if (!message)
            fail(place(topic, partition) + ", offset " + std::to_string(offset), RD_KAFKA_RESP_ERR__TIMED_OUT);
        if (message->err == RD_KAFKA_RESP_ERR_NO_ERROR) return copy_of(*message);
        // Markers of transactions take offsets and are no records.
        if (message->err == RD_KAFKA_RESP_ERR__PARTITION_EOF) return std::nullopt;
        if (!is_retryable(message->err))
            fail(place(topic, partition) + ", offset " + std::to_string(offset), message->err);
    }
}

std::int64_t Admin::append(const std::string& topic, std::int32_t partition, std::string_view key,
                           std::string_view value) {
    const std::string what = "append to " + place(topic, partition);
    if (const auto offset = state_->append(what, topic, partition, key, value)) return *offset;
    // Whatever is still in the client must not be appended later.
    state_->append_client.reset();
    throw Error(what + ": it is not known whether the record was stored; read the partition's end before trying again",
                RD_KAFKA_RESP_ERR__TIMED_OUT, false, false);
}

}  // namespace tidemark::kafka
