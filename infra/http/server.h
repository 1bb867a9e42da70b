#pragma once

#include "infra/http/router.h"

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

namespace tidemark::http {

/// Limits are total deadlines, never per read. The numbers are the strictest that common clients live with.
struct ServerOptions {
    std::string address = "127.0.0.1";     ///< numeric; `::` listens on IPv4, too
    std::uint16_t port = 3333;             ///< 0: a free port, see Server::port()
    unsigned threads = 0;                  ///< event loops, each with its own SO_REUSEPORT acceptor; 0: one per core
    std::size_t max_connections = 10'000;  ///< over all loops; new ones are answered 503 and closed from 90 % on
    std::size_t max_connections_per_peer = 0;       ///< 0: no cap (loopback, or behind a proxy)
    std::uint32_t max_requests_per_connection = 0;  ///< 0: no cap
    std::size_t max_header_bytes = 8 * 1024;
    std::size_t max_header_fields = 64;
    std::size_t max_target_bytes = 2 * 1024;
    std::chrono::milliseconds header_deadline{5'000};
    std::chrono::milliseconds body_deadline{5'000};
    std::chrono::milliseconds handler_deadline{
        6'000};  ///< above the publisher's 5 s, so that its own answer comes first
    std::chrono::milliseconds write_deadline{10'000};
    std::chrono::milliseconds idle_deadline{30'000};
};

/// How the server words the answers it makes itself (400, 404, 405, 408, 413, 414, 415, 431, 500, 501, 503). Called on
/// the loops' threads, by several at once. `request` is null when there is none that could be believed, and its body is
/// empty when it was not read. The response's own status is ignored; `Allow` is added to it, and `Retry-After: 1` to a
/// 503 without one.
using ErrorBody = std::function<Response(int status, std::string_view detail, const Request* request)>;

/// One finished exchange, for metrics; called on the loop's thread, must not block or throw.
struct Exchange {
    Method method;
    std::string_view route;  ///< template, or empty when no route matched
    int status;
    std::chrono::nanoseconds duration;  ///< from the request's last byte to the answer being handed to the kernel; a
                                        ///< peer that reads slowly is not waited for
};
using Observer = std::function<void(const Exchange&)>;

struct ServerCounters {
    std::uint64_t accepted = 0;
    std::uint64_t open = 0;
    std::uint64_t shed = 0;             ///< refused for want of a slot or a descriptor
    std::uint64_t malformed = 0;        ///< framing refused, connection closed
    std::uint64_t deadline = 0;         ///< closed or answered because a deadline passed; idle ones are not counted
    std::uint64_t dropped_replies = 0;  ///< handlers that lost their Reply: bugs
};

/// An HTTP/1.1 server: one event loop and acceptor per thread. `start`, once, binds and returns; errors of binding
/// throw std::system_error, and a port that another process listens on is one. Requests of a connection are handled one
/// at a time, in order. One whose handler lets the deadline pass is answered 503 and its connection closed; what a
/// handler throws is logged and answered 500.
///
/// `drain` stops accepting, closes idle connections at once, lets outstanding requests be answered (`Connection:
/// close`) for at most `limit`, closes the rest and joins the threads; the destructor drains with no patience. One
/// thread starts, drains and destroys. The router, and all that handlers use, must outlive the server; Replies may
/// outlive it and then send nothing.
class Server {
public:
    Server(ServerOptions options, const Router& router, ErrorBody error_body, Observer observer = {});
    ~Server();
    Server(const Server&) = delete;
    Server& operator=(const Server&) = delete;

    void start();
    [[nodiscard]] std::uint16_t port() const noexcept;
    void drain(std::chrono::milliseconds limit);
    [[nodiscard]] ServerCounters counters() const noexcept;

private:
    class Impl;
    std::unique_ptr<Impl> impl_;
};

}  // namespace tidemark::http
