#pragma once

#include "consumers/lanes.h"
#include "infra/base/clock.h"
#include "infra/base/stop.h"
#include "infra/kafka/admin.h"

#include <chrono>
#include <map>
#include <set>
#include <string>
#include <thread>

namespace tidemark::consumers {

/// Asks the broker where each stream's log ends and tells the processors, on a thread of its own: what lets them say up
/// to which instant their tables are complete. An answer that does not come is logged and simply moves nothing. Now and
/// then it looks whether the topic still is that log; where it is not, a processor of it ends, and so the process.
class LogWatch {
public:
    struct Options {
        std::string brokers;
        std::map<std::string, std::string> kafka_properties;
        std::chrono::milliseconds interval{500};
        /// How far this machine's clock may be ahead of the broker's: taken off every instant that is promised.
        std::chrono::milliseconds clock_skew{200};
    };

    /// What `processors` needs must outlive it.
    LogWatch(Options options, Processors processors, const base::Clock& clock);
    ~LogWatch();
    LogWatch(const LogWatch&) = delete;
    LogWatch& operator=(const LogWatch&) = delete;

private:
    void run();
    void tell_ends(kafka::Admin& admin);
    bool find_other_logs(kafka::Admin& admin);

    Options options_;
    Processors processors_;
    const base::Clock& clock_;
    base::Stop stop_;
    // Topics that were another log when last looked at: a broker that has just become the leader may not know its log
    // yet, so it has to be so twice.
    std::set<std::string> suspected_;
    std::thread thread_;
};

}  // namespace tidemark::consumers
