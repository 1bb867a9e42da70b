#include "infra/http/operations.h"

#include <atomic>
#include <memory>
#include <mutex>
#include <utility>

namespace tidemark::http {
namespace {

constexpr std::string_view kPrometheusText = "text/plain; version=0.0.4; charset=utf-8";
constexpr std::string_view kPlainText = "text/plain; charset=utf-8";
constexpr std::string_view kNoStore = "Cache-Control: no-store\r\n";

/// `text` as the inside of a JSON string. The reasons come from our own programs; control characters become spaces.
void append_escaped(std::string& out, std::string_view text) {
    for (const char c : text) {
        if (c == '"' || c == '\\') out.push_back('\\');
        out.push_back(static_cast<unsigned char>(c) < 0x20 ? ' ' : c);
    }
}

std::string_view title_of(int status) noexcept {
    switch (status) {
        case 400:
            return "Bad Request";
        case 404:
            return "Not Found";
        case 405:
            return "Method Not Allowed";
        case 408:
            return "Request Timeout";
        case 413:
            return "Content Too Large";
        case 414:
            return "URI Too Long";
        case 415:
            return "Unsupported Media Type";
        case 431:
            return "Request Header Fields Too Large";
        case 500:
            return "Internal Server Error";
        case 501:
            return "Not Implemented";
        case 503:
            return "Service Unavailable";
        default:
            return "Error";
    }
}

struct Readiness {
    std::function<std::optional<std::string>()> not_ready_because;
    ErrorBody problem;
    std::atomic<bool> was_ready{false};

    void answer(const Request& request, Reply reply, bool once_is_enough) {
        if (once_is_enough && was_ready.load(std::memory_order_relaxed)) {
            reply.send(200, kPlainText, kNoStore, "started\n");
            return;
        }
        if (const auto reason = not_ready_because()) {
            auto response = problem(503, *reason, &request);
            response.headers.emplace_back("Cache-Control", "no-store");
            reply.send(response);
            return;
        }
        was_ready.store(true, std::memory_order_relaxed);
        reply.send(200, kPlainText, kNoStore, once_is_enough ? "started\n" : "ready\n");
    }
};

}  // namespace

Response plain_problem(int status, std::string_view detail, const Request*) {
    Response response;
    response.status = status;
    response.content_type = "application/problem+json";
    if (status == 503) response.headers.emplace_back("Retry-After", "1");
    auto& body = response.body;
    body.append(R"({"type":"about:blank","title":")").append(title_of(status)).append(R"(","status":)");
    body.append(std::to_string(status)).append(R"(,"detail":")");
    append_escaped(body, detail);
    body.append(R"(","error":")");
    append_escaped(body, detail);
    body.append("\"}");
    return response;
}

void add_operations(Router& router, const base::Metrics& metrics,
                    std::function<std::optional<std::string>()> not_ready_because, OperationsOptions options) {
    struct Scrape {
        std::mutex mutex;  // guards calls of `refresh`
        std::function<void()> refresh;
    };
    auto scrape = std::make_shared<Scrape>();
    scrape->refresh = std::move(options.refresh);
    router.add({Method::get, "/metrics", [&metrics, scrape](const Request&, Reply reply) {
                    if (scrape->refresh) {
                        const std::lock_guard lock(scrape->mutex);
                        scrape->refresh();
                    }
                    reply.send(200, kPrometheusText, kNoStore, metrics.render());
                }});
    router.add(
        {Method::get, "/livez", [](const Request&, Reply reply) { reply.send(200, kPlainText, kNoStore, "alive\n"); }});

    auto readiness = std::make_shared<Readiness>();
    readiness->not_ready_because = std::move(not_ready_because);
    readiness->problem = std::move(options.problem);
    router.add({Method::get, "/readyz", [readiness](const Request& request, Reply reply) {
                    readiness->answer(request, std::move(reply), false);
                }});
    router.add({Method::get, "/startupz", [readiness](const Request& request, Reply reply) {
                    readiness->answer(request, std::move(reply), true);
                }});
}

}  // namespace tidemark::http
