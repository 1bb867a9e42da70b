#include "infra/kafka/producer.h"

#include "infra/base/backoff.h"
#include "infra/base/log.h"
#include "infra/kafka/admin.h"
#include "infra/kafka/client.h"
#include "infra/kafka/error.h"
#include "infra/kafka/partitioner.h"
#include "infra/kafka/staged_records.h"

#include <librdkafka/rdkafka.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cassert>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>

namespace tidemark::kafka {

namespace {

using Clock = std::chrono::steady_clock;
using namespace std::chrono_literals;

// How long the delivery thread may sleep: half of what Listener::on_tick promises, for the sleep can overshoot.
constexpr auto kBusyTick = 10ms;
constexpr auto kIdleTick = 100ms;

// Deliveries handed over at once; also how many are taken before the tick is looked at again.
constexpr std::size_t kBatch = 1024;

// What is handed over of a partition at once: not more than one request of the client takes (10,000 records or 1 MB).
// With five records on the wire and others behind them its thread spins until the broker answers (librdkafka 2.0.2:
// rd_kafka_toppar_producer_serve takes records in flight for requests); and what is still here can be given back.
constexpr std::size_t kMostRecords = 1'024;
constexpr std::size_t kMostBytes = std::size_t{512} << 10;

// Without a single acknowledgement for that long while records are out, nobody knows whether a broker is there: the
// time that callers give a record.
constexpr auto kStall = 5s;

// What a fatally failed client may still take to hear the broker's answers to what was on the wire: a true answer is
// better than "perhaps", but its callers are waiting.
constexpr auto kLastAnswers = 1s;

// A purge skips what is just moving between two queues inside the client, so it is repeated until all is answered.
constexpr auto kPurgeAgain = 100ms;

// A broker that does not answer a metadata request in that time is not there for our callers either.
constexpr auto kProbeTimeout = 1s;

constexpr auto kEndOffsetTimeout = 2s;

// At the end: first for the broker's answers, then for the client to give back the rest.
constexpr auto kFlushLimit = 5s;
constexpr auto kSettleLimit = 5s;

// A missing topic is looked for twice a second, but named in the log more rarely.
constexpr auto kSayAgain = 10s;

// A client that lived that long did not fail because of how it was made: its successor is made at once.
constexpr auto kLongLife = 10s;

/// What is bound for one partition. It waits here while records of that partition are with the client, and is handed
/// over together when those have been answered. So batches grow with the load by themselves while a lone record waits
/// for nobody; a record that runs out of time here was surely never sent, and no gap is torn into the client's sequence
/// numbers, which would make it begin a new epoch and send what is still unanswered a second time; and the client
/// seldom has records of a partition behind others on the wire (see kMostRecords).
struct Lane {
    std::mutex mutex;  // guards waiting
    StagedRecords waiting;
    std::atomic<std::size_t> staged{0};     // the size of waiting
    std::atomic<std::size_t> in_client{0};  // changed by the delivery thread alone
    // The delivery thread's.
    Clock::time_point heard_at{};          // the last hand-over or answer
    std::optional<Clock::time_point> due;  // when what waits goes to the client, whatever the others do
};

/// One client and what belongs to it; given up as a whole after a fatal error.
struct Instance {
    Client client;
    std::vector<Topic> topics;
    Queue queue;                       // delivery reports and errors
    std::size_t outstanding = 0;       // handed over, report not yet taken from the queue; the delivery thread's
    std::size_t max_record_bytes = 0;  // key, value and headers; it refuses larger ones
    const Clock::time_point born = Clock::now();
};

/// A client that was given up and still has records to answer.
struct Retired {
    std::shared_ptr<Instance> instance;
    Clock::time_point purge_at;
};

/// A record that is stored, at an offset that the broker did not tell.
struct Unplaced {
    Delivery delivery;
    std::string topic;
};

/// `wake(waker)` is called by the client's threads when something is in its queue.
std::shared_ptr<Instance> make_instance(const ProducerOptions& options, void (*wake)(rd_kafka_t*, void*), void* waker) {
    ClientConf conf(options.brokers, options.client_id);
    conf.set("enable.idempotence", "true");
    conf.set("acks", "all");
    // A gap is fatal: this one ends without sending anything more. Without it the client would renumber what it holds
    // and send it again, the unanswered included.
    conf.set("enable.gapless.guarantee", "true");
    conf.set("partitioner", "murmur2_random");
    conf.set("queue.buffering.max.messages", options.queue_records);
    conf.set("queue.buffering.max.kbytes", options.queue_kbytes);
    conf.set("queue.buffering.max.ms", 0);  // lanes linger; the client's shortest wait is a millisecond
    conf.set("message.timeout.ms", 0);      // it would tear a gap; Lane::heard_at stands for it
    conf.set("socket.timeout.ms", options.socket_timeout.count());
    // The broker says that it is waiting for replicas before the client gives the connection up: a time-out is the
    // first half of what makes an idempotent producer fail fatally.
    conf.set("request.timeout.ms", options.socket_timeout.count() * 4 / 5);
    conf.set("compression.codec", options.compression);
    conf.keep("delivery.report.only.error");
    // Those that run out leave behind what NOT_LEADER_FOR_PARTITION leaves open: see persistence_of.
    conf.keep("message.send.max.retries");
    conf.apply(options.properties);
    rd_kafka_conf_set_events(conf.get(), RD_KAFKA_EVENT_DR | RD_KAFKA_EVENT_ERROR);

    auto instance = std::make_shared<Instance>();
    instance->max_record_bytes = std::stoul(conf.value_of("message.max.bytes"));
    instance->client = std::move(conf).make_producer();
    for (const auto& topic : options.topics)
        instance->topics.push_back(make_topic(instance->client.get(), topic));
    instance->queue.reset(rd_kafka_queue_get_main(instance->client.get()));
    rd_kafka_queue_cb_event_enable(instance->queue.get(), wake, waker);
    return instance;
}

Persistence persistence_of(const rd_kafka_message_t& message) noexcept {
    switch (rd_kafka_message_status(&message)) {
        case RD_KAFKA_MSG_STATUS_PERSISTED:
            return Persistence::persisted;
        case RD_KAFKA_MSG_STATUS_NOT_PERSISTED:
            // True of what a broker refused, and known here only of what was never sent. What the client fails by
            // itself (purged, its topic gone) it may have sent before: it takes NOT_LEADER_FOR_PARTITION and its like
            // for proof that nothing was stored, but a leader that is replaced while it waits for its replicas answers
            // so for what its successor has.
            if (message.err <= RD_KAFKA_RESP_ERR__END) break;
            return Persistence::not_persisted;
        case RD_KAFKA_MSG_STATUS_POSSIBLY_PERSISTED:
            break;
    }
    return Persistence::possibly_persisted;
}

/// -1 when the broker did not say. The client's own offset cannot tell: for a batch that the broker had already
/// (duplicate sequence number) the client counts upwards from the -1 that stands in the error, so all but the first
/// look valid. Only a true answer brings the append time, for our topics are LogAppendTime (on others each place is
/// asked for: slower, as right).
std::int64_t offset_of(const rd_kafka_message_t& message) noexcept {
    rd_kafka_timestamp_type_t kind{};
    static_cast<void>(rd_kafka_message_timestamp(&message, &kind));
    return kind == RD_KAFKA_TIMESTAMP_LOG_APPEND_TIME ? message.offset : -1;
}

}  // namespace

struct Producer::State {
    State(ProducerOptions given, Listener& its_listener) : options(std::move(given)), listener(its_listener) {
        current = make();  // not earlier: it may call back at once
        max_record_bytes = current->max_record_bytes;
        batch.reserve(kBatch);
        deliverer = std::thread([this] { deliver(); });
        supervisor = std::thread([this] { supervise(); });
    }

