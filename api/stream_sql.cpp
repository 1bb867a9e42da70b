#include "api/stream_sql.h"

#include "infra/postgres/connection.h"

namespace tidemark::api {

std::string for_each_stream(Streams streams, std::string_view text, std::string_view between) {
    std::string sql;
    for (const auto& stream : streams) {
        if (!sql.empty()) sql.append(between);
        for (const char c : text) {
            if (c == '@') {
                sql.append(pg::quote_identifier(stream.name));
            } else if (c == '#') {
                sql.append("text '").append(stream.name).append("' collate \"C\"");
            } else {
                sql.push_back(c);
            }
        }
    }
    return sql;
}

}  // namespace tidemark::api
