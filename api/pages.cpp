#include "api/pages.h"

#include "api/problem.h"
#include "api/request.h"
#include "api/routes.h"
#include "schemas/json.h"

#include <algorithm>
#include <utility>
#include <vector>

namespace tidemark::api {
namespace {

constexpr std::string_view kJson = "application/json";
constexpr std::string_view kHtml = "text/html; charset=utf-8";
constexpr std::string_view kCached = "Cache-Control: no-cache\r\n";
/// The page has no script and nothing from elsewhere, and says so.
constexpr std::string_view kPageLines =
    "Cache-Control: no-cache\r\nContent-Security-Policy: default-src 'none'; style-src 'unsafe-inline'\r\n"
    "X-Content-Type-Options: nosniff\r\n";

void append_problem(std::string& out, const ProblemType& type) {
    using schemas::json::append_string;
    out.append(R"({"type":"/problems/)").append(type.name).append(R"(","title":)");
    append_string(out, type.title);
    out.append(R"(,"status":)").append(std::to_string(type.status)).append(R"(,"meaning":)");
    append_string(out, type.meaning);
    out.append(R"(,"remedy":)");
    append_string(out, type.remedy);
    out.push_back('}');
}

void get_problem(const http::Request& request, http::Reply reply) {
    const auto* type = find_problem_type(request.params[0]);
    if (type == nullptr) {
        send_problem(reply, {.type = &problems::kNotFound, .detail = "Not Found"}, trace_of(request));
        return;
    }
    std::string body;
    append_problem(body, *type);
    reply.send(200, kJson, kCached, body);
}

/// Route templates have no character that HTML gives a meaning to.
std::string page_of(const http::Router& router) {
    std::vector<std::pair<std::string, std::string>> routes;  // path, method
    for (const auto& route : router.routes())
        routes.emplace_back(route.path, http::to_string(route.method));
    std::sort(routes.begin(), routes.end());
    std::string page = R"(<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Tidemark</title>
<style>body{font:16px/1.5 system-ui,sans-serif;max-width:48em;margin:2em auto;padding:0 1em}td{padding:.1em 1em .1em 0}</style></head>
<body><h1>Tidemark</h1>
<p>Events come in by HTTP, are durable once Kafka has them, and are folded into PostgreSQL tables that are read back here.</p>
<p><a href="/openapi.json">openapi.json</a> describes every route; <a href="/status">status</a> says how far the tables are.</p>
<table>
)";
    for (const auto& [path, method] : routes) {
        page.append("<tr><td><code>")
            .append(method)
            .append("</code></td><td><code>")
            .append(path)
            .append("</code></td></tr>\n");
    }
    return page.append("</table></body></html>\n");
}

}  // namespace

void add_plain(http::Router& router, std::string path, http::Handler handler) {
    router.add({.method = http::Method::get,
                .path = std::move(path),
                .handler = [handler = std::move(handler)](const http::Request& request, http::Reply reply) {
                    schemas::Violations violations;
                    const Query query(request.query, {}, violations);
                    if (violations.empty()) {
                        handler(request, std::move(reply));
                        return;
                    }
                    send_problem(reply, {.type = &problems::kInvalidRequest, .violations = std::move(violations)},
                                 trace_of(request));
                }});
}

void add_pages(http::Router& router) {
    add_plain(router, "/openapi.json",
              [](const http::Request&, http::Reply reply) { reply.send(200, kJson, kCached, openapi()); });
    add_plain(router, "/problems/{name}", get_problem);
    const auto page = std::make_shared<std::string>();
    const auto get_page = [page](const http::Request&, http::Reply reply) {
        reply.send(200, kHtml, kPageLines, *page);
    };
    add_plain(router, "/", get_page);
    add_plain(router, "/docs", get_page);
    *page = page_of(router);
}

}  // namespace tidemark::api
