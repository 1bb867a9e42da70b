#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace tidemark::consumers {

struct MigrateOptions {
    std::string brokers;
    std::string owner_dsn;
    std::int64_t partitions = 4;
    std::int64_t replication = 1;
    std::int64_t min_isr = 1;
    std::string consumer_password;  ///< of role tidemark_consumer; empty: set none
    std::string api_password;       ///< of role tidemark_api; empty: set none
    std::map<std::string, std::string> kafka_properties;
};

/// What every event topic has, whatever the installation: it is the only copy of what it holds, for ever.
const std::map<std::string, std::string>& fixed_topic_settings();

/// A stream as a migration leaves it.
struct Migrated {
    std::string stream;
    std::string topic;
    std::int32_t partitions = 0;
    bool made_topic = false;   ///< it was not there before
    bool made_tables = false;  ///< likewise
};

/// Makes what is missing, and changes nothing that is there but the roles' rights and passwords: the roles, the
/// registry, and for every stream its topic, its log's identity and its first generation. Safe to run again, after a
/// crash at any point, and by two at once. A database that was lost gets its registry back from the identities in the
/// log. Returns every stream. Throws Refused when a topic is another log than the tables come from, pg::Error and
/// kafka::Error.
std::vector<Migrated> migrate(const MigrateOptions& options);

}  // namespace tidemark::consumers
