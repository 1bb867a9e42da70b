#pragma once

#include "infra/base/clock.h"

#include <atomic>
#include <chrono>

namespace tidemark::tests {

/// Time that moves only when told to. Any thread.
class FakeClock final : public base::Clock {
public:
    [[nodiscard]] base::Timestamp now() const noexcept override {
        return base::Timestamp(std::chrono::microseconds(now_.load()));
    }
    [[nodiscard]] std::chrono::steady_clock::time_point steady() const noexcept override {
        return std::chrono::steady_clock::time_point(std::chrono::microseconds(steady_.load()));
    }

    void advance(std::chrono::microseconds by) noexcept {
        now_ += by.count();
        steady_ += by.count();
    }
    /// The wall clock alone: somebody set it.
    void jump(std::chrono::microseconds by) noexcept { now_ += by.count(); }

private:
    std::atomic<std::int64_t> now_{1'700'000'000'000'000};  // 2023-11-14T22:13:20Z
    std::atomic<std::int64_t> steady_{1'000'000'000};       // anything but zero
};

}  // namespace tidemark::tests
