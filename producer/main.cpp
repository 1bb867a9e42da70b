#include "infra/base/clock.h"
#include "infra/base/exit_code.h"
#include "infra/base/input.h"
#include "infra/base/log.h"
#include "infra/base/metrics.h"
#include "infra/base/progress.h"
#include "infra/base/settings.h"
#include "infra/base/shutdown.h"
#include "infra/http/endpoint.h"
#include "infra/http/operations.h"
#include "infra/http/server.h"
#include "infra/kafka/properties.h"
#include "infra/postgres/error.h"
#include "producer/convert.h"
#include "producer/event_publisher.h"
#include "producer/export.h"
#include "producer/import.h"
#include "producer/intake.h"
#include "producer/publisher_telemetry.h"
#include "schemas/dead_letter.h"
#include "schemas/json.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <exception>
#include <fstream>
#include <functional>
#include <initializer_list>
#include <iostream>
#include <memory>
#include <optional>
#include <sstream>
#include <stdexcept>
#include <streambuf>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <variant>
#include <vector>

namespace {

using namespace tidemark;
using namespace tidemark::producer;
using std::chrono::milliseconds;
namespace log = base::log;

struct Options {
    std::string brokers = "127.0.0.1:9092";
    std::string kafka_config;
    std::string admin_listen = "127.0.0.1:3335";
    bool admin_listen_given = false;
    std::string log_level = "warn";
    std::string file;
    std::string id;
    std::int64_t from_line = 1;
    bool json = false;
    std::string type;
    std::string data;
    std::string time;
    std::string stream;
    std::string output = "-";
    std::string from;
    std::string to;
    std::int64_t partition = -1;
    bool positions = false;
    std::string kind;
    ConvertOptions converting;
    milliseconds give_up{60'000};
};

// Null: another import has the default address, which is no reason to fail this one.
std::unique_ptr<http::Server> start_admin_listener(const Options& options, const http::Router& router) {
    http::ServerOptions server_options;
    const auto endpoint = http::read_endpoint(options.admin_listen).value();  // its check has seen it
    server_options.address = endpoint.address;
    server_options.port = endpoint.port;
    server_options.threads = 1;
    auto server = std::make_unique<http::Server>(server_options, router, http::plain_problem);
    try {
        server->start();
    } catch (const std::system_error& error) {
        if (options.admin_listen_given || error.code() != std::errc::address_in_use) {
            throw std::runtime_error(std::string(error.what()) +
                                     "; stop what listens there, or give another --admin-listen");
        }
        log::warn("not_watchable",
                  {{"error", error.what()},
                   {"hint", "the import goes on; to watch several at once, give each --admin-listen"}});
        return nullptr;
    }
    log::info("started", {{"admin_port", server->port()}});
    return server;
}

/// Standard error, above a bar that is drawn there: line by line.
class AboveBar final : public std::streambuf {
public:
    explicit AboveBar(base::ProgressBar& bar) : bar_(bar) {}

protected:
    int_type overflow(int_type c) override {
        if (traits_type::eq_int_type(c, traits_type::eof())) return traits_type::not_eof(c);
        line_ += traits_type::to_char_type(c);
        if (c == '\n') {
            bar_.clear();
            // In one piece, for the log's lines come from another thread.
            std::cerr.write(line_.data(), static_cast<std::streamsize>(line_.size()));
            line_.clear();
        }
        return c;
    }

private:
    base::ProgressBar& bar_;
    std::string line_;
};

/// What an import is of.
struct Source {
    std::istream& lines;
    std::string file;                   ///< as its records' headers name it; empty: they do not
    std::uint64_t from = 1;             ///< line
    std::int64_t bytes = -1;            ///< of a file; -1: nobody knows
    const base::Input* read = nullptr;  ///< null: it is over before anybody could look
};

// As a shell takes it.
std::string quoted(const std::string& word) {
    constexpr std::string_view kPlain = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-./:,=@%+";
    if (!word.empty() && word.find_first_not_of(kPlain) == std::string::npos) return word;
    std::string out = "'";
    for (const char c : word)
        out += c == '\'' ? std::string("'\\''") : std::string(1, c);
    return out + '\'';
}

// What goes on where an import ended.
std::string command_from(const Options& options, std::uint64_t line) {
    const Options defaults;
    std::string command = "tidemark-producer import " + quoted(options.file);
    if (!options.id.empty()) command += " --id " + quoted(options.id);
    if (options.brokers != defaults.brokers) command += " --brokers " + quoted(options.brokers);
    if (!options.kafka_config.empty()) command += " --kafka-config " + quoted(options.kafka_config);
    return command + " --from-line " + std::to_string(line);
}

void report_import(const Options& options, const Source& source, const ImportReport& report) {
    if (options.json) {
        std::string json =
            "{\"lines\":" + std::to_string(report.lines) + ",\"stored\":" + std::to_string(report.accepted) +
            ",\"refused\":" + std::to_string(report.refused) + ",\"skipped\":" + std::to_string(report.skipped) +
            ",\"notStored\":" + std::to_string(report.failed) + ",\"unknown\":" + std::to_string(report.unknown) +
            ",\"complete\":" + (report.complete ? "true" : "false") + ",\"file\":";
        source.file.empty() ? json.append("null") : json.append("\"" + source.file + "\"");
        json += ",\"fromLine\":" + (report.next_line == 0 ? "null" : std::to_string(report.next_line));
        std::cout << json << "}\n";
    } else {
        std::cout << report.accepted << " of " << report.lines << " events stored";
        if (report.refused > 0) std::cout << ", " << report.refused << " refused";
        if (report.skipped > 0) std::cout << ", " << report.skipped << " of another log's own skipped";
        if (report.failed > 0) std::cout << ", " << report.failed << " not stored";
        if (report.unknown > 0) std::cout << ", " << report.unknown << " unknown";
        std::cout << '\n';
    }
    std::cout.flush();
    if (source.read == nullptr) {
        if (report.unknown > 0)
            std::cerr << "try: look whether it is there before you send it again, for it would count again\n";
        return;
    }
    if (report.next_line > 0) {
        std::cerr << "try: " << command_from(options, report.next_line) << '\n';
        if (source.file.empty())
            std::cerr << "     Its lines have no names: those from there on that are stored would count again, but for "
                         "events with an idempotencykey. --id NAME gives them some\n";
    }
    if (report.refused > 0 && options.id.empty()) {
        std::cerr << "try: mend the lines named above in a file of their own, and import that: with other bytes this "
                     "one is another file, and all of it counts again\n";
    } else if (report.refused > 0) {
        std::cerr << "try: mend the lines named above, each in its place, and import it again with the same --id\n";
    }
}

// Publishes the lines and says how it went. Gives up when told to stop, or when nothing could be stored for
// --give-up.
ImportReport publish_lines(const Options& options, const Source& source, const base::Shutdown& shutdown) {
    const base::SystemClock clock;
    base::Metrics metrics;
    ImportMetrics import_metrics(metrics);
    PublisherTelemetry publisher_telemetry(metrics);
    kafka::ProducerOptions producer_options;
    producer_options.brokers = options.brokers;
    producer_options.topics = topics();
    producer_options.properties = kafka::read_properties(options.kafka_config);
    producer_options.client_id = "tidemark-producer";
    producer_options.linger = std::chrono::milliseconds(5);  // a file is in no hurry: larger batches
    EventPublisher publisher({}, clock, EventPublisher::kafka_sink(std::move(producer_options)));

    http::Router router;
    http::OperationsOptions operations;
    operations.refresh = [&] { publisher_telemetry.refresh(publisher.counters(), publisher.available()); };
    http::add_operations(
        router, metrics,
        [&]() -> std::optional<std::string> {
            if (publisher.available()) return std::nullopt;
            return "the log cannot be reached (broker)";
        },
        std::move(operations));
    const auto server = source.read != nullptr ? start_admin_listener(options, router) : nullptr;

    base::ProgressBar bar(std::cerr, base::ProgressBar::style_of_standard_error(options.json), "import " + options.file,
                          "bytes");
    AboveBar above(bar);
    std::ostream errors(&above);

    ImportOptions importing;
    importing.file = source.file;
    importing.from_line = source.from;
    const base::MeanRate rate(clock);
    auto progressed = clock.steady();
    std::uint64_t accepted = 0;
    importing.give_up = [&](milliseconds wait) {
        if (shutdown.wait_for(wait)) return true;
        if (const auto now_accepted = publisher.counters().accepted;
            now_accepted != accepted || publisher.available()) {
            accepted = now_accepted;
            progressed = clock.steady();
        }
        return clock.steady() - progressed > options.give_up;
    };
    if (source.read != nullptr) {
        importing.on_progress = [&](const ImportReport& so_far) {
            const auto bytes = source.read->bytes();
            bar.show({.done = bytes,
                      .total = source.bytes,
                      .rate = rate.of(bytes),
                      .counts = {{"stored", static_cast<std::int64_t>(so_far.accepted)},
                                 {"refused", static_cast<std::int64_t>(so_far.refused)},
                                 {"skipped", static_cast<std::int64_t>(so_far.skipped)}}},
                     clock.steady());
        };
    }
    auto report = import_lines(source.lines, publisher, import_metrics, clock, errors, importing);
    if (server) server->drain(milliseconds(500));
    return report;
}

void start_log(const Options& options) {
    log::start("tidemark-producer", log::level_of(options.log_level));
}

struct stat status_of(int file) {
    struct stat status {};
    if (::fstat(file, &status) != 0) throw std::system_error(errno, std::generic_category(), "fstat");
    return status;
}

int import_file(const Options& options) {
    start_log(options);
    const base::Shutdown shutdown;
    const auto stopped = [&shutdown] { return shutdown.requested(); };
    // Never closed: the process ends with the import.
    const int file = options.file == "-" ? STDIN_FILENO : ::open(options.file.c_str(), O_RDONLY | O_CLOEXEC);
    if (file < 0) {
        std::cerr << "error: cannot read " << options.file << ": " << std::strerror(errno)
                  << "; check the path and its permissions\n";
        return base::kWrongUse;
    }
    const auto before = status_of(file);
    if (S_ISDIR(before.st_mode)) {
        std::cerr << "error: cannot read " << options.file << ": it is a directory; name a file\n";
        return base::kWrongUse;
    }
    const bool has_size = S_ISREG(before.st_mode);
    // What comes through a pipe cannot be read twice, and is not known to be the same the next time.
    const bool is_hashed = has_size && options.file != "-" && options.id.empty();
    std::string hash;
    if (is_hashed) {
        base::Input input(file, stopped);
        std::istream bytes(&input);
        hash = hash_of(bytes);
        if (::lseek(file, 0, SEEK_SET) != 0) throw std::system_error(errno, std::generic_category(), "lseek");
    } else if (!options.id.empty()) {
        std::istringstream name(options.id);
        hash = hash_of(name);
    }
    base::Input input(file, stopped);
    std::istream lines(&input);
    const Source source{lines, hash, static_cast<std::uint64_t>(options.from_line),
                        has_size && options.file != "-" ? static_cast<std::int64_t>(before.st_size) : -1, &input};
    const auto report = publish_lines(options, source, shutdown);
    report_import(options, source, report);
    if (!is_hashed) return report.clean() ? base::kDone : base::kFailed;
    const auto after = status_of(file);
    const bool is_same = after.st_size == before.st_size && after.st_mtim.tv_sec == before.st_mtim.tv_sec &&
                         after.st_mtim.tv_nsec == before.st_mtim.tv_nsec;
    if (!is_same) {
        std::cerr
            << "error: " << options.file
            << " was written to while it was imported: as it is now it is another file, and all of it would count "
               "again\ntry: for a file that grows, import it with --id NAME from its first line on\n";
    }
    return report.clean() && is_same ? base::kDone : base::kFailed;
}

int send(const Options& options) {
    if (schemas::dead_letter::is_decision(options.type)) {
        std::cerr << "error: " << options.type
                  << " is a decision about a dead letter; `tidemark-consumer redrive` and `discard` make them\n";
        return base::kWrongUse;
    }
    const base::SystemClock clock;
    schemas::Timestamp time = clock.now();
    if (!options.time.empty()) {
        const auto given = schemas::parse_instant(options.time);
        if (!given) {
            std::cerr << "error: --time \"" << options.time << "\" is no instant; try 2026-11-20T10:00:00Z\n";
            return base::kWrongUse;
        }
        time = *given;
    }
    schemas::json::Reader reader;
    if (const auto data = reader.parse(options.data); !data) {
        std::cerr << "error: DATA " << describe(data.violations()) << "; try '{\"key\":\"abcdef\",\"value\":1}'\n";
        return base::kWrongUse;
    }
    std::string event;
    schemas::append_event(
        event, {schemas::make_uuid7(time), "/send", options.type, time, std::nullopt, std::nullopt, options.data});
    start_log(options);
    std::istringstream line(event);
    const base::Shutdown shutdown;
    const Source source{.lines = line, .file = {}};
    const auto report = publish_lines(options, source, shutdown);
    report_import(options, source, report);
    return report.clean() ? base::kDone : base::kFailed;
}

// "" is the log's own end; a number is an offset, which means something in one partition alone.
std::optional<Bound> read_bound(const std::string& text) {
    if (text.empty()) return Bound{};
    if (const auto offset = schemas::json::to_integer(text, 0, INT64_MAX)) return Bound{*offset};
    if (const auto instant = schemas::parse_instant(text)) return Bound{*instant};
    return std::nullopt;
}

std::vector<std::string> check_export(const Options& options) {
    std::vector<std::string> wrong;
    if (schemas::find_stream(options.stream) == nullptr)
        wrong.push_back("STREAM: there is no stream " + options.stream);
    for (const auto& [name, text] : {std::pair("from", &options.from), {"to", &options.to}}) {
        const auto bound = read_bound(*text);
        if (!bound)
            wrong.push_back(std::string(name) + ": neither an offset nor an instant, e.g. 2026-11-20T10:00:00Z");
        else if (std::holds_alternative<std::int64_t>(*bound) && options.partition < 0)
            wrong.push_back(std::string(name) + ": an offset needs --partition");
    }
    return wrong;
}

/// Where --output goes. A file of that name stays as it was until the whole of the new one stands beside it.
class Output {
public:
    explicit Output(const Options& options) : path_(options.output), is_standard_(options.output == "-") {}
    Output(const Output&) = delete;
    Output& operator=(const Output&) = delete;
    ~Output() {
        if (lock_ < 0) return;
        if (file_.is_open() && file_.tellp() == std::streampos(0)) ::unlink(part_.c_str());
        ::close(lock_);
    }

