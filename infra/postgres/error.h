#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>

namespace tidemark::pg {

/// What a failure means to the one who asked. By SQLSTATE; without one the connection itself failed.
enum class Failure : std::uint8_t {
    connection_lost,  ///< 08xxx, 57P01-57P03, no SQLSTATE: nothing was committed; a new Connection is needed
    in_doubt,         ///< the connection broke while COMMIT was under way: read back what you would have written
    retryable,        ///< 40001, 40P01, 55P03, 57014, 53xxx, 25P03: roll back, do the whole transaction again, later
    data,             ///< 22xxx, 23xxx, 54000: a value was refused; the same values will be refused again
    schema_changed,   ///< 0A000 (cached plan), 42703, 42P01, 26000: prepare again once; 42xxx otherwise is `bug`
    bug,              ///< the statement, the rights or the database are wrong: stop and alarm
};

class Error : public std::runtime_error {
public:
    Error(const std::string& what, std::string sqlstate, Failure failure)
        : std::runtime_error(what), sqlstate_(std::move(sqlstate)), failure_(failure) {}

    [[nodiscard]] const std::string& sqlstate() const noexcept { return sqlstate_; }  ///< empty: none came
    [[nodiscard]] Failure failure() const noexcept { return failure_; }
    [[nodiscard]] bool is_retryable() const noexcept {
        return failure_ == Failure::connection_lost || failure_ == Failure::retryable;
    }

private:
    std::string sqlstate_;
    Failure failure_;
};

/// The failure that a SQLSTATE stands for.
Failure classify(const std::string& sqlstate) noexcept;

}  // namespace tidemark::pg
