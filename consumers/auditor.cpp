#include "consumers/auditor.h"

#include "consumers/log_check.h"
#include "consumers/recount.h"
#include "consumers/verify.h"
#include "infra/base/backoff.h"
#include "infra/base/log.h"
#include "infra/kafka/admin.h"
#include "infra/kafka/consumer.h"

#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <deque>
#include <functional>
#include <iterator>
#include <numeric>
#include <optional>
#include <sstream>
#include <utility>
#include <vector>

namespace tidemark::consumers {

using std::chrono::milliseconds;
using std::chrono::steady_clock;

namespace {

using Offsets = std::vector<std::int64_t>;

// Between two comparisons with what the flushes say.
constexpr milliseconds kRound{1'000};

// Reading goes on no longer without telling how far it is.
constexpr milliseconds kSlice{1'000};

// After so long without a record that has to be there the log itself is looked at.
constexpr std::chrono::seconds kSilence{60};

// Records polled before the tables have them wait for their turn; no more than this, or they are fetched again.
constexpr std::size_t kMostHeld = 50'000;
constexpr std::size_t kMostHeldBytes = std::size_t{32} << 20;

// Naming the rows that differ is more readings of the log, this many at most, and once in this time while they do.
constexpr std::int64_t kVerifyMemory = std::int64_t{256} << 20;
constexpr std::size_t kVerifyPasses = 4;
constexpr std::chrono::hours kVerifyAgain{1};

// The log is read from its start again for it.
constexpr std::chrono::hours kMemoryAgain{1};

// Whoever has the turn says so this often, or is not heard of any more, and the server takes it away.
constexpr std::chrono::seconds kBeat{2};
constexpr std::chrono::seconds kTurnKept{10};

// Adding up the tables is to take a fiftieth of one server process at most.
constexpr int kRestPerSum = 50;

constexpr pg::Statement kLock{"audit_lock", "select pg_try_advisory_lock(hashtext('tidemark.audits'), hashtext($1))"};

constexpr pg::Statement kBeatStatement{"audit_beat", R"(
update tidemark.audits set heartbeat_at = now() where stream = $1 and instance = $2)"};

constexpr pg::Statement kLast{"audit_last", R"(
select state, detail, findings from tidemark.audits where stream = $1 and generation = $2)"};

constexpr pg::Statement kPublish{"audit_publish", R"(
insert into tidemark.audits as a (stream, instance, generation, state, detail, next_offsets, behind, digest, log_at, tables_at,
                                  findings, heartbeat_at)
values ($1, $2, $3, $4, $5, $6::bigint[], $7, $8::numeric, $9, $10, $11, now())
on conflict (stream) do update set
    instance = excluded.instance, generation = excluded.generation, state = excluded.state, detail = excluded.detail,
    next_offsets = excluded.next_offsets, behind = excluded.behind, digest = excluded.digest, log_at = excluded.log_at,
    tables_at = excluded.tables_at, findings = excluded.findings, heartbeat_at = excluded.heartbeat_at)"};

pg::SessionOptions session() {
    pg::SessionOptions session;
    session.application_name = "tidemark-consumer audit";
    session.statement_timeout = milliseconds(0);  // adding up takes as long as the tables are big
    return session;
}

// Where the tables are, and what the flushes say of the way there.
struct Standing {
    Offsets first;
    Offsets next;
    struct Said {
        std::string what;
        std::string value;
    };
    std::vector<std::vector<Said>> of_partition;
    std::string wrong;  // not empty: there is no such vector
};

// More is to be remembered of the log than it may take.
struct TooMuch {
    std::string what;
};

// The right to audit a stream, kept by a session that does nothing else. A stopped process loses it.
class Turn {
public:
    Turn(const Auditor::Options& options, std::string_view stream)
        : stream_(stream), instance_(options.instance), connection_(options.dsn, beat_session()) {
        connection_.run_script("set idle_session_timeout = '" + std::to_string(kTurnKept.count()) + "s'");
    }
    ~Turn() {
        stop_.request();
        if (thread_.joinable()) thread_.join();
    }
    Turn(const Turn&) = delete;
    Turn& operator=(const Turn&) = delete;

    /// Whether it is ours from now on; to be asked at least every kBeat while it is not, and not any more once it is.
    bool take() {
        pg::Params params;
        params.add(stream_);
        is_mine_ = connection_.run(kLock, params).boolean(0, 0);
        if (is_mine_) thread_ = std::thread([this] { keep(); });
        return is_mine_;
    }
    [[nodiscard]] bool is_mine() const noexcept { return is_mine_; }

private:
    static pg::SessionOptions beat_session() {
        pg::SessionOptions session;
        session.application_name = "tidemark-consumer audit turn";
        return session;
    }

    void keep() {
        pg::Params params;
        params.add(stream_).add(instance_);
        try {
            while (!stop_.wait_for(kBeat))
                connection_.run(kBeatStatement, params);
        } catch (const std::exception& error) {
            base::log::warn("audit_turn_lost", {{"stream", stream_}, {"error", error.what()}});
        }
        is_mine_ = false;
    }

    std::string stream_;
    std::string instance_;
    pg::Connection connection_;
    std::atomic<bool> is_mine_{false};
    base::Stop stop_;
    std::thread thread_;
};

std::string join(const std::vector<std::string>& parts) {
    std::string all;
    for (const auto& part : parts)
        all += (all.empty() ? "" : "; ") + part;
    return all;
}

// The log of a target, read once.
class Reading {
public:
    /// The counters are of every record that comes out of the log, also of one that had come before.
    Reading(const Auditor::Options& options, Target target, const Offsets& first, base::Metrics::Counter& records,
            base::Metrics::Counter& bytes)
        : options_(options),
          target_(std::move(target)),
          records_(records),
          bytes_(bytes),
          recount_(target_, 0, 0, 0),
          first_(first),
          known_(first) {
        held_.resize(known_.size());
        check();
    }
    Reading(const Reading&) = delete;
    Reading& operator=(const Reading&) = delete;

    [[nodiscard]] Recount& recount() noexcept { return recount_; }
    [[nodiscard]] const Offsets& taken() const noexcept { return taken_.empty() ? first_ : taken_; }
    /// Whether it is of the same log, and what it has taken is in these tables.
    [[nodiscard]] bool leads_to(const Target& target, const Standing& standing) const {
        const auto& at = taken();
        return target.log_uuid == target_.log_uuid && target.topic == target_.topic && standing.first == first_ &&
               standing.next.size() == at.size() &&
               std::equal(at.begin(), at.end(), standing.next.begin(), std::less_equal<>());
    }

    /// Takes what is below `ends`, for some time; whether that was all.
    bool advance(const Offsets& ends, const base::Stop& stop) {
        if (!log_ || !reads_all_) start(nullptr);
        const auto until = steady_clock::now() + kSlice;
        std::size_t open = 0;
        for (std::size_t n = 0; n < ends.size(); ++n) {
            auto& held = held_[n];
            for (; !held.empty() && held.front().offset < ends[n]; held.pop_front()) {
                unhold(held.front());
                recount_.take(held.front());
            }
            if (known_[n] < ends[n]) ++open;
        }
        while (open > 0) {
            if (stop.requested() || steady_clock::now() >= until) break;
            if (const auto bytes = recount_.remembered_bytes(); bytes > options_.memory) {
                throw TooMuch{"the identities of a day, imported lines and open dead letters take more than " +
                              std::to_string(options_.memory >> 20) + " MiB: give --audit-memory more"};
            }
            for (int polls = 0; open > 0 && polls < 1'000; ++polls) {
                auto polled = log_->poll(polls == 0 ? milliseconds(100) : milliseconds(0));
                if (auto* record = std::get_if<kafka::Record>(&polled)) {
                    const auto n = static_cast<std::size_t>(record->partition);
                    records_.add();
                    bytes_.add(static_cast<double>((record->key ? record->key->size() : 0) +
                                                   (record->value ? record->value->size() : 0)));
                    if (record->offset < known_[n]) continue;
                    const auto next = record->offset + 1;
                    is_torn_ = true;
                    if (record->offset < ends[n]) {
                        recount_.take(*record);
                    } else {
                        hold(n, std::move(*record));
                    }
                    open -= reached(n, next, ends) ? 1 : 0;
                    is_torn_ = false;
                } else if (const auto* end = std::get_if<kafka::EndOfPartition>(&polled)) {
                    open -= reached(static_cast<std::size_t>(end->partition), end->offset, ends) ? 1 : 0;
                } else {
                    break;
                }
            }
            // Those that are there already are left alone until they are wanted.
            if (held_count_ > kMostHeld || held_bytes_ > kMostHeldBytes) start(&ends);
        }
        taken_.resize(ends.size());
        for (std::size_t n = 0; n < ends.size(); ++n)
            taken_[n] = std::max(taken()[n], std::min(known_[n], ends[n]));
        if (open > 0 && steady_clock::now() - heard_ > kSilence) check();
        return open == 0;
    }

    /// After an error: the client starts anew where it was. False: not even that is known.
    bool interrupt() {
        forget_held();
        log_.reset();
        return !is_torn_;
    }
    /// Of the records taken, those that had been refused by the database.
    [[nodiscard]] std::int64_t refused() const noexcept { return refused_; }
    void refused(schemas::Position position) {
        if (recount_.refused(position)) ++refused_;
    }

private:
    // Whether this partition comes to its end by that.
    bool reached(std::size_t n, std::int64_t offset, const Offsets& ends) {
        const bool was_open = known_[n] < ends[n];
        known_[n] = std::max(known_[n], offset);
        if (was_open) heard_ = steady_clock::now();
        return was_open && known_[n] >= ends[n];
    }

    void hold(std::size_t n, kafka::Record record) {
        held_count_ += 1;
        held_bytes_ += record.bytes();
        held_[n].push_back(std::move(record));
    }
    void unhold(const kafka::Record& record) {
        held_count_ -= 1;
        held_bytes_ -= record.bytes();
    }

    // What is held has to be fetched again.
    void forget_held() {
        for (std::size_t n = 0; n < known_.size(); ++n) {
            if (!held_[n].empty()) known_[n] = held_[n].front().offset;
            held_[n].clear();
        }
        held_count_ = held_bytes_ = 0;
    }

    // Reads on from there; of `only`, those partitions that have not come so far.
    void start(const Offsets* only) {
        forget_held();
        std::vector<kafka::Start> starts;
        for (std::size_t n = 0; n < known_.size(); ++n) {
            if (only == nullptr || known_[n] < (*only)[n]) starts.push_back({static_cast<std::int32_t>(n), known_[n]});
        }
        reads_all_ = only == nullptr;
        if (!log_) {
            log_ = std::make_unique<kafka::Consumer>(
                reader_options(target_, options_.brokers, options_.kafka_properties, "tidemark-consumer-audit"));
            while (!std::holds_alternative<kafka::Assigned>(log_->poll(milliseconds(100)))) {
            }
        }
        log_->assign(starts);
        heard_ = steady_clock::now();
    }

    void check() {
        kafka::Admin admin(options_.brokers, options_.kafka_properties);
        check_log_is_whole(admin, target_);
        heard_ = steady_clock::now();
    }

    const Auditor::Options& options_;
    const Target target_;
    base::Metrics::Counter& records_;
    base::Metrics::Counter& bytes_;
    Recount recount_;
    Offsets first_;
    Offsets known_;  // by partition: all below was polled
    Offsets taken_;  // and all below this was counted; empty: nothing yet
    std::int64_t refused_ = 0;
    bool is_torn_ = false;  // in the midst of a record
    bool reads_all_ = false;
    steady_clock::time_point heard_{};
    std::unique_ptr<kafka::Consumer> log_;
    std::vector<std::deque<kafka::Record>> held_;  // goes before its client
    std::size_t held_count_ = 0;
    std::size_t held_bytes_ = 0;
};

}  // namespace

// What goes from round to round; a connection that breaks takes nothing of it along.
class Auditor::Work {
public:
    explicit Work(Auditor& auditor) : auditor_(auditor), options_(auditor.options_), stop_(auditor.stop_) {}

    // Until told to stop. Throws what its connection and the broker's client throw.
    void serve() {
        Turn turn(options_, auditor_.projection_.stream().name);
        while (!turn.take()) {
            // Another instance is at it, and what it says counts.
            forget();
            if (stop_.wait_for(kBeat)) return;
        }
        pg::Connection connection(options_.dsn, session());
        connection.run_script("set client_connection_check_interval = '1s'");
        while (!stop_.requested() && turn.is_mine()) {
            const auto began = steady_clock::now();
            const bool caught_up = round(connection);
            stop_.wait_for(caught_up ? kRound - (steady_clock::now() - began) : milliseconds(0));
        }
    }

    void interrupt() {
        if (reading_ && !reading_->interrupt()) forget_reading();
    }

private:
    // Whether it is where the tables were.
    bool round(pg::Connection& connection) {
        const auto live = find_live(connection, auditor_.projection_);
        if (!live || !live->is_of_this_program()) {
            forget();
            return true;
        }
        if (generation_ != live->target.generation) enter(connection, *live);
        if (!pending_) pending_ = look(connection, *live);
        if (!pending_) return true;  // swapped at this moment
        sum(connection, *live);
        if (!pending_->wrong.empty()) {
            log_differs_ = pending_->wrong;
            publish(connection, *live);
            pending_.reset();
            return true;
        }
        if (reading_ && !reading_->leads_to(live->target, *pending_)) forget_reading();
        if (!refusal_.empty() && steady_clock::now() < try_again_at_) {
            publish(connection, *live);
            pending_.reset();
            return true;
        }
        try {
            if (!reading_)
                reading_.emplace(options_, live->target, pending_->first, auditor_.records_, auditor_.bytes_);
            load_refused(connection, *live);
            const bool reached = reading_->advance(pending_->next, stop_);
            refusal_.clear();
            if (!reached) {
                publish(connection, *live);
                return false;
            }
        } catch (const Refused& refused) {
            refuse(connection, *live, refused.what(), kSilence);
            return true;
        } catch (const TooMuch& too_much) {
            refuse(connection, *live, too_much.what, kMemoryAgain);
            return true;
        }
        compare();
        if (log_differs_.empty() && tables_differ_.empty()) findings_.reset();
        publish(connection, *live);
        if (!log_differs_.empty() || !tables_differ_.empty()) explain(connection, *live);
        pending_.reset();
        return true;
    }

    // What was found of this generation before, by whomever, holds until it is looked at again.
    void enter(pg::Connection& connection, const Generation& live) {
        generation_ = live.target.generation;
        pending_.reset();
        sum_at_.reset();
        log_at_.reset();
        tables_at_.reset();
        log_differs_.clear();
        tables_differ_.clear();
        findings_.reset();
        pg::Params params;
        params.add(live.target.projection->stream().name).add(std::int64_t{generation_});
        const auto last = connection.run(kLast, params);
        if (!last.empty() && last.text(0, 0) == "differs") {
            log_differs_ = last.text(0, 1);
            if (last.cell(0, 2)) findings_ = std::string(last.text(0, 2));
        }
        // The database may have refused other records here.
        if (reading_ && (reading_->refused() > 0 || count_refused(connection, live) > 0)) reading_.reset();
    }

    void refuse(pg::Connection& connection, const Generation& live, std::string why, steady_clock::duration pause) {
        refusal_ = std::move(why);
        try_again_at_ = steady_clock::now() + pause;
        reading_.reset();
        log_at_.reset();
        publish(connection, live);
        pending_.reset();
    }

    void forget() {
        forget_reading();
        pending_.reset();
        generation_ = 0;
        refusal_.clear();
        auditor_.behind_.set(0);
        auditor_.differs_.set(0);
    }
    void forget_reading() {
        reading_.reset();
        log_at_.reset();
        log_differs_.clear();
    }

    // Nullopt: the tables of this name are not those of the generation any more.
    std::optional<Standing> look(pg::Connection& connection, const Generation& live) const {
        const auto sql =
            "select generation, partition, first_offset, next_offset, applied::text, duplicates::text, parked::text, "
            "gaps::text, digest::text, case when isfinite(log_time) then "
            "(extract(epoch from log_time) * 1000000)::bigint::text else log_time::text end from " +
            pg::quote_identifier(live.schema, "offsets") + " order by partition";
        const auto rows = connection.run({"audit_offsets", sql.c_str()});
        Standing standing;
        const auto partitions = static_cast<std::size_t>(live.target.partitions);
        for (std::size_t row = 0; row < rows.size(); ++row) {
            if (rows.integer(row, 0) != live.target.generation ||
                rows.integer(row, 1) != static_cast<std::int64_t>(row))
                break;
            standing.first.push_back(rows.integer(row, 2));
            standing.next.push_back(rows.integer(row, 3));
            auto& said = standing.of_partition.emplace_back();
            std::size_t column = 4;
            for (const auto* what : {"applied", "duplicates", "parked", "gaps", "digest", "log time"})
                said.push_back({what, std::string(rows.text(row, column++))});
        }
        if (rows.size() == partitions && standing.next.size() == partitions) return standing;
        const auto place = find_place(connection, auditor_.projection_, live.target.generation);
        if (!place || place->schema != live.schema) return std::nullopt;
        standing.first.assign(partitions, 0);
        standing.next.assign(partitions, 0);
        standing.wrong = "table offsets does not have one row of this generation for each partition";
        return standing;
    }

    std::int64_t count_refused(pg::Connection& connection, const Generation& live) const {
        const auto sql = "select count(*) from " + pg::quote_identifier(live.schema, "dead_letters") +
                         " where reason = '" + std::string(reason::kRefusedByDatabase) + "'";
        return connection.run({"audit_count_refused", sql.c_str()}).integer(0, 0);
    }

    // Those between what was taken and what will be.
    void load_refused(pg::Connection& connection, const Generation& live) {
        const auto sql =
            "select d.partition, d.\"offset\" from " + pg::quote_identifier(live.schema, "dead_letters") +
            " d join unnest($1::integer[], $2::bigint[], $3::bigint[]) as w (partition, first, next) on "
            "d.partition = w.partition and d.\"offset\" >= w.first and d.\"offset\" < w.next where d.reason = '" +
            std::string(reason::kRefusedByDatabase) + "'";
        pg::Array partitions;
        pg::Array first;
        pg::Array next;
        for (std::size_t n = 0; n < pending_->next.size(); ++n) {
            partitions.add(static_cast<std::int64_t>(n));
            first.add(reading_->taken()[n]);
            next.add(pending_->next[n]);
        }
        pg::Params params;
        params.add(std::move(partitions)).add(std::move(first)).add(std::move(next));
        const auto rows = connection.run({"audit_refused", sql.c_str()}, params);
        for (std::size_t row = 0; row < rows.size(); ++row)
            reading_->refused({static_cast<std::int32_t>(rows.integer(row, 0)), rows.integer(row, 1)});
    }

    // Both stand at the same offsets.
    void compare() {
        std::vector<std::string> wrong;
        for (std::size_t n = 0; n < pending_->next.size(); ++n) {
            const auto& counted = reading_->recount().tally(n);
            const auto gaps = pending_->next[n] - pending_->first[n] - counted.records;
            const std::string of_log[] = {std::to_string(counted.applied), std::to_string(counted.duplicates),
                                          std::to_string(counted.parked),  std::to_string(gaps),
                                          std::to_string(counted.digest),  std::to_string(counted.log_time)};
            for (std::size_t place = 0; place < std::size(of_log); ++place) {
                const auto& said = pending_->of_partition[n][place];
                if (said.value == of_log[place]) continue;
                wrong.push_back("partition " + std::to_string(n) + " has " + said.what + ' ' + said.value +
                                ", its log says " + of_log[place]);
            }
        }
        log_differs_ = join(wrong);
        log_at_ = base::SystemClock().now();
    }

    void sum(pg::Connection& connection, const Generation& live) {
        const auto began = steady_clock::now();
        if (sum_at_ && began < *sum_at_) return;
        sum_at_ = began + options_.interval;
        const auto sql =
            "select generation, folded::text, stored::text from " + pg::quote_identifier(live.schema, "audit");
        std::string differ;
        try {
            const auto rows = connection.run({"audit_sum", sql.c_str()});
            if (!rows.cell(0, 0) || rows.integer(0, 0) != live.target.generation) return;
            if (rows.cell(0, 1) != rows.cell(0, 2)) {
                differ = "the rows add up to " + std::string(rows.text(0, 2)) + ", the flushes to " +
                         std::string(rows.text(0, 1));
            }
        } catch (const pg::Error& error) {
            if (error.failure() != pg::Failure::data) throw;
            differ = std::string("the rows cannot be added up: ") + error.what();
        }
        const auto ended = steady_clock::now();
        sum_at_ = ended + std::max<steady_clock::duration>(options_.interval, (ended - began) * kRestPerSum);
        tables_differ_ = std::move(differ);
        tables_at_ = base::SystemClock().now();
    }

    // Names the rows; what is found stays until nothing differs any more.
    void explain(pg::Connection& connection, const Generation& live) {
        if (explained_ == live.target.generation && steady_clock::now() - explained_at_ < kVerifyAgain) return;
        explained_ = live.target.generation;
        explained_at_ = steady_clock::now();
        const std::string stream(live.target.projection->stream().name);
        base::log::error("audit_differs",
                         {{"stream", stream},
                          {"generation", std::int64_t{generation_}},
                          {"detail", detail()},
                          {"hint", "tidemark-consumer verify " + stream + " --deep; then replay, promote"}});
        VerifyOptions options;
        options.dsn = options_.dsn;
        options.brokers = options_.brokers;
        options.kafka_properties = options_.kafka_properties;
        options.memory = kVerifyMemory;
        options.most_passes = kVerifyPasses;
        options.cancelled = [this] { return stop_.requested(); };
        try {
            std::ostringstream json;
            write_diff(verify(options, live), DiffFormat::json, json);
            findings_ = json.str();
            publish(connection, live);
        } catch (const std::exception& error) {
            base::log::warn("audit_names_no_rows", {{"stream", stream}, {"error", error.what()}});
        }
    }

    [[nodiscard]] std::string detail() const {
        std::vector<std::string> all;
        for (const auto* one : {&refusal_, &log_differs_, &tables_differ_}) {
            if (!one->empty()) all.push_back(*one);
        }
        return join(all);
    }

    void publish(pg::Connection& connection, const Generation& live) {
        const auto what = detail();
        const bool differs = !log_differs_.empty() || !tables_differ_.empty();
        const auto* const state = !refusal_.empty() ? "refused" : differs ? "differs" : log_at_ ? "equal" : "reading";
        const auto& taken = reading_ ? reading_->taken() : pending_->first;
        const auto behind = std::transform_reduce(pending_->next.begin(), pending_->next.end(), taken.begin(),
                                                  std::int64_t{0}, std::plus<>(), std::minus<>());
        Digest digest = 0;
        pg::Array next;
        for (std::size_t n = 0; n < taken.size(); ++n) {
            next.add(taken[n]);
            if (reading_) digest += reading_->recount().tally(n).digest;
        }
        pg::Params params;
        params.add(live.target.projection->stream().name).add(options_.instance);
        params.add(std::int64_t{live.target.generation}).add(state).add(what).add(std::move(next)).add(behind);
        params.add(std::to_string(digest)).add_optional(log_at_).add_optional(tables_at_).add_optional(findings_);
        connection.run(kPublish, params);
        auditor_.behind_.set(static_cast<double>(behind));
        auditor_.differs_.set(differs ? 1 : 0);
    }

    Auditor& auditor_;
    const Options& options_;
    base::Stop& stop_;
    std::optional<Reading> reading_;
    std::optional<Standing> pending_;  // where it is to be next
    int generation_ = 0;
    std::string refusal_;  // why the log cannot be read as a whole, or not remembered
    steady_clock::time_point try_again_at_{};
    std::string log_differs_;
    std::optional<base::Timestamp> log_at_;
    std::string tables_differ_;
    std::optional<base::Timestamp> tables_at_;
    std::optional<steady_clock::time_point> sum_at_;  // not before then
    std::optional<std::string> findings_;
    int explained_ = 0;  // the generation
    steady_clock::time_point explained_at_{};
};

Auditor::Auditor(Options options, const Projection& projection, base::Metrics& metrics)
    : options_(std::move(options)),
      projection_(projection),
      behind_(metrics.gauge("tidemark_audit_behind_records", "Offsets folded and not audited yet, by who audits.",
                            {{"stream", std::string(projection.stream().name)}})),
      differs_(metrics.gauge("tidemark_audit_differs", "1 while the tables are not what the log says, by who audits.",
                             {{"stream", std::string(projection.stream().name)}})),
      records_(metrics.counter("tidemark_audit_records_total", "Records read from the log to audit it.",
                               {{"stream", std::string(projection.stream().name)}})),
      bytes_(metrics.counter("tidemark_audit_bytes_total", "Keys and values read from the log to audit it.",
                             {{"stream", std::string(projection.stream().name)}})),
      thread_([this] { run(); }) {}

Auditor::~Auditor() {
    stop_.request();
    thread_.join();
}

void Auditor::run() {
    constexpr int kNiceness = 10;
    // Of this thread, and of those that its Kafka client starts. It only ever goes down, which is always allowed.
    ::setpriority(PRIO_PROCESS, static_cast<id_t>(::gettid()), kNiceness);
    Work work(*this);
    base::Backoff backoff(kRound, kRound * 5, 1);
    while (!stop_.requested()) {
        try {
            work.serve();
            backoff.reset();
        } catch (const std::exception& error) {
            if (stop_.requested()) return;
            base::log::warn("audit_interrupted", {{"stream", projection_.stream().name}, {"error", error.what()}});
            work.interrupt();
            stop_.wait_for(backoff.next());
        }
    }
}

}  // namespace tidemark::consumers