    ~State() {
        closing = true;
        draining = available.load();
        set_unavailable("it is being closed");
        wait_idle(kFlushLimit);
        give_up = true;
        wake();
        deliverer.join();
        {
            const std::lock_guard lock(supervision);
            stop_supervisor = true;
        }
        supervisor_wakes.notify_all();
        supervisor.join();
        // Clients call back until they are gone, so they go before the rest of this.
        retired.clear();
        graveyard.clear();
        current.reset();
    }
    State(const State&) = delete;
    State& operator=(const State&) = delete;

    // --- any thread

    Enqueued produce(const NewRecord& record) noexcept {
        assert(!record.key.empty() && "a record without a key would go to a random partition");
        assert(record.topic < options.topics.size());
        if (!available.load(std::memory_order_acquire)) return Enqueued::unavailable;
        const std::size_t size = record.key.size() + record.value.size();
        std::size_t header_bytes = 0;
        for (const auto& header : record.headers)
            header_bytes += header.name.size() + header.value.size();
        if (size + header_bytes > max_record_bytes) return Enqueued::too_large;
        auto& lanes = routes[record.topic];
        const auto partition =
            record.partition.value_or(murmur2_partition(record.key, static_cast<std::int32_t>(lanes.size())));
        if (partition < 0 || static_cast<std::size_t>(partition) >= lanes.size()) return Enqueued::unavailable;
        // Counted first, so that of several callers none goes over the limit unseen.
        if (++outstanding > options.queue_records) return refuse(Enqueued::full);
        if ((bytes += size) > static_cast<std::size_t>(options.queue_kbytes) * 1024) {
            bytes -= size;
            return refuse(Enqueued::full);
        }
        auto& lane = lanes[static_cast<std::size_t>(partition)];
        bool first = false;
        {
            const std::lock_guard lock(lane.mutex);
            first = lane.waiting.empty();
            lane.waiting.add(record.key, record.value, record.headers, record.tag, record.give_up_at);
            lane.staged = lane.waiting.size();
        }
        // Otherwise the delivery thread has seen the first, or is woken by the report of what is with the client.
        if (first && lane.in_client == 0) wake();
        return Enqueued::ok;
    }

