#include "infra/base/log.h"

#include <spdlog/logger.h>
#include <spdlog/pattern_formatter.h>
#include <spdlog/sinks/stdout_sinks.h>

#include <unistd.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <chrono>
#include <cmath>
#include <memory>
#include <stdexcept>
#include <string>

namespace tidemark::base::log {

namespace {

/// Long enough for a key (256 bytes); a foreign text of a megabyte must not become a line of a megabyte.
constexpr std::size_t kMaxTextBytes = 256;
constexpr std::string_view kCutMark = "...";
constexpr std::string_view kReplacement = "\xEF\xBF\xBD";  // U+FFFD
constexpr char kHexDigits[] = "0123456789abcdef";

struct CodePoint {
    char32_t value = 0;
    std::size_t length = 0;  ///< bytes it took; 0: broken UTF-8
};

/// The first code point of a text that is not empty. Overlong forms, surrogates and values past U+10FFFF are broken.
CodePoint decode(std::string_view text) noexcept {
    const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
    const unsigned char lead = byte(0);
    if (lead < 0x80) return {lead, 1};
    std::size_t length = 0;
    char32_t value = 0;
    char32_t smallest = 0;
    if (lead >= 0xC2 && lead <= 0xDF) {
        length = 2, value = lead & 0x1FU, smallest = 0x80;
    } else if (lead >= 0xE0 && lead <= 0xEF) {
        length = 3, value = lead & 0x0FU, smallest = 0x800;
    } else if (lead >= 0xF0 && lead <= 0xF4) {
        length = 4, value = lead & 0x07U, smallest = 0x10000;
    } else {
        return {};
    }
    if (text.size() < length) return {};
    for (std::size_t i = 1; i < length; ++i) {
        if ((byte(i) & 0xC0U) != 0x80U) return {};
        value = (value << 6U) | (byte(i) & 0x3FU);
    }
    if (value < smallest || value > 0x10FFFF || (value >= 0xD800 && value <= 0xDFFF)) return {};
    return {value, length};
}

/// What a terminal or a line reader would act on: C0, DEL, C1 (U+009B starts an ANSI sequence) and the line separators.
bool is_control(char32_t value) noexcept {
    return value < 0x20 || (value >= 0x7F && value <= 0x9F) || value == 0x2028 || value == 0x2029;
}

void append_escape(std::string& out, char32_t value) {
    out += "\\u";
    for (int shift = 12; shift >= 0; shift -= 4)
        out += kHexDigits[(value >> static_cast<unsigned>(shift)) & 0xFU];
}

void append_text(std::string& out, std::string_view text) {
    out += '"';
    std::size_t written = 0;          // bytes of the decoded text
    std::size_t cut_at = out.size();  // where `out` still has room for the mark
    while (!text.empty()) {
        const auto [value, length] = decode(text);
        const std::size_t width = length == 0 ? kReplacement.size() : length;
        if (written + width > kMaxTextBytes) {
            out.resize(cut_at);
            out += kCutMark;
            break;
        }
        if (length == 0) {
            out += kReplacement;
        } else if (value == '"' || value == '\\') {
            out += '\\';
            out += static_cast<char>(value);
        } else if (value == '\n') {
            out += "\\n";
        } else if (value == '\r') {
            out += "\\r";
        } else if (value == '\t') {
            out += "\\t";
        } else if (is_control(value)) {
            append_escape(out, value);
        } else {
            out += text.substr(0, length);
        }
        written += width;
        if (written + kCutMark.size() <= kMaxTextBytes) cut_at = out.size();
        text.remove_prefix(length == 0 ? 1 : length);
    }
    out += '"';
}

template <typename Number>
void append_number(std::string& out, Number number) {
    char digits[32];  // the longest double takes 24
    const auto end = std::to_chars(digits, digits + sizeof digits, number).ptr;
    out.append(digits, end);
}

void append_value(std::string& out, const Field& field) {
    if (const auto* integer = std::get_if<std::int64_t>(&field.value)) {
        append_number(out, *integer);
    } else if (const auto* real = std::get_if<double>(&field.value)) {
        if (std::isfinite(*real)) {
            append_number(out, *real);
        } else {
            out += "null";  // JSON has no word for it
        }
    } else if (const auto* flag = std::get_if<bool>(&field.value)) {
        out += *flag ? "true" : "false";
    } else {
        append_text(out, std::get<std::string_view>(field.value));
    }
}

void append_padded(std::string& out, std::int64_t number, std::size_t width) {
    const std::string digits = std::to_string(number);
    if (digits.size() < width) out.append(width - digits.size(), '0');
    out += digits;
}

void append_instant(std::string& out, std::chrono::sys_time<std::chrono::milliseconds> instant) {
    const auto day = std::chrono::floor<std::chrono::days>(instant);
    const std::chrono::year_month_day date{day};
    const std::chrono::hh_mm_ss time{instant - day};
    append_padded(out, static_cast<int>(date.year()), 4);
    out += '-';
    append_padded(out, static_cast<unsigned>(date.month()), 2);
    out += '-';
    append_padded(out, static_cast<unsigned>(date.day()), 2);
    out += 'T';
    append_padded(out, time.hours().count(), 2);
    out += ':';
    append_padded(out, time.minutes().count(), 2);
    out += ':';
    append_padded(out, time.seconds().count(), 2);
    out += '.';
    append_padded(out, time.subseconds().count(), 3);
    out += 'Z';
}

// By their value.
constexpr std::array<std::string_view, 4> kLevelNames = {"debug", "info", "warn", "error"};

std::string_view name_of(Level level) noexcept {
    return kLevelNames[static_cast<std::size_t>(level)];
}

spdlog::level::level_enum to_spdlog(Level level) noexcept {
    switch (level) {
        case Level::debug:
            return spdlog::level::debug;
        case Level::info:
            return spdlog::level::info;
        case Level::warn:
            return spdlog::level::warn;
        case Level::error:
            return spdlog::level::err;
    }
    return spdlog::level::err;
}

struct Output {
    Output() : logger("", std::make_shared<spdlog::sinks::stderr_sink_mt>()) {
        // The bare message and "\n": the line is whole before spdlog sees it, and leaves in one write.
        logger.set_formatter(
            std::make_unique<spdlog::pattern_formatter>("%v", spdlog::pattern_time_type::utc, std::string("\n")));
        logger.set_level(spdlog::level::info);
    }

