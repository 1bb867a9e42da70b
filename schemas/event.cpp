#include "schemas/event.h"

#include <sodium.h>

#include <algorithm>
#include <array>
#include <cassert>
#include <cstring>
#include <limits>
#include <mutex>
#include <utility>

namespace tidemark::schemas {
namespace {

constexpr std::size_t kMaxAttributeBytes = 256;

using Digest = std::array<unsigned char, crypto_hash_sha256_BYTES>;

const unsigned char* bytes_of(std::string_view text) noexcept {
    return reinterpret_cast<const unsigned char*>(text.data());
}

/// Whether a media type, parameters aside, has the subtype `json` or the suffix `+json`.
bool is_json(std::string_view media_type) {
    media_type = media_type.substr(0, media_type.find(';'));
    while (media_type.ends_with(' ') || media_type.ends_with('\t'))
        media_type.remove_suffix(1);
    constexpr std::string_view kSuffix = "json";
    if (media_type.size() <= kSuffix.size()) return false;
    const auto end = media_type.substr(media_type.size() - kSuffix.size());
    const auto same = [](char is, char should) { return (is | 0x20) == should; };
    const char before = media_type[media_type.size() - kSuffix.size() - 1];
    return std::equal(end.begin(), end.end(), kSuffix.begin(), same) && (before == '/' || before == '+');
}

/// Takes the members of an envelope one by one and gathers what is wrong with them.
class EnvelopeReader {
public:
    void take(json::Value member) {
        const auto name = member.name();
        if (name == "data") {
            event_.data = member;
        } else if (member.is(json::Kind::null)) {
            return;
        } else if (name == "specversion") {
            take_specversion(member);
        } else if (name == "id") {
            take_required(member, event_.id, has_id_);
        } else if (name == "source") {
            take_required(member, event_.source, has_source_);
        } else if (name == "type") {
            take_required(member, event_.type, has_type_);
        } else if (name == "time") {
            take_time(member);
        } else if (name == "idempotencykey") {
            event_.idempotency_key = text(member);
        } else if (name == "traceparent") {
            event_.traceparent = text(member);
        } else if (name == "datacontenttype") {
            if (!member.is(json::Kind::string) || !is_json(member.text())) violate(name, "must be a JSON media type");
        } else if (name == "data_base64") {
            violate(name, "is not supported: data must be JSON");
        } else {
            take_unknown(member);
        }
    }

    Result<Event> finish() {
        if (!has_specversion_) violate("specversion", "is required");
        if (!has_id_) violate("id", "is required");
        if (!has_source_) violate("source", "is required");
        if (!has_type_) violate("type", "is required");
        if (!violations_.empty()) return std::move(violations_);
        return event_;
    }

private:
    void violate(std::string_view name, std::string_view detail) {
        if (violations_.size() < json::kMaxViolations) {
            violations_.push_back({json::child_pointer("", name), std::string(detail)});
        }
    }

    std::string_view text(json::Value member) {
        const auto text = member.text();
        if (!member.is(json::Kind::string) || text.empty() || text.size() > kMaxAttributeBytes) {
            violate(member.name(), "must be a string of 1 to 256 bytes");
        } else {
            refuse_nul(member);
        }
        return text;
    }

    void refuse_nul(json::Value member) {
        if (member.text().find('\0') != std::string_view::npos) violate(member.name(), "must not hold U+0000");
    }

    void take_required(json::Value member, std::string_view& attribute, bool& has) {
        has = true;
        attribute = text(member);
    }

    void take_specversion(json::Value member) {
        has_specversion_ = true;
        if (!member.is(json::Kind::string) || member.text() != "1.0") violate(member.name(), "must be \"1.0\"");
    }

    void take_time(json::Value member) {
        event_.time = member.is(json::Kind::string) ? parse_instant(member.text()) : std::nullopt;
        if (!event_.time) violate(member.name(), "must be an RFC 3339 instant with an offset");
    }

    void take_unknown(json::Value member) {
        constexpr auto kMin = std::numeric_limits<std::int64_t>::min();
        constexpr auto kMax = std::numeric_limits<std::int64_t>::max();
        switch (member.kind()) {
            case json::Kind::string:
                refuse_nul(member);
                return;
            case json::Kind::boolean:
                return;
            case json::Kind::number:
                if (json::to_integer(member.text(), kMin, kMax)) return;
                break;
            default:
                break;
        }
        violate(member.name(), "must be a string, a boolean or an integer, as every attribute");
    }

    Event event_;
    bool has_specversion_ = false;
    bool has_id_ = false;
    bool has_source_ = false;
    bool has_type_ = false;
    Violations violations_;
};

/// Draws UUIDv7s that rise: within one millisecond (or while the clock is behind the last one) the 74 random bits are
/// counted up by a random step, as RFC 9562 6.2 method 2 has it.
class RisingUuids {
public:
    RisingUuids() {
        [[maybe_unused]] const int ready = sodium_init();
        assert(ready >= 0);
    }

