#include "consumers/diff.h"

#include "consumers/digest.h"
#include "consumers/standstill.h"
#include "infra/base/progress.h"
#include "schemas/event.h"
#include "schemas/json.h"

#include <algorithm>
#include <array>
#include <cinttypes>
#include <cstdio>
#include <iomanip>
#include <iterator>
#include <map>
#include <stdexcept>
#include <string_view>
#include <utility>

namespace tidemark::consumers {

namespace {

using Table = Diff::Table;
using Sample = Diff::Sample;

// Every column of every table. A type's name says its collation too: two of these must not meet in a comparison. Of
// the key's columns their place in it.
constexpr pg::Statement kColumns{"diff_columns", R"(
select c.relname, n.nspname = $1, a.attname,
       format_type(a.atttypid, a.atttypmod) || coalesce(' collate ' || l.collname, ''),
       a.atttypid in ('int2'::regtype, 'int4'::regtype, 'int8'::regtype, 'float4'::regtype, 'float8'::regtype,
                      'numeric'::regtype),
       t.typcategory <> 'G' and a.atttypid not in ('json'::regtype, 'xml'::regtype),
       k.place
from pg_class c
join pg_namespace n on n.oid = c.relnamespace
join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
join pg_type t on t.oid = a.atttypid
left join pg_collation l on l.oid = a.attcollation
left join pg_index i on i.indrelid = c.oid and i.indisprimary
left join lateral unnest(i.indkey::smallint[]) with ordinality as k (attnum, place)
       on k.attnum = a.attnum and k.place <= i.indnkeyatts
where n.nspname in ($1, $2) and c.relkind in ('r', 'p') and not c.relispartition
order by c.relname collate "C", a.attnum)"};

// How much there is to read of each table, in both schemas; known without reading it, also when it was never analyzed.
constexpr pg::Statement kSizes{"diff_sizes", R"(
select c.relname, sum(pg_relation_size(c.oid))::bigint
from pg_class c join pg_namespace n on n.oid = c.relnamespace
where n.nspname in ($1, $2) and c.relkind in ('r', 'p') group by c.relname)"};

constexpr pg::Statement kHasEvidence{"diff_has_evidence", R"(
select exists (select 1 from pg_class c join pg_namespace n on n.oid = c.relnamespace
               where n.nspname = $1 and c.relname = 'evidence' and c.relkind = 'v'))"};

// Longer values would make the answer as big as the records are.
constexpr const char* kMostCharacters = "2000";
constexpr const char* kShownCharacters = "1000";

// What of a partition's state is no function of the log (who writes it, and how far retention is), or says of other
// tables what they say themselves. All else is compared, also what a later version adds.
constexpr std::array<std::string_view, 8> kNotCompared{"generation",  "epoch",         "as_of",        "owner",
                                                       "backend_pid", "backend_start", "windows_from", "digest"};

pg::SessionOptions session() {
    pg::SessionOptions options;
    options.application_name = "tidemark-consumer diff";
    options.statement_timeout = std::chrono::milliseconds(0);  // as long as the tables are big
    options.lock_timeout = std::chrono::seconds(5);
    options.idle_in_transaction_timeout = std::chrono::minutes(1);
    return options;
}

struct Column {
    std::string name;
    std::string type;
    bool is_number = false;
    bool has_equality = false;
    std::int64_t place = 0;  // in the primary key, from 1; 0: not in it
};

// One table on one side.
struct Shape {
    std::vector<Column> columns;

