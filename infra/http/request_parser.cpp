#include "infra/http/request_parser.h"

// g++ 12 with sanitizers takes an empty boost::optional in here for an uninitialised one.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <boost/asio/buffer.hpp>
#include <boost/beast/http/basic_parser.hpp>
#include <boost/beast/http/error.hpp>
#include <boost/beast/http/verb.hpp>
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic pop
#endif

#include <cstdint>
#include <limits>

namespace tidemark::http {
namespace {

namespace beast = boost::beast;

std::string_view to_std(beast::string_view text) noexcept {
    return {text.data(), text.size()};
}

Method to_method(beast::http::verb verb) noexcept {
    switch (verb) {
        case beast::http::verb::get:
            return Method::get;
        case beast::http::verb::head:
            return Method::head;
        case beast::http::verb::post:
            return Method::post;
        case beast::http::verb::put:
            return Method::put;
        case beast::http::verb::patch:
            return Method::patch;
        case beast::http::verb::delete_:
            return Method::del;
        case beast::http::verb::options:
            return Method::options;
        default:
            return Method::other;
    }
}

/// Takes the header only. Bodies are framed by us: for a chunked one this version accepts what we refuse, and its
/// assert `n >= 5` ends the process when the last chunk's "0\r\n" arrives alone.
class HeaderParser final : public beast::http::basic_parser<true> {
public:
    HeaderParser(RequestLine& line, std::vector<Field>& fields) : line_(line), fields_(fields) {
        skip(true);
        header_limit(std::numeric_limits<std::uint32_t>::max());  // the scan has applied ours
    }

private:
    void on_request_impl(beast::http::verb verb, beast::string_view, beast::string_view target, int version,
                         beast::error_code&) override {
        line_.method = to_method(verb);
        line_.target = to_std(target);
        line_.version = version == 11 ? Version::http_1_1 : Version::http_1_0;
    }

    void on_field_impl(beast::http::field, beast::string_view name, beast::string_view value,
                       beast::error_code&) override {
        fields_.push_back({to_std(name), to_std(value)});
    }

    void on_response_impl(int, beast::string_view, int, beast::error_code&) override {}
    void on_header_impl(beast::error_code&) override {}
    void on_body_init_impl(const boost::optional<std::uint64_t>&, beast::error_code&) override {}
    std::size_t on_body_impl(beast::string_view, beast::error_code&) override { return 0; }
    void on_chunk_header_impl(std::uint64_t, beast::string_view, beast::error_code&) override {}
    std::size_t on_chunk_body_impl(std::uint64_t, beast::string_view, beast::error_code&) override { return 0; }
    void on_finish_impl(beast::error_code&) override {}

    RequestLine& line_;
    std::vector<Field>& fields_;
};

std::string_view describe(const beast::error_code& error) noexcept {
    using HttpError = beast::http::error;
    if (error == HttpError::bad_method) return "the method is not a token";
    if (error == HttpError::bad_target) return "the request target is malformed";
    if (error == HttpError::bad_version) return "the version must be HTTP/1.1 or HTTP/1.0";
    if (error == HttpError::bad_field) return "a header field's name is malformed";
    if (error == HttpError::bad_value) return "a header field's value is malformed";
    if (error == HttpError::bad_content_length)
        return "Content-Length is malformed, repeated, or beside Transfer-Encoding";
    if (error == HttpError::bad_transfer_encoding) return "Transfer-Encoding is repeated, or beside Content-Length";
    return "the request is malformed";
}

}  // namespace

Refusal parse_header_block(std::string_view block, RequestLine& line, std::vector<Field>& fields) {
    fields.clear();
    HeaderParser parser(line, fields);
    beast::error_code error;
    const auto used = parser.put(boost::asio::const_buffer(block.data(), block.size()), error);
    if (error) return {400, describe(error)};
    // The scan and the parser must agree on where the header ends, or one of them could be talked into another request.
    if (!parser.is_done() || used != block.size()) return {400, "the header block is malformed"};
    return {};
}

}  // namespace tidemark::http
