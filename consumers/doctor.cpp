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
where name in ('fsync', 'full_page_writes', 'data_checksums', 'server_version_num')
order by name)"};

constexpr pg::Statement kNow{"doctor_now", "select (extract(epoch from clock_timestamp()) * 1000000)::bigint"};

constexpr pg::Statement kMigrated{"doctor_migrated", "select to_regclass('tidemark.api_audits') is not null"};

constexpr pg::Statement kRoles{"doctor_roles", R"(
select w.name, r.rolname is not null, coalesce(r.rolsuper or r.rolcreaterole or r.rolcreatedb or r.rolbypassrls, false)
from unnest(array['tidemark_consumer', 'tidemark_api']) as w (name)
left join pg_roles r on r.rolname = w.name)"};

// What a role that the programs log in as is, may and may not, other than `migrate` leaves it. Of one that has more by
// being a superuser's or owner's member, only that is told: all else follows from it.
constexpr pg::Statement kRights{"doctor_rights", R"(
with roles as (
    select r.oid, r.rolname as name from pg_roles r
    where r.rolname in ('tidemark_consumer', 'tidemark_api') and not r.rolsuper
), schemas as (
    select n.oid, n.nspname as name, n.nspowner as owner from pg_namespace n
    where n.nspname = 'tidemark' or n.nspname in (select schema_name from tidemark.generations)
), relations as (
    select c.oid, c.relkind = 'v' as is_view, c.relname, c.relowner as owner, s.name as schema,
           format('%I.%I', s.name, c.relname) as name
    from pg_class c
    join schemas s on s.oid = c.relnamespace
    where c.relkind in ('r', 'v')
), mighty as (
    select g.oid from pg_roles g
    where g.rolsuper or g.rolcreaterole or g.rolcreatedb or g.rolbypassrls
       or g.rolname in ('pg_write_all_data', 'pg_write_server_files', 'pg_execute_server_program')
       or g.oid in (select owner from schemas union select owner from relations)
), memberships as (
    select distinct r.oid, r.name, g.rolname as of_role
    from roles r
    join pg_auth_members a on a.member = r.oid
    join pg_roles g on g.oid = a.roleid
    where exists (select from mighty m where m.oid <> r.oid and pg_has_role(g.oid, m.oid, 'member'))
), owned as (
    select owner, 'schema ' || quote_ident(name) as what from schemas
    union all
    select owner, case when is_view then 'view ' else 'table ' end || name from relations
), direct as (
    select * from roles where oid not in (select oid from memberships)
), needs as (
    select 'tidemark_api' as role, oid, name, 'select' as rights
    from relations
    where is_view and relname like 'api\_%'
    union all
    select 'tidemark_consumer', oid, name,
           case when is_view or relname in ('streams', 'generations') then 'select' else 'select, insert, update, delete' end
    from relations
    where schema <> 'tidemark' or not is_view
)
select 'is_member', 'role ' || name, 'it is a member of ' || of_role, format('revoke %I from %I', of_role, name)
from memberships
union all
select 'owns', o.what, 'role ' || r.name || ' owns it',
       format('alter %s owner to %I', o.what, case when r.name = current_user then 'tidemark_owner' else current_user end)
from owned o
join roles r on r.oid = o.owner
union all
select 'may_create', 'schema ' || s.name, r.name || ' may create in it', format('revoke create on schema %I from %I, public', s.name, r.name)
from direct r
cross join schemas s
where r.oid <> s.owner and has_schema_privilege(r.oid, s.oid, 'create')
union all
select 'may_create', 'database ' || d.datname, r.name || ' may create schemas in it',
       format('revoke create on database %I from %I, public', d.datname, r.name)
from direct r
join pg_database d on d.datname = current_database()
where r.oid <> d.datdba and has_database_privilege(r.oid, d.oid, 'create')
union all
select 'may_write', c.name, 'tidemark_api may write it',
       'revoke insert, update, delete, truncate on ' || c.name || ' from tidemark_api, public'
from direct r
cross join relations c
where r.name = 'tidemark_api' and r.oid <> c.owner
  and (has_table_privilege(r.oid, c.oid, 'insert, update, delete, truncate')
       or has_any_column_privilege(r.oid, c.oid, 'insert, update'))
union all
select 'may_not', 'schema ' || s.name, r.name || ' may not use it', format('grant usage on schema %I to %I', s.name, r.name)
from roles r
cross join schemas s
where not has_schema_privilege(r.oid, s.oid, 'usage')
union all
select 'may_not', n.name, n.role || ' lacks one of: ' || n.rights, 'grant ' || n.rights || ' on ' || n.name || ' to ' || n.role
from needs n
join roles r on r.name = n.role
where exists (select from unnest(string_to_array(n.rights, ', ')) as one (name) where not has_table_privilege(r.oid, n.oid, one.name))
order by 1, 2, 3)"};

