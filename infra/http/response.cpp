#include "infra/http/response.h"

#include <ctime>

#include <array>
#include <cassert>
#include <charconv>
#include <cstddef>
#include <cstring>

namespace tidemark::http {
namespace {

/// "Sun, 06 Nov 1994 08:49:37 GMT", formatted at most once per second and thread.
class DateCache {
public:
    std::string_view now() noexcept {
        timespec time{};
        if (clock_gettime(CLOCK_REALTIME_COARSE, &time) == 0 && time.tv_sec != second_) format(time.tv_sec);
        return {text_.data(), text_.size()};
    }

private:
    void format(time_t second) noexcept {
        static constexpr std::array<const char*, 7> kDays = {"Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"};
        static constexpr std::array<const char*, 12> kMonths = {"Jan", "Feb", "Mar", "Apr", "May", "Jun",
                                                                "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"};
        tm parts{};
        if (gmtime_r(&second, &parts) == nullptr) return;
        put_text(0, kDays[static_cast<std::size_t>(parts.tm_wday)]);
        put_number(5, 2, parts.tm_mday);
        put_text(8, kMonths[static_cast<std::size_t>(parts.tm_mon)]);
        put_number(12, 4, parts.tm_year + 1900);
        put_number(17, 2, parts.tm_hour);
        put_number(20, 2, parts.tm_min);
        put_number(23, 2, parts.tm_sec);
        second_ = second;
    }

    void put_text(std::size_t at, const char* three) noexcept {
        for (std::size_t i = 0; i < 3; ++i)
            text_[at + i] = three[i];
    }

    void put_number(std::size_t at, std::size_t digits, int value) noexcept {
        for (std::size_t i = digits; i-- > 0; value /= 10)
            text_[at + i] = static_cast<char>('0' + value % 10);
    }

    time_t second_ = -1;
    std::array<char, 29> text_ =
        std::to_array({'T', 'h', 'u', ',', ' ', '0', '1', ' ', 'J', 'a', 'n', ' ', '1', '9', '7',
                       '0', ' ', '0', '0', ':', '0', '0', ':', '0', '0', ' ', 'G', 'M', 'T'});
};

std::string_view date_now() noexcept {
    thread_local DateCache cache;
    return cache.now();
}

/// The part of a head that has a bound, put together on the stack and appended at once: a third of the instructions of
/// appending each piece to a string.
class FixedHead {
public:
    FixedHead& operator<<(std::string_view text) noexcept {
        assert(text.size() <= static_cast<std::size_t>(bytes_.end() - end_));
        std::memcpy(end_, text.data(), text.size());
        end_ += text.size();
        return *this;
    }

    FixedHead& operator<<(std::size_t number) noexcept {
        end_ = std::to_chars(end_, bytes_.end(), number).ptr;
        return *this;
    }

    [[nodiscard]] std::string_view text() const noexcept {
        return {bytes_.begin(), static_cast<std::size_t>(end_ - bytes_.begin())};
    }

private:
    std::array<char, 192> bytes_;  // the longest there can be takes under 160
    char* end_ = bytes_.begin();
};

}  // namespace

std::string_view reason_phrase(int status) noexcept {
    switch (status) {
        case 100:
            return "Continue";
        case 200:
            return "OK";
        case 201:
            return "Created";
        case 202:
            return "Accepted";
        case 204:
            return "No Content";
        case 206:
            return "Partial Content";
        case 207:
            return "Multi-Status";
        case 301:
            return "Moved Permanently";
        case 302:
            return "Found";
        case 303:
            return "See Other";
        case 304:
            return "Not Modified";
        case 307:
            return "Temporary Redirect";
        case 308:
            return "Permanent Redirect";
        case 400:
            return "Bad Request";
        case 401:
            return "Unauthorized";
        case 403:
            return "Forbidden";
        case 404:
            return "Not Found";
        case 405:
            return "Method Not Allowed";
        case 406:
            return "Not Acceptable";
        case 408:
            return "Request Timeout";
        case 409:
            return "Conflict";
        case 410:
            return "Gone";
        case 412:
            return "Precondition Failed";
        case 413:
            return "Content Too Large";
        case 414:
            return "URI Too Long";
        case 415:
            return "Unsupported Media Type";
        case 422:
            return "Unprocessable Content";
        case 428:
            return "Precondition Required";
        case 429:
            return "Too Many Requests";
        case 431:
            return "Request Header Fields Too Large";
        case 500:
            return "Internal Server Error";
        case 501:
            return "Not Implemented";
        case 502:
            return "Bad Gateway";
        case 503:
            return "Service Unavailable";
        case 504:
            return "Gateway Timeout";
        default:
            return "Unknown";
    }
}

void append_response(std::string& out, const AnswerShape& shape, int status, std::string_view content_type,
                     std::string_view header_lines, std::string_view body) {
    const bool has_body = status != 204 && status != 304;
    FixedHead head;
    head << "HTTP/1.1 " << static_cast<std::size_t>(status) << " " << reason_phrase(status)
         << "\r\nServer: tidemark\r\nDate: " << date_now() << "\r\n";
    if (has_body) head << "Content-Length: " << body.size() << "\r\n";
    // Beside the head and what is given: the names and line ends below.
    out.reserve(out.size() + head.text().size() + 64 + content_type.size() + header_lines.size() + body.size());
    out.append(head.text());
    if (has_body && !content_type.empty()) out.append("Content-Type: ").append(content_type).append("\r\n");
    out.append(header_lines);
    if (shape.close) {
        out.append("Connection: close\r\n");
    } else if (shape.confirm_keep_alive) {
        out.append("Connection: keep-alive\r\n");
    }
    out.append("\r\n");
    if (has_body && !shape.omit_body) out.append(body);
}

}  // namespace tidemark::http
