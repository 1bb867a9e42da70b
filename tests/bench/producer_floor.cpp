// A keyed, idempotent, acks=all producer in a closed loop of K outstanding records: acknowledged records per second and
// the client's CPU per record. `bare` is the library alone, the floor; `producer` and `publisher` are the same load
// through ours, so that their difference is what our layers cost. Prints one JSON line, and only if the log holds what
// was acknowledged.

#include "infra/base/clock.h"
#include "infra/kafka/admin.h"
#include "infra/kafka/producer.h"
#include "producer/event_publisher.h"

#include <librdkafka/rdkafka.h>
#include <sys/resource.h>
#include <CLI/CLI.hpp>

#include <array>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <numeric>
#include <semaphore>
#include <string>
#include <thread>
#include <vector>

using namespace tidemark;
using namespace std::chrono_literals;

namespace {

struct Load {
    std::string brokers;
    std::string topic;
    std::string through = "bare";
    std::uint64_t records = 200'000;
    std::uint64_t outstanding = 64;
    std::size_t value_bytes = 90;
    std::int64_t linger_microseconds = 500;
    std::int32_t partitions = 4;
};

// As many as an API has hot entities; the keys' own text is part of what a record costs.
constexpr std::uint64_t kKeys = 1'000;

[[noreturn]] void die(const std::string& why) {
    std::fprintf(stderr, "producer_floor: %s\n", why.c_str());
    std::exit(1);
}

double cpu_seconds() {
    rusage usage{};
    if (getrusage(RUSAGE_SELF, &usage) != 0) die("getrusage failed");
    const auto seconds = [](const timeval& time) {
        return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_usec) / 1e6;
    };
    return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

std::vector<std::string> make_keys() {
    std::vector<std::string> keys;
    for (std::uint64_t n = 0; n < kKeys; ++n)
        keys.push_back("counter-" + std::to_string(n));
    return keys;
}

class Bare {
public:
    explicit Bare(const Load& load) {
        auto* conf = rd_kafka_conf_new();
        std::array<char, 512> error{};
        const std::vector<std::pair<std::string, std::string>> settings{
            {"bootstrap.servers", load.brokers},
            {"enable.idempotence", "true"},
            {"partitioner", "murmur2_random"},
            {"queue.buffering.max.ms", std::to_string(static_cast<double>(load.linger_microseconds) / 1000)},
            {"compression.codec", "lz4"},
            {"socket.nagle.disable", "true"}};
        for (const auto& [name, value] : settings) {
            if (rd_kafka_conf_set(conf, name.c_str(), value.c_str(), error.data(), error.size()) != RD_KAFKA_CONF_OK)
                die(error.data());
        }
        rd_kafka_conf_set_events(conf, RD_KAFKA_EVENT_DR);
        client_.reset(rd_kafka_new(RD_KAFKA_PRODUCER, conf, error.data(), error.size()));
        if (!client_) die(error.data());
        topic_.reset(rd_kafka_topic_new(client_.get(), load.topic.c_str(), nullptr));
        queue_.reset(rd_kafka_queue_get_main(client_.get()));
    }

    /// One thread does both, as a program would that has nothing else to do.
    std::uint64_t run(const Load& load, std::uint64_t records) {
        const auto keys = make_keys();
        const std::string value(load.value_bytes, 'v');
        std::uint64_t sent = 0;
        std::uint64_t done = 0;
        std::uint64_t acknowledged = 0;
        while (done < records) {
            for (; sent < records && sent - done < load.outstanding; ++sent) {
                const std::string& key = keys[sent % kKeys];
                if (rd_kafka_produce(topic_.get(), RD_KAFKA_PARTITION_UA, RD_KAFKA_MSG_F_COPY,
                                     const_cast<char*>(value.data()), value.size(), key.data(), key.size(),
                                     nullptr) != 0) {
                    die("produce failed");
                }
            }
            auto* event = rd_kafka_queue_poll(queue_.get(), 1'000);
            if (event == nullptr) continue;
            while (const auto* message = rd_kafka_event_message_next(event)) {
                ++done;
                acknowledged += rd_kafka_message_status(message) == RD_KAFKA_MSG_STATUS_PERSISTED ? 1U : 0U;
            }
            rd_kafka_event_destroy(event);
        }
        return acknowledged;
    }

private:
    struct Destroy {
        void operator()(rd_kafka_t* client) const noexcept { rd_kafka_destroy(client); }
        void operator()(rd_kafka_topic_t* topic) const noexcept { rd_kafka_topic_destroy(topic); }
        void operator()(rd_kafka_queue_t* queue) const noexcept { rd_kafka_queue_destroy(queue); }
    };
    std::unique_ptr<rd_kafka_t, Destroy> client_;
    std::unique_ptr<rd_kafka_topic_t, Destroy> topic_;
    std::unique_ptr<rd_kafka_queue_t, Destroy> queue_;
};

kafka::ProducerOptions options_of(const Load& load) {
    return {
        .brokers = load.brokers, .topics = {load.topic}, .linger = std::chrono::microseconds(load.linger_microseconds)};
}

void wait_until_available(const auto& sink) {
    const auto until = std::chrono::steady_clock::now() + 30s;
    while (!sink.available()) {
        if (std::chrono::steady_clock::now() > until) die("no broker");
        std::this_thread::sleep_for(1ms);
    }
}

class ThroughProducer final : kafka::RecordSink::Listener {
public:
    explicit ThroughProducer(const Load& load)
        : room_(static_cast<std::ptrdiff_t>(load.outstanding)), producer_(options_of(load), *this) {
        wait_until_available(producer_);
    }
    std::uint64_t run(const Load& load, std::uint64_t records) {
        const auto keys = make_keys();
        const std::string value(load.value_bytes, 'v');
        const auto before = acknowledged_.load();
        for (std::uint64_t n = 0; n < records; ++n) {
            room_.acquire();
            if (producer_.produce({0, keys[n % kKeys], value, {}, n}) != kafka::Enqueued::ok) die("produce refused");
        }
        if (!producer_.flush(60s)) die("flush timed out");
        return acknowledged_ - before;
    }

private:
    void on_deliveries(std::span<const kafka::Delivery> deliveries) noexcept override {
        for (const auto& delivery : deliveries)
            acknowledged_ += delivery.persistence == kafka::Persistence::persisted ? 1U : 0U;
        room_.release(static_cast<std::ptrdiff_t>(deliveries.size()));
    }
    void on_tick() noexcept override {}

