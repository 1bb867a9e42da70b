#include "infra/base/settings.h"

#include "infra/base/exit_code.h"
#include "infra/base/toml.h"
#include "infra/base/version.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>
#include <CLI/CLI.hpp>

#include <algorithm>
#include <array>
#include <cctype>
#include <cerrno>
#include <charconv>
#include <cstdio>
#include <cstring>
#include <iostream>
#include <map>
#include <set>
#include <sstream>
#include <stdexcept>
#include <utility>

namespace tidemark::base {

namespace {

constexpr std::string_view kEnvironmentPrefix = "TIDEMARK_";
/// Of the tests: their servers' addresses and the faults they plan. Every program lets them through.
constexpr std::array<std::string_view, 2> kTestPrefixes = {"TIDEMARK_TEST_", "TIDEMARK_FAILPOINT"};
/// Of all Tidemark programs, each with a comma behind it.
constexpr std::string_view kVariables = TIDEMARK_VARIABLES;
/// A password or a connection string is a line; more than this is the wrong file.
constexpr std::size_t kMaxSecretBytes = 64 * 1024;
constexpr std::size_t kMaxSettingsFileBytes = 1024 * 1024;
constexpr std::size_t kHelpWidth = 100;

struct Unit {
    std::string_view name;
    std::int64_t factor;
};
// Largest first: a value is shown in the largest unit that divides it.
constexpr std::array<Unit, 4> kDurationUnits = {{{"h", 3'600'000}, {"m", 60'000}, {"s", 1'000}, {"ms", 1}}};
constexpr std::array<Unit, 4> kByteUnits = {{{"GiB", 1LL << 30}, {"MiB", 1LL << 20}, {"KiB", 1LL << 10}, {"", 1}}};

std::string with_unit(std::int64_t amount, const std::array<Unit, 4>& units) {
    for (const auto& unit : units) {
        if (amount != 0 && amount % unit.factor == 0) {
            return std::to_string(amount / unit.factor) + std::string(unit.name);
        }
    }
    return "0";
}

/// `bare` is the factor of a number without a unit. Nullopt: not such a text, or beyond 64 bits.
std::optional<std::int64_t> parse_amount(std::string_view text, const std::array<Unit, 4>& units, std::int64_t bare) {
    std::int64_t number = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
    if (error != std::errc{}) return std::nullopt;
    const std::string_view name = text.substr(static_cast<std::size_t>(end - text.data()));
    std::int64_t factor = 0;
    if (name.empty()) factor = bare;
    for (const auto& unit : units) {
        if (!name.empty() && unit.name == name) factor = unit.factor;
    }
    std::int64_t amount = 0;
    if (factor == 0 || __builtin_mul_overflow(number, factor, &amount)) return std::nullopt;
    return amount;
}

/// Foreign text for an error message: quoted, on one line, short.
std::string shown(std::string_view text) {
    constexpr std::size_t kLongest = 80;
    return text.size() <= kLongest ? toml::quote(text) : toml::quote(text.substr(0, kLongest)) + "...";
}

std::string environment_name(std::string_view option) {
    std::string name(kEnvironmentPrefix);
    for (const char c : option) {
        name += c == '-' ? '_' : static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
    }
    return name;
}

/// Insertions, deletions, replacements and swaps of neighbours between two names.
std::size_t distance(std::string_view a, std::string_view b) {
    std::vector<std::vector<std::size_t>> d(a.size() + 1, std::vector<std::size_t>(b.size() + 1));
    for (std::size_t i = 0; i <= a.size(); ++i)
        d[i][0] = i;
    for (std::size_t j = 0; j <= b.size(); ++j)
        d[0][j] = j;
    for (std::size_t i = 1; i <= a.size(); ++i) {
        for (std::size_t j = 1; j <= b.size(); ++j) {
            const std::size_t replaced = d[i - 1][j - 1] + (a[i - 1] == b[j - 1] ? 0 : 1);
            d[i][j] = std::min({d[i - 1][j] + 1, d[i][j - 1] + 1, replaced});
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) {
                d[i][j] = std::min(d[i][j], d[i - 2][j - 2] + 1);
            }
        }
    }
    return d[a.size()][b.size()];
}

/// "; did you mean X?" when a candidate differs from `name` in a third of its letters or less, else "; " and the other
/// advice.
std::string suggestion(std::string_view name, const std::vector<std::string>& candidates,
                       const std::string& otherwise) {
    std::size_t nearest = std::max<std::size_t>(1, name.size() / 3) + 1;
    std::string best;
    for (const auto& candidate : candidates) {
        const auto apart = distance(name, candidate);
        if (apart < nearest) {
            nearest = apart;
            best = candidate;
        }
    }
    return best.empty() ? "; " + otherwise : "; did you mean " + best + "?";
}

bool starts_with_any(std::string_view text, const auto& prefixes) {
    return std::any_of(prefixes.begin(), prefixes.end(),
                       [&](std::string_view prefix) { return text.substr(0, prefix.size()) == prefix; });
}

bool is_of_a_program(std::string_view variable) {
    return ("," + std::string(kVariables)).find("," + std::string(variable) + ",") != std::string::npos;
}

std::string wrapped(const std::string& text, std::size_t indent) {
    std::istringstream words(text);
    std::string out;
    std::size_t column = kHelpWidth;
    for (std::string word; words >> word;) {
        if (column + 1 + word.size() > kHelpWidth) {
            if (!out.empty()) out += '\n';
            out.append(indent, ' ');
            column = indent;
        } else {
            out += ' ';
            ++column;
        }
        out += word;
        column += word.size();
    }
    return out + "\n";
}

/// The whole file, or why not. The checks are made on the open descriptor: the name may change what it means meanwhile.
std::optional<std::string> read_file(const std::string& path, std::size_t max_bytes, bool is_secret, std::string& why) {
    const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        why = "cannot open " + path + ": " + std::strerror(errno) + "; check the path and its permissions";
        return std::nullopt;
    }
    std::optional<std::string> result;
    struct stat status = {};
    if (fstat(fd, &status) != 0) {
        why = "cannot look at " + path + ": " + std::strerror(errno);
    } else if (S_ISDIR(status.st_mode)) {
        why = path + " is a directory; name a file";
    } else if (is_secret && (status.st_mode & S_IROTH) != 0) {
        why = path + " can be read by everyone; chmod o-rwx " + path;
    } else {
        std::string content;
        std::array<char, 4096> chunk{};
        ssize_t got = 0;
        while (content.size() <= max_bytes && (got = read(fd, chunk.data(), chunk.size())) > 0) {
            content.append(chunk.data(), static_cast<std::size_t>(got));
        }
        if (got < 0) {
            why = "cannot read " + path + ": " + std::strerror(errno);
        } else if (content.size() > max_bytes) {
            why = path + " is larger than " + with_unit(static_cast<std::int64_t>(max_bytes), kByteUnits) +
                  "; is it the right file?";
        } else {
            result = std::move(content);
        }
    }
    close(fd);
    return result;
}

