#include "consumers/replay.h"

#include "consumers/log_check.h"
#include "infra/base/backoff.h"
#include "infra/base/failpoint.h"
#include "infra/base/metrics.h"
#include "infra/kafka/admin.h"

#include <algorithm>
#include <chrono>
#include <exception>
#include <mutex>
#include <numeric>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

namespace tidemark::consumers {

using std::chrono::milliseconds;

namespace {

// Whoever holds it replays the stream. Fences keep two folders of one generation apart in any case; this keeps two
// people apart.
constexpr pg::Statement kTakeTurn{"replay_take_turn", "select pg_try_advisory_lock(7433216, hashtext($1))"};

constexpr pg::Statement kIsTurnTaken{"replay_is_turn_taken", R"(
select exists (select 1 from pg_locks
               where locktype = 'advisory' and classid = 7433216 and objid::bigint = (hashtext($1)::bigint & 4294967295)
                 and database = (select oid from pg_database where datname = current_database())))"};

constexpr pg::Statement kCaughtUp{"replay_caught_up", R"(
update tidemark.generations set status = 'candidate' where stream = $1 and generation = $2 and status = 'building')"};

constexpr milliseconds kFirstLook{20};
constexpr milliseconds kLongestLook{250};

// After this long without a word the server gives somebody else the turn.
constexpr std::chrono::seconds kTurnKept{30};

// To be where the live one was so long ago is to have caught up. Lanes flush at different moments, and the live one all
// the time when readers wait for it: they are never all where it was an instant ago. Longer than a slow lane takes from
// one flush to the next.
constexpr std::chrono::seconds kMoment{5};

// Over which the rate is taken.
constexpr std::chrono::seconds kRateSpan{5};

// A flush of many thousand rows must not fail for being large; nobody waits to take over from a replay.
constexpr std::chrono::seconds kFlushLimit{60};

pg::SessionOptions session() {
    pg::SessionOptions options;
    options.application_name = "tidemark-consumer replay";
    options.statement_timeout = std::chrono::minutes(5);
    options.lock_timeout = std::chrono::seconds(10);
    options.idle_in_transaction_timeout = std::chrono::minutes(5);
    return options;
}

// The turn at replaying a stream, kept by a session that has nothing else to do. The server ends that session when it
// has not been heard of for a while: the turn of a machine that is gone must not be kept for ever.
class Turn {
public:
    Turn(std::string dsn, std::string stream) : dsn_(std::move(dsn)), stream_(std::move(stream)) {
        take(milliseconds(0));
    }

