#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace tidemark::pg {

/// A statement to be prepared once per connection. `name` is unique in the program; both are string literals.
struct Statement {
    const char* name;
    const char* sql;
};

/// A Postgres array in text form, built element by element: one parameter for `unnest($1::text[], ...)`.
class Array {
public:
    Array() : text_("{") {}
    /// Throws std::invalid_argument on U+0000: the server cannot hold it, and the client library would cut the text
    /// there.
    Array& add(std::string_view text);
    Array& add(const char* text) { return add(std::string_view(text)); }  ///< a pointer would rather become a bool
    Array& add(const std::string& text) { return add(std::string_view(text)); }
    Array& add(std::int64_t number);
    Array& add(std::int32_t number) { return add(static_cast<std::int64_t>(number)); }
    Array& add(bool flag);
    Array& add(
        std::chrono::sys_time<std::chrono::microseconds> instant);  ///< years 1..9999, else std::invalid_argument
    Array& add_null();
    Array& add_bytes(std::string_view bytes);     ///< an element of bytea[]
    Array& add_numeric(std::string_view digits);  ///< an element of numeric[], as written
    void reserve(std::size_t bytes) { text_.reserve(bytes); }
    [[nodiscard]] std::size_t size() const noexcept { return size_; }

private:
    friend class Params;
    void separate();
    std::string text_;
    std::size_t size_ = 0;
};

/// Parameters of one execution, in order, in text form. Owns what it is given.
class Params {
public:
    Params& add(std::string_view text);  ///< throws std::invalid_argument on U+0000
    Params& add(const char* text) { return add(std::string_view(text)); }
    Params& add(const std::string& text) { return add(std::string_view(text)); }
    Params& add(std::int64_t number);
    Params& add(std::int32_t number) { return add(static_cast<std::int64_t>(number)); }
    Params& add(bool flag);
    Params& add(
        std::chrono::sys_time<std::chrono::microseconds> instant);  ///< years 1..9999, else std::invalid_argument
    Params& add(Array array);
    Params& add_bytes(std::string_view bytes);  ///< bytea
    Params& add_null();
    template <typename T>
    Params& add_optional(const std::optional<T>& value) {
        return value ? add(*value) : add_null();
    }

    /// For the library's own callers: null pointers are NULL. Valid until this object changes.
    [[nodiscard]] std::vector<const char*> pointers() const;

private:
    std::vector<std::optional<std::string>> values_;
};

/// A result: text cells. Movable; cells are valid while it lives.
class Rows {
public:
    class Body {
    public:
        virtual ~Body() = default;
        [[nodiscard]] virtual std::size_t rows() const noexcept = 0;
        [[nodiscard]] virtual std::size_t affected() const noexcept = 0;
        [[nodiscard]] virtual std::optional<std::string_view> cell(std::size_t row,
                                                                   std::size_t column) const noexcept = 0;
    };
    Rows() = default;
    explicit Rows(std::unique_ptr<Body> body) noexcept : body_(std::move(body)) {}

    [[nodiscard]] std::size_t size() const noexcept { return body_ ? body_->rows() : 0; }
    [[nodiscard]] bool empty() const noexcept { return size() == 0; }
    [[nodiscard]] std::size_t affected() const noexcept { return body_ ? body_->affected() : 0; }
    /// Nullopt for NULL. Precondition: row and column exist.
    [[nodiscard]] std::optional<std::string_view> cell(std::size_t row, std::size_t column) const noexcept {
        return body_->cell(row, column);
    }
    /// Typed cells; NULL or another type is a bug in the statement and throws std::logic_error.
    [[nodiscard]] std::string_view text(std::size_t row, std::size_t column) const;
    [[nodiscard]] std::int64_t integer(std::size_t row, std::size_t column) const;
    [[nodiscard]] bool boolean(std::size_t row, std::size_t column) const;
    [[nodiscard]] std::string bytes(std::size_t row, std::size_t column) const;  ///< bytea, decoded
    /// timestamptz as `extract(epoch ...)` would lose; statements select instants as `(extract(epoch from t) *
    /// 1000000)::bigint`.
    [[nodiscard]] std::chrono::sys_time<std::chrono::microseconds> instant(std::size_t row, std::size_t column) const;

private:
    std::unique_ptr<Body> body_;
};

}  // namespace tidemark::pg
