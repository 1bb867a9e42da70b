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
/// Which generation stands beside the live one, when no number was given.
enum class Choice : std::uint8_t {
    candidate,             ///< the only candidate
    candidate_or_retired,  ///< it, or what was live before when there is none
    retired,               ///< what was live before
};
/// The live generation and the one chosen, or that of number `wanted` unless that is 0. Throws Refused when there is
/// none, when several candidates leave open which, or when it is a scratch or still being built.
Pair choose_pair(pg::Connection& connection, const Projection& projection, Choice choice, std::int64_t wanted);
/// Throws Refused when it is a scratch, which is of no log and so has nothing in common with any other.
void refuse_scratch(const Generation& generation);
/// Throws Refused when no consumer tells, within `patience`, that it folds the generation.
void check_is_folded(pg::Connection& connection, const Generation& generation, std::chrono::milliseconds patience);

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