    [[nodiscard]] const Column* find(std::string_view name) const {
        const auto found =
            std::find_if(columns.begin(), columns.end(), [&](const Column& one) { return one.name == name; });
        return found == columns.end() ? nullptr : &*found;
    }
    // Its rows belong to windows, which retention drops.
    [[nodiscard]] bool has_windows() const {
        const auto* const start = find("window_start");
        return start != nullptr && start->type == "timestamp with time zone";
    }
    [[nodiscard]] std::vector<std::string> key() const {
        std::map<std::int64_t, std::string> places;
        for (const auto& column : columns) {
            if (column.place > 0) places[column.place] = column.name;
        }
        std::vector<std::string> names;
        names.reserve(places.size());
        for (auto& [place, name] : places)
            names.push_back(std::move(name));
        return names;
    }
};

struct Shapes {
    std::optional<Shape> live;
    std::optional<Shape> other;
};

// What is compared of all tables of both schemas, by name.
std::map<std::string, Shapes> read_shapes(pg::Transaction& tx, const std::string& live, const std::string& other) {
    pg::Params schemas;
    schemas.add(live).add(other);
    const auto rows = tx.run(kColumns, schemas);
    std::map<std::string, Shapes> found;
    for (std::size_t row = 0; row < rows.size(); ++row) {
        const std::string table(rows.text(row, 0));
        auto& shapes = found[table];
        auto& shape = rows.boolean(row, 1) ? shapes.live : shapes.other;
        if (!shape) shape.emplace();
        Column column;
        column.name = rows.text(row, 2);
        column.type = rows.text(row, 3);
        column.is_number = rows.boolean(row, 4);
        column.has_equality = rows.boolean(row, 5);
        if (rows.cell(row, 6)) column.place = rows.integer(row, 6);
        if (table == "offsets" &&
            std::find(kNotCompared.begin(), kNotCompared.end(), column.name) != kNotCompared.end())
            continue;
        shape->columns.push_back(std::move(column));
    }
    return found;
}

// A column of both sides.
struct Common {
    std::string name;
    bool is_key = false;
    bool is_number = false;
    bool as_text = false;  // to be compared as: they are of two types, or of one that knows no equality

    [[nodiscard]] std::string value(const std::string& cell) const {
        return as_text ? cell + "::text collate \"C\"" : cell;
    }
    // Offsets and partitions are numbers of which a difference says nothing.
    [[nodiscard]] bool has_delta() const {
        return is_number && !is_key && name != "offset" && name != "partition" && name != "decided_at" &&
               !name.ends_with("_offset");
    }
};

std::string delta(const std::string& live, const std::string& other) {
    return "(coalesce(" + other + ", 0)::numeric - coalesce(" + live + ", 0)::numeric)";
}

std::string joined(const std::vector<std::string>& parts, std::string_view separator) {
    std::string text;
    for (const auto& part : parts) {
        if (!text.empty()) text += separator;
        text += part;
    }
    return text;
}

std::string as_text(const std::string& cell) {
    const auto text = cell + "::text";
    return "case when length(" + text + ") > " + kMostCharacters + " then left(" + text + ", " + kShownCharacters +
           ") || '... (' || length(" + text + ") || ' characters, MD5 ' || md5(" + text + ") || ')' else " + text +
           " end";
}

// The rows of one table in one schema, as a source of FROM.
std::string source(const std::string& schema, const std::string& table, const Shape& shape,
                   const std::string& windows_from) {
    const auto in_schema = [&](std::string_view name) { return pg::quote_identifier(schema, name); };
    // Of two that follow each other one drops them a moment later, and has them then until it comes to delete them.
    if (shape.has_windows())
        return "(select w.* from " + in_schema(table) + " w where w.window_start >= " + windows_from + ")";
    if (table != "dedupe") return in_schema(table);
    // A flush may delete what is older, or leave it.
    return "(select d.* from " + in_schema(table) + " d join " + in_schema("offsets") +
           " p using (partition) where p.log_time - d.log_time <= interval '" +
           std::to_string(schemas::kDedupeHorizon.count()) + " hours')";
}

// Its columns, but no row.
std::string nothing_of(const std::string& schema, const std::string& table) {
    return "(select * from " + pg::quote_identifier(schema, table) + " where false)";
}

// Two sources to be compared row by row: `l` is live, `o` the other one. The key's columns come first, in its order.
struct Match {
    std::string live;
    std::string other;
    std::vector<Common> columns;

    [[nodiscard]] static std::string cell(char side, const Common& column) {
        return std::string(1, side) + "." + pg::quote_identifier(column.name);
    }
    // No column of a primary key is NULL, so a NULL says that there is no row.
    [[nodiscard]] std::string missing(char side) const { return cell(side, columns.front()) + " is null"; }
    [[nodiscard]] std::string changed() const {
        std::vector<std::string> parts{"false"};
        for (const auto& column : columns) {
            if (column.is_key) continue;
            parts.push_back(column.value(cell('l', column)) + " is distinct from " + column.value(cell('o', column)));
        }
        return "(" + joined(parts, " or ") + ")";
    }
    [[nodiscard]] std::string from() const {
        std::vector<std::string> equal;
        for (const auto& column : columns) {
            if (column.is_key)
                equal.push_back(column.value(cell('l', column)) + " = " + column.value(cell('o', column)));
        }
        return " from " + live + " l full join " + other + " o on " + joined(equal, " and ");
    }

