#include "producer/convert.h"

#include "infra/postgres/connection.h"
#include "producer/csv.h"
#include "producer/intake.h"
#include "schemas/counters.h"
#include "schemas/event.h"
#include "schemas/vehicles.h"

#include <sodium.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <memory>
#include <stdexcept>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

namespace tidemark::producer {

namespace {

namespace vehicles = schemas::vehicles;
using schemas::Timestamp;
using schemas::Violations;
using Cell = std::optional<std::string>;

struct Row {
    std::uint64_t number = 0;  // from 1: what tells two equal rows apart
    std::string place;         // as a person finds it
    std::vector<Cell> cells;   // of the columns that were asked for
    std::string wrong;         // how it is written; its cells mean nothing then
};

/// A table of the old service's, gone through as often as one likes, in the same order.
class Table {
public:
    virtual ~Table() = default;
    /// Until `visit` says no.
    virtual void for_each(const std::function<bool(const Row&)>& visit) = 0;
};

class CsvTable final : public Table {
public:
    CsvTable(std::string path, std::vector<std::string> columns)
        : path_(std::move(path)), columns_(std::move(columns)) {}

    void for_each(const std::function<bool(const Row&)>& visit) override {
        std::ifstream file(path_, std::ios::binary);
        if (!file)
            throw std::runtime_error("cannot read " + path_ + ": " + std::strerror(errno) +
                                     "; check the path and its permissions");
        CsvRows csv(file);
        const auto next = [&] {
            try {
                return csv.next();
            } catch (const std::runtime_error& error) {
                throw std::runtime_error(path_ + ": " + error.what());
            }
        };
        if (!next()) throw std::runtime_error(path_ + ": is empty; its first line has to name the columns");
        const auto header = csv.fields();
        std::vector<std::size_t> places;
        for (const auto& column : columns_) {
            const auto found = std::find(header.begin(), header.end(), column);
            if (found == header.end())
                throw std::runtime_error(path_ + ": its first line does not name the column " + column +
                                         "; see `tidemark-producer convert --help`");
            places.push_back(static_cast<std::size_t>(found - header.begin()));
        }
        Row row;
        while (next()) {
            row.number += 1;
            row.place = path_ + " line " + std::to_string(csv.line());
            row.wrong = csv.wrong();
            auto& fields = csv.fields();
            if (row.wrong.empty() && fields.size() != header.size()) {
                row.wrong = "has " + std::to_string(fields.size()) + " fields, the first line names " +
                            std::to_string(header.size());
            }
            row.cells.assign(columns_.size(), std::nullopt);
            for (std::size_t n = 0; row.wrong.empty() && n < places.size(); ++n)
                row.cells[n] = fields[places[n]];
            if (!visit(row)) return;
        }
    }

private:
    std::string path_;
    std::vector<std::string> columns_;
};

/// What a query says, in one snapshot with others.
class QueriedTable final : public Table {
public:
    /// `columns` and what follows them, in SQL.
    QueriedTable(pg::Transaction& snapshot, std::string name, std::vector<std::string> columns, std::string rest)
        : snapshot_(snapshot), name_(std::move(name)), columns_(std::move(columns)), rest_(std::move(rest)) {}

    void for_each(const std::function<bool(const Row&)>& visit) override {
        constexpr std::size_t kRowsAtOnce = 10'000;
        std::string list;
        for (const auto& column : columns_)
            list += (list.empty() ? "" : ", ") + column;
        snapshot_.run_script("declare converted no scroll cursor for select " + list + " " + rest_);
        Row row;
        std::size_t fetched = kRowsAtOnce;
        while (fetched == kRowsAtOnce) {
            const auto rows = snapshot_.run_script("fetch " + std::to_string(kRowsAtOnce) + " from converted");
            fetched = rows.size();
            for (std::size_t n = 0; n < fetched; ++n) {
                row.number += 1;
                row.cells.clear();
                for (std::size_t column = 0; column < columns_.size(); ++column)
                    row.cells.emplace_back(rows.cell(n, column));
                row.place = name_ + " row [";
                for (const auto& cell : row.cells)
                    append_shown(row.place, cell);
                row.place += ']';
                if (!visit(row)) return;
            }
        }
        snapshot_.run_script("close converted");
    }

private:
    static void append_shown(std::string& place, const Cell& cell) {
        constexpr std::size_t kMostBytes = 80;
        if (place.back() != '[') place += ',';
        if (cell) {
            schemas::json::append_string(place, std::string_view(*cell).substr(0, kMostBytes));
        } else {
            place += "null";
        }
    }

