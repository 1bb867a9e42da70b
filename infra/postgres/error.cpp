#include "infra/postgres/error.h"

#include <algorithm>
#include <array>
#include <string_view>

namespace tidemark::pg {

namespace {

template <std::size_t N>
bool is_one_of(std::string_view code, const std::array<std::string_view, N>& codes) {
    return std::find(codes.begin(), codes.end(), code) != codes.end();
}

}  // namespace

Failure classify(const std::string& sqlstate) noexcept {
    const std::string_view code = sqlstate;
    const auto category = code.substr(0, 2);
    // admin_shutdown, crash_shutdown, cannot_connect_now, idle_session_timeout
    constexpr std::array<std::string_view, 4> kSessionEnded = {"57P01", "57P02", "57P03", "57P05"};
    // lock_not_available, query_canceled (statement_timeout), idle_in_transaction_session_timeout
    constexpr std::array<std::string_view, 3> kTryAgain = {"55P03", "57014", "25P03"};
    // feature_not_supported (a cached plan), undefined_column, undefined_table, invalid_sql_statement_name
    constexpr std::array<std::string_view, 4> kPlanIsOld = {"0A000", "42703", "42P01", "26000"};

    if (code.empty() || category == "08" || is_one_of(code, kSessionEnded)) return Failure::connection_lost;
    if (category == "40" || category == "53" || is_one_of(code, kTryAgain)) return Failure::retryable;
    if (category == "22" || category == "23" || code == "54000") return Failure::data;
    if (is_one_of(code, kPlanIsOld)) return Failure::schema_changed;
    return Failure::bug;
}

}  // namespace tidemark::pg
