#include "consumers/verify.h"

#include "consumers/log_check.h"
#include "consumers/recount.h"
#include "infra/kafka/admin.h"
#include "infra/kafka/consumer.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <numeric>
#include <optional>
#include <stdexcept>
#include <string_view>
#include <utility>
#include <vector>

namespace tidemark::consumers {

using std::chrono::milliseconds;

namespace {

using Kind = LedgerTable::Kind;
using Offsets = std::vector<std::int64_t>;

// Rows of a table that are fetched at once.
constexpr int kRowsAtOnce = 10'000;

// What a row takes in memory, keys and values of a usual length.
constexpr std::int64_t kBytesOfRow = 600;

// A snapshot keeps vacuum from its work. What the tables took in since the last look is read while it is held when it
// is no more than this, and only for so long: mostly it has been fetched within milliseconds.
constexpr std::int64_t kFewRecords = 10'000;
constexpr milliseconds kTailLimit{500};
// At most, when the tables take in more than that all the time.
constexpr std::int64_t kManyRecords = 200'000;
constexpr milliseconds kLongestTail{20'000};

// Between two looks at whether to go on.
constexpr milliseconds kLook{200};

pg::SessionOptions session() {
    pg::SessionOptions session;
    session.application_name = "tidemark-consumer verify";
    session.statement_timeout = milliseconds(0);  // as long as the tables are big
    session.lock_timeout = std::chrono::seconds(5);
    session.idle_in_transaction_timeout = std::chrono::minutes(1);  // a stopped process must not hold a snapshot
    return session;
}

// The tables that a name stands for are not those of this generation, or not whole.
struct WrongTables {
    std::string what;
};

// More rows than memory was meant for.
struct TooManyRows {};

// Earlier than every window.
constexpr auto kAllWindows = std::numeric_limits<std::int64_t>::min();

struct Standing {
    Offsets first;
    Offsets next;
    std::int64_t windows_from = kAllWindows;  // microseconds since the epoch
};

std::int64_t records_between(const Offsets& from, const Offsets& to) {
    return std::transform_reduce(to.begin(), to.end(), from.begin(), std::int64_t{0}, std::plus<>(), std::minus<>());
}

// One pass: the log once, then the tables.
class Pass {
public:
    Pass(const VerifyOptions& options, const Generation& generation, pg::Connection& connection,
         kafka::RecordSource& log, std::size_t pass, std::size_t passes, std::int64_t most_rows,
         VerifyProgress& progress)
        : options_(options),
          generation_(generation),
          connection_(connection),
          log_(log),
          pass_(pass),
          passes_(passes),
          passes_left_(static_cast<std::int64_t>(passes - pass)),
          most_rows_(most_rows),
          progress_(progress) {}

    /// What the rows of this pass have differently, added to what is there; the offsets at which.
    Offsets run(Diff& diff) {
        auto standing = look(connection_);
        first_ = at_ = standing.first;
        // Windows that are gone by now stay so, and need no memory.
        recount_.emplace(generation_.target, pass_, passes_, standing.windows_from);
        auto few = kFewRecords;
        auto limit = kTailLimit;
        // Each lap that has not done it lets the next one hold its snapshot for longer: the tables may grow faster than
        // a lap takes.
        for (;; few = std::min(2 * few, kManyRecords), limit = std::min(2 * limit, kLongestTail)) {
            read_to(connection_, standing.next);
            standing = look(connection_);
            if (records_between(at_, standing.next) > few) continue;
            auto snapshot = connection_.begin_snapshot();
            standing = look(snapshot);
            if (records_between(at_, standing.next) > few) continue;
            if (!read_to(snapshot, standing.next, limit)) continue;
            windows_from_ = standing.windows_from;
            auto& rows = recount_->finish(first_, standing.next);
            const auto& tables = recount_->tables();
            for (std::size_t n = 0; n < tables.size(); ++n)
                compare(snapshot, n, rows, diff.tables[n]);
            return standing.next;
        }
    }

private:
    template <typename Session>
    Standing look(Session& session) {
        const auto sql =
            "select partition, first_offset, next_offset, generation, (extract(epoch from windows_from) * "
            "1000000)::bigint from " +
            table("offsets") + " order by partition";
        const auto rows = session.run({"verify_offsets", sql.c_str()});
        Standing standing;
        for (std::size_t row = 0; row < rows.size(); ++row) {
            if (rows.integer(row, 0) != static_cast<std::int64_t>(row)) break;
            if (rows.integer(row, 3) != generation_.target.generation) {
                throw WrongTables{"partition " + std::to_string(row) + " is said to be of generation " +
                                  std::to_string(rows.integer(row, 3))};
            }
            standing.first.push_back(rows.integer(row, 1));
            standing.next.push_back(rows.integer(row, 2));
            if (rows.cell(row, 4)) standing.windows_from = std::max(standing.windows_from, rows.integer(row, 4));
        }
        if (standing.next.size() != static_cast<std::size_t>(generation_.target.partitions))
            throw WrongTables{"partition " + std::to_string(standing.next.size()) + " has no row"};
        return standing;
    }

    template <typename Session>
    void load_refused(Session& session) {
        const auto sql = "select partition, \"offset\" from " + table("dead_letters") + " where reason = '" +
                         std::string(reason::kRefusedByDatabase) + "'";
        const auto rows = session.run({"verify_refused", sql.c_str()});
        for (std::size_t row = 0; row < rows.size(); ++row) {
            const schemas::Position position{static_cast<std::int32_t>(rows.integer(row, 0)), rows.integer(row, 1)};
            const auto n = static_cast<std::size_t>(position.partition);
            if (n < at_.size() && position.offset >= at_[n]) recount_->refused(position);
        }
    }

    // Takes every record below these offsets, which are in the tables, and so they are in the log. False: that took
    // longer than `limit`, and some of them are still to be taken.
    template <typename Session>
    bool read_to(Session& session, const Offsets& ends, std::optional<milliseconds> limit = std::nullopt) {
        load_refused(session);
        progress_.total = progress_.records + records_between(at_, ends) * passes_left_;
        std::vector<kafka::Start> starts;
        for (std::size_t n = 0; n < ends.size(); ++n) {
            if (at_[n] < ends[n]) starts.push_back({static_cast<std::int32_t>(n), at_[n]});
        }
        auto open = starts.size();
        if (open == 0) return true;
        const auto began = std::chrono::steady_clock::now();
        log_.assign(starts);
        auto heard = std::chrono::steady_clock::now();
        const auto reached = [&](std::int32_t partition, std::int64_t offset) {
            auto& at = at_[static_cast<std::size_t>(partition)];
            const auto end = ends[static_cast<std::size_t>(partition)];
            if (at >= end) return;
            const auto before = at;
            at = std::min(offset, end);
            progress_.records += at - before;
            heard = std::chrono::steady_clock::now();
            if (at == end) --open;
        };
        std::string ended;  // where the log ends before the tables do, as it seems
        while (open > 0) {
            if (recount_->size() > most_rows_) throw TooManyRows{};
            if (recount_->letter_bytes() > options_.memory) {
                throw Refused("dead letters that are open take more than " + std::to_string(options_.memory >> 20) +
                              " MiB: give verify more --memory, or discard them");
            }
            if (recount_->import_bytes() > options_.memory) {
                throw Refused("which lines of imported files have come takes more than " +
                              std::to_string(options_.memory >> 20) + " MiB: give verify more --memory");
            }
            if (options_.cancelled()) throw std::runtime_error("cancelled, and nothing was found out: run it again");
            for (int taken = 0; open > 0 && taken < kRowsAtOnce; ++taken) {
                const auto polled = log_.poll(taken == 0 ? kLook : milliseconds(0));
                if (const auto* record = std::get_if<kafka::Record>(&polled)) {
                    const auto n = static_cast<std::size_t>(record->partition);
                    if (at_[n] < ends[n] && record->offset < ends[n]) recount_->take(*record);
                    reached(record->partition, record->offset + 1);
                } else if (const auto* end = std::get_if<kafka::EndOfPartition>(&polled)) {
                    if (end->offset < ends[static_cast<std::size_t>(end->partition)]) ended = describe(*end, ends);
                    reached(end->partition, end->offset);
                } else {
                    break;
                }
            }
            options_.on_progress(progress_);
            const auto now = std::chrono::steady_clock::now();
            if (limit && open > 0 && now - began > *limit) return false;
            if (now - heard > options_.timeout) {
                // Not at once: a new leader may not know yet how far it may show its log.
                if (!ended.empty()) throw Refused(ended);
                throw std::runtime_error("topic " + generation_.target.topic + ": nothing came for " +
                                         std::to_string(options_.timeout.count() / 1'000) +
                                         " s: check that its brokers are there");
            }
        }
        return true;
    }

    [[nodiscard]] std::string describe(const kafka::EndOfPartition& end, const Offsets& ends) const {
        return "topic " + generation_.target.topic + ", partition " + std::to_string(end.partition) +
               ": the log ends at offset " + std::to_string(end.offset) + ", the tables stand at " +
               std::to_string(ends[static_cast<std::size_t>(end.partition)]) + ". Records that were folded are gone";
    }

    [[nodiscard]] std::string table(std::string_view name) const {
        return pg::quote_identifier(generation_.schema, name);
    }

    static std::string expression(const LedgerTable::Column& column) {
        const auto name = "t." + pg::quote_identifier(column.name);
        switch (column.kind) {
            case Kind::instant:
                return "case when isfinite(" + name + ") then (extract(epoch from " + name +
                       ") * 1000000)::bigint::text else " + name + "::text end";
            case Kind::headers:
                return "(select coalesce(string_agg(encode(h.name, 'hex') || ':' || encode(h.value, 'hex'), ',' order "
                       "by h.place), '') from unnest(t.header_names, t.header_values) with ordinality as h (name, "
                       "value, place))";
            case Kind::bytes:
                return "encode(sha256(" + name + "), 'hex')";
            case Kind::text:
            case Kind::number:
                break;
        }
        return name + "::text";
    }

    // Where in the table's key the start of a window stands.
    static std::optional<std::size_t> place_of_window(const LedgerTable& shape) {
        for (std::size_t n = 0; n < shape.key.size(); ++n) {
            if (shape.key[n].name == "window_start") return n;
        }
        return std::nullopt;
    }

    // What was dropped since the log was begun to be read.
    void forget_windows(const LedgerTable& shape, LedgerRows::Rows& rows) const {
        const auto place = place_of_window(shape);
        if (!place) return;
        std::erase_if(rows, [&](const auto& row) {
            std::string_view rest = row.first;
            for (std::size_t n = 0; n < *place; ++n)
                rest.remove_prefix(rest.find('\0') + 1);
            return std::stoll(std::string(rest.substr(0, rest.find('\0')))) < windows_from_;
        });
    }

    std::string select(const LedgerTable& shape) const {
        std::string columns;
        for (const auto* list : {&shape.key, &shape.columns}) {
            for (const auto& column : *list)
                columns += (columns.empty() ? "" : ", ") + expression(column);
        }
        auto sql = "select " + columns + " from " + table(shape.name) + " t";
        // First sights that can decide nothing any more are pruned some time.
        if (shape.name == "dedupe") {
            sql += " join " + table("offsets") +
                   " o on o.partition = t.partition and t.log_time >= o.log_time - interval '24 hours'";
        }
        // Those that were dropped may wait to be deleted.
        if (windows_from_ != kAllWindows && place_of_window(shape)) {
            sql += " where t.window_start >= timestamptz '" +
                   schemas::format_instant(schemas::Timestamp(std::chrono::microseconds(windows_from_))) + "'";
        }
        return sql;
    }

    void compare(pg::Transaction& snapshot, std::size_t number, LedgerRows& ledger, Diff::Table& found) {
        const auto& shape = recount_->tables()[number];
        auto& rows = ledger.of(number);
        forget_windows(shape, rows);
        found.rows_other += static_cast<std::int64_t>(rows.size());
        const auto width = shape.key.size() + shape.columns.size();
        snapshot.run_script("declare verify_rows no scroll cursor for " + select(shape));
        const auto fetch = "fetch " + std::to_string(kRowsAtOnce) + " from verify_rows";
        while (true) {
            const auto stored = snapshot.run_script(fetch);
            for (std::size_t row = 0; row < stored.size(); ++row) {
                std::vector<std::optional<std::string>> cells;
                cells.reserve(width);
                for (std::size_t column = 0; column < width; ++column)
                    cells.emplace_back(stored.cell(row, column));
                check(shape, number, ledger, cells, found);
            }
            if (options_.cancelled()) throw std::runtime_error("cancelled, and nothing was found out: run it again");
            if (stored.size() < static_cast<std::size_t>(kRowsAtOnce)) break;
        }
        snapshot.run_script("close verify_rows");
        for (const auto& [key, row] : rows) {
            found.added += 1;
            Diff::Sample sample;
            sample.kind = Diff::Kind::added;
            std::size_t begin = 0;
            for (const auto& column : shape.key) {
                const auto end = std::min(key.find('\0', begin), key.size());
                sample.key.push_back({column.name, shown(column, key.substr(begin, end - begin)).value()});
                begin = end + 1;
            }
            for (std::size_t n = 0; n < shape.columns.size(); ++n)
                note(sample, shape.columns[n], std::nullopt, text_of(row.columns[n]));
            keep(found, std::move(sample), row);
        }
        rows.clear();
    }

    void check(const LedgerTable& shape, std::size_t number, LedgerRows& ledger,
               const std::vector<std::optional<std::string>>& cells, Diff::Table& found) {
        std::string key;
        for (std::size_t n = 0; n < shape.key.size(); ++n) {
            if (n > 0) key += '\0';
            key += cells[n].value_or("");
        }
        if (!ledger.is_mine(number, key)) return;
        found.rows_live += 1;
        auto& rows = ledger.of(number);
        const auto expected = rows.find(key);
        const bool is_extra = expected == rows.end();
        Diff::Sample sample;
        sample.kind = is_extra ? Diff::Kind::removed : Diff::Kind::changed;
        for (std::size_t n = 0; n < shape.columns.size(); ++n) {
            const auto& stored = cells[shape.key.size() + n];
            auto wanted = is_extra ? std::nullopt : text_of(expected->second.columns[n]);
            if (is_extra || stored != wanted) note(sample, shape.columns[n], stored, std::move(wanted));
        }
        const auto row = is_extra ? LedgerRow{} : std::move(expected->second);
        if (!is_extra) rows.erase(expected);
        if (!is_extra && sample.changes.empty()) return;
        (is_extra ? found.removed : found.changed) += 1;
        for (std::size_t n = 0; n < shape.key.size(); ++n)
            sample.key.push_back({shape.key[n].name, shown(shape.key[n], cells[n].value_or("")).value()});
        keep(found, std::move(sample), row);
    }

    static std::optional<std::string> text_of(const Value& value) {
        if (const auto* number = std::get_if<Int128>(&value)) return to_decimal(*number);
        if (const auto* text = std::get_if<std::string>(&value)) return *text;
        return std::nullopt;
    }

    static std::optional<Int128> integer(const std::optional<std::string>& text) {
        constexpr std::size_t kMostDigits = 37;  // so that neither it nor a difference overflows
        if (!text) return 0;
        const std::size_t sign = text->starts_with('-') ? 1 : 0;
        if (text->size() == sign || text->size() > sign + kMostDigits) return std::nullopt;
        Int128 number = 0;
        for (const char digit : std::string_view(*text).substr(sign)) {
            if (digit < '0' || digit > '9') return std::nullopt;
            number = number * 10 + (digit - '0');
        }
        return sign == 1 ? -number : number;
    }

    // As people read it.
    static std::optional<std::string> shown(const LedgerTable::Column& column, const std::optional<std::string>& text) {
        if (!text || column.kind != Kind::instant) return text;
        // Of the years 1 to 9999.
        constexpr std::int64_t kFirst = -62'135'596'800'000'000;
        constexpr std::int64_t kLast = 253'402'300'799'999'999;
        const auto number = integer(text);
        if (!number || *number < kFirst || *number > kLast) return text;
        return schemas::format_instant(
            schemas::Timestamp(std::chrono::microseconds(static_cast<std::int64_t>(*number))));
    }

    static void note(Diff::Sample& sample, const LedgerTable::Column& column, const std::optional<std::string>& stored,
                     const std::optional<std::string>& wanted) {
        Diff::Change change{column.name, shown(column, stored), shown(column, wanted), std::nullopt};
        const auto is = integer(stored);
        const auto should = integer(wanted);
        const bool is_place =
            column.name.ends_with("offset") || column.name == "decided_at" || column.name == "partition";
        if (column.kind == Kind::number && !is_place && is && should) change.delta = to_decimal(*should - *is);
        sample.changes.push_back(std::move(change));
    }

    // The biggest deltas, like diff: of those that came first where they are equal.
    void keep(Diff::Table& found, Diff::Sample sample, const LedgerRow& row) const {
        for (const auto& range : row.from)
            sample.evidence.push_back({range.partition, range.min_offset, range.max_offset});
        const auto weight = [](const Diff::Sample& one) {
            double sum = 0;
            for (const auto& change : one.changes) {
                if (change.delta) sum += std::abs(static_cast<double>(integer(change.delta).value_or(0)));
            }
            return sum;
        };
        const auto place = std::upper_bound(found.samples.begin(), found.samples.end(), weight(sample),
                                            [&](double mine, const Diff::Sample& one) { return mine > weight(one); });
        found.samples.insert(place, std::move(sample));
        if (found.samples.size() > options_.top) found.samples.pop_back();
    }

    const VerifyOptions& options_;
    const Generation& generation_;
    pg::Connection& connection_;
    kafka::RecordSource& log_;
    std::size_t pass_;
    std::size_t passes_;
    std::optional<Recount> recount_;
    std::int64_t passes_left_;  // this one counted
    std::int64_t most_rows_;
    VerifyProgress& progress_;
    std::int64_t windows_from_ = kAllWindows;  // in the snapshot
    Offsets first_;
    Offsets at_;  // next offset to take, by partition
};

std::int64_t count_rows(const Generation& generation, pg::Connection& connection) {
    std::int64_t rows = 0;
    for (const auto& table : compared_tables(*generation.target.projection)) {
        const auto name = "verify_count_" + table.name;
        const auto sql = "select count(*) from " + pg::quote_identifier(generation.schema, table.name);
        rows += connection.run({name.c_str(), sql.c_str()}).integer(0, 0);
    }
    return rows;
}

}  // namespace

Diff verify(const VerifyOptions& options, const Generation& generation) {
    const auto& target = generation.target;
    if (!generation.is_of_this_program()) {
        throw Refused("generation " + std::to_string(target.generation) + " of " +
                      std::string(target.projection->stream().name) + " is of fingerprint " + generation.fingerprint +
                      ", this program's is " + target.projection->fingerprint() +
                      ": verify it with the program that folds it");
    }
    {
        kafka::Admin admin(options.brokers, options.kafka_properties);
        check_log_is_whole(admin, target);
    }
    kafka::Consumer log(reader_options(target, options.brokers, options.kafka_properties, "tidemark-consumer-verify"));
    return verify(options, generation, log);
}

Diff verify(const VerifyOptions& options, const Generation& generation, kafka::RecordSource& log) {
    const auto& target = generation.target;
    const auto number = std::to_string(target.generation);
    while (!std::holds_alternative<kafka::Assigned>(log.poll(kLook))) {
    }
    pg::Connection connection(options.dsn, session());
    connection.run_script("set client_connection_check_interval = '1s'");
    // A name is looked up in every statement, in a snapshot too: the tables behind it may become another generation's.
    const auto place = find_place(connection, *target.projection, target.generation);
    const auto check_place = [&] {
        const auto now = find_place(connection, *target.projection, target.generation);
        if (!now) throw Refused("generation " + number + " was dropped while it was being read");
        if (now != place || now->schema != generation.schema) {
            throw Refused("generation " + number +
                          " or the one that is read changed its place meanwhile: verify it again");
        }
    };
    Diff diff;
    diff.of_the_log = true;
    diff.stream = target.projection->stream().name;
    diff.live = target.generation;
    VerifyProgress progress;
    const auto most_rows = std::max<std::int64_t>(1, options.memory / kBytesOfRow);
    const auto run = [&](std::size_t passes) {
        diff.tables.clear();
        for (const auto& table : compared_tables(*target.projection))
            diff.tables.emplace_back().name = table.name;
        for (std::size_t pass = 0; pass < passes; ++pass) {
            // Some passes get more than their share.
            const auto most = most_rows + most_rows / 2 + 100;
            diff.vector = Pass(options, generation, connection, log, pass, passes, most, progress).run(diff);
            check_place();
        }
    };
    try {
        for (auto passes = 1 + count_rows(generation, connection) / most_rows;; passes *= 2) {
            try {
                if (options.most_passes > 0 && passes > static_cast<std::int64_t>(options.most_passes)) {
                    throw Refused("the log would have to be read " + std::to_string(passes) +
                                  " times: give verify more --memory");
                }
                run(static_cast<std::size_t>(passes));
                return diff;
            } catch (const TooManyRows&) {
                // The tables do not say how many there should be.
            }
        }
    } catch (const WrongTables& wrong) {
        check_place();
        throw Refused("table " + generation.schema + ".offsets: " + wrong.what +
                      ". It was written by hand: replay the log into a new generation");
    } catch (const pg::Error& error) {
        if (tables_moved(error)) check_place();
        throw;
    }
}

}  // namespace tidemark::consumers
