#include "infra/http/endpoint.h"

#include <arpa/inet.h>

#include <charconv>
#include <system_error>
#include <utility>

namespace tidemark::http {

namespace {

bool is_numeric(const std::string& address) {
    in6_addr parsed{};
    return ::inet_pton(AF_INET, address.c_str(), &parsed) == 1 || ::inet_pton(AF_INET6, address.c_str(), &parsed) == 1;
}

std::optional<std::uint16_t> read_port(std::string_view text) {
    std::uint16_t port = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), port);
    if (error != std::errc{} || end != text.data() + text.size()) return std::nullopt;
    return port;
}

}  // namespace

bool Endpoint::is_loopback() const noexcept {
    return address.starts_with("127.") || address == "::1";
}

std::optional<Endpoint> read_endpoint(std::string_view text, std::string* why) {
    const auto colon = text.rfind(':');
    const auto port = colon == std::string_view::npos ? std::nullopt : read_port(text.substr(colon + 1));
    auto address = std::string(text.substr(0, colon));
    if (address.size() > 2 && address.front() == '[' && address.back() == ']')
        address = address.substr(1, address.size() - 2);
    if (port && is_numeric(address)) return Endpoint{std::move(address), *port};
    if (why == nullptr) return std::nullopt;
    if (!port || address.empty() || address.find_first_of("[]:") != std::string::npos) {
        *why = "\"" + std::string(text) + "\" is not ADDRESS:PORT";
    } else {
        *why = address + " is a name, which may mean several addresses; give one";
    }
    return std::nullopt;
}

std::vector<std::string> check_endpoint(std::string_view setting, std::string_view text, std::string_view example) {
    std::string why;
    if (read_endpoint(text, &why)) return {};
    return {std::string(setting) + ": " + why + ", e.g. " + std::string(example)};
}

}  // namespace tidemark::http
