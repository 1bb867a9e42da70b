#include "consumers/diff.h"
#include "consumers/terminal.h"
#include "infra/base/progress.h"
#include "schemas/json.h"

#include <algorithm>
#include <array>
#include <iomanip>
#include <string_view>
#include <utility>

namespace tidemark::consumers {

namespace {

using Table = Diff::Table;
using Sample = Diff::Sample;

// What the two sides and the ways in which they differ are called.
struct Words {
    std::string_view live;
    std::string_view other;
    std::string_view rows_live;
    std::string_view rows_other;
    std::string_view added;
    std::string_view removed;
};
constexpr Words kGenerations{"live", "other", "rowsLive", "rowsOther", "added", "removed"};
constexpr Words kTablesAndLog{"tables", "log", "rowsInTables", "rowsOfLog", "missing", "extra"};

const Words& words_of(const Diff& diff) {
    return diff.of_the_log ? kTablesAndLog : kGenerations;
}

std::string_view name_of(Diff::Kind kind, const Words& words) {
    return kind == Diff::Kind::added ? words.added : kind == Diff::Kind::removed ? words.removed : "changed";
}

std::string in_one(const std::vector<std::string>& names) {
    std::string all;
    for (const auto& name : names)
        all += (all.empty() ? "" : ", ") + name;
    return all;
}

std::string text_of(const std::vector<Diff::Evidence>& evidence) {
    std::string text;
    for (const auto& [partition, min_offset, max_offset] : evidence) {
        if (!text.empty()) text += ' ';
        text += std::to_string(partition) + ':' + std::to_string(min_offset) + '-' + std::to_string(max_offset);
    }
    return text;
}

void write_samples(const Table& table, const Words& words, std::ostream& out) {
    const auto all = table.differing();
    const auto count = table.samples.size();
    out << '\n' << table.name << ", ";
    if (all == static_cast<std::int64_t>(count)) {
        out << "all that differs:\n";
    } else {
        out << "the " << count << " biggest of " << base::with_commas(all) << " differences:\n";
    }
    for (const auto& sample : table.samples) {
        out << "  " << std::left << std::setw(7) << name_of(sample.kind, words);
        for (const auto& cell : sample.key)
            out << "  " << cell.column << '=' << shown(cell.value);
        out << '\n';
        std::size_t widest = 0;
        for (const auto& change : sample.changes)
            widest = std::max(widest, width_of(change.column));
        for (const auto& change : sample.changes) {
            out << "           " << padded(change.column, widest) << "  " << shown(change.live) << " -> "
                << shown(change.other);
            if (change.delta) out << "  (" << (change.delta->front() == '-' ? "" : "+") << *change.delta << ')';
            out << '\n';
        }
        if (!sample.evidence.empty()) out << "           from offsets " << text_of(sample.evidence) << '\n';
    }
}

void write_table(const Diff& diff, std::ostream& out) {
    const auto& words = words_of(diff);
    out << diff.stream << ": generation ";
    if (diff.of_the_log) {
        out << diff.live << " against its log, at offsets";
    } else {
        out << diff.other << " against the live generation " << diff.live << ", both at offsets";
    }
    for (std::size_t partition = 0; partition < diff.vector.size(); ++partition)
        out << ' ' << partition << ':' << diff.vector[partition];
    std::size_t widest = 12;
    for (const auto& table : diff.tables)
        widest = std::max(widest, width_of(table.name));
    out << "\n\n" << padded("TABLE", widest) << std::right;
    const auto titles = diff.of_the_log ? std::array{"IN TABLES", "OF LOG", "MISSING", "EXTRA", "CHANGED"}
                                        : std::array{"ROWS LIVE", "ROWS OTHER", "ADDED", "REMOVED", "CHANGED"};
    for (const char* title : titles)
        out << std::setw(16) << title;
    out << '\n';
    for (const auto& table : diff.tables) {
        out << padded(table.name, widest) << std::right;
        for (const auto number : {table.rows_live, table.rows_other, table.added, table.removed, table.changed})
            out << std::setw(16) << base::with_commas(number);
        if (!table.in_live || !table.in_other) out << "  only in " << (table.in_live ? diff.live : diff.other);
        if (table.other_key) out << "  another primary key: rows have no counterparts";
        for (const auto& [names, generation] :
             {std::pair(&table.columns_only_in_live, diff.live), std::pair(&table.columns_only_in_other, diff.other)}) {
            if (!names->empty()) out << "  columns only in " << generation << ": " << in_one(*names);
        }
        out << '\n';
    }
    for (const auto& table : diff.tables) {
        if (!table.samples.empty()) write_samples(table, words, out);
    }
    const auto rows = diff.differing();
    out << '\n';
    if (rows == 0) {
        out << "No row differs.\n";
    } else {
        out << base::with_commas(rows) << (rows == 1 ? " row differs.\n" : " rows differ.\n");
    }
}

void append_optional(std::string& json, const std::optional<std::string>& text) {
    if (text) {
        schemas::json::append_string(json, *text);
    } else {
        json += "null";
    }
}

// `write` for each of them, by commas.
template <typename Items, typename Write>
void append_list(std::string& json, char open, const Items& items, char close, const Write& write) {
    json += open;
    bool is_first = true;
    for (const auto& item : items) {
        if (!std::exchange(is_first, false)) json += ',';
        write(item);
    }
    json += close;
}

void append_key(std::string& json, const Sample& sample) {
    append_list(json, '{', sample.key, '}', [&](const Diff::Cell& cell) {
        schemas::json::append_string(json, cell.column);
        json += ':';
        schemas::json::append_string(json, cell.value);
    });
}

void append_sample(std::string& json, const Sample& sample, const Words& words) {
    json.append(R"({"kind":")").append(name_of(sample.kind, words)).append(R"(","key":)");
    append_key(json, sample);
    json += R"(,"changes":)";
    append_list(json, '[', sample.changes, ']', [&](const Diff::Change& change) {
        json += R"({"column":)";
        schemas::json::append_string(json, change.column);
        json.append(",\"").append(words.live).append("\":");
        append_optional(json, change.live);
        json.append(",\"").append(words.other).append("\":");
        append_optional(json, change.other);
        json += R"(,"delta":)";
        append_optional(json, change.delta);
        json += '}';
    });
    json += R"(,"evidence":)";
    append_list(json, '[', sample.evidence, ']', [&](const Diff::Evidence& range) {
        json += R"({"partition":)" + std::to_string(range.partition) + R"(,"minOffset":)" +
                std::to_string(range.min_offset) + R"(,"maxOffset":)" + std::to_string(range.max_offset) + '}';
    });
    json += '}';
}

void append_table(std::string& json, const Table& table, const Words& words, bool of_the_log) {
    const auto flag = [](bool value) { return value ? "true" : "false"; };
    const auto name = [&](const std::string& text) { schemas::json::append_string(json, text); };
    const auto number = [&](std::string_view what, std::int64_t rows) {
        json.append(",\"").append(what).append("\":").append(std::to_string(rows));
    };
    json += R"({"name":)";
    name(table.name);
    if (!of_the_log) {
        json.append(R"(,"inLive":)").append(flag(table.in_live));
        json.append(R"(,"inOther":)").append(flag(table.in_other));
        json.append(R"(,"otherKey":)").append(flag(table.other_key));
        json += R"(,"columnsOnlyInLive":)";
        append_list(json, '[', table.columns_only_in_live, ']', name);
        json += R"(,"columnsOnlyInOther":)";
        append_list(json, '[', table.columns_only_in_other, ']', name);
    }
    number(words.rows_live, table.rows_live);
    number(words.rows_other, table.rows_other);
    number(words.added, table.added);
    number(words.removed, table.removed);
    number("changed", table.changed);
    json += R"(,"samples":)";
    append_list(json, '[', table.samples, ']', [&](const Sample& sample) { append_sample(json, sample, words); });
    json += '}';
}

void write_json(const Diff& diff, std::ostream& out) {
    std::string json = R"({"stream":)";
    schemas::json::append_string(json, diff.stream);
    if (diff.of_the_log) {
        json += R"(,"generation":)" + std::to_string(diff.live);
    } else {
        json += R"(,"live":)" + std::to_string(diff.live) + R"(,"other":)" + std::to_string(diff.other);
    }
    json += R"(,"vector":)";
    append_list(json, '[', diff.vector, ']', [&](std::int64_t next) { json += std::to_string(next); });
    json += R"(,"differing":)" + std::to_string(diff.differing()) + R"(,"tables":)";
    append_list(json, '[', diff.tables, ']',
                [&](const Table& table) { append_table(json, table, words_of(diff), diff.of_the_log); });
    out << json << "}\n";
}

std::string csv_cell(const std::optional<std::string>& text) {
    if (!text) return {};
    if (!text->empty() && text->find_first_of(",\"\r\n") == std::string::npos) return *text;
    std::string quoted = "\"";
    for (const char c : *text) {
        if (c == '"') quoted += '"';
        quoted += c;
    }
    return quoted + '"';
}

void write_csv(const Diff& diff, std::ostream& out) {
    const auto& words = words_of(diff);
    out << "table,kind,key,column," << words.live << ',' << words.other << ",delta,evidence\n";
    for (const auto& table : diff.tables) {
        for (const auto& sample : table.samples) {
            std::string key;
            append_key(key, sample);
            const auto evidence = sample.evidence.empty() ? std::nullopt : std::optional(text_of(sample.evidence));
            const auto write = [&](const std::optional<std::string>& column, const Diff::Change& change) {
                out << csv_cell(table.name) << ',' << name_of(sample.kind, words) << ',' << csv_cell(key) << ','
                    << csv_cell(column) << ',' << csv_cell(change.live) << ',' << csv_cell(change.other) << ','
                    << csv_cell(change.delta) << ',' << csv_cell(evidence) << '\n';
            };
            for (const auto& change : sample.changes)
                write(change.column, change);
            if (sample.changes.empty()) write(std::nullopt, {});  // a row of a key and nothing else
        }
    }
}

}  // namespace

void write_diff(const Diff& diff, DiffFormat format, std::ostream& out) {
    switch (format) {
        case DiffFormat::table:
            return write_table(diff, out);
        case DiffFormat::json:
            return write_json(diff, out);
        case DiffFormat::csv:
            return write_csv(diff, out);
    }
}

}  // namespace tidemark::consumers
