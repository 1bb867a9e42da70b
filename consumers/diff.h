#pragma once

#include "consumers/generation.h"

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <ostream>
#include <string>
#include <vector>

namespace tidemark::consumers {

struct DiffOptions {
    std::string owner_dsn;
    std::size_t top = 10;                                    ///< samples of each table at most
    std::chrono::milliseconds timeout{30'000};               ///< for the two generations to stand at the same offsets
    std::function<bool()> cancelled = [] { return false; };  ///< asked until they do, and then before each table
    /// Bytes of the tables that are compared, and of all of them: before the first table and after each.
    std::function<void(std::int64_t, std::int64_t)> on_progress = [](std::int64_t, std::int64_t) {};
};

/// What another generation has differently from the live one, both having folded exactly the same records; or what a
/// generation's log says differently from its tables (verify.h): then `live` is the tables, and `other` the log.
struct Diff {
    enum class Kind : std::uint8_t { added, removed, changed };

    /// A part of the log, both offsets included.
    struct Evidence {
        std::int32_t partition = 0;
        std::int64_t min_offset = 0;
        std::int64_t max_offset = 0;
    };
    struct Cell {
        std::string column;
        std::string value;
    };
    /// A column in which a row differs. Values as the database writes them; one of more than 2,000 characters is cut
    /// and has its length and MD5 behind it. Nullopt is NULL, and the side that does not have the row.
    struct Change {
        std::string column;
        std::optional<std::string> live;
        std::optional<std::string> other;
        std::optional<std::string> delta;  ///< other - live of a number, nothing being 0; none for offsets
    };
    struct Sample {
        Kind kind = Kind::changed;
        std::vector<Cell> key;
        std::vector<Change> changes;
        std::vector<Evidence> evidence;  ///< by partition: where in the log the row comes from, as far as is known
    };
    struct Table {
        std::string name;
        bool in_live = true;
        bool in_other = true;
        /// The two have different primary keys: no row is another's counterpart, all are removed or added.
        bool other_key = false;
        std::vector<std::string> columns_only_in_live;  ///< not compared
        std::vector<std::string> columns_only_in_other;
        std::int64_t rows_live = 0;
        std::int64_t rows_other = 0;
        std::int64_t added = 0;  ///< rows that only the other one has
        std::int64_t removed = 0;
        std::int64_t changed = 0;
        std::vector<Sample> samples;  ///< by the sum of their absolute deltas, the biggest first, then by key
        [[nodiscard]] std::int64_t differing() const noexcept { return added + removed + changed; }
    };

    bool of_the_log = false;
    std::string stream;
    int live = 0;  ///< generations; of a log, only this one
    int other = 0;
    std::vector<std::int64_t> vector;  ///< next offsets by partition, at which both stood
    std::vector<Table> tables;         ///< by name
    /// Rows.
    [[nodiscard]] std::int64_t differing() const noexcept;
};

/// Compares all tables of two generations, whatever stream they are of, by primary key, column by column: the other's
/// rows with the live one's. What is no function of the log is left out (who writes a partition; first sights of
/// identities that can decide nothing any more; windows that one of them has dropped). Both are held at the same
/// offsets only for the moment in which a snapshot of them is taken; in it they are compared, while they go on. `other`
/// must be a candidate or retired. Throws Standstill::Late; Refused when one of them became another's or was dropped
/// meanwhile; pg::Error; std::runtime_error when cancelled.
Diff compare(const DiffOptions& options, const Generation& live, const Generation& other);

/// All rows of a generation's tables, as compare() takes them, as 16 hex digits: another value, row, table or column is
/// another digest. The order of rows, the generation's number and place and the wording of a dead letter's detail are
/// not in it. Throws pg::Error.
std::string digest_of(pg::Transaction& tx, const Generation& generation);

enum class DiffFormat : std::uint8_t {
    /// For people: long values are cut, and none can move their terminal's cursor.
    table,
    /// One object:
    ///   {"stream":"counters","live":1,"other":2,"vector":[17,4],"differing":1,"tables":[
    ///     {"name":"totals","inLive":true,"inOther":true,"otherKey":false,"columnsOnlyInLive":[],"columnsOnlyInOther":[],
    ///      "rowsLive":3,"rowsOther":3,"added":0,"removed":0,"changed":1,"samples":[
    ///        {"kind":"changed","key":{"key":"a"},
    ///         "changes":[{"column":"value","live":"5","other":"7","delta":"2"}],
    ///         "evidence":[{"partition":0,"minOffset":3,"maxOffset":16}]}]}]}
    /// Values and deltas are strings or null. Of a log:
    ///   {"stream":"counters","generation":1,"vector":[17,4],"differing":1,"tables":[
    ///     {"name":"totals","rowsInTables":3,"rowsOfLog":3,"missing":0,"extra":0,"changed":1,"samples":[
    ///        {"kind":"changed","key":{"key":"a"},
    ///         "changes":[{"column":"value","tables":"5","log":"7","delta":"2"}],"evidence":[...]}]}]}
    json,
    /// A line of each sample's change under a header, as RFC 4180 says but for the line end (LF):
    ///   table,kind,key,column,live,other,delta,evidence
    /// NULL is nothing, an empty text is "". `key` is a JSON object, `evidence` partition:min-max by blanks.
    csv,
};
void write_diff(const Diff& diff, DiffFormat format, std::ostream& out);

}  // namespace tidemark::consumers
