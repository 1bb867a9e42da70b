#pragma once

#include <cstddef>
#include <cstdint>
#include <istream>
#include <string>
#include <vector>

namespace tidemark::producer {

/// The rows of a CSV file as RFC 4180 has them: fields in quotes hold commas, line breaks and doubled quotes; lines end
/// with LF or CRLF, the last one also without. A byte order mark and blank lines are passed over. Nothing is trimmed.
/// Holds one row.
class CsvRows {
public:
    /// A longer row is most likely a quote that is missing.
    static constexpr std::size_t kMostBytes = std::size_t{1} << 20;

    /// `in` must outlive it.
    explicit CsvRows(std::istream& in) : in_(in) {}

    /// Goes to the next row; false when there is none. Throws std::runtime_error when the file cannot be read, or a row
    /// is too long to go on behind it.
    bool next();

    [[nodiscard]] std::vector<std::string>& fields() noexcept { return fields_; }
    /// Where the row begins, from 1.
    [[nodiscard]] std::uint64_t line() const noexcept { return line_; }
    /// What is wrong with how it is written, so that its fields mean nothing; empty: nothing.
    [[nodiscard]] const std::string& wrong() const noexcept { return wrong_; }

private:
    int get();
    int read_field();
    void skip_byte_order_mark();

    std::istream& in_;
    std::vector<std::string> fields_;
    std::uint64_t line_ = 0;
    std::uint64_t at_ = 1;  // line of the next byte
    std::size_t bytes_ = 0;
    bool is_blank_ = false;
    std::string pushed_back_;
    std::string wrong_;
};

}  // namespace tidemark::producer
