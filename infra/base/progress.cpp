#include "infra/base/progress.h"

#include "infra/base/log.h"

#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <utility>

namespace tidemark::base {

namespace {

constexpr std::chrono::milliseconds kRedraw{100};
constexpr std::chrono::seconds kNextLine{5};
constexpr std::chrono::seconds kNextJson{1};
constexpr std::size_t kBarWidth = 30;

double share_of(const ProgressBar::State& state) {
    if (state.total <= 0) return 1;
    return std::clamp(static_cast<double>(state.done) / static_cast<double>(state.total), 0.0, 1.0);
}

// Nullopt-like: below zero when nothing can be said.
std::int64_t seconds_left(const ProgressBar::State& state) {
    if (state.total < 0) return -1;
    if (state.done >= state.total) return 0;
    if (state.rate <= 0) return -1;
    return static_cast<std::int64_t>(std::ceil(static_cast<double>(state.total - state.done) / state.rate));
}

std::string duration(std::int64_t seconds) {
    char text[32];
    if (seconds < 60) {
        std::snprintf(text, sizeof text, "%ds", static_cast<int>(seconds));
    } else if (seconds < 3'600) {
        std::snprintf(text, sizeof text, "%dm%02ds", static_cast<int>(seconds / 60), static_cast<int>(seconds % 60));
    } else {
        std::snprintf(text, sizeof text, "%ldh%02dm", static_cast<long>(seconds / 3'600),
                      static_cast<int>(seconds / 60 % 60));
    }
    return text;
}

}  // namespace

std::string with_commas(std::int64_t number) {
    auto digits = std::to_string(number);
    const std::size_t first = number < 0 ? 1 : 0;
    for (auto at = digits.size(); at > first + 3; at -= 3)
        digits.insert(at - 3, 1, ',');
    return digits;
}

double MeanRate::of(std::int64_t done) const {
    const std::chrono::duration<double> took = clock_.steady() - began_;
    return static_cast<double>(done) / std::max(took.count(), 1e-3);
}

ProgressBar::Style ProgressBar::style_of_standard_error(bool for_programs) {
    if (for_programs) return Style::json;
    return ::isatty(STDERR_FILENO) == 1 ? Style::bar : Style::lines;
}

ProgressBar::ProgressBar(std::ostream& out, Style style, std::string what, std::string unit)
    : out_(out), style_(style), what_(std::move(what)), unit_(std::move(unit)) {}

ProgressBar::~ProgressBar() {
    if (undrawn_) draw(*undrawn_);
    if (shown_ && style_ == Style::bar) out_ << '\n' << std::flush;
}

void ProgressBar::clear() {
    if (style_ != Style::bar) return;
    if (shown_) out_ << "\r\x1b[K" << std::flush;
    next_ = {};
}

void ProgressBar::show(const State& state, std::chrono::steady_clock::time_point now) {
    undrawn_ = state;
    if (shown_ && now < next_) return;
    undrawn_.reset();
    next_ = now + (style_ == Style::bar     ? std::chrono::milliseconds(kRedraw)
                   : style_ == Style::lines ? std::chrono::milliseconds(kNextLine)
                                            : std::chrono::milliseconds(kNextJson));
    shown_ = true;
    draw(state);
}

void ProgressBar::draw(const State& state) {
    const auto left = seconds_left(state);
    const auto rate = static_cast<std::int64_t>(std::llround(state.rate));
    if (style_ == Style::json) {
        out_ << R"({"progress":)" << log::quoted(what_) << R"(,"done":)" << state.done << R"(,"total":)"
             << (state.total < 0 ? "null" : std::to_string(state.total)) << R"(,"rate":)" << rate
             << R"(,"secondsLeft":)" << (left < 0 ? "null" : std::to_string(left));
        for (const auto& count : state.counts)
            out_ << ",\"" << count.name << "\":" << count.number;
        out_ << "}\n" << std::flush;
        return;
    }
    std::string line(style_ == Style::bar ? "\r" : "");
    line.append(what_).append("  ");
    if (state.total >= 0) {
        const auto share = share_of(state);
        if (style_ == Style::bar) {
            const auto filled = static_cast<std::size_t>(share * kBarWidth);
            line.append("[").append(filled, '#').append(kBarWidth - filled, '.').append("] ");
        }
        char percent[16];
        std::snprintf(percent, sizeof percent, "%5.1f %%", share * 100);
        line.append(percent).append("  ");
    }
    line.append(with_commas(state.done));
    if (state.total >= 0) line.append(" of ").append(with_commas(state.total));
    line.append(" ").append(unit_).append("  ").append(with_commas(rate)).append("/s");
    if (left >= 0) line.append("  ").append(duration(left)).append(" left");
    const char* between = "  ";
    for (const auto& count : state.counts) {
        if (count.number != 0)
            line.append(std::exchange(between, ", ")).append(with_commas(count.number)).append(" ").append(count.name);
    }
    line.append(style_ == Style::bar ? "\x1b[K" : "\n");  // what an earlier, longer line left behind
    out_ << line << std::flush;
}

}  // namespace tidemark::base
