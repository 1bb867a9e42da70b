#pragma once

#include <cstdint>
#include <map>
#include <ostream>
#include <string>
#include <vector>

namespace tidemark::consumers {

enum class Severity : std::uint8_t {
    info,     ///< good to know
    warning,  ///< holds for now
    error,    ///< a promise does not hold, or a rebuild would be refused
};

struct Finding {
    Severity severity = Severity::info;
    std::string check;    ///< stable, snake_case
    std::string subject;  ///< e.g. "topic tidemark.counters"
    std::string reason;   ///< what is so, and what follows
    std::string mend;     ///< a command, or what to do; never empty
};

struct DoctorOptions {
    std::string brokers;
    std::map<std::string, std::string> kafka_properties;
    std::string owner_dsn;
    std::string consumer_dsn;  ///< only tried
};

/// Looks at what the guarantees rest on: the topics' settings and identities, the brokers' replicas, PostgreSQL's
/// durability, roles, rights and tables, the clocks, the generations and who folds them. Changes nothing. What cannot
/// be asked is a finding, too.
std::vector<Finding> examine(const DoctorOptions& options);

/// The worst first. JSON: {"findings":[{"severity","check","subject","reason","mend"}]}.
void write_findings(const std::vector<Finding>& findings, bool json, std::ostream& out);

}  // namespace tidemark::consumers
