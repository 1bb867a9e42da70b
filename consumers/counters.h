#pragma once

#include "consumers/projection.h"

namespace tidemark::consumers {

/// counter.incremented -> totals and 10-second windows by key. Sums are kept in 128 bits here and as numeric in the
/// tables, so neither order nor batch size can overflow them.
class CounterProjection final : public Projection {
public:
    [[nodiscard]] const schemas::Stream& stream() const noexcept override;
    [[nodiscard]] std::string fingerprint() const override { return "v4"; }
    [[nodiscard]] std::string_view sql() const override;
    [[nodiscard]] bool needs_home_partition() const noexcept override { return false; }
    [[nodiscard]] std::unique_ptr<Fold> begin() const override;
    [[nodiscard]] std::unique_ptr<Ledger> ledger() const override;
    [[nodiscard]] const pg::Statement* drop_windows() const noexcept override;
};

}  // namespace tidemark::consumers
