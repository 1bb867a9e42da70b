#include "infra/postgres/query.h"

#include <charconv>
#include <stdexcept>
#include <utility>

namespace tidemark::pg {

namespace {

using Instant = std::chrono::sys_time<std::chrono::microseconds>;

void refuse_nul(std::string_view text) {
    if (text.find('\0') != std::string_view::npos) {
        throw std::invalid_argument("a text for the database contains U+0000, which it cannot hold");
    }
}

void append_padded(std::string& out, std::int64_t number, std::size_t width) {
    const auto digits = std::to_string(number);
    if (digits.size() < width) out.append(width - digits.size(), '0');
    out += digits;
}

std::string format(Instant instant) {
    const auto day = std::chrono::floor<std::chrono::days>(instant);
    // std::chrono::year holds 16 bits: a later day would come out as some other year, so the range is checked before.
    constexpr auto kFirst = std::chrono::sys_days{std::chrono::year{1} / 1 / 1};
    constexpr auto kEnd = std::chrono::sys_days{std::chrono::year{10'000} / 1 / 1};
    if (day < kFirst || day >= kEnd) throw std::invalid_argument("an instant outside the years 1 to 9999");
    const std::chrono::year_month_day date{day};
    const std::chrono::hh_mm_ss time{instant - day};
    std::string text;
    append_padded(text, static_cast<int>(date.year()), 4);
    text += '-';
    append_padded(text, static_cast<unsigned>(date.month()), 2);
    text += '-';
    append_padded(text, static_cast<unsigned>(date.day()), 2);
    text += ' ';
    append_padded(text, time.hours().count(), 2);
    text += ':';
    append_padded(text, time.minutes().count(), 2);
    text += ':';
    append_padded(text, time.seconds().count(), 2);
    text += '.';
    append_padded(text, time.subseconds().count(), 6);
    return text + "+00";
}

std::string hex(std::string_view bytes) {
    constexpr char kDigits[] = "0123456789abcdef";
    std::string text = "\\x";
    text.reserve(2 + 2 * bytes.size());
    for (const char c : bytes) {
        const auto byte = static_cast<unsigned char>(c);
        text += kDigits[byte >> 4U];
        text += kDigits[byte & 0xFU];
    }
    return text;
}

std::string place(std::size_t row, std::size_t column) {
    return "cell (" + std::to_string(row) + ", " + std::to_string(column) + ")";
}

}  // namespace

void Array::separate() {
    if (size_++ > 0) text_ += ',';
}

Array& Array::add(std::string_view text) {
    refuse_nul(text);
    separate();
    // Always in quotes: a text of no characters, one that reads NULL or one with a comma stays what it is.
    text_ += '"';
    for (const char c : text) {
        if (c == '"' || c == '\\') text_ += '\\';
        text_ += c;
    }
    text_ += '"';
    return *this;
}

Array& Array::add(std::int64_t number) {
    separate();
    char digits[24];  // -9223372036854775808 takes 20
    text_.append(digits, std::to_chars(digits, digits + sizeof digits, number).ptr);
    return *this;
}

Array& Array::add(bool flag) {
    separate();
    text_ += flag ? 't' : 'f';
    return *this;
}

Array& Array::add(Instant instant) {
    return add(std::string_view(format(instant)));
}

Array& Array::add_null() {
    separate();
    text_ += "NULL";
    return *this;
}

Array& Array::add_bytes(std::string_view bytes) {
    return add(std::string_view(hex(bytes)));
}

Array& Array::add_numeric(std::string_view digits) {
    return add(digits);
}

Params& Params::add(std::string_view text) {
    refuse_nul(text);
    values_.emplace_back(text);
    return *this;
}

Params& Params::add(std::int64_t number) {
    values_.emplace_back(std::to_string(number));
    return *this;
}

Params& Params::add(bool flag) {
    values_.emplace_back(flag ? "t" : "f");
    return *this;
}

Params& Params::add(Instant instant) {
    values_.emplace_back(format(instant));
    return *this;
}

Params& Params::add(Array array) {
    array.text_ += '}';
    values_.emplace_back(std::move(array.text_));
    return *this;
}

Params& Params::add_bytes(std::string_view bytes) {
    values_.emplace_back(hex(bytes));
    return *this;
}

Params& Params::add_null() {
    values_.emplace_back(std::nullopt);
    return *this;
}

std::vector<const char*> Params::pointers() const {
    std::vector<const char*> pointers;
    pointers.reserve(values_.size());
    for (const auto& value : values_)
        pointers.push_back(value ? value->c_str() : nullptr);
    return pointers;
}

std::string_view Rows::text(std::size_t row, std::size_t column) const {
    if (row >= size()) throw std::logic_error("no row " + std::to_string(row) + " in this result");
    const auto value = cell(row, column);
    if (!value) throw std::logic_error(place(row, column) + " is NULL");
    return *value;
}

std::int64_t Rows::integer(std::size_t row, std::size_t column) const {
    const auto value = text(row, column);
    std::int64_t number = 0;
    const auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), number);
    if (error != std::errc{} || end != value.data() + value.size()) {
        throw std::logic_error(place(row, column) + " is no 64-bit integer");
    }
    return number;
}

bool Rows::boolean(std::size_t row, std::size_t column) const {
    const auto value = text(row, column);
    if (value != "t" && value != "f") throw std::logic_error(place(row, column) + " is no boolean");
    return value == "t";
}

std::string Rows::bytes(std::size_t row, std::size_t column) const {
    const auto value = text(row, column);
    if (value.substr(0, 2) != "\\x" || value.size() % 2 != 0) {
        throw std::logic_error(place(row, column) + " is no bytea");
    }
    std::string decoded;
    decoded.reserve(value.size() / 2);
    for (std::size_t i = 2; i < value.size(); i += 2) {
        unsigned byte = 0;
        const auto [end, error] = std::from_chars(value.data() + i, value.data() + i + 2, byte, 16);
        if (error != std::errc{} || end != value.data() + i + 2) {
            throw std::logic_error(place(row, column) + " is no bytea");
        }
        decoded += static_cast<char>(byte);
    }
    return decoded;
}

Instant Rows::instant(std::size_t row, std::size_t column) const {
    return Instant{std::chrono::microseconds{integer(row, column)}};
}

}  // namespace tidemark::pg
