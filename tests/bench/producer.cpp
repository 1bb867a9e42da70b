// bench-producer BROKERS TOPIC RECORDS plain|idempotent: librdkafka's producer alone, as fast as it goes, with the
// settings of Tidemark's; prints the CPU time and the seconds from the first record to the last delivery report.

#include <librdkafka/rdkafka.h>

#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>

namespace {

struct Destroy {
    void operator()(rd_kafka_t* client) const noexcept { rd_kafka_destroy(client); }
    void operator()(rd_kafka_conf_t* conf) const noexcept { rd_kafka_conf_destroy(conf); }
    void operator()(rd_kafka_topic_t* topic) const noexcept { rd_kafka_topic_destroy(topic); }
};

struct Tally {
    long persisted = 0;
    long other = 0;
};

double seconds(clockid_t clock) {
    timespec at{};
    if (clock_gettime(clock, &at) != 0) throw std::runtime_error("clock_gettime");
    return static_cast<double>(at.tv_sec) + static_cast<double>(at.tv_nsec) / 1e9;
}

void on_delivery(rd_kafka_t* /*client*/, const rd_kafka_message_t* message, void* opaque) {
    auto& tally = *static_cast<Tally*>(opaque);
    (rd_kafka_message_status(message) == RD_KAFKA_MSG_STATUS_PERSISTED ? tally.persisted : tally.other) += 1;
}

void set(rd_kafka_conf_t* conf, const char* name, const char* value) {
    char error[512];
    if (rd_kafka_conf_set(conf, name, value, error, sizeof error) != RD_KAFKA_CONF_OK) throw std::runtime_error(error);
}

void run(const char* brokers, const char* topic_name, long records, bool idempotent) {
    Tally tally;
    std::unique_ptr<rd_kafka_conf_t, Destroy> conf(rd_kafka_conf_new());
    set(conf.get(), "bootstrap.servers", brokers);
    set(conf.get(), "acks", "all");
    set(conf.get(), "enable.idempotence", idempotent ? "true" : "false");
    // What idempotence implies, so that only idempotence differs.
    set(conf.get(), "max.in.flight.requests.per.connection", "5");
    set(conf.get(), "linger.ms", "0.5");
    set(conf.get(), "compression.codec", "lz4");
    set(conf.get(), "partitioner", "murmur2_random");
    rd_kafka_conf_set_opaque(conf.get(), &tally);
    rd_kafka_conf_set_dr_msg_cb(conf.get(), on_delivery);
    char error[512];
    const std::unique_ptr<rd_kafka_t, Destroy> client(rd_kafka_new(RD_KAFKA_PRODUCER, conf.get(), error, sizeof error));
    if (!client) throw std::runtime_error(error);
    static_cast<void>(conf.release());  // the client's now
    const std::unique_ptr<rd_kafka_topic_t, Destroy> topic(rd_kafka_topic_new(client.get(), topic_name, nullptr));
    if (!topic) throw std::runtime_error("no topic handle");
    const rd_kafka_metadata_t* metadata = nullptr;
    if (const auto code = rd_kafka_metadata(client.get(), 0, topic.get(), &metadata, 10'000);
        code != RD_KAFKA_RESP_ERR_NO_ERROR) {
        throw std::runtime_error(rd_kafka_err2str(code));
    }
    rd_kafka_metadata_destroy(metadata);

    // As long as an increment's event is, and with digits that change, so that compression has the same work.
    std::string value(200, 'x');
    const auto began = seconds(CLOCK_MONOTONIC);
    const auto used = seconds(CLOCK_PROCESS_CPUTIME_ID);
    for (long n = 0; n < records; ++n) {
        const auto key = "key-" + std::to_string(n % 1'000);
        const auto digits = std::to_string(n * 7'919);
        value.replace(64, digits.size(), digits);
        while (rd_kafka_produce(topic.get(), RD_KAFKA_PARTITION_UA, RD_KAFKA_MSG_F_COPY, value.data(), value.size(),
                                key.data(), key.size(), nullptr) != 0) {
            if (rd_kafka_last_error() != RD_KAFKA_RESP_ERR__QUEUE_FULL) {
                throw std::runtime_error(rd_kafka_err2str(rd_kafka_last_error()));
            }
            rd_kafka_poll(client.get(), 10);
        }
        if (n % 100 == 0) rd_kafka_poll(client.get(), 0);
    }
    if (rd_kafka_flush(client.get(), 60'000) != RD_KAFKA_RESP_ERR_NO_ERROR)
        throw std::runtime_error("records are left");
    const auto cpu = seconds(CLOCK_PROCESS_CPUTIME_ID) - used;
    const auto took = seconds(CLOCK_MONOTONIC) - began;
    if (tally.persisted != records || tally.other != 0) throw std::runtime_error("not every record was persisted");
    std::printf("{\"cpu\":%.6f,\"seconds\":%.6f}\n", cpu, took);
}

}  // namespace

int main(int argc, char** argv) {
    const std::string_view kind = argc == 5 ? argv[4] : "";
    if (kind != "plain" && kind != "idempotent") {
        std::fputs("usage: bench-producer BROKERS TOPIC RECORDS plain|idempotent\n", stderr);
        return 2;
    }
    try {
        run(argv[1], argv[2], std::atol(argv[3]), kind == "idempotent");
        return 0;
    } catch (const std::exception& error) {
        std::fprintf(stderr, "bench-producer: %s\n", error.what());
        return 1;
    }
}
