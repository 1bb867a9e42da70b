#include "infra/base/toml.h"

#include <algorithm>
#include <charconv>
#include <cstdint>
#include <map>
#include <stdexcept>

namespace tidemark::base::toml {

namespace {

/// Why a line was refused; never leaves this file.
class Refused : public std::runtime_error {
    using std::runtime_error::runtime_error;
};

bool is_blank(char c) noexcept {
    return c == ' ' || c == '\t';
}

bool is_digit(char c) noexcept {
    return c >= '0' && c <= '9';
}

bool is_bare_key(char c) noexcept {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || is_digit(c) || c == '_' || c == '-';
}

void append_utf8(std::string& out, std::uint32_t value) {
    const auto continuation = [&](unsigned shift) { out += static_cast<char>(0x80U | ((value >> shift) & 0x3FU)); };
    if (value < 0x80) {
        out += static_cast<char>(value);
    } else if (value < 0x800) {
        out += static_cast<char>(0xC0U | (value >> 6U));
        continuation(0);
    } else if (value < 0x10000) {
        out += static_cast<char>(0xE0U | (value >> 12U));
        continuation(6);
        continuation(0);
    } else {
        out += static_cast<char>(0xF0U | (value >> 18U));
        continuation(12);
        continuation(6);
        continuation(0);
    }
}

/// Reads one line from left to right.
class Line {
public:
    explicit Line(std::string_view text) : rest_(text) {}

    void skip_blanks() {
        while (!rest_.empty() && is_blank(rest_.front()))
            rest_.remove_prefix(1);
    }
    [[nodiscard]] bool at_end() const { return rest_.empty() || rest_.front() == '#'; }
    [[nodiscard]] char peek() const { return rest_.empty() ? '\0' : rest_.front(); }

    std::string key() {
        if (peek() == '"' || peek() == '\'') return string();
        if (peek() == '[') throw Refused("sections and tables are not used here; write the keys flat");
        std::string name;
        while (is_bare_key(peek()))
            name += take();
        if (name.empty()) throw Refused("expected `key = value`");
        if (peek() == '.') throw Refused("dotted keys are not used here; write the keys flat");
        return name;
    }

    void equals() {
        if (peek() != '=') throw Refused("expected `=` after the key");
        take();
    }

    std::string value() {
        if (peek() == '"' || peek() == '\'') return string();
        if (peek() == '[' || peek() == '{') throw Refused("arrays and tables are not used here");
        std::string word;
        while (!at_end() && !is_blank(peek()))
            word += take();
        if (word.empty()) throw Refused("expected a value after `=`");
        if (word == "true" || word == "false") return word;
        return number(word);
    }

private:
    char take() {
        const char c = rest_.front();
        rest_.remove_prefix(1);
        return c;
    }

    std::string string() {
        const char mark = take();
        if (rest_.size() >= 2 && rest_[0] == mark && rest_[1] == mark) {
            throw Refused("multi-line strings are not used here");
        }
        std::string text;
        for (;;) {
            if (rest_.empty()) throw Refused("the string has no closing quote");
            const char c = take();
            if (c == mark) return text;
            if ((static_cast<unsigned char>(c) < 0x20 && c != '\t') || c == '\x7F') {
                throw Refused("a control character stands in the string");
            }
            if (c == '\\' && mark == '"') {
                escape(text);
            } else {
                text += c;
            }
        }
    }

    void escape(std::string& text) {
        if (rest_.empty()) throw Refused("the string has no closing quote");
        switch (const char c = take()) {
            case 'b':
                text += '\b';
                break;
            case 't':
                text += '\t';
                break;
            case 'n':
                text += '\n';
                break;
            case 'f':
                text += '\f';
                break;
            case 'r':
                text += '\r';
                break;
            case '"':
                text += '"';
                break;
            case '\\':
                text += '\\';
                break;
            case 'u':
                append_utf8(text, code_point(4));
                break;
            case 'U':
                append_utf8(text, code_point(8));
                break;
            default:
                throw Refused(std::string("unknown escape \\") + c + "; in single quotes a backslash is itself");
        }
    }

    std::uint32_t code_point(std::size_t digits) {
        std::uint32_t value = 0;
        const auto text = rest_.substr(0, digits);
        const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, 16);
        if (text.size() != digits || error != std::errc{} || end != text.data() + digits) {
            throw Refused("an escape \\u takes 4, \\U 8 hexadecimal digits");
        }
        // U+0000 would end the text wherever it meets a C interface.
        if (value == 0 || value > 0x10FFFF || (value >= 0xD800 && value <= 0xDFFF)) {
            throw Refused("the escape is no usable character");
        }
        rest_.remove_prefix(digits);
        return value;
    }

    static std::string number(std::string word) {
        const bool is_signed = word.front() == '+' || word.front() == '-';
        const bool is_number =
            word.size() > (is_signed ? 1U : 0U) && is_digit(word[is_signed ? 1 : 0]) &&
            std::all_of(word.begin() + 1, word.end(), [](char c) { return is_digit(c) || c == '_' || c == '.'; });
        // The word itself is not repeated: it may be a password whose quotes were forgotten.
        if (!is_number) throw Refused("a text stands in quotes, as in key = \"text\"");
        word.erase(std::remove(word.begin(), word.end(), '_'), word.end());
        if (word.front() == '+') word.erase(0, 1);
        return word;
    }

    std::string_view rest_;
};

}  // namespace

Document parse(std::string_view text) {
    Document document;
    std::map<std::string, std::size_t> seen;
    for (std::size_t number = 1; !text.empty(); ++number) {
        const auto length = text.find('\n');
        auto content = text.substr(0, length);
        text = length == std::string_view::npos ? std::string_view{} : text.substr(length + 1);
        if (!content.empty() && content.back() == '\r') content.remove_suffix(1);
        try {
            Line line(content);
            line.skip_blanks();
            if (line.at_end()) continue;
            Entry entry;
            entry.line = number;
            entry.key = line.key();
            line.skip_blanks();
            line.equals();
            line.skip_blanks();
            entry.value = line.value();
            line.skip_blanks();
            if (!line.at_end()) throw Refused("more stands after the value");
            const auto [first, is_new] = seen.emplace(entry.key, number);
            if (!is_new) throw Refused(entry.key + " stands on line " + std::to_string(first->second) + " already");
            document.entries.push_back(std::move(entry));
        } catch (const Refused& refused) {
            document.violations.push_back("line " + std::to_string(number) + ": " + refused.what());
        }
    }
    return document;
}

std::string quote(std::string_view text) {
    constexpr char kHexDigits[] = "0123456789ABCDEF";
    std::string quoted = "\"";
    for (const char c : text) {
        const auto byte = static_cast<unsigned char>(c);
        if (c == '"' || c == '\\') {
            quoted += '\\';
            quoted += c;
        } else if (byte < 0x20 || byte == 0x7F) {
            quoted += "\\u00";
            quoted += kHexDigits[byte >> 4U];
            quoted += kHexDigits[byte & 0xFU];
        } else {
            quoted += c;
        }
    }
    return quoted + "\"";
}

}  // namespace tidemark::base::toml
