#pragma once

#include "consumers/generation.h"
#include "infra/base/clock.h"
#include "infra/base/metrics.h"
#include "infra/base/stop.h"

#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <thread>

namespace tidemark::consumers {

/// Proves one stream's live tables over and over, on a thread of its own that stands back behind all others. Of all
/// instances that ask to, one does (an advisory lock decides). It reads the log from its start, each record once,
/// counts it a second way (recount.h), and compares with what the flushes say of themselves wherever the tables are
/// just then: what became of the records, log time and digest, by partition. Every `interval` it also has the tables
/// added up (the view `audit`), which shows what was written past the flushes. Where anything differs, `verify` names
/// the rows. What it finds stands in tidemark.audits. No failure of its own ends the process.
class Auditor {
public:
    struct Options {
        std::string brokers;
        std::map<std::string, std::string> kafka_properties;
        std::string dsn;
        std::string instance;
        std::chrono::milliseconds interval{60'000};  ///< longer while adding up takes more than a fiftieth of it
        /// For the identities of a day and the open dead letters; when they take more there is no audit for a while.
        std::int64_t memory = std::int64_t{256} << 20;
    };

    /// `projection` and `metrics` must outlive it.
    Auditor(Options options, const Projection& projection, base::Metrics& metrics);
    /// May take as long as a statement of its own.
    ~Auditor();
    Auditor(const Auditor&) = delete;
    Auditor& operator=(const Auditor&) = delete;

private:
    class Work;
    void run();

    Options options_;
    const Projection& projection_;
    base::Metrics::Gauge& behind_;
    base::Metrics::Gauge& differs_;
    base::Metrics::Counter& records_;
    base::Metrics::Counter& bytes_;
    base::Stop stop_;
    std::thread thread_;
};

}  // namespace tidemark::consumers
