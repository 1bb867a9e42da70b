#pragma once

#include "consumers/lanes.h"
#include "infra/base/clock.h"
#include "infra/base/stop.h"

#include <chrono>
#include <string>
#include <thread>

namespace tidemark::consumers {

/// This instance's line to everybody else, on a thread and a connection of its own: says in tidemark.consumers what it
/// folds, and hears readers who ask for an early flush. Nothing depends on it for correctness: while the database is
/// away it retries.
class Presence {
public:
    struct Options {
        std::string dsn;
        std::string instance;
        std::chrono::milliseconds heartbeat{2'000};
    };

    /// What `processors` needs must outlive it. The destructor takes the instance off the list.
    Presence(Options options, Processors processors, const base::Clock& clock);
    ~Presence();
    Presence(const Presence&) = delete;
    Presence& operator=(const Presence&) = delete;

private:
    void run();
    void serve(pg::Connection& connection);
    void beat(pg::Connection& connection, const StreamProcessor& processor, const StreamProcessor::Status& status);

    Options options_;
    Processors processors_;
    const base::Clock& clock_;
    base::Timestamp started_at_;
    base::Stop stop_;
    std::thread thread_;
};

}  // namespace tidemark::consumers
