#pragma once

#include <chrono>
#include <cstdint>

namespace tidemark::base {

/// Exponential delays with full jitter in their upper half: 1/2..1 of min(cap, first * 2^n). Deterministic by seed.
class Backoff {
public:
    Backoff(std::chrono::milliseconds first, std::chrono::milliseconds cap, std::uint64_t seed) noexcept;
    /// How long to wait before the next attempt.
    std::chrono::milliseconds next() noexcept;
    /// After a success: begins with `first` again.
    void reset() noexcept { attempt_ = 0; }

private:
    std::chrono::milliseconds first_;
    std::chrono::milliseconds cap_;
    std::uint64_t random_;
    unsigned attempt_ = 0;
};

}  // namespace tidemark::base
