#include "api/progress_watch.h"

#include "infra/base/backoff.h"
#include "infra/base/log.h"
#include "infra/kafka/admin.h"
#include "infra/kafka/error.h"
#include "infra/postgres/connection.h"
#include "infra/postgres/error.h"
#include "infra/postgres/query_pool.h"
#include "schemas/event.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <condition_variable>
#include <cstring>
#include <mutex>
#include <set>
#include <thread>
#include <utility>

namespace tidemark::api {
namespace {

namespace log = base::log;
using Instant = WaitingRoom::Instant;

constexpr const char* kProgressChannel = "tidemark_progress";

constexpr pg::Statement kStreams{"watch_streams", "select name, partitions, log_hash from tidemark.api_streams"};
constexpr pg::Statement kPoke{"watch_poke", "select pg_notify('tidemark_wanted', $1)"};

/// First and longest pause between tries to reach a server.
constexpr std::chrono::milliseconds kFirstPause{100};
constexpr std::chrono::milliseconds kLongestPause{2'000};

/// Longest that the listener sits in its session, deaf to a stop.
constexpr std::chrono::milliseconds kStopCheck{250};

constexpr std::int64_t kUnknown = INT64_MIN;
constexpr std::int32_t kNoGeneration = 0;  // they are counted from 1

/// The log's identity as its own first record tells it; nullopt when there is no such topic or record yet.
struct LogIdentity {
    std::int32_t partitions = 0;
    std::string hash;
};
std::optional<LogIdentity> identity_in_log(kafka::Admin& admin, const schemas::Stream& stream) {
    const std::string topic(stream.topic);
    const auto partitions = admin.partition_count(topic);
    if (!partitions) return std::nullopt;
    const auto first = admin.read_at(topic, 0, 0);
    if (!first || !first->value) return std::nullopt;
    schemas::json::Reader reader;
    const auto event = schemas::read_event(reader, *first->value);
    if (!event || event->type != schemas::kLogCreated || !event->data.is(schemas::json::Kind::object))
        return std::nullopt;
    const auto uuid = event->data.find("uuid");
    if (!uuid || !uuid.is(schemas::json::Kind::string)) return std::nullopt;
    return LogIdentity{*partitions, schemas::log_hash(uuid.text())};
}

pg::QueryPoolOptions poke_options(const std::string& dsn) {
    pg::QueryPoolOptions options;
    options.dsn = dsn;
    options.session.application_name = "tidemark-api poke";
    options.connections = 1;
    options.max_queued = schemas::catalogue().size();  // one that is not sent yet says what another would
    return options;
}

}  // namespace

struct ProgressWatch::State {
    /// One stream's facts that are read without a lock; the rest is in `room` and `latest`.
    struct Facts {
        StreamLog log;
        std::atomic<std::int64_t> as_of{kUnknown};  // microseconds
        std::atomic<std::int32_t> generation{kNoGeneration};
        std::string progress_name;  // of the prepared statement
        std::string progress_sql;
    };

    State(ProgressWatchOptions given, const base::Clock& c)
        : options(std::move(given)),
          clock(c),
          pokes(poke_options(options.dsn)),
          facts(std::make_unique<Facts[]>(schemas::catalogue().size())),
          room(schemas::catalogue().size(), options.max_waiting),
          latest(schemas::catalogue().size()) {
        for (std::size_t i = 0; i < schemas::catalogue().size(); ++i) {
            const auto name = schemas::catalogue()[i].name;
            facts[i].log.stream_ = name;
            facts[i].progress_name = "watch_progress_" + std::string(name);
            facts[i].progress_sql =
                "select generation, applied, as_of from " + pg::quote_identifier(name, "api_progress");
        }
    }

    void listen();
    void read_progress(pg::Connection& connection, std::size_t stream);
    void read_streams(pg::Connection& connection);
    void ask();
    void answer(kafka::Admin& admin, const WaitingRoom::Question& question, schemas::Timestamp asked_at);
    void keep_time();