    std::string next(Timestamp now) {
        const auto since_epoch = std::chrono::floor<std::chrono::milliseconds>(now).time_since_epoch().count();
        const auto clock = static_cast<std::uint64_t>(std::max<std::int64_t>(since_epoch, 0));
        const std::lock_guard lock(mutex_);
        if (clock > milliseconds_ || !step()) {
            milliseconds_ = std::max(clock, milliseconds_ + 1);
            high_ = draw() & kHighMask;
            low_ = draw() & kLowMask;
        }
        return text();
    }

private:
    static constexpr std::uint64_t kHighMask = 0xFFF;                        // 12 bits, rand_a
    static constexpr std::uint64_t kLowMask = (std::uint64_t{1} << 62) - 1;  // 62 bits, rand_b

    /// False when the random bits are used up for this millisecond.
    bool step() {
        low_ += 1 + (draw() & 0xFFFF'FFFF);
        high_ += low_ >> 62;
        low_ &= kLowMask;
        return high_ <= kHighMask;
    }

    /// From a pool, because asking the kernel costs more than the rest of the call.
    std::uint64_t draw() {
        if (used_ == pool_.size()) {
            randombytes_buf(pool_.data(), sizeof pool_);
            used_ = 0;
        }
        return pool_[used_++];
    }

    [[nodiscard]] std::string text() const {
        const std::uint64_t first = milliseconds_ << 16 | std::uint64_t{7} << 12 | high_;
        const std::uint64_t second = std::uint64_t{2} << 62 | low_;
        std::string out = "xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx";
        const auto put = [&out](std::size_t at, std::uint64_t bits, int digits) {
            for (int shift = 4 * (digits - 1); shift >= 0; shift -= 4)
                out[at++] = "0123456789abcdef"[bits >> shift & 0xF];
        };
        put(0, first >> 32, 8);
        put(9, first >> 16, 4);
        put(14, first, 4);
        put(19, second >> 48, 4);
        put(24, second, 12);
        return out;
    }

    std::mutex mutex_;  // guards all below
    std::uint64_t milliseconds_ = 0;
    std::uint64_t high_ = kHighMask;
    std::uint64_t low_ = kLowMask;
    std::array<std::uint64_t, 64> pool_{};
    std::size_t used_ = pool_.size();
};

void append_attribute(std::string& out, std::string_view opening, std::string_view value) {
    out.append(opening);
    json::append_string(out, value);
}

}  // namespace

Result<Event> read_event(json::Reader& reader, std::string_view bytes, const json::Limits& limits) {
    const auto parsed = reader.parse(bytes, limits);
    if (!parsed) return parsed.violations();
    if (!parsed->is(json::Kind::object)) return Violations{{"", "must be an object"}};
    EnvelopeReader envelope;
    for (const auto member : *parsed)
        envelope.take(member);
    return envelope.finish();
}

void append_event(std::string& out, const EventText& event) {
    append_attribute(out, R"({"specversion":"1.0","id":)", event.id);
    append_attribute(out, R"(,"source":)", event.source);
    append_attribute(out, R"(,"type":)", event.type);
    out.append(R"(,"time":")");
    append_instant(out, event.time);
    out.append(1, '"');
    if (event.idempotency_key) append_attribute(out, R"(,"idempotencykey":)", *event.idempotency_key);
    if (event.traceparent) append_attribute(out, R"(,"traceparent":)", *event.traceparent);
    if (!event.data.empty()) out.append(R"(,"data":)").append(event.data);
    out.append(1, '}');
}

std::string idempotency_identity(std::span<const std::string_view> parts) {
    crypto_hash_sha256_state state;
    crypto_hash_sha256_init(&state);
    for (const auto part : parts) {
        std::array<unsigned char, 8> length;
        for (std::size_t i = 0; i < length.size(); ++i)
            length[i] = static_cast<unsigned char>(part.size() >> (8 * i));
        crypto_hash_sha256_update(&state, length.data(), length.size());
        crypto_hash_sha256_update(&state, bytes_of(part), part.size());
    }
    Digest digest;
    crypto_hash_sha256_final(&state, digest.data());

    constexpr int kVariant = sodium_base64_VARIANT_URLSAFE_NO_PADDING;
    std::array<char, sodium_base64_ENCODED_LEN(crypto_hash_sha256_BYTES, kVariant)> text;
    return sodium_bin2base64(text.data(), text.size(), digest.data(), digest.size(), kVariant);
}

std::string data_hash(json::Value data) {
    thread_local std::string text;
    text.clear();
    if (data) json::append_value(text, data);
    Digest digest;
    crypto_hash_sha256(digest.data(), bytes_of(text), text.size());
    constexpr std::size_t kHashBytes = 16;
    return {reinterpret_cast<const char*>(digest.data()), kHashBytes};
}

std::string make_uuid7(Timestamp now) {
    static RisingUuids uuids;
    return uuids.next(now);
}

}  // namespace tidemark::schemas
