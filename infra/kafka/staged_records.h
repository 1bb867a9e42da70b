#pragma once

#include "infra/kafka/ports.h"

#include <array>
#include <cassert>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace tidemark::kafka {

/// Records to be produced, by value and in order of arrival, in memory that is used again: in usual traffic to stage
/// one allocates nothing. Internal to infra/kafka. One thread at a time.
class StagedRecords {
public:
    using TimePoint = std::chrono::steady_clock::time_point;
    /// What an empty one may hold on to: about a thousand records of the usual size, for each partition. A burst is as
    /// large as the whole producer's queue, and comes to every partition some day.
    static constexpr std::size_t kKeptBytes = std::size_t{256} << 10;

    /// Precondition: at most kMaxHeaders headers.
    void add(std::string_view key, std::string_view value, std::span<const Header> headers, std::uint64_t tag,
             TimePoint give_up_at) {
        assert(headers.size() <= kMaxHeaders);
        const auto begin = bytes_.size();
        bytes_.append(key).append(value);
        for (const auto& header : headers) {
            const std::array<std::uint32_t, 2> sizes{size_of(header.name),
                                                     header.value.data() == nullptr ? kNoValue : size_of(header.value)};
            bytes_.append(reinterpret_cast<const char*>(sizes.data()), sizeof sizes);
            bytes_.append(header.name).append(header.value);
        }
        entries_.push_back({tag, give_up_at, bytes_.size() - begin, size_of(key), size_of(value),
                            static_cast<std::uint32_t>(headers.size())});
    }

    /// `visit(key, value, headers, tag)` for each; the views live until the next change.
    template <typename Visit>
    void for_each(Visit visit) const {
        const char* at = bytes_.data() + first_byte_;
        const auto take = [&at](std::size_t size) { return std::string_view(std::exchange(at, at + size), size); };
        std::array<Header, kMaxHeaders> headers;
        for (const auto& entry : std::span(entries_).subspan(first_)) {
            const auto key = take(entry.key);
            const auto value = take(entry.value);
            for (auto& header : std::span(headers).first(entry.headers)) {
                std::array<std::uint32_t, 2> sizes{};
                std::memcpy(sizes.data(), take(sizeof sizes).data(), sizeof sizes);
                header.name = take(sizes[0]);
                header.value = sizes[1] == kNoValue ? std::string_view() : take(sizes[1]);
            }
            visit(key, value, std::span<const Header>(headers).first(entry.headers), entry.tag);
        }
    }

    /// Moves the oldest to `to`, which is empty: as many as are within both limits, but one at least.
    void take(StagedRecords& to, std::size_t most_records, std::size_t most_bytes) {
        assert(to.empty());
        std::size_t count = 0;
        std::size_t bytes = 0;
        for (const auto& entry : std::span(entries_).subspan(first_)) {
            if (count != 0 && (count == most_records || bytes + entry.bytes > most_bytes)) break;
            ++count;
            bytes += entry.bytes;
        }
        if (count == size()) {
            std::swap(*this, to);
            return;
        }
        const auto begin = entries_.begin() + static_cast<std::ptrdiff_t>(first_);
        to.entries_.assign(begin, begin + static_cast<std::ptrdiff_t>(count));
        to.bytes_.assign(bytes_, first_byte_, bytes);
        first_ += count;
        first_byte_ += bytes;
        compact();
    }

    /// Removes, from the oldest on, what had to be sent by `now`: `visit(tag, bytes of key and value)` for each. One
    /// that may wait longer keeps those behind it.
    template <typename Visit>
    void drop_overdue(TimePoint now, Visit visit) {
        for (; first_ < entries_.size() && entries_[first_].give_up_at <= now; ++first_) {
            const Entry& entry = entries_[first_];
            visit(entry.tag, std::size_t{entry.key} + entry.value);
            first_byte_ += entry.bytes;
        }
        compact();
    }

    void clear() noexcept {
        entries_.clear();
        if (entries_.capacity() * sizeof(Entry) > kKeptBytes) std::vector<Entry>().swap(entries_);
        bytes_.clear();
        if (bytes_.capacity() > kKeptBytes) std::string().swap(bytes_);  // an assignment would keep it
        first_ = 0;
        first_byte_ = 0;
    }
    [[nodiscard]] bool empty() const noexcept { return first_ == entries_.size(); }
    [[nodiscard]] std::size_t size() const noexcept { return entries_.size() - first_; }
    /// Bytes that it holds on to, used or not.
    [[nodiscard]] std::size_t memory() const noexcept {
        return bytes_.capacity() + entries_.capacity() * sizeof(Entry);
    }

private:
    static constexpr std::uint32_t kNoValue = 0xFFFFFFFF;
    struct Entry {
        std::uint64_t tag = 0;
        TimePoint give_up_at;
        std::size_t bytes = 0;  // of all that stands for it in bytes_
        std::uint32_t key = 0;  // bytes
        std::uint32_t value = 0;
        std::uint32_t headers = 0;  // how many follow, each behind its two sizes
    };

    /// Records may come and go for as long as a partition's broker is away, without a moment at which none waits.
    void compact() {
        if (empty()) return clear();
        if (first_ <= entries_.size() / 2) return;
        bytes_.erase(0, first_byte_);
        entries_.erase(entries_.begin(), entries_.begin() + static_cast<std::ptrdiff_t>(first_));
        first_ = 0;
        first_byte_ = 0;
    }

    static std::uint32_t size_of(std::string_view text) noexcept { return static_cast<std::uint32_t>(text.size()); }

    std::vector<Entry> entries_;
    std::string bytes_;
    std::size_t first_ = 0;  // those before it were dropped
    std::size_t first_byte_ = 0;
};

}  // namespace tidemark::kafka
