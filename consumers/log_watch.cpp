#include "consumers/log_watch.h"

#include "infra/base/log.h"
#include "infra/kafka/admin.h"
#include "infra/kafka/error.h"

#include <optional>
#include <utility>

namespace tidemark::consumers {

LogWatch::LogWatch(Options options, Processors processors, const base::Clock& clock)
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
            struct Answer {
                Timestamp asked{};
                std::vector<std::int64_t> ends;
            };
            std::map<std::string, Answer> answers;  // one for all generations of a topic
            for (const auto& processor : processors_()) {
                const auto& target = processor->target();
                auto [answer, is_new] = answers.try_emplace(target.topic);
                if (is_new) {
                    answer->second.asked = clock_.now() - options_.clock_skew;
                    answer->second.ends = admin->end_offsets(target.topic, target.partitions);
                }
                processor->log_end(answer->second.asked, answer->second.ends);
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
