#include "consumers/doctor.h"

#include "consumers/generation.h"
#include "consumers/log_check.h"
#include "consumers/migrate.h"
#include "consumers/projections.h"
#include "consumers/replay.h"
#include "infra/base/clock.h"
#include "infra/kafka/admin.h"
#include "infra/postgres/connection.h"
#include "schemas/json.h"
#include "schemas/sql.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <exception>
#include <optional>
#include <string_view>
#include <utility>

namespace tidemark::consumers {

using std::chrono::milliseconds;

namespace {

constexpr std::string_view kSeverities[] = {"info", "warning", "error"};

// How far two machines' clocks may be apart: consumers take 200 ms off every instant that they promise.
constexpr std::chrono::milliseconds kSkew{200};

constexpr pg::Statement kSettings{"doctor_settings", R"(
select name, setting from pg_settings
where name in ('fsync', 'full_page_writes', 'synchronous_commit', 'data_checksums', 'server_version_num')
order by name)"};

constexpr pg::Statement kNow{"doctor_now", "select (extract(epoch from clock_timestamp()) * 1000000)::bigint"};

constexpr pg::Statement kMigrated{"doctor_migrated", "select to_regclass('tidemark.api_audits') is not null"};

constexpr pg::Statement kRoles{"doctor_roles", R"(
select w.name, r.rolname is not null, coalesce(r.rolsuper or r.rolcreaterole or r.rolcreatedb or r.rolbypassrls, false)
from unnest(array['tidemark_consumer', 'tidemark_api']) as w (name)
left join pg_roles r on r.rolname = w.name)"};

// What the API may write, and what either role does not get to although it needs it.
constexpr pg::Statement kRights{"doctor_rights", R"(
with generation_schemas as (select schema_name as name from tidemark.generations)
select 'api_may_write', c.oid::regclass::text
from pg_class c
join pg_namespace n on n.oid = c.relnamespace
where (n.nspname = 'tidemark' or n.nspname in (select name from generation_schemas)) and c.relkind in ('r', 'v')
  and has_table_privilege('tidemark_api', c.oid, 'insert, update, delete, truncate')
union all
select 'api_cannot_read', c.oid::regclass::text
from pg_class c
join pg_namespace n on n.oid = c.relnamespace
where (n.nspname = 'tidemark' or n.nspname in (select name from generation_schemas))
  and c.relkind = 'v' and c.relname like 'api\_%'
  and not (has_table_privilege('tidemark_api', c.oid, 'select') and has_schema_privilege('tidemark_api', n.oid, 'usage'))
union all
select 'consumer_cannot_write', c.oid::regclass::text
from pg_class c
join pg_namespace n on n.oid = c.relnamespace
where n.nspname in (select name from generation_schemas) and c.relkind = 'r'
  and not (has_schema_privilege('tidemark_consumer', n.oid, 'usage')
           and has_table_privilege('tidemark_consumer', c.oid, 'select')
           and has_table_privilege('tidemark_consumer', c.oid, 'insert')
           and has_table_privilege('tidemark_consumer', c.oid, 'update')
           and has_table_privilege('tidemark_consumer', c.oid, 'delete'))
order by 1, 2)"};

// Tables, views, columns and indexes of two schemas that are not the same in both.
constexpr pg::Statement kSchemaDrift{"doctor_schema_drift", R"(
with parts as (
    select c.table_schema as schema, 'column ' || c.table_name || '.' || c.column_name as part,
           c.data_type || ' ' || coalesce(c.collation_name, '') || ' ' || c.is_nullable || ' ' || coalesce(c.column_default, '') as what
    from information_schema.columns c
    where c.table_schema in ($1, $2)
    union all
    select i.schemaname, 'index ' || i.indexname, replace(i.indexdef, quote_ident(i.schemaname) || '.', '')
    from pg_indexes i
    where i.schemaname in ($1, $2)
)
select coalesce(a.part, e.part), a.part is null, e.part is null
from (select * from parts where schema = $1) a
full join (select * from parts where schema = $2) e on e.part = a.part
where a.what is distinct from e.what
order by 1)"};

constexpr pg::Statement kAudit{"doctor_audit", R"(
select instance, detail from tidemark.audits where stream = $1 and generation = $2 and state in ('differs', 'refused'))"};

class Examination {
public:
    explicit Examination(const DoctorOptions& options)
        : options_(options), admin_(options.brokers, options.kafka_properties) {}

