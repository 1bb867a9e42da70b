#include "consumers/lanes.h"

#include "infra/base/exit_code.h"
#include "infra/base/log.h"
#include "infra/kafka/error.h"

#include <unistd.h>

#include <utility>

namespace tidemark::consumers {

namespace log = base::log;

namespace {

// What failed once will probably fail again; nobody reads these tables.
constexpr std::chrono::seconds kTryAgain{10};

// Two processes of one instance take each other's place again and again, far more often than this.
constexpr std::chrono::minutes kReplacedAgain{1};

kafka::ConsumerOptions consumer_options(const Lane::Options& options, const Target& target) {
    kafka::ConsumerOptions consumer;
    consumer.brokers = options.brokers;
    consumer.topic = target.topic;
    consumer.group = target.consumer_group();
    consumer.partitions = options.partitions;
    if (options.partitions.empty()) {
        consumer.instance_id = options.instance;
    } else {
        // A replay: nobody waits for what it holds, and with less the client pauses a second after each fetch.
        consumer.queued_min_messages = 100'000;
    }
    consumer.properties = options.kafka_properties;
    consumer.client_id = "tidemark-consumer-" + options.instance;
    return consumer;
}

// Another member bears this one's instance id. That is another process of the same host and slot, or it is this one:
// its client joins anew when the coordinator was away for a session, and a request of before that may arrive after it.
// The two look the same from here.
bool was_replaced(const std::exception_ptr& failure) {
    if (!failure) return false;
    try {
        std::rethrow_exception(failure);
    } catch (const kafka::Error& error) {
        return error.is_fatal();
    } catch (...) {
        return false;
    }
}

}  // namespace

Lane::Lane(const Options& options, const Target& target, const base::Clock& clock, base::Metrics& metrics,
           OnFailure on_failure)
    : admin_(options.brokers, options.kafka_properties),
      consumer_(consumer_options(options, target)),
      processor_(options.processor, target, consumer_, make_log_check(admin_, target), clock, metrics),
      on_failure_(std::move(on_failure)),
      thread_([this] {
          try {
              processor_.run();
          } catch (...) {
              failure_ = std::current_exception();
              on_failure_(*this, failure_);
          }
          ended_ = true;
      }) {}

Lane::~Lane() {
    stop();
    join();
}

void Lane::join() {
    if (thread_.joinable()) thread_.join();
}

void Lanes::follow(const std::vector<Generation>& registered) {
    const auto now = clock_.steady();
    std::set<Key> wanted;
    for (const auto& one : registered) {
        if (one.role == Role::building || one.role == Role::scratch || !one.is_of_this_program()) continue;
        Key key{one.target.projection->stream().name, one.target.generation};
        wanted.insert(key);
        if (lanes_.contains(key)) continue;
        auto options = options_;
        options.processor.state.seed =
            std::hash<std::string>{}(options.instance) ^ static_cast<std::uint64_t>(now.time_since_epoch().count());
        const auto replaced = replaced_.find(key);
        const auto spared_from = replaced == replaced_.end() ? now : replaced->second + kReplacedAgain;
        const auto on_failure = [this, spared_from](Lane& lane, const std::exception_ptr& failure) {
            bool of_the_tables = false;  // and not of the log, the group or this program
            std::string what = "unknown";
            try {
                std::rethrow_exception(failure);
            } catch (const pg::Error& error) {
                of_the_tables = true;
                what = error.what();
            } catch (const std::exception& error) {
                what = error.what();
            }
            log::error("processor_failed", {{"stream", lane.target().projection->stream().name},
                                            {"generation", std::int64_t{lane.target().generation}},
                                            {"error", what}});
            if (was_replaced(failure) && clock_.steady() >= spared_from) return;
            // At once, without a drain: what the other streams have in memory is in the log.
            if (lane.processor().status().live || !of_the_tables) ::_exit(base::kFailed);
        };
        auto lane = std::make_shared<Lane>(options, one.target, clock_, metrics_, on_failure);
        log::info("lane_started",
                  {{"stream", key.first}, {"generation", std::int64_t{key.second}}, {"role", to_string(one.role)}});
        const std::lock_guard lock(mutex_);
        interrupted_.erase(key);
        lanes_[std::move(key)].lane = std::move(lane);
    }
    for (auto entry = lanes_.begin(); entry != lanes_.end();) {
        auto& [key, mine] = *entry;
        if (mine.lane->ended() && mine.ended_at == std::chrono::steady_clock::time_point{}) mine.ended_at = now;
        const bool replaced = mine.lane->ended() && was_replaced(mine.lane->failure());
        if (replaced) replaced_[key] = now;
        const bool again = replaced || (mine.lane->ended() && now - mine.ended_at >= kTryAgain);
        if (wanted.contains(key) && !again) {
            ++entry;
            continue;
        }
        mine.lane->stop();
        mine.lane->join();
        log::info("lane_ended", {{"stream", key.first}, {"generation", std::int64_t{key.second}}});
        std::shared_ptr<Lane> lane;  // closing it takes longer than the lock may be held
        const std::lock_guard lock(mutex_);
        lane = std::move(mine.lane);
        if (replaced && lane->processor().status().live) interrupted_.insert(key);
        entry = lanes_.erase(entry);
    }
    const std::lock_guard lock(mutex_);
    std::erase_if(interrupted_, [&](const Key& key) { return !wanted.contains(key); });
}

void Lanes::stop() {
    for (auto& [key, mine] : lanes_)
        mine.lane->stop();
    for (auto& [key, mine] : lanes_)
        mine.lane->join();
}

std::vector<std::shared_ptr<StreamProcessor>> Lanes::processors() const {
    std::vector<std::shared_ptr<StreamProcessor>> all;
    const std::lock_guard lock(mutex_);
    all.reserve(lanes_.size());
    for (const auto& [key, mine] : lanes_) {
        if (!mine.lane->ended()) all.emplace_back(mine.lane, &mine.lane->processor());
    }
    return all;
}

std::string Lanes::interrupted() const {
    const std::lock_guard lock(mutex_);
    for (const auto& [key, mine] : lanes_) {
        if (mine.lane->ended() && mine.lane->failure() && mine.lane->processor().status().live) return key.first;
    }
    return interrupted_.empty() ? "" : interrupted_.begin()->first;
}

void Lanes::check_stuck(std::chrono::milliseconds step, std::chrono::milliseconds stuck_after) {
    for (auto& [key, mine] : lanes_) {
        const auto last = mine.lane->processor().status().last_step;
        mine.stuck_steps = last == mine.last_step && !mine.lane->ended() ? mine.stuck_steps + 1 : 0;
        mine.last_step = last;
        if (mine.stuck_steps * step < stuck_after) continue;
        log::error("processor_stuck", {{"stream", key.first},
                                       {"generation", std::int64_t{key.second}},
                                       {"hint", "the process ends so that another instance takes over"}});
        ::_exit(base::kFailed);
    }
}

}  // namespace tidemark::consumers
