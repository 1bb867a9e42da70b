// bench-log: a log to replay, and the floor below a replay.
//
//   fill BROKERS TOPIC FIRST COUNT KEYS BEGIN plain|keyed   appends the increments FIRST .. FIRST + COUNT of a fixed
//     series: KEYS keys in turns, 100 events of each in every 10 seconds of event time, which begin at the second
//     BEGIN. `keyed`: with an idempotency key each. Done when every one is acknowledged.
//   read BROKERS TOPIC PARTITIONS   reads it from its start to its end by librdkafka's batch call, with a client and a
//     thread for each partition; prints the records, the seconds from the first to the last, and the CPU time
//     meanwhile.

#include <librdkafka/rdkafka.h>
#include <sys/prctl.h>

#include <array>
#include <atomic>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <ctime>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

namespace {

struct Destroy {
    void operator()(rd_kafka_t* client) const noexcept { rd_kafka_destroy(client); }
    void operator()(rd_kafka_conf_t* conf) const noexcept { rd_kafka_conf_destroy(conf); }
    void operator()(rd_kafka_topic_t* topic) const noexcept { rd_kafka_topic_destroy(topic); }
    void operator()(rd_kafka_queue_t* queue) const noexcept { rd_kafka_queue_destroy(queue); }
    void operator()(rd_kafka_headers_t* headers) const noexcept { rd_kafka_headers_destroy(headers); }
};
template <typename Handle>
using Owned = std::unique_ptr<Handle, Destroy>;

double seconds(clockid_t clock) {
    timespec at{};
    if (clock_gettime(clock, &at) != 0) throw std::runtime_error("clock_gettime");
    return static_cast<double>(at.tv_sec) + static_cast<double>(at.tv_nsec) / 1e9;
}

void check(rd_kafka_resp_err_t code) {
    if (code != RD_KAFKA_RESP_ERR_NO_ERROR) throw std::runtime_error(rd_kafka_err2str(code));
}

void set(rd_kafka_conf_t* conf, const char* name, const char* value) {
    std::array<char, 512> error{};
    if (rd_kafka_conf_set(conf, name, value, error.data(), error.size()) != RD_KAFKA_CONF_OK)
        throw std::runtime_error(error.data());
}

Owned<rd_kafka_t> make_client(rd_kafka_type_t type, Owned<rd_kafka_conf_t> conf) {
    std::array<char, 512> error{};
    Owned<rd_kafka_t> client(rd_kafka_new(type, conf.get(), error.data(), error.size()));
    if (!client) throw std::runtime_error(error.data());
    static_cast<void>(conf.release());  // the client's now
    return client;
}

// The series.

struct Series {
    std::uint64_t keys = 0;
    std::time_t begin = 0;
    bool keyed = false;

