#pragma once

#include <cstdint>
#include <string_view>

namespace tidemark::kafka {

/// The partition that the Java clients' default partitioner, and librdkafka's murmur2_random, give a non-null key.
std::int32_t murmur2_partition(std::string_view key, std::int32_t partitions) noexcept;

}  // namespace tidemark::kafka
