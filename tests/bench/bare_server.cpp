// bench-bare-server PORT THREADS [metered]: the project's HTTP server with a handler that does nothing, the floor that
// the API's cost per request is compared with. Answers 202 to POST /increment until SIGTERM or SIGINT. `metered`: with
// the API's metrics, for their price.

#include "api/telemetry.h"
#include "infra/base/metrics.h"
#include "infra/http/server.h"

#include <pthread.h>
#include <signal.h>

#include <charconv>
#include <cstdio>
#include <cstring>
#include <exception>
#include <string_view>

namespace {

using namespace tidemark;

template <typename Number>
bool parse(const char* text, Number& number) {
    const auto* end = text + std::strlen(text);
    const auto [stop, error] = std::from_chars(text, end, number);
    return error == std::errc() && stop == end;
}

int serve(std::uint16_t port, unsigned threads, bool metered) {
    sigset_t stop;
    sigemptyset(&stop);
    sigaddset(&stop, SIGTERM);
    sigaddset(&stop, SIGINT);
    pthread_sigmask(SIG_BLOCK, &stop, nullptr);

    http::Router router;
    router.add({.method = http::Method::post,
                .path = "/increment",
                .handler = [](const http::Request&, http::Reply reply) { reply.send(202, {}, {}, {}); },
                .media_types = {"application/json"}});
    http::ServerOptions options;
    options.port = port;
    options.threads = threads;
    const auto problem = [](int status, std::string_view detail, const http::Request*) {
        return http::Response{
            .status = status, .content_type = "text/plain", .headers = {}, .body = std::string(detail)};
    };
    base::Metrics metrics;
    api::Telemetry telemetry(metrics);
    http::Observer observer;
    if (metered) observer = [&telemetry](const http::Exchange& exchange) { telemetry.observe(exchange); };
    http::Server server(options, router, problem, observer);
    server.start();
    std::printf("listening on 127.0.0.1:%u\n", static_cast<unsigned>(server.port()));
    std::fflush(stdout);

    int received = 0;
    sigwait(&stop, &received);
    server.drain(std::chrono::seconds(1));
    return 0;
}

}  // namespace

int main(int argc, char** argv) {
    std::uint16_t port = 0;
    unsigned threads = 0;
    const bool metered = argc == 4 && std::string_view(argv[3]) == "metered";
    if ((argc != 3 && !metered) || !parse(argv[1], port) || !parse(argv[2], threads)) {
        std::fputs("usage: bench-bare-server PORT THREADS [metered]\n", stderr);
        return 2;
    }
    try {
        return serve(port, threads, metered);
    } catch (const std::exception& error) {
        std::fprintf(stderr, "bench-bare-server: %s\n", error.what());
        return 1;
    }
}
