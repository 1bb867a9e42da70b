#include "infra/http/connection.h"

#include "infra/http/ascii.h"
#include "infra/http/request_parser.h"

#include <algorithm>
#include <cstring>
#include <utility>

namespace tidemark::http {
namespace {

using namespace std::chrono_literals;

/// Output is handed to the kernel from here on even if more answers could join it: what a socket buffer takes at once.
constexpr std::size_t kFlushAt = 64 * 1024;

/// What a busy connection may keep between two requests; bigger blocks and buffers go back at once.
constexpr std::size_t kKeptBytes = 16 * 1024;

/// Bodies are read and thrown away up to here to keep a connection whose request has no route.
constexpr std::size_t kUnroutedBodyBytes = 16 * 1024;

/// Room for chunk framing, and for what follows it, beside the decoded bytes of a chunked body.
constexpr std::size_t kChunkSlack = 8 * 1024;

/// How long, and how much, is read after the last answer, so that the peer sees the answer rather than a reset.
constexpr auto kLinger = 1s;
constexpr std::size_t kMaxDiscardedBytes = 256 * 1024;

std::string too_large(std::size_t limit) {
    return "the body may have at most " + std::to_string(limit) + " bytes";
}

std::string_view without_parameters(std::string_view content_type) noexcept {
    content_type = content_type.substr(0, content_type.find(';'));
    while (!content_type.empty() && (content_type.back() == ' ' || content_type.back() == '\t')) {
        content_type.remove_suffix(1);
    }
    return content_type;
}

}  // namespace

Connection::Connection(const ConnectionContext& context, std::string peer_address)
    : context_(context), peer_address_(std::move(peer_address)) {}

FramingLimits Connection::limits() const noexcept {
    return {context_.options.max_header_bytes, context_.options.max_header_fields, context_.options.max_target_bytes};
}

Connection::Next Connection::flush_or(Next otherwise) const noexcept {
    return output_.empty() ? otherwise : Next::write;
}

Connection::Next Connection::advance(TimePoint now) {
    for (;;) {
        if (phase_ != Phase::closed && (blocked_ || output_.size() - sent_ >= kFlushAt)) return Next::write;
        switch (phase_) {
            case Phase::idle:
                if (begin_ == end_) {
                    if (!output_.empty()) return Next::write;
                    if (draining_) {
                        phase_ = Phase::closed;
                        break;
                    }
                    if (!std::exchange(resting_, true)) deadline_ = now + context_.options.idle_deadline;
                    return Next::read;
                }
                resting_ = false;
                phase_ = Phase::head;
                since_ = now;
                deadline_ = now + context_.options.header_deadline;
                scan_ = HeaderScan();
                line_ = RequestLine();
                route_ = nullptr;
                break;
            case Phase::head:
                if (!take_head(now)) return flush_or(Next::read);
                break;
            case Phase::body:
                if (!take_body()) return flush_or(Next::read);
                break;
            case Phase::ready:
                since_ = now;
                set_request_views();
                if (own_answer_.status != 0) {
                    render_error(own_answer_.status, own_answer_.detail, &request_);
                    finish(own_answer_.status);
                    break;
                }
                phase_ = Phase::handling;
                deadline_ = now + context_.options.handler_deadline;
                return Next::handle;
            case Phase::handling:
                return flush_or(Next::wait);
            case Phase::closing:
                if (!output_.empty()) return Next::write;
                phase_ = Phase::lingering;
                deadline_ = now + kLinger;
                return Next::linger;
            case Phase::lingering:
                return Next::read;
            case Phase::closed:
                return Next::close;
        }
    }
}

bool Connection::take_head(TimePoint now) {
    const auto bytes = unread();
    if (!scan_.advance(bytes, limits())) {
        if (!scan_.refusal()) return false;
        refuse(scan_.refusal().status, scan_.refusal().detail);
        return true;
    }
    const auto block = bytes.substr(scan_.begin(), scan_.end() - scan_.begin());
    auto refusal = parse_header_block(block, line_, fields_);
    if (!refusal) refusal = judge(line_, fields_, limits(), framing_);
    if (refusal) {
        refuse(refusal.status, refusal.detail);
    } else {
        route_request(now);
    }
    return true;
}

void Connection::route_request(TimePoint now) {
    const auto max_requests = context_.options.max_requests_per_connection;
    ++requests_;
    keep_alive_ = framing_.keep_alive && (max_requests == 0 || requests_ < max_requests);
    body_begin_ = request_end_ = begin_ + scan_.end();
    body_bytes_ = 0;
    own_answer_ = {};
    allow_.clear();

    const auto path = line_.target.substr(0, line_.target.find('?'));
    auto match = context_.router.match(line_.method, path, params_);
    route_ = match.route;
    const bool has_body = framing_.body != Framing::Body::none;
    if (route_ != nullptr) {
        if (has_body && !accepts_media_type()) own_answer_ = {415, "the Content-Type is not one that this route takes"};
    } else if (match.bad_escape) {
        own_answer_ = {400, "the path holds a % that is not followed by two hexadecimal digits"};
    } else if (match.allow.empty()) {
        own_answer_ = {404, "Not Found"};
    } else {
        allow_ = std::move(match.allow);
        own_answer_ = line_.method == Method::options ? OwnAnswer{204, {}}
                                                      : OwnAnswer{405, "this path does not serve that method"};
    }
    if (!has_body) {
        phase_ = Phase::ready;
        return;
    }

    body_limit_ = route_ != nullptr ? route_->max_body_bytes : kUnroutedBodyBytes;
    const bool too_long = framing_.content_length > body_limit_;
    if (too_long || (own_answer_.status != 0 && framing_.expects_continue)) {
        if (own_answer_.status != 0) {
            answer_without_body(own_answer_.status, own_answer_.detail);
        } else {
            answer_without_body(413, too_large(body_limit_));
        }
        return;
    }
    decoder_ = ChunkDecoder(body_limit_);
    phase_ = Phase::body;
    deadline_ = now + context_.options.body_deadline;
    if (framing_.expects_continue && request_end_ == end_) output_.append("HTTP/1.1 100 Continue\r\n\r\n");
    if (framing_.body == Framing::Body::length) {
        make_room(scan_.end() + static_cast<std::size_t>(framing_.content_length));
    }
}

/// The rest of the body may or may not come now, so the connection cannot go on.
void Connection::answer_without_body(int status, std::string_view detail) {
    keep_alive_ = false;
    body_bytes_ = 0;
    set_request_views();
    render_error(status, detail, &request_);
    finish(status);
}

bool Connection::accepts_media_type() const noexcept {
    if (route_->media_types.empty()) return true;
    const auto given = without_parameters(framing_.content_type);
    return std::any_of(route_->media_types.begin(), route_->media_types.end(),
                       [given](std::string_view accepted) { return equal_ignoring_case(accepted, given); });
}

bool Connection::take_body() {
    if (framing_.body == Framing::Body::length) {
        const auto length = static_cast<std::size_t>(framing_.content_length);
        if (end_ - body_begin_ < length) return false;
        body_bytes_ = length;
        request_end_ = body_begin_ + length;
    } else {
        const auto [consumed, decoded] =
            decoder_.advance({data_ + request_end_, end_ - request_end_}, data_ + body_begin_ + body_bytes_);
        request_end_ += consumed;
        body_bytes_ += decoded;
        if (decoder_.state() == ChunkDecoder::State::more) {
            request_end_ = end_ = body_begin_ + body_bytes_;
            return false;
        }
        if (const auto& refusal = decoder_.refusal()) {
            if (refusal.status != 413) {
                refuse(refusal.status, refusal.detail);
            } else if (own_answer_.status != 0) {
                answer_without_body(own_answer_.status, own_answer_.detail);
            } else {
                answer_without_body(413, too_large(body_limit_));
            }
            return true;
        }
    }
    phase_ = Phase::ready;
    return true;
}

void Connection::set_request_views() {
    const auto question = line_.target.find('?');
    request_.method = line_.method;
    request_.target = line_.target;
    request_.path = line_.target.substr(0, question);
    request_.query = question == std::string_view::npos ? std::string_view() : line_.target.substr(question + 1);
    request_.fields = fields_;
    request_.body = {data_ + body_begin_, body_bytes_};
    request_.peer_address = peer_address_;
    request_.params = params_;
    request_.route = route_ != nullptr ? std::string_view(route_->path) : std::string_view();
}

AnswerShape Connection::shape() const noexcept {
    const bool close = !keep_alive_ || draining_;
    return {line_.method == Method::head, close, !close && line_.version == Version::http_1_0};
}

void Connection::answer(int status, std::string_view content_type, std::string_view header_lines,
                        std::string_view body) {
    append_response(output_, shape(), status, content_type, header_lines, body);
    finish(status);
}

void Connection::answer_rendered(std::string& rendered, int status, bool closes) {
    if (output_.empty()) {
        output_.swap(rendered);
    } else {
        output_.append(rendered);
        rendered.clear();
    }
    if (closes) keep_alive_ = false;
    finish(status);
}

void Connection::answer_error(int status, std::string_view detail) {
    render_error(status, detail, &request_);
    finish(status);
}

void Connection::refuse(int status, std::string_view detail) {
    if (status != 408) context_.counters.malformed.fetch_add(1, std::memory_order_relaxed);
    keep_alive_ = false;
    render_error(status, detail, nullptr);
    finish(status);
}

void Connection::render_error(int status, std::string_view detail, const Request* request) {
    std::string lines;
    if (!allow_.empty() && request != nullptr) lines.append("Allow: ").append(allow_).append("\r\n");
    Response response;
    if (status != 204) response = context_.error_body(status, detail, request);
    const bool says_when = std::any_of(response.headers.begin(), response.headers.end(), [](const auto& header) {
        return equal_ignoring_case(header.first, "retry-after");
    });
    if (status == 503 && !says_when) lines.append("Retry-After: 1\r\n");
    append_header_lines(response, lines);
    append_response(output_, shape(), status, response.content_type, lines, response.body);
}

void Connection::finish(int status) {
    if (context_.finished != nullptr) {
        context_.finished->push_back(
            {line_.method, route_ != nullptr ? std::string_view(route_->path) : std::string_view(), status, since_});
    }
    if (!keep_alive_ || draining_) {
        phase_ = Phase::closing;
        return;
    }
    phase_ = Phase::idle;
    begin_ = request_end_;
    if (begin_ == end_) begin_ = end_ = 0;
}

std::span<char> Connection::space() {
    if (phase_ == Phase::lingering) return context_.discard;
    if (idle() && capacity_ > kKeptBytes) release_block();
    const bool bulk = std::exchange(filled_, false) && phase_ != Phase::body;
    if (bulk && capacity_ < kKeptBytes) {
        make_room(kKeptBytes);
    } else if (end_ == capacity_) {
        // Only a header or a chunked body outgrows its room; a header is refused before it is twice its limit.
        const auto enough = phase_ == Phase::body ? scan_.end() + body_limit_ + kChunkSlack : 2 * capacity_;
        make_room(begin_ > 0 ? capacity_ : std::min(2 * capacity_, enough));
    }
    return {data_ + end_, capacity_ - end_};
}

void Connection::received(std::size_t bytes) {
    if (phase_ == Phase::lingering) {
        discarded_ += bytes;
        if (discarded_ > kMaxDiscardedBytes) phase_ = Phase::closed;
        return;
    }
    end_ += bytes;
    filled_ = end_ == capacity_;
}

void Connection::peer_closed() {
    if (phase_ == Phase::head || phase_ == Phase::body) {
        refuse(400, "the request was cut short");
    } else {
        phase_ = Phase::closed;
    }
}

std::string_view Connection::output() const noexcept {
    return std::string_view(output_).substr(sent_);
}

void Connection::sent(std::size_t bytes) {
    sent_ += bytes;
    if (sent_ < output_.size()) return;
    sent_ = 0;
    blocked_ = false;
    output_.clear();
    if (output_.capacity() > kKeptBytes) output_.shrink_to_fit();
}

void Connection::blocked(TimePoint now) {
    if (blocked_) return;
    blocked_ = true;
    write_deadline_ = now + context_.options.write_deadline;
}

TimePoint Connection::deadline() const noexcept {
    if (!blocked_) return deadline_;
    return phase_ == Phase::handling ? std::min(deadline_, write_deadline_) : write_deadline_;
}

void Connection::postpone(TimePoint deadline) noexcept {
    if (phase_ == Phase::handling) deadline_ = deadline;
}

void Connection::drain() noexcept {
    draining_ = true;
    if (idle() && !output_.empty()) phase_ = Phase::closing;
}

void Connection::expire(TimePoint now) {
    if (blocked_ && now >= write_deadline_) {
        context_.counters.deadline.fetch_add(1, std::memory_order_relaxed);
        reset_on_close_ = true;  // or the kernel would go on offering the rest to a peer that does not read
        phase_ = Phase::closed;
        return;
    }
    if (now < deadline_) return;
    switch (phase_) {
        case Phase::head:
        case Phase::body:
            context_.counters.deadline.fetch_add(1, std::memory_order_relaxed);
            refuse(408, phase_ == Phase::head ? "the header took too long" : "the body took too long");
            break;
        case Phase::handling:
            context_.counters.deadline.fetch_add(1, std::memory_order_relaxed);
            // Nothing is read into the request's buffer any more: its handler may still be looking at it.
            keep_alive_ = false;
            answer_error(503, "the request took too long");
            break;
        case Phase::idle:
        case Phase::lingering:
            phase_ = Phase::closed;
            break;
        case Phase::ready:
        case Phase::closing:
        case Phase::closed:
            break;
    }
}

void Connection::shed(std::string_view detail) {
    keep_alive_ = false;
    render_error(503, detail, nullptr);
    phase_ = Phase::closing;
}

void Connection::trim() noexcept {
    begin_ = end_ = 0;
    release_block();
    std::string().swap(output_);
    std::vector<Field>().swap(fields_);
    std::vector<std::string>().swap(params_);
    request_ = Request();
}

void Connection::release_block() noexcept {
    block_.reset();
    data_ = inline_.data();
    capacity_ = kInlineBytes;
    filled_ = false;
}

/// Moves the bytes from begin_ on to the front of `to`, and the offsets with them.
void Connection::move_request(char* to, std::size_t capacity) noexcept {
    std::memmove(to, data_ + begin_, end_ - begin_);
    data_ = to;
    capacity_ = capacity;
    end_ -= begin_;
    body_begin_ -= begin_;
    request_end_ -= begin_;
    begin_ = 0;
}

/// Makes `bytes` fit from begin_ on. The views of a parsed header are taken again when it moved.
void Connection::make_room(std::size_t bytes) {
    if (capacity_ - begin_ >= bytes) return;
    if (capacity_ >= bytes) {
        move_request(data_, capacity_);
    } else {
        auto block = std::make_unique_for_overwrite<char[]>(bytes);
        move_request(block.get(), bytes);
        block_ = std::move(block);
    }
    if (phase_ == Phase::body) {
        // The same bytes parsed a moment ago, so there is no refusal to look at.
        const auto block = unread().substr(scan_.begin(), scan_.end() - scan_.begin());
        static_cast<void>(parse_header_block(block, line_, fields_));
    }
}

}  // namespace tidemark::http
