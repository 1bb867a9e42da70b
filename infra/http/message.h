#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace tidemark::http {

enum class Method : std::uint8_t { get, head, post, put, patch, del, options, other };

/// The method's token as it stands on the wire; "OTHER" for `other`.
std::string_view to_string(Method method) noexcept;

struct Field {
    std::string_view name;
    std::string_view value;
};

/// One parsed, framed and bounded request. All views point into the session's buffer: they stay valid until the
/// `Reply` that came with the request has been sent or dropped, and not a moment longer.
struct Request {
    Method method = Method::other;
    std::string_view target;        ///< origin-form as sent: path, then `?query`; at most 2 KiB of printable ASCII
    std::string_view path;          ///< target up to `?`, still percent-encoded
    std::string_view query;         ///< after `?`, still percent-encoded; empty without one
    std::span<const Field> fields;  ///< header fields in order of arrival; trailers are refused by the server
    std::string_view body;          ///< decoded of any chunking
    std::string_view peer_address;  ///< textual address of the peer, without port
    std::span<const std::string> params;  ///< decoded `{...}` segments of the matched route, in template order
    std::string_view route;               ///< template of the matched route ("/vehicles/{id}"); empty when none matched

    /// First field of that name, compared without case; nullopt when absent.
    [[nodiscard]] std::optional<std::string_view> field(std::string_view name) const noexcept;
};

/// One answer. `headers` are sent as given but for control characters, which become spaces; they exclude what the
/// server itself writes: Content-Length, Date, Connection, Server and, when `content_type` is not empty, Content-Type.
struct Response {
    int status = 200;
    std::string_view content_type;  ///< must outlive the send call only
    std::vector<std::pair<std::string_view, std::string>> headers;
    std::string body;
};

/// Where an answer goes. One-shot: the first `send` wins, later ones do nothing. Movable, callable from any thread;
/// keeps the session alive. Dropped without an answer, it answers 500 (a bug in the handler, counted).
/// After the server's handler deadline the server has answered 503 itself and `send` has no effect.
class Reply {
public:
    /// What a `Reply` stands on; the server's session implements it.
    class Target {
    public:
        virtual ~Target() = default;
        /// `ticket` tells the outstanding request from earlier ones of the same session. Returns false when it was too
        /// late. `status` is kDropped, and the rest empty, for a Reply that was dropped without an answer.
        virtual bool complete(std::uint64_t ticket, int status, std::string_view content_type,
                              std::string_view header_lines, std::string_view body) noexcept = 0;
        /// Prolongs the handler deadline of the outstanding request to `milliseconds` from now.
        virtual void extend(std::uint64_t ticket, std::uint32_t milliseconds) noexcept = 0;
    };

    static constexpr int kDropped = 0;

    Reply() = default;
    Reply(std::shared_ptr<Target> target, std::uint64_t ticket) noexcept
        : target_(std::move(target)), ticket_(ticket) {}
    Reply(Reply&&) noexcept = default;
    Reply& operator=(Reply&& other) noexcept;
    Reply(const Reply&) = delete;
    Reply& operator=(const Reply&) = delete;
    ~Reply();

    /// Sends and disarms. `header_lines` is zero or more complete "Name: value\r\n" lines. Allocates nothing itself.
    bool send(int status, std::string_view content_type, std::string_view header_lines, std::string_view body) noexcept;
    bool send(const Response& response);

    /// For waiting reads, whose deadline is their own: the server's handler deadline moves to `milliseconds` from now.
    void extend_deadline(std::uint32_t milliseconds) noexcept;

    explicit operator bool() const noexcept { return target_ != nullptr; }

private:
    std::shared_ptr<Target> target_;
    std::uint64_t ticket_ = 0;
};

/// Appends the response's headers as complete "Name: value\r\n" lines.
void append_header_lines(const Response& response, std::string& lines);

/// Percent-decodes one path segment (`plus_is_space` = false) or one query part (true). Nullopt: a broken escape or
/// `%00`.
std::optional<std::string> percent_decode(std::string_view text, bool plus_is_space);
/// The same into storage that is reused; false for a broken escape or `%00`, and then `decoded` is unspecified.
bool percent_decode(std::string_view text, bool plus_is_space, std::string& decoded);

/// Query parameters in order of arrival, decoded. Nullopt when one of them does not decode. An empty name is kept; an
/// empty part (`a=1&&b=2`) is not a parameter.
std::optional<std::vector<std::pair<std::string, std::string>>> parse_query(std::string_view query);

}  // namespace tidemark::http
