#include "consumers/stream_processor.h"

#include "infra/base/failpoint.h"
#include "infra/base/log.h"
#include "infra/kafka/error.h"

#include <string_view>
#include <utility>

namespace tidemark::consumers {

namespace log = base::log;
using std::chrono::milliseconds;

namespace {

double seconds(std::chrono::nanoseconds duration) {
    return std::chrono::duration<double>(duration).count();
}

constexpr std::string_view kAllReasons[] = {
    reason::kTombstone,          reason::kMalformed,         reason::kUnknownType,     reason::kInvalidData,
    reason::kKeyMismatch,        reason::kWrongPartition,    reason::kFromTheFuture,   reason::kIdempotencyConflict,
    reason::kUnexpectedIdentity, reason::kRefusedByDatabase, reason::kBehindDeadLetter};

}  // namespace

struct StreamProcessor::Instruments {
    Instruments(base::Metrics& metrics, const std::string& stream, const std::string& generation)
        : flush_seconds(metrics.histogram("tidemark_flush_duration_seconds",
                                          "One flush, from BEGIN to the answer of COMMIT.",
                                          {{"stream", stream}, {"generation", generation}})),
          append_to_commit(metrics.histogram("tidemark_append_to_commit_seconds",
                                             "Age of the oldest record of a flush, from its append to the commit.",
                                             {{"stream", stream}, {"generation", generation}},
                                             {0.05, 0.1, 0.25, 0.5, 1, 1.5, 2, 3, 5, 7.5, 10, 15, 30, 60})),
          rows(metrics.counter("tidemark_flush_rows_total", "Rows of projection tables written.",
                               {{"stream", stream}, {"generation", generation}})),
          applied(metrics.counter("tidemark_records_total", "Records committed, by what became of them.",
                                  {{"stream", stream}, {"generation", generation}, {"verdict", "applied"}})),
          duplicates(metrics.counter("tidemark_records_total", "Records committed, by what became of them.",
                                     {{"stream", stream}, {"generation", generation}, {"verdict", "duplicate"}})),
          gaps(metrics.counter("tidemark_offset_gaps_total", "Offsets without a record.",
                               {{"stream", stream}, {"generation", generation}})),
          late(metrics.counter("tidemark_late_records_total",
                               "Records applied after window retention had dropped their window.",
                               {{"stream", stream}, {"generation", generation}})),
          lag(metrics.gauge("tidemark_stream_lag_seconds",
                            "Age of the newest instant up to which everything is in the tables.",
                            {{"stream", stream}, {"generation", generation}})),
          buffered_records(metrics.gauge("tidemark_buffered_records", "Records polled and not yet committed.",
                                         {{"stream", stream}, {"generation", generation}})),
          buffered_bytes(metrics.gauge("tidemark_buffered_bytes", "Bytes polled and not yet committed.",
                                       {{"stream", stream}, {"generation", generation}})),
          partitions(metrics.gauge("tidemark_partitions_owned", "Partitions that this instance folds.",
                                   {{"stream", stream}, {"generation", generation}})) {
        const auto state = [&](const char* name, const char* help, const char* label,
                               const char* value) -> base::Metrics::Counter* {
            return &metrics.counter(name, help, {{"stream", stream}, {"generation", generation}, {label, value}});
        };
        constexpr auto kFlushes = "tidemark_flushes_total";
        constexpr auto kFlushesHelp =
            "Flushes, by how they ended; in_doubt ones are counted again as what they turned out to be.";
        committed = state(kFlushes, kFlushesHelp, "outcome", "committed");
        fenced = state(kFlushes, kFlushesHelp, "outcome", "fenced");
        failed = state(kFlushes, kFlushesHelp, "outcome", "failed");
        in_doubt = state(kFlushes, kFlushesHelp, "outcome", "in_doubt");
        constexpr auto kRebalances = "tidemark_rebalances_total";
        constexpr auto kRebalancesHelp = "What the group said: assigned, revoked, or lost without asking.";
        assigned = state(kRebalances, kRebalancesHelp, "kind", "assigned");
        revoked = state(kRebalances, kRebalancesHelp, "kind", "revoked");
        lost = state(kRebalances, kRebalancesHelp, "kind", "lost");
        for (const auto reason : kAllReasons) {
            dead_letters[reason] =
                &metrics.counter("tidemark_dead_letters_total", "Records parked, by reason.",
                                 {{"stream", stream}, {"generation", generation}, {"reason", std::string(reason)}});
        }
    }