enum class Origin { by_default, file, environment, flag };

struct Option {
    std::string name;
    std::string command;  ///< empty: belongs to all of them
    std::string help;
    std::string shape;                 ///< what stands after the flag in --help; empty for a switch
    std::string limits;                ///< a sentence on the values; empty: anything
    std::vector<std::string> choices;  ///< empty: not of a few
    bool is_secret = false;
    bool is_quoted = true;  ///< in TOML
    /// Sets the target, or says what is wrong with the text.
    std::function<std::optional<std::string>(const std::string&)> assign;
    std::function<std::string()> current;
    std::string by_default;
    Origin origin = Origin::by_default;
    std::string origin_detail;

    [[nodiscard]] bool is_switch() const noexcept { return shape.empty(); }
    [[nodiscard]] std::string in_toml(const std::string& value) const { return is_quoted ? toml::quote(value) : value; }
};

struct Argument {
    std::string name;
    std::string help;
    std::string* target = nullptr;
    bool required = false;
    std::vector<std::string> offered;
};

struct Rule {
    std::string command;  ///< empty: of all of them
    std::function<std::vector<std::string>()> violations;
};

struct Command {
    std::string name;
    std::string help;
    std::function<int()> run;
    std::vector<Argument> arguments;
    struct Example {
        std::string arguments;
        std::string what;
    };
    std::vector<Example> examples;
};

/// Names that every program has besides its own options.
bool is_taken(std::string_view name) {
    constexpr std::array<std::string_view, 6> kTaken = {"config", "check-config",           "version",
                                                        "help",   "print-settings-example", "print-completion"};
    return std::find(kTaken.begin(), kTaken.end(), name) != kTaken.end();
}

/// The values of one source, by option name (or name-file); `where` says where each stood, for messages.
struct Source {
    Origin origin = Origin::by_default;
    std::map<std::string, std::string, std::less<>> values;
    std::function<std::string(const std::string& name)> where;
};

/// What the words of the command line said.
struct CommandLine {
    std::string command;
    std::map<std::string, std::string, std::less<>> values;
    bool help = false;
    bool version = false;
    bool check = false;
    bool example = false;
    bool completion = false;
};

}  // namespace

struct Settings::State {
    std::string program;
    std::string description;
    std::vector<Option> options;
    std::vector<Command> commands;
    std::vector<Rule> rules;
    std::string configuring;  ///< the command whose options are being declared
    std::vector<std::string> violations;

    void declare(Option option);
    [[nodiscard]] const Option* find(std::string_view name) const;
    [[nodiscard]] bool concerns(const Option& option, const std::string& command) const {
        return option.command.empty() || option.command == command;
    }
    [[nodiscard]] const Command* find_command(std::string_view name) const;
    /// Every name that may stand in a source: options and the -file twins of secrets.
    [[nodiscard]] std::vector<std::string> known_names() const;

