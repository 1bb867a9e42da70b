#include "consumers/stream_state.h"

#include <algorithm>
#include <utility>

namespace tidemark::consumers {

using std::chrono::duration_cast;
using std::chrono::milliseconds;

namespace {

// Answers of log-end queries kept per partition while the fold is behind them: at two a second, half a minute of lag.
constexpr std::size_t kMaxEnds = 64;

// While something is buffered, a reader's wish is noticed within this time.
constexpr milliseconds kPollWhileBuffered{20};

}  // namespace

std::size_t Batch::records() const noexcept {
    std::size_t count = 0;
    for (const auto& part : parts)
        count += part.records.size();
    return count;
}

StreamState::StreamState(Options options)
    : options_(options),
      backoff_(options.retry_first, options.retry_cap, options.seed),
      interval_(options.limits.interval) {}

StreamState::Step StreamState::next(Instant now) {
    if (releasing_) {
        const bool worth_flushing = phase_ == Phase::consuming && has_something_to_write() && !release_flushed_;
        if (!worth_flushing) return {Do::unassign, {}};
        release_flushed_ = true;  // once: the next owner is waiting, and reads the same records from the log
        return {Do::flush, {}};
    }
    if (stopping_) {
        if (phase_ == Phase::consuming && has_something_to_write()) {
            if (now >= retry_at_) return {Do::flush, {}};
        } else if (phase_ == Phase::resolving) {
            if (now >= retry_at_) return {Do::resolve, {}};
        } else if (phase_ == Phase::idle) {
            return {Do::finished, {}};
        } else {
            return {Do::unassign, {}};
        }
        return {Do::poll, std::min(options_.poll, duration_cast<milliseconds>(retry_at_ - now) + milliseconds(1))};
    }
    const bool may_try = now >= retry_at_;
    switch (phase_) {
        case Phase::idle:
            return {Do::poll, options_.poll};
        case Phase::claiming:
            if (may_try) return {Do::claim, {}};
            break;
        case Phase::resolving:
            if (may_try) return {Do::resolve, {}};
            break;
        case Phase::fenced:
            if (may_try) {
                phase_ = Phase::claiming;
                return {Do::claim, {}};
            }
            break;
        case Phase::consuming: {
            // What lies beyond the leader in one partition must not take the room of what lacks in another.
            if (buffer_.full(options_.limits) && !has_something_to_write() && !behind().empty()) {
                make_room();
                return {Do::assign, {}};
            }
            if (!narrowed_to_.empty() && behind() != narrowed_to_) {
                narrowed_to_.clear();
                return {Do::assign, {}};
            }
            if (!may_try) break;
            if (due(now)) return {Do::flush, {}};
            if (!has_something_to_write()) return {Do::poll, options_.poll};
            const auto until_due = duration_cast<milliseconds>(due_at() - now);
            return {Do::poll, std::clamp(until_due, milliseconds(0), kPollWhileBuffered)};
        }
    }
    const auto until_retry = duration_cast<milliseconds>(retry_at_ - now) + milliseconds(1);
    return {Do::poll, std::clamp(until_retry, milliseconds(1), options_.poll)};
}

bool StreamState::paused(Instant now) const noexcept {
    return (phase_ != Phase::consuming && !moved_) || now < retry_at_ || buffer_.full(options_.limits);
}

std::int64_t StreamState::reach(std::int32_t partition, const RecordBuffer::Part& part) const {
    if (!leader_) return part.next;
    const auto index = static_cast<std::size_t>(partition);
    // A partition that the leader does not know is not followed into.
    if (index >= leader_->size()) return part.from;
    return std::clamp((*leader_)[index], part.from, part.next);
}

bool StreamState::has_something_to_write() const {
    if (!leader_) return !buffer_.empty();
    return std::any_of(buffer_.parts().begin(), buffer_.parts().end(),
                       [this](const auto& entry) { return reach(entry.first, entry.second) > entry.second.from; });
}

bool StreamState::is_behind(std::int32_t partition, const RecordBuffer::Part& part) const {
    const auto index = static_cast<std::size_t>(partition);
    return leader_ && index < leader_->size() && part.next < (*leader_)[index];
}

std::vector<std::int32_t> StreamState::behind() const {
    std::vector<std::int32_t> partitions;
    for (const auto& [partition, part] : buffer_.parts()) {
        if (is_behind(partition, part)) partitions.push_back(partition);
    }
    return partitions;
}

void StreamState::make_room() {
    for (const auto& [partition, part] : buffer_.parts())
        buffer_.cut(partition, reach(partition, part));
    narrowed_to_ = behind();
}

std::vector<kafka::Start> StreamState::reading() const {
    std::vector<kafka::Start> starts;
    for (const auto& [partition, part] : buffer_.parts()) {
        const bool left_out = !narrowed_to_.empty() &&
                              std::find(narrowed_to_.begin(), narrowed_to_.end(), partition) == narrowed_to_.end();
        if (!left_out) starts.push_back({partition, part.next});
    }
    return starts;
}

bool StreamState::due(Instant now) const {
    const bool early = now < wanted_until_ && now - last_flush_ >= options_.limits.early;
    if (has_something_to_write()) return buffer_.full(options_.limits) || early || now >= due_at();
    if (!early && now - last_flush_ < interval_) return false;
    // Nothing came: only the as-of instant moves.
    return std::any_of(owned_.begin(), owned_.end(), [this](const auto& entry) {
        return newest_as_of(entry.second, reach(entry.first, buffer_.parts().at(entry.first))).has_value();
    });
}

/// What comes after a silence waits for nothing but its companions.
StreamState::Instant StreamState::due_at() const {
    return std::max(last_began_ + interval_, *buffer_.first() + options_.limits.gather);
}

std::optional<Timestamp> StreamState::newest_as_of(const Owned& owned, std::int64_t next) const {
    std::optional<Timestamp> newest;
    for (const auto& end : owned.ends) {
        if (end.end > next) break;
        newest = end.asked;
    }
    if (newest && *newest <= owned.as_of) return std::nullopt;
    return newest;
}

void StreamState::polled(kafka::Record record, Instant now) {
    if (phase_ != Phase::consuming && phase_ != Phase::resolving && !moved_) {
        counters_.stale_records += 1;  // read again after the claim: assigning starts from the claimed offsets
        return;
    }
    if (buffer_.push(std::move(record), now) != RecordBuffer::Push::kept) counters_.stale_records += 1;
}

void StreamState::polled(const kafka::EndOfPartition& end, Instant now) {
    if (phase_ == Phase::consuming || phase_ == Phase::resolving || moved_)
        buffer_.reached(end.partition, end.offset, now);
}

void StreamState::polled(const kafka::Assigned& assigned, Instant now) {
    counters_.assigned += 1;
    drop();
    for (const auto partition : assigned.partitions)
        owned_[partition] = Owned{};
    phase_ = assigned.partitions.empty() ? Phase::idle : Phase::claiming;
    settle(now);
}

void StreamState::polled(const kafka::Revoked& revoked, Instant now) {
    counters_.revoked += 1;
    releasing_ = true;
    release_flushed_ = false;
    retry_at_ = now;
    if (revoked.lost) {
        counters_.lost += 1;
        drop();  // another member may have written these records already
    }
}

std::vector<kafka::Start> StreamState::claimed(std::span<const Claim> claims, Instant now) {
    counters_.claims += 1;
    leader_.reset();
    if (goes_on(claims)) {
        for (const auto& claim : claims)
            owned_[claim.partition].epoch = claim.epoch;
        moved_ = false;
        phase_ = Phase::consuming;
        settle(now);
        if (narrowed_to_.empty()) return {};
        narrowed_to_.clear();
        return reading();
    }
    std::vector<kafka::Start> starts;
    for (const auto& claim : claims) {
        auto& owned = owned_[claim.partition];
        owned.epoch = claim.epoch;
        owned.log_time = claim.log_time;
        owned.as_of = {};
        starts.push_back({claim.partition, claim.next_offset});
    }
    buffer_.reset(starts);
    moved_ = false;
    narrowed_to_.clear();
    phase_ = Phase::consuming;
    settle(now);
    return starts;
}

void StreamState::moved(Instant now) {
    if (phase_ == Phase::idle || phase_ == Phase::claiming) return;
    if (phase_ == Phase::resolving) {
        counters_.fenced += 1;  // the commit in doubt ended before the swap, and the claim reads how
        drop();
    }
    moved_ = phase_ == Phase::consuming;
    phase_ = Phase::claiming;
    settle(now);
}

bool StreamState::goes_on(std::span<const Claim> claims) const {
    if (!moved_ || claims.size() != buffer_.parts().size()) return false;
    return std::all_of(claims.begin(), claims.end(), [this](const Claim& claim) {
        const auto part = buffer_.parts().find(claim.partition);
        return part != buffer_.parts().end() && part->second.from == claim.next_offset;
    });
}

void StreamState::claim_failed(Instant now) {
    retry_later(now);
}

void StreamState::flushed(Flushed outcome, Instant began, Instant now) {
    last_flush_ = now;
    switch (outcome) {
        case Flushed::committed: {
            std::vector<kafka::Start> next;
            for (const auto& part : batch().parts) {
                if (part.as_of) owned_[part.partition].as_of = *part.as_of;
                next.push_back({part.partition, part.next});
            }
            for (const auto& [partition, offset] : next) {
                auto& ends = owned_[partition].ends;
                while (!ends.empty() && ends.front().end <= offset)
                    ends.pop_front();
            }
            buffer_.committed(next, now);
            settle(now);
            // So early that what came right after this one was cut is in the tables within the limit, for the next one
            // will take as long. But a database that needs long for a flush is left alone half of the time.
            const auto& limits = options_.limits;
            const auto took = duration_cast<milliseconds>(now - began);
            interval_ = std::min(std::max(limits.interval - took, 2 * took), std::max(limits.interval, limits.longest));
            last_began_ = began;
            break;
        }
        case Flushed::fenced:
            counters_.fenced += 1;
            drop();
            phase_ = Phase::fenced;
            retry_at_ = now + options_.fence_wait;
            break;
        case Flushed::failed:
            counters_.failed += 1;
            retry_later(now);
            break;
        case Flushed::in_doubt:
            counters_.in_doubt += 1;
            pending_.clear();
            for (const auto& part : batch().parts)
                pending_.push_back({part.partition, part.next});
            phase_ = Phase::resolving;
            retry_at_ = now;
            break;
    }
}

void StreamState::resolved(std::span<const Claim> rows, Instant now) {
    bool mine = true;
    bool moved = true;
    bool unmoved = true;
    for (const auto& row : rows) {
        const auto owned = owned_.find(row.partition);
        if (owned == owned_.end() || owned->second.epoch != row.epoch) {
            mine = false;
            continue;
        }
        const auto wanted = std::find_if(pending_.begin(), pending_.end(),
                                         [&](const kafka::Start& start) { return start.partition == row.partition; });
        if (wanted == pending_.end()) continue;
        moved = moved && row.next_offset == wanted->offset;
        unmoved = unmoved && row.next_offset == buffer_.parts().at(row.partition).from;
    }
    if (!mine || rows.size() != owned_.size() || (!moved && !unmoved)) {
        counters_.fenced += 1;
        drop();
        phase_ = Phase::fenced;
        retry_at_ = now + options_.fence_wait;
        return;
    }
    if (moved) {
        counters_.in_doubt_committed += 1;
        for (const auto& row : rows)
            owned_[row.partition].log_time = row.log_time;
        buffer_.committed(pending_, now);
    }
    pending_.clear();
    phase_ = Phase::consuming;
    settle(now);
}

void StreamState::resolve_failed(Instant now) {
    retry_later(now);
}

void StreamState::unassigned() {
    drop();
    owned_.clear();
    releasing_ = false;
    phase_ = Phase::idle;
}

void StreamState::log_end(Timestamp asked, std::span<const std::int64_t> ends) {
    for (auto& [partition, owned] : owned_) {
        const auto index = static_cast<std::size_t>(partition);
        if (index >= ends.size() || owned.ends.size() >= kMaxEnds) continue;
        if (!owned.ends.empty() && (owned.ends.back().asked >= asked || owned.ends.back().end > ends[index])) continue;
        // Of answers with the same end only the latest says more.
        if (!owned.ends.empty() && owned.ends.back().end == ends[index]) owned.ends.pop_back();
        owned.ends.push_back({asked, ends[index]});
    }
}

Batch StreamState::batch() const {
    Batch batch;
    for (const auto& [partition, part] : buffer_.parts()) {
        const auto& owned = owned_.at(partition);
        const auto next = reach(partition, part);
        const auto as_of = newest_as_of(owned, next);
        if (next == part.from && !as_of) continue;
        const auto cut = std::partition_point(part.records.begin(), part.records.end(),
                                              [next](const kafka::Record& record) { return record.offset < next; });
        const std::span records(part.records.begin(), cut);
        const auto gaps = next - part.from - static_cast<std::int64_t>(records.size());
        batch.parts.push_back({partition, owned.epoch, part.from, next, gaps, owned.log_time, as_of, records});
    }
    return batch;
}

void StreamState::log_time(std::int32_t partition, Timestamp log_time) {
    const auto found = owned_.find(partition);
    if (found != owned_.end()) found->second.log_time = log_time;
}

std::vector<std::int32_t> StreamState::partitions() const {
    std::vector<std::int32_t> partitions;
    for (const auto& [partition, owned] : owned_)
        partitions.push_back(partition);
    return partitions;
}

std::vector<Claim> StreamState::claims() const {
    std::vector<Claim> claims;
    for (const auto& [partition, part] : buffer_.parts()) {
        const auto& owned = owned_.at(partition);
        claims.push_back({partition, part.from, owned.epoch, owned.log_time});
    }
    return claims;
}

std::optional<Timestamp> StreamState::as_of() const noexcept {
    std::optional<Timestamp> earliest;
    for (const auto& [partition, owned] : owned_) {
        if (owned.as_of == Timestamp{}) return std::nullopt;
        if (!earliest || owned.as_of < *earliest) earliest = owned.as_of;
    }
    return earliest;
}

const char* StreamState::phase() const noexcept {
    switch (phase_) {
        case Phase::idle:
            return "idle";
        case Phase::claiming:
            return "claiming";
        case Phase::consuming:
            return failing_ ? "retrying" : "consuming";
        case Phase::resolving:
            return "resolving";
        case Phase::fenced:
            break;
    }
    return "fenced";
}

void StreamState::drop() {
    counters_.dropped_records += buffer_.records();
    buffer_.clear();
    pending_.clear();
    moved_ = false;
    narrowed_to_.clear();
}

void StreamState::retry_later(Instant now) {
    retry_at_ = now + backoff_.next();
    failing_ = true;
}

void StreamState::settle(Instant now) {
    retry_at_ = now;
    backoff_.reset();
    failing_ = false;
}

}  // namespace tidemark::consumers
