#pragma once

#include "infra/base/clock.h"

#include <chrono>
#include <cstdint>
#include <functional>
#include <optional>
#include <ostream>
#include <string>
#include <vector>

namespace tidemark::base {

/// Shows how far long work is: a bar that is drawn over itself on a terminal, a line now and then elsewhere, JSON lines
/// where a program reads them. One thread.
class ProgressBar {
public:
    enum class Style : std::uint8_t { bar, lines, json };
    /// `json` where a program reads it; else `bar` when standard error is a terminal, `lines` otherwise.
    static Style style_of_standard_error(bool for_programs);

    /// What else there is to tell of: {"parked", 3} is "3 parked", or the member "parked". Its name needs no quoting.
    struct Count {
        const char* name = "";
        std::int64_t number = 0;
    };

    struct State {
        std::int64_t done = 0;
        std::int64_t total = 0;       ///< may grow; below zero: nobody knows
        double rate = 0;              ///< per second
        std::vector<Count> counts{};  ///< for people without those that are 0
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

/// How much has been done per second since this was made. `clock` must outlive it.
class MeanRate {
public:
    explicit MeanRate(const Clock& clock) : clock_(clock), began_(clock.steady()) {}
    [[nodiscard]] double of(std::int64_t done) const;

private:
    const Clock& clock_;
    std::chrono::steady_clock::time_point began_;
};

/// "1,234,567": digits in groups, for people.
std::string with_commas(std::int64_t number);

}  // namespace tidemark::base