    base::Metrics::Histogram& flush_seconds;
    base::Metrics::Histogram& append_to_commit;
    base::Metrics::Counter& rows;
    base::Metrics::Counter& applied;
    base::Metrics::Counter& duplicates;
    base::Metrics::Counter& gaps;
    base::Metrics::Counter& late;
    base::Metrics::Gauge& lag;
    base::Metrics::Gauge& buffered_records;
    base::Metrics::Gauge& buffered_bytes;
    base::Metrics::Gauge& partitions;
    base::Metrics::Counter* committed = nullptr;
    base::Metrics::Counter* fenced = nullptr;
    base::Metrics::Counter* failed = nullptr;
    base::Metrics::Counter* in_doubt = nullptr;
    base::Metrics::Counter* assigned = nullptr;
    base::Metrics::Counter* revoked = nullptr;
    base::Metrics::Counter* lost = nullptr;
    std::map<std::string_view, base::Metrics::Counter*> dead_letters;
};

StreamProcessor::StreamProcessor(ProcessorOptions options, Target target, kafka::RecordSource& source,
                                 CheckLog check_log, const base::Clock& clock, base::Metrics& metrics)
    : options_(std::move(options)),
      target_(std::move(target)),
      source_(source),
      check_log_(std::move(check_log)),
      clock_(clock),
      instruments_(std::make_unique<Instruments>(metrics, std::string(target_.projection->stream().name),
                                                 std::to_string(target_.generation))),
      store_(target_.generation, options_.owner),
      state_(options_.state) {}

StreamProcessor::~StreamProcessor() = default;

void StreamProcessor::run() {
    std::optional<StreamState::Instant> stopping_since;
    while (true) {
        const auto now = clock_.steady();
        take_news(now);
        look_at_leader(now);
        if (dropped_) {
            log::info("generation_dropped", {{"stream", target_.projection->stream().name},
                                             {"generation", std::int64_t{target_.generation}}});
            return;
        }
        if (stop_ && !stopping_since) {
            stopping_since = now;
            state_.stop();
        }
        if (stopping_since && now - *stopping_since > options_.drain) {
            log::error("drain_abandoned", {{"stream", target_.projection->stream().name},
                                           {"buffered_records", state_.buffer().records()},
                                           {"hint", "nothing is lost: the next owner reads them from the log again"}});
            return;
        }
        if (!stopping_since) retain_windows(now);
        const auto step = state_.next(now);
        if (const bool pause = state_.paused(now); pause != paused_) {
            if (pause) {
                source_.pause();
            } else {
                source_.resume();
            }
            paused_ = pause;
        }
        switch (step.what) {
            case StreamState::Do::poll:
                poll(step.timeout);
                break;
            case StreamState::Do::claim:
                claim();
                break;
            case StreamState::Do::flush:
                flush_batch();
                break;
            case StreamState::Do::resolve:
                resolve();
                break;
            case StreamState::Do::assign:
                source_.assign(state_.reading());
                paused_ = true;
                break;
            case StreamState::Do::unassign:
                FAILPOINT("c8_rebalance");
                source_.unassign();
                state_.unassigned();
                break;
            case StreamState::Do::finished:
                publish_status();
                return;
        }
        publish_status();
    }
}

void StreamProcessor::take_news(StreamState::Instant now) {
    if (wanted_.exchange(false)) {
        state_.wanted(now);
        next_look_ = now;
    }
    std::vector<LogEnd> news;
    {
        const std::lock_guard lock(mutex_);
        if (!other_log_.empty()) throw LogMismatch(other_log_);
        news.swap(news_);
    }
    for (const auto& end : news)
        state_.log_end(end.asked, end.ends);
}

void StreamProcessor::log_end(Timestamp asked, std::vector<std::int64_t> ends) {
    const std::lock_guard lock(mutex_);
    news_.push_back({asked, std::move(ends)});
}

void StreamProcessor::log_is_another(std::string what) {
    const std::lock_guard lock(mutex_);
    other_log_ = std::move(what);
}

void StreamProcessor::poll(milliseconds timeout) {
    const auto stream = target_.projection->stream().name;
    auto polled = source_.poll(timeout);
    const auto now = clock_.steady();
    // What the client has fetched already is taken in one go: a look at the clock and the state per record would cost
    // more than the record.
    constexpr int kMostAtOnce = 1'000;
    for (int taken = 0; std::holds_alternative<kafka::Record>(polled); polled = source_.poll(milliseconds(0))) {
        FAILPOINT("c1_polled");
        state_.polled(std::get<kafka::Record>(std::move(polled)), now);
        if (++taken >= kMostAtOnce || state_.paused(now)) return;
    }
    if (const auto* end = std::get_if<kafka::EndOfPartition>(&polled)) {
        state_.polled(*end, now);
    } else if (const auto* assigned = std::get_if<kafka::Assigned>(&polled)) {
        instruments_->assigned->add();
        log::info("assigned", {{"stream", stream}, {"partitions", assigned->partitions.size()}});
        state_.polled(*assigned, now);
        if (assigned->partitions.empty()) source_.assign({});
    } else if (const auto* revoked = std::get_if<kafka::Revoked>(&polled)) {
        (revoked->lost ? instruments_->lost : instruments_->revoked)->add();
        log::info("revoked", {{"stream", stream},
                              {"partitions", revoked->partitions.size()},
                              {"lost", revoked->lost},
                              {"buffered_records", state_.buffer().records()}});
        state_.polled(*revoked, now);
    }
}

pg::Connection& StreamProcessor::connection() {
    if (connection_ && connection_->is_broken()) connection_.reset();
    if (!connection_) {
        pg::SessionOptions session;
        session.application_name = "tidemark-consumer " + std::string(target_.projection->stream().name);
        if (place_) session.search_path = pg::quote_identifier(place_->schema);
        session.statement_timeout = options_.statement_timeout;
        connection_.emplace(options_.dsn, session);
        announce_ = true;
    }
    return *connection_;
}

void StreamProcessor::claim() {
    const auto stream = target_.projection->stream().name;
    const auto partitions = state_.partitions();
    try {
        check_place();
        if (dropped_) return;
        const auto claims = store_.claim(connection(), partitions);
        announce_ = false;
        // What the tables are is asked after they were claimed: a swap from here on fences this claim.
        const auto claimed = place_;
        check_place();
        if (claims.empty() || place_ != claimed) {
            state_.claim_failed(clock_.steady());
            return;
        }
        if (!state_.goes_on(claims)) {
            for (const auto& one : claims)
                check_log_(one);
        }
        const auto starts = state_.claimed(claims, clock_.steady());
        if (place_->role != Role::live) state_.follow(std::vector<std::int64_t>{});  // nothing, before it has looked
        next_look_ = {};
        next_retention_ = {};
        windows_from_.reset();
        dropping_ = false;
        if (!starts.empty()) {
            source_.assign(starts);
            paused_ = true;  // assigning leaves open whether it is: the loop resumes
        }
        log::info("claimed", {{"stream", stream},
                              {"generation", std::int64_t{target_.generation}},
                              {"role", to_string(place_->role)},
                              {"partitions", partitions.size()}});
    } catch (const pg::Error& error) {
        if (error.failure() == pg::Failure::bug) throw;
        instruments_->failed->add();
        log::warn("claim_failed", {{"stream", stream}, {"error", error.what()}});
        state_.claim_failed(clock_.steady());
    } catch (const kafka::Error& error) {
        if (!error.is_retryable()) throw;
        log::warn("claim_failed", {{"stream", stream}, {"error", error.what()}});
        state_.claim_failed(clock_.steady());
    }
}

bool StreamProcessor::check_place() {
    auto place = find_place(connection(), *target_.projection, target_.generation);
    dropped_ = !place;
    if (!place || place == place_) return false;
    if (place_) {
        log::info("generation_moved", {{"stream", target_.projection->stream().name},
                                       {"generation", std::int64_t{target_.generation}},
                                       {"schema", place->schema},
                                       {"role", to_string(place->role)}});
    }
    place_ = std::move(place);
    connection_.reset();
    publish_status();  // if this ends with an exception, whether readers lose by it depends on the role
    return true;
}

void StreamProcessor::look_at_leader(StreamState::Instant now) {
    if (!place_ || place_->role == Role::live || !state_.consuming() || now < next_look_) return;
    next_look_ = now + options_.look;
    try {
        // First whether it still follows: since a swap it may be the live one, and would wait for itself for ever, with
        // no flush that a fence could stop.
        if (check_place()) state_.moved(clock_.steady());
        if (dropped_ || !state_.consuming()) return;
        state_.follow(find_progress(connection(), target_.projection->stream().name));
        leader_unknown_ = false;
    } catch (const pg::Error& error) {
        if (error.failure() == pg::Failure::bug) throw;
        if (!std::exchange(leader_unknown_, true))
            log::warn("live_generation_unknown",
                      {{"stream", target_.projection->stream().name}, {"error", error.what()}});
    }
}

std::optional<Timestamp> StreamProcessor::windows_due() {
    const auto windows = store_.windows(connection());
    auto from = windows.from;
    if (place_->role != Role::live) {
        from = std::max(from, find_windows_from(connection(), target_.projection->stream().name));
    } else if (options_.window_retention > milliseconds(0) && windows.log_time > Timestamp{}) {
        // A broker whose clock was ahead for a moment must not have everything dropped: log time does not step back.
        const auto end = std::min(windows.log_time, clock_.now());
        from = std::max(from, std::optional(schemas::window_start(end - options_.window_retention)));
    }
    return from;
}

void StreamProcessor::retain_windows(StreamState::Instant now) {
    // Some ten milliseconds, also where the rows lie scattered; fewer while that takes too long.
    constexpr std::size_t kMostRowsAtOnce = 5'000;
    constexpr std::size_t kFewestRowsAtOnce = 50;
    // After a failure the fold comes first.
    constexpr int kRest = 10;
    if (!place_ || !state_.consuming() || now < next_retention_) return;
    next_retention_ = now + options_.retention_look;
    const auto claims = state_.claims();
    if (claims.empty()) return;
    const auto stream = target_.projection->stream().name;
    const auto* const statement = target_.projection->drop_windows();
    try {
        auto& session = connection();
        if (announce_ && !store_.announce(session, claims)) return;  // the next flush will see
        announce_ = false;
        if (const auto due = windows_due(); due > windows_from_) {
            store_.move_windows(session, claims, *due);
            FAILPOINT("w1_windows_moved");
            windows_from_ = due;
            windows_dropped_ = 0;
            dropping_ = statement != nullptr;
        }
        if (dropping_) {
            auto tx = session.begin();
            if (!store_.hold(tx, claims)) return;
            const auto rows = OffsetStore::drop_windows(tx, *statement, claims, *windows_from_, rows_at_once_);
            FAILPOINT("w2_windows_dropped");
            tx.commit();
            windows_dropped_ += rows;
            dropping_ = rows == rows_at_once_;
            rows_at_once_ = std::min(rows_at_once_ * 2, kMostRowsAtOnce);
            // Flushes have as much of the time.
            const auto ended = clock_.steady();
            if (dropping_) next_retention_ = ended + (ended - now);
            if (!dropping_ && windows_dropped_ > 0) {
                log::info("windows_dropped", {{"stream", stream},
                                              {"generation", std::int64_t{target_.generation}},
                                              {"before", schemas::format_instant(*windows_from_)},
                                              {"rows", windows_dropped_}});
            }
        }
        retention_failed_ = false;
    } catch (const pg::Error& error) {
        if (error.failure() == pg::Failure::bug) throw;
        // Whatever of it was done may be done again.
        rows_at_once_ = std::max(rows_at_once_ / 2, kFewestRowsAtOnce);
        const auto failed = clock_.steady();
        next_retention_ =
            failed + std::max<StreamState::Instant::duration>(options_.retention_look, (failed - now) * kRest);
        if (!std::exchange(retention_failed_, true))
            log::warn("window_retention_failed", {{"stream", stream}, {"error", error.what()}});
    }
}

void StreamProcessor::flush_batch() {
    const auto stream = target_.projection->stream().name;
    const auto batch = state_.batch();
    const auto began = clock_.steady();
    FlushReport report;
    try {
        auto& session = connection();
        if (announce_ && !store_.announce(session, state_.claims())) {
            report.outcome = Flushed::fenced;
            report.error = "the offset rows are another consumer's";
        } else {
            announce_ = false;
            report = flush(session, target_, store_, batch);
        }
    } catch (const pg::Error& error) {
        if (error.failure() == pg::Failure::bug || error.failure() == pg::Failure::data) throw;
        report.error = error.what();
        report.connection_lost = !connection_ || connection_->is_broken();
    }
    const auto now = clock_.steady();
    std::vector<kafka::Start> progress;
    for (const auto& part : batch.parts)
        progress.push_back({part.partition, part.next});
    if (was_moved(report)) return;  // no fault of anybody's
    state_.flushed(report.outcome, began, now);
    const auto took = now - began;
    switch (report.outcome) {
        case Flushed::committed: {
            for (const auto& [partition, log_time] : report.log_times)
                state_.log_time(partition, log_time);
            instruments_->committed->add();
            instruments_->flush_seconds.observe(seconds(took));
            instruments_->rows.add(static_cast<double>(report.rows));
            instruments_->applied.add(static_cast<double>(report.applied));
            instruments_->duplicates.add(static_cast<double>(report.duplicates));
            instruments_->gaps.add(static_cast<double>(report.gaps));
            instruments_->late.add(static_cast<double>(report.late));
            for (const auto& [reason, count] : report.parked)
                instruments_->dead_letters.at(reason)->add(static_cast<double>(count));
            if (report.records > 0) {
                instruments_->append_to_commit.observe(seconds(clock_.now() - report.oldest));
                std::int64_t parked = 0;
                for (const auto& [reason, count] : report.parked)
                    parked += count;
                log::info("flushed", {{"stream", stream},
                                      {"generation", std::int64_t{target_.generation}},
                                      {"partitions", report.log_times.size()},
                                      {"records", report.records},
                                      {"keys", report.entities},
                                      {"rows", report.rows},
                                      {"duplicates", report.duplicates},
                                      {"parked", parked},
                                      {"ms", std::chrono::duration_cast<milliseconds>(took).count()}});
            }
            source_.report_progress(progress);
            return;
        }
        case Flushed::fenced:
            instruments_->fenced->add();
            log::warn("fenced", {{"stream", stream}, {"records", batch.records()}, {"error", report.error}});
            return;
        case Flushed::failed:
            instruments_->failed->add();
            log::warn("flush_failed", {{"stream", stream}, {"records", batch.records()}, {"error", report.error}});
            return;
        case Flushed::in_doubt:
            instruments_->in_doubt->add();
            log::warn("commit_in_doubt", {{"stream", stream}, {"records", batch.records()}, {"error", report.error}});
            return;
    }
}

bool StreamProcessor::was_moved(const FlushReport& report) {
    const bool may_be = report.outcome == Flushed::fenced || report.outcome == Flushed::failed;
    if (!may_be || report.connection_lost) return false;
    try {
        if (!check_place()) return false;
    } catch (const pg::Error& error) {
        if (error.failure() == pg::Failure::bug) throw;
        log::warn("registry_unknown", {{"stream", target_.projection->stream().name}, {"error", error.what()}});
        return false;
    }
    state_.moved(clock_.steady());
    return true;
}

void StreamProcessor::resolve() {
    const auto stream = target_.projection->stream().name;
    try {
        const auto fenced = state_.counters().fenced;
        const auto committed = state_.counters().in_doubt_committed;
        // Where the rows stood there may be others by now, or none.
        if (check_place()) {
            state_.moved(clock_.steady());
        } else if (dropped_) {
            return;
        } else {
            state_.resolved(store_.read(connection(), state_.partitions()), clock_.steady());
        }
        const bool was_fenced = state_.counters().fenced != fenced;
        const bool was_committed = state_.counters().in_doubt_committed != committed;
        (was_fenced ? instruments_->fenced : was_committed ? instruments_->committed : instruments_->failed)->add();
        log::info("commit_resolved", {{"stream", stream},
                                      {"as", was_fenced      ? "fenced"
                                             : was_committed ? "committed"
                                                             : "not_committed"}});
    } catch (const pg::Error& error) {
        if (error.failure() == pg::Failure::bug) throw;
        log::warn("resolve_failed", {{"stream", stream}, {"error", error.what()}});
        state_.resolve_failed(clock_.steady());
    }
}

void StreamProcessor::publish_status() {
    const auto as_of = state_.as_of();
    instruments_->lag.set(as_of ? seconds(clock_.now() - *as_of) : 0);
    instruments_->buffered_records.set(static_cast<double>(state_.buffer().records()));
    instruments_->buffered_bytes.set(static_cast<double>(state_.buffer().bytes()));
    auto partitions = state_.partitions();
    instruments_->partitions.set(static_cast<double>(partitions.size()));
    const std::lock_guard lock(mutex_);
    const bool live = !place_ || place_->role == Role::live;
    status_ = {std::move(partitions), state_.phase(), live, state_.counters().assigned > 0, as_of, clock_.steady()};
}

StreamProcessor::Status StreamProcessor::status() const {
    const std::lock_guard lock(mutex_);
    return status_;
}

}  // namespace tidemark::consumers