    pg::Transaction& snapshot_;
    std::string name_;
    std::vector<std::string> columns_;
    std::string rest_;
};

/// A look at the old service's database that stands still.
struct Database {
    explicit Database(const std::string& dsn) : connection(dsn, session()), snapshot(begin()) {}

    pg::Connection connection;
    pg::Transaction snapshot;

private:
    static pg::SessionOptions session() {
        pg::SessionOptions options;
        options.application_name = "tidemark-producer convert";
        options.statement_timeout = std::chrono::milliseconds(0);
        options.idle_in_transaction_timeout = std::chrono::milliseconds(0);  // as long as nobody reads what is written
        return options;
    }
    pg::Transaction begin() {
        // Instants are read as they are printed; one that says no offset is taken for UTC.
        connection.run_script("set timezone = 'UTC'; set datestyle = 'ISO'");
        return connection.begin_snapshot();
    }
};

// Members of an event's data as the cells say them: what they must be, the event's schema knows.
class Data {
public:
    void integer(std::string_view name, const Cell& cell) {
        if (!cell) return;
        begin(name);
        const std::string_view digits = std::string_view(*cell).substr(cell->starts_with('-') ? 1 : 0);
        const bool is_number = !digits.empty() && digits.find_first_not_of("0123456789") == std::string_view::npos &&
                               (digits.size() == 1 || digits.front() != '0');
        if (is_number) {
            text_ += *cell;
        } else {
            append(name, *cell);
        }
    }
    void text(std::string_view name, const Cell& cell) {
        if (!cell) return;
        begin(name);
        append(name, *cell);
    }
    [[nodiscard]] std::string end() const { return text_ + '}'; }
    [[nodiscard]] const Violations& violations() const { return violations_; }

private:
    void begin(std::string_view name) {
        text_ += text_.size() == 1 ? "" : ",";
        schemas::json::append_string(text_, name);
        text_ += ':';
    }
    void append(std::string_view name, const std::string& text) {
        const bool is_text = schemas::json::is_utf8(text);
        if (!is_text) violations_.push_back({"/" + std::string(name), "is not UTF-8"});
        schemas::json::append_string(text_, is_text ? text : "?");
    }

    std::string text_ = "{";
    Violations violations_;
};

// A UUID of these bytes' SHA-256: version 8, "anybody's own".
std::string derived_id(std::string_view bytes) {
    std::array<unsigned char, crypto_hash_sha256_BYTES> digest{};
    crypto_hash_sha256(digest.data(), reinterpret_cast<const unsigned char*>(bytes.data()), bytes.size());
    digest[6] = static_cast<unsigned char>((digest[6] & 0x0F) | 0x80);
    digest[8] = static_cast<unsigned char>((digest[8] & 0x3F) | 0x80);
    constexpr std::size_t kBytes = 16;
    std::array<char, 2 * kBytes + 1> hex{};
    sodium_bin2hex(hex.data(), hex.size(), digest.data(), kBytes);
    std::string id;
    for (std::size_t n = 0; n < 2 * kBytes; ++n) {
        if (n == 8 || n == 12 || n == 16 || n == 20) id += '-';
        id += hex[n];
    }
    return id;
}

/// Takes rows, writes their events, and names those that cannot become one.
class Converter {
public:
    Converter(const ConvertOptions& options, std::string source, std::ostream& out, std::ostream& errors)
        : options_(options), source_(std::move(source)), out_(out), errors_(errors) {}

    /// Goes through a table. `convert` says what is wrong with the row, having offered its events.
    void rows(Table& table, const std::function<Violations(const Row&)>& convert) {
        table.for_each([&](const Row& row) {
            if (options_.cancelled()) return false;
            report_.rows += 1;
            const auto begin = text_.size();
            offered_ = 0;
            const auto violations = row.wrong.empty() ? convert(row) : Violations{{"", row.wrong}};
            if (violations.empty()) {
                report_.events += offered_;
            } else {
                text_.resize(begin);
                report_.refused += 1;
                errors_ << row.place << ": " << describe(violations) << '\n';
            }
            constexpr std::size_t kWriteBytes = 256 * 1024;
            if (text_.size() >= kWriteBytes) flush();
            constexpr std::int64_t kRowsBetween = 1'000;
            if (report_.rows % kRowsBetween == 0) options_.on_progress(report_);
            return true;
        });
    }

