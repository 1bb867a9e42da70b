#include "consumers/counters.h"

#include "consumers/numeric.h"
#include "schemas/counters.h"
#include "schemas/sql.h"

#include <algorithm>
#include <map>
#include <string>
#include <tuple>
#include <unordered_map>
#include <utility>
#include <vector>

namespace tidemark::consumers {

namespace {

using schemas::Timestamp;

constexpr pg::Statement kAddTotals{"counters_add_totals", R"(
insert into totals as t (key, value, count, updated_at)
select * from unnest($1::text[], $2::numeric[], $3::bigint[], $4::timestamptz[])
on conflict (key) do update set
    value = t.value + excluded.value,
    count = t.count + excluded.count,
    updated_at = greatest(t.updated_at, excluded.updated_at))"};

constexpr pg::Statement kAddWindows{"counters_add_windows", R"(
insert into windows as w (key, window_start, partition, value, count, min_offset, max_offset)
select * from unnest($1::text[], $2::timestamptz[], $3::integer[], $4::numeric[], $5::bigint[], $6::bigint[], $7::bigint[])
on conflict (key, window_start, partition) do update set
    value = w.value + excluded.value,
    count = w.count + excluded.count,
    min_offset = least(w.min_offset, excluded.min_offset),
    max_offset = greatest(w.max_offset, excluded.max_offset))"};

// Nobody adds to what is dropped, so that a row stays where it was found.
constexpr pg::Statement kDropWindows{"counters_drop_windows", R"(
delete from windows where ctid = any(array(
    select old.ctid
    from unnest($1::integer[]) as p (partition)
    cross join lateral (
        select w.ctid from windows w
        where w.partition = p.partition and w.window_start < $2
        order by w.window_start limit $3) old
    limit $3)))"};

struct Sum {
    Int128 value = 0;
    std::int64_t count = 0;
};

struct Window {
    Timestamp start{};
    std::int32_t partition = 0;
    Sum sum;
    std::int64_t min_offset = 0;
    std::int64_t max_offset = 0;
};

struct Counter {
    Sum total;
    Timestamp updated_at{};
    std::vector<Window> windows;  // few: a flush spans one or two windows of a key, and late events a handful more
};

// Lets the map be asked with a view, so that only a new key costs a string.
struct KeyHash {
    using is_transparent = void;
    std::size_t operator()(std::string_view key) const noexcept { return std::hash<std::string_view>{}(key); }
};

class CounterFold final : public Fold {
public:
    std::optional<Parked> read(const LoggedEvent& event, std::string_view& entity) override {
        auto decoded = schemas::counters::read(event.event.data, schemas::json::Unknown::ignore, "/data");
        if (!decoded) return Parked{reason::kInvalidData, describe(decoded.violations())};
        read_ = *decoded;
        position_ = event.position;
        window_ = schemas::window_start(event.occurred_at);
        log_time_ = event.log_time;
        entity = read_.key;
        return std::nullopt;
    }

    void keep() override {
        auto found = counters_.find(read_.key);
        if (found == counters_.end()) found = counters_.emplace(std::string(read_.key), Counter{}).first;
        auto& counter = found->second;
        counter.total.value += read_.value;
        counter.total.count += 1;
        counter.updated_at = std::max(counter.updated_at, log_time_);
        auto window = std::find_if(counter.windows.rbegin(), counter.windows.rend(), [this](const Window& w) {
            return w.start == window_ && w.partition == position_.partition;
        });
        if (window == counter.windows.rend()) {
            counter.windows.push_back({window_, position_.partition, {}, position_.offset, position_.offset});
            window = counter.windows.rbegin();
        }
        window->sum.value += read_.value;
        window->sum.count += 1;
        window->min_offset = std::min(window->min_offset, position_.offset);
        window->max_offset = std::max(window->max_offset, position_.offset);
    }

