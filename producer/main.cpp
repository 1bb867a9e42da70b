#include "infra/base/clock.h"
#include "infra/base/exit_code.h"
#include "infra/base/log.h"
#include "infra/base/settings.h"
#include "infra/base/shutdown.h"
#include "infra/kafka/properties.h"
#include "producer/event_publisher.h"
#include "producer/import.h"
#include "producer/intake.h"

#include <cerrno>
#include <cstring>
#include <exception>
#include <fstream>
#include <functional>
#include <iostream>
#include <sstream>
#include <string>

namespace {

using namespace tidemark;
using namespace tidemark::producer;
using std::chrono::milliseconds;
namespace log = base::log;

struct Options {
    std::string brokers = "127.0.0.1:9092";
    std::string kafka_config;
    std::string log_level = "warn";
    std::string file;
    std::string type;
    std::string data;
    std::string time;
    milliseconds give_up{60'000};
};

// Publishes the lines and says how it went. Gives up when told to stop, or when nothing could be stored for a whole
// minute.
int publish_lines(const Options& options, std::istream& lines) {
    log::start("tidemark-producer", options.log_level == "info" ? log::Level::info : log::Level::warn);
    base::Shutdown shutdown;
    const base::SystemClock clock;
    kafka::ProducerOptions producer_options;
    producer_options.brokers = options.brokers;
    producer_options.topics = topics();
    producer_options.properties = kafka::read_properties(options.kafka_config);
    producer_options.client_id = "tidemark-producer";
    producer_options.linger = std::chrono::milliseconds(5);  // a file is in no hurry: larger batches
    EventPublisher publisher({}, clock, EventPublisher::kafka_sink(std::move(producer_options)));

    auto progressed = clock.steady();
    std::uint64_t accepted = 0;
    const auto give_up = [&](milliseconds wait) {
        if (shutdown.wait_for(wait)) return true;
        if (const auto now_accepted = publisher.counters().accepted;
            now_accepted != accepted || publisher.available()) {
            accepted = now_accepted;
            progressed = clock.steady();
        }
        return clock.steady() - progressed > options.give_up;
    };
    const auto report = import_lines(lines, publisher, clock, std::cerr, give_up);
    std::cout << report.accepted << " of " << report.lines << " events stored";
    if (report.refused > 0) std::cout << ", " << report.refused << " refused";
    if (report.failed > 0) std::cout << ", " << report.failed << " not stored";
    if (report.unknown > 0) std::cout << ", " << report.unknown << " unknown";
    std::cout << '\n';
    if (!report.clean())
        std::cerr << "try: mend the lines named above and import them again; events with an idempotencykey count once "
                     "however often\n";
    return report.clean() ? base::kDone : base::kFailed;
}

int import_file(const Options& options) {
    if (options.file == "-") return publish_lines(options, std::cin);
    std::ifstream file(options.file, std::ios::binary);
    if (!file) {
        std::cerr << "error: cannot read " << options.file << ": " << std::strerror(errno) << '\n';
        return base::kWrongUse;
    }
    return publish_lines(options, file);
}

int send(const Options& options) {
    const base::SystemClock clock;
    schemas::Timestamp time = clock.now();
    if (!options.time.empty()) {
        const auto given = schemas::parse_instant(options.time);
        if (!given) {
            std::cerr << "error: --time \"" << options.time << "\" is no instant; try 2026-11-20T10:00:00Z\n";
            return base::kWrongUse;
        }
        time = *given;
    }
    schemas::json::Reader reader;
    if (const auto data = reader.parse(options.data); !data) {
        std::cerr << "error: DATA " << describe(data.violations()) << "; try '{\"key\":\"abcdef\",\"value\":1}'\n";
        return base::kWrongUse;
    }
    std::string event;
    schemas::append_event(
        event, {schemas::make_uuid7(time), "/send", options.type, time, std::nullopt, std::nullopt, options.data});
    std::istringstream line(event);
    return publish_lines(options, line);
}

int guarded(const std::function<int()>& command) {
    try {
        return command();
    } catch (const std::exception& error) {
        std::cerr << "error: " << error.what() << '\n';
        return base::kFailed;
    }
}

}  // namespace

int main(int argc, char** argv) {
    Options options;
    base::Settings settings("tidemark-producer", "Puts events on the log.");
    settings.text("brokers", options.brokers, "Kafka brokers, HOST:PORT,...");
    settings.text("kafka-config", options.kafka_config,
                  "File of further Kafka client settings, name=value (TLS, SASL).");
    settings.choice("log-level", options.log_level, {"info", "warn"}, "Least level of log lines.");
    settings.duration("give-up", options.give_up, milliseconds(1'000), milliseconds(86'400'000),
                      "How long to go on without a broker that takes events.");
    settings.allow_environment({"TIDEMARK_*"});
    settings.command(
        "import", "Publish a file of events, one per line (- reads standard input)",
        [&] { return guarded([&] { return import_file(options); }); },
        [&](base::Settings& command) {
            command.argument("FILE", options.file, true, "File of events, as `export` writes them.");
        });
    settings.command(
        "send", "Publish one event, e.g. send tidemark.counter.incremented.v1 '{\"key\":\"abcdef\",\"value\":1}'",
        [&] { return guarded([&] { return send(options); }); },
        [&](base::Settings& command) {
            command.argument("TYPE", options.type, true, "The event's type.");
            command.argument("DATA", options.data, true, "Its data, as JSON on one line.");
            command.text("time", options.time, "When it happened; default: now");
        });
    return settings.run(argc, argv);
}