    std::vector<Finding> run() {
        guard("database", "PostgreSQL", "check --owner-dsn, and whether the server runs", [&] {
            pg::SessionOptions session;
            session.application_name = "tidemark-consumer doctor";
            session.statement_timeout = std::chrono::minutes(1);
            connection_.emplace(options_.owner_dsn, session);
            check_server();
            check_clock();
            is_migrated_ = connection_->run(kMigrated).boolean(0, 0);
            if (is_migrated_) {
                check_roles();
            } else {
                add(Severity::error, "not_migrated", "PostgreSQL", "there are no tables of ours in this database",
                    "tidemark-consumer migrate");
            }
        });
        guard("consumer_login", "PostgreSQL", "check --consumer-dsn; `tidemark-consumer migrate` makes its role", [&] {
            pg::SessionOptions session;
            session.application_name = "tidemark-consumer doctor";
            const pg::Connection connection(options_.consumer_dsn, session);
        });
        for (const auto* projection : projections()) {
            const std::string stream(projection->stream().name);
            std::vector<Generation> generations;
            guard("registry", "stream " + stream, "tidemark-consumer migrate", [&] {
                if (!is_migrated_) return;
                generations = find_generations(*connection_, *projection);
                if (generations.empty())
                    add(Severity::error, "not_migrated", "stream " + stream, "it has no tables",
                        "tidemark-consumer migrate");
                for (const auto& one : generations)
                    check_generation(one);
            });
            guard("broker", "topic " + std::string(projection->stream().topic),
                  "check --brokers, and whether the brokers run", [&] { check_topic(*projection, generations); });
        }
        std::stable_sort(findings_.begin(), findings_.end(),
                         [](const Finding& a, const Finding& b) { return a.severity > b.severity; });
        return std::move(findings_);
    }

private:
    void add(Severity severity, std::string check, std::string subject, std::string reason, std::string mend) {
        findings_.push_back({severity, std::move(check), std::move(subject), std::move(reason), std::move(mend)});
    }

    // What a guard refuses is a finding, and so is what could not be asked; the other checks go on.
    template <typename Check>
    void guard(const std::string& check, const std::string& subject, const std::string& mend, const Check& run_check) {
        try {
            run_check();
        } catch (const Refused& refused) {
            add(Severity::error, check, subject, refused.what(), mend);
        } catch (const std::exception& error) {
            add(Severity::error, check + "_unknown", subject, error.what(), mend);
        }
    }

    void check_server() {
        struct Rule {
            std::string_view name;
            std::string_view wanted;
            Severity severity;
            std::string_view reason;
        };
        constexpr std::array kRules{
            Rule{"fsync", "on", Severity::error, "a power cut may corrupt the whole database"},
            Rule{"full_page_writes", "on", Severity::error, "a power cut may leave torn pages behind"},
            Rule{"synchronous_commit", "on", Severity::warning,
                 "sessions that do not set it may lose commits; consumers set it themselves"},
            Rule{"data_checksums", "on", Severity::info, "a page that the disk has changed is not noticed"},
        };
        const auto rows = connection_->run(kSettings);
        for (std::size_t row = 0; row < rows.size(); ++row) {
            const auto name = rows.text(row, 0);
            const auto value = rows.text(row, 1);
            if (name == "server_version_num" && std::stol(std::string(value)) < 150'000) {
                add(Severity::warning, "server_version", "PostgreSQL",
                    "version " + std::string(value) + " is older than any tried (15)", "upgrade PostgreSQL");
            }
            for (const auto& rule : kRules) {
                if (rule.name != name || rule.wanted == value) continue;
                const auto mend = name == "data_checksums" ? "pg_checksums --enable (with the server stopped)"
                                                           : "alter system set " + std::string(name) + " = " +
                                                                 std::string(rule.wanted) + "; select pg_reload_conf()";
                add(rule.severity, std::string(name), "PostgreSQL",
                    std::string(name) + " is " + std::string(value) + ": " + std::string(rule.reason), mend);
            }
        }
    }

    void check_clock() {
        const auto before = clock_.now();
        const auto theirs = connection_->run(kNow).instant(0, 0);
        const auto after = clock_.now();
        const auto ahead = before - theirs;  // ours, at least
        const auto behind = theirs - after;
        if (ahead <= kSkew && behind <= kSkew) return;
        const auto apart = std::chrono::duration_cast<milliseconds>(std::max(ahead, behind)).count();
        add(Severity::warning, "clock_skew", "PostgreSQL",
            "its clock and this machine's are " + std::to_string(apart) +
                " ms apart: heartbeats and ages are told wrong",
            "synchronise the clocks (chrony, NTP)");
    }