    /// False, having said why: it cannot be written.
    bool open() {
        if (is_standard_) return true;
        struct stat there {};
        const bool is_there = ::lstat(path_.c_str(), &there) == 0;
        is_replaced_ = !is_there || S_ISREG(there.st_mode);
        part_ = is_replaced_ ? path_ + ".part" : path_;
        if (is_there && ::access(path_.c_str(), W_OK) != 0) return failed("cannot write ", path_);
        if (is_replaced_ && !lock_part(is_there ? there.st_mode & 07777U : 0666U, is_there)) return false;
        file_.open(part_, std::ios::binary | std::ios::trunc);
        return static_cast<bool>(file_) || failed("cannot write ", part_);
    }
    std::ostream& stream() { return is_standard_ ? std::cout : file_; }
    /// Gives what was written its name, if it is all; false, having said why: it has not got it.
    bool end(bool is_whole) {
        if (!is_whole) {
            std::cerr << "stopped before the end: what was written" << (is_replaced_ ? ", to " + part_ + "," : "")
                      << " is whole lines, but not all; run it again\n";
            return false;
        }
        if (is_standard_) return true;
        file_.close();
        if (!file_ || (is_replaced_ && ::fsync(lock_) != 0)) return failed("cannot write ", part_);
        if (is_replaced_ && ::rename(part_.c_str(), path_.c_str()) != 0)
            return failed("all of it stands in " + part_ + ", but cannot replace ", path_);
        return true;
    }

private:
    // Two that write the same file would make neither's. The mode is the old file's.
    bool lock_part(mode_t mode, bool is_kept) {
        lock_ = ::open(part_.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, mode);
        if (lock_ < 0) return failed("cannot write ", part_);
        struct stat locked {};
        struct stat named {};
        // One that has just ended may have renamed it meanwhile.
        if (::flock(lock_, LOCK_EX | LOCK_NB) != 0 || ::fstat(lock_, &locked) != 0 ||
            ::stat(part_.c_str(), &named) != 0 || named.st_ino != locked.st_ino) {
            std::cerr << "error: " << part_ << " is being written to by another; run it again when that has ended\n";
            return false;
        }
        return !is_kept || ::fchmod(lock_, mode) == 0 || failed("cannot write ", part_);
    }

