#pragma once

#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>
#include <type_traits>
#include <variant>
#include <vector>

namespace tidemark::base::log {

enum class Level : std::uint8_t { debug, info, warn, error };

/// As settings have them, the lowest first.
[[nodiscard]] std::vector<std::string> level_names();
/// `name` is one of them.
[[nodiscard]] Level level_of(std::string_view name);

struct Field {
    std::string_view name;
    std::variant<std::int64_t, double, bool, std::string_view> value;

    Field(std::string_view n, std::string_view v) : name(n), value(v) {}
    Field(std::string_view n, const char* v) : name(n), value(std::string_view(v)) {}
    Field(std::string_view n, const std::string& v) : name(n), value(std::string_view(v)) {}
    Field(std::string_view n, bool v) : name(n), value(v) {}
    Field(std::string_view n, double v) : name(n), value(v) {}
    template <typename Integer>
    requires std::is_integral_v<Integer> &&(!std::is_same_v<Integer, bool>)Field(std::string_view n, Integer v)
        : name(n), value(static_cast<std::int64_t>(v)) {}
};

/// Once, at the start of main: every line goes to standard error as one JSON object with `ts`, `level`, `program` and
/// `event` first. Before it, lines go out with program "tidemark".
void start(std::string_view program, Level minimum = Level::info);

/// One line for one event in the process's life: never one per record. `event` is snake_case and stable; texts are
/// escaped and cut at 256 bytes (a cut text ends in "..."). Any thread; never throws.
void write(Level level, std::string_view event, std::initializer_list<Field> fields = {}) noexcept;

/// A text as these lines have it: a JSON string, escaped and cut likewise.
std::string quoted(std::string_view text);

inline void info(std::string_view event, std::initializer_list<Field> fields = {}) noexcept {
    write(Level::info, event, fields);
}
inline void warn(std::string_view event, std::initializer_list<Field> fields = {}) noexcept {
    write(Level::warn, event, fields);
}
inline void error(std::string_view event, std::initializer_list<Field> fields = {}) noexcept {
    write(Level::error, event, fields);
}

}  // namespace tidemark::base::log
