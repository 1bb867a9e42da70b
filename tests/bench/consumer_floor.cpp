// Reads a topic from its start to its end, once: records per second and the reader's CPU per record. `bare` is the
// library's batch call, the floor; `consumer` is ours, in a group of its own. Prints one JSON line, and only if all
// records came.

#include "infra/kafka/admin.h"
#include "infra/kafka/consumer.h"

#include <librdkafka/rdkafka.h>
#include <sys/resource.h>
#include <CLI/CLI.hpp>

#include <array>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <numeric>
#include <string>
#include <vector>

using namespace tidemark;
using namespace std::chrono_literals;

namespace {

struct Load {
    std::string brokers;
    std::string topic;
    std::string through = "bare";
    std::int32_t partitions = 4;
    std::string queued_min_messages = "10000";
    std::int64_t queued_max_kbytes = 16 * 1024;
};

[[noreturn]] void die(const std::string& why) {
    std::fprintf(stderr, "consumer_floor: %s\n", why.c_str());
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

/// Runs from the first record to the last.
struct Stopwatch {
    std::chrono::steady_clock::time_point begin;
    double cpu_before = 0;
    void start() {
        begin = std::chrono::steady_clock::now();
        cpu_before = cpu_seconds();
    }
};

std::int64_t read_bare(const Load& load, std::int64_t wanted, Stopwatch& watch) {
    std::array<char, 512> error{};
    auto* conf = rd_kafka_conf_new();
    const std::vector<std::pair<std::string, std::string>> settings{
        {"bootstrap.servers", load.brokers},
        {"group.id", "consumer-floor"},
        {"enable.auto.commit", "false"},
        {"queued.min.messages", load.queued_min_messages},
        {"queued.max.messages.kbytes", std::to_string(load.queued_max_kbytes)},
        {"fetch.wait.max.ms", "50"}};
    for (const auto& [name, value] : settings) {
        if (rd_kafka_conf_set(conf, name.c_str(), value.c_str(), error.data(), error.size()) != RD_KAFKA_CONF_OK)
            die(error.data());
    }
    rd_kafka_t* client = rd_kafka_new(RD_KAFKA_CONSUMER, conf, error.data(), error.size());
    if (client == nullptr) die(error.data());
    rd_kafka_poll_set_consumer(client);
    auto* list = rd_kafka_topic_partition_list_new(load.partitions);
    for (std::int32_t n = 0; n < load.partitions; ++n)
        rd_kafka_topic_partition_list_add(list, load.topic.c_str(), n)->offset = 0;
    if (rd_kafka_assign(client, list) != RD_KAFKA_RESP_ERR_NO_ERROR) die("assign failed");
    rd_kafka_topic_partition_list_destroy(list);
    auto* queue = rd_kafka_queue_get_consumer(client);
    std::vector<rd_kafka_message_t*> messages(1'000);
    std::int64_t read = 0;
    while (read < wanted) {
        const auto count = rd_kafka_consume_batch_queue(queue, 1'000, messages.data(), messages.size());
        if (read == 0 && count > 0) watch.start();
        for (ssize_t n = 0; n < count; ++n) {
            read += messages[static_cast<std::size_t>(n)]->err == RD_KAFKA_RESP_ERR_NO_ERROR ? 1 : 0;
            rd_kafka_message_destroy(messages[static_cast<std::size_t>(n)]);
        }
    }
    rd_kafka_queue_destroy(queue);
    rd_kafka_destroy_flags(client, RD_KAFKA_DESTROY_F_NO_CONSUMER_CLOSE);
    return read;
}

std::int64_t read_through_consumer(const Load& load, std::int64_t wanted, Stopwatch& watch) {
    kafka::Consumer consumer({.brokers = load.brokers,
                              .topic = load.topic,
                              .group = "consumer-floor",
                              .queued_max_kbytes = load.queued_max_kbytes});
    std::int64_t read = 0;
    while (read < wanted) {
        auto polled = consumer.poll(1s);
        if (std::holds_alternative<kafka::Record>(polled)) {
            if (read++ == 0) watch.start();
        } else if (const auto* assigned = std::get_if<kafka::Assigned>(&polled)) {
            std::vector<kafka::Start> starts;
            for (const auto partition : assigned->partitions)
                starts.push_back({partition, 0});
            consumer.assign(starts);
        }
    }
    return read;
}

}  // namespace

int main(int argc, char** argv) {
    Load load;
    CLI::App app("Records read per second and CPU per record");
    app.add_option("--brokers", load.brokers)->required();
    app.add_option("--topic", load.topic, "as producer_floor has filled it")->required();
    app.add_option("--through", load.through)->check(CLI::IsMember({"bare", "consumer"}));
    app.add_option("--partitions", load.partitions);
    app.add_option("--queued-min-messages", load.queued_min_messages, "of `bare`; `consumer` has its own");
    app.add_option("--queued-max-kbytes", load.queued_max_kbytes);
    CLI11_PARSE(app, argc, argv);

    const auto ends = kafka::Admin(load.brokers).end_offsets(load.topic, load.partitions);
    const auto wanted = std::accumulate(ends.begin(), ends.end(), std::int64_t{0});
    Stopwatch watch;
    const auto read =
        load.through == "bare" ? read_bare(load, wanted, watch) : read_through_consumer(load, wanted, watch);
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - watch.begin;
    const auto cpu = cpu_seconds() - watch.cpu_before;
    if (read != wanted) die("the log holds " + std::to_string(wanted) + " records, " + std::to_string(read) + " came");
    std::printf(R"({"through":"%s","records":%lld,"per_second":%.0f,"client_cpu_us":%.3f})"
                "\n",
                load.through.c_str(), static_cast<long long>(read), static_cast<double>(read) / took.count(),
                cpu * 1e6 / static_cast<double>(read));
}
