#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <streambuf>
#include <utility>

namespace tidemark::base {

/// What a descriptor says, until `stopped` says so: reading is then an error, also while nothing comes (a pipe whose
/// writer is silent), for the end was not seen. A stream over it is bad() then, as after any other failure to read. The
/// descriptor stays the caller's. One thread.
class Input final : public std::streambuf {
public:
    Input(int descriptor, std::function<bool()> stopped) : descriptor_(descriptor), stopped_(std::move(stopped)) {}

    /// Read so far.
    [[nodiscard]] std::int64_t bytes() const noexcept { return bytes_; }

protected:
    int_type underflow() override;

private:
    std::int64_t bytes_ = 0;
    int descriptor_;
    std::function<bool()> stopped_;
    std::array<char, 65'536> buffer_{};
};

}  // namespace tidemark::base
