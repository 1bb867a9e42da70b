#pragma once

#include <stdexcept>
#include <string>

namespace tidemark::kafka {

/// The broker or the client library failed. `what()` says what failed, on what, and what to change.
class Error : public std::runtime_error {
public:
    Error(const std::string& what, int code, bool retryable, bool fatal)
        : std::runtime_error(what), code_(code), retryable_(retryable), fatal_(fatal) {}

    [[nodiscard]] int code() const noexcept { return code_; }  ///< the client library's error code
    [[nodiscard]] bool is_retryable() const noexcept { return retryable_; }
    /// The handle is of no more use: e.g. another member took this one's group instance id.
    [[nodiscard]] bool is_fatal() const noexcept { return fatal_; }

private:
    int code_;
    bool retryable_;
    bool fatal_;
};

}  // namespace tidemark::kafka
