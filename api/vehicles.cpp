#include "api/vehicles.h"

#include "api/items.h"
#include "infra/kafka/partitioner.h"
#include "schemas/json.h"
#include "schemas/members.h"
#include "schemas/vehicles.h"

#include <algorithm>
#include <array>
#include <limits>
#include <stdexcept>
#include <string>
#include <utility>

namespace tidemark::api {
namespace {

namespace json = schemas::json;
namespace vehicles = schemas::vehicles;
using schemas::Timestamp;
using schemas::Violations;

const schemas::Stream& stream() {
    return *schemas::find_stream("vehicles");
}

// In each statement the last row is the progress: see Reads.

constexpr pg::Statement kVehicle{"vehicle", R"(
    select 1, generation, make, model, state, occurred_us::text, applied_us::text
    from vehicles.api_vehicles where id = $1
    union all
    select 0, generation, applied, as_of, null, null, null from vehicles.api_progress
    order by 1 desc)"};

// As of $2, from what stood below offset $3. Part 3 is the state, 2 the newest registration by then, 1 the first one
// after.
constexpr pg::Statement kVehicleAt{"vehicle_at", R"(
    (select 3, generation, state, (extract(epoch from recorded_at) * 1000000)::bigint::text,
            (extract(epoch from occurred_at) * 1000000)::bigint::text
     from vehicles.api_vehicle_history
     where vehicle_id = $1 and kind = 'state_changed' and occurred_at <= $2 and "offset" < $3
     order by occurred_at desc, "offset" desc limit 1)
    union all
    (select 2, generation, make, (extract(epoch from recorded_at) * 1000000)::bigint::text, model
     from vehicles.api_vehicle_history
     where vehicle_id = $1 and kind = 'registered' and occurred_at <= $2 and "offset" < $3
     order by occurred_at desc, "offset" desc limit 1)
    union all
    (select 1, generation, make, (extract(epoch from recorded_at) * 1000000)::bigint::text, model
     from vehicles.api_vehicle_history
     where vehicle_id = $1 and kind = 'registered' and occurred_at > $2 and "offset" < $3
     order by occurred_at, "offset" limit 1)
    union all
    select 0, generation, applied, as_of, null from vehicles.api_progress
    order by 1 desc)"};

// Two statements, as one with an optional filter would have one plan, which the index by state does not serve.
constexpr pg::Statement kVehicles{"vehicles", R"(
    (select 1 as part, generation, id::text, make, model, state, occurred_us::text, applied_us::text, id as sort_id
     from vehicles.api_vehicles where id > $1 order by vehicles.api_vehicles.id limit $2)
    union all
    select 0, generation, applied, as_of, null, null, null, null, null from vehicles.api_progress
    order by part desc, sort_id)"};

constexpr pg::Statement kVehiclesByState{"vehicles_by_state", R"(
    (select 1 as part, generation, id::text, make, model, state, occurred_us::text, applied_us::text, id as sort_id
     from vehicles.api_vehicles where state = $3 and id > $1 order by vehicles.api_vehicles.id limit $2)
    union all
    select 0, generation, applied, as_of, null, null, null, null, null from vehicles.api_progress
    order by part desc, sort_id)"};

// As of $3, with state $4 or any. Looks at $5 vehicles at most, as few of them may have that state: the last row says
// how many they were and which was the last.
constexpr pg::Statement kVehiclesAt{"vehicles_at", R"(
    with scanned as materialized (
        select id, generation from vehicles.api_vehicles where id > $1 order by vehicles.api_vehicles.id limit $5),
    found as (
        select scanned.generation, scanned.id, registered.make, registered.model, changed.state, changed.occurred_at,
               greatest(registered.recorded_at, changed.recorded_at) as applied_at
        from scanned
        cross join lateral (
            select state, occurred_at, recorded_at from vehicles.api_vehicle_history
            where vehicle_id = scanned.id and kind = 'state_changed' and occurred_at <= $3
            order by vehicles.api_vehicle_history.occurred_at desc, "offset" desc limit 1) as changed
        cross join lateral (
            select make, model, recorded_at
            from ((select 1 as rank, make, model, recorded_at from vehicles.api_vehicle_history
                   where vehicle_id = scanned.id and kind = 'registered' and occurred_at <= $3
                   order by occurred_at desc, "offset" desc limit 1)
                  union all
                  (select 2, make, model, recorded_at from vehicles.api_vehicle_history
                   where vehicle_id = scanned.id and kind = 'registered' and occurred_at > $3
                   order by occurred_at, "offset" limit 1)) as registrations
            order by rank limit 1) as registered
        where $4::text is null or changed.state = $4
        order by scanned.id limit $2)
    select 1 as part, generation, id::text, make, model, state, (extract(epoch from occurred_at) * 1000000)::bigint::text,
           (extract(epoch from applied_at) * 1000000)::bigint::text, id as sort_id
    from found
    union all
    select 0, generation, applied, as_of, (select count(*)::text from scanned), (select max(id)::text from scanned), null, null, null
    from vehicles.api_progress
    order by part desc, sort_id)"};

// Part 1 says that there is such a vehicle. ($4, $5) is the last row of the page before.
constexpr pg::Statement kHistory{"vehicle_states", R"(
    (select 2 as part, generation, state, (extract(epoch from occurred_at) * 1000000)::bigint::text as occurred_us,
            (extract(epoch from recorded_at) * 1000000)::bigint::text, partition::text, "offset"::text,
            occurred_at as sort_instant, "offset" as sort_offset
     from vehicles.api_vehicle_history
     where vehicle_id = $1 and kind = 'state_changed' and ($2::timestamptz is null or occurred_at >= $2)
       and ($3::timestamptz is null or occurred_at < $3)
       and ($4::timestamptz is null or (occurred_at, "offset") < ($4, $5::bigint))
     order by vehicles.api_vehicle_history.occurred_at desc, vehicles.api_vehicle_history."offset" desc limit $6)
    union all
    select 1, generation, make, null, null, null, null, null, null from vehicles.api_vehicles where id = $1
    union all
    select 0, generation, applied, as_of, null, null, null, null, null from vehicles.api_progress
    order by part desc, sort_instant desc, sort_offset desc)"};

// Nothing is dropped of tables whose progress does not know windows_from: an earlier version made them.
// ($4, $5) is the last row of the page before. Reads $7 rows of windows at most, whatever their state: if there are as
// many, the last row says which bin the last one is in.
constexpr pg::Statement kWindows{"vehicle_windows", R"(
    with binned as materialized (
        select generation, bin_start, state, sum(count) as count, count(*) as windows
        from (select generation, date_bin(make_interval(secs => $6), window_start, timestamptz 'epoch') as bin_start,
                     state collate "C" as state, count
              from vehicles.api_vehicle_windows
              where window_start >= $1 and window_start < $2
              order by vehicles.api_vehicle_windows.window_start limit $7) as scanned
        group by generation, bin_start, state)
    (select 1 as part, generation, (extract(epoch from bin_start) * 1000000)::bigint::text as start_us, state,
            count::text, bin_start, state as sort_state, null::text
     from binned
     where ($3::text is null or state = $3) and ($4::timestamptz is null or (bin_start, state) > ($4, $5::text collate "C"))
     order by binned.bin_start, binned.state limit $8)
    union all
    select 0, generation, applied, as_of,
           (select (extract(epoch from max(bin_start)) * 1000000)::bigint::text from binned having sum(windows) = $7),
           null, null::text collate "C", p.windows_from_us::text
    -- Tables of an older version do not have the column, and the outer one's is meant.
    from (select null::bigint as windows_from_us) absent
    cross join lateral (select generation, applied, as_of, windows_from_us from vehicles.api_progress) p
    order by part desc, bin_start, sort_state)"};

/// As many vehicles as one page of a list at an instant looks at: some 10 us each, so well below the statement's
/// time-out.
constexpr std::int64_t kMaxScanned = 10'000;

/// An answer may not be older than a minute; tables that lag more than this leave the cache no room.
constexpr std::chrono::seconds kMaxLag{10};

constexpr std::array kStates{vehicles::State::quoted, vehicles::State::selling, vehicles::State::sold};
constexpr std::size_t kMaxBodyBytes = 64 * 1024;
constexpr std::int64_t kAnyOffset = std::numeric_limits<std::int64_t>::max();

/// Clients of the service that this one replaces read exactly these words.
constexpr std::string_view kNoSuchVehicle = "No vehicle with this id";
constexpr std::string_view kNotYet = "Vehicle didn't exist at this timestamp";

/// The id in the path; 0 with a violation.
std::int64_t read_id(const http::Request& request, Violations& violations) {
    const auto id = vehicles::parse_id(request.params[0]);
    if (!id) violations.push_back({"/id", "must be digits without sign or leading zero, from 1 to 9007199254740991"});
    return id.value_or(0);
}

std::optional<std::string> read_state_filter(const Query& query, Violations& violations) {
    const auto text = query.get("state");
    if (!text) return std::nullopt;
    if (!vehicles::parse_state(*text)) violations.push_back({"?state", "must be one of quoted, selling, sold"});
    return std::string(*text);
}

std::optional<std::int64_t> read_offset(std::string_view text) noexcept {
    return json::to_integer(text, 0, kAnyOffset);
}

/// A cursor's sort key "<microseconds>.<rest>".
struct InstantKey {
    Timestamp instant;
    std::string rest;
};
std::optional<InstantKey> read_pair_key(const Page& page, Violations& violations) {
    if (!page.after) return std::nullopt;
    const auto dot = std::min(page.after->find('.'), page.after->size());
    Page instant;
    instant.after = page.after->substr(0, dot);
    const auto read = read_instant_key(instant, violations);
    return InstantKey{read.value_or(Timestamp()), page.after->substr(std::min(dot + 1, page.after->size()))};
}

// Writing

void put_vehicle(LogWriter& writer, const http::Request& request, http::Reply reply) {
    Violations violations;
    vehicles::Registered event;
    event.id = read_id(request, violations);
    const auto body = read_body(request);
    if (body) {
        schemas::Members members(*body, "");
        event.make = members.text("make", vehicles::kMaxNameBytes);
        event.model = members.text("model", vehicles::kMaxNameBytes);
        for (auto& found : members.violations(json::Unknown::refuse))
            violations.push_back(std::move(found));
    } else {
        violations.insert(violations.end(), body.violations().begin(), body.violations().end());
    }
    thread_local std::string data;
    data.clear();
    if (violations.empty()) vehicles::append(data, event);
    writer.write(request, std::move(reply),
                 {.stream = ProgressWatch::index_of(stream()),
                  .type = vehicles::kRegistered,
                  .key = request.params[0],
                  .data = data},
                 std::move(violations));
}

void post_state(LogWriter& writer, const http::Request& request, http::Reply reply) {
    constexpr std::size_t kMaxInstantBytes = 64;  // an instant has 35 at most; what is longer is none, and is not read
    Violations violations;
    vehicles::StateChanged event;
    event.id = read_id(request, violations);
    std::optional<Timestamp> occurred_at;
    const auto body = read_body(request);
    if (body) {
        std::array<std::string_view, kStates.size()> names;
        std::transform(kStates.begin(), kStates.end(), names.begin(), vehicles::to_string);
        schemas::Members members(*body, "");
        event.state = kStates[members.one_of("state", names)];
        const bool has_instant = body->is(json::Kind::object) && body->find("occurredAt");
        const auto instant = has_instant ? members.text("occurredAt", kMaxInstantBytes) : std::string_view();
        if (!instant.empty()) {
            occurred_at = schemas::parse_instant(instant);
            if (!occurred_at)
                violations.push_back(
                    {"/occurredAt", "must be an instant with an offset, like 2026-11-20T10:00:03.217Z"});
        }
        for (auto& found : members.violations(json::Unknown::refuse))
            violations.push_back(std::move(found));
    } else {
        violations.insert(violations.end(), body.violations().begin(), body.violations().end());
    }
    thread_local std::string data;
    data.clear();
    vehicles::append(data, event);
    writer.write(request, std::move(reply),
                 {.stream = ProgressWatch::index_of(stream()),
                  .type = vehicles::kStateChanged,
                  .key = request.params[0],
                  .data = data,
                  .occurred_at = occurred_at},
                 std::move(violations));
}

// Reading

/// What kVehicleAt's rows come to.
struct AsOf {
    bool registered = false;
    bool has_state = false;
    std::string_view make, model, state;
    Timestamp occurred_at{};
    Timestamp applied_at{};
};
AsOf read_as_of(const Reads::Look& look) {
    AsOf as_of;
    const auto& rows = look.rows;
    for (std::size_t row = 0; row < look.items; ++row) {
        const bool is_state = rows.integer(row, 0) == 3;
        if (!is_state && as_of.registered) continue;  // the first one after comes behind the newest by then
        as_of.applied_at = std::max(as_of.applied_at, rows.instant(row, 3));
        if (is_state) {
            as_of.has_state = true;
            as_of.state = rows.text(row, 2);
            as_of.occurred_at = rows.instant(row, 4);
        } else {
            as_of.registered = true;
            as_of.make = rows.text(row, 2);
            as_of.model = rows.text(row, 4);
        }
    }
    return as_of;
}

pg::Params as_of_params(std::int64_t id, Timestamp at, std::int64_t below_offset) {
    pg::Params params;
    params.add(id).add(at).add(below_offset);
    return params;
}

Found render_vehicle(std::string_view id, const AsOf& as_of) {
    Item item;
    item.number("id", id).text("make", as_of.make).text("model", as_of.model);
    if (as_of.has_state) {
        item.text("state", as_of.state).instant("occurredAt", as_of.occurred_at);
    } else {
        item.null("state").null("occurredAt");
    }
    item.instant("appliedAt", as_of.applied_at);
    return {.body = item.finish()};
}

void get_vehicle(Reads& reads, const http::Request& request, http::Reply reply) {
    Violations violations;
    const std::array<std::string_view, 3> known{Reads::kAtLeast, "at", "known_at"};
    const Query query(request.query, known, violations);
    const auto id = read_id(request, violations);
    const auto at = query.instant("at", violations);
    std::vector<schemas::TokenPart> known_at;
    if (const auto token = query.get("known_at")) {
        if (const auto parts = schemas::parse_token(*token)) {
            known_at = parts_of_stream(*parts, stream().name, "?known_at", violations);
        } else {
            violations.push_back({"?known_at", "is not a position token"});
        }
    }
    auto read = reads.begin(request, std::move(reply), query, stream(), kEntityMedia, std::move(violations));
    if (!read) return;
    read->entity = request.params[0];

    auto below_offset = kAnyOffset;
    if (!known_at.empty()) {
        // What the log held is known only once all of it is in the tables, so the read waits for it.
        const auto partitions = reads.watch().log(read->stream).partitions();
        if (partitions > 0) {
            const auto own = kafka::murmur2_partition(read->entity, partitions);
            std::erase_if(known_at, [own](const auto& part) { return part.position.partition != own; });
        }
        if (known_at.empty()) {
            send_problem(
                read->reply,
                {.type = &problems::kInvalidRequest,
                 .violations = {{"?known_at", "names no position of the partition that has this vehicle's events"}}},
                read->trace);
            return;
        }
        if (!reads.demand(*read, known_at, "?known_at")) return;
        below_offset = std::min(known_at.front().position.offset, kAnyOffset - 1) + 1;
    }

    if (!at && below_offset == kAnyOffset) {
        const auto params = [id] {
            pg::Params given;
            given.add(id);
            return given;
        };
        const auto render = [](const Reads::Look& look, const Read& asked) -> Found {
            if (look.items == 0) return {.missing = kNoSuchVehicle};
            const auto& rows = look.rows;
            AsOf now;
            now.make = rows.text(0, 2);
            now.model = rows.text(0, 3);
            now.applied_at = rows.instant(0, 6);
            now.has_state = rows.cell(0, 4).has_value();
            if (now.has_state) {
                now.state = rows.text(0, 4);
                now.occurred_at = rows.instant(0, 5);
            }
            return render_vehicle(asked.entity, now);
        };
        reads.answer(read, {kVehicle, params, render});
        return;
    }
    const auto params = [id, at, below_offset] { return as_of_params(id, at.value_or(kEndOfTime), below_offset); };
    const auto render = [has_instant = at.has_value()](const Reads::Look& look, const Read& asked) -> Found {
        const auto as_of = read_as_of(look);
        if (!as_of.registered) return {.missing = kNoSuchVehicle};
        if (has_instant && !as_of.has_state) return {.missing = kNotYet};
        return render_vehicle(asked.entity, as_of);
    };
    reads.answer(read, {kVehicleAt, params, render});
}

void get_vehicles(Reads& reads, const http::Request& request, http::Reply reply) {
    static constexpr std::array<std::string_view, 6> kColumns{"id",    "make",       "model",
                                                              "state", "occurredAt", "appliedAt"};
    constexpr char kCursor = 'v';
    Violations violations;
    const std::array<std::string_view, 5> known{Reads::kAtLeast, "state", "at", "limit", "cursor"};
    const Query query(request.query, known, violations);
    const auto state = read_state_filter(query, violations);
    const auto at = query.instant("at", violations);
    const auto page = read_page(query, kCursor, violations);
    const auto after = page.after ? vehicles::parse_id(*page.after) : std::optional<std::int64_t>(0);
    if (!after) violations.push_back({"?cursor", "is not a cursor of this list"});
    auto read = reads.begin(request, std::move(reply), query, stream(), kListMedia, std::move(violations));
    if (!read) return;

    const auto params = [state, at, page, after = *after] {
        pg::Params given;
        given.add(after).add(page.limit + 1);
        if (at) given.add(*at);
        if (at || state) given.add_optional(state);
        if (at) given.add(kMaxScanned);
        return given;
    };
    const auto render = [page, has_instant = at.has_value()](const Reads::Look& look, const Read& asked) -> Found {
        const auto& rows = look.rows;
        const auto shown = std::min(look.items, static_cast<std::size_t>(page.limit));
        Items items(asked.media, kColumns);
        for (std::size_t row = 0; row < shown; ++row) {
            items.number(rows.text(row, 2));
            items.text(rows.text(row, 3));
            items.text(rows.text(row, 4));
            if (rows.cell(row, 5)) {
                items.text(rows.text(row, 5));
                items.instant(rows.instant(row, 6));
            } else {
                items.null();
                items.null();
            }
            items.instant(rows.instant(row, 7));
        }
        std::string next;
        if (shown < look.items) {
            next = make_cursor(kCursor, rows.text(shown - 1, 2));
        } else if (has_instant && rows.integer(look.items, 4) == kMaxScanned) {
            next = make_cursor(kCursor, rows.text(look.items, 5));
        }
        return {.body = items.finish(next), .next_cursor = next};
    };
    reads.answer(read, {at ? kVehiclesAt : state ? kVehiclesByState : kVehicles, params, render});
}

void get_states(Reads& reads, const http::Request& request, http::Reply reply) {
    static constexpr std::array<std::string_view, 4> kColumns{"state", "occurredAt", "recordedAt", "position"};
    constexpr char kCursor = 's';
    constexpr std::int64_t kStatePart = 2;
    Violations violations;
    const std::array<std::string_view, 5> known{Reads::kAtLeast, "from", "to", "limit", "cursor"};
    const Query query(request.query, known, violations);
    const auto id = read_id(request, violations);
    const auto range = read_range(query, violations);
    const auto page = read_page(query, kCursor, violations);
    const auto after = read_pair_key(page, violations);
    const auto after_offset = after ? read_offset(after->rest) : std::nullopt;
    if (after && !after_offset) violations.push_back({"?cursor", "is not a cursor of this list"});
    auto read = reads.begin(request, std::move(reply), query, stream(), kListMedia, std::move(violations));
    if (!read) return;
    read->entity = request.params[0];

    const auto params = [id, range, page, after, after_offset] {
        pg::Params given;
        given.add(id).add_optional(range.from).add_optional(range.to);
        given.add_optional(after ? std::optional(after->instant) : std::nullopt)
            .add_optional(after_offset)
            .add(page.limit + 1);
        return given;
    };
    const auto render = [page, &watch = reads.watch()](const Reads::Look& look, const Read& asked) -> Found {
        const auto& rows = look.rows;
        if (look.items == 0 || rows.integer(look.items - 1, 0) == kStatePart) return {.missing = kNoSuchVehicle};
        const auto states = look.items - 1;
        const auto shown = std::min(states, static_cast<std::size_t>(page.limit));
        const auto log_hash = watch.log(asked.stream).hash();
        Items items(asked.media, kColumns);
        std::string position;
        for (std::size_t row = 0; row < shown; ++row) {
            items.text(rows.text(row, 2));
            items.instant(rows.instant(row, 3));
            items.instant(rows.instant(row, 4));
            position.clear();
            schemas::append_token(position, stream().name, log_hash,
                                  {static_cast<std::int32_t>(rows.integer(row, 5)), rows.integer(row, 6)});
            items.text(position);
        }
        std::string next;
        if (shown < states) {
            next =
                make_cursor(kCursor, std::string(rows.text(shown - 1, 3)) + "." + std::string(rows.text(shown - 1, 6)));
        }
        return {.body = items.finish(next), .next_cursor = next};
    };
    reads.answer(read, {kHistory, params, render});
}

void get_windows(Reads& reads, const http::Request& request, http::Reply reply) {
    static constexpr std::array<std::string_view, 3> kColumns{"start", "state", "count"};
    constexpr char kCursor = 't';
    Violations violations;
    const std::array<std::string_view, 7> known{Reads::kAtLeast, "state", "from", "to", "step", "limit", "cursor"};
    const Query query(request.query, known, violations);
    const auto state = read_state_filter(query, violations);
    const auto range = read_range(query, violations);
    const auto step = read_step(query, violations);
    const auto page = read_page(query, kCursor, violations);
    const auto after = read_pair_key(page, violations);
    if (after && !vehicles::parse_state(after->rest)) violations.push_back({"?cursor", "is not a cursor of this list"});
    auto read = reads.begin(request, std::move(reply), query, stream(), kListMedia, std::move(violations));
    if (!read) return;
    auto bins = bins_of(range, step, reads.watch().as_of(read->stream).value_or(reads.clock().now()));
    // The cursor's bin may have more states.
    if (after) bins = bins_after(bins, after->instant - std::chrono::microseconds(1), step);
    const bool is_default = !range.from && !range.to && !after;
    const auto rows_per_window =
        static_cast<std::int64_t>(kStates.size()) * reads.watch().log(read->stream).partitions();

    const auto params = [state, bins, step, page, after, rows_per_window] {
        pg::Params given;
        given.add(bins.from).add(bins.to).add_optional(state);
        given.add_optional(after ? std::optional(after->instant) : std::nullopt);
        given.add_optional(after ? std::optional(after->rest) : std::nullopt);
        given.add(std::int64_t{step.count()}).add(rows_of_page(page, step, rows_per_window)).add(page.limit + 1);
        return given;
    };
    const auto render = [page, bins, is_default](const Reads::Look& look, const Read& asked) -> Found {
        const auto& rows = look.rows;
        const auto windows_from = look.windows_from(7);
        if (windows_from && bins.from < *windows_from && !is_default) return {.windows_from = windows_from};
        const auto cut_off = look.cut_off(4);
        const auto windows = look.complete(look.items, 2, cut_off);
        const auto shown = std::min(windows, static_cast<std::size_t>(page.limit));
        Items items(asked.media, kColumns);
        for (std::size_t row = 0; row < shown; ++row) {
            if (windows_from && rows.instant(row, 2) < *windows_from) continue;  // not whole any more
            items.instant(rows.instant(row, 2));
            items.text(rows.text(row, 3));
            items.number(rows.text(row, 4));
        }
        std::string next;
        if (shown < windows) {
            next =
                make_cursor(kCursor, std::string(rows.text(shown - 1, 2)) + "." + std::string(rows.text(shown - 1, 3)));
        } else if (cut_off) {
            // No bin starts there, so that any state will do.
            next = make_cursor(kCursor, make_instant_key(*cut_off - std::chrono::microseconds(1)) + "." +
                                            std::string(vehicles::to_string(kStates.front())));
        }
        return {.body = items.finish(next), .next_cursor = next};
    };
    reads.answer(read, {kWindows, params, render});
}

// The state at a moment, and its cache

void append_age(std::string& lines, Timestamp as_of, Timestamp now) {
    const auto age = std::chrono::duration_cast<std::chrono::seconds>(now - as_of).count();
    lines.append("Age: ");
    json::append_integer(lines, std::max<std::int64_t>(age, 0));
    lines.append("\r\n");
}

class VehicleAt {
public:
    VehicleAt(Reads& reads, VehicleCache& cache) : reads_(reads), cache_(cache) {}