    /// The session, to be used often; when it was lost, a new one that has the turn again.
    pg::Connection& connection() {
        // Of a session that was cut off the server may not know yet that it is over.
        if (!connection_ || connection_->is_broken()) take(kTurnKept + std::chrono::seconds(5));
        return *connection_;
    }

private:
    void take(milliseconds patience) {
        connection_.reset();
        connection_.emplace(dsn_, session());
        connection_->run_script("set idle_session_timeout = '" + std::to_string(kTurnKept.count()) + "s'");
        pg::Params params;
        params.add(stream_);
        const auto until = std::chrono::steady_clock::now() + patience;
        base::Backoff pause(milliseconds(100), milliseconds(1'000), 1);
        while (!connection_->run(kTakeTurn, params).boolean(0, 0)) {
            if (std::chrono::steady_clock::now() >= until) {
                connection_.reset();
                throw Refused("another replay of " + stream_ + " is running: let it finish, or stop it first");
            }
            std::this_thread::sleep_for(pause.next());
        }
    }

    std::string dsn_;
    std::string stream_;
    std::optional<pg::Connection> connection_;
};

// The building generation to go on with, or a new one.
Generation find_or_create(pg::Connection& connection, const Projection& projection, const Generation& live) {
    const std::string stream(projection.stream().name);
    for (auto& one : find_generations(connection, projection)) {
        const auto number = std::to_string(one.target.generation);
        if (one.role == Role::candidate) {
            throw Refused("generation " + number + " of " + stream +
                          " waits to be decided upon: `tidemark-consumer "
                          "promote " +
                          stream + "` or `tidemark-consumer drop " + stream + " " + number + "` first");
        }
        if (one.role != Role::building) continue;
        if (!one.is_of_this_program()) {
            throw Refused("generation " + number + " of " + stream + " was begun by a program of fingerprint " +
                          one.fingerprint + ", this one has " + projection.fingerprint() +
                          ": finish it with that one, "
                          "or `tidemark-consumer drop " +
                          stream + " " + number + "` first");
        }
        return std::move(one);
    }
    auto made = live;
    auto tx = connection.begin();
    made.target.generation = next_generation(tx, projection);
    made.schema = stream + "_" + std::to_string(made.target.generation);
    made.fingerprint = projection.fingerprint();
    made.role = Role::building;
    create_generation(tx, projection, made.target.generation, made.schema, made.target.partitions, made.role);
    // What the live one has dropped is not folded to be thrown away.
    tx.run_script("update " + pg::quote_identifier(made.schema, "offsets") +
                  " set windows_from = " + windows_from_of(live.schema));
    tx.commit();
    return made;
}

struct Look {
    std::vector<std::int64_t> own;
    std::vector<std::int64_t> live;
    std::int64_t parked = 0;
};

Look look(pg::Connection& connection, const Generation& generation) {
    const std::string stream(generation.target.projection->stream().name);
    // The live one first: it is not ahead of where it was.
    Look seen;
    seen.live = find_progress(connection, stream);
    seen.own = find_progress(connection, generation.schema);
    const auto sql =
        "select coalesce(sum(parked), 0)::bigint from " + pg::quote_identifier(generation.schema, "offsets");
    seen.parked = connection.run(pg::Statement{"replay_parked", sql.c_str()}).integer(0, 0);
    return seen;
}

std::int64_t sum(const std::vector<std::int64_t>& numbers) {
    return std::accumulate(numbers.begin(), numbers.end(), std::int64_t{0});
}

bool reaches(const std::vector<std::int64_t>& own, const std::vector<std::int64_t>& wanted) {
    return own.size() == wanted.size() && std::equal(own.begin(), own.end(), wanted.begin(), std::greater_equal<>());
}

// The first failure of any lane.
class Failures {
public:
    void add(std::exception_ptr failure) {
        const std::lock_guard lock(mutex_);
        if (!first_) first_ = std::move(failure);
    }
    void rethrow() const {
        const std::lock_guard lock(mutex_);
        if (first_) std::rethrow_exception(first_);
    }

private:
    mutable std::mutex mutex_;  // guards first_
    std::exception_ptr first_;
};

// Tells the rate of late from what was done when.
class Rate {
public:
    using Instant = std::chrono::steady_clock::time_point;

    double of(Instant now, std::int64_t records) {
        seen_.push_back({now, records});
        while (seen_.size() > 2 && now - seen_.front().at > kRateSpan)
            seen_.erase(seen_.begin());
        const std::chrono::duration<double> span = now - seen_.front().at;
        return span.count() > 0 ? static_cast<double>(records - seen_.front().records) / span.count() : 0;
    }

private:
    struct Seen {
        Instant at;
        std::int64_t records;
    };
    std::vector<Seen> seen_;
};

}  // namespace

bool is_being_replayed(pg::Connection& connection, const Projection& projection) {
    pg::Params params;
    params.add(projection.stream().name);
    return connection.run(kIsTurnTaken, params).boolean(0, 0);
}

ReplayProgress replay(const ReplayOptions& options, const Projection& projection, const base::Clock& clock) {
    const std::string stream(projection.stream().name);
    Turn turn(options.owner_dsn, stream);
    const auto live = find_live(turn.connection(), projection);
    if (!live) throw no_tables(projection);
    {
        kafka::Admin admin(options.lane.brokers, options.lane.kafka_properties);
        check_log_is_whole(admin, live->target);
        check_log_reaches(admin, live->target, find_progress(turn.connection(), stream));
    }
    const auto generation = find_or_create(turn.connection(), projection, *live);
    FAILPOINT("r1_created");

    const auto began = clock.steady();
    auto seen = look(turn.connection(), generation);
    const auto before = sum(seen.own);
    Failures failures;
    std::vector<std::unique_ptr<base::Metrics>> metrics;  // nobody reads them
    std::vector<std::unique_ptr<Lane>> lanes;
    for (std::int32_t partition = 0; partition < generation.target.partitions; ++partition) {
        auto lane = options.lane;
        lane.instance = "replay-" + options.lane.instance + "-" + std::to_string(partition);
        lane.partitions = {partition};
        lane.processor.owner = lane.instance;
        lane.processor.statement_timeout = kFlushLimit;
        metrics.push_back(std::make_unique<base::Metrics>());
        lanes.push_back(std::make_unique<Lane>(
            lane, generation.target, clock, *metrics.back(),
            [&failures](Lane&, std::exception_ptr failure) { failures.add(std::move(failure)); }));
    }

    ReplayProgress progress;
    progress.generation = generation.target.generation;
    Rate rate;
    base::Backoff pause(kFirstLook, kLongestLook, 1);
    auto wanted = seen.live;
    auto wanted_since = began;
    const auto tell = [&] {
        progress.records = sum(seen.own);
        progress.target = sum(seen.live);
        progress.parked = seen.parked;
        progress.read = progress.records - before;
        progress.elapsed = std::chrono::duration<double>(clock.steady() - began).count();
        progress.rate = rate.of(clock.steady(), progress.records);
        options.on_progress(progress);
    };
    while (!options.cancelled()) {
        failures.rethrow();
        try {
            auto& connection = turn.connection();
            if (!find_place(connection, projection, progress.generation))
                throw Refused("generation " + std::to_string(progress.generation) +
                              " was dropped meanwhile: replay again for another");
            seen = look(connection, generation);
        } catch (const pg::Error& error) {
            if (error.failure() == pg::Failure::bug) throw;
            std::this_thread::sleep_for(pause.next());  // the lanes wait for the database likewise
            continue;
        }
        // Nobody stands still for this: it has caught up when it is where the live one was a moment ago.
        progress.caught_up = reaches(seen.own, wanted);
        if (const auto now = clock.steady(); now - wanted_since >= kMoment) {
            wanted = seen.live;
            wanted_since = now;
        }
        tell();
        if (progress.caught_up) break;
        FAILPOINT("r2_folding");
        std::this_thread::sleep_for(pause.next());
    }
    for (auto& lane : lanes)
        lane->stop();
    for (auto& lane : lanes)
        lane->join();
    failures.rethrow();
    if (progress.caught_up) {
        // What was folded may be another log's: lanes that stood still while the topic was recreated have not noticed.
        kafka::Admin admin(options.lane.brokers, options.lane.kafka_properties);
        check_log_is_whole(admin, live->target);
        pg::Params params;
        params.add(stream).add(std::int64_t{progress.generation});
        if (turn.connection().run(kCaughtUp, params).affected() == 0)
            throw Refused("generation " + std::to_string(progress.generation) +
                          " was dropped meanwhile: replay again for another");
    }
    seen = look(turn.connection(), generation);
    tell();
    return progress;
}

}  // namespace tidemark::consumers
