#pragma once

#include "consumers/generation.h"

#include <chrono>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace tidemark::consumers {

/// The live generation and another that is to take its place.
struct Pair {
    Generation live;
    Generation next;
};
/// The candidate of a stream. Throws Refused when there is none, when it is still being built, or when no consumer
/// tells, within `patience`, that it folds it.
Pair find_candidate(pg::Connection& connection, const Projection& projection, std::chrono::milliseconds patience);
/// The generation that was live before. Throws Refused when there is none, or likewise when nobody folds it.
Pair find_previous(pg::Connection& connection, const Projection& projection, std::chrono::milliseconds patience);

struct SwapOptions {
    std::string owner_dsn;
    /// What becomes of the one that is live now: `retired`, which a rollback goes back to, or `candidate` again.
    Role leaving = Role::retired;
    std::chrono::milliseconds timeout{30'000};
    std::function<bool()> cancelled = [] { return false; };
};

/// Makes `next` the live generation, in one transaction in which both stand at the same offsets: readers see the one or
/// the other and never go back, a flush that is under way ends before it or matches no row after it. Returns these
/// offsets, by partition. Throws Standstill::Late, Refused, pg::Error.
std::vector<std::int64_t> swap_generations(const SwapOptions& options, const Pair& pair);

/// Removes a generation that is not live: its tables, its rows, and with them the replay that builds it. Throws
/// Refused, pg::Error.
void drop_generation(const std::string& owner_dsn, const Projection& projection, int generation);

}  // namespace tidemark::consumers
