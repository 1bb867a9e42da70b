#pragma once

#include "consumers/flush.h"
#include "consumers/projection.h"
#include "consumers/stream_processor.h"
#include "infra/kafka/admin.h"
#include "infra/postgres/connection.h"

#include <cstdint>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>

namespace tidemark::consumers {

/// A guard said no: what stands in the log or the database is not what may be built upon. Ends a command with kRefused.
class Refused : public std::runtime_error {
public:
    using std::runtime_error::runtime_error;
};

/// The stream's live generation, as registered; nullopt before migrate. Throws pg::Error.
struct Live {
    Target target;
    std::string fingerprint;
};
std::optional<Live> find_live(pg::Connection& connection, const Projection& projection);

/// Makes the schema of a generation with its tables, views, offset rows and rights, and registers it; within `tx`, so
/// all of it or nothing. `partitions` offset rows start at 0. Run under the owner's rights.
void create_generation(pg::Transaction& tx, const Projection& projection, int generation, std::string_view schema,
                       std::int32_t partitions, std::string_view status);

/// The identity in the first record of a partition; nullopt when the partition is empty. Throws Refused when its first
/// record is something else.
std::optional<std::string> read_log_uuid(kafka::Admin& admin, const std::string& topic, std::int32_t partition);

/// For StreamProcessor: compares each claim with the broker's log. Refuses (LogMismatch) when the table's offset is not
/// within the log, or the partition's first record is another identity. `admin` must outlive it and is used by its
/// caller's thread.
CheckLog make_log_check(kafka::Admin& admin, const Target& target);

}  // namespace tidemark::consumers