    std::counting_semaphore<> room_;
    std::atomic<std::uint64_t> acknowledged_{0};
    kafka::Producer producer_;
};

class ThroughPublisher {
public:
    explicit ThroughPublisher(const Load& load)
        : room_(static_cast<std::ptrdiff_t>(load.outstanding)),
          publisher_({}, clock_, producer::EventPublisher::kafka_sink(options_of(load))) {
        wait_until_available(publisher_);
    }
    std::uint64_t run(const Load& load, std::uint64_t records) {
        const auto keys = make_keys();
        const std::string value(load.value_bytes, 'v');
        const auto before = publisher_.counters().accepted;
        for (std::uint64_t n = 0; n < records; ++n) {
            room_.acquire();
            publisher_.publish({0, keys[n % kKeys], value},
                               [this](const producer::Published&) noexcept { room_.release(); });
        }
        if (!publisher_.wait_idle(60s)) die("not idle in time");
        return publisher_.counters().accepted - before;
    }

private:
    base::SystemClock clock_;
    std::counting_semaphore<> room_;
    producer::EventPublisher publisher_;
};

std::int64_t end_of(kafka::Admin& admin, const Load& load) {
    const auto ends = admin.end_offsets(load.topic, load.partitions);
    return std::accumulate(ends.begin(), ends.end(), std::int64_t{0});
}

template <typename Way>
void measure(const Load& load) {
    Way way(load);
    kafka::Admin admin(load.brokers);
    way.run(load, load.records / 10);  // connections, batches and the broker's code warm
    const auto end_before = end_of(admin, load);
    const auto cpu_before = cpu_seconds();
    const auto begin = std::chrono::steady_clock::now();
    const auto acknowledged = way.run(load, load.records);
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begin;
    const auto cpu = cpu_seconds() - cpu_before;
    const auto stored = end_of(admin, load) - end_before;
    if (acknowledged != load.records || stored != static_cast<std::int64_t>(load.records)) {
        die("sent " + std::to_string(load.records) + ", acknowledged " + std::to_string(acknowledged) + ", stored " +
            std::to_string(stored));
    }
    std::printf(
        R"({"through":"%s","records":%llu,"outstanding":%llu,"value_bytes":%zu,"linger_us":%lld,"per_second":%.0f,"client_cpu_us":%.3f})"
        "\n",
        load.through.c_str(), static_cast<unsigned long long>(load.records),
        static_cast<unsigned long long>(load.outstanding), load.value_bytes,
        static_cast<long long>(load.linger_microseconds), static_cast<double>(load.records) / took.count(),
        cpu * 1e6 / static_cast<double>(load.records));
}

}  // namespace

int main(int argc, char** argv) {
    Load load;
    CLI::App app("Acknowledged records per second and client CPU per record");
    app.add_option("--brokers", load.brokers)->required();
    app.add_option("--topic", load.topic, "created when missing")->required();
    app.add_option("--through", load.through)->check(CLI::IsMember({"bare", "producer", "publisher"}));
    app.add_option("--records", load.records);
    app.add_option("--outstanding", load.outstanding)->check(CLI::Range(1, 10'000));
    app.add_option("--value-bytes", load.value_bytes);
    app.add_option("--linger-us", load.linger_microseconds);
    app.add_option("--partitions", load.partitions);
    CLI11_PARSE(app, argc, argv);

    kafka::Admin(load.brokers)
        .create_topic({load.topic,
                       load.partitions,
                       1,
                       {{"message.timestamp.type", "LogAppendTime"}, {"compression.type", "lz4"}}});
    if (load.through == "bare") measure<Bare>(load);
    if (load.through == "producer") measure<ThroughProducer>(load);
    if (load.through == "publisher") measure<ThroughPublisher>(load);
}
