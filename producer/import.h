#pragma once

#include "infra/base/clock.h"
#include "infra/base/metrics.h"
#include "producer/event_publisher.h"

#include <chrono>
#include <cstdint>
#include <functional>
#include <istream>
#include <ostream>
#include <string>

namespace tidemark::producer {

/// An import's part of its program's metrics, moved line by line. Names and labels are API: a golden test holds them.
/// `outcome` tells lines apart by what became of them, as the report does; those of which nothing did yet are in
/// flight.
struct ImportMetrics {
    /// `metrics` must outlive it.
    explicit ImportMetrics(base::Metrics& metrics);

    base::Metrics::Counter& lines;
    base::Metrics::Counter& accepted;
    base::Metrics::Counter& refused;
    base::Metrics::Counter& skipped;
    base::Metrics::Counter& failed;
    base::Metrics::Counter& unknown;
};

struct ImportReport {
    std::uint64_t lines = 0;  ///< that were not blank
    std::uint64_t accepted = 0;
    std::uint64_t refused = 0;  ///< no valid event; nothing was sent
    std::uint64_t skipped = 0;  ///< another log's own: its identity, decisions about its dead letters; nothing was sent
    std::uint64_t failed = 0;   ///< not stored, after retries
    std::uint64_t unknown = 0;  ///< sent, and no answer: perhaps stored
    bool complete = false;      ///< the file was read to its end
    /// The lowest line, refused ones aside, that is not known to be stored: where to go on. 0: there is none.
    std::uint64_t next_line = 0;
    [[nodiscard]] bool clean() const noexcept { return complete && accepted + skipped == lines; }
};

struct ImportOptions {
    /// What each record's header `import` names as its file, so that however often it is imported it counts once (see
    /// schemas/imported_line.h). Empty: no header, and each import counts.
    std::string file{};
    std::uint64_t from_line = 1;  ///< what stands before it is skipped unread
    /// Asked while waiting, for so long.
    std::function<bool(std::chrono::milliseconds)> give_up = [](std::chrono::milliseconds) { return false; };
    /// Now and then, with the report so far.
    std::function<void(const ImportReport&)> on_progress = [](const ImportReport&) {};
};

/// Publishes a file of events, one per line, byte for byte, each to its stream's topic under its entity's key; and what
/// else an export wrote (see producer/line.h). What was another log's own is skipped and counted. A line that is none
/// of these is named with its number and every violation on `errors`, and the others go on. Waits for room instead of
/// failing while the broker is slow or away, as long as `give_up` says no. Records keep the file's order; only what
/// came back unsent after it had been taken (the broker did not answer in time) comes again behind lines that followed
/// it, and so does what may have been stored or not, if it names its line. Returns when every event has been answered.
ImportReport import_lines(std::istream& lines, EventPublisher& publisher, ImportMetrics& metrics,
                          const base::Clock& clock, std::ostream& errors, const ImportOptions& options);

/// How a file is named in an import's headers: base64url of the first 16 bytes of its bytes' SHA-256. Throws
/// std::runtime_error when it cannot be read to its end.
std::string hash_of(std::istream& bytes);

}  // namespace tidemark::producer
