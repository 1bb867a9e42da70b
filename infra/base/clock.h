#pragma once

#include <chrono>

namespace tidemark::base {

/// Microseconds since the Unix epoch, UTC. The same type as the events' own instants.
using Timestamp = std::chrono::sys_time<std::chrono::microseconds>;

/// The two clocks a program may ask; a port, so that tests move time by hand. Any thread.
class Clock {
public:
    virtual ~Clock() = default;
    /// Wall clock: for stamping events and for comparing with the broker's append times. May jump.
    [[nodiscard]] virtual Timestamp now() const noexcept = 0;
    /// Never steps back: for every duration and deadline.
    [[nodiscard]] virtual std::chrono::steady_clock::time_point steady() const noexcept = 0;
};

class SystemClock final : public Clock {
public:
    [[nodiscard]] Timestamp now() const noexcept override {
        return std::chrono::time_point_cast<std::chrono::microseconds>(std::chrono::system_clock::now());
    }
    [[nodiscard]] std::chrono::steady_clock::time_point steady() const noexcept override {
        return std::chrono::steady_clock::now();
    }
};

}  // namespace tidemark::base
