#include "tests/unit/consumers/simulation.h"

#include <doctest/doctest.h>

#include <array>
#include <cstdint>
#include <sstream>
#include <string>

using tidemark::tests::kMetKinds;
using tidemark::tests::Met;
using tidemark::tests::Mutation;
using tidemark::tests::mutations;
using tidemark::tests::simulate;

namespace {

// A second or three of either build. `simulate` runs more.
#ifdef __OPTIMIZE__
constexpr std::uint64_t kSeeds = 30'000;
#else
constexpr std::uint64_t kSeeds = 3'000;
#endif

// Each mutation is caught long before; the tightest needs some hundreds.
constexpr std::uint64_t kMutationSeeds = 3'000;

}  // namespace

TEST_CASE("whatever fails and whenever, each record counts exactly once and everything is caught up in the end") {
    std::array<std::uint64_t, kMetKinds> met{};
    for (std::uint64_t seed = 1; seed <= kSeeds; ++seed) {
        const auto run = simulate(seed);
        REQUIRE_MESSAGE(!run.violation, *run.violation << "\nagain: simulate --seeds " << seed << " --trace");
        for (std::size_t kind = 0; kind < kMetKinds; ++kind)
            met[kind] += run.met[kind];
    }
    for (std::size_t kind = 0; kind < kMetKinds; ++kind) {
        INFO("met at least once: " << to_string(static_cast<Met>(kind)));
        CHECK(met[kind] > 0);
    }
}

TEST_CASE("a run is a function of its seed") {
    for (std::uint64_t seed = 1; seed <= 20; ++seed) {
        std::ostringstream first;
        std::ostringstream second;
        const auto run = simulate(seed, Mutation::none, &first);
        const auto again = simulate(seed, Mutation::none, &second);
        CHECK(run.steps == again.steps);
        CHECK(run.met == again.met);
        CHECK(first.str() == second.str());
        CHECK_FALSE(first.str().empty());
    }
}

TEST_CASE("each rule that is broken on purpose is caught") {
    CHECK(mutations().size() >= 8);
    for (const auto& known : mutations()) {
        std::string caught;
        for (std::uint64_t seed = 1; seed <= kMutationSeeds && caught.empty(); ++seed)
            caught = simulate(seed, known.mutation).violation.value_or("");
        INFO("mutation " << known.name);
        CHECK_FALSE(caught.empty());
    }
}