    Enqueued refuse(Enqueued why) noexcept {
        forget(1);
        return why;
    }

    /// Ends the delivery thread's doze.
    void wake() noexcept {
        if (due.exchange(true)) return;
        { const std::lock_guard lock(dozing); }  // so that it is not between its look and its sleep
        wakes.notify_one();
    }

    std::shared_ptr<Instance> make() {
        return make_instance(
            options, [](rd_kafka_t*, void* self) { static_cast<State*>(self)->wake(); }, this);
    }

    std::shared_ptr<Instance> instance() {
        const std::lock_guard lock(supervision);
        return current;
    }

    bool wait_idle(std::chrono::milliseconds limit) noexcept {
        ++idle_waiters;
        std::unique_lock lock(supervision);
        const bool done = idle.wait_for(lock, limit, [this] { return outstanding == 0; });
        --idle_waiters;
        return done;
    }

    void forget(std::int64_t count) noexcept {
        if ((outstanding -= count) != 0 || idle_waiters == 0) return;
        const std::lock_guard lock(supervision);  // so that no waiter is between its look and its sleep
        idle.notify_all();
    }

    void set_unavailable(std::string_view reason) {
        {
            const std::lock_guard lock(supervision);
            ++doubts;
            if (!available.exchange(false)) return;
        }
        supervisor_wakes.notify_all();
        if (!closing) base::log::warn("producer_unavailable", {{"client", options.client_id}, {"reason", reason}});
    }

    std::uint64_t doubts_so_far() {
        const std::lock_guard lock(supervision);
        return doubts;
    }

    /// A broker answered `by`; it counts unless something cast doubt on it after `doubts_before`.
    void set_available(const Instance& by, std::uint64_t doubts_before) {
        if (instance().get() != &by) return;
        {
            const std::lock_guard lock(supervision);
            if (doubts != doubts_before || closing || available) return;
            available = true;
        }
        wake();
        base::log::info("producer_available", {{"client", options.client_id}});
    }

    // --- the delivery thread

