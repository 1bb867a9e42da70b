#include "api/health.h"

#include "api/pages.h"
#include "infra/base/version.h"
#include "infra/postgres/connection.h"
#include "infra/postgres/error.h"
#include "schemas/catalogue.h"
#include "schemas/json.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <memory>
#include <stdexcept>
#include <utility>
#include <vector>

namespace tidemark::api {
namespace {

using schemas::json::append_integer;
using schemas::json::append_string;

constexpr std::string_view kJson = "application/json";
/// More than the tables may ever be behind while broker and database are up.
constexpr double kMaxLagSeconds = 10;

/// Who folds each stream, and how many of its letters are open; of rows (stream, open, instance, state, version,
/// partitions, heartbeat), where `open` stands in one row of each stream and the rest in the others.
std::string status_sql() {
    std::string sql;
    for (const auto& stream : schemas::catalogue()) {
        const auto name = pg::quote_identifier(stream.name);
        sql.append(sql.empty() ? "" : " union all ");
        sql.append("select '")
            .append(stream.name)
            .append("', open_dead_letters, null::text, null::text, null::text, null::text, null::bigint from ");
        sql.append(name).append(".api_progress");
    }
    return sql.append(
        " union all select c.stream, null::bigint, c.instance, c.state, c.version, array_to_json(c.partitions)::text, "
        "c.heartbeat_us from tidemark.api_consumers c "
        "join tidemark.api_streams s on s.name = c.stream and s.generation = c.generation order by 1, 3");
}

/// Milliseconds are as exact as clocks of two machines agree.
void append_seconds(std::string& out, double seconds) {
    std::array<char, 32> digits;
    const auto end =
        std::to_chars(digits.data(), digits.data() + digits.size(), seconds, std::chars_format::fixed, 3).ptr;
    out.append(digits.data(), static_cast<std::size_t>(end - digits.data()));
}

struct Consumer {
    std::string instance, state, version, partitions;
    double heartbeat_age = 0;
};
struct StreamStatus {
    std::optional<std::int64_t> open_dead_letters;
    std::vector<Consumer> consumers;
};

class Status {
public:
    explicit Status(const HealthSources& sources)
        : sources_(sources),
          started_(sources.reads.clock().steady()),
          sql_(status_sql()),
          statement_{"status", sql_.c_str()} {}

    void answer(const http::Request&, http::Reply reply) {
        auto held = std::make_shared<http::Reply>(std::move(reply));
        const bool taken = sources_.reads.query(statement_, {}, [this, held](pg::QueryResult result) {
            std::optional<std::vector<StreamStatus>> streams;
            try {
                if (!result.error) streams = read(result.rows);
                if (result.error && result.error->failure() == pg::Failure::bug)
                    sources_.reads.report_bug(statement_, *result.error);
            } catch (const std::logic_error& error) {
                sources_.reads.report_bug(statement_, error);
            }
            held->send(200, kJson, kNoStore, body(streams));
        });
        if (!taken) held->send(200, kJson, kNoStore, body(std::nullopt));
    }

private:
    std::vector<StreamStatus> read(const pg::Rows& rows) const {
        std::vector<StreamStatus> streams(schemas::catalogue().size());
        const auto now = sources_.reads.clock().now();
        for (std::size_t row = 0; row < rows.size(); ++row) {
            const auto* stream = schemas::find_stream(rows.text(row, 0));
            if (stream == nullptr) continue;  // of a newer version
            auto& status = streams[ProgressWatch::index_of(*stream)];
            if (rows.cell(row, 1)) {
                status.open_dead_letters = rows.integer(row, 1);
                continue;
            }
            status.consumers.push_back({std::string(rows.text(row, 2)), std::string(rows.text(row, 3)),
                                        std::string(rows.text(row, 4)), std::string(rows.text(row, 5)),
                                        std::chrono::duration<double>(now - rows.instant(row, 6)).count()});
        }
        return streams;
    }

