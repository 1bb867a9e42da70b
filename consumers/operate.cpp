#include "consumers/operate.h"

#include "consumers/dead_letters.h"
#include "consumers/diff.h"
#include "consumers/projections.h"
#include "consumers/replay.h"
#include "consumers/scratch.h"
#include "consumers/swap.h"
#include "consumers/verify.h"
#include "infra/base/input.h"
#include "infra/base/progress.h"
#include "schemas/dead_letter.h"
#include "schemas/instant.h"
#include "schemas/json.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <iomanip>
#include <iostream>
#include <iterator>
#include <numeric>
#include <optional>
#include <ostream>
#include <vector>

namespace tidemark::consumers {

using base::with_commas;

namespace {

const Projection& projection_of(const std::string& stream) {
    if (const auto* found = find_projection(stream)) return *found;
    std::string known;
    for (const auto* projection : projections())
        known += (known.empty() ? "" : ", ") + std::string(projection->stream().name);
    throw Refused("there is no stream " + stream + "; there are: " + known);
}

pg::Connection connect(const std::string& dsn) {
    pg::SessionOptions session;
    session.application_name = "tidemark-consumer";
    session.statement_timeout = std::chrono::minutes(1);
    return pg::Connection(dsn, session);
}

Generation live_of(const OperateOptions& options, const Projection& projection) {
    auto connection = connect(options.consumer_dsn);
    auto live = find_live(connection, projection);
    if (!live) throw no_tables(projection);
    return *std::move(live);
}

struct Line {
    Generation generation;
    std::int64_t records = 0;
    std::optional<std::int64_t> behind;  // of the live one, in records; nullopt: it does not follow it
    std::int64_t dead_letters = 0;
    std::vector<Folder> folders;  // by instance
};

// Its records may begin anywhere, with gaps as wide as its file says.
std::int64_t count_records(pg::Connection& connection, const Generation& scratch) {
    const auto name = "generations_records_" + scratch.schema;
    const auto sql =
        "select sum(applied + duplicates + parked)::bigint from " + pg::quote_identifier(scratch.schema, "offsets");
    return connection.run(pg::Statement{name.c_str(), sql.c_str()}).integer(0, 0);
}

// As long as no swap comes in between; nullopt otherwise.
std::optional<std::vector<Line>> try_gather(pg::Connection& connection, const Projection& projection) {
    std::vector<Line> lines;
    std::int64_t live = 0;
    auto generations = find_generations(connection, projection);
    const auto swaps = generations.empty() ? 0 : generations.front().swaps;
    for (auto& generation : generations) {
        Line line;
        if (generation.role == Role::scratch) {
            line.records = count_records(connection, generation);
        } else {
            const auto progress = find_progress(connection, generation.schema);
            line.records = std::accumulate(progress.begin(), progress.end(), std::int64_t{0});
        }
        if (generation.role == Role::live) live = line.records;
        const auto name = "generations_dead_letters_" + generation.schema;
        const auto sql = "select count(*) from " + pg::quote_identifier(generation.schema, "dead_letters") +
                         " where status = 'open'";
        line.dead_letters = connection.run(pg::Statement{name.c_str(), sql.c_str()}).integer(0, 0);
        line.folders = find_folders(connection, projection, generation.target.generation);
        line.generation = std::move(generation);
        lines.push_back(std::move(line));
    }
    for (auto& line : lines) {
        if (line.generation.role != Role::scratch) line.behind = std::max<std::int64_t>(0, live - line.records);
    }
    for (const auto& now : find_generations(connection, projection)) {
        if (now.swaps != swaps) return std::nullopt;
    }
    return lines;
}

std::vector<Line> gather(pg::Connection& connection, const Projection& projection) {
    constexpr int kTries = 10;
    for (int n = 1;; ++n) {
        try {
            if (auto lines = try_gather(connection, projection)) return *std::move(lines);
        } catch (const pg::Error& error) {
            if (!tables_moved(error) || n >= kTries) throw;
        }
        if (n >= kTries) throw std::runtime_error("generations change places all the time: try again");
    }
}

void write_table(const std::vector<Line>& lines, std::ostream& out) {
    out << std::right << std::setw(3) << "GEN"
        << "  " << std::left << std::setw(10) << "ROLE" << std::setw(16) << "FINGERPRINT" << std::right << std::setw(15)
        << "RECORDS" << std::setw(15) << "BEHIND LIVE" << std::setw(14) << "DEAD LETTERS"
        << "  " << std::left << std::setw(28) << "MADE"
        << "FOLDED BY\n";
    for (const auto& line : lines) {
        const auto& generation = line.generation;
        out << std::right << std::setw(3) << generation.target.generation << "  " << std::left << std::setw(10)
            << to_string(generation.role) << std::setw(16) << generation.fingerprint << std::right << std::setw(15)
            << with_commas(line.records) << std::setw(15) << (line.behind ? with_commas(*line.behind) : "-")
            << std::setw(14) << with_commas(line.dead_letters) << "  " << std::left << std::setw(28)
            << schemas::format_instant(generation.created_at) << (line.folders.empty() ? "(nobody)" : "");
        for (const auto& folder : line.folders)
            out << (&folder == &line.folders.front() ? "" : " ") << folder.instance;
        out << '\n';
    }
}

void write_json(const std::string& stream, const std::vector<Line>& lines, std::ostream& out) {
    using schemas::json::append_string;
    std::string json = "{\"stream\":";
    append_string(json, stream);
    json += ",\"generations\":[";
    for (const auto& line : lines) {
        const auto& generation = line.generation;
        if (json.back() != '[') json += ',';
        json += "{\"generation\":" + std::to_string(generation.target.generation) + ",\"role\":";
        append_string(json, to_string(generation.role));
        json += ",\"schema\":";
        append_string(json, generation.schema);
        json += ",\"fingerprint\":";
        append_string(json, generation.fingerprint);
        json += ",\"records\":" + std::to_string(line.records);
        if (line.behind) json += ",\"behind\":" + std::to_string(*line.behind);
        json += ",\"deadLetters\":" + std::to_string(line.dead_letters) + ",\"createdAt\":";
        append_string(json, schemas::format_instant(generation.created_at));
        if (generation.retired_at) {
            json += ",\"retiredAt\":";
            append_string(json, schemas::format_instant(*generation.retired_at));
        }
        json += ",\"foldedBy\":[";
        for (const auto& folder : line.folders) {
            if (json.back() != '[') json += ',';
            append_string(json, folder.instance);
        }
        json += "]}";
    }
    out << json << "]}\n";
}

DiffFormat format_of(const std::string& name) {
    return name == "json" ? DiffFormat::json : name == "csv" ? DiffFormat::csv : DiffFormat::table;
}

DiffOptions diff_options(const OperateOptions& options) {
    DiffOptions diff;
    diff.owner_dsn = options.owner_dsn;
    diff.top = static_cast<std::size_t>(options.top);
    diff.timeout = options.timeout;
    diff.cancelled = options.cancelled;
    return diff;
}

// Compares them and shows how far that is.
Diff compare_shown(const OperateOptions& options, const Pair& pair, std::ostream& progress) {
    const base::SystemClock clock;
    const base::MeanRate rate(clock);
    base::ProgressBar bar(progress, base::ProgressBar::style_of_standard_error(options.json()),
                          "diff " + options.stream, "bytes");
    auto comparing = diff_options(options);
    comparing.on_progress = [&](std::int64_t done, std::int64_t total) {
        bar.show({.done = done, .total = total, .rate = rate.of(done)}, clock.steady());
    };
    return compare(comparing, pair.live, pair.next);
}

// A consumer that has just taken a generation up tells so within seconds.
std::chrono::milliseconds patience(const OperateOptions& options) {
    return std::min<std::chrono::milliseconds>(options.timeout, std::chrono::seconds(10));
}

void write_swap(const OperateOptions& options, const Pair& pair, const std::vector<std::int64_t>& vector,
                std::ostream& out) {
    if (options.json()) {
        std::string json = "{\"stream\":";
        schemas::json::append_string(json, options.stream);
        json += ",\"live\":" + std::to_string(pair.next.target.generation) +
                ",\"before\":" + std::to_string(pair.live.target.generation) + ",\"offsets\":[";
        for (const auto offset : vector) {
            if (json.back() != '[') json += ',';
            json += std::to_string(offset);
        }
        out << json << "]}\n";
        return;
    }
    out << "generation " << pair.next.target.generation << " of " << options.stream << " is live now, generation "
        << pair.live.target.generation << " was it before; both at offsets";
    for (const auto offset : vector)
        out << ' ' << offset;
    out << '\n';
}

// Lets the two change their places and says so.
void swap(const OperateOptions& options, const Pair& pair, Role leaving, std::ostream& out) {
    const auto vector = swap_generations({.owner_dsn = options.owner_dsn,
                                          .leaving = leaving,
                                          .timeout = options.timeout,
                                          .cancelled = options.cancelled},
                                         pair);
    write_swap(options, pair, vector, out);
}

}  // namespace

int show_generations(const OperateOptions& options, std::ostream& out) {
    const auto& projection = projection_of(options.stream);
    auto connection = connect(options.consumer_dsn);
    const auto lines = gather(connection, projection);
    if (options.json()) {
        write_json(options.stream, lines, out);
    } else {
        write_table(lines, out);
    }
    return base::kDone;
}

namespace {

// Never closed: the process ends with what it was opened for.
int open_file(const std::string& path) {
    if (path == "-") return STDIN_FILENO;
    const int file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (file < 0)
        throw Refused(path + " cannot be read: " + std::strerror(errno) + "; check the path and its permissions");
    struct stat status {};
    if (::fstat(file, &status) == 0 && S_ISDIR(status.st_mode)) throw Refused(path + " is a directory; name a file");
    return file;
}

// -1: nobody knows.
std::int64_t size_of(int file) {
    struct stat status {};
    return ::fstat(file, &status) == 0 && S_ISREG(status.st_mode) ? static_cast<std::int64_t>(status.st_size) : -1;
}

void write_scratch_json(const OperateOptions& options, const ScratchReport& report, std::ostream& out) {
    using schemas::json::append_string;
    std::string json = "{\"stream\":";
    append_string(json, options.stream);
    json += ",\"complete\":" + std::string(report.complete ? "true" : "false");
    if (report.complete && options.keep) {
        json += ",\"generation\":" + std::to_string(report.generation) + ",\"schema\":";
        append_string(json, report.schema);
    }
    json += ",\"records\":" + std::to_string(report.records) +
            ",\"skipped\":" + std::to_string(report.of_other_streams + report.decisions) +
            ",\"applied\":" + std::to_string(report.applied) + ",\"duplicates\":" + std::to_string(report.duplicates) +
            ",\"parked\":{";
    for (const auto& [reason, count] : report.parked) {
        if (json.back() != '{') json += ',';
        append_string(json, reason);
        json += ":" + std::to_string(count);
    }
    json += "}";
    if (report.complete) {
        json += ",\"digest\":";
        append_string(json, report.digest);
        if (!options.expect.empty()) {
            json += ",\"expected\":";
            append_string(json, options.expect);
            json += ",\"equal\":" + std::string(report.digest == options.expect ? "true" : "false");
        }
    }
    out << json << "}\n";
}

void write_scratch_text(const OperateOptions& options, const ScratchReport& report, std::ostream& out) {
    if (!report.complete) {
        out << "stopped after " << with_commas(report.records) << " records; nothing of it is left\n";
        return;
    }
    out << with_commas(report.records) << " records: " << with_commas(report.applied) << " applied, "
        << with_commas(report.duplicates) << " duplicates, " << with_commas(report.all_parked()) << " parked";
    for (const auto& [reason, count] : report.parked)
        out << (reason == report.parked.begin()->first ? " (" : ", ") << with_commas(count) << ' ' << reason;
    out << (report.parked.empty() ? "\n" : ")\n");
    if (report.of_other_streams > 0) out << with_commas(report.of_other_streams) << " lines of other streams skipped\n";
    if (report.decisions > 0) {
        out << with_commas(report.decisions)
            << " decisions about dead letters skipped: the file does not say where its records stood\n";
    }
    if (options.keep) {
        const auto number = std::to_string(report.generation);
        out << "generation " << number << " keeps the tables, in schema " << report.schema
            << ", until tidemark-consumer drop " << options.stream << ' ' << number << '\n';
    }
    if (!options.expect.empty()) {
        const bool is_equal = report.digest == options.expect;
        out << "expected " << options.expect << (is_equal ? ": equal\n" : ": it differs\n");
    }
    out << "digest " << report.digest << '\n';
}

int replay_file(const OperateOptions& options, std::ostream& out, std::ostream& progress) {
    const auto& projection = projection_of(options.stream);
    const base::SystemClock clock;
    const base::MeanRate rate(clock);
    const int file = open_file(options.file);
    base::Input input(file, options.cancelled);
    std::istream lines(&input);
    ScratchOptions folding;
    folding.owner_dsn = options.owner_dsn;
    folding.keep = options.keep;
    folding.cancelled = options.cancelled;
    ScratchReport report;
    {
        base::ProgressBar bar(progress, base::ProgressBar::style_of_standard_error(options.json()),
                              "replay " + options.file, "bytes");
        folding.on_progress = [&, size = size_of(file)](const ScratchReport& seen) {
            bar.show({.done = input.bytes(),
                      .total = size,
                      .rate = rate.of(input.bytes()),
                      .counts = {{"records", seen.records}, {"parked", seen.all_parked()}}},
                     clock.steady());
        };
        report = fold_file(folding, projection, lines);
    }
    options.json() ? write_scratch_json(options, report, out) : write_scratch_text(options, report, out);
    const bool is_as_expected = options.expect.empty() || options.expect == report.digest;
    return report.complete && is_as_expected ? base::kDone : base::kFailed;
}

}  // namespace

int run_replay(const OperateOptions& options, std::ostream& out, std::ostream& progress) {
    if (!options.file.empty()) return replay_file(options, out, progress);
    const auto& projection = projection_of(options.stream);
    const base::SystemClock clock;
    const auto what = "replay " + options.stream;
    ReplayOptions replaying;
    replaying.owner_dsn = options.owner_dsn;
    replaying.lane = options.lane;
    replaying.cancelled = options.cancelled;
    ReplayProgress done;
    {
        base::ProgressBar bar(progress, base::ProgressBar::style_of_standard_error(options.json()), what, "records");
        replaying.on_progress = [&](const ReplayProgress& seen) {
            bar.show(
                {.done = seen.records, .total = seen.target, .rate = seen.rate, .counts = {{"parked", seen.parked}}},
                clock.steady());
        };
        done = replay(replaying, projection, clock);
    }
    const auto number = std::to_string(done.generation);
    const auto seconds = std::max(done.elapsed, 1e-3);
    if (options.json()) {
        out << "{\"stream\":\"" << options.stream << "\",\"generation\":" << number
            << ",\"caughtUp\":" << (done.caught_up ? "true" : "false") << ",\"records\":" << done.records
            << ",\"read\":" << done.read << ",\"parked\":" << done.parked << ",\"seconds\":" << std::fixed
            << std::setprecision(3) << done.elapsed << "}\n";
    } else if (done.caught_up) {
        out << "generation " << number << " of " << options.stream << " has caught up: " << with_commas(done.records)
            << " records, " << with_commas(done.parked) << " parked, " << std::fixed << std::setprecision(1)
            << done.elapsed << " s ("
            << with_commas(static_cast<std::int64_t>(static_cast<double>(done.read) / seconds))
            << "/s)\nConsumers of fingerprint " << projection.fingerprint()
            << " keep it up to date from here. Next: tidemark-consumer diff " << options.stream
            << ", then promote or drop it.\n";
    } else {
        out << "stopped at " << with_commas(done.records) << " of " << with_commas(done.target)
            << " records. Run tidemark-consumer " << what << " again to go on with generation " << number
            << ", or tidemark-consumer drop " << options.stream << ' ' << number << " to remove it.\n";
    }
    return done.caught_up ? base::kDone : base::kFailed;
}

int show_diff(const OperateOptions& options, std::ostream& out, std::ostream& progress) {
    const auto& projection = projection_of(options.stream);
    auto connection = connect(options.owner_dsn);
    const auto pair = choose_pair(connection, projection, Choice::candidate_or_retired, options.generation);
    const auto diff = compare_shown(options, pair, progress);
    write_diff(diff, format_of(options.format), out);
    return diff.differing() <= options.max_diff ? base::kDone : base::kFailed;
}

int run_verify(const OperateOptions& options, std::ostream& out, std::ostream& progress) {
    const auto& projection = projection_of(options.stream);
    std::optional<Generation> generation;
    {
        auto connection = connect(options.owner_dsn);
        for (auto& one : find_generations(connection, projection)) {
            const bool is_it =
                options.generation == 0 ? one.role == Role::live : one.target.generation == options.generation;
            if (is_it) generation = std::move(one);
        }
    }
    if (!generation && options.generation == 0) throw no_tables(projection);
    if (!generation) {
        throw Refused("stream " + options.stream + " has no generation " + std::to_string(options.generation) +
                      ": see `tidemark-consumer generations " + options.stream + "`");
    }
    refuse_scratch(*generation);
    VerifyOptions verifying;
    verifying.dsn = options.owner_dsn;
    verifying.brokers = options.lane.brokers;
    verifying.kafka_properties = options.lane.kafka_properties;
    verifying.top = options.deep ? static_cast<std::size_t>(options.top) : 0;
    verifying.memory = options.memory;
    verifying.timeout = options.timeout;
    verifying.cancelled = options.cancelled;
    Diff diff;
    {
        const base::SystemClock clock;
        const base::MeanRate rate(clock);
        base::ProgressBar bar(progress, base::ProgressBar::style_of_standard_error(options.json()),
                              "verify " + options.stream, "records");
        verifying.on_progress = [&](const VerifyProgress& seen) {
            bar.show({.done = seen.records, .total = seen.total, .rate = rate.of(seen.records)}, clock.steady());
        };
        diff = verify(verifying, *generation);
    }
    write_diff(diff, format_of(options.format), out);
    if (diff.differing() == 0) return base::kDone;
    if (options.format == "table") {
        out << (options.deep ? "" : "Run it with --deep to see which. ") << "To mend them: ";
        const auto number = std::to_string(generation->target.generation);
        if (generation->role == Role::live) {
            out << "tidemark-consumer replay " << options.stream << ", verify what it made, promote --accept-diff.\n";
        } else {
            out << "tidemark-consumer drop " << options.stream << ' ' << number << ", then replay.\n";
        }
    }
    return base::kFailed;
}

int show_dead_letters(const OperateOptions& options, std::ostream& out) {
    const auto& projection = projection_of(options.stream);
    const auto live = live_of(options, projection);
    DeadLetterOptions letters;
    letters.dsn = options.consumer_dsn;
    letters.letter = schemas::parse_position(options.letter);
    letters.reason = options.reason;
    letters.limit = options.top;
    letters.json = options.json();
    write_dead_letters(letters, live, out);
    return base::kDone;
}

namespace {

int decide(const OperateOptions& options, DecideOptions deciding, std::ostream& out) {
    const auto& projection = projection_of(options.stream);
    deciding.letter = schemas::parse_position(options.letter);
    if (!deciding.letter && options.reason.empty() && !options.all)
        throw Refused("which ones? Say PARTITION:OFFSET, --reason REASON or --all");
    const auto live = live_of(options, projection);
    if (!live.is_of_this_program()) {
        throw Refused("the tables that are read are of fingerprint " + live.fingerprint + ", this program's is " +
                      projection.fingerprint() + ": decide with the program that folds them");
    }
    deciding.dsn = options.consumer_dsn;
    deciding.brokers = options.lane.brokers;
    deciding.kafka_properties = options.lane.kafka_properties;
    deciding.reason = options.reason;
    deciding.dry_run = options.dry_run;
    deciding.json = options.json();
    deciding.timeout = options.timeout;
    deciding.cancelled = options.cancelled;
    return decide_dead_letters(deciding, live, out) ? base::kDone : base::kFailed;
}

}  // namespace

int redrive(const OperateOptions& options, std::ostream& out) {
    DecideOptions deciding;
    if (!options.edit.empty()) {
        if (options.letter.empty()) throw Refused("--edit is for one letter: say PARTITION:OFFSET");
        std::ifstream file(options.edit, std::ios::binary);
        std::string text{std::istreambuf_iterator<char>(file), {}};
        if (!file.good() && !file.eof())
            throw Refused(options.edit + " cannot be read; check the path and its permissions");
        while (text.ends_with('\n') || text.ends_with('\r'))
            text.pop_back();
        if (text.empty())
            throw Refused(options.edit + " is empty; put the letter's value there as it should have been");
        deciding.edit = std::move(text);
    }
    return decide(options, std::move(deciding), out);
}

int discard(const OperateOptions& options, std::ostream& out) {
    DecideOptions deciding;
    deciding.redrive = false;
    if (!options.note.empty()) deciding.note = options.note;
    return decide(options, std::move(deciding), out);
}

int promote(const OperateOptions& options, std::ostream& out, std::ostream& progress) {
    const auto& projection = projection_of(options.stream);
    auto connection = connect(options.owner_dsn);
    const auto pair = choose_pair(connection, projection, Choice::candidate, options.generation);
    check_is_folded(connection, pair.next, patience(options));
    if (!options.accept_diff) {
        const auto diff = compare_shown(options, pair, progress);
        if (const auto rows = diff.differing(); rows > options.max_diff) {
            throw Refused("generation " + std::to_string(pair.next.target.generation) + " differs in " +
                          with_commas(rows) + " rows, " + with_commas(options.max_diff) +
                          " are allowed. Look at them with `tidemark-consumer diff " + options.stream +
                          "`; then promote with --max-diff " + std::to_string(rows) + " or --accept-diff, or drop it");
        }
    }
    swap(options, pair, Role::retired, out);
    if (!options.json()) out << "To go back: tidemark-consumer rollback " << options.stream << '\n';
    return base::kDone;
}

int roll_back(const OperateOptions& options, std::ostream& out) {
    const auto& projection = projection_of(options.stream);
    auto connection = connect(options.owner_dsn);
    const auto pair = choose_pair(connection, projection, Choice::retired, 0);
    check_is_folded(connection, pair.next, patience(options));
    swap(options, pair, Role::candidate, out);
    return base::kDone;
}

int drop(const OperateOptions& options, std::ostream& out) {
    const auto& projection = projection_of(options.stream);
    drop_generation(options.owner_dsn, projection, static_cast<int>(options.generation));
    if (options.json()) {
        std::string json = "{\"stream\":";
        schemas::json::append_string(json, options.stream);
        out << json << ",\"dropped\":" << options.generation << "}\n";
    } else {
        out << "generation " << options.generation << " of " << options.stream << " is gone\n";
    }
    return base::kDone;
}

}  // namespace tidemark::consumers
