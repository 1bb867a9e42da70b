#include "consumers/generation.h"
#include "consumers/log_watch.h"
#include "consumers/migrate.h"
#include "consumers/presence.h"
#include "consumers/projections.h"
#include "consumers/status.h"
#include "consumers/stream_processor.h"
#include "infra/base/backoff.h"
#include "infra/base/clock.h"
#include "infra/base/exit_code.h"
#include "infra/base/log.h"
#include "infra/base/metrics.h"
#include "infra/base/settings.h"
#include "infra/base/shutdown.h"
#include "infra/http/endpoint.h"
#include "infra/http/operations.h"
#include "infra/http/server.h"
#include "infra/kafka/admin.h"
#include "infra/kafka/consumer.h"
#include "infra/kafka/error.h"
#include "infra/kafka/properties.h"

#include <unistd.h>

#include <algorithm>
#include <iostream>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

namespace {

using namespace tidemark;
using namespace tidemark::consumers;
using std::chrono::milliseconds;
namespace log = base::log;

struct Options {
    std::string brokers = "127.0.0.1:9092";
    std::string consumer_dsn;
    std::string owner_dsn;
    std::string consumer_password;
    std::string api_password;
    std::string admin_listen = "127.0.0.1:3334";
    std::string kafka_config;
    std::string log_level = "info";
    std::int64_t slot = 0;
    std::int64_t partitions = 4;
    std::int64_t replication = 1;
    std::int64_t min_isr = 1;
    std::int64_t flush_records = 100'000;
    std::int64_t flush_bytes = 32 * 1024 * 1024;
    milliseconds flush_interval{1'000};
    milliseconds clock_skew{200};
    milliseconds shutdown_timeout{10'000};
    milliseconds stuck_after{60'000};
    bool migrate_first = false;
    bool json = false;
};

std::string host_name() {
    char name[256] = {};
    return ::gethostname(name, sizeof name - 1) == 0 ? name : "host";
}

MigrateOptions migrate_options(const Options& options) {
    MigrateOptions migration;
    migration.brokers = options.brokers;
    migration.kafka_properties = kafka::read_properties(options.kafka_config);
    migration.owner_dsn = options.owner_dsn;
    migration.partitions = options.partitions;
    migration.replication = options.replication;
    migration.min_isr = options.min_isr;
    migration.consumer_password = options.consumer_password;
    migration.api_password = options.api_password;
    return migration;
}

// One stream's part of the process, in the order in which it is built up.
struct Lane {
    Lane(const Options& options, const Target& target, const std::string& instance, std::uint64_t seed,
         const base::Clock& clock, base::Metrics& metrics)
        : admin(options.brokers, kafka::read_properties(options.kafka_config)),
          consumer(consumer_options(options, target, instance)),
          processor(processor_options(options, instance, seed), target, consumer, make_log_check(admin, target), clock,
                    metrics) {}

    static kafka::ConsumerOptions consumer_options(const Options& options, const Target& target,
                                                   const std::string& instance) {
        kafka::ConsumerOptions consumer;
        consumer.brokers = options.brokers;
        consumer.topic = target.topic;
        consumer.group = std::string(target.projection->stream().name) + "." + target.projection->fingerprint();
        consumer.instance_id = instance;
        consumer.properties = kafka::read_properties(options.kafka_config);
        consumer.client_id = "tidemark-consumer-" + instance;
        return consumer;
    }

    static ProcessorOptions processor_options(const Options& options, const std::string& instance, std::uint64_t seed) {
        ProcessorOptions processor;
        processor.dsn = options.consumer_dsn;
        processor.owner = instance;
        processor.drain = options.shutdown_timeout;
        processor.state.seed = seed;
        processor.state.limits.interval = options.flush_interval;
        processor.state.limits.records = static_cast<std::size_t>(options.flush_records);
        processor.state.limits.bytes = static_cast<std::size_t>(options.flush_bytes);
        return processor;
    }

    kafka::Admin admin;
    kafka::Consumer consumer;
    StreamProcessor processor;
    int stuck_checks = 0;
    std::chrono::steady_clock::time_point last_step{};
    std::thread thread;
};

// The live generations, once the database answers. Nullopt: told to stop before it did.
std::optional<std::vector<Live>> find_generations(const Options& options, const base::Shutdown& shutdown) {
    base::Backoff backoff(milliseconds(100), milliseconds(2'000), 1);
    bool complained = false;
    while (!shutdown.requested()) {
        try {
            pg::Connection connection(options.consumer_dsn, pg::SessionOptions{});
            std::vector<Live> found;
            for (const auto* projection : projections()) {
                auto live = find_live(connection, *projection);
                if (!live) {
                    throw Refused("stream " + std::string(projection->stream().name) +
                                  " has no tables: run `tidemark-consumer migrate` first, or start with --migrate");
                }
                found.push_back(std::move(*live));
            }
            return found;
        } catch (const pg::Error& error) {
            if (error.failure() == pg::Failure::schema_changed || error.failure() == pg::Failure::bug) {
                throw Refused(std::string("the database is not set up: run `tidemark-consumer migrate` first, or start "
                                          "with --migrate (") +
                              error.what() + ")");
            }
            if (!complained) log::warn("waiting_for_database", {{"error", error.what()}});
            complained = true;
            shutdown.wait_for(backoff.next());
        }
    }
    return std::nullopt;
}

constexpr milliseconds kStuckCheck{500};

// A processor that does not go round hangs: its partitions are better off elsewhere. Counted in checks of our own, not
// in clock time: a whole process that was stopped and continued is not stuck.
void check_stuck(std::vector<std::unique_ptr<Lane>>& lanes, milliseconds stuck_after) {
    for (auto& lane : lanes) {
        const auto step = lane->processor.status().last_step;
        lane->stuck_checks = step == lane->last_step ? lane->stuck_checks + 1 : 0;
        lane->last_step = step;
        if (lane->stuck_checks * kStuckCheck < stuck_after) continue;
        log::error("processor_stuck", {{"stream", lane->processor.target().projection->stream().name},
                                       {"hint", "the process ends so that another instance takes over"}});
        ::_exit(base::kFailed);
    }
}

int run(const Options& options) {
    log::start("tidemark-consumer", options.log_level == "debug" ? log::Level::debug : log::Level::info);
    base::Shutdown shutdown;
    if (options.migrate_first) migrate(migrate_options(options));
    const base::SystemClock clock;
    base::Metrics metrics;
    const auto instance = host_name() + "-" + std::to_string(options.slot);
    const auto generations = find_generations(options, shutdown);
    if (!generations) return base::kDone;

    std::vector<std::unique_ptr<Lane>> lanes;
    std::vector<std::string> idle;
    for (const auto& live : *generations) {
        const auto stream = live.target.projection->stream().name;
        if (live.fingerprint != live.target.projection->fingerprint()) {
            log::error(
                "generation_of_another_fingerprint",
                {{"stream", stream},
                 {"tables", live.fingerprint},
                 {"program", live.target.projection->fingerprint()},
                 {"hint", "this program leaves the stream alone: run the matching version, or replay and promote"}});
            idle.emplace_back(stream);
            continue;
        }
        const auto seed =
            std::hash<std::string>{}(instance) ^ static_cast<std::uint64_t>(clock.now().time_since_epoch().count());
        lanes.push_back(std::make_unique<Lane>(options, live.target, instance, seed, clock, metrics));
    }
    std::vector<StreamProcessor*> processors;
    processors.reserve(lanes.size());
    for (const auto& lane : lanes)
        processors.push_back(&lane->processor);

    http::Router router;
    http::add_operations(router, metrics, [&]() -> std::optional<std::string> {
        if (!idle.empty()) return "stream " + idle.front() + ": its tables are of another fingerprint";
        for (const auto* processor : processors) {
            const auto status = processor->status();
            const auto name = std::string(processor->target().projection->stream().name);
            if (!status.joined) return "stream " + name + ": not yet in its consumer group (broker)";
            if (status.phase != "consuming" && status.phase != "idle")
                return "stream " + name + ": " + status.phase + " (database)";
        }
        return std::nullopt;
    });
    http::ServerOptions server_options;
    const auto endpoint = http::read_endpoint(options.admin_listen).value();  // its check has seen it
    server_options.address = endpoint.address;
    server_options.port = endpoint.port;
    server_options.threads = 1;
    http::Server server(server_options, router, http::plain_problem);
    server.start();

    for (auto& lane : lanes) {
        lane->thread = std::thread([&lane = *lane] {
            const auto stream = lane.processor.target().projection->stream().name;
            try {
                lane.processor.run();
            } catch (const std::exception& error) {
                log::error("processor_failed", {{"stream", stream}, {"error", error.what()}});
                // At once, without a drain: what the other streams have in memory is in the log.
                ::_exit(base::kFailed);
            }
        });
    }
    log::info("started",
              {{"instance", instance}, {"streams", lanes.size()}, {"admin_port", std::int64_t{server.port()}}});
    {
        const LogWatch log_watch(
            {options.brokers, kafka::read_properties(options.kafka_config), milliseconds(500), options.clock_skew},
            processors, clock);
        const Presence presence({options.consumer_dsn, instance, milliseconds(2'000)}, processors, clock);
        while (!shutdown.wait_for(kStuckCheck))
            check_stuck(lanes, options.stuck_after);
        log::info("stopping");
        for (auto* processor : processors)
            processor->stop();
        for (auto& lane : lanes)
            lane->thread.join();
    }
    server.drain(milliseconds(500));
    log::info("stopped");
    // The consumers are not closed: a static member does not leave its group by that, and the truth is in the database.
    ::_exit(base::kDone);
}

int guarded(const std::function<int()>& command) {
    try {
        return command();
    } catch (const Refused& refused) {
        std::cerr << "refused: " << refused.what() << '\n';
        return base::kRefused;
    } catch (const std::exception& error) {
        std::cerr << "error: " << error.what() << '\n';
        return base::kFailed;
    }
}

}  // namespace

int main(int argc, char** argv) {
    Options options;
    base::Settings settings("tidemark-consumer", "Folds every stream of the log into PostgreSQL.");
    settings.text("brokers", options.brokers, "Kafka brokers, HOST:PORT,...");
    settings.text("kafka-config", options.kafka_config,
                  "File of further Kafka client settings, name=value (TLS, SASL).");
    settings.secret("consumer-dsn", options.consumer_dsn, "PostgreSQL connection of the role that writes projections.");
    settings.secret("owner-dsn", options.owner_dsn,
                    "PostgreSQL connection of the role that owns the schemas; for migrate.");
    settings.choice("log-level", options.log_level, {"debug", "info"}, "Least level of log lines.");
    settings.allow_environment({"TIDEMARK_API_DSN", "TIDEMARK_LISTEN"});

    const auto migration = [&](base::Settings& command) {
        command.number("partitions", options.partitions, 1, 10'000,
                       "Partitions of a topic that is made; fixed for ever after.");
        command.number("replication", options.replication, 1, 7, "Replicas of a topic that is made.");
        command.number("min-isr", options.min_isr, 1, 7,
                       "In-sync replicas that a write needs, of a topic that is made.");
        command.secret("consumer-password", options.consumer_password, "Password to give the role tidemark_consumer.");
        command.secret("api-password", options.api_password, "Password to give the role tidemark_api.");
    };
    settings.command(
        "run", "Fold every stream into its tables until told to stop",
        [&] { return guarded([&] { return run(options); }); },
        [&](base::Settings& command) {
            migration(command);
            command.text("admin-listen", options.admin_listen, "ADDRESS:PORT of /metrics and the health routes.");
            command.number("slot", options.slot, 0, 9'999,
                           "Number of this consumer among those of its host; names it in the consumer group, so that a "
                           "restart keeps its partitions.");
            command.duration("flush-interval", options.flush_interval, milliseconds(10), milliseconds(3'000),
                             "Longest time that a record waits in memory.");
            command.number("flush-records", options.flush_records, 1, 10'000'000,
                           "Records in memory that make a flush.");
            command.bytes("flush-bytes", options.flush_bytes, 64 * 1024, std::int64_t{1} << 30,
                          "Bytes in memory that make a flush.");
            command.duration("clock-skew", options.clock_skew, milliseconds(0), milliseconds(5'000),
                             "How far this machine's clock may be ahead of the brokers'.");
            command.duration("shutdown-timeout", options.shutdown_timeout, milliseconds(100), milliseconds(600'000),
                             "How long a stop may take to write what is in memory.");
            command.duration("stuck-after", options.stuck_after, milliseconds(2'000), milliseconds(3'600'000),
                             "How long a stream may make no step before the process gives up, so that another instance "
                             "takes over; longer than "
                             "the slowest flush.");
            command.flag("migrate", options.migrate_first, "Run migrate first.");
        });
    settings.command(
        "migrate", "Make topics, their identities, schemas and roles; changes nothing that is there",
        [&] {
            return guarded([&] {
                log::start("tidemark-consumer");
                migrate(migrate_options(options));
                return int{base::kDone};
            });
        },
        migration);
    settings.command(
        "status", "Show every partition: owner, lag, generation, dead letters; exit 1 while any is behind",
        [&] {
            return guarded([&] {
                const bool caught_up = write_status(
                    {options.brokers, options.consumer_dsn, kafka::read_properties(options.kafka_config), options.json},
                    std::cout);
                return int{caught_up ? base::kDone : base::kFailed};
            });
        },
        [&](base::Settings& command) { command.flag("json", options.json, "One JSON object instead of a table."); });
    settings.check([&] { return http::check_endpoint("admin-listen", options.admin_listen, "127.0.0.1:3334"); });
    return settings.run(argc, argv);
}
