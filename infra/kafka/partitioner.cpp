#include "infra/kafka/partitioner.h"

#include <cassert>

namespace tidemark::kafka {

namespace {

// MurmurHash2 by Austin Appleby, 32 bits, with the seed of the Java clients.
std::uint32_t murmur2(std::string_view data) noexcept {
    constexpr std::uint32_t kSeed = 0x9747b28c;
    constexpr std::uint32_t kMultiplier = 0x5bd1e995;
    constexpr int kShift = 24;

    const auto byte = [data](std::size_t n) { return std::uint32_t{static_cast<unsigned char>(data[n])}; };
    std::uint32_t hash = kSeed ^ static_cast<std::uint32_t>(data.size());
    const std::size_t whole = data.size() & ~std::size_t{3};
    for (std::size_t n = 0; n < whole; n += 4) {
        std::uint32_t word = byte(n) | byte(n + 1) << 8 | byte(n + 2) << 16 | byte(n + 3) << 24;
        word *= kMultiplier;
        word ^= word >> kShift;
        word *= kMultiplier;
        hash *= kMultiplier;
        hash ^= word;
    }
    for (std::size_t n = data.size(); n > whole; --n)
        hash ^= byte(n - 1) << (8 * (n - 1 - whole));
    if (whole != data.size()) hash *= kMultiplier;
    hash ^= hash >> 13;
    hash *= kMultiplier;
    hash ^= hash >> 15;
    return hash;
}

}  // namespace

std::int32_t murmur2_partition(std::string_view key, std::int32_t partitions) noexcept {
    assert(partitions > 0);
    // Java takes the absolute value by clearing the sign.
    return static_cast<std::int32_t>((murmur2(key) & 0x7fffffffU) % static_cast<std::uint32_t>(partitions));
}

}  // namespace tidemark::kafka
