#include "consumers/presence.h"

#include "infra/base/log.h"
#include "infra/base/version.h"

#include <algorithm>
#include <map>
#include <utility>

namespace tidemark::consumers {

namespace {

constexpr pg::Statement kBeat{"consumers_beat", R"(
insert into tidemark.consumers (instance, stream, generation, fingerprint, version, partitions, state, started_at, heartbeat_at)
values ($1, $2, $3, $4, $5, $6::integer[], $7, $8, now())
on conflict (instance, stream, generation) do update set
    fingerprint = excluded.fingerprint, version = excluded.version, partitions = excluded.partitions, state = excluded.state,
    started_at = excluded.started_at, heartbeat_at = excluded.heartbeat_at)"};

constexpr pg::Statement kForget{"consumers_forget", R"(
delete from tidemark.consumers where instance = $1 or heartbeat_at < now() - interval '1 hour')"};

constexpr pg::Statement kForgetOne{"consumers_forget_one", R"(
delete from tidemark.consumers where instance = $1 and stream = $2 and generation = $3)"};

// Longest wait for a reader's wish: bounds how late a heartbeat or a stop is noticed, not the wish itself.
constexpr std::chrono::milliseconds kListen{200};
constexpr std::chrono::milliseconds kReconnect{500};

}  // namespace

Presence::Presence(Options options, Processors processors, const base::Clock& clock)
    : options_(std::move(options)),
      processors_(std::move(processors)),
      clock_(clock),
      started_at_(clock.now()),
      thread_([this] { run(); }) {}

Presence::~Presence() {
    stop_.request();
    thread_.join();
}

void Presence::run() {
    bool failing = false;
    while (!stop_.requested()) {
        try {
            pg::SessionOptions session;
            session.application_name = "tidemark-consumer presence";
            pg::Connection connection(options_.dsn, session);
            connection.listen("tidemark_wanted");
            failing = false;
            serve(connection);
        } catch (const pg::Error& error) {
            if (!failing) base::log::warn("presence_interrupted", {{"error", error.what()}});
            failing = true;
            stop_.wait_for(kReconnect);
        }
    }
}

void Presence::beat(pg::Connection& connection, const StreamProcessor& processor,
                    const StreamProcessor::Status& status) {
    pg::Array partitions;
    for (const auto partition : status.partitions)
        partitions.add(std::int64_t{partition});
    pg::Params params;
    params.add(options_.instance).add(processor.target().projection->stream().name);
    params.add(std::int64_t{processor.target().generation});
    params.add(processor.target().projection->fingerprint()).add(base::version()).add(std::move(partitions));
    params.add(status.phase).add(started_at_);
    connection.run(kBeat, params);
}

void Presence::serve(pg::Connection& connection) {
    auto next_beat = clock_.steady();
    struct Told {
        std::string stream;
        std::int64_t generation = 0;
        StreamProcessor::Status status;
    };
    std::map<const StreamProcessor*, Told> told;
    while (!stop_.requested()) {
        const bool time_to_beat = clock_.steady() >= next_beat;
        if (time_to_beat) next_beat = clock_.steady() + options_.heartbeat;
        const auto processors = processors_();
        // One that folds no longer must not be counted upon. Before the others: another may have taken it up.
        for (auto entry = told.begin(); entry != told.end();) {
            const bool still = std::any_of(processors.begin(), processors.end(),
                                           [&](const auto& processor) { return processor.get() == entry->first; });
            if (still) {
                ++entry;
                continue;
            }
            pg::Params params;
            params.add(options_.instance).add(entry->second.stream).add(entry->second.generation);
            connection.run(kForgetOne, params);
            entry = told.erase(entry);
        }
        for (const auto& processor : processors) {
            auto status = processor->status();
            auto& last = told[processor.get()];
            last.stream = processor->target().projection->stream().name;
            last.generation = processor->target().generation;
            // What has changed is told at once: `status` right after a rebalance must not name the owner of before.
            if (!time_to_beat && status.partitions == last.status.partitions && status.phase == last.status.phase)
                continue;
            beat(connection, *processor, status);
            last.status = std::move(status);
        }
        for (const auto& notification : connection.notifications(kListen)) {
            for (const auto& processor : processors) {
                if (processor->target().projection->stream().name == notification.payload) processor->wanted();
            }
        }
    }
    pg::Params params;
    params.add(options_.instance);
    connection.run(kForget, params);
}

}  // namespace tidemark::consumers
