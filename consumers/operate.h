#pragma once

#include "consumers/lanes.h"
#include "infra/base/exit_code.h"

#include <chrono>
#include <cstdint>
#include <functional>
#include <iosfwd>
#include <string>

namespace tidemark::consumers {

/// What an operator's command about a stream's generations was told. Each prints its result to `out`, returns an exit
/// code, and throws Refused when a guard says no.
struct OperateOptions {
    std::string stream;
    std::string owner_dsn;
    std::string consumer_dsn;
    Lane::Options lane;
    std::string format = "table";  ///< table, json or csv
    std::int64_t top = 10;         ///< samples of a difference, by table
    std::int64_t max_diff = 0;     ///< rows in which the next generation may differ
    bool accept_diff = false;
    std::int64_t generation = 0;  ///< 0: the command's own choice
    bool deep = false;            ///< name the rows that differ
    std::int64_t memory = std::int64_t{1} << 30;
    std::string letter{};  ///< PARTITION:OFFSET; empty: all
    std::string reason{};  ///< empty: any
    bool all = false;
    bool dry_run = false;
    std::string edit{};  ///< a file's path; empty: none
    std::string note{};
    std::string file{};    ///< to be folded instead of the log; "-" is standard input
    std::string expect{};  ///< the digest that it should come to; empty: none
    bool keep = false;     ///< leave its tables there
    std::chrono::milliseconds timeout{30'000};
    std::function<bool()> cancelled = [] { return false; };

    [[nodiscard]] bool json() const { return format == "json"; }
};

/// Every generation: role, fingerprint, how far it is, who folds it.
int show_generations(const OperateOptions& options, std::ostream& out);
/// Folds the log from its start into a generation beside the live one. kFailed: stopped before it had caught up. Of a
/// `file` instead, into a scratch that is dropped unless it is to be kept, and says what it came to. kFailed: that is
/// not what was expected, or it was stopped.
int run_replay(const OperateOptions& options, std::ostream& out, std::ostream& progress);
/// What another generation has differently. kFailed: more than `max_diff` rows.
int show_diff(const OperateOptions& options, std::ostream& out, std::ostream& progress);
/// What the log says differently from a generation's tables, the live one's if none is given. kFailed: any row.
int run_verify(const OperateOptions& options, std::ostream& out, std::ostream& progress);
/// Makes the candidate live, unless it differs by more than `max_diff` rows and that was not accepted.
int promote(const OperateOptions& options, std::ostream& out, std::ostream& progress);
/// Makes the generation live that was live before.
int roll_back(const OperateOptions& options, std::ostream& out);
/// Removes a generation that is not live, with its tables.
int drop(const OperateOptions& options, std::ostream& out);
/// What the live generation could not take: by reason, and the newest; or one letter whole.
int show_dead_letters(const OperateOptions& options, std::ostream& out);
/// Has open letters judged again: one, those of a reason, or all. kFailed: some stay letters.
int redrive(const OperateOptions& options, std::ostream& out);
/// Leaves open letters be for good, likewise. kFailed: some are not discarded.
int discard(const OperateOptions& options, std::ostream& out);

}  // namespace tidemark::consumers
