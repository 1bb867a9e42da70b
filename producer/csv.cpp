#include "producer/csv.h"

#include <stdexcept>
#include <string_view>

namespace tidemark::producer {

namespace {

constexpr int kEnd = std::istream::traits_type::eof();
constexpr const char* kBehindQuote = "something stands behind a closing quote";
constexpr std::string_view kByteOrderMark = "\xEF\xBB\xBF";

}  // namespace

bool CsvRows::next() {
    if (line_ == 0) skip_byte_order_mark();
    while (true) {
        fields_.clear();
        wrong_.clear();
        bytes_ = 0;
        line_ = at_;
        is_blank_ = true;
        int end = ',';
        while (end == ',') {
            end = read_field();
            if (end == ',') is_blank_ = false;
        }
        if (in_.bad()) throw std::runtime_error("it could not be read to its end: convert it again");
        if (!is_blank_) return true;
        if (end == kEnd) return false;
    }
}

// Appends a field; what it ends with: a comma, a line feed or the end of the file.
int CsvRows::read_field() {
    auto& field = fields_.emplace_back();
    int c = get();
    const bool is_quoted = c == '"';
    if (is_quoted) {
        is_blank_ = false;
        while (true) {
            c = get();
            if (c == kEnd) {
                wrong_ = "a quoted field does not end";
                return c;
            }
            if (c == '"') {
                c = get();
                if (c != '"') break;
            }
            field.push_back(static_cast<char>(c));
        }
    }
    while (true) {
        if (c == '\r') {
            c = get();
            if (c == '\n' || c == kEnd) return c;
            is_blank_ = false;
            if (is_quoted) wrong_ = kBehindQuote;
            field.push_back('\r');
            continue;
        }
        if (c == ',' || c == '\n' || c == kEnd) return c;
        is_blank_ = false;
        if (is_quoted) {
            wrong_ = kBehindQuote;
        } else if (c == '"') {
            wrong_ = "a quote stands within a field that is not in quotes";
        }
        field.push_back(static_cast<char>(c));
        c = get();
    }
}

int CsvRows::get() {
    int c = kEnd;
    if (pushed_back_.empty()) {
        c = in_.get();
    } else {
        c = static_cast<unsigned char>(pushed_back_.front());
        pushed_back_.erase(0, 1);
    }
    if (c == kEnd) return c;
    if (c == '\n') ++at_;
    if (++bytes_ > kMostBytes) {
        throw std::runtime_error("line " + std::to_string(line_) + ": a row of more than " +
                                 std::to_string(kMostBytes >> 20) + " MiB begins there: is a quote missing?");
    }
    return c;
}

void CsvRows::skip_byte_order_mark() {
    for (const char expected : kByteOrderMark) {
        const int c = in_.get();
        if (c == kEnd) return;
        pushed_back_.push_back(static_cast<char>(c));
        if (static_cast<char>(c) != expected) return;
    }
    pushed_back_.clear();
}

}  // namespace tidemark::producer