    void get(const http::Request& request, http::Reply reply) {
        Violations violations;
        const std::array known{Reads::kAtLeast};
        const Query query(request.query, known, violations);
        VehicleCache::Key key;
        key.vehicle = read_id(request, violations);
        // The instant stands in a path, but clients know its plus sign from queries and send it as a space too.
        const auto at = schemas::parse_query_instant(request.params[1]);
        if (!at)
            violations.push_back({"/timestamp", "must be an instant with an offset, like 2026-11-20T10:00:03.217Z"});
        key.at = at.value_or(Timestamp());

        const auto generation = usable_generation();
        const bool usable = generation.has_value();
        key.generation = generation.value_or(0);
        if (usable && violations.empty() && request.query.empty() && !has_wishes(request)) {
            if (const auto entry = cache_.find(key, reads_.clock().steady())) {
                send(reply, joined_fields(request, "if-none-match"), *entry);
                return;
            }
        }
        auto read = reads_.begin(request, std::move(reply), query, stream(), kEntityMedia, std::move(violations));
        if (!read) return;
        read->entity = request.params[0];
        if (!usable) {
            reads_.when_fresh(read, [this, key, read] { look(key, read, false); });
            return;
        }
        if (!read->wish) {
            join(key, read);
            return;
        }
        // A demanding read takes an entry that satisfies it, but waits on nobody's query, which may have begun before
        // its wish came true.
        const auto entry = cache_.find(key, reads_.clock().steady());
        if (entry && satisfies(*entry, read->wish)) {
            send(read->reply, read->if_none_match, *entry);
            return;
        }
        reads_.when_fresh(read, [this, key, read] { look(key, read, true); });
    }

private:
    /// The live generation, if its tables are fresh enough for answers out of them to be kept.
    [[nodiscard]] std::optional<std::int32_t> usable_generation() const {
        static const auto kStream = ProgressWatch::index_of(stream());
        const auto as_of = reads_.watch().as_of(kStream);
        if (!as_of || reads_.clock().now() - *as_of > kMaxLag) return std::nullopt;
        return reads_.watch().generation(kStream);
    }