// What the schema that the search path names is made of. The server writes names of that schema without it, so that
// those of two schemas are the same texts. Keys are told by their indexes.
constexpr pg::Statement kParts{"doctor_parts", R"(
with relations as (
    select c.* from pg_class c
    join pg_namespace n on n.oid = c.relnamespace
    where n.nspname = current_schema()
)
select 'table ' || c.relname, concat_ws(' ', c.relkind, c.relpersistence, c.relrowsecurity, c.relforcerowsecurity)
from relations c
where c.relkind not in ('i', 'I', 'v', 'c')
union all
select 'view ' || c.relname, pg_get_viewdef(c.oid, true)
from relations c
where c.relkind = 'v'
union all
select 'column ' || c.relname || '.' || a.attname,
       concat_ws(' ', format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attidentity, a.attgenerated, l.collname,
                 pg_get_expr(d.adbin, d.adrelid))
from relations c
join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
left join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
left join pg_collation l on l.oid = a.attcollation
where c.relkind not in ('i', 'I', 'S')
union all
select 'index ' || c.relname, concat_ws(' ', pg_get_indexdef(c.oid, 0, true), i.indisvalid)
from relations c
join pg_index i on i.indexrelid = c.oid
union all
select 'constraint ' || c.relname || '.' || k.conname, pg_get_constraintdef(k.oid, true)
from relations c
join pg_constraint k on k.conrelid = c.oid and k.contype in ('c', 'f')
union all
select 'trigger ' || c.relname || '.' || t.tgname, concat_ws(' ', pg_get_triggerdef(t.oid, true), t.tgenabled)
from relations c
join pg_trigger t on t.tgrelid = c.oid and not t.tgisinternal
union all
select 'rule ' || c.relname || '.' || r.rulename, concat_ws(' ', pg_get_ruledef(r.oid, true), r.ev_enabled)
from relations c
join pg_rewrite r on r.ev_class = c.oid and r.rulename <> '_RETURN')"};

constexpr pg::Statement kAudit{"doctor_audit", R"(
select instance, detail, state = 'refused' from tidemark.audits
where stream = $1 and generation = $2
  and (state = 'differs' or state = 'refused' and heartbeat_at > now() - interval '10 seconds'))"};

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
            const auto before = findings_.size();
            // What is swapped or dropped meanwhile looks altered; it is looked at once more.
            if (!check_stream(*projection)) {
                findings_.erase(findings_.begin() + static_cast<std::ptrdiff_t>(before), findings_.end());
                check_stream(*projection);
            }
        }
        std::stable_sort(findings_.begin(), findings_.end(),
                         [](const Finding& a, const Finding& b) { return a.severity > b.severity; });
        return std::move(findings_);
    }

