#include "infra/http/router.h"

#include <array>
#include <cstddef>
#include <stdexcept>
#include <utility>

namespace tidemark::http {
namespace {

constexpr std::size_t kMethods = static_cast<std::size_t>(Method::other) + 1;
constexpr std::size_t kNoRoute = static_cast<std::size_t>(-1);

constexpr std::size_t index_of(Method method) noexcept {
    return static_cast<std::size_t>(method);
}

bool is_parameter(std::string_view segment) noexcept {
    return segment.size() >= 2 && segment.front() == '{' && segment.back() == '}';
}

/// Takes the first segment off `rest`, which starts with the `/` before it.
std::string_view take_segment(std::string_view& rest) noexcept {
    rest.remove_prefix(1);
    const auto slash = rest.find('/');
    const auto segment = rest.substr(0, slash);
    rest.remove_prefix(slash == std::string_view::npos ? rest.size() : slash);
    return segment;
}

}  // namespace

struct Router::Node {
    std::string literal;
    std::vector<std::unique_ptr<Node>>
        literals;  // few per node, so that a linear search by length and bytes is fastest
    std::unique_ptr<Node> parameter;
    std::array<std::size_t, kMethods> routes;
    bool ends_a_route = false;

    Node() { routes.fill(kNoRoute); }

    [[nodiscard]] const Node* child(std::string_view segment) const noexcept {
        for (const auto& each : literals) {
            if (each->literal == segment) return each.get();
        }
        return nullptr;
    }

    /// The node that the rest of the path leads to. A branch that ends nowhere is left again, so that `/a/{x}/c` is
    /// found beside `/a/b`. `rest` is empty or starts with `/`; templates have few segments, which bounds the depth.
    const Node* find(std::string_view rest, bool has_escapes, std::vector<std::string>& params,
                     std::size_t used) const {
        if (rest.empty()) {
            if (!ends_a_route) return nullptr;
            params.resize(used);
            return this;
        }
        const auto raw = take_segment(rest);
        std::string decoded;
        std::string_view segment = raw;
        if (has_escapes && raw.find('%') != std::string_view::npos) {
            percent_decode(raw, false, decoded);
            segment = decoded;
        }
        if (const auto* next = child(segment)) {
            if (const auto* found = next->find(rest, has_escapes, params, used)) return found;
        }
        if (parameter && !segment.empty()) {
            if (params.size() == used) params.emplace_back();
            params[used].assign(segment);
            return parameter->find(rest, has_escapes, params, used + 1);
        }
        return nullptr;
    }
};

Router::Router() : root_(std::make_unique<Node>()) {}
Router::~Router() = default;
Router::Router(Router&&) noexcept = default;
Router& Router::operator=(Router&&) noexcept = default;

void Router::add(Route route) {
    const auto reject = [&route](const char* why) {
        throw std::invalid_argument("route " + std::string(to_string(route.method)) + " " + route.path + ": " + why);
    };
    if (route.path.empty() || route.path.front() != '/') reject("a path starts with '/'");
    if (!route.handler) reject("it has no handler");
    if (route.method == Method::head || route.method == Method::options || route.method == Method::other) {
        reject("the server answers this method by itself");
    }
    auto* node = root_.get();
    for (std::string_view rest = route.path; !rest.empty();) {
        const auto segment = take_segment(rest);
        if (is_parameter(segment)) {
            if (!node->parameter) node->parameter = std::make_unique<Node>();
            node = node->parameter.get();
            continue;
        }
        Node* next = nullptr;
        for (const auto& each : node->literals) {
            if (each->literal == segment) next = each.get();
        }
        if (next == nullptr) {
            next = node->literals.emplace_back(std::make_unique<Node>()).get();
            next->literal = segment;
        }
        node = next;
    }
    auto& slot = node->routes[index_of(route.method)];
    if (slot != kNoRoute) reject("it is there already");
    slot = routes_.size();
    node->ends_a_route = true;
    routes_.push_back(std::move(route));
}

Router::Match Router::match(Method method, std::string_view path, std::vector<std::string>& params) const {
    Match match;
    const bool has_escapes = path.find('%') != std::string_view::npos;
    if (has_escapes) {
        std::string scratch;
        if (!percent_decode(path, false, scratch)) {
            params.clear();
            match.bad_escape = true;
            return match;
        }
    }
    const Node* node = nullptr;
    if (!path.empty() && path.front() == '/') node = root_->find(path, has_escapes, params, 0);
    if (node == nullptr) {
        params.clear();
        return match;
    }
    const auto route_for = [node](Method wanted) { return node->routes[index_of(wanted)]; };
    const auto route = route_for(method == Method::head ? Method::get : method);
    if (route != kNoRoute) {
        match.route = &routes_[route];
        return match;
    }
    for (std::size_t i = 0; i < kMethods; ++i) {
        const auto each = static_cast<Method>(i);
        const bool served = each == Method::options || route_for(each == Method::head ? Method::get : each) != kNoRoute;
        if (!served) continue;
        if (!match.allow.empty()) match.allow.append(", ");
        match.allow.append(to_string(each));
    }
    return match;
}

}  // namespace tidemark::http
