#pragma once

#include "infra/kafka/ports.h"

#include <atomic>
#include <cassert>
#include <chrono>
#include <cstdint>
#include <deque>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace tidemark::tests {

/// A RecordSink whose broker is the test. Records wait in the queue until `send` puts them on the wire and `ack` or
/// `fail` answers them; `expire` gives back what was not sent in time. `produce` may be called by any thread;
/// everything else by the test's, which is "the sink's own thread" to the listener.
class FakeSink final : public kafka::RecordSink {
public:
    struct Produced {
        kafka::TopicIndex topic = 0;
        std::string key;
        std::string value;
        std::vector<std::pair<std::string, std::string>> headers;
        std::uint64_t tag = 0;
        std::chrono::steady_clock::time_point give_up_at;
        std::optional<std::int32_t> partition{};
        bool sent = false;
        bool answered = false;
    };

    explicit FakeSink(Listener& listener) : listener_(&listener) {}
    /// As the real one: what is still out when it dies is answered, as possibly persisted if it was sent.
    ~FakeSink() override {
        std::vector<kafka::Delivery> rest;
        for (auto& record : records_) {
            if (!record.answered) {
                rest.push_back({record.tag, record.sent ? kafka::Persistence::possibly_persisted
                                                        : kafka::Persistence::not_persisted});
            }
        }
        if (!rest.empty()) listener_->on_deliveries(rest);
    }

    kafka::Enqueued produce(const kafka::NewRecord& given) noexcept override {
        if (before_produce) before_produce();
        if (!available_) return kafka::Enqueued::unavailable;
        if (next_answer_ != kafka::Enqueued::ok) return next_answer_;
        Produced record{given.topic, std::string(given.key), std::string(given.value), {},
                        given.tag,   given.give_up_at,       given.partition};
        for (const auto& header : given.headers)
            record.headers.emplace_back(header.name, header.value);
        const std::lock_guard lock(mutex_);
        records_.push_back(std::move(record));
        return kafka::Enqueued::ok;
    }
    [[nodiscard]] bool available() const noexcept override { return available_; }

    void set_available(bool available) { available_ = available; }
    /// What `produce` says from now on.
    void set_answer(kafka::Enqueued answer) { next_answer_ = answer; }
    /// Runs inside `produce`, before anything else.
    void (*before_produce)() = nullptr;

    /// Puts the n-th produced record on the wire: it does not expire any more.
    void send(std::size_t n) { record(n).sent = true; }
    void send_all() {
        for (std::size_t n = 0; n < size(); ++n)
            send(n);
    }
    void ack(std::size_t n, std::int32_t partition, std::int64_t offset) {
        deliver({{answer(n), kafka::Persistence::persisted, partition, offset}});
    }
    void fail(std::size_t n, kafka::Persistence persistence) { deliver({{answer(n), persistence}}); }
    /// Acknowledges all unanswered records in one batch of deliveries, in partition 0, at their own numbers.
    void ack_all() {
        std::vector<kafka::Delivery> deliveries;
        for (std::size_t n = 0; n < size(); ++n) {
            if (!record(n).answered) {
                deliveries.push_back({answer(n), kafka::Persistence::persisted, 0, static_cast<std::int64_t>(n)});
            }
        }
        deliver(deliveries);
    }
    /// Gives back what had to be sent by `now` and was not.
    void expire(std::chrono::steady_clock::time_point now) {
        std::vector<kafka::Delivery> overdue;
        {
            const std::lock_guard lock(mutex_);
            for (auto& record : records_) {
                if (record.sent || record.answered || record.give_up_at > now) continue;
                record.answered = true;
                overdue.push_back({record.tag, kafka::Persistence::not_persisted});
            }
        }
        deliver(overdue);
    }
    void deliver(const std::vector<kafka::Delivery>& deliveries) {
        if (!deliveries.empty()) listener_->on_deliveries(deliveries);
    }
    void tick() { listener_->on_tick(); }

    [[nodiscard]] std::size_t size() const {
        const std::lock_guard lock(mutex_);
        return records_.size();
    }
    Produced& record(std::size_t n) {
        const std::lock_guard lock(mutex_);
        return records_.at(n);
    }

private:
    std::uint64_t answer(std::size_t n) {
        auto& answered = record(n);
        assert(!answered.answered && "a record is answered once");
        answered.answered = true;
        return answered.tag;
    }

    Listener* listener_;
    std::atomic<bool> available_{true};
    std::atomic<kafka::Enqueued> next_answer_{kafka::Enqueued::ok};
    mutable std::mutex mutex_;      // guards records_
    std::deque<Produced> records_;  // its elements stay where they are while others are added
};

}  // namespace tidemark::tests
