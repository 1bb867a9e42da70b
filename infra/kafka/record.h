#pragma once

#include "infra/base/clock.h"

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace tidemark::kafka {

struct Header {
    std::string_view name;
    std::string_view value;  ///< its data() is null for a header without value, which is not the same as an empty one
};

/// A place to read from: the next record read of `partition` has this offset or a higher one.
struct Start {
    std::int32_t partition = 0;
    std::int64_t offset = 0;

    friend bool operator==(const Start&, const Start&) = default;
};

/// One record as the log holds it. Move-only; views live as long as the record does.
class Record {
public:
    /// Owns the bytes that the views point into. Client messages and test fixtures implement it.
    class Body {
    public:
        virtual ~Body() = default;
        [[nodiscard]] virtual std::vector<Header> headers() const = 0;
        [[nodiscard]] virtual std::optional<std::string_view> header(const char* name) const = 0;
    };

    std::int32_t partition = 0;
    std::int64_t offset = 0;
    base::Timestamp append_time{};  ///< set by the broker (LogAppendTime)
    std::optional<std::string_view> key;
    std::optional<std::string_view> value;  ///< nullopt: a tombstone

    [[nodiscard]] std::vector<Header> headers() const { return body_ ? body_->headers() : std::vector<Header>{}; }
    /// The value of the last header of that name, if there is one that can be read; makes no list of them.
    [[nodiscard]] std::optional<std::string_view> header(const char* name) const {
        return body_ ? body_->header(name) : std::nullopt;
    }
    /// What the record costs in memory: key, value and the client's own overhead.
    [[nodiscard]] std::size_t bytes() const noexcept {
        constexpr std::size_t kOverhead = 128;  // the client's message struct, rounded up
        return kOverhead + (key ? key->size() : 0) + (value ? value->size() : 0);
    }
    void own(std::unique_ptr<Body> body) noexcept { body_ = std::move(body); }

private:
    std::unique_ptr<Body> body_;
};

}  // namespace tidemark::kafka
