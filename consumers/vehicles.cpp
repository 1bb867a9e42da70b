#include "consumers/vehicles.h"

#include "schemas/sql.h"
#include "schemas/vehicles.h"

#include <algorithm>
#include <charconv>
#include <map>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

namespace tidemark::consumers {

namespace {

using schemas::Timestamp;
namespace events = schemas::vehicles;

constexpr pg::Statement kAddHistory{"vehicles_add_history", R"(
insert into history (vehicle_id, kind, occurred_at, "offset", partition, make, model, state, recorded_at)
select * from unnest($1::bigint[], $2::text[], $3::timestamptz[], $4::bigint[], $5::integer[], $6::text[], $7::text[],
                     $8::text[], $9::timestamptz[]))"};

// The newest by (event time, position) stays; an older event only moves applied_at.
constexpr pg::Statement kUpsertVehicles{"vehicles_upsert", R"(
insert into vehicles as v (id, make, model, registered_at, registered_offset, state, occurred_at, state_offset, applied_at)
select * from unnest($1::bigint[], $2::text[], $3::text[], $4::timestamptz[], $5::bigint[], $6::text[], $7::timestamptz[],
                     $8::bigint[], $9::timestamptz[])
on conflict (id) do update set
    (make, model, registered_at, registered_offset) = (
        select c.make, c.model, c.registered_at, c.registered_offset
        from (values (v.make, v.model, v.registered_at, v.registered_offset),
                     (excluded.make, excluded.model, excluded.registered_at, excluded.registered_offset))
             as c (make, model, registered_at, registered_offset)
        order by c.registered_at desc nulls last, c.registered_offset desc nulls last limit 1),
    (state, occurred_at, state_offset) = (
        select c.state, c.occurred_at, c.state_offset
        from (values (v.state, v.occurred_at, v.state_offset),
                     (excluded.state, excluded.occurred_at, excluded.state_offset))
             as c (state, occurred_at, state_offset)
        order by c.occurred_at desc nulls last, c.state_offset desc nulls last limit 1),
    applied_at = greatest(v.applied_at, excluded.applied_at))"};

constexpr pg::Statement kAddTransitions{"vehicles_add_transitions", R"(
insert into transitions as t (window_start, state, partition, count, min_offset, max_offset)
select * from unnest($1::timestamptz[], $2::text[], $3::integer[], $4::bigint[], $5::bigint[], $6::bigint[])
on conflict (window_start, state, partition) do update set
    count = t.count + excluded.count,
    min_offset = least(t.min_offset, excluded.min_offset),
    max_offset = greatest(t.max_offset, excluded.max_offset))"};

// Nobody adds to what is dropped, so that a row stays where it was found.
constexpr pg::Statement kDropTransitions{"vehicles_drop_transitions", R"(
delete from transitions where ctid = any(array(
    select t.ctid from transitions t
    where t.partition = any($1::integer[]) and t.window_start < $2
    order by t.window_start limit $3)))"};

// One event kept, with whichever of its two kinds it is.
struct Entry {
    std::int64_t id = 0;
    bool registered = false;
    std::string make;
    std::string model;
    events::State state = events::State::quoted;
    Timestamp occurred_at{};
    Timestamp log_time{};
    schemas::Position position;
};

bool newer(const Entry& a, const Entry* b) {
    return b == nullptr || std::tie(a.occurred_at, a.position.offset) > std::tie(b->occurred_at, b->position.offset);
}

class VehicleFold final : public Fold {
public:
    std::optional<Parked> read(const LoggedEvent& event, std::string_view& entity) override {
        read_.occurred_at = event.occurred_at;
        read_.log_time = event.log_time;
        read_.position = event.position;
        read_.registered = event.event.type == events::kRegistered;
        if (read_.registered) {
            auto decoded = events::read_registered(event.event.data, schemas::json::Unknown::ignore, "/data");
            if (!decoded) return Parked{reason::kInvalidData, describe(decoded.violations())};
            read_.id = decoded->id;
            read_.make = decoded->make;
            read_.model = decoded->model;
        } else {
            auto decoded = events::read_state_changed(event.event.data, schemas::json::Unknown::ignore, "/data");
            if (!decoded) return Parked{reason::kInvalidData, describe(decoded.violations())};
            read_.id = decoded->id;
            read_.state = decoded->state;
        }
        const auto end = std::to_chars(entity_, entity_ + sizeof entity_, read_.id).ptr;
        entity = {entity_, static_cast<std::size_t>(end - entity_)};
        return std::nullopt;
    }

    void keep() override { entries_.push_back(read_); }

    Written write(pg::Transaction& tx, const WindowsFrom& windows_from) override {
        if (entries_.empty()) return {};
        std::sort(entries_.begin(), entries_.end(), [](const Entry& a, const Entry& b) {
            return std::tie(a.id, a.registered, a.occurred_at, a.position.offset) <
                   std::tie(b.id, b.registered, b.occurred_at, b.position.offset);
        });
        for (const auto& entry : entries_)
            digests_[entry.position.partition] += weights_of(line_of(entry)).first;
        write_history(tx);
        Written written{entries_.size() + write_vehicles(tx), 0};
        write_transitions(tx, windows_from, written);
        return written;
    }

    [[nodiscard]] Digest digest(std::int32_t partition) const override {
        const auto found = digests_.find(partition);
        return found == digests_.end() ? 0 : found->second;
    }
    [[nodiscard]] std::size_t entities() const noexcept override { return entries_.size(); }

private:
    // The history row as the view `audit` writes it.
    static std::string line_of(const Entry& entry) {
        const auto number = [](std::int64_t value) { return std::to_string(value) + ' '; };
        auto line = number(entry.id) + number(entry.occurred_at.time_since_epoch().count()) +
                    number(entry.position.offset) + number(entry.position.partition) +
                    number(entry.log_time.time_since_epoch().count());
        if (entry.registered)
            return line + number(static_cast<std::int64_t>(entry.make.size())) + entry.make + entry.model;
        return line + std::string(events::to_string(entry.state));
    }

