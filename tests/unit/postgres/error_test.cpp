#include "infra/postgres/error.h"

#include <doctest/doctest.h>

#include <string>
#include <vector>

using tidemark::pg::classify;
using tidemark::pg::Error;
using tidemark::pg::Failure;

TEST_CASE("each SQLSTATE says what can be done about it") {
    const auto all = [](Failure failure, const std::vector<std::string>& codes) {
        for (const auto& code : codes) {
            CAPTURE(code);
            CHECK(classify(code) == failure);
        }
    };
    all(Failure::connection_lost, {"", "08000", "08006", "08P01", "57P01", "57P02", "57P03", "57P05"});
    all(Failure::retryable, {"40001", "40P01", "40003", "55P03", "57014", "53000", "53100", "53200", "53300", "25P03"});
    all(Failure::data, {"22000", "22003", "22021", "22P02", "23502", "23505", "23514", "54000"});
    all(Failure::schema_changed, {"0A000", "42703", "42P01", "26000"});
    all(Failure::bug, {"42601", "42501", "42883", "42P07", "3F000", "25006", "25P02", "28P01", "3D000", "54001",
                       "58030", "57P04", "XX000", "XX001", "P0001"});
}

TEST_CASE("a lost connection and a retryable failure are retryable, an in-doubt commit is not") {
    const auto is_retryable = [](Failure failure) { return Error("x", "", failure).is_retryable(); };
    CHECK(is_retryable(Failure::connection_lost));
    CHECK(is_retryable(Failure::retryable));
    CHECK_FALSE(is_retryable(Failure::in_doubt));
    CHECK_FALSE(is_retryable(Failure::data));
    CHECK_FALSE(is_retryable(Failure::schema_changed));
    CHECK_FALSE(is_retryable(Failure::bug));
}
