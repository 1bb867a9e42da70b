#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace tidemark::http {

/// Where a server is to listen, as a setting says it.
struct Endpoint {
    std::string address;     ///< numeric, without brackets
    std::uint16_t port = 0;  ///< 0: a free one

    /// Whether only this machine reaches it.
    [[nodiscard]] bool is_loopback() const noexcept;
};

/// Reads ADDRESS:PORT, with an IPv6 address in brackets or not: "127.0.0.1:3333", "[::1]:3333". Nullopt: it is none,
/// and `why`, where given, says what is wrong with it, to be put between the setting's name and an example.
std::optional<Endpoint> read_endpoint(std::string_view text, std::string* why = nullptr);

/// What a program's check says of such a setting: nothing, or what is wrong with it and an example.
std::vector<std::string> check_endpoint(std::string_view setting, std::string_view text, std::string_view example);

}  // namespace tidemark::http
