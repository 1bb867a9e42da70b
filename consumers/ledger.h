#pragma once

#include "consumers/numeric.h"
#include "consumers/projection.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <variant>
#include <vector>

namespace tidemark::consumers {

/// Null, a number (instants are microseconds since the epoch), or text.
using Value = std::variant<std::monostate, Int128, std::string>;

/// What is compared of one table, and how its columns are read.
struct LedgerTable {
    /// Bytes: as their SHA-256 in hex. Headers: name:value,... in hex, of the columns header_names and header_values.
    enum class Kind : std::uint8_t { text, number, instant, bytes, headers };
    struct Column {
        std::string name;
        Kind kind = Kind::text;
    };
    std::string name;
    std::vector<Column> key;  ///< never null
    std::vector<Column> columns;
};

/// One row that a table has to hold, and which part of the log it comes from.
struct LedgerRow {
    struct Range {
        std::int32_t partition = 0;
        std::int64_t min_offset = 0;
        std::int64_t max_offset = 0;
    };
    std::vector<Value> columns;  ///< in the table's order
    std::vector<Range> from;

    /// Each takes a column that nobody wrote to yet, too: the number is its first.
    void add(std::size_t column, Int128 number) {
        auto& value = columns[column];
        value = (std::holds_alternative<Int128>(value) ? std::get<Int128>(value) : 0) + number;
    }
    void least(std::size_t column, Int128 number) {
        auto& value = columns[column];
        if (!std::holds_alternative<Int128>(value) || std::get<Int128>(value) > number) value = number;
    }
    void most(std::size_t column, Int128 number) {
        auto& value = columns[column];
        if (!std::holds_alternative<Int128>(value) || std::get<Int128>(value) < number) value = number;
    }
};

/// All rows of all tables, or a share of them: what does not fit into memory is gone through in several passes.
class LedgerRows {
public:
    /// No windows are kept that start before `windows_from`, in microseconds since the epoch.
    LedgerRows(const std::vector<LedgerTable>& tables, std::size_t pass, std::size_t passes, std::int64_t windows_from)
        : pass_(pass), passes_(passes), windows_from_(windows_from), rows_(tables.size()) {
        for (const auto& table : tables)
            widths_.push_back(table.columns.size());
    }

    /// The key's texts, in the table's order, as one; none of them has U+0000 in it.
    template <typename... Texts>
    static std::string key_of(const Texts&... texts) {
        std::string key;
        (append(key, texts), ...);
        return key;
    }
    [[nodiscard]] bool is_mine(std::size_t table, const std::string& key) const {
        return passes_ == 1 || (passes_ > 1 && (std::hash<std::string>{}(key) + table) % passes_ == pass_);
    }

    [[nodiscard]] bool keeps_window(std::int64_t start) const noexcept { return start >= windows_from_; }

    /// A row to write to, made if there is none; null when it belongs to another pass.
    LedgerRow* at(std::size_t table, const std::string& key, schemas::Position position) {
        if (!is_mine(table, key)) return nullptr;
        auto& row = rows_[table][key];
        if (row.columns.empty()) ++size_;
        row.columns.resize(widths_[table]);
        const auto range = std::find_if(row.from.begin(), row.from.end(),
                                        [&](const auto& one) { return one.partition == position.partition; });
        if (range == row.from.end()) {
            row.from.push_back({position.partition, position.offset, position.offset});
        } else {
            range->max_offset = position.offset;  // a partition's records come in order
        }
        return &row;
    }

    /// Whether it takes any: of no passes none is anybody's.
    [[nodiscard]] bool any() const noexcept { return passes_ > 0; }
    /// How many were made.
    [[nodiscard]] std::int64_t size() const noexcept { return size_; }

    using Rows = std::unordered_map<std::string, LedgerRow>;
    [[nodiscard]] Rows& of(std::size_t table) noexcept { return rows_[table]; }

private:
    static void append(std::string& key, std::string_view text) {
        if (!key.empty()) key += '\0';
        key += text;
    }
    static void append(std::string& key, std::int64_t number) { append(key, std::string_view(std::to_string(number))); }

    std::size_t pass_;
    std::size_t passes_;
    std::int64_t windows_from_;
    std::int64_t size_ = 0;
    std::vector<std::size_t> widths_;
    std::vector<Rows> rows_;
};

/// A projection done a second way, to check the first: each event by itself, in memory, in the order of the log, with
/// no batches, no SQL and nothing to merge. What they share is how an event is decoded.
class Ledger {
public:
    virtual ~Ledger() = default;
    [[nodiscard]] virtual std::vector<LedgerTable> tables() const = 0;
    /// As Fold::read, but for the reason: false when the event's data is not what its type says.
    virtual bool read(const LoggedEvent& event, std::string_view& entity) = 0;
    /// Enters the event read last.
    virtual void enter(LedgerRows& rows) = 0;
    /// What the event read last adds to its partition's digest, once it is entered.
    [[nodiscard]] virtual Digest digest() const = 0;
};

/// Where the 10-second window that holds `instant` starts, both in microseconds since the epoch. Not the fold's own.
inline std::int64_t window_of(std::int64_t instant) {
    constexpr std::int64_t kWindow = 10'000'000;
    const auto into = instant % kWindow;
    return instant - into - (into < 0 ? kWindow : 0);
}

inline std::int64_t microseconds(schemas::Timestamp instant) {
    return instant.time_since_epoch().count();
}

}  // namespace tidemark::consumers
