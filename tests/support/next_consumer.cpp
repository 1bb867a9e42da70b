// The consumer as a later version might have it: its counters leave out increments of zero, so the tables are others
// and the fingerprint too. Linked with the program's own main, it stands in for the registry of the library.

#include "consumers/counters.h"
#include "consumers/ledger.h"
#include "consumers/projections.h"
#include "consumers/vehicles.h"

#include <array>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace tidemark::consumers {

namespace {

class WithoutZeros final : public Fold {
public:
    explicit WithoutZeros(std::unique_ptr<Fold> fold) : fold_(std::move(fold)) {}

    std::optional<Parked> read(const LoggedEvent& event, std::string_view& entity) override {
        auto parked = fold_->read(event, entity);
        if (!parked) is_zero_ = event.event.data.find("value").text() == "0";
        return parked;
    }
    void keep() override {
        if (!is_zero_) fold_->keep();
    }
    Written write(pg::Transaction& tx, const WindowsFrom& windows_from) override {
        return fold_->write(tx, windows_from);
    }
    [[nodiscard]] Digest digest(std::int32_t partition) const override { return fold_->digest(partition); }
    [[nodiscard]] std::size_t entities() const noexcept override { return fold_->entities(); }

private:
    std::unique_ptr<Fold> fold_;
    bool is_zero_ = false;
};

class LedgerWithoutZeros final : public Ledger {
public:
    explicit LedgerWithoutZeros(std::unique_ptr<Ledger> ledger) : ledger_(std::move(ledger)) {}

    [[nodiscard]] std::vector<LedgerTable> tables() const override { return ledger_->tables(); }
    bool read(const LoggedEvent& event, std::string_view& entity) override {
        is_zero_ = event.event.data && event.event.data.find("value") && event.event.data.find("value").text() == "0";
        return ledger_->read(event, entity);
    }
    void enter(LedgerRows& rows) override {
        if (!is_zero_) ledger_->enter(rows);
    }
    [[nodiscard]] Digest digest() const override { return is_zero_ ? 0 : ledger_->digest(); }

private:
    std::unique_ptr<Ledger> ledger_;
    bool is_zero_ = false;
};

class NextCounters final : public Projection {
public:
    [[nodiscard]] const schemas::Stream& stream() const noexcept override { return now_.stream(); }
    [[nodiscard]] std::string fingerprint() const override { return "next"; }
    [[nodiscard]] std::string_view sql() const noexcept override { return now_.sql(); }
    [[nodiscard]] bool needs_home_partition() const noexcept override { return now_.needs_home_partition(); }
    [[nodiscard]] std::unique_ptr<Fold> begin() const override { return std::make_unique<WithoutZeros>(now_.begin()); }
    [[nodiscard]] std::unique_ptr<Ledger> ledger() const override {
        return std::make_unique<LedgerWithoutZeros>(now_.ledger());
    }
    [[nodiscard]] const pg::Statement* drop_windows() const noexcept override { return now_.drop_windows(); }

private:
    CounterProjection now_;
};

}  // namespace

std::span<const Projection* const> projections() {
    static const NextCounters counters;
    static const VehicleProjection vehicles;
    static const std::array<const Projection*, 2> all{&counters, &vehicles};
    return all;
}

}  // namespace tidemark::consumers