    CommandLine read_command_line(int argc, const char* const* argv);
    std::vector<std::string> split_values(int argc, const char* const* argv);
    void refuse_extras(const std::vector<std::string>& extras, const CommandLine& line);
    Source read_environment();
    Source read_settings_file(const std::string& path);
    void apply(const std::vector<Source>& by_rank, const std::string& command);
    void apply_secret(Option& option, const Source& source);

    [[nodiscard]] std::string help(const std::string& command) const;
    [[nodiscard]] std::string help_on(const Option& option) const;
    [[nodiscard]] std::string in_force(const std::string& command) const;
    [[nodiscard]] std::string example() const;
    [[nodiscard]] std::string completion() const;
    void complain(const std::string& subject, const std::string& what) { violations.push_back(subject + ": " + what); }
    [[nodiscard]] int report() const;
};

void Settings::State::declare(Option option) {
    option.command = configuring;
    option.by_default = option.current();
    for (const auto& other : options) {
        if (other.name != option.name) continue;
        const bool both_reach_one_command =
            other.command == option.command || other.command.empty() || option.command.empty();
        if (both_reach_one_command || other.is_switch() != option.is_switch() || other.is_secret != option.is_secret) {
            throw std::logic_error("option declared twice: " + option.name);
        }
    }
    if (is_taken(option.name)) throw std::logic_error("every program has this option already: " + option.name);
    options.push_back(std::move(option));
}

const Option* Settings::State::find(std::string_view name) const {
    const auto found =
        std::find_if(options.begin(), options.end(), [&](const Option& option) { return option.name == name; });
    return found == options.end() ? nullptr : &*found;
}

const Command* Settings::State::find_command(std::string_view name) const {
    const auto found =
        std::find_if(commands.begin(), commands.end(), [&](const Command& command) { return command.name == name; });
    return found == commands.end() ? nullptr : &*found;
}

std::vector<std::string> Settings::State::known_names() const {
    std::vector<std::string> names = {"config"};
    for (const auto& option : options) {
        names.push_back(option.name);
        if (option.is_secret) names.push_back(option.name + "-file");
    }
    std::sort(names.begin(), names.end());
    names.erase(std::unique(names.begin(), names.end()), names.end());
    return names;
}

/// Rewrites `--name=value` to two words and refuses an option without a value: CLI11 2.1.2 takes the next word as the
/// value of `--name=`, another flag as the value of `--name`, and stops at the first error.
std::vector<std::string> Settings::State::split_values(int argc, const char* const* argv) {
    const auto names = known_names();
    const std::vector<std::string> words(argv + std::min(argc, 1), argv + argc);
    std::vector<std::string> split;
    for (std::size_t i = 0; i < words.size(); ++i) {
        const auto& word = words[i];
        if (word == "--") {
            split.insert(split.end(), words.begin() + static_cast<std::ptrdiff_t>(i), words.end());
            break;
        }
        const auto equals = word.find('=');
        const auto flag = word.substr(0, equals);
        const bool is_long = word.rfind("--", 0) == 0;
        const bool is_known = is_long && std::binary_search(names.begin(), names.end(), flag.substr(2));
        const auto* option = is_known ? find(flag.substr(2)) : nullptr;
        if (option != nullptr && option->is_switch()) {
            if (equals == word.size() - 1) {
                complain(flag, "has no value; write it without the equals sign");
            } else {
                split.push_back(word);
            }
        } else if (!is_known) {
            split.push_back(word);
        } else if (equals != std::string::npos) {
            split.push_back(flag);
            split.push_back(word.substr(equals + 1));
        } else if (i + 1 < words.size() && words[i + 1].rfind("--", 0) != 0) {
            split.push_back(flag);
            split.push_back(words[++i]);
        } else {
            complain(flag, "needs a value; write " + flag + "=VALUE");
        }
    }
    return split;
}

