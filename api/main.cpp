#include "api/health.h"
#include "api/problem.h"
#include "api/progress_watch.h"
#include "api/read.h"
#include "api/routes.h"
#include "api/telemetry.h"
#include "api/vehicle_cache.h"
#include "api/write.h"
#include "infra/base/clock.h"
#include "infra/base/exit_code.h"
#include "infra/base/log.h"
#include "infra/base/metrics.h"
#include "infra/base/settings.h"
#include "infra/base/shutdown.h"
#include "infra/http/endpoint.h"
#include "infra/http/server.h"
#include "infra/kafka/producer.h"
#include "infra/kafka/properties.h"
#include "infra/postgres/query_pool.h"
#include "producer/event_publisher.h"
#include "schemas/catalogue.h"

#include <cstdint>
#include <exception>
#include <iostream>
#include <optional>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

namespace {

using namespace tidemark;
using namespace tidemark::api;
using std::chrono::milliseconds;
namespace log = base::log;

struct Options {
    std::string brokers = "127.0.0.1:9092";
    std::string kafka_config;
    std::string api_dsn;
    std::string listen = "127.0.0.1:3333";
    std::string auth = "open";
    bool allow_open = false;
    std::int64_t http_threads = 0;
    std::int64_t max_connections = 10'000;
    std::int64_t linger_us = 200;
    std::int64_t publish_records = 10'000;
    std::int64_t publish_bytes = std::int64_t{64} << 20;
    std::int64_t db_connections = 2;
    std::int64_t max_waiting = 1'024;
    std::int64_t vehicle_cache_entries = 50'000;
    std::int64_t vehicle_cache_bytes = std::int64_t{64} << 20;
    milliseconds clock_skew{200};
    milliseconds shutdown_timeout{10'000};
    std::string log_level = "info";
};

std::vector<std::string> check(const Options& options) {
    auto wrong = http::check_endpoint("listen", options.listen, "127.0.0.1:3333");
    const auto endpoint = http::read_endpoint(options.listen);
    if (endpoint && !endpoint->is_loopback() && !options.allow_open) {
        wrong.push_back(
            "listen: " + endpoint->address +
            " can be reached from other machines, and with --auth open everybody there may write; listen on 127.0.0.1, "
            "or say --allow-open");
    }
    if (options.api_dsn.empty())
        wrong.emplace_back("api-dsn: is not set, e.g. TIDEMARK_API_DSN=postgresql://tidemark_api@/tidemark");
    return wrong;
}

producer::EventPublisher::MakeSink sink_of(const Options& options) {
    kafka::ProducerOptions producer;
    producer.brokers = options.brokers;
    for (const auto& stream : schemas::catalogue())
        producer.topics.emplace_back(stream.topic);
    producer.client_id = "tidemark-api";
    producer.queue_records = options.publish_records;
    producer.queue_kbytes = options.publish_bytes / 1024;
    producer.linger = std::chrono::microseconds(options.linger_us);
    producer.properties = kafka::read_properties(options.kafka_config);
    return producer::EventPublisher::kafka_sink(std::move(producer));
}

http::ServerOptions server_options(const Options& options) {
    http::ServerOptions server;
    const auto endpoint = http::read_endpoint(options.listen).value();  // `check` has seen it
    server.address = endpoint.address;
    server.port = endpoint.port;
    server.threads = static_cast<unsigned>(options.http_threads);
    server.max_connections = static_cast<std::size_t>(options.max_connections);
    return server;
}

int serve(const Options& options) {
    log::start("tidemark-api", log::level_of(options.log_level));
    base::Shutdown shutdown;
    const base::SystemClock clock;
    base::Metrics metrics;
    Telemetry telemetry(metrics);

    pg::QueryPoolOptions pool_options;
    pool_options.dsn = options.api_dsn;
    pool_options.session.application_name = "tidemark-api";
    pool_options.connections = static_cast<unsigned>(options.db_connections);
    pg::QueryPool pool(std::move(pool_options));

    ProgressWatchOptions watch_options;
    watch_options.dsn = options.api_dsn;
    watch_options.brokers = options.brokers;
    watch_options.kafka_properties = kafka::read_properties(options.kafka_config);
    watch_options.max_waiting = static_cast<std::size_t>(options.max_waiting);
    watch_options.clock_skew = options.clock_skew;
    ProgressWatch watch(std::move(watch_options), clock);

    producer::EventPublisherOptions publisher_options;
    publisher_options.max_records = static_cast<std::size_t>(options.publish_records);
    publisher_options.max_bytes = static_cast<std::size_t>(options.publish_bytes);
    producer::EventPublisher publisher(publisher_options, clock, sink_of(options));

    VehicleCache cache({static_cast<std::size_t>(options.vehicle_cache_entries),
                        static_cast<std::size_t>(options.vehicle_cache_bytes)});
    LogWriter writer(publisher, watch, clock);
    Reads reads(pool, watch, clock);
    const HealthSources health{publisher, pool, reads};

    const http::Server* listening = nullptr;  // of the server below, which is made of the routes that read it
    const auto refresh_metrics = [&] {
        Telemetry::Readings readings;
        readings.publisher = publisher.counters();
        if (listening != nullptr) readings.server = listening->counters();
        readings.cache = cache.counters();
        readings.reads_waiting = watch.waiting();
        readings.queries_queued = pool.queued();
        readings.broker_up = publisher.available();
        readings.database_up = pool.connected();
        for (std::size_t i = 0; i < schemas::catalogue().size(); ++i)
            readings.lag_seconds.push_back(lag_seconds(health, i));
        telemetry.refresh(readings);
    };
    const auto router = make_routes({writer, reads, cache, health, metrics, refresh_metrics});
    http::Server server(server_options(options), router, server_problem,
                        [&telemetry](const http::Exchange& exchange) { telemetry.observe(exchange); });
    listening = &server;
    server.start();
    log::info("started", {{"port", server.port()}, {"auth", options.auth}});

    while (!shutdown.wait_for(std::chrono::hours(1))) {
    }
    log::info("stopping");
    watch.release();  // whoever waits for fresher tables would outwait the drain
    server.drain(options.shutdown_timeout);
    reads.wait_idle();
    log::info("stopped");
    return base::kDone;
}

int guarded(const Options& options) {
    try {
        return serve(options);
    } catch (const std::system_error& error) {
        std::cerr << "error: " << error.what() << "; stop what listens there, or give another --listen\n";
        return base::kFailed;
    } catch (const std::exception& error) {
        std::cerr << "error: " << error.what() << "; --check-config shows the settings in force\n";
        return base::kFailed;
    }
}

}  // namespace

int main(int argc, char** argv) {
    Options options;
    base::Settings settings("tidemark-api", "HTTP in front of the log and the tables.");
    settings.text("brokers", options.brokers, "Kafka brokers, HOST:PORT,...");
    settings.text("kafka-config", options.kafka_config,
                  "File of further Kafka client settings, name=value (TLS, SASL).");
    settings.secret("api-dsn", options.api_dsn, "PostgreSQL connection of the role that reads the views.");
    settings.choice("log-level", options.log_level, log::level_names(), "Least level of log lines.");
    settings.command(
        "serve", "Serve until told to stop", [&] { return guarded(options); },
        [&](base::Settings& command) {
            command.text("listen", options.listen, "ADDRESS:PORT to listen on; [ADDRESS]:PORT for IPv6.");
            command.choice("auth", options.auth, {"open"}, "Who may do what: open = everybody everything.");
            command.flag("allow-open", options.allow_open,
                         "Listen beyond this machine although everybody may do everything.");
            command.number("http-threads", options.http_threads, 0, 256, "Event loops; 0: one per core.");
            command.number("max-connections", options.max_connections, 16, 1'000'000,
                           "HTTP connections; new ones get 503 from 90 % on.");
            command.number("linger-us", options.linger_us, 0, 1'000'000,
                           "Microseconds that an event may wait for others to share its request to the broker.");
            command.number("publish-records", options.publish_records, 1, 10'000'000,
                           "Events on their way to the log; more get 503.");
            command.bytes("publish-bytes", options.publish_bytes, 1'048'576, std::int64_t{1} << 40,
                          "Keys and values on their way to the log; more get 503.");
            command.number("db-connections", options.db_connections, 1, 64,
                           "Database connections for reads; each pipelines its queries.");
            command.number("max-waiting", options.max_waiting, 0, 1'000'000,
                           "Reads that wait for fresher tables; more get 503.");
            command.number("vehicle-cache-entries", options.vehicle_cache_entries, 0, 100'000'000,
                           "Answers in the cache of vehicle states.");
            command.bytes("vehicle-cache-bytes", options.vehicle_cache_bytes, 0, std::int64_t{1} << 40,
                          "Memory of the cache of vehicle states.");
            command.duration("clock-skew", options.clock_skew, milliseconds(0), milliseconds(5'000),
                             "How far this machine's clock may be ahead of the brokers'.");
            command.duration("shutdown-timeout", options.shutdown_timeout, milliseconds(100), milliseconds(600'000),
                             "How long requests under way may take once told to stop.");
            command.example("", "For this machine alone, on port 3333.");
            command.example("--listen 0.0.0.0:3333 --allow-open", "Behind a proxy that decides who may come in.");
            command.example("--listen [::1]:8080 --http-threads 2", "On another port, with two of the cores.");
        });
    settings.check([&] { return check(options); });
    return settings.run(argc, argv);
}