    std::string program = "tidemark";
    spdlog::logger logger;
};

/// Never destroyed: a thread may still have something to say while the process ends.
Output& output() {
    static Output& instance = *new Output;
    return instance;
}

}  // namespace

std::vector<std::string> level_names() {
    return {kLevelNames.begin(), kLevelNames.end()};
}

Level level_of(std::string_view name) {
    const auto found = std::find(kLevelNames.begin(), kLevelNames.end(), name);
    if (found == kLevelNames.end()) throw std::logic_error("no level of log lines: " + std::string(name));
    return static_cast<Level>(found - kLevelNames.begin());
}

std::string quoted(std::string_view text) {
    std::string out;
    append_text(out, text);
    return out;
}

void start(std::string_view program, Level minimum) {
    output().program = program;
    output().logger.set_level(to_spdlog(minimum));
}

void write(Level level, std::string_view event, std::initializer_list<Field> fields) noexcept {
    try {
        auto& out = output();
        if (!out.logger.should_log(to_spdlog(level))) return;
        std::string line = R"({"ts":")";
        append_instant(line, std::chrono::floor<std::chrono::milliseconds>(std::chrono::system_clock::now()));
        line += R"(","level":")";
        line += name_of(level);
        line += R"(","program":)";
        append_text(line, out.program);
        line += R"(,"event":)";
        append_text(line, event);
        for (const auto& field : fields) {
            line += ',';
            append_text(line, field.name);
            line += ':';
            append_value(line, field);
        }
        line += '}';
        out.logger.log(to_spdlog(level), spdlog::string_view_t(line.data(), line.size()));
    } catch (...) {
        // Out of memory, or standard error is gone: all that is left is a text that needs neither.
        constexpr std::string_view kLost = "{\"level\":\"error\",\"event\":\"log_line_lost\"}\n";
        [[maybe_unused]] const auto written = ::write(STDERR_FILENO, kLost.data(), kLost.size());
    }
}

}  // namespace tidemark::base::log
