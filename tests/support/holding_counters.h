#pragma once

#include "consumers/counters.h"
#include "consumers/ledger.h"

#include <array>
#include <memory>
#include <span>
#include <string>
#include <string_view>

namespace tidemark::tests {

/// The counters, with dead letters that hold their key when nobody can tell what they say, and others that do not.
class HoldingCounters final : public consumers::Projection {
public:
    [[nodiscard]] const schemas::Stream& stream() const noexcept override { return counters_.stream(); }
    [[nodiscard]] std::string fingerprint() const override { return "holding"; }
    [[nodiscard]] std::string_view sql() const override { return counters_.sql(); }
    [[nodiscard]] bool needs_home_partition() const noexcept override { return counters_.needs_home_partition(); }
    [[nodiscard]] std::unique_ptr<consumers::Fold> begin() const override { return counters_.begin(); }
    [[nodiscard]] std::unique_ptr<consumers::Ledger> ledger() const override { return counters_.ledger(); }
    [[nodiscard]] const pg::Statement* drop_windows() const noexcept override { return counters_.drop_windows(); }
    [[nodiscard]] std::span<const std::string_view> holding_reasons() const noexcept override { return kReasons; }

private:
    static constexpr std::array<std::string_view, 5> kReasons{
        consumers::reason::kTombstone, consumers::reason::kMalformed, consumers::reason::kUnknownType,
        consumers::reason::kInvalidData, consumers::reason::kRefusedByDatabase};
    consumers::CounterProjection counters_;
};

}  // namespace tidemark::tests
