#pragma once

#include "infra/kafka/error.h"
#include "infra/kafka/ports.h"

#include <algorithm>
#include <cassert>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

namespace tidemark::tests {

/// A topic in memory. Offsets rise by one and may be made to skip, as transaction markers do.
class FakeLog {
public:
    struct Entry {
        std::int64_t offset = 0;
        base::Timestamp append_time{};
        std::optional<std::string> key;
        std::optional<std::string> value;
        std::vector<std::pair<std::string, std::string>> headers;
    };

    explicit FakeLog(std::int32_t partitions) : partitions_(static_cast<std::size_t>(partitions)) {}

    /// Returns the offset.
    std::int64_t append(std::int32_t partition, Entry entry) {
        auto& log = at(partition);
        entry.offset = log.end++;
        log.entries.push_back(std::move(entry));
        return log.end - 1;
    }
    std::int64_t append(std::int32_t partition, std::string key, std::string value, base::Timestamp append_time = {}) {
        return append(partition, Entry{0, append_time, std::move(key), std::move(value), {}});
    }
    /// Offsets that no reader ever sees.
    void skip(std::int32_t partition, std::int64_t count) { at(partition).end += count; }
    /// As retention, or kafka-delete-records, does.
    void delete_before(std::int32_t partition, std::int64_t offset) {
        auto& log = at(partition);
        log.begin = offset;
        while (!log.entries.empty() && log.entries.front().offset < offset)
            log.entries.pop_front();
    }

    [[nodiscard]] std::int32_t partitions() const { return static_cast<std::int32_t>(partitions_.size()); }
    [[nodiscard]] std::int64_t begin(std::int32_t partition) const { return at(partition).begin; }
    [[nodiscard]] std::int64_t end(std::int32_t partition) const { return at(partition).end; }
    /// The first entry at or after `offset`; null when the partition ends before it.
    [[nodiscard]] const Entry* find(std::int32_t partition, std::int64_t offset) const {
        const auto& entries = at(partition).entries;
        const auto found =
            std::lower_bound(entries.begin(), entries.end(), offset,
                             [](const Entry& entry, std::int64_t wanted) { return entry.offset < wanted; });
        return found == entries.end() ? nullptr : &*found;
    }

private:
    struct Partition {
        std::deque<Entry> entries;
        std::int64_t begin = 0;
        std::int64_t end = 0;
    };
    [[nodiscard]] const Partition& at(std::int32_t partition) const {
        return partitions_.at(static_cast<std::size_t>(partition));
    }
    Partition& at(std::int32_t partition) { return partitions_.at(static_cast<std::size_t>(partition)); }

    std::vector<Partition> partitions_;
};

/// Reads a FakeLog as one member of a group whose coordinator is the test: `grant`, `revoke`, `lose` and `fail` queue
/// what the next polls return. Holds the reader to the port's rules by assertion. One thread.
class FakeSource final : public kafka::RecordSource {
public:
    /// Chooses among the partitions that have something to return, ascending; the default takes them in turn. A
    /// simulation passes its seeded random here.
    using Choose = std::function<std::size_t(const std::vector<std::int32_t>&)>;

    explicit FakeSource(FakeLog& log, Choose choose = {}) : log_(&log), choose_(std::move(choose)) {}

    void grant(std::vector<std::int32_t> partitions) { events_.emplace_back(kafka::Assigned{std::move(partitions)}); }
    /// Takes everything that was granted.
    void revoke() { events_.emplace_back(kafka::Revoked{{}, false}); }
    void lose() { events_.emplace_back(kafka::Revoked{{}, true}); }
    /// The next poll throws.
    void fail(kafka::Error error) { events_.emplace_back(std::move(error)); }

    kafka::Polled poll(std::chrono::milliseconds) override {
        ++polls_;
        if (!events_.empty()) return next_event();
        if (unanswered_ != Unanswered::nothing || paused_) return kafka::Nothing{};
        std::vector<std::int32_t> ready;
        for (const auto& [partition, position] : positions_) {
            if (log_->find(partition, position.next) != nullptr || position.end_told != log_->end(partition)) {
                ready.push_back(partition);
            }
        }
        if (ready.empty()) return kafka::Nothing{};
        return read(ready[choose_ ? choose_(ready) : turn_++ % ready.size()]);
    }