private:
    // False: its generations are others now.
    bool check_stream(const Projection& projection) {
        const std::string stream(projection.stream().name);
        std::vector<Generation> generations;
        guard("registry", "stream " + stream, "tidemark-consumer migrate", [&] {
            if (!is_migrated_) return;
            generations = find_generations(*connection_, projection);
            if (generations.empty())
                add(Severity::error, "not_migrated", "stream " + stream, "it has no tables",
                    "tidemark-consumer migrate");
            for (const auto& one : generations)
                check_generation(one);
        });
        guard("broker", "topic " + std::string(projection.stream().topic),
              "check --brokers, and whether the brokers run", [&] { check_topic(projection, generations); });
        if (generations.empty()) return true;
        bool are_the_same = true;
        guard("registry", "stream " + stream, "tidemark-consumer migrate", [&] {
            const auto now = find_generations(*connection_, projection);
            are_the_same = std::equal(now.begin(), now.end(), generations.begin(), generations.end(),
                                      [](const Generation& a, const Generation& b) {
                                          return a.target.generation == b.target.generation && a.schema == b.schema &&
                                                 a.role == b.role;
                                      });
        });
        return are_the_same;
    }

    void add(Severity severity, std::string check, std::string subject, std::string reason, std::string mend) {
        findings_.push_back({severity, std::move(check), std::move(subject), std::move(reason), std::move(mend)});
    }

    // What a guard refuses is a finding, and so is what could not be asked; the other checks go on.
    template <typename Check>
    void guard(const std::string& check, const std::string& subject, const std::string& mend, const Check& run_check) {
        try {
            run_check();
        } catch (const LogRefused& refused) {
            add(Severity::error, check, subject, refused.reason(), refused.mend());
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
            const bool is_mighty = kind == "is_member" || kind == "owns";
            const auto* const consequence = kind == "may_not"
                                                ? ": its programs fail"
                                                : ": a mistake in a program can harm what only others may write";
            add(Severity::error, is_mighty ? "role_too_mighty" : "rights", std::string(rights.text(row, 1)),
                std::string(rights.text(row, 2)) + consequence, std::string(rights.text(row, 3)));
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
                "tidemark-consumer replay " + stream +
                    "; tidemark-consumer run beside those that run; tidemark-consumer promote " + stream +
                    "; or use the other version");
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
        if (ours) check_drift(generation, subject);
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
                build_again(generation, " --accept-diff"));
        }
        if (generation.role != Role::live) return;
        pg::Params audited;
        audited.add(stream).add(std::int64_t{generation.target.generation});
        const auto audit = connection_->run(kAudit, audited);
        if (!audit.empty() && audit.boolean(0, 2)) {
            add(Severity::warning, "audit", subject, "it is not audited: " + std::string(audit.text(0, 1)),
                "what mends its topic, when there is a finding about that; else tidemark-consumer run with more "
                "--audit-memory");
        } else if (!audit.empty()) {
            add(Severity::error, "audit", subject,
                "its auditor " + std::string(audit.text(0, 0)) + " says: " + std::string(audit.text(0, 1)),
                "tidemark-consumer verify " + stream + " --deep; " + build_again(generation, " --accept-diff"));
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

    // Without tables that are wrong: what is read is built beside them first.
    static std::string build_again(const Generation& generation, const std::string& how = "") {
        const std::string stream(generation.target.projection->stream().name);
        const auto drop = "tidemark-consumer drop " + stream + " " + std::to_string(generation.target.generation);
        if (generation.role != Role::live) return drop;
        return "tidemark-consumer replay " + stream + "; tidemark-consumer promote " + stream + how + "; " + drop;
    }

    // Compares the tables with those that this program would make. Nothing of it stays.
    void check_drift(const Generation& generation, const std::string& subject) {
        constexpr std::string_view kScratch = "tidemark_doctor";
        auto tx = connection_->begin();
        tx.run_script("create schema " + pg::quote_identifier(kScratch));
        tx.run_script("set local search_path = " + pg::quote_identifier(kScratch));
        tx.run_script(std::string(schemas::sql("generation")));
        tx.run_script(std::string(generation.target.projection->sql()));
        const auto parts_of = [&tx](std::string_view schema) {
            tx.run_script("set local search_path = " + pg::quote_identifier(schema));
            const auto rows = tx.run(kParts);
            std::map<std::string, std::string> parts;
            for (std::size_t row = 0; row < rows.size(); ++row)
                parts.emplace(rows.text(row, 0), rows.text(row, 1));
            return parts;
        };
        const auto wanted = parts_of(kScratch);
        auto found = parts_of(generation.schema);
        std::string differing;
        const auto tell = [&differing](const std::string& part, std::string_view how) {
            differing += (differing.empty() ? "" : ", ") + part + " (" + std::string(how) + ")";
        };
        for (const auto& [part, definition] : wanted) {
            const auto ours = found.extract(part);
            if (!ours) {
                tell(part, "missing");
            } else if (ours.mapped() != definition) {
                tell(part, "other");
            }
        }
        for (const auto& [part, definition] : found)
            tell(part, "additional");
        if (differing.empty()) return;
        add(Severity::error, "schema_drift", subject,
            "its tables are not those that this program makes, somebody has altered them: " + differing,
            build_again(generation));
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
            check_log_is_whole(admin_, target);
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
        // The tables first: they go on while the broker is asked.
        std::map<int, std::vector<std::int64_t>> progress;
        for (const auto& generation : generations) {
            if (generation.role == Role::scratch) continue;  // its offsets are its file's
            progress[generation.target.generation] = find_progress(*connection_, generation.schema);
        }
        const auto marks = admin_.watermarks(target.topic, target.partitions);
        for (const auto& [number, next] : progress) {
            for (std::size_t n = 0; n < std::min(next.size(), marks.size()); ++n) {
                if (next[n] <= marks[n].high) continue;
                add(Severity::error, "offset_beyond_log",
                    "generation " + std::to_string(number) + " of " + std::string(target.projection->stream().name),
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