    void deliver() {
        Clock::time_point ticked{};
        Clock::time_point settle_by = Clock::time_point::max();
        progress_at = Clock::now();
        while (true) {
            doze();
            // Not shared: this thread alone takes a client out of use, and being its last owner would mean to wait for
            // its end.
            serving = instance().get();
            if (serving != nullptr) drain(*serving);
            if (serving != nullptr && (available || draining)) hand_to_client(*serving);
            serve_retired();
            take_placed();
            hand_over();

            const auto now = Clock::now();
            watch_for_stall(now);
            if (now - ticked >= kBusyTick) {
                ticked = now;
                give_back_overdue(now);
                if (serving != nullptr) give_up_stuck(now);
                listener.on_tick();
            }
            if (give_up) {
                settle_by = std::min(settle_by, now + kSettleLimit);
                if (outstanding == 0) return;
                if (now >= settle_by) {
                    base::log::error("producer_abandoned",
                                     {{"client", options.client_id}, {"unanswered", outstanding.load()}});
                    return;
                }
                retire_current(now);
                give_back_overdue(Clock::time_point::max());
            }
        }
    }

    /// Waits for something to do, or for the next tick.
    void doze() {
        const auto tick = Clock::now() + (outstanding != 0 ? kBusyTick : kIdleTick);
        std::unique_lock lock(dozing);
        wakes.wait_until(lock, std::min(tick, next_due), [this] { return due.load(); });
        due = false;  // before looking: what comes from now on wakes again
        next_due = Clock::time_point::max();
    }

    /// Hands over what waits for partitions of which nothing is with the client: at once when nothing at all is there,
    /// otherwise within the linger, so that partitions fall into step and share the threads' wake-ups.
    void hand_to_client(Instance& to) {
        const bool alone = to.outstanding == 0;
        const auto now = Clock::now();
        for_each_lane([&](Lane& lane, TopicIndex topic, std::int32_t partition) {
            if (lane.in_client != 0 || lane.staged == 0) return;
            if (!lane.due) lane.due = now + options.linger;
            if (!alone && now < *lane.due) {
                next_due = std::min(next_due, *lane.due);
                return;
            }
            lane.due.reset();
            {
                const std::lock_guard lock(lane.mutex);
                drop_overdue(lane, now);  // the whole process may have stood still
                lane.waiting.take(released, kMostRecords, kMostBytes);
                lane.staged = lane.waiting.size();
                lane.in_client = released.size();
            }
            to.outstanding += released.size();
            lane.heard_at = now;
            released.for_each([&](std::string_view key, std::string_view value, std::span<const Header> headers,
                                  std::uint64_t tag) {
                const auto code = enqueue(to.client.get(), to.topics[topic].get(), partition, key, value, headers, tag);
                if (code == RD_KAFKA_RESP_ERR_NO_ERROR) return;
                --lane.in_client;
                --to.outstanding;
                give_back(tag, key.size() + value.size(), code);
            });
            released.clear();
        });
    }

    template <typename Visit>
    void for_each_lane(Visit visit) {
        if (!routed.load(std::memory_order_acquire)) return;
        for (TopicIndex topic = 0; topic < routes.size(); ++topic) {
            for (std::size_t partition = 0; partition < routes[topic].size(); ++partition)
                visit(routes[topic][partition], topic, static_cast<std::int32_t>(partition));
        }
    }