    static bool failed(const std::string& what, const std::string& path) {
        std::cerr << "error: " << what << path << ": " << std::strerror(errno)
                  << "; check that its folder is there and may be written to\n";
        return false;
    }

    std::string path_;
    std::string part_;
    std::ofstream file_;
    int lock_ = -1;  // of the part
    bool is_standard_;
    bool is_replaced_ = false;
};

// Where a JSON report goes: standard output, as everywhere, unless that carries the data.
std::ostream& beside_data(const Options& options) {
    return options.output == "-" ? std::cerr : std::cout;
}

int export_file(const Options& options) {
    start_log(options);
    const base::Shutdown shutdown;
    Output output(options);
    if (!output.open()) return base::kWrongUse;
    ExportOptions exporting;
    exporting.brokers = options.brokers;
    exporting.properties = kafka::read_properties(options.kafka_config);
    exporting.stream = schemas::find_stream(options.stream);
    if (options.partition >= 0) exporting.partition = static_cast<std::int32_t>(options.partition);
    exporting.from = *read_bound(options.from);
    exporting.to = *read_bound(options.to);
    exporting.positions = options.positions;
    exporting.cancelled = [&shutdown] { return shutdown.requested(); };
    const base::SystemClock clock;
    ExportReport report;
    {
        base::ProgressBar bar(std::cerr, base::ProgressBar::style_of_standard_error(options.json),
                              "export " + options.stream, "records");
        const base::MeanRate rate(clock);
        exporting.on_progress = [&](std::int64_t done, std::int64_t total) {
            bar.show({.done = done, .total = total, .rate = rate.of(done)}, clock.steady());
        };
        report = export_events(exporting, output.stream());
    }
    const bool is_whole = output.end(report.complete);
    if (options.json) {
        std::string json = "{\"stream\":";
        schemas::json::append_string(json, options.stream);
        json += ",\"records\":" + std::to_string(report.lines) + ",\"envelopes\":" + std::to_string(report.envelopes) +
                ",\"leftOut\":" + std::to_string(report.left_out) + ",\"complete\":" + (is_whole ? "true" : "false");
        beside_data(options) << json << "}\n";
    } else {
        std::cerr << report.lines << " records of " << options.stream << " written";
        if (report.envelopes > 0 && !options.positions)
            std::cerr << ", " << report.envelopes
                      << " of them as envelopes, for they are no events under their entity's key";
        if (report.left_out > 0) std::cerr << "; " << report.left_out << " of the log's own left out";
        std::cerr << '\n';
    }
    return is_whole ? base::kDone : base::kFailed;
}

std::vector<std::string> check_convert(const Options& options) {
    const auto& given = options.converting;
    std::vector<std::string> wrong;
    const auto only_for = [&](const char* kind, std::initializer_list<std::pair<const char*, bool>> them) {
        for (const auto& [name, is_there] : them) {
            if (is_there) wrong.push_back(std::string(name) + ": is for `convert " + kind + "`");
        }
    };
    const bool is_database = !given.dsn.empty();
    const auto clash = [&](bool is_csv) {
        if (is_csv && is_database) wrong.emplace_back("source-dsn: the data stand in files or in a database, not both");
    };
    if (!options.time.empty() && !schemas::parse_instant(options.time))
        wrong.emplace_back("time: is no instant, e.g. 2026-11-20T10:00:00Z");
    if (options.kind == "vehicles") {
        only_for("counters", {{"counters", !given.counters.empty()}, {"table", !given.table.empty()}});
        clash(!given.vehicles.empty() || !given.state_logs.empty());
        if (!is_database && (given.vehicles.empty() || given.state_logs.empty()))
            wrong.emplace_back("give --vehicles FILE and --state-logs FILE, or --source-dsn");
    } else if (options.kind == "counters") {
        only_for("vehicles", {{"vehicles", !given.vehicles.empty()}, {"state-logs", !given.state_logs.empty()}});
        clash(!given.counters.empty());
        if (!is_database && given.counters.empty())
            wrong.emplace_back("give --counters FILE, or --source-dsn and --table");
        if (is_database && given.table.empty()) wrong.emplace_back("table: is needed with --source-dsn");
        if (options.time.empty()) wrong.emplace_back("time: is needed, for the table says none");
    } else {
        wrong.push_back("WHAT: \"" + options.kind + "\" is neither vehicles nor counters");
    }
    return wrong;
}

int convert(const Options& options) {
    start_log(options);
    const base::Shutdown shutdown;
    Output output(options);
    if (!output.open()) return base::kWrongUse;
    auto converting = options.converting;
    if (!options.time.empty()) converting.time = schemas::parse_instant(options.time);
    converting.now = base::SystemClock().now();
    converting.cancelled = [&shutdown] { return shutdown.requested(); };
    const base::SystemClock clock;
    ConvertReport report;
    {
        base::ProgressBar bar(std::cerr, base::ProgressBar::style_of_standard_error(options.json),
                              "convert " + options.kind, "rows");
        AboveBar above(bar);
        std::ostream errors(&above);
        const base::MeanRate rate(clock);
        converting.on_progress = [&](const ConvertReport& so_far) {
            bar.show({.done = so_far.rows,
                      .total = -1,
                      .rate = rate.of(so_far.rows),
                      .counts = {{"refused", so_far.refused}}},
                     clock.steady());
        };
        report = options.kind == "vehicles" ? convert_vehicles(converting, output.stream(), errors)
                                            : convert_counters(converting, output.stream(), errors);
    }
    const bool is_whole = output.end(report.complete);
    if (options.json) {
        beside_data(options) << "{\"rows\":" << report.rows << ",\"events\":" << report.events
                             << ",\"refused\":" << report.refused << ",\"complete\":" << (is_whole ? "true" : "false")
                             << "}\n";
    } else {
        std::cerr << report.rows << " rows, " << report.events << " events written";
        if (report.refused > 0) std::cerr << ", " << report.refused << " rows refused";
        std::cerr << '\n';
    }
    if (report.refused > 0)
        std::cerr << "try: mend the rows named above and convert all of it again, before anything is imported\n";
    return is_whole && report.refused == 0 ? base::kDone : base::kFailed;
}

int guarded(const std::function<int()>& command) {
    try {
        return command();
    } catch (const pg::Error& error) {  // the earlier service's: no other is asked here
        std::cerr
            << "error: " << error.what() << "\ntry: "
            << (error.failure() == pg::Failure::connection_lost
                    ? "see that PostgreSQL runs, and check host, port, database, role and password in --source-dsn"
                    : "see that --source-dsn names the earlier service's database, and a role that may read it; "
                      "`tidemark-producer convert --help` says which tables are expected")
            << '\n';
        return base::kFailed;
    } catch (const std::exception& error) {
        std::cerr << "error: " << error.what() << '\n';
        return base::kFailed;
    }
}

}  // namespace

int main(int argc, char** argv) {
    Options options;
    base::Settings settings("tidemark-producer", "Puts events on the log.");
    settings.text("brokers", options.brokers, "Kafka brokers, HOST:PORT,...");
    settings.text("kafka-config", options.kafka_config,
                  "File of further Kafka client settings, name=value (TLS, SASL).");
    settings.choice("log-level", options.log_level, log::level_names(), "Least level of log lines.");
    const auto give_up = [&](base::Settings& command) {
        command.duration("give-up", options.give_up, milliseconds(1'000), milliseconds(86'400'000),
                         "How long to go on without a broker that takes events.");
    };
    settings.command(
        "import", "Publish a file of events, one per line (- reads standard input)",
        [&] {
            options.admin_listen_given = settings.is_given("admin-listen");
            return guarded([&] { return import_file(options); });
        },
        [&](base::Settings& command) {
            command.argument("FILE", options.file, true,
                             "File of events, as `export` writes it. Each line counts once however often the file is "
                             "imported: its records name it by its bytes. Standard input has no name.");
            command.text("id", options.id,
                         "Names the lines by this instead of by the file's bytes: for standard input, or a file that "
                         "grows. What was imported once under the same name and number does not count again.");
            command.number("from-line", options.from_line, 1, INT64_MAX,
                           "First line that is taken; an import that ends early says which.");
            command.flag("json", options.json, "Report in JSON, and how far it is as JSON lines on standard error.");
            give_up(command);
            command.text("admin-listen", options.admin_listen,
                         "ADDRESS:PORT of /metrics and the health routes while it runs; when another program has the "
                         "default one, the import warns and goes on without.");
            command.example("counters.ndjson", "Each line counts once, however often this is done.");
            command.example("counters.ndjson --from-line 1200001", "Go on with one that ended early.");
            command.check([&] { return http::check_endpoint("admin-listen", options.admin_listen, "127.0.0.1:3335"); });
        });
    settings.command(
        "export", "Write a stream's records, one per line, as `import` takes them",
        [&] { return guarded([&] { return export_file(options); }); },
        [&](base::Settings& command) {
            std::vector<std::string> streams;
            for (const auto& stream : schemas::catalogue())
                streams.emplace_back(stream.name);
            command.argument("STREAM", options.stream, true, "Stream, e.g. counters.", std::move(streams));
            command.text("output", options.output, "File to write; - is standard output.");
            command.flag("json", options.json,
                         "Report in JSON, on standard error where standard output carries the records.");
            command.text("from", options.from,
                         "First record: an instant (the first appended at or after it), or with --partition an offset; "
                         "default: the log's start.");
            command.text("to", options.to,
                         "First record that is left out, likewise; default: the log's end as it is now.");
            command.number("partition", options.partition, -1, 1'000'000,
                           "Just this one; -1: all, one after the other.");
            command.flag("positions", options.positions,
                         "Let each line say where and when its record stood, and write the log's own records too, for "
                         "`tidemark-consumer replay --from-file`.");
            command.example("counters --output counters.ndjson", "All of it.");
            command.example("counters --from 2026-11-20T10:00:00Z --to 2026-11-20T11:00:00Z",
                            "What was appended then.");
            command.example("counters --partition 2 --from 1000 --to 2000", "Those offsets.");
            command.example("counters --from 2026-11-20T10:00:00Z --positions > case.ndjson",
                            "An incident, to be folded again just as it was.");
            command.check([&] { return check_export(options); });
        });
    settings.command(
        "convert", "Turn the data of the vehicles' or the counters' earlier service into a file for `import`",
        [&] { return guarded([&] { return convert(options); }); },
        [&](base::Settings& command) {
            auto& converting = options.converting;
            command.argument("WHAT", options.kind, true,
                             "`vehicles`: tables vehicles (id, make, model, state) and \"stateLogs\" (\"vehicleId\", "
                             "state, timestamp); `counters`: a table of keys and values.",
                             {"vehicles", "counters"});
            command.example("counters --counters totals.csv --time 2026-11-20T10:00:00Z --output counters.ndjson",
                            "From a file.");
            command.example("vehicles --source-dsn-file old.dsn --output vehicles.ndjson", "From its database.");
            command.text("vehicles", converting.vehicles,
                         "CSV file with a header line that names id,make,model,state.");
            command.text("state-logs", converting.state_logs,
                         "CSV file with a header line that names vehicleId,state,timestamp.");
            command.text("counters", converting.counters, "CSV file with a header line that names key,value.");
            command.secret("source-dsn", converting.dsn,
                           "PostgreSQL connection of the earlier service, instead of files.");
            command.text("table", converting.table, "Table of the counters in it.");
            command.text("key-column", converting.key_column, "Column of the counters' keys, in either.");
            command.text("value-column", converting.value_column, "Column of their values, integers.");
            command.text("time", options.time,
                         "When the counters stood so; when a vehicle without a state log was registered (others are at "
                         "their first state).");
            command.text("output", options.output, "File to write; - is standard output.");
            command.flag("json", options.json,
                         "Report in JSON, on standard error where standard output carries the events.");
            command.check([&] { return check_convert(options); });
        });
    settings.command(
        "send", "Publish one event", [&] { return guarded([&] { return send(options); }); },
        [&](base::Settings& command) {
            command.argument("TYPE", options.type, true, "The event's type.");
            command.argument("DATA", options.data, true, "Its data, as JSON on one line.");
            command.text("time", options.time, "When it happened; default: now.");
            give_up(command);
            command.example("tidemark.counter.incremented.v1 '{\"key\":\"abcdef\",\"value\":1}'", "One more.");
        });
    return settings.run(argc, argv);
}
