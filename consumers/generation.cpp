#include "consumers/generation.h"

#include "schemas/sql.h"

#include <algorithm>
#include <iterator>
#include <optional>
#include <utility>

namespace tidemark::consumers {

namespace {

constexpr pg::Statement kFind{"generations_find", R"(
select s.topic, s.partitions, s.log_uuid, g.generation, g.schema_name, g.fingerprint, g.status,
       (extract(epoch from g.created_at) * 1000000)::bigint, (extract(epoch from g.retired_at) * 1000000)::bigint,
       s.swaps
from tidemark.streams s
join tidemark.generations g on g.stream = s.name
where s.name = $1
order by g.generation)"};

constexpr pg::Statement kFindPlace{"generations_find_place", R"(
select g.schema_name, g.status, s.swaps
from tidemark.generations g
join tidemark.streams s on s.name = g.stream
where g.stream = $1 and g.generation = $2)"};

constexpr pg::Statement kFindFolders{"generations_find_folders", R"(
select instance, state from tidemark.consumers
where stream = $1 and generation = $2 and heartbeat_at > now() - interval '10 seconds'
order by instance)"};

constexpr pg::Statement kNextNumber{"generations_next_number", R"(
update tidemark.streams set last_generation = last_generation + 1 where name = $1 returning last_generation)"};

constexpr pg::Statement kRegister{"generations_register", R"(
insert into tidemark.generations (stream, generation, schema_name, fingerprint, status) values ($1, $2, $3, $4, $5))"};

constexpr std::string_view kRoles[] = {"building", "candidate", "live", "retired", "scratch"};

// Nullopt: a later version's.
std::optional<Role> read_role(std::string_view text) {
    const auto* const found = std::find(std::begin(kRoles), std::end(kRoles), text);
    if (found == std::end(kRoles)) return std::nullopt;
    return static_cast<Role>(found - std::begin(kRoles));
}

}  // namespace

std::string_view to_string(Role role) noexcept {
    return kRoles[static_cast<std::size_t>(role)];
}

std::vector<Generation> find_generations(pg::Connection& connection, const Projection& projection) {
    pg::Params params;
    params.add(projection.stream().name);
    const auto rows = connection.run(kFind, params);
    std::vector<Generation> found;
    for (std::size_t row = 0; row < rows.size(); ++row) {
        const auto role = read_role(rows.text(row, 6));
        if (!role) continue;
        Generation one;
        one.target.projection = &projection;
        one.target.topic = rows.text(row, 0);
        one.target.partitions = static_cast<std::int32_t>(rows.integer(row, 1));
        one.target.log_uuid = rows.text(row, 2);
        one.target.generation = static_cast<int>(rows.integer(row, 3));
        one.schema = rows.text(row, 4);
        one.fingerprint = rows.text(row, 5);
        one.role = *role;
        one.created_at = rows.instant(row, 7);
        if (rows.cell(row, 8)) one.retired_at = rows.instant(row, 8);
        one.swaps = rows.integer(row, 9);
        found.push_back(std::move(one));
    }
    return found;
}

Refused no_tables(const Projection& projection) {
    return Refused("stream " + std::string(projection.stream().name) +
                   " has no tables: run `tidemark-consumer migrate` first");
}

std::optional<Generation> find_live(pg::Connection& connection, const Projection& projection) {
    for (auto& one : find_generations(connection, projection)) {
        if (one.role == Role::live) return std::move(one);
    }
    return std::nullopt;
}

std::optional<Place> find_place(pg::Connection& connection, const Projection& projection, int generation) {
    pg::Params params;
    params.add(projection.stream().name).add(std::int64_t{generation});
    const auto rows = connection.run(kFindPlace, params);
    if (rows.empty()) return std::nullopt;
    const auto role = read_role(rows.text(0, 1));
    if (!role) return std::nullopt;
    return Place{std::string(rows.text(0, 0)), *role, rows.integer(0, 2)};
}

bool tables_moved(const pg::Error& error) {
    constexpr auto kNoSuchSchema = "3F000";
    return error.failure() == pg::Failure::schema_changed || error.sqlstate() == kNoSuchSchema;
}

std::vector<Folder> find_folders(pg::Connection& connection, const Projection& projection, int generation) {
    pg::Params params;
    params.add(projection.stream().name).add(std::int64_t{generation});
    const auto rows = connection.run(kFindFolders, params);
    std::vector<Folder> folders;
    for (std::size_t row = 0; row < rows.size(); ++row)
        folders.push_back({std::string(rows.text(row, 0)), std::string(rows.text(row, 1))});
    return folders;
}

std::vector<std::int64_t> find_progress(pg::Connection& connection, std::string_view schema) {
    const auto name = "find_progress_" + std::string(schema);
    const auto sql = "select next_offset from " + pg::quote_identifier(schema, "offsets") + " order by partition";
    const auto rows = connection.run(pg::Statement{name.c_str(), sql.c_str()});
    std::vector<std::int64_t> next;
    for (std::size_t row = 0; row < rows.size(); ++row)
        next.push_back(rows.integer(row, 0));
    return next;
}

std::string windows_from_of(std::string_view schema) {
    // Tables of an earlier version have no such column.
    return "(select max((to_jsonb(o) ->> 'windows_from')::timestamptz) from " +
           pg::quote_identifier(schema, "offsets") + " o)";
}

std::optional<schemas::Timestamp> find_windows_from(pg::Connection& connection, std::string_view schema) {
    const auto name = "find_windows_from_" + std::string(schema);
    const auto sql = "select (extract(epoch from " + windows_from_of(schema) + ") * 1000000)::bigint";
    const auto rows = connection.run(pg::Statement{name.c_str(), sql.c_str()});
    return rows.cell(0, 0) ? std::optional(rows.instant(0, 0)) : std::nullopt;
}

int next_generation(pg::Transaction& tx, const Projection& projection) {
    pg::Params params;
    params.add(projection.stream().name);
    const auto rows = tx.run(kNextNumber, params);
    if (rows.empty()) throw no_tables(projection);
    return static_cast<int>(rows.integer(0, 0));
}

void grant_rights(pg::Transaction& tx, std::string_view schema) {
    const auto name = pg::quote_identifier(schema);
    tx.run_script("set local search_path = " + name);
    tx.run_script("grant usage on schema " + name + " to tidemark_consumer, tidemark_api");
    tx.run_script("grant select, insert, update, delete on all tables in schema " + name + " to tidemark_consumer");
    // The API sees the views that are made for it, never a table.
    tx.run_script(
        "do $$ declare v record; begin for v in select table_schema, table_name from information_schema.views "
        "where table_schema = current_schema() and table_name like 'api\\_%' loop "
        "execute format('grant select on %I.%I to tidemark_api', v.table_schema, v.table_name); end loop; end $$");
    tx.run_script("reset search_path");
}

void create_generation(pg::Transaction& tx, const Projection& projection, int generation, std::string_view schema,
                       std::int32_t partitions, Role role) {
    const auto name = pg::quote_identifier(schema);
    tx.run_script("create schema " + name);
    tx.run_script("set local search_path = " + name);
    tx.run_script(std::string(schemas::sql("generation")));
    tx.run_script(std::string(projection.sql()));
    tx.run_script("insert into offsets (generation, partition) select " + std::to_string(generation) +
                  ", p from generate_series(0, " + std::to_string(partitions - 1) + ") p");
    grant_rights(tx, schema);
    pg::Params params;
    params.add(projection.stream().name)
        .add(std::int64_t{generation})
        .add(schema)
        .add(projection.fingerprint())
        .add(to_string(role));
    tx.run(kRegister, params);
}

}  // namespace tidemark::consumers