CommandLine Settings::State::read_command_line(int argc, const char* const* argv) {
    CLI::App app(description, program);
    app.set_help_flag();
    app.allow_extras();
    app.fallthrough();
    app.require_subcommand(0, 1);
    auto* help_flag = app.add_flag("-h,--help");
    auto* version_flag = app.add_flag("--version");
    auto* check_flag = app.add_flag("--check-config");
    auto* example_flag = app.add_flag("--print-settings-example");
    auto* completion_flag = app.add_flag("--print-completion");
    std::map<std::string, CLI::Option*> known;
    for (const auto& name : known_names()) {
        const auto* option = find(name);
        known[name] = option != nullptr && option->is_switch() ? app.add_flag("--" + name)->take_last()
                                                               : app.add_option("--" + name)->expected(1)->take_last();
    }
    std::map<std::string, std::vector<CLI::Option*>> positional;
    for (const auto& command : commands) {
        auto* subcommand = app.add_subcommand(command.name, command.help);
        for (const auto& argument : command.arguments) {
            positional[command.name].push_back(subcommand->add_option(argument.name)->expected(1));
        }
    }

    auto words = split_values(argc, argv);
    std::reverse(words.begin(), words.end());
    try {
        app.parse(words);
    } catch (const CLI::ParseError& error) {
        complain("command line", error.what());
    }

    CommandLine line;
    line.help = help_flag->count() > 0;
    line.version = version_flag->count() > 0;
    line.check = check_flag->count() > 0;
    line.example = example_flag->count() > 0;
    line.completion = completion_flag->count() > 0;
    const auto chosen = app.get_subcommands();
    if (!chosen.empty()) {
        line.command = chosen.front()->get_name();
    } else if (!commands.empty()) {
        line.command = commands.front().name;
    }
    for (const auto& [name, option] : known) {
        if (option->count() > 0) line.values[name] = option->results().back();
    }
    for (auto& command : commands) {
        if (command.name != line.command) continue;
        for (std::size_t i = 0; i < command.arguments.size(); ++i) {
            const auto& argument = command.arguments[i];
            const auto* given = positional[command.name][i];
            if (given->count() > 0) {
                *argument.target = given->results().back();
            } else if (argument.required && !line.help && !line.example && !line.completion) {
                complain(argument.name, "is missing; write " + program + " " + command.name + " " + argument.name);
            }
        }
    }
    refuse_extras(app.remaining(true), line);
    return line;
}

void Settings::State::refuse_extras(const std::vector<std::string>& extras, const CommandLine& line) {
    bool after_unknown_flag = false;
    bool only_words = false;
    for (const auto& extra : extras) {
        if (extra == "--" && !only_words) {
            only_words = true;
            continue;
        }
        if (!only_words && extra.size() > 1 && extra.front() == '-') {
            const auto equals = extra.find('=');
            const auto flag = extra.substr(0, equals);
            std::vector<std::string> candidates = {"--help", "--version", "--check-config"};
            for (const auto& name : known_names())
                candidates.push_back("--" + name);
            complain(flag, "unknown flag" + suggestion(flag, candidates, "--help lists them"));
            after_unknown_flag = equals == std::string::npos;
            continue;
        }
        // Most likely the unknown flag's value; and if the flag was a misspelt password, not to be printed.
        if (std::exchange(after_unknown_flag, false)) continue;
        std::vector<std::string> candidates;
        for (const auto& command : commands)
            candidates.push_back(command.name);
        const auto* command = find_command(line.command);
        if (command != nullptr && (command->arguments.empty() && command == &commands.front())) {
            complain(shown(extra), "unknown command" + suggestion(extra, candidates, "--help lists them"));
        } else {
            complain(shown(extra), "is one argument too many for " + line.command + "; leave it out");
        }
    }
}

Source Settings::State::read_environment() {
    Source source;
    source.origin = Origin::environment;
    source.where = [](const std::string& name) { return environment_name(name); };
    std::map<std::string, std::string, std::less<>> options_by_variable;
    std::vector<std::string> candidates;
    for (const auto& name : known_names()) {
        options_by_variable[environment_name(name)] = name;
        candidates.push_back(environment_name(name));
    }
    std::vector<std::string> unknown;
    for (char** entry = environ; entry != nullptr && *entry != nullptr; ++entry) {
        const std::string_view text = *entry;
        const auto equals = text.find('=');
        const auto variable = text.substr(0, equals);
        if (equals == std::string_view::npos || !starts_with_any(variable, std::array{kEnvironmentPrefix})) continue;
        const auto found = options_by_variable.find(variable);
        if (found != options_by_variable.end()) {
            source.values[found->second] = text.substr(equals + 1);
            continue;
        }
        if (!is_of_a_program(variable) && !starts_with_any(variable, kTestPrefixes)) unknown.emplace_back(variable);
    }
    std::sort(unknown.begin(), unknown.end());
    for (const auto& variable : unknown) {
        complain(variable, "unknown variable" + suggestion(variable, candidates, "unset it"));
    }
    return source;
}

Source Settings::State::read_settings_file(const std::string& path) {
    Source source;
    source.origin = Origin::file;
    std::string why;
    const auto text = read_file(path, kMaxSettingsFileBytes, false, why);
    if (!text) {
        complain("--config", why);
        return source;
    }
    const auto document = toml::parse(*text);
    for (const auto& violation : document.violations)
        complain(path, violation);
    std::map<std::string, std::size_t> lines;
    auto names = known_names();
    names.erase(std::find(names.begin(), names.end(), "config"));
    for (const auto& entry : document.entries) {
        lines[entry.key] = entry.line;
        if (std::binary_search(names.begin(), names.end(), entry.key)) {
            source.values[entry.key] = entry.value;
        } else {
            complain(path + " line " + std::to_string(entry.line),
                     "unknown key " + shown(entry.key) + suggestion(entry.key, names, "leave it out"));
        }
    }
    source.where = [path, lines](const std::string& name) {
        return path + " line " + std::to_string(lines.at(name)) + ", " + name;
    };
    return source;
}