    void set_listening(bool value) {
        const std::lock_guard lock(mutex);
        listening = value;
    }
    void learn(std::size_t stream, std::int32_t partitions, std::string_view hash);
    [[nodiscard]] bool knows_every_log() const noexcept;
    /// Sleeps unless the watch ends meanwhile; true when it ends.
    bool pause(std::chrono::milliseconds length);
    static void make(WaitingRoom::Calls& calls) {
        for (auto& call : calls)
            call.done(call.outcome);
    }

    const ProgressWatchOptions options;
    const base::Clock& clock;
    /// A session of its own: a NOTIFY waits for whoever is committing one, and no read should wait behind it.
    pg::QueryPool pokes;
    const std::unique_ptr<Facts[]> facts;

    mutable std::mutex mutex;  // guards everything below
    WaitingRoom room;
    std::vector<std::optional<Progress>> latest;
    bool listening = false;
    bool migrated = false;  // the registry names every stream
    bool released = false;
    bool stopping = false;
    std::string other_log;            // topic whose identity differs from the tables'; empty: none
    std::condition_variable changed;  // for all three threads

    std::thread listener;
    std::thread asker;
    std::thread timekeeper;
};

void ProgressWatch::State::learn(std::size_t stream, std::int32_t partitions, std::string_view hash) {
    auto& known = facts[stream].log;
    const std::lock_guard lock(mutex);
    if (known.hash().empty()) {
        if (hash.size() != known.hash_.size()) return;
        std::memcpy(known.hash_.data(), hash.data(), hash.size());
        known.partitions_ = partitions;
        known.known_.store(true, std::memory_order_release);
        changed.notify_all();
        return;
    }
    if (hash == known.hash() && partitions == known.partitions()) return;
    const auto topic = schemas::catalogue()[stream].topic;
    if (other_log == topic) return;
    other_log = topic;
    log::error("log_identity_differs",
               {{"topic", topic},
                {"try", "the topic was made anew or got more partitions; restart when topic and tables agree"}});
}

bool ProgressWatch::State::knows_every_log() const noexcept {
    for (std::size_t i = 0; i < schemas::catalogue().size(); ++i) {
        if (facts[i].log.hash().empty()) return false;
    }
    return true;
}

bool ProgressWatch::State::pause(std::chrono::milliseconds length) {
    std::unique_lock lock(mutex);
    return changed.wait_for(lock, length, [this] { return stopping; });
}

void ProgressWatch::State::read_streams(pg::Connection& connection) {
    const auto rows = connection.run(kStreams);
    std::size_t found = 0;
    for (std::size_t row = 0; row < rows.size(); ++row) {
        const auto* stream = schemas::find_stream(rows.text(row, 0));
        if (stream == nullptr) continue;
        ++found;
        learn(index_of(*stream), static_cast<std::int32_t>(rows.integer(row, 1)), rows.text(row, 2));
    }
    const std::lock_guard lock(mutex);
    migrated = found == schemas::catalogue().size();
}

void ProgressWatch::State::read_progress(pg::Connection& connection, std::size_t stream) {
    const auto rows = connection.run({facts[stream].progress_name.c_str(), facts[stream].progress_sql.c_str()});
    if (rows.empty() || !rows.cell(0, 0)) return;  // no partitions yet: the tables are being made
    const auto progress = Progress::read(rows.integer(0, 0), rows.text(0, 1), rows.text(0, 2));
    facts[stream].generation.store(progress.generation, std::memory_order_relaxed);
    const auto oldest = progress.oldest_as_of();
    facts[stream].as_of.store(oldest ? oldest->time_since_epoch().count() : kUnknown, std::memory_order_relaxed);
    WaitingRoom::Calls calls;
    {
        const std::lock_guard lock(mutex);
        latest[stream] = progress;
        room.advance(stream, progress, clock.steady(), calls);
        changed.notify_all();
    }
    make(calls);
}

/// The listener's loop: connect, listen, look at everything once, then at what notifications name, and at everything
/// again after each poll interval.
void ProgressWatch::State::listen() {
    base::Backoff backoff(kFirstPause, kLongestPause,
                          static_cast<std::uint64_t>(clock.now().time_since_epoch().count()));
    bool reported = false;
    const auto is_stopping = [this] {
        const std::lock_guard lock(mutex);
        return stopping;
    };
    while (!is_stopping()) {
        try {
            pg::SessionOptions session;
            session.application_name = "tidemark-api watch";
            pg::Connection connection(options.dsn, session);
            connection.listen(kProgressChannel);
            auto look_due = clock.steady();
            while (!is_stopping()) {
                const auto rest = std::chrono::ceil<std::chrono::milliseconds>(look_due - clock.steady());
                std::set<std::size_t> streams;
                for (const auto& notification :
                     connection.notifications(std::clamp(rest, std::chrono::milliseconds(0), kStopCheck))) {
                    const auto* stream = schemas::find_stream(notification.payload);
                    if (stream != nullptr) streams.insert(index_of(*stream));
                }
                if (clock.steady() >= look_due) {
                    read_streams(connection);
                    for (std::size_t i = 0; i < schemas::catalogue().size(); ++i)
                        streams.insert(i);
                    look_due = clock.steady() + options.poll_interval;
                }
                for (const auto stream : streams)
                    read_progress(connection, stream);
                set_listening(true);
                if (std::exchange(reported, false)) log::info("database_back");
                backoff.reset();
            }
        } catch (const std::exception& error) {
            set_listening(false);
            if (!std::exchange(reported, true)) log::warn("database_lost", {{"error", error.what()}});
            if (pause(backoff.next())) return;
        }
    }
}

/// The asker's loop: learn the logs' identities from the logs themselves, and the logs' ends whenever a waiting read
/// needs them.
void ProgressWatch::State::ask() {
    kafka::Admin admin(options.brokers, options.kafka_properties, options.broker_timeout);
    base::Backoff backoff(kFirstPause, kLongestPause,
                          static_cast<std::uint64_t>(clock.now().time_since_epoch().count()) + 1);
    std::set<std::size_t> unread;  // streams whose identity has not been read from their log yet
    for (std::size_t i = 0; i < schemas::catalogue().size(); ++i)
        unread.insert(i);
    bool reported = false;
    while (true) {
        std::optional<WaitingRoom::Question> question;
        schemas::Timestamp asked_at;
        {
            std::unique_lock lock(mutex);
            const auto has_work = [&] { return stopping || (question = room.take_question()); };
            if (!has_work() && unread.empty()) changed.wait(lock, has_work);
            if (stopping) return;
            asked_at = clock.now() - options.clock_skew;
        }
        try {
            if (question) answer(admin, *question, asked_at);
            for (auto stream = unread.begin(); stream != unread.end();) {
                const auto identity = identity_in_log(admin, schemas::catalogue()[*stream]);
                if (identity) learn(*stream, identity->partitions, identity->hash);
                stream = identity ? unread.erase(stream) : std::next(stream);
            }
            if (std::exchange(reported, false)) log::info("broker_back");
            if (unread.empty()) {
                backoff.reset();
            } else if (pause(backoff.next())) {  // the topics are being made, or will be
                return;
            }
        } catch (const kafka::Error& error) {
            if (!std::exchange(reported, true)) {
                log::warn("broker_does_not_answer", {{"error", error.what()}, {"code", error.code()}});
            }
            if (question) {
                const std::lock_guard lock(mutex);
                room.no_answer(*question);
            }
            if (pause(backoff.next())) return;
        }
    }
}

void ProgressWatch::State::answer(kafka::Admin& admin, const WaitingRoom::Question& question,
                                  schemas::Timestamp asked_at) {
    const auto ends = admin.end_offsets(std::string(schemas::catalogue()[question.stream].topic),
                                        facts[question.stream].log.partitions());
    WaitingRoom::Calls calls;
    {
        const std::lock_guard lock(mutex);
        room.answer(question, asked_at, ends, calls);
    }
    make(calls);
}

void ProgressWatch::State::keep_time() {
    std::unique_lock lock(mutex);
    while (!stopping) {
        const auto due = room.next_due();
        const auto now = clock.steady();
        if (due > now) {
            if (due == Instant::max()) {
                changed.wait(lock);
            } else {
                changed.wait_until(lock, due);
            }
            continue;
        }
        WaitingRoom::Calls calls;
        room.expire(now, calls);
        const auto wanted = room.due_pokes(now);
        lock.unlock();
        make(calls);
        for (const auto stream : wanted) {
            pg::Params params;
            params.add(schemas::catalogue()[stream].name);
            // One that fails or finds no place is made up for by the next: whoever waits keeps the room poking.
            static_cast<void>(pokes.submit(kPoke, std::move(params), [](const pg::QueryResult&) {}));
        }
        lock.lock();
    }
}

ProgressWatch::ProgressWatch(ProgressWatchOptions options, const base::Clock& clock)
    : state_(std::make_unique<State>(std::move(options), clock)) {
    state_->listener = std::thread([state = state_.get()] { state->listen(); });
    state_->asker = std::thread([state = state_.get()] { state->ask(); });
    state_->timekeeper = std::thread([state = state_.get()] { state->keep_time(); });
}

ProgressWatch::~ProgressWatch() {
    release();
    {
        const std::lock_guard lock(state_->mutex);
        state_->stopping = true;
        state_->changed.notify_all();
    }
    state_->timekeeper.join();
    state_->listener.join();
    state_->asker.join();
}

std::size_t ProgressWatch::index_of(const schemas::Stream& stream) noexcept {
    return static_cast<std::size_t>(&stream - schemas::catalogue().data());
}

const StreamLog& ProgressWatch::log(std::size_t stream) const noexcept {
    return state_->facts[stream].log;
}

std::optional<schemas::Timestamp> ProgressWatch::as_of(std::size_t stream) const noexcept {
    const auto microseconds = state_->facts[stream].as_of.load(std::memory_order_relaxed);
    if (microseconds == kUnknown) return std::nullopt;
    return schemas::Timestamp(std::chrono::microseconds(microseconds));
}

std::optional<std::int32_t> ProgressWatch::generation(std::size_t stream) const noexcept {
    const auto generation = state_->facts[stream].generation.load(std::memory_order_relaxed);
    return generation == kNoGeneration ? std::nullopt : std::optional(generation);
}

std::optional<Progress> ProgressWatch::progress(std::size_t stream) const {
    const std::lock_guard lock(state_->mutex);
    return state_->latest[stream];
}

bool ProgressWatch::is_of_log(std::size_t stream, const schemas::TokenPart& part) const noexcept {
    const auto& known = log(stream);
    return part.log_hash == known.hash() && part.position.partition < known.partitions();
}

void ProgressWatch::wait(std::size_t stream, Wish wish, std::chrono::milliseconds at_most, Done done) {
    WaitingRoom::Calls calls;
    {
        const std::lock_guard lock(state_->mutex);
        const auto now = state_->clock.steady();
        state_->room.admit(stream, std::move(wish), now + at_most, std::move(done), now, calls);
        if (state_->released) state_->room.release(calls);
        if (calls.empty()) state_->changed.notify_all();
    }
    State::make(calls);
}

void ProgressWatch::release() {
    WaitingRoom::Calls calls;
    {
        const std::lock_guard lock(state_->mutex);
        state_->released = true;
        state_->room.release(calls);
    }
    State::make(calls);
}

std::optional<std::string> ProgressWatch::trouble() const {
    const std::lock_guard lock(state_->mutex);
    if (!state_->listening)
        return "postgres: not connected, or the tables are not there; run tidemark-consumer migrate";
    if (!state_->migrated) return "postgres: not every stream has its tables; run tidemark-consumer migrate";
    if (!state_->other_log.empty())
        return "kafka: the topic " + state_->other_log + " is not the log that the tables were made from";
    if (!state_->knows_every_log()) return "kafka: the identity of the logs is not known yet";
    return std::nullopt;
}

std::size_t ProgressWatch::waiting() const {
    const std::lock_guard lock(state_->mutex);
    return state_->room.waiting();
}

}  // namespace tidemark::api
