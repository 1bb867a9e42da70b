#include "infra/base/backoff.h"

#include <algorithm>

namespace tidemark::base {

namespace {

/// Splitmix64: one multiplication chain per number, the same sequence for the same seed everywhere.
std::uint64_t splitmix64(std::uint64_t& state) noexcept {
    state += 0x9e3779b97f4a7c15U;
    std::uint64_t mixed = state;
    mixed = (mixed ^ (mixed >> 30U)) * 0xbf58476d1ce4e5b9U;
    mixed = (mixed ^ (mixed >> 27U)) * 0x94d049bb133111ebU;
    return mixed ^ (mixed >> 31U);
}

}  // namespace

Backoff::Backoff(std::chrono::milliseconds first, std::chrono::milliseconds cap, std::uint64_t seed) noexcept
    : first_(std::max(first, std::chrono::milliseconds{1})),
      cap_(std::max(cap, std::chrono::milliseconds{0})),
      random_(seed) {}

std::chrono::milliseconds Backoff::next() noexcept {
    // Doubling step by step instead of shifting by the attempt: nothing can overflow on the way to the cap.
    auto whole = std::min(first_, cap_);
    for (unsigned i = 0; i < attempt_ && whole < cap_; ++i) {
        whole = whole > cap_ / 2 ? cap_ : whole * 2;
    }
    if (whole < cap_) ++attempt_;
    const auto lower = whole - whole / 2;
    const auto jitter = static_cast<std::uint64_t>((whole - lower).count());
    return lower + std::chrono::milliseconds{static_cast<std::int64_t>(splitmix64(random_) % (jitter + 1))};
}

}  // namespace tidemark::base
