#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace tidemark::schemas {

/// RFC 4648, section 4: the standard alphabet with padding.
std::string to_base64(std::string_view bytes);
/// Nullopt when it is anything else.
std::optional<std::string> from_base64(std::string_view text);

/// Appends foreign bytes as a member of a JSON object: `"key":"text"` when they are UTF-8, `"keyBase64":"..."` when
/// they are not, `"key":null` when there are none.
void append_bytes(std::string& json, std::string_view name, const std::optional<std::string>& bytes);

}  // namespace tidemark::schemas