    static rd_kafka_resp_err_t enqueue(rd_kafka_t* client, rd_kafka_topic_t* topic, std::int32_t partition,
                                       std::string_view key, std::string_view value, std::span<const Header> headers,
                                       std::uint64_t tag) noexcept {
        Headers copied;
        if (!headers.empty()) {
            copied.reset(rd_kafka_headers_new(headers.size()));
            for (const auto& header : headers) {
                const auto added =
                    rd_kafka_header_add(copied.get(), header.name.data(), static_cast<ssize_t>(header.name.size()),
                                        header.value.data(), static_cast<ssize_t>(header.value.size()));
                if (added != RD_KAFKA_RESP_ERR_NO_ERROR) return added;
            }
        }
        std::array<rd_kafka_vu_t, 7> with{};
        with[0].vtype = RD_KAFKA_VTYPE_RKT;
        with[0].u.rkt = topic;
        with[1].vtype = RD_KAFKA_VTYPE_PARTITION;
        with[1].u.i32 = partition;
        with[2].vtype = RD_KAFKA_VTYPE_KEY;
        with[2].u.mem = {const_cast<char*>(key.data()), key.size()};
        with[3].vtype = RD_KAFKA_VTYPE_VALUE;  // its pointer is never null, which would be a tombstone
        with[3].u.mem = {const_cast<char*>(value.data()), value.size()};
        with[4].vtype = RD_KAFKA_VTYPE_MSGFLAGS;
        with[4].u.i = RD_KAFKA_MSG_F_COPY;
        with[5].vtype = RD_KAFKA_VTYPE_OPAQUE;
        with[5].u.ptr = reinterpret_cast<void*>(static_cast<std::uintptr_t>(tag));
        with[6].vtype = RD_KAFKA_VTYPE_HEADERS;
        with[6].u.headers = copied.get();
        const ClientError error(rd_kafka_produceva(client, with.data(), copied ? 7 : 6));
        if (error) return rd_kafka_error_code(error.get());
        static_cast<void>(copied.release());  // the record owns them, but only once it was accepted
        return RD_KAFKA_RESP_ERR_NO_ERROR;
    }

    /// What never reached the client. Does not call the listener: that may produce, and a lane may be locked here.
    void give_back(std::uint64_t tag, std::size_t size, int code) {
        bytes -= size;
        Delivery delivery;
        delivery.tag = tag;
        delivery.error = code;
        batch.push_back(delivery);
    }

    void give_back_overdue(Clock::time_point now) {
        for_each_lane([&](Lane& lane, TopicIndex, std::int32_t) {
            if (lane.staged == 0) return;
            const std::lock_guard lock(lane.mutex);
            drop_overdue(lane, now);
        });
        hand_over();
    }

    /// The lane is locked.
    void drop_overdue(Lane& lane, Clock::time_point now) {
        lane.waiting.drop_overdue(now, [this](std::uint64_t tag, std::size_t size) {
            give_back(tag, size, RD_KAFKA_RESP_ERR__TIMED_OUT_QUEUE);
        });
        lane.staged = lane.waiting.size();
    }

    /// A record that nobody has answered for so long must not come into the log at some later hour.
    void give_up_stuck(Clock::time_point now) {
        bool stuck = false;
        for_each_lane([&](const Lane& lane, TopicIndex, std::int32_t) {
            stuck |= lane.in_client != 0 && now - lane.heard_at >= options.message_timeout;
        });
        if (!stuck) return;
        base::log::error("producer_stuck", {{"client", options.client_id}, {"outstanding", serving->outstanding}});
        replace_current(now);
    }

    /// Takes what is in the client's queue.
    void drain(Instance& from) {
        for (std::size_t taken = 0; taken < kBatch;) {
            const Event event(rd_kafka_queue_poll(from.queue.get(), 0));
            if (!event) return;
            if (rd_kafka_event_type(event.get()) == RD_KAFKA_EVENT_DR) {
                taken += take_reports(from, event.get());
            } else if (rd_kafka_event_type(event.get()) == RD_KAFKA_EVENT_ERROR) {
                take_error(from, event.get());
            }
        }
        wake();  // there may be more
    }

