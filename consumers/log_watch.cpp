#include "consumers/log_watch.h"

#include "infra/base/log.h"
#include "infra/kafka/admin.h"
#include "infra/kafka/error.h"

#include <optional>
#include <utility>

namespace tidemark::consumers {

LogWatch::LogWatch(Options options, std::vector<StreamProcessor*> processors, const base::Clock& clock)
    : options_(std::move(options)), processors_(std::move(processors)), clock_(clock), thread_([this] { run(); }) {}

LogWatch::~LogWatch() {
    stop_.request();
    thread_.join();
}

void LogWatch::run() {
    std::optional<kafka::Admin> admin;
    bool failing = false;
    while (!stop_.requested()) {
        const auto round = clock_.steady();
        try {
            if (!admin) admin.emplace(options_.brokers, options_.kafka_properties, std::chrono::seconds(2));
            for (auto* processor : processors_) {
                const auto asked = clock_.now() - options_.clock_skew;
                processor->log_end(asked,
                                   admin->end_offsets(processor->target().topic, processor->target().partitions));
            }
            failing = false;
        } catch (const kafka::Error& error) {
            if (!failing) base::log::warn("log_end_unknown", {{"error", error.what()}});
            failing = true;
        }
        stop_.wait_for(options_.interval - (clock_.steady() - round));
    }
}

}  // namespace tidemark::consumers