    [[nodiscard]] std::string body(const std::optional<std::vector<StreamStatus>>& found) const {
        std::vector<std::string> degraded;
        if (auto reason = not_ready_because(sources_)) degraded.push_back(std::move(*reason));
        if (!found) degraded.emplace_back("postgres: the status of the consumers could not be read");

        std::string out = R"({"status":"running","version":)";
        append_string(out, base::version());
        out.append(R"(,"uptimeSeconds":)");
        append_integer(
            out, std::chrono::duration_cast<std::chrono::seconds>(sources_.reads.clock().steady() - started_).count());
        out.append(R"(,"streams":[)");
        for (std::size_t i = 0; i < schemas::catalogue().size(); ++i) {
            const std::string name(schemas::catalogue()[i].name);
            const auto lag = lag_seconds(sources_, i);
            const auto progress = sources_.reads.watch().progress(i);
            if (lag && *lag > kMaxLagSeconds) degraded.push_back(name + ": the tables lag by more than 10 s");
            if (found && (*found)[i].consumers.empty())
                degraded.push_back(name + ": no consumer has been heard of for a minute");
            append_stream(out, name, lag, progress, found ? &(*found)[i] : nullptr);
        }
        out.append(R"(],"degraded":[)");
        for (const auto& reason : degraded) {
            if (out.back() != '[') out.push_back(',');
            append_string(out, reason);
        }
        out.append("]}");
        return out;
    }

    static void append_stream(std::string& out, const std::string& name, std::optional<double> lag,
                              const std::optional<Progress>& progress, const StreamStatus* status) {
        if (out.back() != '[') out.push_back(',');
        out.append(R"({"name":)");
        append_string(out, name);
        out.append(R"(,"lagSeconds":)");
        if (lag)
            append_seconds(out, *lag);
        else
            out.append("null");
        out.append(R"(,"generation":)");
        if (progress)
            append_integer(out, progress->generation);
        else
            out.append("null");
        out.append(R"(,"deadLetters":)");
        if (status != nullptr && status->open_dead_letters)
            append_integer(out, *status->open_dead_letters);
        else
            out.append("null");
        out.append(R"(,"consumers":[)");
        for (std::size_t i = 0; status != nullptr && i < status->consumers.size(); ++i) {
            const auto& consumer = status->consumers[i];
            if (i > 0) out.push_back(',');
            out.append(R"({"instance":)");
            append_string(out, consumer.instance);
            out.append(R"(,"state":)");
            append_string(out, consumer.state);
            out.append(R"(,"version":)");
            append_string(out, consumer.version);
            out.append(R"(,"partitions":)").append(consumer.partitions).append(R"(,"heartbeatAgeSeconds":)");
            append_seconds(out, std::max(consumer.heartbeat_age, 0.0));
            out.push_back('}');
        }
        out.append("]}");
    }

    const HealthSources sources_;
    const std::chrono::steady_clock::time_point started_;
    const std::string sql_;
    const pg::Statement statement_;
};

std::string version_body() {
    std::string out = R"({"version":)";
    append_string(out, base::version());
    out.append(R"(,"commit":)");
    append_string(out, base::commit());
    out.append(R"(,"built":)");
    append_string(out, base::built());
    out.push_back('}');
    return out;
}

}  // namespace

std::optional<std::string> not_ready_because(const HealthSources& sources) {
    if (!sources.publisher.available()) return "kafka: no broker answers, or the topics are not there";
    if (!sources.pool.connected()) return "postgres: not connected";
    return sources.reads.watch().trouble();
}

std::optional<double> lag_seconds(const HealthSources& sources, std::size_t stream) {
    const auto as_of = sources.reads.watch().as_of(stream);
    if (!as_of) return std::nullopt;
    return std::max(std::chrono::duration<double>(sources.reads.clock().now() - *as_of).count(), 0.0);
}

void add_health(http::Router& router, const HealthSources& sources) {
    const auto status = std::make_shared<Status>(sources);
    add_plain(router, "/health",
              [](const http::Request&, http::Reply reply) { reply.send(200, kJson, kNoStore, R"({"status":"ok"})"); });
    add_plain(router, "/version", [body = version_body()](const http::Request&, http::Reply reply) {
        reply.send(200, kJson, kNoStore, body);
    });
    add_plain(router, "/status",
              [status](const http::Request& request, http::Reply reply) { status->answer(request, std::move(reply)); });
}

}  // namespace tidemark::api
