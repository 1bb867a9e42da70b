#include "consumers/ledger.h"
#include "consumers/vehicles.h"
#include "schemas/vehicles.h"

namespace tidemark::consumers {

namespace {

using Kind = LedgerTable::Kind;
namespace events = schemas::vehicles;

enum : std::size_t { kHistory, kVehicles, kTransitions };

class VehicleLedger final : public Ledger {
public:
    [[nodiscard]] std::vector<LedgerTable> tables() const override {
        return {{"history",
                 {{"vehicle_id", Kind::number},
                  {"kind", Kind::text},
                  {"occurred_at", Kind::instant},
                  {"offset", Kind::number}},
                 {{"partition", Kind::number},
                  {"make", Kind::text},
                  {"model", Kind::text},
                  {"state", Kind::text},
                  {"recorded_at", Kind::instant}}},
                {"vehicles",
                 {{"id", Kind::number}},
                 {{"make", Kind::text},
                  {"model", Kind::text},
                  {"registered_at", Kind::instant},
                  {"registered_offset", Kind::number},
                  {"state", Kind::text},
                  {"occurred_at", Kind::instant},
                  {"state_offset", Kind::number},
                  {"applied_at", Kind::instant}}},
                {"transitions",
                 {{"window_start", Kind::instant}, {"state", Kind::text}, {"partition", Kind::number}},
                 {{"count", Kind::number}, {"min_offset", Kind::number}, {"max_offset", Kind::number}}}};
    }

    bool read(const LoggedEvent& event, std::string_view& entity) override {
        is_registration_ = event.event.type == events::kRegistered;
        if (is_registration_) {
            const auto decoded = events::read_registered(event.event.data, schemas::json::Unknown::ignore);
            if (!decoded) return false;
            id_ = decoded->id;
            make_ = std::string(decoded->make);
            model_ = std::string(decoded->model);
        } else {
            const auto decoded = events::read_state_changed(event.event.data, schemas::json::Unknown::ignore);
            if (!decoded) return false;
            id_ = decoded->id;
            state_ = std::string(events::to_string(decoded->state));
        }
        position_ = event.position;
        occurred_at_ = microseconds(event.occurred_at);
        log_time_ = microseconds(event.log_time);
        entity = entity_ = std::to_string(id_);
        return true;
    }

    void enter(LedgerRows& rows) override {
        const std::string kind = is_registration_ ? "registered" : "state_changed";
        if (auto* row = rows.at(kHistory, rows.key_of(id_, kind, occurred_at_, position_.offset), position_)) {
            row->columns[0] = Int128{position_.partition};
            if (is_registration_) {
                row->columns[1] = make_;
                row->columns[2] = model_;
            } else {
                row->columns[3] = state_;
            }
            row->columns[4] = Int128{log_time_};
        }
        if (auto* row = rows.at(kVehicles, rows.key_of(id_), position_)) {
            // Offsets rise, so of two that happened at the same time the later one in the log is met later.
            auto& latest = row->columns[is_registration_ ? 2 : 5];
            if (!std::holds_alternative<Int128>(latest) || std::get<Int128>(latest) <= occurred_at_) {
                if (is_registration_) {
                    row->columns[0] = make_;
                    row->columns[1] = model_;
                    row->columns[3] = Int128{position_.offset};
                } else {
                    row->columns[4] = state_;
                    row->columns[6] = Int128{position_.offset};
                }
                latest = Int128{occurred_at_};
            }
            row->most(7, log_time_);
        }
        if (is_registration_) return;
        const auto start = window_of(occurred_at_);
        if (!rows.keeps_window(start)) return;
        if (auto* row = rows.at(kTransitions, rows.key_of(start, state_, position_.partition), position_)) {
            row->add(0, 1);
            row->least(1, position_.offset);
            row->most(2, position_.offset);
        }
    }

    [[nodiscard]] Digest digest() const override {
        std::string line;
        for (const auto number : {id_, occurred_at_, position_.offset, std::int64_t{position_.partition}, log_time_})
            line += std::to_string(number) + ' ';
        line += is_registration_ ? std::to_string(make_.size()) + ' ' + make_ + model_ : state_;
        return weights_of(line).first;
    }

private:
    bool is_registration_ = false;
    std::int64_t id_ = 0;
    std::string entity_;
    std::string make_;
    std::string model_;
    std::string state_;
    schemas::Position position_;
    std::int64_t occurred_at_ = 0;
    std::int64_t log_time_ = 0;
};

}  // namespace

std::unique_ptr<Ledger> VehicleProjection::ledger() const {
    return std::make_unique<VehicleLedger>();
}

}  // namespace tidemark::consumers
