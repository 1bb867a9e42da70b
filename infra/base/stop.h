#pragma once

#include <chrono>
#include <condition_variable>
#include <mutex>

namespace tidemark::base {

/// Tells a thread to end, and lets it wait meanwhile. Any thread.
class Stop {
public:
    void request() noexcept {
        {
            const std::lock_guard lock(mutex_);
            requested_ = true;
        }
        changed_.notify_all();
    }
    [[nodiscard]] bool requested() const noexcept {
        const std::lock_guard lock(mutex_);
        return requested_;
    }
    /// Waits at most `limit`; returns requested().
    bool wait_for(std::chrono::nanoseconds limit) noexcept {
        std::unique_lock lock(mutex_);
        return changed_.wait_for(lock, limit, [this] { return requested_; });
    }

private:
    mutable std::mutex mutex_;  // guards requested_
    std::condition_variable changed_;
    bool requested_ = false;
};

}  // namespace tidemark::base