    [[nodiscard]] std::string counts() const {
        const auto both = "not " + missing('l') + " and not " + missing('o');
        return "select count(*) filter (where not " + missing('l') + "), count(*) filter (where not " + missing('o') +
               "), count(*) filter (where " + missing('l') + "), count(*) filter (where " + missing('o') +
               "), count(*) filter (where (" + both + ") and " + changed() + ")" + from();
    }

    // Kind; each key column; of each other column whether it differs, both values, delta; and of both sides, if
    // `positions` are given, these columns. The columns' values are only made for the rows that are shown.
    [[nodiscard]] std::string samples(std::size_t top, const std::vector<std::string>& positions) const {
        std::vector<std::string> inner;
        std::vector<std::string> outer{"case when s.l0 is null then 'added' when s.o0 is null then 'removed' end"};
        std::vector<std::string> weights{"0::numeric"};  // a bare number would be a column's
        std::vector<std::string> order;
        for (std::size_t n = 0; n < columns.size(); ++n) {
            const auto& column = columns[n];
            const auto number = std::to_string(n);
            const auto live_cell = "s.l" + number;
            const auto other_cell = "s.o" + number;
            inner.push_back(cell('l', column) + " as l" + number);
            inner.push_back(cell('o', column) + " as o" + number);
            if (column.is_key) {
                outer.push_back("coalesce(" + live_cell + "::text, " + other_cell + "::text)");
                order.push_back("coalesce(" + column.value(cell('l', column)) + ", " + column.value(cell('o', column)) +
                                ")");
                continue;
            }
            outer.push_back(column.value(live_cell) + " is distinct from " + column.value(other_cell));
            outer.push_back(as_text(live_cell));
            outer.push_back(as_text(other_cell));
            outer.push_back(column.has_delta() ? delta(live_cell, other_cell) + "::text" : "null::text");
            if (column.has_delta()) weights.push_back("abs(" + delta(cell('l', column), cell('o', column)) + ")");
        }
        for (const char side : {'l', 'o'}) {
            for (const auto& position : positions) {
                const auto found = std::find_if(columns.begin(), columns.end(),
                                                [&](const Common& column) { return column.name == position; });
                outer.push_back(std::string("s.") + side + std::to_string(found - columns.begin()) + "::bigint");
            }
        }
        return "select " + joined(outer, ", ") + " from (select " + joined(inner, ", ") + from() + " where " +
               missing('l') + " or " + missing('o') + " or " + changed() + " order by " + joined(weights, " + ") +
               " desc, " + joined(order, ", ") + " limit " + std::to_string(top) + ") s";
    }
};

// The parts of the log that a row comes from, as one range of each partition.
class Ranges {
public:
    void add(std::int32_t partition, std::int64_t min_offset, std::int64_t max_offset) {
        const auto [found, is_new] = ranges_.try_emplace(partition, Diff::Evidence{partition, min_offset, max_offset});
        found->second.min_offset = std::min(found->second.min_offset, min_offset);
        found->second.max_offset = std::max(found->second.max_offset, max_offset);
    }
    [[nodiscard]] std::vector<Diff::Evidence> all() const {
        std::vector<Diff::Evidence> list;
        for (const auto& [partition, range] : ranges_)
            list.push_back(range);
        return list;
    }

private:
    std::map<std::int32_t, Diff::Evidence> ranges_;
};

// One comparison within its snapshot.
class Comparison {
public:
    Comparison(pg::Transaction& tx, const DiffOptions& options, const Generation& live, const Generation& other)
        : tx_(tx),
          options_(options),
          live_(live),
          other_(other),
          windows_from_("coalesce(greatest(" + windows_from_of(live.schema) + ", " + windows_from_of(other.schema) +
                        "), '-infinity')") {}