void Settings::State::apply_secret(Option& option, const Source& source) {
    const auto direct = source.values.find(option.name);
    const auto named = source.values.find(option.name + "-file");
    if (direct != source.values.end() && named != source.values.end()) {
        complain(source.where(option.name), "is given twice; drop it, or " + source.where(option.name + "-file"));
        return;
    }
    std::string value;
    if (direct != source.values.end()) {
        value = direct->second;
    } else {
        std::string why;
        auto content = read_file(named->second, kMaxSecretBytes, true, why);
        if (!content) {
            complain(source.where(named->first), why);
            return;
        }
        value = std::move(*content);
        if (!value.empty() && value.back() == '\n') value.pop_back();
        if (!value.empty() && value.back() == '\r') value.pop_back();
        if (value.find('\0') != std::string::npos) {
            complain(source.where(named->first), "holds a NUL byte; is " + named->second + " the right file?");
            return;
        }
    }
    option.assign(value);
}

void Settings::State::apply(const std::vector<Source>& by_rank, const std::string& command) {
    for (auto& option : options) {
        if (!concerns(option, command)) continue;
        for (const auto& source : by_rank) {
            const auto found = source.values.find(option.name);
            const bool by_file = option.is_secret && source.values.count(option.name + "-file") > 0;
            if (found == source.values.end() && !by_file) continue;
            option.origin = source.origin;
            option.origin_detail = source.where(found != source.values.end() ? option.name : option.name + "-file");
            if (option.is_secret) {
                apply_secret(option, source);
            } else if (const auto wrong = option.assign(found->second)) {
                complain(option.origin_detail, *wrong);
            }
            break;
        }
    }
}

std::string Settings::State::help_on(const Option& option) const {
    std::string out = "  --" + option.name + (option.is_switch() ? "" : " " + option.shape);
    if (option.is_secret) out += ", --" + option.name + "-file FILE";
    out += "\n";
    std::string text = option.help;
    if (!option.limits.empty()) text += " " + option.limits;
    const auto variable = environment_name(option.name);
    text += option.is_secret ? " (" + variable + ", " + variable + "_FILE)"
                             : " (default " + option.in_toml(option.by_default) + "; " + variable + ")";
    return out + wrapped(text, 8);
}

std::string Settings::State::help(const std::string& command_name) const {
    const auto* command = find_command(command_name);
    std::string out = program + ": " + description + "\n\nUsage: " + program;
    const bool is_default = command == nullptr || command == &commands.front();
    if (command != nullptr) out += is_default ? " [" + command->name + "]" : " " + command->name;
    if (command != nullptr) {
        for (const auto& argument : command->arguments) {
            out += argument.required ? " " + argument.name : " [" + argument.name + "]";
        }
    }
    out += " [options]\n";
    if (command != nullptr && !is_default) out += wrapped(command->help, 0);
    if (command != nullptr && !command->arguments.empty()) {
        out += "\nArguments\n";
        for (const auto& argument : command->arguments)
            out += "  " + argument.name + "\n" + wrapped(argument.help, 8);
    }
    if (command != nullptr && !command->examples.empty()) {
        out += "\nExamples\n";
        for (const auto& one : command->examples)
            out += "  " + program + " " + command->name + (one.arguments.empty() ? "" : " ") + one.arguments + "\n" +
                   wrapped(one.what, 8);
    }
    if (is_default && !commands.empty()) {
        out += "\nCommands (each with --help)\n";
        for (const auto& each : commands) {
            out += "  " + each.name + (&each == command ? " (the default)" : "") + "\n" + wrapped(each.help, 8);
        }
    }
    const auto section = [&](const std::string& title, const std::string& owner) {
        std::string text;
        for (const auto& option : options) {
            if (option.command == owner) text += help_on(option);
        }
        return text.empty() ? text : "\n" + title + "\n" + text;
    };
    if (command != nullptr) out += section("Options of " + command->name, command->name);
    out += section("Options", {});
    out +=
        "\nAlways there\n"
        "  --config FILE\n        Settings file in TOML; its keys are the options' names (TIDEMARK_CONFIG)\n"
        "  --check-config\n        Print the settings in force and where each comes from, without running\n"
        "  --version, --help\n"
        "  --print-completion\n        Print what completes all this in bash: source <(" +
        program +
        " --print-completion)\n\n"
        "A flag wins over the environment, that over the file, that over the default.\n";
    return out;
}

