#include "consumers/lanes.h"

#include "consumers/projections.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <thread>
#include <vector>

using namespace tidemark::consumers;
using tidemark::base::Metrics;
using tidemark::base::SystemClock;

namespace {

/// Of a stream whose broker and database are not there: its lane tries again and again.
Generation generation(int number) {
    Generation one;
    one.target.projection = find_projection("counters");
    one.target.generation = number;
    one.target.topic = "nowhere";
    one.target.partitions = 1;
    one.fingerprint = one.target.projection->fingerprint();
    one.role = Role::candidate;
    return one;
}

Lane::Options options() {
    Lane::Options options;
    options.brokers = "127.0.0.1:1";
    options.instance = "test";
    options.partitions = {0};
    options.processor.dsn = "host=127.0.0.1 port=1";
    return options;
}

}  // namespace

TEST_CASE("lanes can be watched from elsewhere while they come and go") {
    const SystemClock clock;
    Metrics metrics;
    Lanes lanes(options(), clock, metrics);
    std::atomic<bool> enough = false;
    std::size_t most = 0;
    std::thread watcher([&] {
        while (!enough) {
            const auto processors = lanes.processors();
            most = std::max(most, processors.size());
            for (const auto& processor : processors)
                static_cast<void>(processor->status());
        }
    });
    for (int n = 0; n < 10; ++n) {
        lanes.follow({generation(1), generation(2)});
        CHECK(lanes.processors().size() == 2);
        lanes.follow({generation(2)});
        CHECK(lanes.processors().size() == 1);
    }
    enough = true;
    watcher.join();
    CHECK(most == 2);
    lanes.stop();
    CHECK(lanes.processors().empty());
}
