#pragma once

#include "infra/http/framing.h"
#include "infra/http/message.h"
#include "infra/http/response.h"
#include "infra/http/router.h"
#include "infra/http/server.h"

#include <array>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace tidemark::http {

using TimePoint = std::chrono::steady_clock::time_point;

/// ServerCounters while they are counted. Each is a statistic of its own, so relaxed order will do.
struct SharedCounters {
    std::atomic<std::uint64_t> accepted{0};
    std::atomic<std::uint64_t> open{0};
    std::atomic<std::uint64_t> shed{0};
    std::atomic<std::uint64_t> malformed{0};
    std::atomic<std::uint64_t> deadline{0};
    std::atomic<std::uint64_t> dropped_replies{0};
};

/// An exchange whose answer is in the output.
struct Finished {
    Method method;
    std::string_view route;
    int status;
    TimePoint since;  ///< when its request was complete
};

/// What the connections of one event loop share; it outlives them.
struct ConnectionContext {
    const ServerOptions& options;
    const Router& router;
    const ErrorBody& error_body;
    SharedCounters& counters;
    std::vector<Finished>* finished;  ///< null: nobody observes
    std::span<char> discard;          ///< where bytes go that nobody will look at
};

/// One connection's protocol, sans I/O: bytes in, requests out, answers in, bytes out, and one deadline for whatever it
/// is doing. Its owner moves bytes, calls handlers and keeps time:
///
///     loop: switch (advance(now))
///         handle  call route().handler(request()); in the end answer...() once, from this thread
///         write   send output(), then sent(n); on a full socket buffer blocked(now), and go on when it drains
///         read    fill space(), then received(n) or peer_closed()
///         wait    nothing to do before answer...()
///         linger  half-close the socket, then go on: what still arrives is discarded, so that no reset outruns the
///         answer close   close the socket; with a reset when reset_on_close()
///     at deadline(): expire(now), and loop
///
/// Requests that arrived together are handled one after the other, and their answers are written together. While an
/// answer is outstanding, or output is stuck, nothing is parsed or read: that bounds both buffers. A refused request
/// ends the connection and no byte behind it is parsed. One thread at a time.
class Connection {
public:
    enum class Next : std::uint8_t { handle, read, write, wait, linger, close };

    Connection(const ConnectionContext& context, std::string peer_address);

    Next advance(TimePoint now);

    /// The request to handle. It, and all that it views, stays as it is until the answer, or for good when the answer
    /// came from expire(): the handler's thread may still be looking at it.
    [[nodiscard]] const Request& request() const noexcept { return request_; }
    [[nodiscard]] const Route& route() const noexcept { return *route_; }
    [[nodiscard]] AnswerShape shape() const noexcept;

    /// The outstanding request's answer. The second form takes one that append_response made elsewhere, in the shape
    /// that shape() had (or closing it), and leaves `rendered` empty; the third is the server's own, worded by
    /// ErrorBody.
    void answer(int status, std::string_view content_type, std::string_view header_lines, std::string_view body);
    void answer_rendered(std::string& rendered, int status, bool closes);
    void answer_error(int status, std::string_view detail);

    /// Where to read to; never empty. Valid until the next call of anything but deadline().
    [[nodiscard]] std::span<char> space();
    void received(std::size_t bytes);
    void peer_closed();

    [[nodiscard]] std::string_view output() const noexcept;
    void sent(std::size_t bytes);
    void blocked(TimePoint now);

    [[nodiscard]] bool waiting() const noexcept { return phase_ == Phase::handling; }
    [[nodiscard]] TimePoint deadline() const noexcept;
    /// Moves the deadline of the outstanding answer.
    void postpone(TimePoint deadline) noexcept;
    /// Acts on a deadline that has passed: 408 or 503 and close, or close. Call advance afterwards.
    void expire(TimePoint now);
    [[nodiscard]] bool reset_on_close() const noexcept { return reset_on_close_; }

    /// Answers 503 and closes without having read a request.
    void shed(std::string_view detail);
    /// Answers what has begun, with `Connection: close`; closes when idle.
    void drain() noexcept;
    /// Closes without another word, whatever is outstanding.
    void abort() noexcept { phase_ = Phase::closed; }
    /// Between requests, with nothing buffered.
    [[nodiscard]] bool idle() const noexcept { return phase_ == Phase::idle && begin_ == end_; }
    /// Gives back all that was allocated. Only while idle(); while a read into space() is under way, only without a
    /// block.
    void trim() noexcept;
    /// space() lies in allocated memory.
    [[nodiscard]] bool owns_block() const noexcept { return block_ != nullptr; }

private:
    enum class Phase : std::uint8_t { idle, head, body, ready, handling, closing, lingering, closed };

    /// What the server itself answers once the request's body is read.
    struct OwnAnswer {
        int status = 0;
        std::string_view detail;
    };

    [[nodiscard]] std::string_view unread() const noexcept { return {data_ + begin_, end_ - begin_}; }
    [[nodiscard]] FramingLimits limits() const noexcept;
    [[nodiscard]] Next flush_or(Next otherwise) const noexcept;

    bool take_head(TimePoint now);
    void route_request(TimePoint now);
    bool take_body();
    bool accepts_media_type() const noexcept;
    void set_request_views();

    void answer_without_body(int status, std::string_view detail);
    void refuse(int status, std::string_view detail);
    void render_error(int status, std::string_view detail, const Request* request);
    void finish(int status);

    void move_request(char* to, std::size_t capacity) noexcept;
    void make_room(std::size_t bytes);
    void release_block() noexcept;

    /// Fits nearly every request that is not a document, so that a connection needs no other memory; 10,000 idle
    /// connections take 20 MB of it.
    static constexpr std::size_t kInlineBytes = 2 * 1024;

    const ConnectionContext& context_;
    std::string peer_address_;

    char* data_ = inline_.data();
    std::size_t capacity_ = kInlineBytes;
    std::size_t begin_ = 0;  ///< where the current request starts
    std::size_t end_ = 0;    ///< where the received bytes end
    std::size_t body_begin_ = 0;
    std::size_t body_bytes_ = 0;  ///< decoded so far
    std::size_t body_limit_ = 0;
    std::size_t request_end_ = 0;  ///< where what belongs to the current request ends, as far as it is known

    Phase phase_ = Phase::idle;
    bool keep_alive_ = true;
    bool draining_ = false;
    bool blocked_ = false;
    bool reset_on_close_ = false;
    bool resting_ = false;  ///< the idle deadline is running
    bool filled_ = false;   ///< the last read left no space: more is waiting
    std::uint32_t requests_ = 0;
    std::size_t discarded_ = 0;
    TimePoint deadline_{};
    TimePoint write_deadline_{};
    TimePoint since_{};

    HeaderScan scan_;
    RequestLine line_;
    Framing framing_;
    ChunkDecoder decoder_;
    OwnAnswer own_answer_;
    std::string allow_;
    std::vector<Field> fields_;
    std::vector<std::string> params_;
    const Route* route_ = nullptr;
    Request request_;

    std::string output_;
    std::size_t sent_ = 0;
    std::unique_ptr<char[]> block_;
    std::array<char, kInlineBytes> inline_;
};

}  // namespace tidemark::http
