#include "infra/kafka/consumer.h"

#include "infra/base/log.h"
#include "infra/kafka/client.h"
#include "infra/kafka/error.h"

#include <librdkafka/rdkafka.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <deque>
#include <future>
#include <optional>
#include <thread>
#include <utility>

namespace tidemark::kafka {

namespace {

using Clock = std::chrono::steady_clock;
using namespace std::chrono_literals;

// Closing waits for the coordinator and may hang when it is gone; the truth is in the database.
constexpr auto kCloseLimit = 2s;

// The client's own threads are waited for here, not the network.
constexpr auto kSettleLimit = 2s;

// An error that repeats is logged once in that time, with how often it came.
constexpr auto kSayAgain = 10s;

struct Counters {
    std::atomic<std::uint64_t> assigned{0};
    std::atomic<std::uint64_t> revoked{0};
    std::atomic<std::uint64_t> lost{0};
    std::atomic<std::uint64_t> errors{0};
};

/// Keeps the client's own message, and so the bytes, alive.
class MessageBody final : public Record::Body {
public:
    MessageBody(Message message, std::atomic<std::int64_t>& living) noexcept
        : message_(std::move(message)), living_(&living) {
        living_->fetch_add(1, std::memory_order_relaxed);
    }
    ~MessageBody() override {
        message_.reset();
        living_->fetch_sub(1, std::memory_order_release);
    }
    MessageBody(const MessageBody&) = delete;
    MessageBody& operator=(const MessageBody&) = delete;

    [[nodiscard]] std::vector<Header> headers() const override {
        std::vector<Header> all;
        rd_kafka_headers_t* headers = nullptr;
        // Those that cannot be read are none: a dead letter of such a record is kept all the same.
        if (rd_kafka_message_headers(message_.get(), &headers) != RD_KAFKA_RESP_ERR_NO_ERROR) return all;
        const char* name = nullptr;
        const void* value = nullptr;
        std::size_t size = 0;
        while (rd_kafka_header_get_all(headers, all.size(), &name, &value, &size) == RD_KAFKA_RESP_ERR_NO_ERROR) {
            all.push_back({name, {static_cast<const char*>(value), size}});
        }
        return all;
    }
    [[nodiscard]] std::optional<std::string_view> header(const char* name) const override {
        rd_kafka_headers_t* headers = nullptr;
        const void* value = nullptr;
        std::size_t size = 0;
        if (rd_kafka_message_headers(message_.get(), &headers) != RD_KAFKA_RESP_ERR_NO_ERROR ||
            rd_kafka_header_get_last(headers, name, &value, &size) != RD_KAFKA_RESP_ERR_NO_ERROR)
            return std::nullopt;
        return std::string_view(static_cast<const char*>(value), size);
    }

private:
    Message message_;
    std::atomic<std::int64_t>* living_;
};

std::string_view view(const void* data, std::size_t size) noexcept {
    return {static_cast<const char*>(data), size};
}

}  // namespace

struct Consumer::State {
    explicit State(ConsumerOptions given) : options(std::move(given)) {
        ClientConf conf(options.brokers, options.client_id);
        conf.set("group.id", options.group);
        if (!options.instance_id.empty()) conf.set("group.instance.id", options.instance_id);
        // Cooperative rebalancing loops, loses assignments and hangs on close before 2.6 of the client.
        conf.set("partition.assignment.strategy", "range");
        // Offsets live in the database and start positions are explicit: any odd one must be an error, not a jump.
        conf.set("enable.auto.commit", "false");
        conf.set("enable.auto.offset.store", "false");
        conf.set("auto.offset.reset", "error");
        conf.set("enable.partition.eof", "true");
        conf.set("isolation.level", "read_uncommitted");
        conf.set("check.crcs", "true");
        conf.set("session.timeout.ms", options.session_timeout.count());
        conf.set("heartbeat.interval.ms", options.heartbeat_interval.count());
        conf.set("max.poll.interval.ms", options.max_poll_interval.count());
        conf.set("fetch.wait.max.ms", options.fetch_wait.count());
        // The pause after a failed fetch, e.g. while a partition changes its leader; the default is half a second.
        conf.set("fetch.error.backoff.ms", 100);
        // What a stopped owner can hold: stale records that it will drop.
        conf.set("queued.min.messages", options.queued_min_messages);
        conf.set("queued.max.messages.kbytes", options.queued_max_kbytes);
        conf.apply(options.properties);
        rd_kafka_conf_set_opaque(conf.get(), this);
        rd_kafka_conf_set_rebalance_cb(conf.get(), on_rebalance);
        rd_kafka_conf_set_error_cb(conf.get(), on_error);
        client = std::move(conf).make_consumer();

        check(rd_kafka_poll_set_consumer(client.get()), "consumer of topic " + options.topic);
        if (!options.partitions.empty()) {
            events.emplace_back(Assigned{options.partitions});
            return;
        }
        const Partitions topics(rd_kafka_topic_partition_list_new(1));
        rd_kafka_topic_partition_list_add(topics.get(), options.topic.c_str(), RD_KAFKA_PARTITION_UA);
        check(rd_kafka_subscribe(client.get(), topics.get()), "subscription to topic " + options.topic);
    }

