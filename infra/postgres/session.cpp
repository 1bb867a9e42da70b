#include "infra/postgres/session.h"

#include <libpq-fe.h>

#include <algorithm>
#include <map>
#include <memory>
#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>

namespace tidemark::pg::session {

namespace {

using Settings = std::map<std::string, std::string>;

/// By the server's names, in the units of pg_settings (milliseconds).
Settings server_settings(const SessionOptions& options, Access access) {
    Settings settings = {
        {"statement_timeout", std::to_string(options.statement_timeout.count())},
        {"lock_timeout", std::to_string(options.lock_timeout.count())},
        {"idle_in_transaction_session_timeout", std::to_string(options.idle_in_transaction_timeout.count())},
        // A role or a database may have other defaults; what we acknowledge and how we read cells must not depend on
        // them.
        {"synchronous_commit", "on"},
        {"TimeZone", "UTC"},
        {"DateStyle", "ISO, MDY"},
        {"bytea_output", "hex"},
        {"default_transaction_isolation", "read committed"},
        {"default_transaction_read_only", access == Access::read_only ? "on" : "off"},
    };
    if (!options.search_path.empty()) settings["search_path"] = options.search_path;
    return settings;
}

/// Of the start-up packet's `options`, where blanks and backslashes are escaped.
std::string in_options(const Settings& settings) {
    std::string text;
    for (const auto& [name, value] : settings) {
        text += " -c " + name + "=";
        for (const char c : value) {
            if (c == ' ' || c == '\\') text += '\\';
            text += c;
        }
    }
    return text;
}

std::string keyword(const std::string& name, const std::string& value) {
    std::string text = name + "='";
    for (const char c : value) {
        if (c == '\'' || c == '\\') text += '\\';
        text += c;
    }
    return text + "' ";
}

// Whether a password that was not encoded has ended as something that an error of the connection would show.
bool is_split_wrongly(std::string_view dsn, const Settings& keywords) {
    const auto value = [&](const char* keyword) {
        const auto found = keywords.find(keyword);
        return found == keywords.end() ? std::string() : found->second;
    };
    std::istringstream hosts(value("host"));
    for (std::string host; std::getline(hosts, host, ',');) {
        const bool is_socket = !host.empty() && (host.front() == '/' || host.front() == '@');
        if (!is_socket && host.find('@') != std::string::npos) return true;
    }
    const bool is_uri = dsn.starts_with("postgresql://") || dsn.starts_with("postgres://");
    return value("port").find_first_not_of("0123456789, ") != std::string::npos ||
           (is_uri && value("dbname").find('@') != std::string::npos);
}

}  // namespace

std::string connection_string(const std::string& dsn, const SessionOptions& options, Access access) {
    char* reason = nullptr;
    const std::unique_ptr<PQconninfoOption, decltype(&PQconninfoFree)> parsed(PQconninfoParse(dsn.c_str(), &reason),
                                                                              &PQconninfoFree);
    PQfreemem(reason);  // it quotes the DSN, and with it the password
    if (!parsed) {
        throw Error(
            "the connection string cannot be parsed; write postgresql://USER:PASSWORD@HOST:PORT/DATABASE or "
            "host=... dbname=...",
            {}, Failure::bug);
    }
    Settings keywords;
    for (const auto* option = parsed.get(); option->keyword != nullptr; ++option) {
        if (option->val != nullptr) keywords[option->keyword] = option->val;
    }
    if (is_split_wrongly(dsn, keywords)) {
        throw Error(
            "the connection string's host, port or database is none: write @ : / and % of a password as %40 %3A %2F "
            "and %25",
            {}, Failure::bug);
    }
    keywords["application_name"] = options.application_name;
    keywords["client_encoding"] = "UTF8";
    keywords["connect_timeout"] = std::to_string(options.connect_timeout.count());
    keywords["options"] += in_options(server_settings(options, access));
    // A peer that is silently gone: what we sent unacknowledged is given up after 5 s, and so is a wait for its answer,
    // by a probe after 2 s of silence and then each second.
    keywords["tcp_user_timeout"] = "5000";
    keywords["keepalives"] = "1";
    keywords["keepalives_idle"] = "2";
    keywords["keepalives_interval"] = "1";
    keywords["keepalives_count"] = "3";

    std::string text;
    for (const auto& [name, value] : keywords)
        text += keyword(name, value);
    return text;
}

std::string unlike(const std::vector<std::pair<std::string, std::string>>& settings, const SessionOptions& options,
                   Access access) {
    auto expected = server_settings(options, access);
    expected["client_encoding"] = "UTF8";
    std::string differences;
    for (const auto& [name, value] : expected) {
        const auto found = std::find_if(settings.begin(), settings.end(),
                                        [&, wanted = name](const auto& setting) { return setting.first == wanted; });
        const std::string actual = found == settings.end() ? "unknown" : found->second;
        if (actual == value) continue;
        differences += (differences.empty() ? "" : ", ") + name + " is " + actual + ", not " + value;
    }
    return differences;
}

Plans::Plan& Plans::of(const Statement& statement) {
    const auto found = known_.find(std::string_view(statement.name));
    if (found == known_.end()) {
        return known_.emplace(statement.name, Known{statement.sql, 0, {statement.name, false}}).first->second.plan;
    }
    if (found->second.sql != statement.sql) {
        throw std::logic_error(std::string("two statements are named ") + statement.name);
    }
    return found->second.plan;
}

void Plans::forget(const Statement& statement) {
    const auto found = known_.find(std::string_view(statement.name));
    if (found == known_.end()) return;
    found->second.plan = {std::string(statement.name) + "#" + std::to_string(++found->second.forgotten), false};
}

}  // namespace tidemark::pg::session
