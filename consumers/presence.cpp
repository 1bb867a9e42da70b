#include "consumers/presence.h"

#include "infra/base/log.h"
#include "infra/base/version.h"

#include <utility>

namespace tidemark::consumers {

namespace {

constexpr pg::Statement kBeat{"consumers_beat", R"(
insert into tidemark.consumers (instance, stream, fingerprint, version, partitions, state, started_at, heartbeat_at)
values ($1, $2, $3, $4, $5::integer[], $6, $7, now())
on conflict (instance, stream) do update set
    fingerprint = excluded.fingerprint, version = excluded.version, partitions = excluded.partitions, state = excluded.state,
    started_at = excluded.started_at, heartbeat_at = excluded.heartbeat_at)"};

constexpr pg::Statement kForget{"consumers_forget", R"(
delete from tidemark.consumers where instance = $1 or heartbeat_at < now() - interval '1 hour')"};

// Longest wait for a reader's wish: bounds how late a heartbeat or a stop is noticed, not the wish itself.
constexpr std::chrono::milliseconds kListen{200};
constexpr std::chrono::milliseconds kReconnect{500};

}  // namespace

Presence::Presence(Options options, std::vector<StreamProcessor*> processors, const base::Clock& clock)
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

void Presence::serve(pg::Connection& connection) {
    auto next_beat = clock_.steady();
    while (!stop_.requested()) {
        if (clock_.steady() >= next_beat) {
            next_beat = clock_.steady() + options_.heartbeat;
            for (const auto* processor : processors_) {
                const auto status = processor->status();
                pg::Array partitions;
                for (const auto partition : status.partitions)
                    partitions.add(std::int64_t{partition});
                pg::Params params;
                params.add(options_.instance).add(processor->target().projection->stream().name);
                params.add(processor->target().projection->fingerprint())
                    .add(base::version())
                    .add(std::move(partitions));
                params.add(status.phase).add(started_at_);
                connection.run(kBeat, params);
            }
        }
        for (const auto& notification : connection.notifications(kListen)) {
            for (auto* processor : processors_) {
                if (processor->target().projection->stream().name == notification.payload) processor->wanted();
            }
        }
    }
    pg::Params params;
    params.add(options_.instance);
    connection.run(kForget, params);
}

}  // namespace tidemark::consumers