std::string Settings::State::in_force(const std::string& command) const {
    std::string out = "# " + program + (command.empty() ? "" : " " + command) + ": the settings in force\n";
    for (const auto& option : options) {
        if (!concerns(option, command)) continue;
        const auto value = option.current();
        out += option.name + " = ";
        out += option.is_secret ? (value.empty() ? "\"\"" : "\"***\"") : option.in_toml(value);
        switch (option.origin) {
            case Origin::by_default:
                out += "  # default";
                break;
            case Origin::file:
                out += "  # file: " + option.origin_detail;
                break;
            case Origin::environment:
                out += "  # environment: " + option.origin_detail;
                break;
            case Origin::flag:
                out += "  # flag: " + option.origin_detail;
                break;
        }
        out += option.is_secret && !value.empty() ? ", not shown\n" : "\n";
    }
    return out;
}

std::string Settings::State::example() const {
    std::string out =
        "# Settings of " + program +
        ", each with its default. Copy the file, uncomment what you change, start with --config FILE.\n"
        "# A flag (--some-name) wins over the environment (TIDEMARK_SOME_NAME), and that over this file.\n";
    const auto section = [&](const std::string& title, const std::string& owner) {
        bool is_first = true;
        for (const auto& option : options) {
            if (option.command != owner) continue;
            if (std::exchange(is_first, false) && !title.empty()) out += "\n# ---- " + title + "\n";
            std::istringstream lines(wrapped(option.help + (option.limits.empty() ? "" : " " + option.limits), 0));
            out += '\n';
            for (std::string text; std::getline(lines, text);)
                out += "# " + text + "\n";
            out += "# " + option.name + " = " + (option.is_secret ? "\"\"" : option.in_toml(option.by_default)) + "\n";
            if (option.is_secret) out += "# " + option.name + "-file = \"\"\n";
        }
    };
    section({}, {});
    for (const auto& command : commands)
        section("only for " + program + " " + command.name, command.name);
    return out;
}

// For bash: the commands and what belongs to each. Names of options, commands and choices have nothing in them that a
// shell would take for more than itself.
std::string Settings::State::completion() const {
    const auto joined = [](const std::vector<std::string>& words) {
        std::string all;
        for (const auto& word : words)
            all += (all.empty() ? "" : " ") + word;
        return all;
    };
    const auto offer = [&](const std::vector<std::string>& words) {
        return "COMPREPLY=($(compgen -W '" + joined(words) + "' -- \"$current\"))";
    };
    const auto options_of = [&](const std::string& command) {
        std::vector<std::string> words = {"--config", "--check-config", "--help", "--version"};
        for (const auto& option : options) {
            if (!concerns(option, command)) continue;
            words.push_back("--" + option.name);
            if (option.is_secret) words.push_back("--" + option.name + "-file");
        }
        return words;
    };
    std::string function = "_" + program;
    std::replace(function.begin(), function.end(), '-', '_');
    std::string out = "# Completion of " + program +
                      " for bash; zsh takes it after `autoload -U bashcompinit && bashcompinit`.\n" + function +
                      "() {\n    local current=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD - 1]}\n"
                      "    local word command='' arguments=0 value=''\n";
    std::vector<std::string> names;
    for (const auto& command : commands)
        names.push_back(command.name);
    std::vector<std::string> with_value = {"--config"};
    std::string chosen;
    std::set<std::string> told;
    for (const auto& option : options) {
        if (option.is_secret) with_value.push_back("--" + option.name + "-file");
        if (option.is_switch() || !told.insert(option.name).second) continue;
        with_value.push_back("--" + option.name);
        if (!option.choices.empty())
            chosen += "        --" + option.name + ") " + offer(option.choices) + "; return ;;\n";
    }
    std::string patterns = joined(with_value);
    std::replace(patterns.begin(), patterns.end(), ' ', '|');
    // How far the words before the cursor have come: the command, and how many of its arguments stand there.
    out +=
        "    for word in \"${COMP_WORDS[@]:1:COMP_CWORD-1}\"; do\n"
        "        if [[ -n $value ]]; then value=''; continue; fi\n"
        "        case $word in\n"
        "        " +
        patterns +
        ") value=1 ;;\n"
        "        -*) ;;\n"
        "        *) if [[ -z $command ]]; then command=$word; else arguments=$((arguments + 1)); fi ;;\n"
        "        esac\n"
        "    done\n"
        "    if [[ -n $value ]]; then\n"
        "        case $previous in\n" +
        chosen +
        "        *) COMPREPLY=($(compgen -f -- \"$current\")); return ;;\n"
        "        esac\n"
        "    fi\n"
        "    case $command in\n"
        "    '')\n"
        "        if [[ $current == -* ]]; then " +
        offer(options_of(commands.empty() ? "" : commands.front().name)) + "; else " + offer(names) + "; fi ;;\n";
    for (const auto& command : commands) {
        out += "    " + command.name + ")\n        if [[ $current == -* ]]; then " + offer(options_of(command.name)) +
               "; return; fi\n"
               "        case $arguments in\n";
        for (std::size_t n = 0; n < command.arguments.size(); ++n) {
            const auto& offered = command.arguments[n].offered;
            out += "        " + std::to_string(n) + ") " +
                   (offered.empty() ? "COMPREPLY=($(compgen -f -- \"$current\"))" : offer(offered)) + " ;;\n";
        }
        out += "        esac ;;\n";
    }
    return out + "    esac\n}\ncomplete -o filenames -F " + function + " " + program + "\n";
}

