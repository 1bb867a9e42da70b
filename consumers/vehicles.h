#pragma once

#include "consumers/projection.h"

namespace tidemark::consumers {

/// vehicle.registered and vehicle.state_changed -> history by event time, current state, state changes by 10-second
/// window.
class VehicleProjection final : public Projection {
public:
    [[nodiscard]] const schemas::Stream& stream() const noexcept override;
    [[nodiscard]] std::string fingerprint() const override { return "v4"; }
    [[nodiscard]] std::string_view sql() const override;
    [[nodiscard]] bool needs_home_partition() const noexcept override { return true; }
    [[nodiscard]] std::unique_ptr<Fold> begin() const override;
    [[nodiscard]] std::unique_ptr<Ledger> ledger() const override;
    [[nodiscard]] const pg::Statement* drop_windows() const noexcept override;
};

}  // namespace tidemark::consumers
