#pragma once

#include "infra/postgres/connection.h"

#include <map>
#include <string>
#include <utility>
#include <vector>

/// What the two ways of connecting share: libpqxx's for transactions, libpq's for pipelines.
namespace tidemark::pg::session {

enum class Access { read_write, read_only };

/// `dsn` (a URI or keywords) with the session's settings added, as keywords. Ours win over those of the DSN: they are
/// what keeps a stopped process from holding locks. Throws pg::Error, without repeating the DSN, when it cannot be
/// parsed.
std::string connection_string(const std::string& dsn, const SessionOptions& options, Access access);

/// Answers (name, setting) of each parameter that `unlike` wants to see.
inline constexpr const char* kQuestion =
    "select name, setting from pg_catalog.pg_settings where name in ('statement_timeout', 'lock_timeout', "
    "'idle_in_transaction_session_timeout', 'synchronous_commit', 'client_encoding', 'TimeZone', 'DateStyle', "
    "'bytea_output', 'search_path', 'default_transaction_isolation', 'default_transaction_read_only')";

/// What differs between the session and what was asked for ("lock_timeout is 0, not 1000"); empty: nothing. A pooler
/// between us and the server may drop start-up parameters without a word.
std::string unlike(const std::vector<std::pair<std::string, std::string>>& settings, const SessionOptions& options,
                   Access access);

/// The statements prepared on one connection.
class Plans {
public:
    struct Plan {
        std::string name;  ///< the server's
        bool is_prepared = false;
    };
    /// Throws std::logic_error when the statement's name stands for another text already.
    Plan& of(const Statement& statement);
    /// After the tables changed: the next plan has another name. The old one is left behind, not deallocated: that
    /// would fail in an aborted transaction, and again when the server has forgotten it.
    void forget(const Statement& statement);

private:
    struct Known {
        std::string sql;
        unsigned forgotten = 0;
        Plan plan;
    };
    std::map<std::string, Known, std::less<>> known_;
};

}  // namespace tidemark::pg::session