int Settings::State::report() const {
    std::string text = program + ": " + std::to_string(violations.size()) +
                       (violations.size() == 1 ? " setting is wrong\n" : " settings are wrong\n");
    for (const auto& violation : violations)
        text += "  " + violation + "\n";
    text += "Try " + program + " --help for all options, --check-config for what is in force.\n";
    std::fputs(text.c_str(), stderr);
    return kWrongUse;
}

Settings::Settings(std::string program, std::string description) : state_(std::make_unique<State>()) {
    state_->program = std::move(program);
    state_->description = std::move(description);
}

Settings::~Settings() = default;

void Settings::text(std::string_view name, std::string& target, std::string_view help) {
    Option option;
    option.name = name;
    option.help = help;
    option.shape = "TEXT";
    option.assign = [&target](const std::string& value) {
        target = value;
        return std::nullopt;
    };
    option.current = [&target] { return target; };
    state_->declare(std::move(option));
}

void Settings::secret(std::string_view name, std::string& target, std::string_view help) {
    Option option;
    option.name = name;
    option.help = help;
    option.shape = "TEXT";
    option.is_secret = true;
    option.assign = [&target](const std::string& value) {
        target = value;
        return std::nullopt;
    };
    option.current = [&target] { return target; };
    state_->declare(std::move(option));
}

void Settings::number(std::string_view name, std::int64_t& target, std::int64_t min, std::int64_t max,
                      std::string_view help) {
    Option option;
    option.name = name;
    option.help = help;
    option.shape = "NUMBER";
    const auto range = std::to_string(min) + " to " + std::to_string(max);
    option.limits = "From " + range + ".";
    option.is_quoted = false;
    option.assign = [&target, min, max, range](const std::string& value) -> std::optional<std::string> {
        std::int64_t number = 0;
        const auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), number);
        if (error == std::errc::invalid_argument || end != value.data() + value.size()) {
            return shown(value) + " is not a whole number; give " + range;
        }
        if (error != std::errc{} || number < min || number > max)
            return shown(value) + " is out of range; give " + range;
        target = number;
        return std::nullopt;
    };
    option.current = [&target] { return std::to_string(target); };
    state_->declare(std::move(option));
}