    void check_roles() {
        const auto roles = connection_->run(kRoles);
        bool both = true;
        for (std::size_t row = 0; row < roles.size(); ++row) {
            const std::string name(roles.text(row, 0));
            if (!roles.boolean(row, 1)) {
                both = false;
                add(Severity::error, "role_missing", "role " + name, "the programs cannot log in as it",
                    "tidemark-consumer migrate");
            } else if (roles.boolean(row, 2)) {
                add(Severity::error, "role_too_mighty", "role " + name,
                    "it is a superuser, or may create roles or databases, or pass row security: a mistake in a program "
                    "that "
                    "runs as it can harm everything",
                    "alter role " + name + " nosuperuser nocreaterole nocreatedb nobypassrls");
            }
        }
        if (!both) return;
        const auto rights = connection_->run(kRights);
        for (std::size_t row = 0; row < rights.size(); ++row) {
            const auto kind = rights.text(row, 0);
            const std::string table(rights.text(row, 1));
            if (kind == "api_may_write") {
                add(Severity::error, "rights", table, "tidemark_api may write what only consumers may",
                    "revoke insert, update, delete, truncate on " + table + " from tidemark_api");
            } else if (kind == "api_cannot_read") {
                add(Severity::error, "rights", table, "tidemark_api may not read it: reads fail",
                    "grant select on " + table + " to tidemark_api");
            } else {
                add(Severity::error, "rights", table, "tidemark_consumer may not write it: nothing is folded into it",
                    "grant select, insert, update, delete on " + table + " to tidemark_consumer");
            }
        }
    }

    void check_generation(const Generation& generation) {
        const std::string stream(generation.target.projection->stream().name);
        const auto number = std::to_string(generation.target.generation);
        const auto subject = "generation " + number + " of " + stream;
        const auto& projection = *generation.target.projection;
        const bool ours = generation.is_of_this_program();
        const bool folded = !find_folders(*connection_, projection, generation.target.generation).empty();
        if (generation.role == Role::live && !ours) {
            add(Severity::warning, "fingerprint", subject,
                "it was folded by version " + generation.fingerprint + ", this program is " +
                    generation.target.projection->fingerprint(),
                "tidemark-consumer replay " + stream + ", then promote; or use the other version");
        }
        if (generation.role == Role::building) {
            if (!is_being_replayed(*connection_, projection)) {
                add(Severity::warning, "replay_unfinished", subject, "nobody goes on building it",
                    "tidemark-consumer replay " + stream + ", or tidemark-consumer drop " + stream + " " + number);
            }
        } else if (generation.role == Role::scratch) {
            add(Severity::info, "scratch", subject,
                "it was folded from a file, at " + schemas::format_instant(generation.created_at) +
                    ": nobody reads it, and nobody keeps it up to date",
                "nothing, while it is looked at or folded; then tidemark-consumer drop " + stream + " " + number);
            return;  // it may be gone the next moment
        } else if (!folded && generation.role == Role::live) {
            add(Severity::error, "not_folded", subject,
                "no consumer of fingerprint " + generation.fingerprint + " tells of itself: what is read grows old",
                "start tidemark-consumer run");
        } else if (!folded) {
            add(Severity::warning, "not_folded", subject,
                "no consumer of fingerprint " + generation.fingerprint + " keeps it up to date: it cannot be made live",
                "start tidemark-consumer run of that version, or tidemark-consumer drop " + stream + " " + number);
        }
        if (const auto from = find_windows_from(*connection_, generation.schema);
            from && generation.role == Role::live) {
            add(Severity::info, "windows_from", subject,
                "windows before " + schemas::format_instant(*from) + " are dropped, reads of them get 410",
                "nothing, if tidemark-consumer run --window-retention is meant to be what it is");
        }
        check_tables(generation, subject, stream);
        if (ours) check_drift(generation, subject, stream);
    }