    /// May hang: see ~Consumer.
    ~State() {
        closing = true;
        let_go();
        const auto code = rd_kafka_consumer_close(client.get());
        if (code != RD_KAFKA_RESP_ERR_NO_ERROR) {
            base::log::warn("consumer_close_failed", {{"topic", options.topic}, {"detail", describe(code)}});
        }
    }
    State(const State&) = delete;
    State& operator=(const State&) = delete;

    struct Position {
        std::int64_t next = 0;
        bool assigned = false;
    };

    static void on_rebalance(rd_kafka_t*, rd_kafka_resp_err_t code, rd_kafka_topic_partition_list_t* partitions,
                             void* self) noexcept {
        static_cast<State*>(self)->rebalance(code, *partitions);
    }
    static void on_error(rd_kafka_t*, int code, const char* text, void* self) noexcept {
        static_cast<State*>(self)->tolerate(static_cast<rd_kafka_resp_err_t>(code), text);
    }

    void check(rd_kafka_resp_err_t code, const std::string& what) {
        if (code == RD_KAFKA_RESP_ERR__FATAL) fail_fatally(what, client.get());
        if (code != RD_KAFKA_RESP_ERR_NO_ERROR) fail(what, code);
    }

    /// The answer to the group is the owner's, given by assign() or unassign() after poll() has returned the event.
    void rebalance(rd_kafka_resp_err_t code, const rd_kafka_topic_partition_list_t& list) {
        if (closing) {
            // Whatever comes of it, the client is about to be destroyed.
            static_cast<void>(rd_kafka_assign(client.get(), nullptr));
            return;
        }
        std::vector<std::int32_t> partitions;
        for (const auto& one : std::span(list.elems, static_cast<std::size_t>(list.cnt)))
            partitions.push_back(one.partition);
        if (code == RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS) {
            ++counters.assigned;
            events.emplace_back(Assigned{std::move(partitions)});
        } else {
            // Any other code than "revoke" leaves open who owns the partitions now.
            const bool lost =
                code != RD_KAFKA_RESP_ERR__REVOKE_PARTITIONS || rd_kafka_assignment_lost(client.get()) != 0;
            ++(lost ? counters.lost : counters.revoked);
            events.emplace_back(Revoked{std::move(partitions), lost});
        }
        rd_kafka_yield(client.get());
    }

    Polled poll(std::chrono::milliseconds timeout) {
        if (!events.empty()) return next_event();
        const auto until = Clock::now() + timeout;
        auto left = timeout;
        while (true) {
            Message message(rd_kafka_consumer_poll(client.get(), static_cast<int>(left.count())));
            if (!events.empty()) return next_event();
            if (message) {
                if (auto polled = message->err == RD_KAFKA_RESP_ERR_NO_ERROR ? take_record(std::move(message))
                                                                             : take_error(*message)) {
                    return std::move(*polled);
                }
            }
            left = std::chrono::duration_cast<std::chrono::milliseconds>(until - Clock::now());
            if (left <= 0ms) return Nothing{};
        }
    }

    Polled next_event() {
        auto event = std::move(events.front());
        events.pop_front();
        unanswered = true;
        return event;
    }

    /// Where a record or an end at `offset` moves the position of its partition; null when it is not wanted: fetched
    /// before the last assignment, after a revocation, or while paused.
    Position* wanted(std::int32_t partition, std::int64_t offset) {
        if (unanswered || paused || partition < 0 || static_cast<std::size_t>(partition) >= positions.size())
            return nullptr;
        Position& position = positions[static_cast<std::size_t>(partition)];
        return position.assigned && offset >= position.next ? &position : nullptr;
    }

    std::optional<Polled> take_record(Message message) {
        Position* position = wanted(message->partition, message->offset);
        if (position == nullptr) return std::nullopt;
        position->next = message->offset + 1;

        Record record;
        record.partition = message->partition;
        record.offset = message->offset;
        rd_kafka_timestamp_type_t kind{};
        record.append_time =
            base::Timestamp(std::chrono::milliseconds(rd_kafka_message_timestamp(message.get(), &kind)));
        if (message->key != nullptr) record.key = view(message->key, message->key_len);
        if (message->payload != nullptr) record.value = view(message->payload, message->len);
        record.own(std::make_unique<MessageBody>(std::move(message), living));
        return std::optional<Polled>(std::in_place, std::move(record));
    }

