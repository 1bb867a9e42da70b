#pragma once

#include "consumers/projection.h"

#include <cstddef>
#include <cstdint>
#include <functional>
#include <istream>
#include <map>
#include <string>

namespace tidemark::consumers {

/// How far the fold of a file is, and in the end what it came to.
struct ScratchReport {
    std::int64_t records = 0;
    std::int64_t of_other_streams = 0;  ///< skipped
    std::int64_t decisions = 0;         ///< skipped
    std::int64_t applied = 0;
    std::int64_t duplicates = 0;
    std::map<std::string, std::int64_t> parked;  ///< by reason
    int generation = 0;
    std::string schema;
    bool complete = false;  ///< false: cancelled, and nothing is left
    std::string digest;     ///< when complete

    [[nodiscard]] std::int64_t all_parked() const;
};

struct ScratchOptions {
    std::string owner_dsn;
    bool keep = false;  ///< leave the tables there
    /// What is in memory at once: so much makes a flush.
    std::size_t records = 20'000;
    std::size_t bytes = std::size_t{16} << 20;
    std::function<bool()> cancelled = [] { return false; };
    /// After every flush.
    std::function<void(const ScratchReport&)> on_progress = [](const ScratchReport&) {};
};

/// Folds the records of a file (see CaseFile) into the tables of a new generation, a scratch, by the same flushes as
/// the log, and says what they came to. Needs no log, and nothing of the database but that the stream is registered
/// there. The generation is dropped in the end, however it ends, unless it is complete and to be kept; what a killed
/// process leaves stands in the registry. The report's digest is `applied-duplicates-parked-<16 hex>`, the last of all
/// rows of all tables as `diff` compares them but for the words of a dead letter's detail (digest_of): the same file
/// and fold say the same in any database, whatever the cut of batches. Throws Refused when a line is (CaseFile), and
/// when the generation is dropped under way; pg::Error; std::runtime_error.
ScratchReport fold_file(const ScratchOptions& options, const Projection& projection, std::istream& lines);

}  // namespace tidemark::consumers