void Settings::duration(std::string_view name, std::chrono::milliseconds& target, std::chrono::milliseconds min,
                        std::chrono::milliseconds max, std::string_view help) {
    Option option;
    option.name = name;
    option.help = help;
    option.shape = "DURATION";
    const auto range = with_unit(min.count(), kDurationUnits) + " to " + with_unit(max.count(), kDurationUnits);
    option.limits = "From " + range + ".";
    option.assign = [&target, min, max, range](const std::string& value) -> std::optional<std::string> {
        const auto amount = parse_amount(value, kDurationUnits, 1'000);
        if (!amount) return shown(value) + " is not a duration; write for instance 250ms, 1s, 10m or 24h";
        if (*amount < min.count() || *amount > max.count()) return shown(value) + " is out of range; give " + range;
        target = std::chrono::milliseconds{*amount};
        return std::nullopt;
    };
    option.current = [&target] { return with_unit(target.count(), kDurationUnits); };
    state_->declare(std::move(option));
}

void Settings::bytes(std::string_view name, std::int64_t& target, std::int64_t min, std::int64_t max,
                     std::string_view help) {
    Option option;
    option.name = name;
    option.help = help;
    option.shape = "BYTES";
    const auto range = with_unit(min, kByteUnits) + " to " + with_unit(max, kByteUnits);
    option.limits = "From " + range + ".";
    option.assign = [&target, min, max, range](const std::string& value) -> std::optional<std::string> {
        const auto amount = parse_amount(value, kByteUnits, 1);
        if (!amount) return shown(value) + " is not a size; write for instance 512, 64KiB or 16MiB";
        if (*amount < min || *amount > max) return shown(value) + " is out of range; give " + range;
        target = *amount;
        return std::nullopt;
    };
    option.current = [&target] { return with_unit(target, kByteUnits); };
    state_->declare(std::move(option));
}

void Settings::flag(std::string_view name, bool& target, std::string_view help) {
    Option option;
    option.name = name;
    option.help = help;
    option.is_quoted = false;
    option.assign = [&target](const std::string& value) -> std::optional<std::string> {
        if (value != "true" && value != "false") return shown(value) + " is no switch position; write true or false";
        target = value == "true";
        return std::nullopt;
    };
    option.current = [&target] { return std::string(target ? "true" : "false"); };
    state_->declare(std::move(option));
}

void Settings::choice(std::string_view name, std::string& target, std::vector<std::string> values,
                      std::string_view help) {
    Option option;
    option.name = name;
    option.help = help;
    std::string listed;
    for (const auto& value : values) {
        option.shape += (option.shape.empty() ? "" : "|") + value;
        listed += (listed.empty() ? "" : ", ") + value;
    }
    option.limits = "One of " + listed + ".";
    option.choices = values;
    option.assign = [&target, values = std::move(values), listed,
                     by_default = target](const std::string& value) -> std::optional<std::string> {
        if (value != by_default && std::find(values.begin(), values.end(), value) == values.end()) {
            return shown(value) + " is unknown" + suggestion(value, values, "choose from " + listed);
        }
        target = value;
        return std::nullopt;
    };
    option.current = [&target] { return target; };
    state_->declare(std::move(option));
}

void Settings::command(std::string_view name, std::string_view help, std::function<int()> run,
                       const std::function<void(Settings&)>& configure) {
    if (!state_->configuring.empty()) throw std::logic_error("a command inside a command: " + std::string(name));
    if (state_->find_command(name) != nullptr) throw std::logic_error("command declared twice: " + std::string(name));
    state_->commands.push_back({std::string(name), std::string(help), std::move(run), {}, {}});
    if (!configure) return;
    state_->configuring = name;
    configure(*this);
    state_->configuring.clear();
}

void Settings::argument(std::string_view name, std::string& target, bool required, std::string_view help,
                        std::vector<std::string> offered) {
    if (state_->configuring.empty()) throw std::logic_error("an argument belongs to a command: " + std::string(name));
    state_->commands.back().arguments.push_back(
        {std::string(name), std::string(help), &target, required, std::move(offered)});
}

void Settings::example(std::string_view arguments, std::string_view what) {
    if (state_->configuring.empty()) throw std::logic_error("an example belongs to a command");
    state_->commands.back().examples.push_back({std::string(arguments), std::string(what)});
}

void Settings::check(std::function<std::vector<std::string>()> rule) {
    state_->rules.push_back({state_->configuring, std::move(rule)});
}

bool Settings::is_given(std::string_view name) const {
    return std::any_of(state_->options.begin(), state_->options.end(), [&](const Option& option) {
        return option.name == name && option.origin != Origin::by_default;
    });
}

int Settings::run(int argc, const char* const* argv) {
    auto& state = *state_;
    const auto line = state.read_command_line(argc, argv);
    const auto print = [](const std::string& text) { return std::fputs(text.c_str(), stdout) < 0 ? kFailed : kDone; };
    if (line.help) return print(state.help(line.command));
    if (line.version) {
        return print(state.program + " " + std::string(version()) + " (" + std::string(commit()) + ", built " +
                     std::string(built()) + ")\n");
    }
    if (line.example) return print(state.example());
    if (line.completion) return print(state.completion());

    for (const auto& [name, value] : line.values) {
        if (name == "config") continue;
        std::string owners;
        bool is_ours = false;
        for (const auto& option : state.options) {
            if (option.name != name && !(option.is_secret && option.name + "-file" == name)) continue;
            is_ours = is_ours || state.concerns(option, line.command);
            owners += (owners.empty() ? "" : ", ") + option.command;
        }
        if (!is_ours)
            state.complain("--" + name, "belongs to " + owners + ", not to " + line.command + "; leave it out");
    }
    std::vector<Source> by_rank;
    by_rank.push_back({Origin::flag, line.values, [](const std::string& name) { return "--" + name; }});
    by_rank.push_back(state.read_environment());
    std::optional<std::string> file;
    for (const auto& source : by_rank) {
        const auto path = source.values.find("config");
        if (path != source.values.end() && !file) file = path->second;
    }
    if (file) by_rank.push_back(state.read_settings_file(*file));
    state.apply(by_rank, line.command);
    for (const auto& rule : state.rules) {
        if (!rule.command.empty() && rule.command != line.command) continue;
        for (auto& violation : rule.violations())
            state.violations.push_back(std::move(violation));
    }
    if (!state.violations.empty()) return state.report();
    if (line.check) return print(state.in_force(line.command));
    const auto* command = state.find_command(line.command);
    const auto code = command == nullptr ? kDone : command->run();
    // What was to be said and could not be has not been said.
    if (std::cout.flush() && std::fflush(stdout) == 0) return code;
    std::fputs("error: standard output cannot be written to\n", stderr);
    return code == kDone ? kFailed : code;
}

}  // namespace tidemark::base