    void check_tables(const Generation& generation, const std::string& subject, const std::string& stream) {
        const auto broken_name = "doctor_conservation_" + generation.schema;
        const auto broken_sql = "select count(*) from " + pg::quote_identifier(generation.schema, "offsets") +
                                " where applied + duplicates + parked + gaps <> next_offset - first_offset";
        if (connection_->run(pg::Statement{broken_name.c_str(), broken_sql.c_str()}).integer(0, 0) != 0) {
            add(Severity::error, "conservation", subject,
                "the records counted as applied, repeated, parked and missing are not those between its offsets: "
                "somebody "
                "wrote its offsets by hand",
                "tidemark-consumer replay " + stream + ", then promote --accept-diff");
        }
        if (generation.role != Role::live) return;
        pg::Params audited;
        audited.add(stream).add(std::int64_t{generation.target.generation});
        const auto audit = connection_->run(kAudit, audited);
        if (!audit.empty()) {
            add(Severity::error, "audit", subject,
                "its auditor " + std::string(audit.text(0, 0)) + " says: " + std::string(audit.text(0, 1)),
                "tidemark-consumer verify " + stream + " --deep; then replay " + stream + ", and promote");
        }
        const auto letters_name = "doctor_letters_" + generation.schema;
        const auto letters_sql = "select reason, count(*) from " +
                                 pg::quote_identifier(generation.schema, "dead_letters") +
                                 " where status = 'open' group by reason order by 2 desc, 1";
        const auto letters = connection_->run(pg::Statement{letters_name.c_str(), letters_sql.c_str()});
        std::string reasons;
        for (std::size_t row = 0; row < letters.size(); ++row) {
            reasons += (reasons.empty() ? "" : ", ") + std::to_string(letters.integer(row, 1)) + " " +
                       std::string(letters.text(row, 0));
        }
        if (reasons.empty()) return;
        add(Severity::warning, "dead_letters", subject, "records could not be applied: " + reasons,
            "look at them: tidemark-consumer dead-letters " + stream);
    }

    // Compares the tables with those that this program would make. Nothing of it stays.
    void check_drift(const Generation& generation, const std::string& subject, const std::string& stream) {
        constexpr std::string_view kScratch = "tidemark_doctor";
        auto tx = connection_->begin();
        tx.run_script("create schema " + pg::quote_identifier(kScratch));
        tx.run_script("set local search_path = " + pg::quote_identifier(kScratch));
        tx.run_script(std::string(schemas::sql("generation")));
        tx.run_script(std::string(generation.target.projection->sql()));
        pg::Params params;
        params.add(generation.schema).add(kScratch);
        const auto rows = tx.run(kSchemaDrift, params);
        std::string parts;
        for (std::size_t row = 0; row < rows.size(); ++row) {
            parts += (parts.empty() ? "" : ", ") + std::string(rows.text(row, 0)) +
                     (rows.boolean(row, 1)   ? " (missing)"
                      : rows.boolean(row, 2) ? " (additional)"
                                             : " (other)");
        }
        if (parts.empty()) return;
        add(Severity::error, "schema_drift", subject, "its tables are not those that this program makes: " + parts,
            "tidemark-consumer replay " + stream + ", then promote; do not alter tables by hand");
    }

    void check_topic(const Projection& projection, const std::vector<Generation>& generations) {
        const std::string topic(projection.stream().topic);
        const auto subject = "topic " + topic;
        const auto state = admin_.describe(topic);
        if (!state) {
            add(Severity::error, "topic_missing", subject,
                generations.empty() ? "there is none" : "it is gone, and with it the log that the tables come from",
                generations.empty() ? "tidemark-consumer migrate"
                                    : "restore the topic; without a copy of it, " + fold_anew() +
                                          "; then import what exports you have of it");
            return;
        }
        const auto settings = admin_.topic_settings(topic);
        for (const auto& [name, wanted] : fixed_topic_settings()) {
            const auto found = settings.find(name);
            if (found == settings.end() || found->second == wanted) continue;
            add(name == "compression.type" ? Severity::info : Severity::error, "topic_setting", subject,
                name + " is " + found->second + ", not " + wanted + ": " + why(name),
                "kafka-configs --alter --entity-type topics --entity-name " + topic + " --add-config " + name + "=" +
                    wanted);
        }
        check_replicas(*state, settings, topic);
        if (generations.empty()) return;
        const auto& target = generations.front().target;
        guard("log", subject, "check --brokers, and whether the brokers run", [&] {
            try {
                check_log_is_whole(admin_, target);
            } catch (const LogRefused& refused) {
                add(Severity::error, "log", subject, refused.reason(), refused.mend());
                return;
            }
            check_offsets(generations);
        });
    }

    static std::string why(const std::string& name) {
        if (name == "message.timestamp.type")
            return "lag, freshness and the 24 hours of deduplication rest on the brokers' append times";
        if (name == "cleanup.policy") return "what is compacted away can never be replayed";
        if (name == "unclean.leader.election.enable")
            return "a broker without the newest records may lead, and they are lost";
        if (name == "compression.type") return "the log is larger than it need be, or costs more to write";
        return "events are deleted, and no table can be rebuilt without them";
    }