    std::size_t take_reports(Instance& from, rd_kafka_event_t* event) {
        std::size_t taken = 0;
        bool acknowledged = false;
        const auto now = Clock::now();
        while (const rd_kafka_message_t* message = rd_kafka_event_message_next(event)) {
            ++taken;
            bytes -= message->key_len + message->len;
            if (&from == serving) {
                auto& lane = lane_of(from, *message);
                --lane.in_client;
                lane.heard_at = now;
            }
            Delivery delivery;
            delivery.tag = reinterpret_cast<std::uintptr_t>(message->_private);
            delivery.persistence = persistence_of(*message);
            delivery.partition = message->partition;
            delivery.error = message->err;
            if (delivery.persistence != Persistence::persisted) {
                add(delivery);
            } else {
                acknowledged = true;
                delivery.offset = offset_of(*message);
                if (delivery.offset >= 0) {
                    add(delivery);
                } else {
                    ask_for_place({delivery, rd_kafka_topic_name(message->rkt)});
                }
            }
        }
        from.outstanding -= taken;
        if (acknowledged) progress_at = now;
        if (&from == serving && acknowledged && ready && !available) set_available(from, doubts_so_far());
        return taken;
    }

    Lane& lane_of(const Instance& from, const rd_kafka_message_t& message) noexcept {
        TopicIndex topic = 0;
        while (from.topics[topic].get() != message.rkt)
            ++topic;
        return routes[topic][static_cast<std::size_t>(message.partition)];
    }

    void add(const Delivery& delivery) {
        if (batch.size() >= kBatch) hand_over();
        batch.push_back(delivery);
    }

    void hand_over() {
        if (batch.empty()) return;
        for (const auto& delivery : batch)
            counts[static_cast<std::size_t>(delivery.persistence)].fetch_add(1, std::memory_order_relaxed);
        listener.on_deliveries(batch);
        const auto count = static_cast<std::int64_t>(batch.size());
        batch.clear();
        forget(count);
    }

    void take_error(Instance& from, rd_kafka_event_t* event) {
        if (&from != serving) return;
        const auto code = rd_kafka_event_error(event);
        const char* text = rd_kafka_event_error_string(event);
        // An event carries the cause in place of ERR__FATAL, which callbacks get.
        if (rd_kafka_event_error_is_fatal(event) != 0) {
            base::log::error("producer_fatal",
                             {{"client", options.client_id}, {"detail", text}, {"outstanding", from.outstanding}});
            replace_current(Clock::now() + kLastAnswers);
        } else if (code == RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN) {
            set_unavailable("no broker is up");
        } else if (code != RD_KAFKA_RESP_ERR__TRANSPORT) {  // lost connections stand in the client's own log lines
            base::log::warn("producer_error",
                            {{"client", options.client_id}, {"code", rd_kafka_err2name(code)}, {"detail", text}});
        }
    }

    void replace_current(Clock::time_point purge_at) {
        fatal.fetch_add(1, std::memory_order_relaxed);
        ready = false;
        set_unavailable("the producer is being replaced");
        retire_current(purge_at);
        supervisor_wakes.notify_all();
    }

    /// Takes the client out of use. What was not sent is given back at once, what is on the wire at `purge_at`.
    void retire_current(Clock::time_point purge_at) {
        {
            const std::lock_guard lock(supervision);
            if (current == nullptr) return;
            retired.push_back({std::exchange(current, nullptr), purge_at});
        }
        serving = nullptr;
        for_each_lane([](Lane& lane, TopicIndex, std::int32_t) { lane.in_client = 0; });
        purge(*retired.back().instance, RD_KAFKA_PURGE_F_QUEUE);
    }

    static void purge(Instance& which, int what) noexcept {
        // Anything but success means an unknown flag or a consumer. Waiting for it would wait for the broker's threads.
        const auto result = rd_kafka_purge(which.client.get(), what | RD_KAFKA_PURGE_F_NON_BLOCKING);
        assert(result == RD_KAFKA_RESP_ERR_NO_ERROR);
        static_cast<void>(result);
    }

    void serve_retired() {
        for (auto& old : retired) {
            drain(*old.instance);
            if (old.instance->outstanding == 0) {
                const std::lock_guard lock(supervision);
                graveyard.push_back(std::move(old.instance));
                supervisor_wakes.notify_all();
            } else if (const auto now = Clock::now(); now >= old.purge_at) {
                old.purge_at = now + kPurgeAgain;
                purge(*old.instance, RD_KAFKA_PURGE_F_QUEUE | RD_KAFKA_PURGE_F_INFLIGHT);
            }
        }
        std::erase_if(retired, [](const Retired& old) { return old.instance == nullptr; });
    }

