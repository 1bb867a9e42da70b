// Runs a fuzz target over the files of the given folders, and over texts too large to be stored, without libFuzzer.

#include "target.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>
#include <string>
#include <vector>

namespace {

void run(const std::string& input) {
    // A copy of exactly its size lets AddressSanitizer see a read past the end.
    const std::vector<std::uint8_t> bytes(input.begin(), input.end());
    LLVMFuzzerTestOneInput(bytes.data(), bytes.size());
}

std::string repeat(std::string_view text, std::size_t times) {
    std::string out;
    for (std::size_t i = 0; i < times; ++i)
        out.append(text);
    return out;
}

/// What overflowed stacks, or took quadratic time, in parsers that were not ready for it.
std::vector<std::string> giants() {
    std::string members = "{";
    for (int i = 0; i < 100'000; ++i)
        members.append(i == 0 ? "\"" : ",\"").append(std::to_string(i)).append("\":0");
    return {repeat("[", 200'000),
            repeat("[", 1'000'000),
            repeat("[", 200'000) + repeat("]", 200'000),
            repeat(R"({"a":)", 200'000),
            members + "}",
            members + ",\"7\":0}",
            "[" + repeat("0,", 100'000) + "0]",
            repeat("9", 1'000'000),
            "0." + repeat("0", 1'000'000) + "1",
            "\"" + repeat("\\u0000", 100'000) + "\"",
            "\"" + repeat("x", 1'000'000),
            repeat(" ", 1'000'000),
            repeat("counters-0a1b2c3d-3-1,", 100'000)};
}

}  // namespace

int main(int argc, char** argv) {
    std::size_t count = 0;
    for (int i = 1; i < argc; ++i) {
        std::vector<std::filesystem::path> files;
        for (const auto& entry : std::filesystem::directory_iterator(argv[i]))
            files.push_back(entry.path());
        std::sort(files.begin(), files.end());
        for (const auto& file : files) {
            std::ifstream in(file, std::ios::binary);
            const std::string input{std::istreambuf_iterator<char>(in), {}};
            if (!in) {
                std::cerr << "cannot read " << file << '\n';
                return 1;
            }
            run(input);
            ++count;
        }
    }
    if (count == 0) {
        std::cerr << "no input in any of the given folders\n";
        return 1;
    }
    for (const auto& giant : giants())
        run(giant);
    std::cout << count << " files replayed\n";
    return 0;
}
