#include "consumers/migrate.h"

#include "consumers/generation.h"
#include "consumers/log_check.h"
#include "consumers/projections.h"
#include "infra/base/clock.h"
#include "infra/base/log.h"
#include "infra/kafka/admin.h"
#include "schemas/event.h"
#include "schemas/position.h"
#include "schemas/sql.h"

#include <optional>
#include <utility>

namespace tidemark::consumers {

namespace log = base::log;

namespace {

// Two migrations at once wait for each other. The number is only there to be the same in every version.
constexpr pg::Statement kLock{"migrate_lock", "select pg_advisory_lock(7433215), 1"};

constexpr pg::Statement kFindStream{"streams_find", R"(
select s.topic, s.partitions, s.log_uuid, exists (select 1 from tidemark.generations g where g.stream = s.name)
from tidemark.streams s where s.name = $1)"};

constexpr pg::Statement kAddStream{"streams_add", R"(
insert into tidemark.streams (name, topic, partitions, log_uuid, log_hash) values ($1, $2, $3, $4, $5))"};

constexpr pg::Statement kSetPassword{"roles_set_password", R"(
select format('alter role %I login password %L', $1::text, $2::text))"};

// Who swaps or drops generations takes it likewise.
constexpr pg::Statement kHoldStream{"generations_hold_stream",
                                    "select from tidemark.streams where name = $1 for update"};

// Those of a stream that a role cannot use, as one that was dropped and made again.
constexpr pg::Statement kFindClosed{"generations_find_closed", R"(
select g.schema_name from tidemark.generations g
join pg_namespace n on n.nspname = g.schema_name
where g.stream = $1
  and not (has_schema_privilege('tidemark_consumer', n.oid, 'usage') and has_schema_privilege('tidemark_api', n.oid, 'usage')))"};

struct Registered {
    std::string topic;
    std::int32_t partitions = 0;
    std::string uuid;
    bool has_generation = false;
};

std::optional<Registered> find_stream(pg::Connection& connection, std::string_view name) {
    pg::Params params;
    params.add(name);
    const auto rows = connection.run(kFindStream, params);
    if (rows.empty()) return std::nullopt;
    return Registered{std::string(rows.text(0, 0)), static_cast<std::int32_t>(rows.integer(0, 1)),
                      std::string(rows.text(0, 2)), rows.boolean(0, 3)};
}

void make_role(pg::Connection& connection, const std::string& role, const std::string& password) {
    connection.run_script("do $$ begin create role " + role +
                          " login; exception when duplicate_object or unique_violation then null; end $$");
    if (password.empty()) return;
    pg::Params params;
    params.add(role).add(password);
    connection.run_script(std::string(connection.run(kSetPassword, params).text(0, 0)));
}

// False: it is there.
bool make_topic(kafka::Admin& admin, const std::string& topic, const MigrateOptions& options) {
    kafka::TopicSpec spec;
    spec.name = topic;
    spec.partitions = static_cast<std::int32_t>(options.partitions);
    spec.replication = static_cast<std::int16_t>(options.replication);
    spec.settings = fixed_topic_settings();
    spec.settings["min.insync.replicas"] = std::to_string(options.min_isr);
    if (!admin.create_topic(spec)) return false;
    log::info("topic_created",
              {{"topic", topic}, {"partitions", options.partitions}, {"replication", options.replication}});
    return true;
}

std::string identity_event(const std::string& uuid) {
    const auto now = base::SystemClock().now();
    std::string data = "{\"uuid\":";
    schemas::json::append_string(data, uuid);
    data += '}';
    std::string event;
    schemas::append_event(
        event, {schemas::make_uuid7(now), "/migrate", schemas::kLogCreated, now, std::nullopt, std::nullopt, data});
    return event;
}

// Gives every empty partition its identity record and checks those that have one. A registry that already has tables is
// never given a new log: an empty partition then means that the topic was recreated.
void make_identity(kafka::Admin& admin, const std::string& topic, std::int32_t partitions, const std::string& uuid,
                   bool has_generation) {
    const auto marks = has_generation ? admin.watermarks(topic, partitions) : std::vector<kafka::Watermarks>{};
    for (std::int32_t partition = 0; partition < partitions; ++partition) {
        const auto place = "topic " + topic + ", partition " + std::to_string(partition);
        // Where the log's start is gone nobody can say whose it was, and what is still to be read may be there.
        if (has_generation && marks[static_cast<std::size_t>(partition)].low > 0) continue;
        auto found = read_log_uuid(admin, topic, partition);
        if (!found) {
            if (has_generation) {
                throw Refused(
                    place +
                    " is empty, but there are tables folded from it: the topic was recreated. Restore the topic, or "
                    "drop the database and migrate again to start from nothing");
            }
            admin.append(topic, partition, topic, identity_event(uuid));
            found = read_log_uuid(admin, topic, partition);
        }
        if (!found || *found != uuid) {
            throw Refused(place + " is another log (" + found.value_or("no identity") + ") than the one registered (" +
                          uuid +
                          "): the topic was recreated, or this is another cluster. Point --brokers and --owner-dsn at "
                          "a pair that belongs together");
        }
    }
}

// Gives the roles their rights on what they cannot use.
void open_generations(pg::Connection& connection, std::string_view stream) {
    pg::Params params;
    params.add(stream);
    if (connection.run(kFindClosed, params).empty()) return;  // and nobody has to wait
    auto tx = connection.begin();
    tx.run(kHoldStream, params);
    const auto closed = tx.run(kFindClosed, params);
    for (std::size_t row = 0; row < closed.size(); ++row)
        grant_rights(tx, closed.text(row, 0));
    tx.commit();
}

Migrated migrate_stream(pg::Connection& connection, kafka::Admin& admin, const Projection& projection,
                        const MigrateOptions& options) {
    const auto& stream = projection.stream();
    const std::string topic(stream.topic);
    auto registered = find_stream(connection, stream.name);
    if (registered && registered->topic != topic) {
        throw Refused("stream " + std::string(stream.name) + " is folded from topic " + registered->topic + ", not " +
                      topic + ": use the version of the program that made the tables");
    }
    open_generations(connection, stream.name);  // whatever the broker says
    Migrated migrated{.stream = std::string(stream.name), .topic = topic};
    if (!registered || !registered->has_generation) migrated.made_topic = make_topic(admin, topic, options);
    const auto partitions = admin.partition_count(topic);
    if (!partitions) {
        throw Refused("topic " + topic +
                      " is gone, but there are tables folded from it: `tidemark-consumer doctor` says what mends it");
    }
    if (registered && registered->partitions != *partitions) {
        throw LogRefused("topic " + topic + " has " + std::to_string(*partitions) +
                             " partitions, the tables come from " + std::to_string(registered->partitions) +
                             ": the number of partitions is part of a log's identity",
                         move_to_new_log());
    }
    migrated.partitions = *partitions;
    if (!registered) {
        // A log that is there already brings its identity; a new one gets it here, before its first record is written.
        const auto known = read_log_uuid(admin, topic, 0);
        const auto uuid = known.value_or(schemas::make_uuid7(base::SystemClock().now()));
        pg::Params params;
        params.add(stream.name).add(topic).add(*partitions).add(uuid).add(schemas::log_hash(uuid));
        connection.run(kAddStream, params);
        registered = find_stream(connection, stream.name);
    }
    make_identity(admin, topic, *partitions, registered->uuid, registered->has_generation);
    if (registered->has_generation) return migrated;
    auto tx = connection.begin();
    create_generation(tx, projection, 1, stream.name, *partitions, Role::live);
    tx.commit();
    log::info("generation_created",
              {{"stream", stream.name}, {"generation", 1}, {"fingerprint", projection.fingerprint()}});
    migrated.made_tables = true;
    return migrated;
}

}  // namespace

const std::map<std::string, std::string>& fixed_topic_settings() {
    static const std::map<std::string, std::string> settings{{"message.timestamp.type", "LogAppendTime"},
                                                             {"retention.ms", "-1"},
                                                             {"retention.bytes", "-1"},
                                                             {"cleanup.policy", "delete"},
                                                             {"compression.type", "lz4"},
                                                             {"unclean.leader.election.enable", "false"}};
    return settings;
}

std::vector<Migrated> migrate(const MigrateOptions& options) {
    pg::SessionOptions session;
    session.application_name = "tidemark-consumer migrate";
    session.statement_timeout = std::chrono::minutes(5);
    session.lock_timeout = std::chrono::minutes(1);
    session.idle_in_transaction_timeout = std::chrono::minutes(5);
    pg::Connection connection(options.owner_dsn, session);
    connection.run(kLock);
    make_role(connection, "tidemark_consumer", options.consumer_password);
    make_role(connection, "tidemark_api", options.api_password);
    connection.run_script(std::string(schemas::sql("registry")));
    connection.run_script(
        "grant usage on schema tidemark to tidemark_consumer, tidemark_api;"
        "grant select on tidemark.streams, tidemark.generations to tidemark_consumer;"
        "grant select, insert, update, delete on tidemark.consumers, tidemark.audits to tidemark_consumer;"
        "grant select on tidemark.api_streams, tidemark.api_consumers, tidemark.api_generations, tidemark.api_audits "
        "to tidemark_api");
    kafka::Admin admin(options.brokers, options.kafka_properties, std::chrono::seconds(15));
    std::vector<Migrated> all;
    for (const auto* projection : projections())
        all.push_back(migrate_stream(connection, admin, *projection, options));
    return all;
}

}  // namespace tidemark::consumers
