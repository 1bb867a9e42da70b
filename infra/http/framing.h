#pragma once

#include "infra/http/message.h"

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

// Where one request ends and the next begins, decided by rules of our own before anything is routed. The parser behind
// us (Beast 1.74) takes `Transfer-Encoding: gzip` for an empty body, joins trailers to the header fields, and accepts
// obs-fold, two Hosts, lists in Content-Length and endless chunk extensions; each of them lets a proxy and us disagree
// on what is a request. Everything here is pure: bytes in, decisions out.
namespace tidemark::http {

struct FramingLimits {
    std::size_t max_header_bytes = 8 * 1024;  ///< request line to the empty line, both included
    std::size_t max_header_fields = 64;
    std::size_t max_target_bytes = 2 * 1024;
};

/// Why a request is refused. After a refusal no further byte of its connection means anything.
struct Refusal {
    int status = 0;           ///< 0: not refused
    std::string_view detail;  ///< static text for the client

    explicit operator bool() const noexcept { return status != 0; }
};

/// Finds the end of a header block, line by line, as its bytes arrive. Refuses a line that does not end in CRLF, CR or
/// NUL within a line, a folded line, and whatever exceeds the limits. One empty line before the request line is
/// skipped, as RFC 9112 (2.2) asks.
class HeaderScan {
public:
    /// `bytes` is all that arrived since the request's first byte; it only grows between calls. True when the block is
    /// complete: it is then bytes[begin(), end()). False: look at refusal(), else more bytes are needed.
    bool advance(std::string_view bytes, const FramingLimits& limits) noexcept;

    [[nodiscard]] std::size_t begin() const noexcept { return begin_; }
    [[nodiscard]] std::size_t end() const noexcept { return line_; }
    [[nodiscard]] const Refusal& refusal() const noexcept { return refusal_; }

private:
    bool refuse(int status, std::string_view detail) noexcept;

    Refusal refusal_;
    std::size_t begin_ = 0;
    std::size_t line_ = 0;      ///< where the current line starts
    std::size_t searched_ = 0;  ///< no LF before this
    std::size_t lines_ = 0;
};

enum class Version : std::uint8_t { http_1_0, http_1_1 };

struct RequestLine {
    Method method = Method::other;
    std::string_view target;
    Version version = Version::http_1_1;
};

/// What the request line and the header fields say about the rest.
struct Framing {
    enum class Body : std::uint8_t { none, length, chunked };

    Body body = Body::none;
    std::uint64_t content_length = 0;
    bool keep_alive = true;
    bool expects_continue = false;
    std::string_view content_type;  ///< as sent; empty when absent
};

/// Judges a parsed header block; fills `framing` unless it refuses.
Refusal judge(const RequestLine& line, std::span<const Field> fields, const FramingLimits& limits,
              Framing& framing) noexcept;

/// Decodes a chunked body in place. Chunk extensions and trailers are refused at their first byte, so that nothing but
/// data and at most 12 bytes around each chunk is ever read, and no field from behind the body is ever believed.
class ChunkDecoder {
public:
    enum class State : std::uint8_t { more, complete, refused };

    struct Progress {
        std::size_t consumed = 0;  ///< bytes of `raw` that are done with
        std::size_t decoded = 0;   ///< bytes written to `out`
    };

    explicit ChunkDecoder(std::uint64_t max_body_bytes = 0) noexcept : room_(max_body_bytes) {}

    /// Decodes all of `raw` that belongs to this body. `out` may be `raw` itself or anything before it.
    Progress advance(std::string_view raw, char* out) noexcept;

    [[nodiscard]] State state() const noexcept;
    [[nodiscard]] const Refusal& refusal() const noexcept { return refusal_; }

private:
    enum class Expect : std::uint8_t { size, size_lf, data, data_cr, data_lf, end_cr, end_lf, nothing };

    void refuse(int status, std::string_view detail) noexcept;
    void take_size_byte(char c) noexcept;
    void follow(char c, char wanted, Expect next, std::string_view otherwise) noexcept;

    Refusal refusal_;
    std::uint64_t room_;      ///< decoded bytes that may still come
    std::uint64_t size_ = 0;  ///< of the current chunk; counts down while its data arrives
    unsigned digits_ = 0;
    Expect expect_ = Expect::size;
};

}  // namespace tidemark::http