    std::vector<Table> run() {
        const auto all = read_shapes(tx_, live_.schema, other_.schema);
        const auto sizes = read_sizes();
        std::int64_t total = 0;
        for (const auto& [name, bytes] : sizes)
            total += bytes;
        std::int64_t done = 0;
        options_.on_progress(done, total);
        std::vector<Table> tables;
        for (const auto& [name, shapes] : all) {
            if (options_.cancelled()) throw std::runtime_error("the comparison was stopped; run it again");
            tables.push_back(compare_table(name, shapes));
            done += sizes.at(name);
            options_.on_progress(done, total);
        }
        return tables;
    }

private:
    std::map<std::string, std::int64_t> read_sizes() {
        pg::Params schemas;
        schemas.add(live_.schema).add(other_.schema);
        const auto rows = tx_.run(kSizes, schemas);
        std::map<std::string, std::int64_t> sizes;
        for (std::size_t row = 0; row < rows.size(); ++row)
            sizes[std::string(rows.text(row, 0))] = rows.integer(row, 1);
        return sizes;
    }

    Table compare_table(const std::string& name, const Shapes& shapes) {
        Table table;
        table.name = name;
        table.in_live = shapes.live.has_value();
        table.in_other = shapes.other.has_value();
        if (!table.in_live || !table.in_other) {
            compare_alone(table, table.in_live ? live_ : other_, table.in_live ? *shapes.live : *shapes.other);
            return table;
        }
        list_missing(*shapes.live, *shapes.other, table.columns_only_in_live);
        list_missing(*shapes.other, *shapes.live, table.columns_only_in_other);
        table.other_key = shapes.live->key() != shapes.other->key();
        if (table.other_key) {
            compare_alone(table, live_, *shapes.live);
            compare_alone(table, other_, *shapes.other);
            return table;
        }
        add(table,
            {source(live_.schema, name, *shapes.live, windows_from_),
             source(other_.schema, name, *shapes.other, windows_from_), common(name, *shapes.live, *shapes.other)});
        return table;
    }

    static void list_missing(const Shape& from, const Shape& in, std::vector<std::string>& names) {
        for (const auto& column : from.columns) {
            if (in.find(column.name) == nullptr) names.push_back(column.name);
        }
    }

    // The rows of one side with none.
    void compare_alone(Table& table, const Generation& side, const Shape& shape) {
        const bool is_live = &side == &live_;
        const auto rows = source(side.schema, table.name, shape, windows_from_);
        const auto none = nothing_of(side.schema, table.name);
        add(table, {is_live ? rows : none, is_live ? none : rows, common(table.name, shape, shape)});
    }

    static std::vector<Common> common(const std::string& table, const Shape& live, const Shape& other) {
        const auto key = live.key();
        if (key.empty()) {
            throw std::logic_error("table " + table +
                                   " has no primary key: its rows cannot be compared with another's");
        }
        auto names = key;
        for (const auto& column : live.columns) {
            if (column.place == 0) names.push_back(column.name);
        }
        std::vector<Common> columns;
        for (const auto& name : names) {
            const auto* const l = live.find(name);
            const auto* const o = other.find(name);
            if (o == nullptr) continue;
            Common column;
            column.name = name;
            column.is_key = l->place > 0;
            column.is_number = l->is_number && o->is_number;
            column.as_text = !column.is_number && (l->type != o->type || !l->has_equality);
            columns.push_back(std::move(column));
        }
        return columns;
    }

    // Counts what differs, and takes samples of it.
    void add(Table& table, const Match& match) {
        const auto counts = tx_.run_script(match.counts());
        table.rows_live += counts.integer(0, 0);
        table.rows_other += counts.integer(0, 1);
        table.added += counts.integer(0, 2);
        table.removed += counts.integer(0, 3);
        table.changed += counts.integer(0, 4);
        const bool differs = counts.integer(0, 2) + counts.integer(0, 3) + counts.integer(0, 4) > 0;
        const auto top = options_.top - std::min(options_.top, table.samples.size());
        if (!differs || top == 0) return;
        auto samples = take_samples(match, top);
        std::move(samples.begin(), samples.end(), std::back_inserter(table.samples));
    }