    [[nodiscard]] std::string key(std::uint64_t n) const { return "key-" + std::to_string(n * 7'919 % keys); }

    void write(std::uint64_t n, const std::string& key, std::string& value) const {
        constexpr std::uint64_t kPerRow = 100;
        constexpr std::uint64_t kWindowMicroseconds = 10'000'000;
        const auto per_window = kPerRow * keys;
        const auto microseconds =
            n / per_window * kWindowMicroseconds + n % per_window * kWindowMicroseconds / per_window;
        const auto second = begin + static_cast<std::time_t>(microseconds / 1'000'000);
        std::tm utc{};
        gmtime_r(&second, &utc);
        std::array<char, 128> text{};
        std::snprintf(text.data(), text.size(), R"({"specversion":"1.0","id":"019aa5c0-0000-7000-8000-%012llx")",
                      static_cast<unsigned long long>(n));
        value = text.data();
        std::snprintf(text.data(), text.size(), R"("time":"%04d-%02d-%02dT%02d:%02d:%02d.%06lluZ")", utc.tm_year + 1900,
                      utc.tm_mon + 1, utc.tm_mday, utc.tm_hour, utc.tm_min, utc.tm_sec,
                      static_cast<unsigned long long>(microseconds % 1'000'000));
        value += R"(,"source":"/increment","type":"tidemark.counter.incremented.v1",)";
        value += text.data();
        if (keyed) value += R"(,"idempotencykey":")" + idempotency_key(n) + '"';
        value += R"(,"data":{"key":")" + key + R"(","value":1}})";
    }

private:
    // As long as a SHA-256 in base64url, and as little compressible: the output of splitmix64.
    static std::string idempotency_key(std::uint64_t n) {
        static constexpr std::string_view kLetters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        std::string text;
        auto state = n;
        while (text.size() < 43) {
            state += 0x9e3779b97f4a7c15;
            auto word = (state ^ (state >> 30)) * 0xbf58476d1ce4e5b9;
            word = (word ^ (word >> 27)) * 0x94d049bb133111eb;
            word ^= word >> 31;
            for (int letter = 0; letter < 10 && text.size() < 43; ++letter, word >>= 6)
                text += kLetters[word & 63];
        }
        return text;
    }
};

struct Tally {
    std::uint64_t persisted = 0;
    std::uint64_t other = 0;
};

void on_delivery(rd_kafka_t* /*client*/, const rd_kafka_message_t* message, void* opaque) {
    auto& tally = *static_cast<Tally*>(opaque);
    (rd_kafka_message_status(message) == RD_KAFKA_MSG_STATUS_PERSISTED ? tally.persisted : tally.other) += 1;
}

void fill(const char* brokers, const char* topic_name, std::uint64_t first, std::uint64_t count, const Series& series) {
    Tally tally;
    Owned<rd_kafka_conf_t> conf(rd_kafka_conf_new());
    set(conf.get(), "bootstrap.servers", brokers);
    set(conf.get(), "enable.idempotence", "true");
    set(conf.get(), "linger.ms", "20");
    set(conf.get(), "compression.codec", "lz4");
    set(conf.get(), "partitioner", "murmur2_random");
    rd_kafka_conf_set_opaque(conf.get(), &tally);
    rd_kafka_conf_set_dr_msg_cb(conf.get(), on_delivery);
    const auto client = make_client(RD_KAFKA_PRODUCER, std::move(conf));
    const Owned<rd_kafka_topic_t> topic(rd_kafka_topic_new(client.get(), topic_name, nullptr));
    if (!topic) throw std::runtime_error("no topic handle");
    const Owned<rd_kafka_headers_t> headers(rd_kafka_headers_new(1));
    check(rd_kafka_header_add(headers.get(), "content-type", -1, "application/cloudevents+json", -1));
    std::string value;
    for (auto n = first; n < first + count; ++n) {
        const auto key = series.key(n);
        series.write(n, key, value);
        for (;;) {
            auto* own = rd_kafka_headers_copy(headers.get());
            const auto code =
                rd_kafka_producev(client.get(), RD_KAFKA_V_RKT(topic.get()), RD_KAFKA_V_MSGFLAGS(RD_KAFKA_MSG_F_COPY),
                                  RD_KAFKA_V_KEY(key.data(), key.size()), RD_KAFKA_V_VALUE(value.data(), value.size()),
                                  RD_KAFKA_V_HEADERS(own), RD_KAFKA_V_END);
            if (code == RD_KAFKA_RESP_ERR_NO_ERROR) break;
            rd_kafka_headers_destroy(own);
            if (code != RD_KAFKA_RESP_ERR__QUEUE_FULL) check(code);
            rd_kafka_poll(client.get(), 10);
        }
        if (n % 100 == 0) rd_kafka_poll(client.get(), 0);
    }
    check(rd_kafka_flush(client.get(), 120'000));
    if (tally.persisted != count || tally.other != 0) throw std::runtime_error("not every record was persisted");
}

// The floor.

class Reader {
public:
    Reader(const char* brokers, const char* topic, std::int32_t partition) {
        Owned<rd_kafka_conf_t> conf(rd_kafka_conf_new());
        set(conf.get(), "bootstrap.servers", brokers);
        set(conf.get(), "group.id", "bench-log");
        set(conf.get(), "enable.auto.commit", "false");
        set(conf.get(), "fetch.wait.max.ms", "50");
        // Else it pauses up to a second whenever 100,000 wait, and a short topic is read at the pace of that pause.
        set(conf.get(), "queued.min.messages", "1000000");
        client_ = make_client(RD_KAFKA_CONSUMER, std::move(conf));
        rd_kafka_poll_set_consumer(client_.get());
        std::int64_t low = 0;
        check(rd_kafka_query_watermark_offsets(client_.get(), topic, partition, &low, &end_, 10'000));
        auto* list = rd_kafka_topic_partition_list_new(1);
        rd_kafka_topic_partition_list_add(list, topic, partition)->offset = low;
        const auto code = rd_kafka_assign(client_.get(), list);
        rd_kafka_topic_partition_list_destroy(list);
        check(code);
        wanted_ = end_ - low;
        queue_.reset(rd_kafka_queue_get_consumer(client_.get()));
    }

    /// What was read, once the end is reached; `first` is when the first record of any reader came.
    std::int64_t run(std::atomic<double>& first) {
        std::vector<rd_kafka_message_t*> messages(10'000);
        std::int64_t read = 0;
        while (read < wanted_) {
            const auto count = rd_kafka_consume_batch_queue(queue_.get(), 1'000, messages.data(), messages.size());
            if (count > 0 && read == 0) {
                double nobody = 0;
                first.compare_exchange_strong(nobody, seconds(CLOCK_MONOTONIC));
            }
            for (ssize_t n = 0; n < count; ++n) {
                read += messages[static_cast<std::size_t>(n)]->err == RD_KAFKA_RESP_ERR_NO_ERROR ? 1 : 0;
                rd_kafka_message_destroy(messages[static_cast<std::size_t>(n)]);
            }
        }
        return read;
    }

private:
    Owned<rd_kafka_t> client_;
    Owned<rd_kafka_queue_t> queue_;
    std::int64_t end_ = 0;
    std::int64_t wanted_ = 0;
};

void read(const char* brokers, const char* topic, std::int32_t partitions) {
    std::vector<std::unique_ptr<Reader>> readers;
    for (std::int32_t partition = 0; partition < partitions; ++partition)
        readers.push_back(std::make_unique<Reader>(brokers, topic, partition));
    const auto used = seconds(CLOCK_PROCESS_CPUTIME_ID);
    std::atomic<double> first{0};
    std::atomic<std::int64_t> read{0};
    std::vector<std::thread> threads;
    threads.reserve(readers.size());
    for (auto& reader : readers)
        threads.emplace_back([&] { read += reader->run(first); });
    for (auto& thread : threads)
        thread.join();
    std::printf("{\"records\":%lld,\"seconds\":%.6f,\"cpu\":%.6f}\n", static_cast<long long>(read.load()),
                seconds(CLOCK_MONOTONIC) - first, seconds(CLOCK_PROCESS_CPUTIME_ID) - used);
}

int run(const std::vector<std::string>& words) {
    if (words.size() == 9 && words[1] == "fill" && (words[8] == "plain" || words[8] == "keyed")) {
        const Series series{std::stoull(words[6]), static_cast<std::time_t>(std::stoll(words[7])), words[8] == "keyed"};
        fill(words[2].c_str(), words[3].c_str(), std::stoull(words[4]), std::stoull(words[5]), series);
        return 0;
    }
    if (words.size() == 5 && words[1] == "read") {
        read(words[2].c_str(), words[3].c_str(), std::stoi(words[4]));
        return 0;
    }
    std::fputs(
        "usage: bench-log fill BROKERS TOPIC FIRST COUNT KEYS BEGIN plain|keyed\n"
        "       bench-log read BROKERS TOPIC PARTITIONS\n",
        stderr);
    return 2;
}

}  // namespace

int main(int argc, char** argv) {
    try {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        return run({argv, argv + argc});
    } catch (const std::exception& error) {
        std::fprintf(stderr, "bench-log: %s\n", error.what());
        return 1;
    }
}
