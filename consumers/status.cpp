#include "consumers/status.h"

#include "consumers/generation.h"
#include "consumers/projections.h"
#include "infra/base/clock.h"
#include "infra/base/log.h"
#include "infra/kafka/admin.h"
#include "schemas/instant.h"
#include "schemas/json.h"

#include <algorithm>
#include <cmath>
#include <iomanip>
#include <map>
#include <optional>
#include <sstream>
#include <tuple>
#include <utility>
#include <vector>

namespace tidemark::consumers {

namespace {

constexpr pg::Statement kPartitions{"status_partitions", R"(
select o.partition, o.next_offset, coalesce(o.owner, ''),
       coalesce((extract(epoch from o.as_of) * 1000000)::bigint, 0),
       (select count(*) from dead_letters d where d.partition = o.partition and d.status = 'open')::bigint,
       exists (select 1 from tidemark.consumers c
               where c.instance = o.owner and c.stream = $1 and c.generation = o.generation and o.partition = any(c.partitions)
                 and c.heartbeat_at > now() - interval '10 seconds'),
       (extract(epoch from (to_jsonb(o) ->> 'windows_from')::timestamptz) * 1000000)::bigint  -- an earlier version has none
from offsets o order by o.partition)"};

struct Line {
    std::string stream;
    int generation = 0;
    std::int32_t partition = 0;
    std::int64_t next_offset = 0;
    std::int64_t end = 0;
    std::string owner;                  // empty: nobody folds it now
    std::optional<double> lag_seconds;  // of the as-of instant; none: never known
    std::int64_t dead_letters = 0;
    std::optional<schemas::Timestamp> windows_from;  // none: all are kept
    std::optional<double> rate;                      // records a second, where it is watched
};

std::vector<Line> gather(const StatusOptions& options) {
    pg::SessionOptions session;
    session.application_name = "tidemark-consumer status";
    pg::Connection registry(options.dsn, session);
    kafka::Admin admin(options.brokers, options.kafka_properties);
    std::vector<Line> lines;
    for (const auto* projection : projections()) {
        const auto live = find_live(registry, *projection);
        if (!live) throw no_tables(*projection);
        session.search_path = pg::quote_identifier(live->schema);
        pg::Connection tables(options.dsn, session);
        pg::Params params;
        params.add(projection->stream().name);
        const auto rows = tables.run(kPartitions, params);
        const auto ends = admin.end_offsets(live->target.topic, live->target.partitions);
        const auto now = base::SystemClock().now();
        for (std::size_t row = 0; row < rows.size(); ++row) {
            Line line;
            line.stream = projection->stream().name;
            line.generation = live->target.generation;
            line.partition = static_cast<std::int32_t>(rows.integer(row, 0));
            line.next_offset = rows.integer(row, 1);
            line.end = ends.at(static_cast<std::size_t>(line.partition));
            if (rows.boolean(row, 5)) line.owner = rows.text(row, 2);
            if (rows.integer(row, 3) != 0)
                line.lag_seconds = std::chrono::duration<double>(now - rows.instant(row, 3)).count();
            line.dead_letters = rows.integer(row, 4);
            if (rows.cell(row, 6)) line.windows_from = rows.instant(row, 6);
            lines.push_back(std::move(line));
        }
    }
    return lines;
}

std::string rounded(double seconds) {
    std::ostringstream text;
    text << std::fixed << std::setprecision(1) << std::max(0.0, seconds);
    return text.str();
}

void write_table(const std::vector<Line>& lines, std::ostream& out) {
    out << std::left << std::setw(12) << "STREAM" << std::right << std::setw(5) << "GEN" << std::setw(11) << "PARTITION"
        << std::setw(14) << "NEXT OFFSET" << std::setw(14) << "LOG END" << std::setw(10) << "BEHIND" << std::setw(9)
        << "LAG S";
    const bool watched =
        std::any_of(lines.begin(), lines.end(), [](const Line& line) { return line.rate.has_value(); });
    if (watched) out << std::setw(12) << "RECORDS/S";
    const bool drops =
        std::any_of(lines.begin(), lines.end(), [](const Line& line) { return line.windows_from.has_value(); });
    out << std::setw(14) << "DEAD LETTERS";
    if (drops) out << std::setw(22) << "WINDOWS FROM";
    out << "  OWNER\n";
    for (const auto& line : lines) {
        out << std::left << std::setw(12) << line.stream << std::right << std::setw(5) << line.generation
            << std::setw(11) << line.partition << std::setw(14) << line.next_offset << std::setw(14) << line.end
            << std::setw(10) << line.end - line.next_offset << std::setw(9)
            << (line.lag_seconds ? rounded(*line.lag_seconds) : "-");
        if (watched) out << std::setw(12) << (line.rate ? rounded(*line.rate) : "-");
        out << std::setw(14) << line.dead_letters;
        if (drops) out << std::setw(22) << (line.windows_from ? schemas::format_instant(*line.windows_from) : "-");
        out << "  " << (line.owner.empty() ? "(nobody)" : line.owner) << '\n';
    }
}

void write_json(const std::vector<Line>& lines, std::ostream& out) {
    std::string json = "{\"partitions\":[";
    for (const auto& line : lines) {
        if (json.back() != '[') json += ',';
        json += "{\"stream\":";
        schemas::json::append_string(json, line.stream);
        if (line.rate) json += ",\"recordsPerSecond\":" + rounded(*line.rate);
        json += ",\"generation\":" + std::to_string(line.generation) +
                ",\"partition\":" + std::to_string(line.partition) +
                ",\"nextOffset\":" + std::to_string(line.next_offset) + ",\"logEnd\":" + std::to_string(line.end) +
                ",\"lagSeconds\":" + (line.lag_seconds ? rounded(*line.lag_seconds) : "null") +
                ",\"deadLetters\":" + std::to_string(line.dead_letters);
        if (line.windows_from) {
            json += ",\"windowsFrom\":";
            schemas::json::append_string(json, schemas::format_instant(*line.windows_from));
        }
        json += ",\"owner\":";
        if (line.owner.empty()) {
            json += "null";
        } else {
            schemas::json::append_string(json, line.owner);
        }
        json += '}';
    }
    out << json << "]}\n";
}

void write(const StatusOptions& options, const std::vector<Line>& lines, std::ostream& out) {
    if (options.json) {
        write_json(lines, out);
    } else {
        write_table(lines, out);
    }
}

// In the place of what could not be looked at, and as it: who reads JSON finds nothing else.
void write_unknown(const StatusOptions& options, const std::string& why, std::ostream& out) {
    if (!options.json) {
        out << "status is not known: " << why << '\n';
        return;
    }
    out << "{\"error\":" << base::log::quoted(why) << "}\n";
}

}  // namespace

void watch_status(const StatusOptions& options, std::chrono::milliseconds interval, bool on_terminal,
                  const std::function<bool(std::chrono::milliseconds)>& cancelled_within, std::ostream& out) {
    using Key = std::tuple<std::string, int, std::int32_t>;  // stream, generation, partition
    std::map<Key, std::int64_t> before;
    std::chrono::steady_clock::time_point looked{};
    do {
        std::ostringstream text;
        try {
            auto lines = gather(options);
            const auto now = std::chrono::steady_clock::now();
            const std::chrono::duration<double> since = now - looked;
            std::map<Key, std::int64_t> seen;
            for (auto& line : lines) {
                const Key place{line.stream, line.generation, line.partition};
                seen[place] = line.next_offset;
                if (const auto last = before.find(place); last != before.end())
                    line.rate = static_cast<double>(line.next_offset - last->second) / since.count();
            }
            before = std::move(seen);
            looked = now;
            write(options, lines, text);
        } catch (const std::exception& error) {
            write_unknown(options, error.what(), text);
        }
        // The home of the screen, each line with what it leaves of an older one cut off, and what is below.
        if (on_terminal) {
            std::string drawn = "\x1b[H";
            for (const char byte : text.str())
                byte == '\n' ? drawn += "\x1b[K\n" : drawn += byte;
            out << drawn << "\x1b[J" << std::flush;
        } else {
            out << text.str() << std::flush;
        }
    } while (!cancelled_within(interval));
}

bool write_status(const StatusOptions& options, std::ostream& out) {
    const auto lines = gather(options);
    write(options, lines, out);
    return std::all_of(lines.begin(), lines.end(), [](const Line& line) { return line.next_offset >= line.end; });
}

}  // namespace tidemark::consumers