    void watch_for_stall(Clock::time_point now) {
        if (outstanding == 0 || !available) {
            progress_at = now;
        } else if (now - progress_at >= kStall) {
            set_unavailable("no record was acknowledged for five seconds");
        }
    }

    void ask_for_place(Unplaced record) {
        {
            const std::lock_guard lock(supervision);
            unplaced.push_back(std::move(record));
        }
        supervisor_wakes.notify_all();
    }

    void take_placed() {
        std::vector<Delivery> taken;
        {
            const std::lock_guard lock(supervision);
            taken.swap(placed);
        }
        for (const auto& delivery : taken)
            add(delivery);
    }

    // --- the supervising thread: whatever may block

    void supervise() {
        base::Backoff backoff(20ms, 500ms, static_cast<std::uint64_t>(Clock::now().time_since_epoch().count()));
        Clock::time_point try_at{};
        std::unique_lock lock(supervision);
        while (!stop_supervisor) {
            if (!graveyard.empty()) {
                auto dead = std::exchange(graveyard, {});
                lock.unlock();
                dead.clear();
                lock.lock();
            } else if (!unplaced.empty()) {
                auto records = std::exchange(unplaced, {});
                lock.unlock();
                find_places(records);
                lock.lock();
                for (const auto& record : records)
                    placed.push_back(record.delivery);
                wake();
            } else if (available || closing) {
                supervisor_wakes.wait(lock);
            } else if (Clock::now() < try_at) {
                supervisor_wakes.wait_until(lock, try_at);
            } else {
                lock.unlock();
                revive(backoff);
                try_at = Clock::now() + backoff.next();
                lock.lock();
            }
        }
    }

    /// Makes a client if there is none, and asks it for the topics.
    void revive(base::Backoff& backoff) {
        auto here = instance();
        if (here == nullptr) {
            try {
                here = make();
            } catch (const Error& error) {
                base::log::error("producer_not_made", {{"client", options.client_id}, {"detail", error.what()}});
                return;
            }
            {
                const std::lock_guard lock(supervision);
                current = here;
            }
            wake();
        } else if (Clock::now() - here->born > kLongLife) {
            backoff.reset();
        }
        const auto doubts_before = doubts_so_far();
        std::vector<std::size_t> partitions;
        if (!knows_topics(*here, partitions)) return;
        // Made once, before the first record: a topic never grows, for its keys would move.
        if (!routed) {
            for (const auto count : partitions)
                routes.emplace_back(count);
            routed.store(true, std::memory_order_release);
        }
        ready = true;
        set_available(*here, doubts_before);
    }

    bool knows_topics(Instance& asked, std::vector<std::size_t>& partitions) {
        for (const auto& topic : asked.topics) {
            // Each by itself: asked for all at once, the client lets the broker create those that it has known before.
            const rd_kafka_metadata_t* answer = nullptr;
            constexpr auto kTimeout = std::chrono::duration_cast<std::chrono::milliseconds>(kProbeTimeout);
            auto code =
                rd_kafka_metadata(asked.client.get(), 0, topic.get(), &answer, static_cast<int>(kTimeout.count()));
            if (code != RD_KAFKA_RESP_ERR_NO_ERROR) return false;
            code = answer->topic_cnt == 1 ? answer->topics[0].err : RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART;
            const auto count = answer->topic_cnt == 1 ? answer->topics[0].partition_cnt : 0;
            rd_kafka_metadata_destroy(answer);
            if (code == RD_KAFKA_RESP_ERR_NO_ERROR && count > 0) {
                partitions.push_back(static_cast<std::size_t>(count));
                continue;
            }
            if (const auto now = Clock::now(); now >= say_again_at) {
                say_again_at = now + kSayAgain;
                base::log::error("topic_unavailable",
                                 {{"topic", rd_kafka_topic_name(topic.get())}, {"detail", describe(code)}});
            }
            return false;
        }
        return true;
    }

