#pragma once

#include "infra/http/message.h"

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace tidemark::http {

/// Answers a request, now or later, from any thread, by `reply`. Must not block: it runs on the connection's event
/// loop.
using Handler = std::function<void(const Request&, Reply)>;

/// A route and its limits. `path` is split on `/`; a segment in braces matches one segment and is decoded once.
struct Route {
    Method method;
    std::string path;
    Handler handler;
    std::size_t max_body_bytes = 16 * 1024;  ///< decoded bytes; more is 413
    std::vector<std::string> media_types =
        {};  ///< accepted request Content-Types (without parameters); empty: no body is expected, any type is ignored
};

/// The routing table: fixed before the server starts, then read by every loop. HEAD is served by GET's route (the
/// server drops the body); OPTIONS and 405 list the methods of the path in `Allow`.
class Router {
public:
    Router();
    ~Router();
    Router(Router&&) noexcept;
    Router& operator=(Router&&) noexcept;

    /// Throws std::invalid_argument for a path that does not start with `/`, a method and path added before, a missing
    /// handler, or a method that the server serves by itself (HEAD, OPTIONS) or not at all (`other`).
    void add(Route route);

    struct Match {
        const Route* route = nullptr;  ///< null: no such path (404) or, with `allow` not empty, no such method (405)
        std::string
            allow;  ///< "GET, HEAD, OPTIONS": methods of the path when it exists; filled only when route is null
        bool bad_escape = false;  ///< a segment that does not decode: 400
    };
    /// `params` receives the decoded segments (cleared first; its strings' storage is reused).
    Match match(Method method, std::string_view path, std::vector<std::string>& params) const;

    [[nodiscard]] const std::vector<Route>& routes() const noexcept { return routes_; }

private:
    struct Node;
    std::vector<Route> routes_;
    std::unique_ptr<Node> root_;
};

}  // namespace tidemark::http
