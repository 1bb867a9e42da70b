#include "api/progress.h"

#include "schemas/position.h"

#include <algorithm>
#include <charconv>
#include <stdexcept>

namespace tidemark::api {
namespace {

std::vector<std::int64_t> read_list(std::string_view text) {
    std::vector<std::int64_t> numbers;
    const char* at = text.data();
    const char* const end = at + text.size();
    while (true) {
        std::int64_t number = 0;
        const auto [next, error] = std::from_chars(at, end, number);
        if (error != std::errc{} || (next != end && *next != ',')) {
            throw std::logic_error("not a list of offsets or instants: " + std::string(text));
        }
        numbers.push_back(number);
        if (next == end) return numbers;
        at = next + 1;
    }
}

}  // namespace

Progress Progress::read(std::int64_t generation, std::string_view applied, std::string_view as_of) {
    Progress progress;
    progress.generation = static_cast<std::int32_t>(generation);
    progress.next = read_list(applied);
    for (const auto microseconds : read_list(as_of)) {
        progress.as_of.emplace_back();
        if (microseconds != 0) progress.as_of.back() = schemas::Timestamp(std::chrono::microseconds(microseconds));
    }
    if (progress.as_of.size() != progress.next.size()) {
        throw std::logic_error("a view carries " + std::to_string(progress.next.size()) + " offsets but " +
                               std::to_string(progress.as_of.size()) + " instants");
    }
    return progress;
}

std::optional<schemas::Timestamp> Progress::oldest_as_of() const noexcept {
    // nullopt orders before every instant, so one unknown partition makes the whole unknown
    return as_of.empty() ? std::nullopt : *std::min_element(as_of.begin(), as_of.end());
}

void Progress::append_tokens(std::string& out, std::string_view stream, std::string_view log_hash,
                             std::optional<std::int32_t> partition) const {
    const auto start = out.size();
    for (std::int32_t p = 0; static_cast<std::size_t>(p) < next.size(); ++p) {
        const auto offset = next[static_cast<std::size_t>(p)] - 1;
        if (offset < 0 || (partition && *partition != p)) continue;
        if (out.size() != start) out.push_back(',');
        schemas::append_token(out, stream, log_hash, {p, offset});
    }
}

}  // namespace tidemark::api
