#pragma once

#include <chrono>

namespace tidemark::base {

/// SIGTERM and SIGINT as a condition. Made first in main, before any thread, so that every thread inherits the blocked
/// mask; a second signal while draining ends the process at once with status 1. One per process.
class Shutdown {
public:
    Shutdown();
    ~Shutdown();
    Shutdown(const Shutdown&) = delete;
    Shutdown& operator=(const Shutdown&) = delete;

    /// Any thread. True from the first signal on.
    [[nodiscard]] bool requested() const noexcept;
    /// Waits for the signal at most `limit`; returns requested(). What interruptible waits and backoffs use.
    bool wait_for(std::chrono::milliseconds limit) const noexcept;

private:
    struct State;
    State* state_;
};

}  // namespace tidemark::base