    Written write(pg::Transaction& tx, const WindowsFrom& windows_from) override {
        if (counters_.empty()) return {};
        std::vector<std::pair<std::string_view, Counter*>> sorted;
        sorted.reserve(counters_.size());
        for (auto& [key, counter] : counters_)
            sorted.emplace_back(key, &counter);
        std::sort(sorted.begin(), sorted.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
        for (const auto& [key, counter] : sorted)
            add_digests(key, *counter);
        write_totals(tx, sorted);
        Written written{sorted.size(), 0};
        write_windows(tx, sorted, windows_from, written);
        return written;
    }

    [[nodiscard]] Digest digest(std::int32_t partition) const override {
        const auto found = digests_.find(partition);
        return found == digests_.end() ? 0 : found->second;
    }
    [[nodiscard]] std::size_t entities() const noexcept override { return counters_.size(); }

private:
    using Sorted = std::vector<std::pair<std::string_view, Counter*>>;

    // Totals are of all partitions; which one a change came from only the windows say.
    void add_digests(std::string_view key, const Counter& counter) {
        const auto weights = weights_of(key);
        for (const auto& window : counter.windows) {
            digests_[window.partition] += weights.first * static_cast<Digest>(window.sum.value) +
                                          weights.second * static_cast<Digest>(window.sum.count);
        }
    }

    static void write_totals(pg::Transaction& tx, const Sorted& sorted) {
        pg::Array keys;
        pg::Array values;
        pg::Array counts;
        pg::Array updated;
        for (const auto& [key, counter] : sorted) {
            keys.add(key);
            values.add_numeric(to_decimal(counter->total.value));
            counts.add(counter->total.count);
            updated.add(counter->updated_at);
        }
        pg::Params params;
        params.add(std::move(keys)).add(std::move(values)).add(std::move(counts)).add(std::move(updated));
        tx.run(kAddTotals, params);
    }

    static void write_windows(pg::Transaction& tx, const Sorted& sorted, const WindowsFrom& windows_from,
                              Written& written) {
        pg::Array keys;
        pg::Array starts;
        pg::Array partitions;
        pg::Array values;
        pg::Array counts;
        pg::Array mins;
        pg::Array maxs;
        for (const auto& [key, counter] : sorted) {
            std::sort(counter->windows.begin(), counter->windows.end(), [](const Window& a, const Window& b) {
                return std::tie(a.start, a.partition) < std::tie(b.start, b.partition);
            });
            for (const auto& window : counter->windows) {
                if (windows_from.has_dropped(window.partition, window.start)) {
                    written.late += window.sum.count;
                    continue;
                }
                keys.add(key);
                starts.add(window.start);
                partitions.add(std::int64_t{window.partition});
                values.add_numeric(to_decimal(window.sum.value));
                counts.add(window.sum.count);
                mins.add(window.min_offset);
                maxs.add(window.max_offset);
            }
        }
        if (keys.size() == 0) return;
        written.rows += keys.size();
        pg::Params params;
        params.add(std::move(keys)).add(std::move(starts)).add(std::move(partitions)).add(std::move(values));
        params.add(std::move(counts)).add(std::move(mins)).add(std::move(maxs));
        tx.run(kAddWindows, params);
    }

    std::unordered_map<std::string, Counter, KeyHash, std::equal_to<>> counters_;
    std::map<std::int32_t, Digest> digests_;
    schemas::counters::Incremented read_;
    schemas::Position position_;
    Timestamp window_{};
    Timestamp log_time_{};
};

}  // namespace

const schemas::Stream& CounterProjection::stream() const noexcept {
    return *schemas::find_stream("counters");
}

std::string_view CounterProjection::sql() const {
    return schemas::sql("counters");
}

std::unique_ptr<Fold> CounterProjection::begin() const {
    return std::make_unique<CounterFold>();
}

const pg::Statement* CounterProjection::drop_windows() const noexcept {
    return &kDropWindows;
}

}  // namespace tidemark::consumers
