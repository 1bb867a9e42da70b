#pragma once

#include "infra/kafka/record.h"

#include <chrono>
#include <cstdint>
#include <string_view>

namespace tidemark::tests {

/// A record whose bytes are literals, so that nothing has to own them.
inline kafka::Record record_at(std::int32_t partition, std::int64_t offset, std::string_view value = "value",
                               base::Timestamp append_time = {}) {
    kafka::Record record;
    record.partition = partition;
    record.offset = offset;
    record.append_time = append_time;
    record.key = "key";
    record.value = value;
    return record;
}

}  // namespace tidemark::tests
