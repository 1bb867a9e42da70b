#include "consumers/dead_letters.h"

#include "consumers/terminal.h"
#include "infra/base/backoff.h"
#include "infra/base/clock.h"
#include "infra/base/progress.h"
#include "infra/kafka/admin.h"
#include "schemas/base64.h"
#include "schemas/dead_letter.h"
#include "schemas/event.h"
#include "schemas/instant.h"
#include "schemas/json.h"

#include <algorithm>
#include <iomanip>
#include <map>
#include <span>
#include <stdexcept>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

namespace tidemark::consumers {

using base::with_commas;
using schemas::append_bytes;
using schemas::json::append_member;

namespace {

constexpr pg::Statement kReasons{"dead_letters_reasons", R"(
select reason, status, count(*), (extract(epoch from min(append_time)) * 1000000)::bigint,
       (extract(epoch from max(append_time)) * 1000000)::bigint
from dead_letters where $1 in ('', reason)
group by reason, status order by 3 desc, 1, 2)"};

constexpr pg::Statement kNewest{"dead_letters_newest", R"(
select partition, "offset", (extract(epoch from append_time) * 1000000)::bigint, reason, detail, status, attempts,
       key is null, coalesce(key, ''), coalesce(octet_length(value), -1), holds
from dead_letters where $1 in ('', reason)
order by append_time desc, partition, "offset" desc limit $2)"};

constexpr pg::Statement kOne{"dead_letters_one", R"(
select (extract(epoch from append_time) * 1000000)::bigint, reason, detail, status, attempts,
       key is null, coalesce(key, ''), value is null, coalesce(value, ''), topic, coalesce(decided_at, -1), coalesce(note, ''),
       holds
from dead_letters where partition = $1 and "offset" = $2)"};

constexpr pg::Statement kHeaders{"dead_letters_headers", R"(
select h.name, h.value
from dead_letters d, unnest(d.header_names, d.header_values) with ordinality as h (name, value, place)
where d.partition = $1 and d."offset" = $2 order by h.place)"};

// A value that long is read with --json.
constexpr std::size_t kMostOfValue = 2'000;

using Bytes = std::optional<std::string>;

pg::Connection connect(const std::string& dsn, const Generation& live) {
    pg::SessionOptions session;
    session.application_name = "tidemark-consumer dead-letters";
    session.search_path = pg::quote_identifier(live.schema);
    session.statement_timeout = std::chrono::minutes(1);
    return pg::Connection(dsn, session);
}

Refused no_letter(const std::string& stream, const schemas::Position& letter) {
    return Refused("stream " + stream + " has no dead letter " + schemas::to_string(letter) +
                   ": see `tidemark-consumer dead-letters " + stream + "`");
}

// From the row's first two cells.
schemas::Position position_at(const pg::Rows& rows, std::size_t row) {
    return {static_cast<std::int32_t>(rows.integer(row, 0)), rows.integer(row, 1)};
}

std::string for_people(const Bytes& bytes, std::size_t most = 60) {
    if (!bytes) return "null";
    if (schemas::json::is_utf8(*bytes)) return shown(*bytes, most);
    return "base64 " + shown(schemas::to_base64(*bytes), most);
}

Bytes bytes_at(const pg::Rows& rows, std::size_t row, std::size_t is_null) {
    return rows.boolean(row, is_null) ? std::nullopt : Bytes(rows.bytes(row, is_null + 1));
}

void write_one(pg::Connection& tables, const DeadLetterOptions& options, const std::string& stream, std::ostream& out) {
    pg::Params params;
    params.add(options.letter->partition).add(options.letter->offset);
    const auto rows = tables.run(kOne, params);
    const auto position = schemas::to_string(*options.letter);
    if (rows.empty()) throw no_letter(stream, *options.letter);
    const auto headers = tables.run(kHeaders, params);
    const auto appended = schemas::format_instant(rows.instant(0, 0));
    const auto decided = rows.integer(0, 10);
    const std::string note(rows.text(0, 11));
    const auto key = bytes_at(rows, 0, 5);
    const auto value = bytes_at(rows, 0, 7);
    if (options.json) {
        std::string json = "{\"letter\":\"" + position + '"';
        append_member(json, "topic", rows.text(0, 9));
        append_member(json, "appendTime", appended);
        append_member(json, "reason", rows.text(0, 1));
        append_member(json, "detail", rows.text(0, 2));
        append_member(json, "status", rows.text(0, 3));
        json += ",\"attempts\":" + std::to_string(rows.integer(0, 4));
        json += rows.boolean(0, 12) ? ",\"holds\":true" : ",\"holds\":false";
        json += ",\"decision\":";
        json += decided < 0 ? "null" : '"' + schemas::to_string({options.letter->partition, decided}) + '"';
        append_member(json, "note", note);
        json += ',';
        append_bytes(json, "key", key);
        json += ",\"headers\":[";
        for (std::size_t row = 0; row < headers.size(); ++row) {
            json += row > 0 ? ",{" : "{";
            append_bytes(json, "name", headers.bytes(row, 0));
            json += ',';
            append_bytes(json, "value", headers.bytes(row, 1));
            json += '}';
        }
        json += "],";
        append_bytes(json, "value", value);
        out << json << "}\n";
        return;
    }
    out << "letter    " << position << " of topic " << rows.text(0, 9) << ", appended " << appended << "\nreason    "
        << rows.text(0, 1) << ": " << shown(std::string(rows.text(0, 2)), kMostOfValue) << "\nstatus    "
        << rows.text(0, 3) << ", attempts " << rows.integer(0, 4);
    if (rows.boolean(0, 12)) out << ", holds what comes later under its key";
    if (decided >= 0) out << ", decided about at " << schemas::to_string({options.letter->partition, decided});
    if (!note.empty()) out << ": " << shown(note, kMostOfValue);
    out << "\nkey       " << for_people(key, kMostOfValue) << '\n';
    for (std::size_t row = 0; row < headers.size(); ++row) {
        out << "header    " << for_people(headers.bytes(row, 0)) << ": " << for_people(headers.bytes(row, 1)) << '\n';
    }
    out << "value     " << for_people(value, kMostOfValue) << '\n';
}

struct Reason {
    std::string reason;
    std::string status;
    std::int64_t count = 0;
    std::string oldest;
    std::string newest;
};

std::vector<Reason> find_reasons(pg::Connection& tables, const std::string& only) {
    pg::Params params;
    params.add(only);
    const auto rows = tables.run(kReasons, params);
    std::vector<Reason> reasons;
    for (std::size_t row = 0; row < rows.size(); ++row) {
        reasons.push_back({std::string(rows.text(row, 0)), std::string(rows.text(row, 1)), rows.integer(row, 2),
                           schemas::format_instant(rows.instant(row, 3)),
                           schemas::format_instant(rows.instant(row, 4))});
    }
    return reasons;
}

void write_list_as_json(const pg::Rows& letters, const std::vector<Reason>& reasons, const Generation& live,
                        std::int64_t count, std::ostream& out) {
    std::string json = "{\"stream\":\"" + std::string(live.target.projection->stream().name) +
                       "\",\"generation\":" + std::to_string(live.target.generation) +
                       ",\"count\":" + std::to_string(count) + ",\"reasons\":[";
    for (const auto& one : reasons) {
        json += &one == &reasons.front() ? "{\"count\":" : ",{\"count\":";
        json += std::to_string(one.count);
        append_member(json, "reason", one.reason);
        append_member(json, "status", one.status);
        append_member(json, "oldest", one.oldest);
        append_member(json, "newest", one.newest);
        json += '}';
    }
    json += "],\"letters\":[";
    for (std::size_t row = 0; row < letters.size(); ++row) {
        json += row > 0 ? ",{" : "{";
        json += "\"letter\":\"" + schemas::to_string(position_at(letters, row)) + '"';
        append_member(json, "appendTime", schemas::format_instant(letters.instant(row, 2)));
        append_member(json, "reason", letters.text(row, 3));
        append_member(json, "detail", letters.text(row, 4));
        append_member(json, "status", letters.text(row, 5));
        json += ",\"attempts\":" + std::to_string(letters.integer(row, 6));
        json += letters.boolean(row, 10) ? ",\"holds\":true," : ",\"holds\":false,";
        append_bytes(json, "key", bytes_at(letters, row, 7));
        const auto size = letters.integer(row, 9);
        json += ",\"size\":" + (size < 0 ? "null" : std::to_string(size)) + '}';
    }
    out << json << "]}\n";
}

void write_list(const pg::Rows& letters, const std::vector<Reason>& reasons, const Generation& live, std::int64_t count,
                std::ostream& out) {
    const std::string stream(live.target.projection->stream().name);
    out << stream << ", generation " << live.target.generation << ": " << with_commas(count)
        << (count == 1 ? " dead letter\n" : " dead letters\n");
    if (reasons.empty()) return;
    out << '\n'
        << padded("REASON", 22) << padded("STATUS", 13) << std::right << std::setw(12) << "COUNT"
        << "  " << padded("OLDEST", 28) << "NEWEST\n";
    for (const auto& one : reasons) {
        out << padded(one.reason, 22) << padded(one.status, 13) << std::right << std::setw(12) << with_commas(one.count)
            << "  " << padded(one.oldest, 28) << one.newest << '\n';
    }
    out << "\nThe newest:\n"
        << padded("LETTER", 16) << padded("APPENDED", 28) << padded("REASON", 22) << "KEY, DETAIL\n";
    for (std::size_t row = 0; row < letters.size(); ++row) {
        out << padded(schemas::to_string(position_at(letters, row)), 16)
            << padded(schemas::format_instant(letters.instant(row, 2)), 28)
            << padded(std::string(letters.text(row, 3)), 22) << for_people(bytes_at(letters, row, 7), 40) << ", "
            << shown(std::string(letters.text(row, 4))) << '\n';
    }
    out << "\nOne of them whole: tidemark-consumer dead-letters " << stream << " PARTITION:OFFSET\n";
}

constexpr pg::Statement kOpen{"dead_letters_open", R"(
select partition, "offset", status, attempts, holds from dead_letters
where case when $1 >= 0 then partition = $1 and "offset" = $2
      else (status = 'open' or ($4 and holds)) and $3 in ('', reason)
           -- a decision that became a letter is not meant with the others: judged again it is one of no type of the stream
           and not (key is not distinct from 'decision'::bytea
                    and coalesce(position('"tidemark.dead_letter.'::bytea in value), 0) > 0) end
order by partition, "offset")"};

constexpr pg::Statement kOutcomes{"dead_letters_outcomes", R"(
select coalesce(d.status, 'gone'), coalesce(c.detail, d.detail, 'the tables that are read now do not have it'),
       c.reason is not null,
       case when d.holds then (select min(h."offset") from dead_letters h
                               where h.holds and h.partition = d.partition and sha256(h.key) = sha256(d.key)
                                 and h."offset" < d."offset") end
from unnest($1::integer[], $2::bigint[], $3::bigint[]) with ordinality as w (partition, "offset", decision, place)
left join dead_letters d on d.partition = w.partition and d."offset" = w."offset"
left join dead_letters c on c.partition = w.partition and c."offset" = w.decision
order by w.place)"};

// So many are sent before what became of them is looked at.
constexpr std::size_t kDecisionsAtOnce = 100;

struct Decision {
    schemas::Position letter;
    std::int64_t attempts = 1;           // so far
    std::optional<std::int64_t> offset;  // where it stands itself
    bool is_known = false;               // what became of it, which the rest says
    std::string status = "open";
    std::string detail;
    std::optional<std::int64_t> behind;  // it waits for this one
    bool was_refused = false;            // the decision itself became a dead letter
};

std::vector<Decision> find_open(pg::Connection& tables, const DecideOptions& options, const std::string& stream) {
    pg::Params params;
    params.add(options.letter ? options.letter->partition : -1).add(options.letter ? options.letter->offset : -1);
    params.add(options.reason).add(!options.redrive);
    const auto rows = tables.run(kOpen, params);
    std::vector<Decision> decisions;
    for (std::size_t row = 0; row < rows.size(); ++row) {
        Decision decision;
        decision.letter = position_at(rows, row);
        decision.attempts = rows.integer(row, 3);
        // Quarantined ones that hold their entity can be let go only so.
        if (rows.text(row, 2) != "open" && (options.redrive || !rows.boolean(row, 4))) {
            throw Refused("dead letter " + schemas::to_string(decision.letter) + " of " + stream + " is " +
                          std::string(rows.text(row, 2)) +
                          (rows.boolean(row, 4) ? ", and can only be discarded" : ", and no decision changes that"));
        }
        decisions.push_back(std::move(decision));
    }
    if (decisions.empty() && options.letter) throw no_letter(stream, *options.letter);
    return decisions;
}

std::string event_of(const DecideOptions& options, schemas::Position letter, std::int64_t attempts) {
    std::string data;
    if (options.redrive) {
        schemas::dead_letter::append(data, schemas::dead_letter::Redriven{letter.offset, options.edit, attempts});
    } else {
        schemas::dead_letter::append(data, schemas::dead_letter::Discarded{letter.offset, options.note});
    }
    const auto now = base::SystemClock().now();
    const auto id = schemas::make_uuid7(now);
    schemas::EventText event;
    event.id = id;
    event.source = "/dead-letters";
    event.type = options.redrive ? schemas::dead_letter::kRedriven : schemas::dead_letter::kDiscarded;
    event.time = now;
    event.data = data;
    std::string text;
    schemas::append_event(text, event);
    // What could not be read back would be a dead letter itself.
    schemas::json::Reader reader;
    const auto read = schemas::read_event(reader, text);
    std::string wrong;
    if (!read) {
        wrong = describe(read.violations());
    } else if (options.redrive) {
        const auto decision = schemas::dead_letter::read_redriven(read->data, schemas::json::Unknown::refuse, "/data");
        if (!decision) wrong = describe(decision.violations());
    } else {
        const auto decision = schemas::dead_letter::read_discarded(read->data, schemas::json::Unknown::refuse, "/data");
        if (!decision) wrong = describe(decision.violations());
    }
    if (!wrong.empty()) throw Refused("the decision would not be one: " + wrong);
    return text;
}

// Until the live tables hold every decision.
void await_folded(pg::Connection& registry, const DecideOptions& options, const std::string& stream,
                  std::span<const Decision> decisions) {
    const auto until = std::chrono::steady_clock::now() + options.timeout;
    base::Backoff pause(std::chrono::milliseconds(20), std::chrono::milliseconds(250), 1);
    while (true) {
        const auto next = find_progress(registry, stream);
        const bool folded = std::all_of(decisions.begin(), decisions.end(), [&](const Decision& one) {
            const auto partition = static_cast<std::size_t>(one.letter.partition);
            return !one.offset || (partition < next.size() && next[partition] > *one.offset);
        });
        if (folded) return;
        if (options.cancelled() || std::chrono::steady_clock::now() >= until) {
            throw std::runtime_error(
                "not folded yet: is a consumer running? See `tidemark-consumer status`, then "
                "`tidemark-consumer dead-letters " +
                stream + "`");
        }
        std::this_thread::sleep_for(pause.next());
    }
}

void read_outcomes(pg::Connection& tables, std::span<Decision> decisions) {
    pg::Array partitions;
    pg::Array offsets;
    pg::Array own;
    for (const auto& one : decisions) {
        partitions.add(std::int64_t{one.letter.partition});
        offsets.add(one.letter.offset);
        own.add(one.offset.value_or(-1));
    }
    pg::Params params;
    params.add(std::move(partitions)).add(std::move(offsets)).add(std::move(own));
    const auto rows = tables.run(kOutcomes, params);
    for (std::size_t row = 0; row < decisions.size(); ++row) {
        auto& one = decisions[row];
        one.is_known = true;
        one.status = rows.text(row, 0);
        one.detail = rows.text(row, 1);
        one.was_refused = rows.boolean(row, 2);
        one.behind = rows.cell(row, 3) ? std::optional(rows.integer(row, 3)) : std::nullopt;
        if (one.behind) one.detail = "waits behind " + schemas::to_string({one.letter.partition, *one.behind});
    }
}

// Some at a time; no more once one of them was refused itself, as the next would be.
void carry_out(pg::Connection& tables, const DecideOptions& options, const Generation& live,
               std::span<Decision> decisions) {
    const std::string stream(live.target.projection->stream().name);
    kafka::Admin admin(options.brokers, options.kafka_properties);
    std::size_t sent = 0;
    try {
        for (std::size_t begin = 0; begin < decisions.size(); begin += kDecisionsAtOnce) {
            const auto chunk = decisions.subspan(begin, std::min(kDecisionsAtOnce, decisions.size() - begin));
            // Some have been released by the ones before them, and others wait for these.
            if (options.redrive) read_outcomes(tables, chunk);
            for (auto& one : chunk) {
                if (options.cancelled()) throw std::runtime_error("cancelled: run it again for those that are left");
                if (options.redrive && (one.status != "open" || one.behind)) continue;
                one.offset = admin.append(live.target.topic, one.letter.partition, schemas::dead_letter::kKey,
                                          event_of(options, one.letter, one.attempts));
                ++sent;
            }
            await_folded(tables, options, stream, chunk);
            read_outcomes(tables, chunk);
            if (std::any_of(chunk.begin(), chunk.end(), [](const Decision& one) { return one.was_refused; })) return;
        }
    } catch (const std::exception& error) {
        if (sent == 0) throw;
        throw std::runtime_error(std::to_string(sent) + " of " + std::to_string(decisions.size()) +
                                 " decisions are on the log, they hold: " + error.what() +
                                 "; see `tidemark-consumer dead-letters " + stream + "`");
    }
}

void write_decisions(const DecideOptions& options, const std::string& stream, const std::vector<Decision>& decisions,
                     std::ostream& out) {
    if (options.json) {
        std::string json = "{\"stream\":\"" + stream + "\",\"letters\":[";
        for (const auto& one : decisions) {
            json += &one == &decisions.front() ? "{\"letter\":\"" : ",{\"letter\":\"";
            json += schemas::to_string(one.letter) + "\",\"decision\":";
            json += one.offset ? '"' + schemas::to_string({one.letter.partition, *one.offset}) + '"' : "null";
            append_member(json, "status", one.status);
            append_member(json, "detail", one.detail);
            json += '}';
        }
        out << json << "]}\n";
        return;
    }
    const char* const what = options.redrive ? "redriven" : "discarded";
    if (options.dry_run) {
        out << with_commas(static_cast<std::int64_t>(decisions.size())) << " would be " << what << ":\n";
        for (const auto& one : decisions)
            out << schemas::to_string(one.letter) << '\n';
        return;
    }
    std::map<std::string, std::int64_t> counts;
    for (const auto& one : decisions) {
        ++counts[one.status];
        if (one.status == what) continue;
        out << schemas::to_string(one.letter) << " is " << one.status << ": ";
        if (!one.is_known) {
            out << "nothing was sent, for a decision before it was refused";
        } else {
            out << (one.was_refused ? "the decision itself became a dead letter: " : "") << shown(one.detail);
        }
        out << '\n';
    }
    for (const auto& [status, count] : counts)
        out << with_commas(count) << ' ' << status << '\n';
    if (counts.empty()) out << "no letter is open\n";
}

}  // namespace

bool decide_dead_letters(const DecideOptions& options, const Generation& live, std::ostream& out) {
    const std::string stream(live.target.projection->stream().name);
    pg::Connection tables = connect(options.dsn, live);
    auto decisions = find_open(tables, options, stream);
    if (options.edit && options.edit->size() > schemas::dead_letter::kMaxSentEditBytes)
        throw Refused("the edit is larger than " + std::to_string(schemas::dead_letter::kMaxSentEditBytes) +
                      " bytes, and would not fit into a record");
    if (!decisions.empty()) static_cast<void>(event_of(options, decisions.front().letter, decisions.front().attempts));
    if (options.redrive && options.letter) {
        read_outcomes(tables, decisions);
        const auto& one = decisions.front();
        if (one.behind) {
            throw Refused("dead letter " + schemas::to_string(one.letter) + " of " + stream + ' ' + one.detail +
                          ": redrive or discard that one first");
        }
    }
    if (options.dry_run) {
        if (!decisions.empty()) read_outcomes(tables, decisions);
    } else if (!decisions.empty()) {
        const auto last_first = [&] {
            if (!options.redrive) std::reverse(decisions.begin(), decisions.end());
        };
        last_first();
        carry_out(tables, options, live, decisions);
        last_first();
    }
    write_decisions(options, stream, decisions, out);
    return options.dry_run || std::none_of(decisions.begin(), decisions.end(), [&](const Decision& one) {
               return one.status != (options.redrive ? "redriven" : "discarded");
           });
}

void write_dead_letters(const DeadLetterOptions& options, const Generation& live, std::ostream& out) {
    auto tables = connect(options.dsn, live);
    if (options.letter) {
        write_one(tables, options, std::string(live.target.projection->stream().name), out);
        return;
    }
    const auto reasons = find_reasons(tables, options.reason);
    std::int64_t count = 0;
    for (const auto& one : reasons)
        count += one.count;
    pg::Params params;
    params.add(options.reason).add(options.limit);
    const auto letters = tables.run(kNewest, params);
    if (options.json) {
        write_list_as_json(letters, reasons, live, count, out);
    } else {
        write_list(letters, reasons, live, count, out);
    }
}

}  // namespace tidemark::consumers
