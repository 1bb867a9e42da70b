#pragma once

#include "consumers/projection.h"
#include "infra/base/clock.h"
#include "infra/postgres/connection.h"

#include <cstdint>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace tidemark::consumers {

/// A guard said no: what stands in the log or the database is not what may be built upon. Ends a command with kRefused.
class Refused : public std::runtime_error {
public:
    using std::runtime_error::runtime_error;
};

/// For a stream that has not been migrated.
Refused no_tables(const Projection& projection);

/// Which set of tables is written, and what log it is folded from.
struct Target {
    const Projection* projection = nullptr;
    int generation = 1;
    std::string topic;
    std::int32_t partitions = 0;
    std::string log_uuid;  ///< what the first record of every partition has to say

    /// One for each set of tables: two may be folded by the same program at once.
    [[nodiscard]] std::string consumer_group() const {
        return std::string(projection->stream().name) + "." + std::to_string(generation);
    }
};

/// What a generation is there for. Consumers of its fingerprint fold it whatever it is, but for a building one, which
/// is its replay's, and a scratch, which is of a file and not of the log.
enum class Role : std::uint8_t {
    building,   ///< being folded from the log's start
    candidate,  ///< has caught up with the live one, never beyond it; nobody reads it yet
    live,       ///< the one that is read
    retired,    ///< was live; kept like a candidate, so that it can be live again
    scratch,    ///< folded from a file, to be looked at and dropped; never anything else
};
std::string_view to_string(Role role) noexcept;

/// One set of tables, as registered.
struct Generation {
    Target target;
    std::string schema;  ///< where its tables stand now: the stream's name for the live one, <stream>_<generation> else
    std::string fingerprint;
    Role role = Role::building;
    base::Timestamp created_at{};
    std::optional<base::Timestamp> retired_at;
    std::int64_t swaps = 0;  ///< of the stream, when this was looked up

    /// Whether this program folds as the one did that made it.
    [[nodiscard]] bool is_of_this_program() const { return fingerprint == target.projection->fingerprint(); }
};
/// All of a stream by number, but for those whose role only a later version knows; empty before migrate. Throws
/// pg::Error.
std::vector<Generation> find_generations(pg::Connection& connection, const Projection& projection);
/// The live one among them.
std::optional<Generation> find_live(pg::Connection& connection, const Projection& projection);

/// Where a generation stands now, for the one who folds it; nullopt: it was dropped. Throws pg::Error.
struct Place {
    std::string schema;
    Role role = Role::building;
    std::int64_t swaps = 0;  ///< of the stream so far: each fences the writers of both generations
    friend bool operator==(const Place&, const Place&) = default;
};
std::optional<Place> find_place(pg::Connection& connection, const Projection& projection, int generation);

/// Whether a statement failed for a schema that is not there, or not what it was: renamed by a swap, or dropped.
bool tables_moved(const pg::Error& error);

/// Who tells, lately, that it folds a generation. Throws pg::Error.
struct Folder {
    std::string instance;
    std::string state;  ///< see StreamState::phase
};
std::vector<Folder> find_folders(pg::Connection& connection, const Projection& projection, int generation);

/// How far the tables in a schema are: next offsets by partition. Throws pg::Error.
std::vector<std::int64_t> find_progress(pg::Connection& connection, std::string_view schema);

/// Where the windows in a schema begin, whatever version made it: an SQL expression of type timestamptz, null when
/// none were dropped.
std::string windows_from_of(std::string_view schema);
/// The same as it is now. Throws pg::Error.
std::optional<schemas::Timestamp> find_windows_from(pg::Connection& connection, std::string_view schema);

/// Lets consumers write a generation's tables, and the API read the views that are made for it.
void grant_rights(pg::Transaction& tx, std::string_view schema);

/// A number that no generation of the stream has ever had; nobody else gets one before `tx` ends. Throws Refused when
/// the stream is not registered, pg::Error.
int next_generation(pg::Transaction& tx, const Projection& projection);

/// Makes the schema of a generation with its tables, views, offset rows and rights, and registers it; within `tx`, so
/// all of it or nothing. `partitions` offset rows start at 0. Run under the owner's rights.
void create_generation(pg::Transaction& tx, const Projection& projection, int generation, std::string_view schema,
                       std::int32_t partitions, Role role);

}  // namespace tidemark::consumers