    std::vector<Sample> take_samples(const Match& match, std::size_t top) {
        const auto positions = positions_in(match);
        const auto rows = tx_.run_script(match.samples(top, positions));
        std::vector<Sample> samples;
        for (std::size_t row = 0; row < rows.size(); ++row) {
            Sample sample;
            std::size_t at = 0;
            if (const auto kind = rows.cell(row, at++))
                sample.kind = *kind == "added" ? Diff::Kind::added : Diff::Kind::removed;
            for (const auto& column : match.columns) {
                if (column.is_key) {
                    sample.key.push_back({column.name, std::string(rows.text(row, at++))});
                    continue;
                }
                const bool differs = rows.boolean(row, at);
                if (differs) {
                    sample.changes.push_back({column.name, text_at(rows, row, at + 1), text_at(rows, row, at + 2),
                                              text_at(rows, row, at + 3)});
                }
                at += 4;
            }
            Ranges ranges;
            for (int side = 0; side < 2 && !positions.empty(); ++side, at += positions.size()) {
                if (!rows.cell(row, at) || !rows.cell(row, at + 1) || !rows.cell(row, at + 2)) continue;
                ranges.add(static_cast<std::int32_t>(rows.integer(row, at)), rows.integer(row, at + 1),
                           rows.integer(row, at + 2));
            }
            sample.evidence = ranges.all();
            samples.push_back(std::move(sample));
        }
        if (positions.empty()) look_up_evidence(samples);
        return samples;
    }

    static std::optional<std::string> text_at(const pg::Rows& rows, std::size_t row, std::size_t column) {
        const auto cell = rows.cell(row, column);
        return cell ? std::optional<std::string>(*cell) : std::nullopt;
    }

    // The columns partition, min and max offset of a table whose rows say themselves where they come from.
    static std::vector<std::string> positions_in(const Match& match) {
        const auto has = [&](std::string_view name) {
            return std::any_of(match.columns.begin(), match.columns.end(),
                               [&](const Common& column) { return column.name == name && column.is_number; });
        };
        if (!has("partition")) return {};
        if (has("offset")) return {"partition", "offset", "offset"};
        if (has("min_offset") && has("max_offset")) return {"partition", "min_offset", "max_offset"};
        return {};
    }

    // Of rows whose key is an entity's.
    void look_up_evidence(std::vector<Sample>& samples) {
        if (samples.empty() || samples[0].key.size() != 1 || samples[0].key[0].column == "partition") return;
        std::map<std::string, Ranges> ranges;
        for (const bool is_live : {true, false}) {
            const auto& schema = is_live ? live_.schema : other_.schema;
            pg::Params name;
            name.add(schema);
            if (!tx_.run(kHasEvidence, name).boolean(0, 0)) continue;
            pg::Array entities;
            for (const auto& sample : samples)
                entities.add(sample.key[0].value);
            pg::Params wanted;
            wanted.add(std::move(entities));
            const auto sql = "select entity, partition, min_offset, max_offset from " +
                             pg::quote_identifier(schema, "evidence") + " where entity = any($1::text[])";
            const auto rows =
                tx_.run(pg::Statement{is_live ? "diff_evidence_live" : "diff_evidence_other", sql.c_str()}, wanted);
            for (std::size_t row = 0; row < rows.size(); ++row) {
                ranges[std::string(rows.text(row, 0))].add(static_cast<std::int32_t>(rows.integer(row, 1)),
                                                           rows.integer(row, 2), rows.integer(row, 3));
            }
        }
        for (auto& sample : samples)
            sample.evidence = ranges[sample.key[0].value].all();
    }

