#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace tidemark::schemas {

/// RFC 4648, section 4: the standard alphabet with padding.
std::string to_base64(std::string_view bytes);
/// Nullopt when it is anything else.
std::optional<std::string> from_base64(std::string_view text);

}  // namespace tidemark::schemas