    /// Whether the header has anything that a ready-made answer cannot serve as it is.
    static bool has_wishes(const http::Request& request) {
        return request.field("cache-control").has_value() || request.field("accept").value_or("*/*") != "*/*";
    }

    static bool satisfies(const VehicleCache::Entry& entry, const Wish& wish) {
        return !wish.everything_acknowledged && (!wish.as_of || entry.as_of >= *wish.as_of) &&
               std::all_of(wish.at_least.begin(), wish.at_least.end(), [&](const auto& position) {
                   return entry.progress.holds(position.partition, position.offset);
               });
    }

    void send(http::Reply& reply, std::string_view if_none_match, const VehicleCache::Entry& entry) const {
        thread_local std::string lines;
        lines.assign(entry.header_lines);
        append_age(lines, entry.as_of, reads_.clock().now());
        if (!if_none_match.empty() && names_etag(if_none_match, entry.etag)) {
            reply.send(304, {}, lines, {});
        } else {
            reply.send(200, content_type(Media::json), lines, entry.body);
        }
    }

    /// Takes the entry or waits for the query that is under way, or makes it.
    void join(const VehicleCache::Key& key, const std::shared_ptr<Read>& read) {
        const auto joined = cache_.find_or_join(key, read, reads_.clock().steady());
        if (joined.entry) {
            send(read->reply, read->if_none_match, *joined.entry);
            return;
        }
        if (!joined.leads) return;
        query(key, [this, key, entity = read->entity](const Answer& answer) {
            keep(key, entity, answer);
            for (const auto& waiting : cache_.land(key))
                finish(*waiting, answer);
        });
    }