    std::optional<Polled> take_error(const rd_kafka_message_t& message) {
        const auto code = message.err;
        if (code == RD_KAFKA_RESP_ERR__PARTITION_EOF) {
            Position* position = wanted(message.partition, message.offset);
            if (position == nullptr) return std::nullopt;
            position->next = message.offset;
            return std::optional<Polled>(std::in_place, EndOfPartition{message.partition, message.offset});
        }
        // Before anything else: an error of the whole client bears the number of a partition, too, namely 0.
        if (code == RD_KAFKA_RESP_ERR__FATAL) {
            ++counters.errors;
            fail_fatally("consumer of topic " + options.topic, client.get());
        }
        const bool of_partition = message.rkt != nullptr && message.partition >= 0;
        // Of an assignment that is over.
        if (of_partition && (unanswered || !is_assigned(message.partition))) return std::nullopt;
        ++counters.errors;
        const bool topic_vanished = code == RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART && !assigned_starts().empty();
        if (!topic_vanished && is_retryable(code)) {
            say(code, rd_kafka_message_errstr(&message));
            return std::nullopt;
        }
        // The client goes on behind what it could not read, so going on would be to skip records.
        std::string what = "topic " + options.topic;
        if (of_partition) {
            const auto at = message.offset >= 0 ? message.offset : next_of(message.partition);
            what += ", partition " + std::to_string(message.partition) + ", offset " + std::to_string(at);
        }
        throw Error(what + ": " + describe(code) + ": " + rd_kafka_message_errstr(&message), code, false, false);
    }

    [[nodiscard]] bool is_assigned(std::int32_t partition) const {
        return partition >= 0 && static_cast<std::size_t>(partition) < positions.size() &&
               positions[static_cast<std::size_t>(partition)].assigned;
    }
    [[nodiscard]] std::int64_t next_of(std::int32_t partition) const {
        return is_assigned(partition) ? positions[static_cast<std::size_t>(partition)].next : -1;
    }
    [[nodiscard]] std::vector<Start> assigned_starts() const {
        std::vector<Start> starts;
        for (std::size_t n = 0; n < positions.size(); ++n) {
            if (positions[n].assigned) starts.push_back({static_cast<std::int32_t>(n), positions[n].next});
        }
        return starts;
    }

    [[nodiscard]] Partitions list_of(std::span<const Start> starts) const {
        Partitions list(rd_kafka_topic_partition_list_new(static_cast<int>(starts.size())));
        for (const auto& start : starts) {
            rd_kafka_topic_partition_list_add(list.get(), options.topic.c_str(), start.partition)->offset =
                start.offset;
        }
        return list;
    }

