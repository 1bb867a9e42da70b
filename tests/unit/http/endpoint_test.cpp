#include "infra/http/endpoint.h"

#include <doctest/doctest.h>

#include <string>
#include <vector>

using tidemark::http::Endpoint;
using tidemark::http::read_endpoint;

TEST_CASE("an address to listen on is numeric, of IPv4 or IPv6, and a port") {
    struct Case {
        std::string text;
        std::string address;
        int port;
        bool is_loopback;
    };
    const std::vector<Case> cases = {
        {"127.0.0.1:3333", "127.0.0.1", 3333, true},
        {"127.9.8.7:0", "127.9.8.7", 0, true},
        {"0.0.0.0:65535", "0.0.0.0", 65'535, false},
        {"192.0.2.1:80", "192.0.2.1", 80, false},
        {"[::1]:3333", "::1", 3333, true},
        {"::1:3333", "::1", 3333, true},
        {"[::]:3333", "::", 3333, false},
        {"[2001:db8::7f]:3333", "2001:db8::7f", 3333, false},
    };
    for (const auto& each : cases) {
        CAPTURE(each.text);
        std::string why;
        const auto endpoint = read_endpoint(each.text, &why);
        CHECK(why.empty());
        REQUIRE(endpoint);
        CHECK(endpoint->address == each.address);
        CHECK(int{endpoint->port} == each.port);
        CHECK(endpoint->is_loopback() == each.is_loopback);
    }
}

TEST_CASE("what is no address to listen on is told from a name") {
    for (const std::string text : {"",
                                   ":",
                                   "nowhere",
                                   ":3333",
                                   "127.0.0.1",
                                   "127.0.0.1:",
                                   "127.0.0.1:x",
                                   "127.0.0.1:-1",
                                   "127.0.0.1:+1",
                                   "127.0.0.1: 1",
                                   "127.0.0.1:1 ",
                                   "127.0.0.1:65536",
                                   "127.0.0.1:99999999999",
                                   "[]:3333",
                                   "[:3333",
                                   "[::1:3333",
                                   "::1]:3333",
                                   "[::1]",
                                   "[[::1]]:3333",
                                   "http://127.0.0.1:3333"}) {
        CAPTURE(text);
        std::string why;
        CHECK_FALSE(read_endpoint(text, &why));
        CHECK(why == "\"" + text + "\" is not ADDRESS:PORT");
    }
    for (const std::string name : {"localhost", "example.org", "*", "[localhost]"}) {
        CAPTURE(name);
        std::string why;
        CHECK_FALSE(read_endpoint(name + ":3333", &why));
        CHECK(why.find("is a name, which may mean several addresses; give one") != std::string::npos);
    }
}
