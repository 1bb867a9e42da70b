#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <optional>
#include <ostream>
#include <string>

namespace tidemark::base {

/// Shows how far long work is: a bar that is drawn over itself on a terminal, a line now and then elsewhere, JSON lines
/// where a program reads them. One thread.
class ProgressBar {
public:
    enum class Style : std::uint8_t { bar, lines, json };
    /// `bar` when standard error is a terminal, `lines` otherwise.
    static Style style_of_standard_error();

    struct State {
        std::int64_t done = 0;
        std::int64_t total = 0;  ///< may grow; below zero: nobody knows
        double rate = 0;         ///< per second
        std::string note{};      ///< what else there is to say, e.g. "3 parked"
    };

    /// `what`, e.g. "replay counters", stands first in every line; `unit`, e.g. "records", behind the numbers.
    ProgressBar(std::ostream& out, Style style, std::string what, std::string unit);
    /// Draws what was shown last, and ends the bar's line.
    ~ProgressBar();
    ProgressBar(const ProgressBar&) = delete;
    ProgressBar& operator=(const ProgressBar&) = delete;

    /// Takes the bar off its line, for something else to be written there; it comes again when it is next shown.
    void clear();
    /// Shows it if it is time to; call it as often as you like. `now` is the steady clock's.
    void show(const State& state, std::chrono::steady_clock::time_point now);

private:
    void draw(const State& state);

    std::ostream& out_;
    Style style_;
    std::string what_;
    std::string unit_;
    bool shown_ = false;
    std::optional<State> undrawn_;
    std::chrono::steady_clock::time_point next_{};
};

/// "1,234,567": digits in groups, for people.
std::string with_commas(std::int64_t number);

}  // namespace tidemark::base
