#include "consumers/standstill.h"

#include "infra/base/backoff.h"

#include <algorithm>
#include <numeric>
#include <thread>
#include <utility>

namespace tidemark::consumers {

using std::chrono::milliseconds;
using Clock = std::chrono::steady_clock;

namespace {

// Waits for a swap that is under way.
constexpr pg::Statement kSwaps{"standstill_swaps", "select swaps from tidemark.streams where name = $1 for update"};

constexpr pg::Statement kPoke{"standstill_poke", "select pg_notify('tidemark_wanted', $1)"};

// How often the follower's writers are told that they are waited for.
constexpr milliseconds kPokeEvery{50};

// Between tries the live generation's writers have this long to themselves.
constexpr milliseconds kFirstPause{500};
constexpr milliseconds kLongestPause{4'000};

pg::SessionOptions session(const char* name) {
    pg::SessionOptions options;
    options.application_name = name;
    // Stopped while it holds the locks, it would keep the live generation's writers waiting: the server ends it.
    options.statement_timeout = std::chrono::seconds(5);
    options.idle_in_transaction_timeout = std::chrono::seconds(3);
    options.lock_timeout = milliseconds(1'000);
    return options;
}

// Stronger than what a flush takes with its first statement and weaker than what a reader's view needs. A lock on the
// table, not on its rows: whoever waits for it holds nothing yet, so no two can wait for each other.
std::string lock(std::string_view schema) {
    return "lock table " + pg::quote_identifier(schema, "offsets") + " in exclusive mode";
}

std::int64_t sum(const std::vector<std::int64_t>& offsets) {
    return std::accumulate(offsets.begin(), offsets.end(), std::int64_t{0});
}

}  // namespace

Standstill::Standstill(const Options& options, const Generation& live, const Generation& follower)
    : holder_(options.owner_dsn, session("tidemark-consumer standstill")),
      watcher_(options.owner_dsn, session("tidemark-consumer standstill watch")) {
    watcher_.listen("tidemark_progress");
    const auto until = Clock::now() + options.timeout;
    base::Backoff backoff(kFirstPause, kLongestPause, 1);
    const auto stream = live.target.projection->stream().name;
    const auto names = "generation " + std::to_string(follower.target.generation) + " of " + std::string(stream);
    while (true) {
        std::string hindrance;
        try {
            if (try_once(options, live, follower)) return;
            hindrance = std::to_string(missing_) +
                        " records were missing at the last look. Is a consumer of fingerprint " + follower.fingerprint +
                        " running (`tidemark-consumer generations " + std::string(stream) + "`)?";
        } catch (const pg::Error& error) {
            if (tables_moved(error))
                throw Refused(names +
                              " was dropped or made live meanwhile: look again with `tidemark-consumer generations`");
            if (error.failure() != pg::Failure::retryable) throw;
            hindrance = "the database did not let its writers be stopped: " + std::string(error.what());
        }
        transaction_.reset();
        if (options.cancelled()) throw Late("given up, and nothing was changed: run it again");
        if (Clock::now() >= until) {
            throw Late(names + " did not come up to generation " + std::to_string(live.target.generation) + " within " +
                       std::to_string(options.timeout.count()) + " ms; " + hindrance +
                       ". See `tidemark-consumer status`, and give it a longer --timeout");
        }
        const auto again = std::min(Clock::now() + backoff.next(), until);
        while (Clock::now() < again && !options.cancelled())
            std::this_thread::sleep_for(kPokeEvery);
    }
}

bool Standstill::try_once(const Options& options, const Generation& live, const Generation& follower) {
    pg::Params stream;
    stream.add(live.target.projection->stream().name);
    transaction_.emplace(holder_.begin());
    if (const auto rows = transaction_->run(kSwaps, stream); rows.empty() || rows.integer(0, 0) != live.swaps)
        throw Refused("another generation was made live meanwhile: look again with `tidemark-consumer generations`");
    transaction_->run_script(lock(live.schema));
    const auto until = Clock::now() + options.longest;
    vector_ = find_progress(watcher_, live.schema);
    while (true) {
        const auto reached = find_progress(watcher_, follower.schema);
        if (reached == vector_) break;
        missing_ = sum(vector_) - sum(reached);
        if (Clock::now() >= until) return false;
        watcher_.run(kPoke, stream);
        static_cast<void>(watcher_.notifications(kPokeEvery));  // a flush tells of itself
    }
    // From here on whoever writes the follower has no record to write, for the live one does not move.
    transaction_->run_script(lock(follower.schema));
    return find_progress(watcher_, follower.schema) == vector_;
}

}  // namespace tidemark::consumers