    void write_history(pg::Transaction& tx) const {
        pg::Array ids;
        pg::Array kinds;
        pg::Array times;
        pg::Array offsets;
        pg::Array partitions;
        pg::Array makes;
        pg::Array models;
        pg::Array states;
        pg::Array recorded;
        for (const auto& entry : entries_) {
            ids.add(entry.id);
            kinds.add(entry.registered ? std::string_view("registered") : std::string_view("state_changed"));
            times.add(entry.occurred_at);
            offsets.add(entry.position.offset);
            partitions.add(std::int64_t{entry.position.partition});
            if (entry.registered) {
                makes.add(std::string_view(entry.make));
                models.add(std::string_view(entry.model));
                states.add_null();
            } else {
                makes.add_null();
                models.add_null();
                states.add(events::to_string(entry.state));
            }
            recorded.add(entry.log_time);
        }
        pg::Params params;
        params.add(std::move(ids)).add(std::move(kinds)).add(std::move(times)).add(std::move(offsets));
        params.add(std::move(partitions)).add(std::move(makes)).add(std::move(models)).add(std::move(states));
        params.add(std::move(recorded));
        tx.run(kAddHistory, params);
    }

    std::size_t write_vehicles(pg::Transaction& tx) const {
        pg::Array ids;
        pg::Array makes;
        pg::Array models;
        pg::Array registered_at;
        pg::Array registered_offset;
        pg::Array states;
        pg::Array occurred_at;
        pg::Array state_offset;
        pg::Array applied_at;
        for (auto entry = entries_.begin(); entry != entries_.end();) {
            const auto id = entry->id;
            const Entry* registration = nullptr;
            const Entry* state = nullptr;
            Timestamp applied{};
            for (; entry != entries_.end() && entry->id == id; ++entry) {
                auto& current = entry->registered ? registration : state;
                if (newer(*entry, current)) current = &*entry;
                applied = std::max(applied, entry->log_time);
            }
            ids.add(id);
            if (registration != nullptr) {
                makes.add(std::string_view(registration->make));
                models.add(std::string_view(registration->model));
                registered_at.add(registration->occurred_at);
                registered_offset.add(registration->position.offset);
            } else {
                makes.add_null();
                models.add_null();
                registered_at.add_null();
                registered_offset.add_null();
            }
            if (state != nullptr) {
                states.add(events::to_string(state->state));
                occurred_at.add(state->occurred_at);
                state_offset.add(state->position.offset);
            } else {
                states.add_null();
                occurred_at.add_null();
                state_offset.add_null();
            }
            applied_at.add(applied);
        }
        const auto rows = ids.size();
        pg::Params params;
        params.add(std::move(ids)).add(std::move(makes)).add(std::move(models)).add(std::move(registered_at));
        params.add(std::move(registered_offset)).add(std::move(states)).add(std::move(occurred_at));
        params.add(std::move(state_offset)).add(std::move(applied_at));
        tx.run(kUpsertVehicles, params);
        return rows;
    }

    void write_transitions(pg::Transaction& tx, const WindowsFrom& windows_from, Written& written) const {
        struct Count {
            std::int64_t count = 0;
            std::int64_t min_offset = 0;
            std::int64_t max_offset = 0;
        };
        std::map<std::tuple<Timestamp, std::string_view, std::int32_t>, Count> counts;
        for (const auto& entry : entries_) {
            if (entry.registered) continue;
            const auto window = schemas::window_start(entry.occurred_at);
            if (windows_from.has_dropped(entry.position.partition, window)) {
                written.late += 1;
                continue;
            }
            const auto offset = entry.position.offset;
            const auto [found, fresh] = counts.try_emplace(
                {window, events::to_string(entry.state), entry.position.partition}, Count{0, offset, offset});
            found->second.count += 1;
            found->second.min_offset = std::min(found->second.min_offset, offset);
            found->second.max_offset = std::max(found->second.max_offset, offset);
        }
        if (counts.empty()) return;
        written.rows += counts.size();
        pg::Array starts;
        pg::Array states;
        pg::Array partitions;
        pg::Array sums;
        pg::Array mins;
        pg::Array maxs;
        for (const auto& [key, count] : counts) {
            starts.add(std::get<0>(key));
            states.add(std::get<1>(key));
            partitions.add(std::int64_t{std::get<2>(key)});
            sums.add(count.count);
            mins.add(count.min_offset);
            maxs.add(count.max_offset);
        }
        pg::Params params;
        params.add(std::move(starts)).add(std::move(states)).add(std::move(partitions)).add(std::move(sums));
        params.add(std::move(mins)).add(std::move(maxs));
        tx.run(kAddTransitions, params);
    }

    std::vector<Entry> entries_;
    std::map<std::int32_t, Digest> digests_;
    Entry read_;
    char entity_[24] = {};
};

}  // namespace

const schemas::Stream& VehicleProjection::stream() const noexcept {
    return *schemas::find_stream("vehicles");
}

std::string_view VehicleProjection::sql() const {
    return schemas::sql("vehicles");
}

std::unique_ptr<Fold> VehicleProjection::begin() const {
    return std::make_unique<VehicleFold>();
}

const pg::Statement* VehicleProjection::drop_windows() const noexcept {
    return &kDropTransitions;
}

}  // namespace tidemark::consumers