    pg::Transaction& tx_;
    const DiffOptions& options_;
    const Generation& live_;
    const Generation& other_;
    std::string windows_from_;  // as SQL: the later of the two
};

// Takes the snapshot that `tx` then has, and throws unless both generations stand at `vector` in it.
void take_snapshot(pg::Transaction& tx, const Generation& live, const Generation& other,
                   const std::vector<std::int64_t>& vector) {
    const auto rows = tx.run_script(
        "select l.next_offset, o.next_offset from " + pg::quote_identifier(live.schema, "offsets") + " l full join " +
        pg::quote_identifier(other.schema, "offsets") + " o using (partition) order by partition");
    bool is_at_it = rows.size() == vector.size();
    for (std::size_t row = 0; is_at_it && row < rows.size(); ++row) {
        is_at_it = rows.cell(row, 0) && rows.cell(row, 1) && rows.integer(row, 0) == vector[row] &&
                   rows.integer(row, 1) == vector[row];
    }
    if (!is_at_it) throw std::logic_error("the snapshot is not what stood still");
}

// Throws Refused when the generations are not, or no longer, where and what they were said to be.
class Places {
public:
    Places(pg::Connection& connection, const Generation& live, const Generation& other)
        : connection_(connection), live_(live), other_(other), first_{find(live), find(other)} {
        const auto is_as_said = [](const Place& place, const Generation& generation) {
            return place.schema == generation.schema && place.role == generation.role;
        };
        if (!is_as_said(first_.first, live) || !is_as_said(first_.second, other)) refuse();
    }
    // Every rename counts as a swap: there was none in between.
    void check() const {
        if (first_ != std::pair(find(live_), find(other_))) refuse();
    }

private:
    [[nodiscard]] Place find(const Generation& generation) const {
        auto place = find_place(connection_, *generation.target.projection, generation.target.generation);
        if (!place) refuse();
        return *std::move(place);
    }
    [[noreturn]] void refuse() const {
        throw Refused("generation " + std::to_string(live_.target.generation) + " or " +
                      std::to_string(other_.target.generation) + " of " +
                      std::string(live_.target.projection->stream().name) +
                      " was promoted, rolled back or dropped meanwhile: compare again");
    }

    pg::Connection& connection_;
    const Generation& live_;
    const Generation& other_;
    std::pair<Place, Place> first_;
};

}  // namespace

std::int64_t Diff::differing() const noexcept {
    std::int64_t rows = 0;
    for (const auto& table : tables)
        rows += table.differing();
    return rows;
}

std::string digest_of(pg::Transaction& tx, const Generation& generation) {
    constexpr const char* kModulus = "18446744073709551616";
    std::string all;
    for (auto& [table, shapes] : read_shapes(tx, generation.schema, generation.schema)) {
        auto columns = shapes.live->columns;
        // A table that was altered has them in another order.
        std::sort(columns.begin(), columns.end(), [](const auto& a, const auto& b) { return a.name < b.name; });
        std::vector<std::string> names;
        std::vector<std::string> cells;
        for (const auto& column : columns) {
            // What is said to people may be said better some day.
            if (table == "dead_letters" && column.name == "detail") continue;
            const auto cell = "r." + pg::quote_identifier(column.name) + "::text";
            names.push_back(column.name);
            // With its length, so that no two rows are written alike.
            cells.push_back("coalesce(octet_length(convert_to(" + cell + ", 'UTF8')) || ':' || " + cell + ", '-')");
        }
        const auto word = "('x' || encode(substr(sha256(convert_to(" + joined(cells, " || ") +
                          ", 'UTF8')), 1, 8), 'hex'))::bit(64)::bigint::numeric";
        const auto rows = tx.run_script("select count(*), mod(mod(coalesce(sum(" + word + "), 0), " + kModulus +
                                        ") + " + kModulus + ", " + kModulus + ")::text from " +
                                        source(generation.schema, table, *shapes.live, "'-infinity'") + " r");
        all += table + "(" + joined(names, ",") + ") " + std::string(rows.text(0, 0)) + " " +
               std::string(rows.text(0, 1)) + "\n";
    }
    std::array<char, 17> hex{};
    std::snprintf(hex.data(), hex.size(), "%016" PRIx64, weights_of(all).first);
    return hex.data();
}

Diff compare(const DiffOptions& options, const Generation& live, const Generation& other) {
    pg::Connection connection(options.owner_dsn, session());
    // A join of minutes ends with the program that waits for it, and not only when it has something to say.
    connection.run_script("set client_connection_check_interval = '1s'");
    const Places places(connection, live, other);
    Diff diff;
    diff.stream = live.target.projection->stream().name;
    diff.live = live.target.generation;
    diff.other = other.target.generation;
    try {
        std::optional<pg::Transaction> snapshot;
        {
            Standstill standstill(
                {.owner_dsn = options.owner_dsn, .timeout = options.timeout, .cancelled = options.cancelled}, live,
                other);
            snapshot.emplace(connection.begin_snapshot());
            diff.vector = standstill.vector();
            take_snapshot(*snapshot, live, other, diff.vector);
        }
        diff.tables = Comparison(*snapshot, options, live, other).run();
    } catch (const pg::Error&) {
        if (!connection.is_broken()) places.check();  // tables that are not there: it says why
        throw;
    }
    places.check();
    return diff;
}

}  // namespace tidemark::consumers