    void assign(std::span<const kafka::Start> starts) override {
        assert(unanswered_ != Unanswered::revoked && "a revocation is answered by unassign");
        unanswered_ = Unanswered::nothing;
        positions_.clear();
        for (const auto& start : starts) {
            assert(granted_.contains(start.partition) && "only partitions of the last grant may be read");
            positions_[start.partition] = Position{start.offset, -1};
        }
    }
    void unassign() override {
        unanswered_ = Unanswered::nothing;
        positions_.clear();
        granted_.clear();
    }
    void pause() override { paused_ = true; }
    void resume() override { paused_ = false; }
    void report_progress(std::span<const kafka::Start> next) noexcept override {
        for (const auto& start : next)
            reported_[start.partition] = start.offset;
    }

    [[nodiscard]] bool paused() const { return paused_; }
    [[nodiscard]] bool assigned(std::int32_t partition) const { return positions_.contains(partition); }
    /// What the next record of the partition would be read from; -1 when it is not assigned.
    [[nodiscard]] std::int64_t position(std::int32_t partition) const {
        const auto found = positions_.find(partition);
        return found == positions_.end() ? -1 : found->second.next;
    }
    [[nodiscard]] const std::map<std::int32_t, std::int64_t>& reported() const { return reported_; }
    [[nodiscard]] std::uint64_t polls() const { return polls_; }

    /// The record as a reader gets it, owning its bytes.
    static kafka::Record record_of(std::int32_t partition, const FakeLog::Entry& entry) {
        auto body = std::make_unique<Body>(entry);
        kafka::Record record;
        record.partition = partition;
        record.offset = entry.offset;
        record.append_time = entry.append_time;
        if (body->entry_.key) record.key = *body->entry_.key;
        if (body->entry_.value) record.value = *body->entry_.value;
        record.own(std::move(body));
        return record;
    }

private:
    struct Position {
        std::int64_t next = 0;
        std::int64_t end_told = -1;  // the end that the last EndOfPartition named
    };
    enum class Unanswered { nothing, assigned, revoked };

    class Body final : public kafka::Record::Body {
    public:
        explicit Body(FakeLog::Entry entry) : entry_(std::move(entry)) {}
        [[nodiscard]] std::vector<kafka::Header> headers() const override {
            std::vector<kafka::Header> all;
            for (const auto& [name, value] : entry_.headers)
                all.push_back({name, value});
            return all;
        }
        [[nodiscard]] std::optional<std::string_view> header(const char* name) const override {
            std::optional<std::string_view> last;
            for (const auto& header : entry_.headers) {
                if (header.first == name) last = header.second;
            }
            return last;
        }
        const FakeLog::Entry entry_;
    };

    kafka::Polled next_event() {
        auto event = std::move(events_.front());
        events_.pop_front();
        if (auto* error = std::get_if<kafka::Error>(&event)) throw kafka::Error(*error);
        if (auto* assigned = std::get_if<kafka::Assigned>(&event)) {
            assert(granted_.empty() && "assignment is eager: revoke first");
            granted_.insert(assigned->partitions.begin(), assigned->partitions.end());
            unanswered_ = Unanswered::assigned;
            return std::move(*assigned);
        }
        auto& revoked = std::get<kafka::Revoked>(event);
        revoked.partitions.assign(granted_.begin(), granted_.end());
        unanswered_ = Unanswered::revoked;
        return std::move(revoked);
    }

    kafka::Polled read(std::int32_t partition) {
        auto& position = positions_.at(partition);
        if (position.next < log_->begin(partition) || position.next > log_->end(partition)) {
            throw kafka::Error("offset " + std::to_string(position.next) + " of partition " +
                                   std::to_string(partition) + " is out of range",
                               1, false, false);
        }
        const auto* entry = log_->find(partition, position.next);
        if (entry == nullptr) {
            position.next = position.end_told = log_->end(partition);
            return kafka::EndOfPartition{partition, position.next};
        }
        position.next = entry->offset + 1;
        return record_of(partition, *entry);
    }

    FakeLog* log_;
    Choose choose_;
    std::deque<std::variant<kafka::Assigned, kafka::Revoked, kafka::Error>> events_;
    std::set<std::int32_t> granted_;
    std::map<std::int32_t, Position> positions_;
    std::map<std::int32_t, std::int64_t> reported_;
    Unanswered unanswered_ = Unanswered::nothing;
    bool paused_ = false;
    std::size_t turn_ = 0;
    std::uint64_t polls_ = 0;
};

}  // namespace tidemark::tests
