#include "consumers/generation.h"

#include "schemas/event.h"
#include "schemas/sql.h"

#include <utility>

namespace tidemark::consumers {

namespace {

constexpr pg::Statement kFindLive{"generations_find_live", R"(
select s.topic, s.partitions, s.log_uuid, g.generation, g.schema_name, g.fingerprint
from tidemark.streams s
join tidemark.generations g on g.stream = s.name and g.status = 'live'
where s.name = $1)"};

constexpr pg::Statement kRegister{"generations_register", R"(
insert into tidemark.generations (stream, generation, schema_name, fingerprint, status) values ($1, $2, $3, $4, $5))"};

}  // namespace

std::optional<Live> find_live(pg::Connection& connection, const Projection& projection) {
    pg::Params params;
    params.add(projection.stream().name);
    const auto rows = connection.run(kFindLive, params);
    if (rows.empty()) return std::nullopt;
    Live live;
    live.target.projection = &projection;
    live.target.topic = rows.text(0, 0);
    live.target.partitions = static_cast<std::int32_t>(rows.integer(0, 1));
    live.target.log_uuid = rows.text(0, 2);
    live.target.generation = static_cast<int>(rows.integer(0, 3));
    live.target.schema = rows.text(0, 4);
    live.fingerprint = rows.text(0, 5);
    return live;
}

void create_generation(pg::Transaction& tx, const Projection& projection, int generation, std::string_view schema,
                       std::int32_t partitions, std::string_view status) {
    const auto name = pg::quote_identifier(schema);
    tx.run_script("create schema " + name);
    tx.run_script("set local search_path = " + name);
    tx.run_script(std::string(schemas::sql("generation")));
    tx.run_script(std::string(schemas::sql(projection.sql())));
    tx.run_script("insert into offsets (generation, partition) select " + std::to_string(generation) +
                  ", p from generate_series(0, " + std::to_string(partitions - 1) + ") p");
    tx.run_script("grant usage on schema " + name + " to tidemark_consumer, tidemark_api");
    tx.run_script("grant select, insert, update, delete on all tables in schema " + name + " to tidemark_consumer");
    // The API sees the views that are made for it, never a table.
    tx.run_script(
        "do $$ declare v record; begin for v in select table_schema, table_name from information_schema.views "
        "where table_schema = current_schema() and table_name like 'api\\_%' loop "
        "execute format('grant select on %I.%I to tidemark_api', v.table_schema, v.table_name); end loop; end $$");
    tx.run_script("reset search_path");
    pg::Params params;
    params.add(projection.stream().name)
        .add(std::int64_t{generation})
        .add(schema)
        .add(projection.fingerprint())
        .add(status);
    tx.run(kRegister, params);
}

std::optional<std::string> read_log_uuid(kafka::Admin& admin, const std::string& topic, std::int32_t partition) {
    const auto place = "topic " + topic + ", partition " + std::to_string(partition);
    const auto marks = admin.watermarks(topic, partition + 1).at(static_cast<std::size_t>(partition));
    if (marks.high == 0) return std::nullopt;
    if (marks.low > 0) {
        throw Refused(place + ": its first record is gone (the log starts at " + std::to_string(marks.low) +
                      "). Tables can only be built from a log's start: set retention.ms=-1, and move to a new topic");
    }
    const auto record = admin.read_at(topic, partition, 0);
    if (!record) return std::nullopt;
    schemas::json::Reader reader;
    if (record->value) {
        const auto event = schemas::read_event(reader, *record->value);
        if (event && event->type == schemas::kLogCreated && event->data) {
            if (const auto uuid = event->data.find("uuid"); uuid && uuid.is(schemas::json::Kind::string)) {
                return std::string(uuid.text());
            }
        }
    }
    throw Refused(place + ": its first record is not a log's identity (" + std::string(schemas::kLogCreated) +
                  "), so this topic was not made by `tidemark-consumer migrate`. Give it another name, and export and "
                  "import its events");
}

CheckLog make_log_check(kafka::Admin& admin, const Target& target) {
    return [&admin, topic = target.topic, partitions = target.partitions, uuid = target.log_uuid](const Claim& claim) {
        const auto place = "topic " + topic + ", partition " + std::to_string(claim.partition);
        const auto count = admin.partition_count(topic);
        if (count != partitions) {
            throw LogMismatch(place + ": the topic has " + (count ? std::to_string(*count) : std::string("no")) +
                              " partitions, the tables come from " + std::to_string(partitions) +
                              ". Move to a new topic by export and import");
        }
        const auto marks = admin.watermarks(topic, partitions).at(static_cast<std::size_t>(claim.partition));
        if (claim.next_offset < marks.low || claim.next_offset > marks.high) {
            throw LogMismatch(place + ": the tables stand at offset " + std::to_string(claim.next_offset) +
                              ", the log holds [" + std::to_string(marks.low) + ", " + std::to_string(marks.high) +
                              "). It was recreated, truncated or restored from an older copy: compare with "
                              "`tidemark-consumer status`");
        }
        if (marks.low > 0) return;  // the identity record is gone; what is still to be read is there
        std::optional<std::string> found;
        try {
            found = read_log_uuid(admin, topic, claim.partition);
        } catch (const Refused& refused) {
            throw LogMismatch(refused.what());
        }
        if (found != uuid)
            throw LogMismatch(place + ": this is log " + found.value_or("(none)") + ", the tables come from " + uuid);
    };
}

}  // namespace tidemark::consumers
