#include "infra/http/framing.h"

#include "infra/http/ascii.h"

#include <algorithm>
#include <charconv>
#include <cstring>
#include <optional>

namespace tidemark::http {
namespace {

constexpr int kBadRequest = 400;
constexpr int kBodyTooLarge = 413;
constexpr int kTargetTooLong = 414;
constexpr int kHeaderTooLarge = 431;
constexpr int kNotImplemented = 501;

/// Method, version and blanks beside the target in a request line: every registered method fits several times over.
constexpr std::size_t kRequestLineSlack = 64;

/// 4 GiB: far above any limit that a route can set, and no overflow in any sum.
constexpr unsigned kMaxChunkSizeDigits = 8;

bool contains(std::string_view text, char c) noexcept {
    return !text.empty() && std::memchr(text.data(), c, text.size()) != nullptr;
}

std::string_view trimmed(std::string_view text) noexcept {
    while (!text.empty() && (text.front() == ' ' || text.front() == '\t'))
        text.remove_prefix(1);
    while (!text.empty() && (text.back() == ' ' || text.back() == '\t'))
        text.remove_suffix(1);
    return text;
}

bool lists_token(std::string_view list, std::string_view token) noexcept {
    while (!list.empty()) {
        const auto comma = list.find(',');
        if (equal_ignoring_case(trimmed(list.substr(0, comma)), token)) return true;
        list.remove_prefix(comma == std::string_view::npos ? list.size() : comma + 1);
    }
    return false;
}

constexpr bool is_digit(char c) noexcept {
    return c >= '0' && c <= '9';
}

/// What host names, addresses and ports are made of, which is narrower than RFC 3986: a list, a user or a path in a
/// Host would be read differently by the proxy that routed on it.
constexpr ByteSet kHostBytes([](char c) {
    return is_digit(c) || (to_lower(c) >= 'a' && to_lower(c) <= 'z') ||
           std::string_view("-._~%:[]").find(c) != std::string_view::npos;
});

/// Printable ASCII without `#`, which some take for the end of the target.
constexpr ByteSet kTargetBytes([](char c) { return c > ' ' && c < '\x7f' && c != '#'; });

constexpr ByteSet kDigits(is_digit);

Refusal judge_target(std::string_view target, const FramingLimits& limits) noexcept {
    if (target.size() > limits.max_target_bytes) return {kTargetTooLong, "the request target is too long"};
    if (target.empty() || target.front() != '/') return {kBadRequest, "the request target must start with '/'"};
    if (!kTargetBytes.contains_all(target)) {
        return {kBadRequest, "the request target must be printable ASCII without '#'; escape the rest with %"};
    }
    if (contains(target, '%') && target.find("%00") != std::string_view::npos) {
        return {kBadRequest, "%00 is not accepted in the request target"};
    }
    return {};
}

}  // namespace

bool HeaderScan::refuse(int status, std::string_view detail) noexcept {
    refusal_ = {status, detail};
    return false;
}

bool HeaderScan::advance(std::string_view bytes, const FramingLimits& limits) noexcept {
    const std::size_t max_request_line = limits.max_target_bytes + kRequestLineSlack;
    while (!refusal_) {
        const auto* found =
            searched_ == bytes.size()
                ? nullptr
                : static_cast<const char*>(std::memchr(bytes.data() + searched_, '\n', bytes.size() - searched_));
        const auto line_end = found == nullptr ? bytes.size() : static_cast<std::size_t>(found - bytes.data());
        if (lines_ == 0 && line_end - line_ > max_request_line) {
            return refuse(kTargetTooLong, "the request line is too long");
        }
        if (line_end - begin_ >= limits.max_header_bytes)
            return refuse(kHeaderTooLarge, "the header block is too large");
        searched_ = line_end;
        if (found == nullptr) return false;

        if (line_end == line_ || bytes[line_end - 1] != '\r') return refuse(kBadRequest, "a line must end in CR LF");
        const auto line = bytes.substr(line_, line_end - 1 - line_);
        if (contains(line, '\r')) return refuse(kBadRequest, "CR within a line");
        searched_ = line_ = line_end + 1;
        if (line.empty()) {
            if (lines_ > 0) {
                if (contains(bytes.substr(0, line_), '\0')) return refuse(kBadRequest, "NUL in the header block");
                return true;
            }
            if (begin_ > 0) return refuse(kBadRequest, "empty lines before the request line");
            begin_ = line_;
            continue;
        }
        if (lines_ > 0 && (line.front() == ' ' || line.front() == '\t')) {
            return refuse(kBadRequest, "folded header lines are not accepted");
        }
        if (lines_ > limits.max_header_fields) return refuse(kHeaderTooLarge, "too many header fields");
        ++lines_;
    }
    return false;
}

Refusal judge(const RequestLine& line, std::span<const Field> fields, const FramingLimits& limits,
              Framing& framing) noexcept {
    if (auto refusal = judge_target(line.target, limits)) return refusal;

    Framing judged;
    const bool is_1_1 = line.version == Version::http_1_1;
    unsigned hosts = 0;
    bool asks_close = false;
    bool asks_keep_alive = false;
    std::optional<std::string_view> length;
    std::optional<std::string_view> coding;
    for (const auto& [name, value] : fields) {
        switch (name.size()) {
            case 4:
                if (!equal_ignoring_case(name, "Host")) break;
                if (++hosts > 1) return {kBadRequest, "more than one Host"};
                if (value.empty() || !kHostBytes.contains_all(value))
                    return {kBadRequest, "Host is not a host name or address"};
                break;
            case 6:
                if (!equal_ignoring_case(name, "Expect") || !is_1_1) break;
                if (!equal_ignoring_case(value, "100-continue")) {
                    return {kBadRequest, "Expect other than 100-continue is not supported"};
                }
                judged.expects_continue = true;
                break;
            case 10:
                if (!equal_ignoring_case(name, "Connection")) break;
                asks_close = asks_close || lists_token(value, "close");
                asks_keep_alive = asks_keep_alive || lists_token(value, "keep-alive");
                break;
            case 12:
                if (equal_ignoring_case(name, "Content-Type") && judged.content_type.empty())
                    judged.content_type = value;
                break;
            case 14:
                if (!equal_ignoring_case(name, "Content-Length")) break;
                if (length) return {kBadRequest, "more than one Content-Length"};
                length = value;
                break;
            case 17:
                if (!equal_ignoring_case(name, "Transfer-Encoding")) break;
                if (coding) return {kBadRequest, "more than one Transfer-Encoding"};
                coding = value;
                break;
            default:
                break;
        }
    }
    if (hosts == 0 && is_1_1) return {kBadRequest, "Host is missing"};
    if (coding) {
        if (length) return {kBadRequest, "Transfer-Encoding together with Content-Length"};
        if (!is_1_1) return {kBadRequest, "Transfer-Encoding needs HTTP/1.1"};
        if (!equal_ignoring_case(*coding, "chunked")) {
            return {kNotImplemented, "Transfer-Encoding other than chunked is not supported"};
        }
        judged.body = Framing::Body::chunked;
    } else if (length) {
        const auto* end = length->data() + length->size();
        if (length->empty() || !kDigits.contains_all(*length)) return {kBadRequest, "Content-Length must be digits"};
        const auto [stop, error] = std::from_chars(length->data(), end, judged.content_length);
        if (error != std::errc() || stop != end) return {kBodyTooLarge, "Content-Length is out of range"};
        if (judged.content_length > 0) judged.body = Framing::Body::length;
    }
    judged.keep_alive = !asks_close && (is_1_1 || asks_keep_alive);
    framing = judged;
    return {};
}

void ChunkDecoder::refuse(int status, std::string_view detail) noexcept {
    refusal_ = {status, detail};
    expect_ = Expect::nothing;
}

ChunkDecoder::State ChunkDecoder::state() const noexcept {
    if (refusal_) return State::refused;
    return expect_ == Expect::nothing ? State::complete : State::more;
}

void ChunkDecoder::take_size_byte(char c) noexcept {
    if (c == '\r') {
        if (digits_ == 0) return refuse(kBadRequest, "a chunk without a size");
        if (size_ > room_) return refuse(kBodyTooLarge, "the body is too large");
        expect_ = Expect::size_lf;
        return;
    }
    const char lower = to_lower(c);
    if (!is_digit(c) && !(lower >= 'a' && lower <= 'f')) {
        return refuse(kBadRequest, digits_ > 0 && c == ';' ? "chunk extensions are not accepted"
                                                           : "a chunk size must be hexadecimal digits");
    }
    if (++digits_ > kMaxChunkSizeDigits) return refuse(kBadRequest, "a chunk size has too many digits");
    size_ = size_ * 16 + static_cast<std::uint64_t>(is_digit(c) ? c - '0' : lower - 'a' + 10);
}

void ChunkDecoder::follow(char c, char wanted, Expect next, std::string_view otherwise) noexcept {
    if (c != wanted) return refuse(kBadRequest, otherwise);
    expect_ = next;
}

ChunkDecoder::Progress ChunkDecoder::advance(std::string_view raw, char* out) noexcept {
    Progress progress;
    while (progress.consumed < raw.size() && expect_ != Expect::nothing) {
        if (expect_ == Expect::data) {
            const auto n = static_cast<std::size_t>(std::min<std::uint64_t>(size_, raw.size() - progress.consumed));
            std::memmove(out + progress.decoded, raw.data() + progress.consumed, n);
            progress.consumed += n;
            progress.decoded += n;
            size_ -= n;
            room_ -= n;
            if (size_ == 0) expect_ = Expect::data_cr;
            continue;
        }
        const char c = raw[progress.consumed++];
        switch (expect_) {
            case Expect::size:
                take_size_byte(c);
                break;
            case Expect::size_lf:
                digits_ = 0;
                follow(c, '\n', size_ > 0 ? Expect::data : Expect::end_cr, "a chunk size must end in CR LF");
                break;
            case Expect::data_cr:
                follow(c, '\r', Expect::data_lf, "a chunk must end in CR LF");
                break;
            case Expect::data_lf:
                follow(c, '\n', Expect::size, "a chunk must end in CR LF");
                break;
            case Expect::end_cr:
                follow(c, '\r', Expect::end_lf, "trailers are not accepted");
                break;
            case Expect::end_lf:
                follow(c, '\n', Expect::nothing, "a chunked body must end in CR LF CR LF");
                break;
            case Expect::data:
            case Expect::nothing:
                break;
        }
    }
    return progress;
}

}  // namespace tidemark::http
