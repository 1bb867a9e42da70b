#include "schemas/instant.h"

#include <array>
#include <cassert>
#include <cstddef>

namespace tidemark::schemas {
namespace {

using std::chrono::day;
using std::chrono::days;
using std::chrono::hours;
using std::chrono::microseconds;
using std::chrono::minutes;
using std::chrono::month;
using std::chrono::seconds;
using std::chrono::sys_days;
using std::chrono::year;
using std::chrono::year_month_day;

constexpr Timestamp kFirst = sys_days{year{1} / 1 / 1};
constexpr Timestamp kEnd = sys_days{year{10'000} / 1 / 1};

constexpr std::size_t kKeptFractionDigits = 6;
constexpr std::size_t kMaxFractionDigits = 9;

bool is_digit(char c) noexcept {
    return c >= '0' && c <= '9';
}

/// Eats the text from the left; every step says whether what it wanted was there.
class Cursor {
public:
    explicit Cursor(std::string_view text) noexcept : rest_(text) {}

    bool at_end() const noexcept { return rest_.empty(); }

    bool number(std::size_t width, int& value) noexcept {
        if (rest_.size() < width) return false;
        value = 0;
        for (std::size_t i = 0; i < width; ++i) {
            if (!is_digit(rest_[i])) return false;
            value = value * 10 + (rest_[i] - '0');
        }
        rest_.remove_prefix(width);
        return true;
    }

    bool one_of(std::string_view characters) noexcept {
        if (rest_.empty() || characters.find(rest_.front()) == std::string_view::npos) return false;
        rest_.remove_prefix(1);
        return true;
    }

    /// One to nine digits after the point, cut to microseconds.
    bool fraction(int& micros) noexcept {
        std::size_t count = 0;
        micros = 0;
        for (; count < rest_.size() && is_digit(rest_[count]); ++count) {
            if (count < kKeptFractionDigits) micros = micros * 10 + (rest_[count] - '0');
        }
        if (count == 0 || count > kMaxFractionDigits) return false;
        for (std::size_t i = count; i < kKeptFractionDigits; ++i)
            micros *= 10;
        rest_.remove_prefix(count);
        return true;
    }

    /// `Z`, `z`, or a sign with `hh`, `hhmm` or `hh:mm`; what local time is ahead of UTC.
    bool offset(bool space_is_plus, minutes& ahead) noexcept {
        ahead = minutes{0};
        if (one_of("Zz")) return true;
        const bool negative = one_of("-");
        if (!negative && !one_of(space_is_plus ? "+ " : "+")) return false;
        int hour = 0;
        int minute = 0;
        if (!number(2, hour)) return false;
        if (!at_end()) {
            one_of(":");
            if (!number(2, minute)) return false;
        }
        if (hour > 23 || minute > 59) return false;
        ahead = hours{hour} + minutes{minute};
        if (negative) ahead = -ahead;
        return true;
    }

private:
    std::string_view rest_;
};

std::optional<Timestamp> parse(std::string_view text, bool space_is_plus) noexcept {
    Cursor in(text);
    int y = 0;
    int mon = 0;
    int d = 0;
    int h = 0;
    int min = 0;
    int s = 0;
    int micros = 0;
    minutes ahead{0};
    const bool date_there = in.number(4, y) && in.one_of("-") && in.number(2, mon) && in.one_of("-") && in.number(2, d);
    if (!date_there || !in.one_of("Tt ")) return std::nullopt;
    const bool time_there = in.number(2, h) && in.one_of(":") && in.number(2, min) && in.one_of(":") && in.number(2, s);
    if (!time_there) return std::nullopt;
    if (in.one_of(".") && !in.fraction(micros)) return std::nullopt;
    if (!in.offset(space_is_plus, ahead) || !in.at_end()) return std::nullopt;

    const year_month_day date{year{y}, month{static_cast<unsigned>(mon)}, day{static_cast<unsigned>(d)}};
    if (y < 1 || !date.ok() || h > 23 || min > 59 || s > 59) return std::nullopt;
    const Timestamp instant = sys_days{date} + hours{h} + minutes{min} + seconds{s} + microseconds{micros} - ahead;
    if (instant < kFirst || instant >= kEnd) return std::nullopt;
    return instant;
}

char* put_digits(char* out, unsigned value, std::size_t width) noexcept {
    for (std::size_t i = width; i-- > 0; value /= 10)
        out[i] = static_cast<char>('0' + value % 10);
    return out + width;
}

}  // namespace

std::optional<Timestamp> parse_instant(std::string_view text) noexcept {
    return parse(text, false);
}

std::optional<Timestamp> parse_query_instant(std::string_view text) noexcept {
    return parse(text, true);
}

std::string format_instant(Timestamp instant) {
    std::string out;
    append_instant(out, instant);
    return out;
}

void append_instant(std::string& out, Timestamp instant) {
    assert(instant >= kFirst && instant < kEnd);
    const auto midnight = std::chrono::floor<days>(instant);
    const year_month_day date{midnight};
    const std::chrono::hh_mm_ss<microseconds> time{instant - midnight};

    std::array<char, sizeof("YYYY-MM-DDThh:mm:ss.uuuuuuZ")> text;
    char* at = put_digits(text.data(), static_cast<unsigned>(static_cast<int>(date.year())), 4);
    *at++ = '-';
    at = put_digits(at, static_cast<unsigned>(date.month()), 2);
    *at++ = '-';
    at = put_digits(at, static_cast<unsigned>(date.day()), 2);
    *at++ = 'T';
    at = put_digits(at, static_cast<unsigned>(time.hours().count()), 2);
    *at++ = ':';
    at = put_digits(at, static_cast<unsigned>(time.minutes().count()), 2);
    *at++ = ':';
    at = put_digits(at, static_cast<unsigned>(time.seconds().count()), 2);
    const auto micros = static_cast<unsigned>(time.subseconds().count());
    if (micros != 0) {
        *at++ = '.';
        at = micros % 1000 == 0 ? put_digits(at, micros / 1000, 3) : put_digits(at, micros, 6);
    }
    *at++ = 'Z';
    out.append(text.data(), static_cast<std::size_t>(at - text.data()));
}

Timestamp window_start(Timestamp instant) noexcept {
    using Windows = std::chrono::duration<std::int64_t, std::ratio<kWindowLength.count()>>;
    return std::chrono::floor<Windows>(instant);
}

}  // namespace tidemark::schemas
