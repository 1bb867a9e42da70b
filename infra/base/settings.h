#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace tidemark::base {

/// A program's command line, environment and settings file. An option `flush-interval` is the flag --flush-interval,
/// the variable TIDEMARK_FLUSH_INTERVAL and the TOML key flush-interval; the flag wins over the variable, that over the
/// file, that over the default standing in the target. Every program has --config FILE, --check-config (print redacted,
/// check, exit), --version, --help, and --print-completion for bash. Unknown flags, TOML keys and TIDEMARK_* variables
/// of no option of any Tidemark program, and impossible values are collected and printed all at once; the parse then
/// ends in exit code 2. TIDEMARK_TEST_* and TIDEMARK_FAILPOINT* are let through.
class Settings {
public:
    Settings(std::string program, std::string description);
    ~Settings();
    Settings(const Settings&) = delete;
    Settings& operator=(const Settings&) = delete;

    void text(std::string_view name, std::string& target, std::string_view help);
    /// Never printed; also from the file named by TIDEMARK_<NAME>_FILE or --<name>-file, refused when world-readable.
    void secret(std::string_view name, std::string& target, std::string_view help);
    void number(std::string_view name, std::int64_t& target, std::int64_t min, std::int64_t max, std::string_view help);
    /// "250ms", "1s", "10m", "24h"; a bare number is seconds.
    void duration(std::string_view name, std::chrono::milliseconds& target, std::chrono::milliseconds min,
                  std::chrono::milliseconds max, std::string_view help);
    /// "64KiB", "16MiB"; a bare number is bytes.
    void bytes(std::string_view name, std::int64_t& target, std::int64_t min, std::int64_t max, std::string_view help);
    void flag(std::string_view name, bool& target, std::string_view help);
    void choice(std::string_view name, std::string& target, std::vector<std::string> values, std::string_view help);

    /// A subcommand; the options and positional arguments added by `configure` belong to it alone. The first one added
    /// is the default when none is named. `run` gets called by run().
    void command(std::string_view name, std::string_view help, std::function<int()> run,
                 const std::function<void(Settings&)>& configure = {});
    /// Positional argument of the command being configured. `offered`: what completion offers; others may be given.
    void argument(std::string_view name, std::string& target, bool required, std::string_view help,
                  std::vector<std::string> offered = {});
    /// A line for the help of the command being configured: what stands behind the command's name, and what it does.
    void example(std::string_view arguments, std::string_view what);

    /// Adds a check over several options, run after parsing; the violations it returns are printed with the others.
    void check(std::function<std::vector<std::string>()> rule);

    /// Whether a flag, the environment or the file gave an option of the command that runs, be it the default's value.
    /// For rules and commands: nothing is given before run().
    [[nodiscard]] bool is_given(std::string_view name) const;

    /// Parses, checks and runs the named command. Returns the process's exit code.
    int run(int argc, const char* const* argv);

private:
    struct State;
    std::unique_ptr<State> state_;
};

}  // namespace tidemark::base