    /// A query for one read alone.
    void look(const VehicleCache::Key& key, const std::shared_ptr<Read>& read, bool keeps) {
        query(key, [this, key, read, keeps](const Answer& answer) {
            if (keeps) keep(key, read->entity, answer);
            finish(*read, answer);
        });
    }

    /// What a query came to: `data`, or the words of a 404, or a failure.
    struct Answer {
        const ProblemType* failure = nullptr;
        std::string_view missing{};
        std::string data{};
        Progress progress{};
    };

    /// A row that is not what the statement says is a bug, and must not keep those waiting who share the query.
    Answer read_answer(const VehicleCache::Key& key, Reads::Look& look) const {
        Answer answer;
        try {
            const auto as_of = read_as_of(look);
            if (!as_of.registered) {
                answer.missing = kNoSuchVehicle;
            } else if (!as_of.has_state) {
                answer.missing = kNotYet;
            } else {
                answer.data = Item()
                                  .number("id", std::to_string(key.vehicle))
                                  .text("make", as_of.make)
                                  .text("model", as_of.model)
                                  .text("state", as_of.state)
                                  .finish();
            }
        } catch (const std::logic_error& error) {
            reads_.report_bug(kVehicleAt, error);
            answer.failure = &problems::kInternal;
        }
        answer.progress = std::move(look.progress);
        return answer;
    }