    /// To be called before partitions are taken from the client. Those that it was told to stop a moment ago it must
    /// have seen stopped, or it aborts the process (an assertion in rd_kafka_assignment_partition_stopped,
    /// librdkafka 2.0.2). Nothing tells when it has; but a seek, wherever to, is answered by the thread that stops the
    /// partition and after that, and what is asked of the client next it does after having heard of the stop.
    void let_go() {
        const auto starts = assigned_starts();
        if (starts.empty()) return;
        if (!std::exchange(stopping, true)) return;
        const auto until = Clock::now() + kSettleLimit;
        while (true) {
            // That a partition cannot seek just now is no matter; what became of each stands in the list. The client
            // takes the milliseconds for microseconds (2.0.2), so it may have to be asked again.
            const auto list = list_of(starts);
            const ClientError error(rd_kafka_seek_partitions(client.get(), list.get(), 2'000));
            if (!error) return;
            if (Clock::now() < until) continue;
            base::log::warn("consumer_not_settled",
                            {{"topic", options.topic}, {"detail", rd_kafka_error_string(error.get())}});
            return;
        }
    }

    void assign(std::span<const Start> starts) {
        std::vector<Position> fresh;
        for (const auto& start : starts) {
            // A negative offset is a name to the client: -1 is the log's end, and reading from it would skip
            // everything.
            if (start.partition < 0 || start.offset < 0) {
                throw Error("topic " + options.topic + ", partition " + std::to_string(start.partition) + ": " +
                                std::to_string(start.offset) + " is no place to read from",
                            RD_KAFKA_RESP_ERR__INVALID_ARG, false, false);
            }
            const auto n = static_cast<std::size_t>(start.partition);
            if (fresh.size() <= n) fresh.resize(n + 1);
            fresh[n] = {start.offset, true};
        }
        let_go();
        // This returns after the client has raised the version of every partition, from where on it drops by itself
        // what was fetched for the old assignment.
        check(rd_kafka_assign(client.get(), list_of(starts).get()), "assignment of topic " + options.topic);
        positions = std::move(fresh);
        unanswered = false;
        if (paused) pause();
    }

    void unassign() {
        let_go();
        check(rd_kafka_assign(client.get(), nullptr), "giving up the partitions of topic " + options.topic);
        positions.clear();
        unanswered = false;
    }

    void pause() {
        paused = true;
        if (const auto starts = assigned_starts(); !starts.empty()) {
            const auto list = list_of(starts);
            check(rd_kafka_pause_partitions(client.get(), list.get()), "pause of topic " + options.topic);
        }
    }

    void resume() {
        if (!std::exchange(paused, false)) return;
        const auto starts = assigned_starts();
        if (starts.empty()) return;
        const auto list = list_of(starts);
        check(rd_kafka_resume_partitions(client.get(), list.get()), "resumption of topic " + options.topic);
        // Records that were dropped while paused are fetched again from here.
        if (!unanswered) assign(starts);
    }

    void report_progress(std::span<const Start> next) noexcept {
        if (next.empty() || !options.partitions.empty()) return;
        const auto code = rd_kafka_commit(client.get(), list_of(next).get(), /*async=*/1);
        if (code != RD_KAFKA_RESP_ERR_NO_ERROR) tolerate(code, "progress was not reported to the broker");
    }

    /// Counts and, not too often, logs an error that the client gets over by itself.
    void tolerate(rd_kafka_resp_err_t code, const char* text) noexcept {
        ++counters.errors;
        say(code, text);
    }
    void say(rd_kafka_resp_err_t code, const char* text) noexcept {
        ++unsaid;
        const auto now = Clock::now();
        if (code == last_said && now < say_again_at) return;
        last_said = code;
        say_again_at = now + kSayAgain;
        base::log::warn("consumer_error", {{"topic", options.topic},
                                           {"group", options.group},
                                           {"code", rd_kafka_err2name(code)},
                                           {"detail", text != nullptr ? text : ""},
                                           {"count", std::exchange(unsaid, 0)}});
    }

    const ConsumerOptions options;
    Counters counters;
    std::atomic<std::int64_t> living{0};  // records that still hold a message of this client
    std::vector<Position> positions;      // by partition
    std::deque<Polled> events;            // rebalances that poll() has yet to return
    bool unanswered = false;              // one was returned and not answered yet
    bool paused = false;
    bool stopping = false;  // partitions were taken from the client, which may not have seen them stop
    std::atomic<bool> closing{false};
    rd_kafka_resp_err_t last_said = RD_KAFKA_RESP_ERR_NO_ERROR;
    Clock::time_point say_again_at{};
    std::uint64_t unsaid = 0;
    Client client;  // last, so that it dies before what its callbacks use
};

Consumer::Consumer(ConsumerOptions options) : state_(std::make_unique<State>(std::move(options))) {}

Consumer::~Consumer() {
    const std::string topic = state_->options.topic;
    if (const auto living = state_->living.load(std::memory_order_acquire); living != 0) {
        // Their bytes are the client's. It stays, as a member of its group until the session is over.
        base::log::error("consumer_abandoned",
                         {{"topic", topic}, {"reason", "records outlive it"}, {"records", living}});
        static_cast<void>(state_.release());
        return;
    }
    std::packaged_task<void()> close([state = std::move(state_)]() mutable { state.reset(); });
    auto closed = close.get_future();
    std::thread closer(std::move(close));
    if (closed.wait_for(kCloseLimit) == std::future_status::ready) {
        closer.join();
        return;
    }
    // The thread and the client are left behind on purpose; the process is about to end.
    base::log::warn("consumer_abandoned", {{"topic", topic}, {"reason", "the group's coordinator does not answer"}});
    closer.detach();
}

Polled Consumer::poll(std::chrono::milliseconds timeout) {
    return state_->poll(timeout);
}
void Consumer::assign(std::span<const Start> starts) {
    state_->assign(starts);
}
void Consumer::unassign() {
    state_->unassign();
}
void Consumer::pause() {
    state_->pause();
}
void Consumer::resume() {
    state_->resume();
}
void Consumer::report_progress(std::span<const Start> next) noexcept {
    state_->report_progress(next);
}

ConsumerCounters Consumer::counters() const noexcept {
    const auto& counters = state_->counters;
    return {counters.assigned, counters.revoked, counters.lost, counters.errors};
}

}  // namespace tidemark::kafka
