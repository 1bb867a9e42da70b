// Bytes of a client -> framing guard -> requests: what is handled does not depend on how the bytes were cut, and each
// request that was handled, written down in the plainest form, is that request again. A byte that one reading takes for
// body and another for a request (smuggling) breaks one or the other.

#include "target.h"

#include "infra/http/connection.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

namespace {

using namespace tidemark::http;
using tidemark::fuzz::require;

struct Heard {
    std::vector<std::string> requests;  ///< method and target, a line end, the body
    std::vector<std::string> plain;     ///< the same as bytes for the wire
    std::string statuses;

    bool operator==(const Heard& other) const { return requests == other.requests && statuses == other.statuses; }
};

const Router& routes() {
    static const Router router = [] {
        Router made;
        const auto never = [](const Request&, Reply) {};
        made.add({Method::get, "/", never, 100, {}});
        made.add({Method::post, "/a", never, 5'000, {}});
        made.add({Method::put, "/b/{x}/{y}", never, 30, {}});
        return made;
    }();
    return router;
}

/// The status codes alone: dates stay out of the comparison.
// The final ones: "100 Continue" is only said to a client whose body is not there yet, so the cut may show in it.
void note_statuses(std::string_view output, std::string& statuses) {
    for (auto at = output.find("HTTP/1.1 "); at != std::string_view::npos; at = output.find("HTTP/1.1 ", at + 1)) {
        const auto status = output.substr(at + 9, 3);
        if (status != "100") statuses.append(status).push_back(' ');
    }
}

Heard listen(std::string_view bytes, std::size_t step) {
    static const ServerOptions options;
    static const ErrorBody error_body = [](int, std::string_view, const Request*) { return Response(); };
    SharedCounters counters;
    std::array<char, 64> discard{};
    const ConnectionContext context{options, routes(), error_body, counters, nullptr, discard};
    Connection connection(context, "192.0.2.1");
    Heard heard;
    const TimePoint now{};
    while (true) {
        switch (connection.advance(now)) {
            case Connection::Next::handle: {
                const auto& request = connection.request();
                require(request.route == connection.route().path, "a request is handled by its route");
                require(request.body.size() <= connection.route().max_body_bytes, "a body keeps to its limit");
                auto start = std::string(to_string(request.method)) + " " + std::string(request.target);
                heard.plain.push_back(start + " HTTP/1.1\r\nHost: a\r\nContent-Length: " +
                                      std::to_string(request.body.size()) + "\r\n\r\n" + std::string(request.body));
                heard.requests.push_back(start + "\n" + std::string(request.body));
                connection.answer(200, {}, {}, {});
                break;
            }
            case Connection::Next::write:
                note_statuses(connection.output(), heard.statuses);
                connection.sent(connection.output().size());
                break;
            case Connection::Next::read: {
                if (bytes.empty()) {
                    connection.peer_closed();
                    break;
                }
                const auto space = connection.space();
                require(!space.empty(), "there is room to read to");
                const auto n = std::min({step, space.size(), bytes.size()});
                std::memcpy(space.data(), bytes.data(), n);
                connection.received(n);
                bytes.remove_prefix(n);
                break;
            }
            case Connection::Next::linger:
                break;
            case Connection::Next::wait:
                require(false, "every request was answered");
                break;
            case Connection::Next::close:
                return heard;
        }
    }
}

}  // namespace

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const auto bytes = tidemark::fuzz::as_text(data, size);
    const auto whole = listen(bytes, size + 1);
    const auto step = size == 0 ? 1 : 1 + data[size / 2] % 37U;
    require(listen(bytes, step) == whole, "how the bytes are cut does not matter");
    if (size < 4'096) require(listen(bytes, 1) == whole, "byte by byte they mean the same");
    for (std::size_t i = 0; i < whole.plain.size(); ++i) {
        const auto again = listen(whole.plain[i], size + 1'000);
        require(again.requests.size() == 1 && again.requests[0] == whole.requests[i], "one request is one request");
    }
    return 0;
}