    void query(const VehicleCache::Key& key, std::function<void(const Answer&)> then) {
        reads_.look(
            kVehicleAt, [key] { return as_of_params(key.vehicle, key.at, kAnyOffset); },
            [this, key, then = std::move(then)](std::variant<Reads::Look, const ProblemType*> looked) {
                Answer answer;
                if (const auto* problem = std::get_if<const ProblemType*>(&looked)) {
                    answer.failure = *problem;
                } else {
                    answer = read_answer(key, std::get<Reads::Look>(looked));
                }
                then(answer);
            });
    }

    static std::string body_of(const Answer& answer, bool from_cache) {
        return std::string(from_cache ? R"({"fromCache":true,"data":{"vehicle":)"
                                      : R"({"fromCache":false,"data":{"vehicle":)") +
               answer.data + "}}";
    }

    void keep(VehicleCache::Key key, const std::string& entity, const Answer& answer) {
        if (answer.data.empty()) return;
        key.generation = answer.progress.generation;  // another than was asked for, if a swap came in between
        Read unproven;
        unproven.stream = ProgressWatch::index_of(stream());
        unproven.entity = entity;
        const auto fresh = reads_.freshness(unproven, answer.progress);
        if (!fresh.as_of) return;
        auto entry = std::make_shared<VehicleCache::Entry>();
        entry->body = body_of(answer, true);
        entry->etag = make_weak_etag(answer.data);
        entry->as_of = *fresh.as_of;
        entry->progress = answer.progress;
        auto& lines = entry->header_lines;
        lines.append("Data-As-Of: ").append(schemas::format_instant(*fresh.as_of)).append("\r\n");
        if (!fresh.position.empty()) lines.append("Applied-Position: ").append(fresh.position).append("\r\n");
        lines.append("ETag: ").append(entry->etag).append("\r\nCache-Control: no-cache\r\n");
        cache_.put(key, std::move(entry), reads_.clock().now(), reads_.clock().steady());
    }

