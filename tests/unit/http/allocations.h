#pragma once

#include <cstdint>

namespace tidemark::tests {

/// How often this program has called operator new so far, on all threads.
std::uint64_t allocations() noexcept;

}  // namespace tidemark::tests
