#include "infra/http/message.h"

#include "infra/http/ascii.h"

namespace tidemark::http {
namespace {

int hex_digit(char c) noexcept {
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    return -1;
}

bool is_control(char c) noexcept {
    const auto byte = static_cast<unsigned char>(c);
    return byte < 0x20 || byte == 0x7f;
}

}  // namespace

std::string_view to_string(Method method) noexcept {
    switch (method) {
        case Method::get:
            return "GET";
        case Method::head:
            return "HEAD";
        case Method::post:
            return "POST";
        case Method::put:
            return "PUT";
        case Method::patch:
            return "PATCH";
        case Method::del:
            return "DELETE";
        case Method::options:
            return "OPTIONS";
        case Method::other:
            break;
    }
    return "OTHER";
}

std::optional<std::string_view> Request::field(std::string_view name) const noexcept {
    for (const auto& each : fields) {
        if (equal_ignoring_case(each.name, name)) return each.value;
    }
    return std::nullopt;
}

Reply& Reply::operator=(Reply&& other) noexcept {
    Reply replaced(std::move(*this));
    target_ = std::move(other.target_);
    ticket_ = other.ticket_;
    return *this;
}

Reply::~Reply() {
    if (target_) target_->complete(ticket_, kDropped, {}, {}, {});
}

bool Reply::send(int status, std::string_view content_type, std::string_view header_lines,
                 std::string_view body) noexcept {
    const auto target = std::move(target_);
    return target != nullptr && target->complete(ticket_, status, content_type, header_lines, body);
}

bool Reply::send(const Response& response) {
    std::string lines;
    append_header_lines(response, lines);
    return send(response.status, response.content_type, lines, response.body);
}

void Reply::extend_deadline(std::uint32_t milliseconds) noexcept {
    if (target_) target_->extend(ticket_, milliseconds);
}

void append_header_lines(const Response& response, std::string& lines) {
    for (const auto& [name, value] : response.headers) {
        lines.append(name).append(": ");
        // A value that reflects input must not be able to start a line of its own.
        for (const char c : value)
            lines.push_back(is_control(c) ? ' ' : c);
        lines.append("\r\n");
    }
}

bool percent_decode(std::string_view text, bool plus_is_space, std::string& decoded) {
    decoded.clear();
    for (std::size_t i = 0; i < text.size(); ++i) {
        const char c = text[i];
        if (c == '+' && plus_is_space) {
            decoded.push_back(' ');
        } else if (c != '%') {
            decoded.push_back(c);
        } else {
            if (text.size() - i < 3) return false;
            const int high = hex_digit(text[i + 1]);
            const int low = hex_digit(text[i + 2]);
            if (high < 0 || low < 0 || (high == 0 && low == 0)) return false;
            decoded.push_back(static_cast<char>(high * 16 + low));
            i += 2;
        }
    }
    return true;
}

std::optional<std::string> percent_decode(std::string_view text, bool plus_is_space) {
    std::string decoded;
    if (!percent_decode(text, plus_is_space, decoded)) return std::nullopt;
    return decoded;
}

std::optional<std::vector<std::pair<std::string, std::string>>> parse_query(std::string_view query) {
    std::vector<std::pair<std::string, std::string>> parameters;
    while (!query.empty()) {
        const auto end = query.find('&');
        const auto part = query.substr(0, end);
        query.remove_prefix(end == std::string_view::npos ? query.size() : end + 1);
        if (part.empty()) continue;
        const auto equals = part.find('=');
        auto name = percent_decode(part.substr(0, equals), true);
        auto value =
            percent_decode(equals == std::string_view::npos ? std::string_view() : part.substr(equals + 1), true);
        if (!name || !value) return std::nullopt;
        parameters.emplace_back(std::move(*name), std::move(*value));
    }
    return parameters;
}

}  // namespace tidemark::http
