#pragma once

#include <string_view>

namespace tidemark::base {

std::string_view version() noexcept;  ///< "0.1.0"
std::string_view commit() noexcept;   ///< 12 hex digits, or "unknown"
std::string_view built() noexcept;    ///< RFC 3339 instant of the build, UTC

}  // namespace tidemark::base
