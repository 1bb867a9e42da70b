#include "schemas/base64.h"

#include "schemas/json.h"

#include <sodium.h>

namespace tidemark::schemas {

std::string to_base64(std::string_view bytes) {
    std::string text(sodium_base64_encoded_len(bytes.size(), sodium_base64_VARIANT_ORIGINAL), '\0');
    sodium_bin2base64(text.data(), text.size(), reinterpret_cast<const unsigned char*>(bytes.data()), bytes.size(),
                      sodium_base64_VARIANT_ORIGINAL);
    text.pop_back();  // the terminating zero
    return text;
}

std::optional<std::string> from_base64(std::string_view text) {
    std::string bytes(text.size() / 4 * 3 + 3, '\0');
    std::size_t size = 0;
    const char* end = nullptr;
    const int failed = sodium_base642bin(reinterpret_cast<unsigned char*>(bytes.data()), bytes.size(), text.data(),
                                         text.size(), nullptr, &size, &end, sodium_base64_VARIANT_ORIGINAL);
    if (failed != 0 || end != text.data() + text.size()) return std::nullopt;
    bytes.resize(size);
    return bytes;
}

void append_bytes(std::string& json, std::string_view name, const std::optional<std::string>& bytes) {
    const bool is_text = !bytes || json::is_utf8(*bytes);
    json.append("\"").append(name).append(is_text ? "\":" : "Base64\":");
    if (bytes) {
        json::append_string(json, is_text ? *bytes : to_base64(*bytes));
    } else {
        json.append("null");
    }
}

}  // namespace tidemark::schemas
