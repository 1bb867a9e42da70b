#include "infra/http/router.h"

#include <doctest/doctest.h>

#include <array>
#include <string>
#include <vector>

namespace tidemark::http {
namespace {

void ignore(const Request&, Reply) {}

Route route(Method method, std::string path) {
    return {.method = method, .path = std::move(path), .handler = ignore};
}

Router routes_of_a_service() {
    Router router;
    router.add(route(Method::get, "/"));
    router.add(route(Method::post, "/increment"));
    router.add(route(Method::get, "/counters"));
    router.add(route(Method::get, "/counters/{key}"));
    router.add(route(Method::get, "/counters/{key}/windows"));
    router.add(route(Method::get, "/vehicles/windows"));
    router.add(route(Method::get, "/vehicles/{id}"));
    router.add(route(Method::put, "/vehicles/{id}"));
    router.add(route(Method::post, "/vehicles/{id}/states"));
    router.add(route(Method::get, "/vehicles/{id}/timestamp/{timestamp}"));
    return router;
}

}  // namespace

TEST_CASE("a path finds its template, a literal before a parameter, and parameters are decoded once") {
    const auto router = routes_of_a_service();
    struct Case {
        Method method;
        std::string_view path;
        std::string_view expected;  // empty: none
        std::vector<std::string> params;
    };
    const std::array cases = {
        Case{Method::get, "/", "/", {}},
        Case{Method::post, "/increment", "/increment", {}},
        Case{Method::post, "/%69ncrement", "/increment", {}},
        Case{Method::head, "/counters", "/counters", {}},
        Case{Method::get, "/counters/abc", "/counters/{key}", {"abc"}},
        Case{Method::get, "/counters/a%2Fb", "/counters/{key}", {"a/b"}},
        Case{Method::get, "/counters/a%252Fb", "/counters/{key}", {"a%2Fb"}},
        Case{Method::get, "/counters/a+b", "/counters/{key}", {"a+b"}},
        Case{Method::get, "/counters/%2E%2E", "/counters/{key}", {".."}},
        Case{Method::get, "/counters/..", "/counters/{key}", {".."}},
        Case{Method::get, "/counters/%7Bkey%7D", "/counters/{key}", {"{key}"}},
        Case{Method::get, "/counters/x/windows", "/counters/{key}/windows", {"x"}},
        Case{Method::get, "/vehicles/windows", "/vehicles/windows", {}},
        Case{Method::get, "/vehicles/3", "/vehicles/{id}", {"3"}},
        Case{Method::put, "/vehicles/3", "/vehicles/{id}", {"3"}},
        Case{Method::post, "/vehicles/windows/states", "/vehicles/{id}/states", {"windows"}},
        Case{Method::get,
             "/vehicles/3/timestamp/2022-09-12%2010:00",
             "/vehicles/{id}/timestamp/{timestamp}",
             {"3", "2022-09-12 10:00"}},
        Case{Method::get, "", "", {}},
        Case{Method::get, "//", "", {}},
        Case{Method::post, "/increment/", "", {}},
        Case{Method::post, "//increment", "", {}},
        Case{Method::post, "/Increment", "", {}},
        Case{Method::get, "/counters/", "", {}},
        Case{Method::get, "/counters//windows", "", {}},
        Case{Method::get, "/counters%2Fabc", "", {}},
        Case{Method::get, "/vehicles/3/timestamp", "", {}},
        Case{Method::get, "/a/b/c/d/e/f/g/h/i/j/k", "", {}},
    };
    std::vector<std::string> params = {"left", "over", "from", "before"};
    for (const auto& each : cases) {
        const auto& [method, path, expected, expected_params] = each;
        CAPTURE(each.path);
        const auto match = router.match(method, path, params);
        CHECK_FALSE(match.bad_escape);
        CHECK(match.allow.empty());
        CHECK((match.route == nullptr ? std::string_view() : std::string_view(match.route->path)) == expected);
        CHECK(params == expected_params);
    }
}

TEST_CASE("a path without the method lists those it has") {
    const auto router = routes_of_a_service();
    std::vector<std::string> params;
    CHECK(router.match(Method::get, "/increment", params).allow == "POST, OPTIONS");
    CHECK(router.match(Method::options, "/increment", params).allow == "POST, OPTIONS");
    CHECK(router.match(Method::post, "/vehicles/3", params).allow == "GET, HEAD, PUT, OPTIONS");
    CHECK(router.match(Method::other, "/vehicles/windows", params).allow == "GET, HEAD, OPTIONS");
    CHECK(router.match(Method::put, "/vehicles/windows", params).allow == "GET, HEAD, OPTIONS");
    CHECK(router.match(Method::head, "/increment", params).route == nullptr);
    Router edits;
    edits.add(route(Method::patch, "/a"));
    edits.add(route(Method::del, "/a"));
    CHECK(edits.match(Method::get, "/a", params).allow == "PATCH, DELETE, OPTIONS");
}

TEST_CASE("a path that does not decode is told apart from one that is not there") {
    const auto router = routes_of_a_service();
    std::vector<std::string> params;
    for (const std::string_view path : {"/counters/%", "/counters/%4", "/counters/%zz", "/%zz", "/counters/%00"}) {
        CAPTURE(path);
        const auto match = router.match(Method::get, path, params);
        CHECK(match.bad_escape);
        CHECK(match.route == nullptr);
    }
}

TEST_CASE("a route that could never be reached as written is refused") {
    Router router;
    router.add(route(Method::get, "/a/{x}"));
    CHECK_THROWS_AS(router.add(route(Method::get, "/a/{x}")), std::invalid_argument);
    CHECK_THROWS_AS(router.add(route(Method::get, "/a/{y}")), std::invalid_argument);
    CHECK_THROWS_AS(router.add(route(Method::get, "a")), std::invalid_argument);
    CHECK_THROWS_AS(router.add(route(Method::get, "")), std::invalid_argument);
    CHECK_THROWS_AS(router.add(route(Method::head, "/b")), std::invalid_argument);
    CHECK_THROWS_AS(router.add(route(Method::options, "/b")), std::invalid_argument);
    CHECK_THROWS_AS(router.add({.method = Method::get, .path = "/b", .handler = {}}), std::invalid_argument);
    CHECK(router.routes().size() == 1);
}

}  // namespace tidemark::http
