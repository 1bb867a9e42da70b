#pragma once

#include <string>
#include <string_view>

namespace tidemark::http {

/// What the request and the connection decide about its answer's form.
struct AnswerShape {
    bool omit_body = false;           ///< the answer to HEAD: Content-Length is told, the body is not sent
    bool close = false;               ///< the last answer of its connection
    bool confirm_keep_alive = false;  ///< HTTP/1.0 needs to be told that the connection stays
};

/// Appends one complete answer. `header_lines` is zero or more complete "Name: value\r\n" lines. A status that has no
/// body by definition (204, 304) drops it. Any thread.
void append_response(std::string& out, const AnswerShape& shape, int status, std::string_view content_type,
                     std::string_view header_lines, std::string_view body);

/// The reason phrase of RFC 9110, "Unknown" without one.
std::string_view reason_phrase(int status) noexcept;

}  // namespace tidemark::http