    void check_replicas(const kafka::TopicState& state, const std::map<std::string, std::string>& settings,
                        const std::string& topic) {
        const auto subject = "topic " + topic;
        const auto found = settings.find("min.insync.replicas");
        const int min_isr = found == settings.end() ? 1 : std::stoi(found->second);
        if (state.in_sync < min_isr) {
            add(Severity::error, "in_sync_replicas", subject,
                "a partition has " + std::to_string(state.in_sync) + " in-sync replicas, a write needs " +
                    std::to_string(min_isr) + ": writes get 503",
                "start the brokers that are down (kafka-topics --describe --under-min-isr-partitions)");
        } else if (state.in_sync < state.replicas) {
            add(Severity::warning, "in_sync_replicas", subject,
                "a partition has " + std::to_string(state.in_sync) + " of " + std::to_string(state.replicas) +
                    " replicas in sync",
                "start the brokers that are down (kafka-topics --describe --under-replicated-partitions)");
        }
        if (state.replicas == 1) {
            add(Severity::info, "replication", subject,
                "it has one replica: what is acknowledged survives the broker's death, not its disk's or a power cut",
                "three brokers, and topics made with --replication 3 --min-isr 2");
        } else if (min_isr < 2) {
            add(Severity::warning, "min_isr", subject,
                "min.insync.replicas is 1: a write is acknowledged that one broker alone has",
                "kafka-configs --alter --entity-type topics --entity-name " + topic +
                    " --add-config min.insync.replicas=2");
        }
    }

    void check_offsets(const std::vector<Generation>& generations) {
        const auto& target = generations.front().target;
        const auto marks = admin_.watermarks(target.topic, target.partitions);
        for (const auto& generation : generations) {
            if (generation.role == Role::scratch) continue;  // its offsets are its file's
            const auto next = find_progress(*connection_, generation.schema);
            for (std::size_t n = 0; n < std::min(next.size(), marks.size()); ++n) {
                if (next[n] <= marks[n].high) continue;
                add(Severity::error, "offset_beyond_log",
                    "generation " + std::to_string(generation.target.generation) + " of " +
                        std::string(target.projection->stream().name),
                    "partition " + std::to_string(n) + " stands at " + std::to_string(next[n]) + ", the log ends at " +
                        std::to_string(marks[n].high) + ": the log was truncated or restored from an older copy",
                    restore_end_of_log());
            }
        }
        for (std::int32_t partition = 0; partition < target.partitions; ++partition) {
            const auto high = marks[static_cast<std::size_t>(partition)].high;
            const auto last = high > 0 ? admin_.read_at(target.topic, partition, high - 1) : std::nullopt;
            if (!last || last->append_time - clock_.now() <= kSkew) continue;
            const auto ahead = std::chrono::duration_cast<milliseconds>(last->append_time - clock_.now()).count();
            add(Severity::warning, "clock_skew", "the broker of topic " + target.topic,
                "its clock is " + std::to_string(ahead) + " ms ahead of this machine's: ages are told wrong",
                "synchronise the clocks (chrony, NTP)");
            return;
        }
    }

    const DoctorOptions& options_;
    base::SystemClock clock_;
    kafka::Admin admin_;
    std::optional<pg::Connection> connection_;
    bool is_migrated_ = false;
    std::vector<Finding> findings_;
};

}  // namespace

std::vector<Finding> examine(const DoctorOptions& options) {
    return Examination(options).run();
}

void write_findings(const std::vector<Finding>& findings, bool json, std::ostream& out) {
    if (json) {
        using schemas::json::append_string;
        std::string text = "{\"findings\":[";
        for (const auto& one : findings) {
            if (text.back() != '[') text += ',';
            text += "{\"severity\":";
            append_string(text, kSeverities[static_cast<std::size_t>(one.severity)]);
            text += ",\"check\":";
            append_string(text, one.check);
            text += ",\"subject\":";
            append_string(text, one.subject);
            text += ",\"reason\":";
            append_string(text, one.reason);
            text += ",\"mend\":";
            append_string(text, one.mend);
            text += '}';
        }
        out << text << "]}\n";
        return;
    }
    for (const auto& one : findings) {
        out << kSeverities[static_cast<std::size_t>(one.severity)] << "  " << one.check << "  " << one.subject
            << "\n    " << one.reason << "\n    mend: " << one.mend << '\n';
    }
    if (findings.empty()) out << "nothing found\n";
}

}  // namespace tidemark::consumers