    /// Appends an event of the row, or what is wrong with it.
    void offer(const Row& row, std::string_view type, const Data& data, std::optional<Timestamp> time,
               Violations& violations) {
        violations.insert(violations.end(), data.violations().begin(), data.violations().end());
        const auto text = data.end();
        const auto begin = text_.size();
        const auto instant = time.value_or(Timestamp{});
        const auto id = derived_id(std::string(type) + '\0' + std::to_string(row.number) + '\0' +
                                   schemas::format_instant(instant) + '\0' + text);
        schemas::append_event(text_, {id, source_, type, instant, std::nullopt, std::nullopt, text});
        const auto event = schemas::read_event(reader_, std::string_view(text_).substr(begin));
        auto found = event ? find_destination(*event, options_.now) : schemas::Result<Destination>(event.violations());
        if (!found) {
            for (auto violation : found.violations()) {
                // As the row's columns are called.
                if (violation.pointer.starts_with("/data/")) violation.pointer.erase(0, 5);
                violations.push_back(std::move(violation));
            }
        }
        text_.push_back('\n');
        offered_ += 1;
    }

    ConvertReport end() {
        flush();
        report_.complete = !options_.cancelled();
        options_.on_progress(report_);
        return report_;
    }

private:
    void flush() {
        out_.write(text_.data(), static_cast<std::streamsize>(text_.size()));
        text_.clear();
        out_.flush();
        if (!out_) throw std::runtime_error("the lines cannot be written: is the disk full, or the reader gone?");
    }

