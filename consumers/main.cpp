#include "consumers/auditor.h"
#include "consumers/dead_letters.h"
#include "consumers/doctor.h"
#include "consumers/generation.h"
#include "consumers/lanes.h"
#include "consumers/log_watch.h"
#include "consumers/migrate.h"
#include "consumers/operate.h"
#include "consumers/presence.h"
#include "consumers/projections.h"
#include "consumers/status.h"
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
#include "infra/kafka/properties.h"
#include "schemas/dead_letter.h"
#include "schemas/json.h"

#include <unistd.h>

#include <algorithm>
#include <iostream>
#include <iterator>
#include <memory>
#include <mutex>
#include <optional>
#include <regex>
#include <set>
#include <string>
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
    std::string log_level;
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
    milliseconds audit_interval{60'000};
    std::int64_t audit_memory = std::int64_t{256} << 20;
    milliseconds window_retention{0};
    bool migrate_first = false;
    bool json = false;
    bool csv = false;
    std::string stream;
    std::string generation;
    std::int64_t top = 10;
    std::int64_t max_diff = 0;
    bool accept_diff = false;
    bool deep = false;
    std::int64_t memory = std::int64_t{1} << 30;
    bool watch = false;
    milliseconds interval{1'000};
    std::string letter;
    std::string reason;
    bool all = false;
    bool dry_run = false;
    std::string edit;
    std::string note;
    std::string from_file;
    std::string expect;
    bool keep = false;
    milliseconds timeout{30'000};
};

log::Level level(const Options& options, log::Level otherwise) {
    return options.log_level.empty() ? otherwise : log::level_of(options.log_level);
}

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

void write_migrated(const std::vector<Migrated>& all, std::ostream& out) {
    std::string json = "{\"streams\":[";
    for (const auto& one : all) {
        if (json.back() != '[') json += ',';
        json += "{\"stream\":";
        schemas::json::append_string(json, one.stream);
        schemas::json::append_member(json, "topic", one.topic);
        json += ",\"partitions\":" + std::to_string(one.partitions) +
                ",\"madeTopic\":" + (one.made_topic ? "true" : "false") +
                ",\"madeTables\":" + (one.made_tables ? "true" : "false") + "}";
    }
    out << json << "]}\n";
}

Lane::Options lane_options(const Options& options, const std::string& instance) {
    Lane::Options lane;
    lane.brokers = options.brokers;
    lane.kafka_properties = kafka::read_properties(options.kafka_config);
    lane.instance = instance;
    lane.processor.dsn = options.consumer_dsn;
    lane.processor.owner = instance;
    lane.processor.drain = options.shutdown_timeout;
    lane.processor.window_retention = options.window_retention;
    lane.processor.state.limits.interval = options.flush_interval;
    lane.processor.state.limits.records = static_cast<std::size_t>(options.flush_records);
    lane.processor.state.limits.bytes = static_cast<std::size_t>(options.flush_bytes);
    return lane;
}

// The registered generations of every stream. Throws Refused where a stream has no tables to be read.
std::vector<Generation> read_registry(pg::Connection& connection) {
    std::vector<Generation> all;
    for (const auto* projection : projections()) {
        auto found = find_generations(connection, *projection);
        if (std::none_of(found.begin(), found.end(), [](const auto& one) { return one.role == Role::live; })) {
            throw Refused(std::string(no_tables(*projection).what()) + ", or start with --migrate");
        }
        std::move(found.begin(), found.end(), std::back_inserter(all));
    }
    return all;
}

// The same, once the database answers. Nullopt: told to stop before it did.
std::optional<std::vector<Generation>> await_registry(const Options& options, const base::Shutdown& shutdown) {
    base::Backoff backoff(milliseconds(100), milliseconds(2'000), 1);
    bool complained = false;
    while (!shutdown.requested()) {
        try {
            pg::Connection connection(options.consumer_dsn, pg::SessionOptions{});
            return read_registry(connection);
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

// Keeps the lanes to what is registered, on a connection that lasts from call to call.
class Registry {
public:
    Registry(const Options& options, Lanes& lanes) : options_(options), lanes_(lanes) {}

    void follow(const std::vector<Generation>& registered) {
        lanes_.follow(registered);
        for (const auto& one : registered) {
            const std::string stream(one.target.projection->stream().name);
            if (one.role != Role::live) continue;
            if (one.is_of_this_program()) {
                strange_.erase(stream);
            } else if (strange_.insert(stream).second) {
                log::error("generation_of_another_fingerprint",
                           {{"stream", stream},
                            {"tables", one.fingerprint},
                            {"program", one.target.projection->fingerprint()},
                            {"hint",
                             "this program leaves what is read alone: run the matching version, or replay and "
                             "promote"}});
            }
        }
        // One that it folds beside, to be promoted, is work enough.
        std::set<std::string> idle = strange_;
        for (const auto& processor : lanes_.processors())
            idle.erase(std::string(processor->target().projection->stream().name));
        const std::lock_guard lock(mutex_);
        idle_ = idle.empty() ? "" : *idle.begin();
    }
    void follow() {
        try {
            if (connection_ && connection_->is_broken()) connection_.reset();
            if (!connection_) connection_.emplace(options_.consumer_dsn, pg::SessionOptions{});
            follow(read_registry(*connection_));
            failing_ = false;
        } catch (const std::exception& error) {
            if (!failing_) log::warn("registry_unknown", {{"error", error.what()}});
            failing_ = true;
        }
    }
    /// Any thread: a stream of which this program folds nothing; empty: none.
    [[nodiscard]] std::string idle() const {
        const std::lock_guard lock(mutex_);
        return idle_;
    }

private:
    const Options& options_;
    Lanes& lanes_;
    std::optional<pg::Connection> connection_;
    std::set<std::string> strange_;
    bool failing_ = false;
    mutable std::mutex mutex_;  // guards idle_
    std::string idle_;
};

constexpr milliseconds kStep{500};

// The latest partition decides what is dropped of all: one that is behind by a day still has the windows of that day to
// come, and reads of the last hour up to where it stands.
constexpr milliseconds kShortestRetention = std::chrono::hours(25);
// A hundred years, and no overflow.
constexpr milliseconds kLongestRetention = std::chrono::hours(100 * 366 * 24);

constexpr std::int64_t kMostRows = 1'000'000'000'000;

int run(const Options& options) {
    log::start("tidemark-consumer", level(options, log::Level::info));
    base::Shutdown shutdown;
    if (options.migrate_first) migrate(migrate_options(options));
    const base::SystemClock clock;
    base::Metrics metrics;
    const auto instance = host_name() + "-" + std::to_string(options.slot);
    const auto registered = await_registry(options, shutdown);
    if (!registered) return base::kDone;

    Lanes lanes(lane_options(options, instance), clock, metrics);
    Registry registry(options, lanes);
    registry.follow(*registered);

    http::Router router;
    http::add_operations(router, metrics, [&]() -> std::optional<std::string> {
        if (const auto idle = registry.idle(); !idle.empty())
            return "stream " + idle + ": its tables are of another fingerprint";
        if (const auto stream = lanes.interrupted(); !stream.empty())
            return "stream " + stream + ": another member took its place in the consumer group";
        for (const auto& processor : lanes.processors()) {
            const auto status = processor->status();
            if (!status.live) continue;
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

    log::info(
        "started",
        {{"instance", instance}, {"lanes", lanes.processors().size()}, {"admin_port", std::int64_t{server.port()}}});
    // Ended with the process: one may be in the midst of a long statement, which nothing waits for.
    std::vector<std::unique_ptr<Auditor>> auditors;
    for (const auto* projection : projections()) {
        if (options.audit_interval == milliseconds(0)) break;
        auditors.push_back(std::make_unique<Auditor>(
            Auditor::Options{options.brokers, kafka::read_properties(options.kafka_config), options.consumer_dsn,
                             instance, options.audit_interval, options.audit_memory},
            *projection, metrics));
    }
    {
        const auto processors = [&lanes] { return lanes.processors(); };
        const LogWatch log_watch(
            {options.brokers, kafka::read_properties(options.kafka_config), milliseconds(500), options.clock_skew},
            processors, clock);
        const Presence presence({options.consumer_dsn, instance, milliseconds(2'000)}, processors, clock);
        while (!shutdown.wait_for(kStep)) {
            lanes.check_stuck(kStep, options.stuck_after);
            registry.follow();
        }
        log::info("stopping");
        lanes.stop();
    }
    server.drain(milliseconds(500));
    log::info("stopped");
    // The consumers are not closed: a static member does not leave its group by that, and the truth is in the database.
    ::_exit(base::kDone);
}

// For the commands about a stream's generations; `shutdown` must outlive them.
OperateOptions operate_options(const Options& options, const base::Shutdown& shutdown) {
    OperateOptions operate;
    operate.stream = options.stream;
    operate.owner_dsn = options.owner_dsn;
    operate.consumer_dsn = options.consumer_dsn;
    operate.lane = lane_options(options, host_name() + "-" + std::to_string(::getpid()));
    operate.format = options.json ? "json" : options.csv ? "csv" : "table";
    operate.top = options.top;
    operate.max_diff = options.max_diff;
    operate.accept_diff = options.accept_diff;
    operate.deep = options.deep;
    operate.memory = options.memory;
    operate.letter = options.letter;
    operate.reason = options.reason;
    operate.all = options.all;
    operate.dry_run = options.dry_run;
    operate.edit = options.edit;
    operate.note = options.note;
    operate.file = options.from_file;
    operate.expect = options.expect;
    operate.keep = options.keep;
    if (!options.generation.empty()) operate.generation = std::stoll(options.generation);
    operate.timeout = options.timeout;
    operate.cancelled = [&shutdown] { return shutdown.requested(); };
    return operate;
}

std::vector<std::string> stream_names() {
    std::vector<std::string> names;
    for (const auto* projection : projections())
        names.emplace_back(projection->stream().name);
    return names;
}

// Whose connections a command uses.
enum class Rights : std::uint8_t { consumer, owner, both };

// What to try next when the database fails.
std::string advice(const pg::Error& error, const Options& options, Rights rights) {
    std::string settings;
    const auto name = [&](const char* option, const std::string& dsn) {
        settings += (settings.empty() ? "" : " and ") + std::string(option) + (dsn.empty() ? " (not given)" : "");
    };
    if (rights != Rights::owner) name("--consumer-dsn", options.consumer_dsn);
    if (rights != Rights::consumer) name("--owner-dsn", options.owner_dsn);
    switch (error.failure()) {
        case pg::Failure::connection_lost:
            return "see that PostgreSQL runs, and check host, port, database, role and password in " + settings;
        case pg::Failure::in_doubt:
            return "the connection broke while it was committed: look with `tidemark-consumer generations STREAM` "
                   "whether it was done before you run it again";
        case pg::Failure::retryable:
            return "run it again; while it fails, pg_stat_activity shows who stands in its way";
        case pg::Failure::schema_changed:
            return "`tidemark-consumer migrate` makes what is missing, `tidemark-consumer doctor` says what was "
                   "altered";
        case pg::Failure::data:
        case pg::Failure::bug:
            break;
    }
    if (error.sqlstate().empty()) return "check how " + settings + " is written";  // no server has said anything
    return "`tidemark-consumer doctor` says which rights and tables are not as they should be; check role and database "
           "in " +
           settings;
}

int guarded(const Options& options, Rights rights, const std::function<int()>& command) {
    try {
        return command();
    } catch (const Refused& refused) {
        std::cerr << "refused: " << refused.what() << '\n';
        return base::kRefused;
    } catch (const pg::Error& error) {
        std::cerr << "error: " << error.what() << "\ntry: " << advice(error, options, rights) << '\n';
        return base::kFailed;
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
                    "PostgreSQL connection of the role that owns the schemas; for migrate and doctor, and for "
                    "commands that make, compare, verify, swap or drop generations.");
    settings.choice("log-level", options.log_level, log::level_names(),
                    "Least level of log lines; by default info of run and migrate, warn of the others.");

    const auto migration = [&](base::Settings& command, const std::string& when) {
        command.number("partitions", options.partitions, 1, 10'000,
                       when + "Partitions of a topic that is made; fixed for ever after.");
        command.number("replication", options.replication, 1, 7, when + "Replicas of a topic that is made.");
        command.number("min-isr", options.min_isr, 1, 7,
                       when + "In-sync replicas that a write needs, of a topic that is made.");
        command.secret("consumer-password", options.consumer_password,
                       when + "Password to give the role tidemark_consumer.");
        command.secret("api-password", options.api_password, when + "Password to give the role tidemark_api.");
    };
    settings.command(
        "run", "Fold every stream into its tables until told to stop",
        [&] {
            const auto rights = options.migrate_first ? Rights::both : Rights::consumer;
            return guarded(options, rights, [&] { return run(options); });
        },
        [&](base::Settings& command) {
            migration(command, "With --migrate: ");
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
            command.duration("audit-interval", options.audit_interval, milliseconds(0), milliseconds(86'400'000),
                             "How often a stream's tables are added up, and compared with what its log says; one "
                             "consumer does it for all, and reads the log once more for it. 0: no audit.");
            command.bytes("audit-memory", options.audit_memory, std::int64_t{1} << 20, std::int64_t{1} << 40,
                          "What the audit of a stream may remember: the identities of a day, imported lines and the "
                          "dead letters that are open. When it needs more there is none for an hour.");
            command.duration("window-retention", options.window_retention, milliseconds(0), kLongestRetention,
                             "How long windows are kept, in log time, at least 25h; totals and history stay. What was "
                             "dropped does not come back. 0 keeps all.");
            command.flag("migrate", options.migrate_first, "Run migrate first.");
            command.example("--migrate", "From an empty broker and database to a running consumer.");
            command.example("--slot 1 --admin-listen 127.0.0.1:3344", "A second one on the same host.");
            command.example("--window-retention 720h", "Keep windows for thirty days, all else for ever.");
            command.check([&] {
                if (options.window_retention.count() == 0 || options.window_retention >= kShortestRetention)
                    return std::vector<std::string>{};
                return std::vector<std::string>{
                    "window-retention: less than 25h: a partition that nobody has folded for a day would be folded "
                    "without its windows. Give 0 to keep all"};
            });
        });
    settings.command(
        "migrate",
        "Make topics, their identities, schemas and roles that are missing; gives the roles their rights and passwords",
        [&] {
            return guarded(options, Rights::owner, [&] {
                log::start("tidemark-consumer", level(options, log::Level::info));
                const auto migrated = migrate(migrate_options(options));
                if (options.json) write_migrated(migrated, std::cout);
                return int{base::kDone};
            });
        },
        [&](base::Settings& command) {
            migration(command, "");
            command.flag("json", options.json, "Print what there is then as a JSON object.");
            command.example("", "On one broker, of a development machine say.");
            command.example("--partitions 12 --replication 3 --min-isr 2", "On three brokers or more.");
        });
    settings.command(
        "status", "Show every partition: owner, lag, generation, dead letters; exit 1 while any is behind",
        [&] {
            return guarded(options, Rights::consumer, [&] {
                const StatusOptions status{options.brokers, options.consumer_dsn,
                                           kafka::read_properties(options.kafka_config), options.json};
                if (!options.watch) return int{write_status(status, std::cout) ? base::kDone : base::kFailed};
                log::start("tidemark-consumer", level(options, log::Level::warn));
                base::Shutdown shutdown;
                const bool on_terminal = !options.json && ::isatty(STDOUT_FILENO) == 1;
                if (on_terminal) std::cout << "\x1b[2J";
                watch_status(
                    status, options.interval, on_terminal, [&](milliseconds pause) { return shutdown.wait_for(pause); },
                    std::cout);
                return int{base::kDone};
            });
        },
        [&](base::Settings& command) {
            command.flag("json", options.json, "One JSON object instead of a table.");
            command.flag("watch", options.watch, "Again and again, with the records folded per second.");
            command.duration("interval", options.interval, milliseconds(100), milliseconds(3'600'000),
                             "Between two looks.");
            command.example("", "Once; a script sees by the exit code whether anything is behind.");
            command.example("--watch", "On a terminal: all of it at a glance, every second.");
            command.example("--watch --json --interval 10s", "For programs: a line every ten seconds.");
        });

    settings.command(
        "doctor",
        "Look for what breaks a promise: topics, brokers, PostgreSQL, rights, clocks, generations; exit 1 at an "
        "error or a warning",
        [&] {
            return guarded(options, Rights::both, [&] {
                log::start("tidemark-consumer", level(options, log::Level::warn));
                const auto findings = examine({options.brokers, kafka::read_properties(options.kafka_config),
                                               options.owner_dsn, options.consumer_dsn});
                write_findings(findings, options.json, std::cout);
                const bool clean = std::all_of(findings.begin(), findings.end(),
                                               [](const Finding& one) { return one.severity == Severity::info; });
                return int{clean ? base::kDone : base::kFailed};
            });
        },
        [&](base::Settings& command) {
            command.flag("json", options.json, "JSON instead of text.");
            command.example("", "What is wrong, how badly, and the command that mends it.");
            command.example("--json", "For programs.");
        });

    // The commands about a stream's generations.
    const auto operate = [&](int (*command)(const OperateOptions&, std::ostream&), Rights rights = Rights::owner) {
        return [&options, command, rights] {
            // A file is folded as the owner.
            return guarded(options, options.from_file.empty() ? rights : Rights::owner, [&] {
                log::start("tidemark-consumer", level(options, log::Level::warn));
                const base::Shutdown shutdown;
                return command(operate_options(options, shutdown), std::cout);
            });
        };
    };
    const auto stream = [&](base::Settings& command) {
        command.argument("stream", options.stream, true, "Stream, e.g. counters.", stream_names());
        command.flag("json", options.json, "JSON instead of text.");
    };
    const auto timeout = [&](base::Settings& command) {
        command.duration("timeout", options.timeout, milliseconds(1'000), milliseconds(3'600'000),
                         "How long to try to bring both generations to the same offsets.");
    };
    // `otherwise`: which one is meant when none is given; empty: one has to be.
    const auto generation = [&](base::Settings& command, const std::string& otherwise) {
        const bool required = otherwise.empty();
        command.argument("generation", options.generation, required,
                         "Number of the generation" + (required ? "." : "; default: " + otherwise + "."));
        command.check([&options, required] {
            const auto& text = options.generation;
            const bool is_number = !text.empty() && text.size() <= 9 &&
                                   text.find_first_not_of("0123456789") == std::string::npos && text[0] != '0';
            if (is_number || (text.empty() && !required)) return std::vector<std::string>{};
            return std::vector<std::string>{"generation: not a number of one: " + text + ", e.g. 2"};
        });
    };
    settings.command(
        "replay", "Fold a stream's log from its start into a new generation beside the live one; run again, it goes on",
        operate([](const OperateOptions& given, std::ostream& out) { return run_replay(given, out, std::cerr); },
                Rights::both),
        [&](base::Settings& command) {
            stream(command);
            command.text("from-file", options.from_file,
                         "Fold this file's records instead (- is standard input), as `tidemark-producer export "
                         "--positions` writes them, into tables of their own, say what they came to, and drop them.");
            command.text("expect", options.expect,
                         "The digest that the file came to before: exit 1 when it is another one now.");
            command.flag("keep", options.keep, "Leave the file's tables there, to be looked at; `drop` ends them.");
            command.example("counters", "The whole log, to be compared and promoted.");
            command.example("counters --from-file case.ndjson", "An incident: what it comes to, and its digest.");
            command.example("counters --from-file case.ndjson --expect 41-1-1-8c8b1d3f0a9e2b67",
                            "The incident as a test: exit 1 when the fold says something else.");
            command.check([&] {
                std::vector<std::string> wrong;
                const bool is_from_file = settings.is_given("from-file");
                if (is_from_file && options.from_file.empty())
                    wrong.emplace_back("from-file: is empty; - is standard input");
                for (const auto& [name, is_there] :
                     {std::pair("expect", settings.is_given("expect")), {"keep", options.keep}}) {
                    if (is_there && !is_from_file)
                        wrong.push_back(std::string(name) + ": is for a file, give --from-file");
                }
                // One that a script could not find must not pass for one that is equal.
                static const std::regex digest("[0-9]+-[0-9]+-[0-9]+-[0-9a-f]{16}");
                if (settings.is_given("expect") && !std::regex_match(options.expect, digest))
                    wrong.push_back("expect: not a digest: " + options.expect + ", e.g. 41-1-1-8c8b1d3f0a9e2b67");
                return wrong;
            });
        });
    settings.command("generations", "Show a stream's generations: role, fingerprint, how far, who folds them",
                     operate(show_generations, Rights::consumer), [&](base::Settings& command) {
                         stream(command);
                         command.example("counters", "Which is read, which can be promoted or gone back to.");
                     });
    settings.command(
        "diff", "Compare the live generation with another at the same offsets; exit 1 when they differ",
        operate([](const OperateOptions& given, std::ostream& out) { return show_diff(given, out, std::cerr); }),
        [&](base::Settings& command) {
            stream(command);
            generation(command, "the candidate, or what was live before when there is none");
            timeout(command);
            command.flag("csv", options.csv, "CSV instead of text.");
            command.number("top", options.top, 0, 10'000, "Samples of each table, the biggest deltas first.");
            command.number("max-diff", options.max_diff, 0, kMostRows, "Rows that may differ.");
            command.example("counters", "The candidate, or with several the one whose number is given.");
            command.example("counters 3 --json --top 100", "For programs: a hundred samples a table.");
        });
    settings.command(
        "verify", "Count a generation's log again, a second way, and compare every row; exit 1 when any differs",
        operate([](const OperateOptions& given, std::ostream& out) { return run_verify(given, out, std::cerr); }),
        [&](base::Settings& command) {
            stream(command);
            generation(command, "the live one");
            command.flag("deep", options.deep, "Name the rows that differ, and where in the log they come from.");
            command.number("top", options.top, 0, 10'000,
                           "With --deep: so many of each table's rows, the biggest deltas first.");
            command.flag("csv", options.csv, "CSV instead of text.");
            command.bytes("memory", options.memory, std::int64_t{1} << 20, std::int64_t{1} << 40,
                          "What may stand in memory at once; the log is read as often as it takes.");
            command.duration("timeout", options.timeout, milliseconds(1'000), milliseconds(3'600'000),
                             "How long to wait for a record that has to be there.");
            command.example("counters --deep",
                            "The live tables: which rows differ, and where in the log they come from.");
            command.example("counters 2 --memory 256MiB", "Before generation 2 is promoted, in little memory.");
        });
    settings.command(
        "promote", "Make the candidate the generation that is read",
        operate([](const OperateOptions& given, std::ostream& out) { return promote(given, out, std::cerr); }),
        [&](base::Settings& command) {
            stream(command);
            generation(command, "the only candidate");
            timeout(command);
            command.number("max-diff", options.max_diff, 0, kMostRows, "Rows that may differ; more are refused.");
            command.flag("accept-diff", options.accept_diff, "Do not compare.");
            command.example("counters", "Only if both generations say the same.");
            command.example("counters 3 --accept-diff", "A changed fold, whose differences diff has shown.");
        });
    settings.command("rollback", "Go back to the generation that was read before", operate(roll_back),
                     [&](base::Settings& command) {
                         stream(command);
                         timeout(command);
                         command.example("counters", "What was read before the last promote is read again.");
                     });
    settings.command("drop", "Remove a generation that is not the live one, and what a replay of it has done",
                     operate(drop), [&](base::Settings& command) {
                         stream(command);
                         generation(command, "");
                         command.example("counters 1", "Once nobody will go back to it.");
                     });
    const auto letter = [&](base::Settings& command) {
        stream(command);
        command.argument("letter", options.letter, false, "PARTITION:OFFSET of one, e.g. 2:1834.");
        command.text("reason", options.reason, "Only those, e.g. malformed.");
        command.check([&] {
            if (options.letter.empty() || schemas::parse_position(options.letter)) return std::vector<std::string>{};
            return std::vector<std::string>{"letter: not PARTITION:OFFSET: " + options.letter + ", e.g. 2:1834"};
        });
    };
    settings.command("dead-letters",
                     "Show what could not be applied: how many for which reason, the newest, or one of them whole",
                     operate(show_dead_letters, Rights::consumer), [&](base::Settings& command) {
                         letter(command);
                         command.number("top", options.top, 0, 10'000, "So many of the newest.");
                         command.example("counters", "How many for which reason, and the newest.");
                         command.example("counters 2:1834", "Partition 2, offset 1834, whole.");
                     });
    const auto decision = [&](base::Settings& command) {
        letter(command);
        command.duration("timeout", options.timeout, milliseconds(1'000), milliseconds(3'600'000),
                         "How long to wait until the decisions are folded.");
        command.flag("all", options.all, "All that are open.");
        command.flag("dry-run", options.dry_run, "Only say which ones.");
    };
    settings.command("redrive", "Have dead letters judged again, where the log is now; exit 1 when any stays one",
                     operate(redrive, Rights::consumer), [&](base::Settings& command) {
                         decision(command);
                         command.text("edit", options.edit,
                                      "File with what to judge in place of the letter's value; its key stays.");
                         command.example("counters 2:1834 --edit mended.json", "One, as it should have been.");
                         command.example("counters --reason refused_by_database --dry-run",
                                         "Which ones that would be.");
                     });
    settings.command("discard", "Leave dead letters be for good", operate(discard, Rights::consumer),
                     [&](base::Settings& command) {
                         decision(command);
                         command.text("note", options.note, "Why.");
                         command.example("counters 2:1834 --note \"a load test of ours\"", "One, for good.");
                         command.check([&] {
                             if (options.note.size() <= schemas::dead_letter::kMaxNoteBytes)
                                 return std::vector<std::string>{};
                             return std::vector<std::string>{"note: more than 2000 bytes"};
                         });
                     });
    settings.check([&] { return http::check_endpoint("admin-listen", options.admin_listen, "127.0.0.1:3334"); });
    return settings.run(argc, argv);
}
