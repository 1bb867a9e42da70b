// The consumer as a later version might have it. Its counters leave out increments of zero, refuse those over a
// million and keep the largest, so its fold, its tables and its fingerprint are others. Linked with the program's own
// main, it stands in for the registry of the library.

#include "consumers/counters.h"
#include "consumers/ledger.h"
#include "consumers/projections.h"
#include "consumers/vehicles.h"
#include "schemas/counters.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace tidemark::consumers {

namespace {

constexpr std::int64_t kMost = 1'000'000;

constexpr std::string_view kMore = R"(
alter table totals add column largest bigint;
create view api_counter_extremes as select key, largest from totals;
)";

constexpr pg::Statement kKeepLargest{"next_keep_largest", R"(
update totals t set largest = greatest(t.largest, w.largest)
from unnest($1::text[], $2::bigint[]) as w (key, largest)
where t.key = w.key)"};

class NextFold final : public Fold {
public:
    explicit NextFold(std::unique_ptr<Fold> fold) : fold_(std::move(fold)) {}

    std::optional<Parked> read(const LoggedEvent& event, std::string_view& entity) override {
        if (auto parked = fold_->read(event, entity)) return parked;
        const auto decoded = schemas::counters::read(event.event.data, schemas::json::Unknown::ignore);
        key_ = std::string(decoded->key);
        value_ = decoded->value;
        if (value_ > kMost) return Parked{reason::kInvalidData, "/data/value: is over a million"};
        return std::nullopt;
    }
    void keep() override {
        if (value_ == 0) return;
        fold_->keep();
        const auto [largest, is_new] = largest_.try_emplace(key_, value_);
        if (!is_new) largest->second = std::max(largest->second, value_);
    }
    Written write(pg::Transaction& tx, const WindowsFrom& windows_from) override {
        const auto written = fold_->write(tx, windows_from);
        if (largest_.empty()) return written;
        pg::Array keys;
        pg::Array values;
        for (const auto& [key, value] : largest_) {
            keys.add(std::string_view(key));
            values.add(value);
        }
        pg::Params params;
        params.add(std::move(keys)).add(std::move(values));
        tx.run(kKeepLargest, params);
        return written;
    }
    [[nodiscard]] Digest digest(std::int32_t partition) const override { return fold_->digest(partition); }
    [[nodiscard]] std::size_t entities() const noexcept override { return fold_->entities(); }

private:
    std::unique_ptr<Fold> fold_;
    std::map<std::string, std::int64_t> largest_;
    std::string key_;
    std::int64_t value_ = 0;
};

class NextLedger final : public Ledger {
public:
    explicit NextLedger(std::unique_ptr<Ledger> ledger)
        : ledger_(std::move(ledger)), largest_(ledger_->tables().front().columns.size()) {}

    [[nodiscard]] std::vector<LedgerTable> tables() const override {
        auto all = ledger_->tables();
        all.front().columns.push_back({"largest", LedgerTable::Kind::number});
        return all;
    }
    bool read(const LoggedEvent& event, std::string_view& entity) override {
        if (!ledger_->read(event, entity)) return false;
        const auto decoded = schemas::counters::read(event.event.data, schemas::json::Unknown::ignore);
        key_ = std::string(decoded->key);
        value_ = decoded->value;
        position_ = event.position;
        return value_ <= kMost;
    }
    void enter(LedgerRows& rows) override {
        if (value_ == 0) return;
        ledger_->enter(rows);
        if (auto* total = rows.at(0, rows.key_of(key_), position_)) total->most(largest_, value_);
    }
    [[nodiscard]] Digest digest() const override { return value_ == 0 ? 0 : ledger_->digest(); }

private:
    std::unique_ptr<Ledger> ledger_;
    std::size_t largest_;  // which column of the totals
    std::string key_;
    std::int64_t value_ = 0;
    schemas::Position position_;
};

class NextCounters final : public Projection {
public:
    [[nodiscard]] const schemas::Stream& stream() const noexcept override { return now_.stream(); }
    [[nodiscard]] std::string fingerprint() const override { return "next"; }
    [[nodiscard]] std::string_view sql() const override { return sql_; }
    [[nodiscard]] bool needs_home_partition() const noexcept override { return now_.needs_home_partition(); }
    [[nodiscard]] std::unique_ptr<Fold> begin() const override { return std::make_unique<NextFold>(now_.begin()); }
    [[nodiscard]] std::unique_ptr<Ledger> ledger() const override {
        return std::make_unique<NextLedger>(now_.ledger());
    }
    [[nodiscard]] const pg::Statement* drop_windows() const noexcept override { return now_.drop_windows(); }

private:
    CounterProjection now_;
    std::string sql_ = std::string(now_.sql()) + std::string(kMore);
};

}  // namespace

std::span<const Projection* const> projections() {
    static const NextCounters counters;
    static const VehicleProjection vehicles;
    static const std::array<const Projection*, 2> all{&counters, &vehicles};
    return all;
}

}  // namespace tidemark::consumers