    const ConvertOptions& options_;
    std::string source_;
    std::ostream& out_;
    std::ostream& errors_;
    schemas::json::Reader reader_;
    std::string text_;
    std::int64_t offered_ = 0;  // of the row
    ConvertReport report_;
};

// What a vehicle's state logs say of it.
struct Known {
    Timestamp first{};
    Timestamp last{};
    std::vector<vehicles::State> newest;  // of `last`: one, but for ties
    bool has_logs = false;
    bool is_registered = false;
};
using KnownVehicles = std::unordered_map<std::int64_t, Known>;

std::optional<std::int64_t> id_of(const Cell& cell) {
    return cell ? vehicles::parse_id(*cell) : std::nullopt;
}

void note_state(Known& known, vehicles::State state, Timestamp time) {
    if (!known.has_logs || time < known.first) known.first = time;
    if (!known.has_logs || time > known.last) {
        known.last = time;
        known.newest.clear();
    }
    if (time == known.last) known.newest.push_back(state);
    known.has_logs = true;
}

// A first look: when each vehicle's states begin, and what they end with.
KnownVehicles look_at(Table& state_logs, const std::function<bool()>& cancelled) {
    KnownVehicles known;
    state_logs.for_each([&](const Row& row) {
        const auto id = id_of(row.cells[0]);
        const auto state = vehicles::parse_state(row.cells[1].value_or(""));
        const auto time = schemas::parse_instant(row.cells[2].value_or(""));
        if (id && state && time) note_state(known[*id], *state, *time);
        return !cancelled();
    });
    return known;
}

Violations convert_vehicle(Converter& to, const Row& row, KnownVehicles& all, std::optional<Timestamp> time) {
    Violations violations;
    const auto id = id_of(row.cells[0]);
    const auto& state = row.cells[3];
    auto* known = id ? &all[*id] : nullptr;
    const bool has_logs = known != nullptr && known->has_logs;
    const auto registered_at = has_logs ? std::optional(known->first) : time;
    if (known != nullptr && std::exchange(known->is_registered, true))
        violations.push_back({"/id", "has come in an earlier row"});
    if (id && !registered_at) violations.push_back({"", "has no state log, and no --time was given"});
    Data registered;
    registered.integer("id", row.cells[0]);
    registered.text("make", row.cells[1]);
    registered.text("model", row.cells[2]);
    to.offer(row, vehicles::kRegistered, registered, registered_at, violations);
    if (!state || state->empty()) return violations;
    const auto parsed = vehicles::parse_state(*state);
    if (!parsed || !has_logs) {
        Data changed;
        changed.integer("id", row.cells[0]);
        changed.text("state", state);
        Violations wrong;
        to.offer(row, vehicles::kStateChanged, changed, registered_at, wrong);
        // Of its id and time it has been said.
        for (auto& violation : wrong) {
            if (violation.pointer == "/state") violations.push_back(std::move(violation));
        }
    } else if (known->newest.back() != *parsed) {  // of a tie the last line is the one that stays
        violations.push_back({"/state", "is " + *state + ", but its newest state log, of " +
                                            schemas::format_instant(known->last) + ", says " +
                                            std::string(vehicles::to_string(known->newest.back()))});
    }
    return violations;
}

Violations convert_state_log(Converter& to, const Row& row) {
    Violations violations;
    const auto time = schemas::parse_instant(row.cells[2].value_or(""));
    if (!row.cells[2]) {
        violations.push_back({"/timestamp", "is required"});
    } else if (!time) {
        violations.push_back({"/timestamp", "is no instant with an offset, as 2022-09-10 10:23:54+00 is"});
    }
    Data changed;
    changed.integer("id", row.cells[0]);
    changed.text("state", row.cells[1]);
    to.offer(row, vehicles::kStateChanged, changed, time, violations);
    for (auto& violation : violations) {
        if (violation.pointer == "/id") violation.pointer = "/vehicleId";
        if (violation.pointer == "/time") violation.pointer = "/timestamp";
    }
    return violations;
}

}  // namespace

ConvertReport convert_vehicles(const ConvertOptions& options, std::ostream& out, std::ostream& errors) {
    std::optional<Database> database;
    std::unique_ptr<Table> table;
    std::unique_ptr<Table> state_logs;
    if (options.dsn.empty()) {
        table = std::make_unique<CsvTable>(options.vehicles, std::vector<std::string>{"id", "make", "model", "state"});
        state_logs =
            std::make_unique<CsvTable>(options.state_logs, std::vector<std::string>{"vehicleId", "state", "timestamp"});
    } else {
        database.emplace(options.dsn);
        table = std::make_unique<QueriedTable>(
            database->snapshot, "vehicles",
            std::vector<std::string>{"id::text", "make::text", "model::text", "state::text"},
            R"(from vehicles order by id, make::text collate "C", model::text collate "C", state::text collate "C")");
        state_logs = std::make_unique<QueriedTable>(
            database->snapshot, "stateLogs",
            std::vector<std::string>{R"("vehicleId"::text)", "state::text", R"("timestamp"::timestamptz::text)"},
            // Of a tie the vehicle's own state comes last, and stays.
            R"(from "stateLogs" l order by "vehicleId", "timestamp",
               exists (select 1 from vehicles v where v.id = l."vehicleId" and v.state::text = l.state::text),
               state::text collate "C")");
    }
    auto known = look_at(*state_logs, options.cancelled);
    Converter converter(options, "/convert/vehicles", out, errors);
    converter.rows(*table, [&](const Row& row) { return convert_vehicle(converter, row, known, options.time); });
    converter.rows(*state_logs, [&](const Row& row) { return convert_state_log(converter, row); });
    return converter.end();
}

ConvertReport convert_counters(const ConvertOptions& options, std::ostream& out, std::ostream& errors) {
    std::optional<Database> database;
    std::unique_ptr<Table> table;
    if (options.dsn.empty()) {
        table = std::make_unique<CsvTable>(options.counters,
                                           std::vector<std::string>{options.key_column, options.value_column});
    } else {
        database.emplace(options.dsn);
        pg::Params name;
        name.add(options.table);
        // As SQL would read the name: of a schema or not, in quotes or not.
        const auto found =
            database->snapshot.run({"convert_find_table", "select coalesce(to_regclass($1)::text, '')"}, name);
        const std::string quoted(found.text(0, 0));
        if (quoted.empty())
            throw std::runtime_error("there is no table " + options.table +
                                     "; give --table as SQL would, e.g. public.totals, and let the role see it");
        const auto key = pg::quote_identifier(options.key_column) + "::text";
        const auto value = pg::quote_identifier(options.value_column) + "::text";
        table = std::make_unique<QueriedTable>(
            database->snapshot, options.table, std::vector<std::string>{key, value},
            "from " + quoted + " order by " + key + R"( collate "C", )" + value + R"( collate "C")");
    }
    Converter converter(options, "/convert/counters", out, errors);
    converter.rows(*table, [&](const Row& row) {
        Violations violations;
        Data data;
        data.text("key", row.cells[0]);
        data.integer("value", row.cells[1]);
        converter.offer(row, schemas::counters::kIncremented, data, options.time, violations);
        return violations;
    });
    return converter.end();
}

}  // namespace tidemark::producer