    void finish(Read& read, const Answer& answer) const {
        if (answer.failure != nullptr) {
            Reads::fail(read, *answer.failure);
            return;
        }
        const auto fresh = reads_.freshness(read, answer.progress);
        if (!answer.missing.empty()) {
            std::string lines;
            reads_.append_freshness(lines, fresh);
            send_problem(read.reply, {.type = &problems::kUnknownEntity, .detail = std::string(answer.missing)},
                         read.trace, lines);
            return;
        }
        reads_.send(read, body_of(answer, false), make_weak_etag(answer.data), fresh);
    }

    Reads& reads_;
    VehicleCache& cache_;
};

}  // namespace

void add_vehicles(http::Router& router, LogWriter& writer, Reads& reads, VehicleCache& cache) {
    add_write(router, http::Method::put, "/vehicles/{id}", kMaxBodyBytes, writer, put_vehicle);
    add_write(router, http::Method::post, "/vehicles/{id}/states", kMaxBodyBytes, writer, post_state);
    add_read(router, "/vehicles", reads, get_vehicles);
    add_read(router, "/vehicles/{id}", reads, get_vehicle);
    add_read(router, "/vehicles/{id}/states", reads, get_states);
    add_read(router, "/vehicles/windows", reads, get_windows);
    auto vehicle_at = std::make_shared<VehicleAt>(reads, cache);
    router.add({.method = http::Method::get,
                .path = "/vehicles/{id}/timestamp/{timestamp}",
                .handler = [vehicle_at](const http::Request& request, http::Reply reply) {
                    vehicle_at->get(request, std::move(reply));
                }});
    // A path segment is never empty, so that an instant left out would be no route at all.
    router.add({.method = http::Method::get,
                .path = "/vehicles/{id}/timestamp/",
                .handler = [](const http::Request& request, http::Reply reply) {
                    Violations violations;
                    const std::array known{Reads::kAtLeast};
                    const Query query(request.query, known, violations);
                    read_id(request, violations);
                    violations.push_back({"/timestamp", "is missing"});
                    send_problem(reply, {.type = &problems::kInvalidRequest, .violations = std::move(violations)},
                                 trace_of(request));
                }});
}

}  // namespace tidemark::api
