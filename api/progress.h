#pragma once

#include "schemas/instant.h"

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace tidemark::api {

/// How far a stream's tables are, as every API view carries it.
struct Progress {
    std::int32_t generation = 0;
    std::vector<std::int64_t> next;  ///< by partition: everything below this offset is in
    std::vector<std::optional<schemas::Timestamp>>
        as_of;  ///< by partition: everything appended before is in; nullopt: not known yet

    /// Of the view's columns: decimal lists joined with ',', instants in microseconds with 0 for "not known yet".
    /// Throws std::logic_error when they are no such lists: then the view is not the one that this program was built
    /// for.
    static Progress read(std::int64_t generation, std::string_view applied, std::string_view as_of);

    /// Whether everything up to and including `offset` is in. False for a partition that the tables do not know.
    [[nodiscard]] bool holds(std::int32_t partition, std::int64_t offset) const noexcept {
        const auto index = static_cast<std::size_t>(partition);
        return index < next.size() && next[index] > offset;
    }
    /// The oldest of all partitions; nullopt while one of them is not known.
    [[nodiscard]] std::optional<schemas::Timestamp> oldest_as_of() const noexcept;

    /// Tokens of all partitions that hold anything, joined with ','; of one of them with `partition`.
    void append_tokens(std::string& out, std::string_view stream, std::string_view log_hash,
                       std::optional<std::int32_t> partition = std::nullopt) const;
};

}  // namespace tidemark::api
