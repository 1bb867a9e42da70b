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
    auto look_from = clock_.steady();  // whether the topics still are these logs
    auto paused = look_from;
    bool must_look = false;
    while (!stop_.requested()) {
        const auto round = clock_.steady();
        bool told = false;
        try {
            if (!admin) admin.emplace(options_.brokers, options_.kafka_properties, std::chrono::seconds(2));
            tell_ends(*admin);
            told = true;
            failing = false;
            // The process stood still, and its readers have heard nothing.
            must_look = must_look || clock_.steady() - paused > 2 * options_.interval;
            if (must_look || round >= look_from) {
                look_from = round + kSameLog;
                must_look = find_other_logs(*admin);
            }
        } catch (const kafka::Error& error) {
            if (!failing) base::log::warn("log_end_unknown", {{"error", error.what()}});
            failing = true;
            must_look = must_look || !told;  // the readers may have been cut off likewise
        }
        paused = clock_.steady();
        stop_.wait_for(options_.interval - (paused - round));
    }
}

void LogWatch::tell_ends(kafka::Admin& admin) {
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
            answer->second.ends = admin.end_offsets(target.topic, target.partitions);
        }
        processor->log_end(answer->second.asked, answer->second.ends);
    }
}

// Whether one has to be looked at again.
bool LogWatch::find_other_logs(kafka::Admin& admin) {
    std::set<std::string> seen;
    for (const auto& processor : processors_()) {
        const auto& target = processor->target();
        if (!seen.insert(target.topic).second) continue;
        auto other = find_other_log(admin, target);
        if (!other) {
            suspected_.erase(target.topic);
        } else if (!suspected_.insert(target.topic).second) {
            processor->log_is_another(std::move(*other));  // with one the process ends
        }
    }
    return !suspected_.empty();
}

}  // namespace tidemark::consumers
