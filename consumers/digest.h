#pragma once

#include <cstdint>
#include <string_view>

namespace tidemark::consumers {

/// What the tables of a stream add up to, whatever the order: a sum modulo 2^64 with a weight for each entity. Kept by
/// partition in offsets.digest, taken from the tables themselves in the view `audit`, and counted a second time by the
/// auditor.
using Digest = std::uint64_t;

/// Two weights of a text: the first 16 bytes of its SHA-256, each eight as a big-endian number. PostgreSQL computes the
/// same (schemas/sql).
struct Weights {
    Digest first = 0;
    Digest second = 0;
};
Weights weights_of(std::string_view text);

}  // namespace tidemark::consumers
