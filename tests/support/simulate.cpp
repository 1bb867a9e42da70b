#include "tests/unit/consumers/simulation.h"

#include <charconv>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <iostream>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

namespace {

using tidemark::tests::Mutation;

constexpr const char* kUsage =
    "usage: simulate [--seeds FIRST..LAST] [--mutation NAME] [--trace]\n"
    "Runs the simulation of the consumers once per seed and stops at the first rule broken.\n";

std::optional<std::uint64_t> parse_number(std::string_view text) {
    std::uint64_t number = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
    if (error != std::errc{} || end != text.data() + text.size()) return std::nullopt;
    return number;
}

/// "7" or "7..9", both ends included.
std::optional<std::pair<std::uint64_t, std::uint64_t>> parse_seeds(std::string_view text) {
    const auto dots = text.find("..");
    const auto first = parse_number(text.substr(0, dots));
    const auto last = dots == std::string_view::npos ? first : parse_number(text.substr(dots + 2));
    if (!first || !last || *first > *last) return std::nullopt;
    return std::pair(*first, *last);
}

std::optional<Mutation> parse_mutation(std::string_view name) {
    for (const auto& known : tidemark::tests::mutations()) {
        if (known.name == name) return known.mutation;
    }
    return std::nullopt;
}

int refuse(std::string_view why) {
    std::cerr << "simulate: " << why << '\n' << kUsage << "mutations:";
    for (const auto& known : tidemark::tests::mutations())
        std::cerr << ' ' << known.name;
    std::cerr << '\n';
    return 2;
}

}  // namespace

int main(int argc, char** argv) {
    std::pair<std::uint64_t, std::uint64_t> seeds{1, 100'000};
    auto mutation = Mutation::none;
    std::string_view mutation_name;
    bool trace = false;
    for (int i = 1; i < argc; ++i) {
        const std::string_view option = argv[i];
        if (option == "--trace") {
            trace = true;
        } else if (option == "--seeds" && i + 1 < argc) {
            const auto parsed = parse_seeds(argv[++i]);
            if (!parsed) return refuse("--seeds takes a number or FIRST..LAST");
            seeds = *parsed;
        } else if (option == "--mutation" && i + 1 < argc) {
            mutation_name = argv[++i];
            const auto parsed = parse_mutation(mutation_name);
            if (!parsed) return refuse("there is no such mutation");
            mutation = *parsed;
        } else {
            return refuse("unknown option or missing value");
        }
    }
    const auto began = std::chrono::steady_clock::now();
    tidemark::tests::Run sum;
    for (auto seed = seeds.first; seed <= seeds.second; ++seed) {
        const auto run = tidemark::tests::simulate(seed, mutation, trace ? &std::cout : nullptr);
        if (run.violation) {
            std::cout << "seed " << seed << ": " << *run.violation << "\nagain: simulate --seeds " << seed
                      << (mutation == Mutation::none ? "" : " --mutation ") << mutation_name << " --trace\n";
            return 1;
        }
        sum.steps += run.steps;
        for (std::size_t kind = 0; kind < run.met.size(); ++kind)
            sum.met[kind] += run.met[kind];
        if (seed == seeds.second) break;  // the last seed there is has no successor
    }
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - began;
    const auto count = static_cast<double>(seeds.second - seeds.first) + 1;
    std::printf("%.0f seeds, no rule broken, %.1f s: %.0f seeds a minute, %.0f steps a seed\n", count, took.count(),
                60 * count / took.count(), static_cast<double>(sum.steps) / count);
    for (std::size_t kind = 0; kind < sum.met.size(); ++kind) {
        const auto name = to_string(static_cast<tidemark::tests::Met>(kind));
        std::printf("  %-24.*s %12llu\n", static_cast<int>(name.size()), name.data(),
                    static_cast<unsigned long long>(sum.met[kind]));
    }
    return 0;
}
