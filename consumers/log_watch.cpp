#include "consumers/log_watch.h"

#include "consumers/log_check.h"
#include "infra/base/log.h"
#include "infra/kafka/admin.h"
#include "infra/kafka/error.h"

#include <chrono>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <utility>

namespace tidemark::consumers {

namespace {

// A reader that heard nothing of it goes on at its offset in the new topic, and hears of new partitions after minutes.
constexpr std::chrono::seconds kSameLog{5};

}  // namespace

LogWatch::LogWatch(Options options, Processors processors, const base::Clock& clock)
    : options_(std::move(options)), processors_(std::move(processors)), clock_(clock), thread_([this] { run(); }) {}

LogWatch::~LogWatch() {
    stop_.request();
    thread_.join();
}

void LogWatch::run() {
    std::optional<kafka::Admin> admin;
    bool failing = false;
    std::map<std::string, std::chrono::steady_clock::time_point> looked_at;  // by topic, whether it is the same log
    std::set<std::string> suspected;                                         // topics
    auto last_round = clock_.steady();
    while (!stop_.requested()) {
        const auto round = clock_.steady();
        // The process stood still, and its readers have heard nothing.
        if (round - last_round > 2 * options_.interval) looked_at.clear();
        last_round = round;
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
                    if (auto& at = looked_at[target.topic]; round - at >= kSameLog) {
                        // Seen twice: a broker that has just become the leader may not know its log yet.
                        if (auto other = find_other_log(*admin, target); !other) {
                            suspected.erase(target.topic);
                            at = round;
                        } else if (!suspected.insert(target.topic).second) {
                            processor->log_is_another(std::move(*other));  // with one the process ends
                        }
                    }
                    answer->second.asked = clock_.now() - options_.clock_skew;
                    answer->second.ends = admin->end_offsets(target.topic, target.partitions);
                }
                processor->log_end(answer->second.asked, answer->second.ends);
            }
            failing = false;
        } catch (const kafka::Error& error) {
            if (!failing) base::log::warn("log_end_unknown", {{"error", error.what()}});
            failing = true;
            looked_at.clear();  // the readers may have been cut off likewise
        }
        stop_.wait_for(options_.interval - (clock_.steady() - round));
    }
}

}  // namespace tidemark::consumers
