#include "consumers/counters.h"
#include "consumers/ledger.h"
#include "schemas/counters.h"

namespace tidemark::consumers {

namespace {

using Kind = LedgerTable::Kind;

class CounterLedger final : public Ledger {
public:
    [[nodiscard]] std::vector<LedgerTable> tables() const override {
        return {{"totals",
                 {{"key", Kind::text}},
                 {{"value", Kind::number}, {"count", Kind::number}, {"updated_at", Kind::instant}}},
                {"windows",
                 {{"key", Kind::text}, {"window_start", Kind::instant}, {"partition", Kind::number}},
                 {{"value", Kind::number},
                  {"count", Kind::number},
                  {"min_offset", Kind::number},
                  {"max_offset", Kind::number}}}};
    }

    bool read(const LoggedEvent& event, std::string_view& entity) override {
        const auto decoded = schemas::counters::read(event.event.data, schemas::json::Unknown::ignore);
        if (!decoded) return false;
        key_ = std::string(decoded->key);
        value_ = decoded->value;
        position_ = event.position;
        occurred_at_ = microseconds(event.occurred_at);
        log_time_ = microseconds(event.log_time);
        entity = key_;
        return true;
    }

    void enter(LedgerRows& rows) override {
        if (auto* total = rows.at(0, rows.key_of(key_), position_)) {
            total->add(0, value_);
            total->add(1, 1);
            total->most(2, log_time_);
        }
        const auto start = window_of(occurred_at_);
        if (!rows.keeps_window(start)) return;
        if (auto* window = rows.at(1, rows.key_of(key_, start, position_.partition), position_)) {
            window->add(0, value_);
            window->add(1, 1);
            window->least(2, position_.offset);
            window->most(3, position_.offset);
        }
    }

    [[nodiscard]] Digest digest() const override {
        const auto weights = weights_of(key_);
        return weights.first * static_cast<Digest>(value_) + weights.second;
    }

private:
    std::string key_;
    std::int64_t value_ = 0;
    schemas::Position position_;
    std::int64_t occurred_at_ = 0;
    std::int64_t log_time_ = 0;
};

}  // namespace

std::unique_ptr<Ledger> CounterProjection::ledger() const {
    return std::make_unique<CounterLedger>();
}

}  // namespace tidemark::consumers