    /// Gives each record the newest offset of its partition, asked for after it was stored.
    void find_places(std::vector<Unplaced>& records) {
        std::map<std::string, std::vector<std::int64_t>> ends;
        for (const auto& record : records) {
            auto& partitions = ends[record.topic];
            partitions.resize(std::max(partitions.size(), static_cast<std::size_t>(record.delivery.partition) + 1), -1);
        }
        for (auto& [topic, partitions] : ends) {
            try {
                if (!admin) admin.emplace(options.brokers, options.properties, kEndOffsetTimeout);
                partitions = admin->end_offsets(topic, static_cast<std::int32_t>(partitions.size()));
            } catch (const Error& error) {
                base::log::warn("stored_offset_unknown", {{"topic", topic}, {"detail", error.what()}});
            }
        }
        for (auto& [delivery, topic] : records) {
            const auto end = ends[topic][static_cast<std::size_t>(delivery.partition)];
            if (end > 0) {
                delivery.offset = end - 1;
            } else {
                delivery.persistence = Persistence::possibly_persisted;
            }
        }
    }

    const ProducerOptions options;
    Listener& listener;

    // By topic and partition. Made before `routed`, and so before `available`, and never changed after.
    std::vector<std::deque<Lane>> routes;
    std::atomic<bool> routed{false};
    std::size_t max_record_bytes = 0;  // key, value and headers; the client's own limit

    // The delivery thread's own.
    Instance* serving = nullptr;
    std::vector<Retired> retired;
    std::vector<Delivery> batch;
    StagedRecords released;
    Clock::time_point progress_at;
    Clock::time_point next_due = Clock::time_point::max();  // of the lanes that linger

    // The supervising thread's own.
    std::optional<Admin> admin;
    Clock::time_point say_again_at{};

    std::mutex supervision;  // guards everything down to `idle`, and the changes of `available`
    std::shared_ptr<Instance> current;
    std::vector<std::shared_ptr<Instance>> graveyard;
    std::vector<Unplaced> unplaced;
    std::vector<Delivery> placed;
    std::uint64_t doubts = 0;
    bool stop_supervisor = false;
    std::condition_variable supervisor_wakes;
    std::condition_variable idle;

    std::atomic<bool> available{false};
    std::atomic<bool> ready{false};
    std::atomic<bool> closing{false};
    std::atomic<bool> draining{false};  // closing, with a broker there to take what waits
    std::atomic<bool> give_up{false};

    std::mutex dozing;
    std::condition_variable wakes;
    std::atomic<bool> due{false};  // the delivery thread has something to look at
    std::atomic<int> idle_waiters{0};
    std::atomic<std::int64_t> outstanding{0};            // accepted, not yet told to the listener
    std::array<std::atomic<std::uint64_t>, 3> counts{};  // by Persistence
    std::atomic<std::uint64_t> fatal{0};
    std::atomic<std::size_t> bytes{0};  // keys and values of what is outstanding

    std::thread deliverer;
    std::thread supervisor;
};

Producer::Producer(ProducerOptions options, Listener& listener)
    : state_(std::make_unique<State>(std::move(options), listener)) {}
Producer::~Producer() = default;

Enqueued Producer::produce(const NewRecord& record) noexcept {
    return state_->produce(record);
}

bool Producer::available() const noexcept {
    return state_->available;
}

bool Producer::flush(std::chrono::milliseconds limit) noexcept {
    return state_->wait_idle(limit);
}

bool Producer::ready() const noexcept {
    return state_->ready;
}

ProducerCounters Producer::counters() const noexcept {
    const auto of = [this](Persistence persistence) {
        return state_->counts[static_cast<std::size_t>(persistence)].load();
    };
    ProducerCounters counters;
    counters.persisted = of(Persistence::persisted);
    counters.not_persisted = of(Persistence::not_persisted);
    counters.possibly_persisted = of(Persistence::possibly_persisted);
    counters.fatal = state_->fatal;
    counters.outstanding = static_cast<std::uint64_t>(state_->outstanding.load());
    return counters;
}

}  // namespace tidemark::kafka
